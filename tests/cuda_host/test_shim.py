"""The emulator itself: it computes what CUDA does, and finds what CUDA leaves undefined."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.cuda_host import build as host

pytestmark = pytest.mark.skipif(bool(host.why_unavailable()), reason=host.why_unavailable() or "available")
ROOT = Path(__file__).resolve().parent.parent.parent
SCHEDULES = [0, 1, 2, 3]

WRONG = """
extern "C" {
__global__ void barrier_in_branch(float* a) { if (threadIdx.x < 16) __syncthreads(); a[threadIdx.x] = 1; }
__global__ void two_barriers(float* a) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  a[threadIdx.x] = 1;
}
__global__ void exited_lane(float* a) {
  if (threadIdx.x >= 16) return;
  a[threadIdx.x] = __shfl_down_sync(0xffffffffu, a[threadIdx.x], 1);
}
__global__ void not_in_mask(float* a) { a[threadIdx.x] = __shfl_sync(0xffffu, a[threadIdx.x], 0); }
__global__ void deadlock(float* a) {
  if (threadIdx.x < 16) a[threadIdx.x] = __ballot_sync(0xffffffffu, 1);
  __syncthreads();
}
__global__ void bad_address(float* a, long long n) { a[threadIdx.x + n] = 1; }
__global__ void shared_index(float* a, int n) {
  __shared__ float s[8];
  s[threadIdx.x + n] = 1;
  __syncthreads();
  a[threadIdx.x] = s[threadIdx.x];
}
__global__ void misaligned(float* a) { *reinterpret_cast<float4*>(a + 1) = make_float4(1, 2, 3, 4); }
__global__ void off_the_end(float* a, int n) {
  a[threadIdx.x + n] = 1;
}
}
"""

RACES = """
extern "C" {
__global__ void tree_without_barrier(const float* a, float* out) {
  __shared__ float s[256];
  const int t = threadIdx.x;
  s[t] = a[t];
  __syncthreads();
  for (int k = 128; k > 0; k >>= 1) {
    if (t < k) s[t] += s[t + k];
  }
  if (t == 0) out[0] = s[0];
}
__global__ void tree(const float* a, float* out) {
  __shared__ float s[256];
  const int t = threadIdx.x;
  s[t] = a[t];
  __syncthreads();
  for (int k = 128; k > 0; k >>= 1) {
    if (t < k) s[t] += s[t + k];
    __syncthreads();
  }
  if (t == 0) out[0] = s[0];
}
__global__ void warp_synchronous(const float* a, float* out) {
  __shared__ float s[64];
  const int t = threadIdx.x;
  s[t] = a[t];
  s[t + 32] = a[t + 32];
  __syncthreads();
  for (int k = 32; k > 0; k >>= 1)
    if (t < k) s[t] += s[t + k];
  if (t == 0) out[0] = s[0];
}
__global__ void block_order(int* last) { if (threadIdx.x == 0) last[0] = blockIdx.x; }
__global__ void unwritten(float* out) {
  __shared__ float s[32];
  out[threadIdx.x] = s[threadIdx.x];
}
}
"""

RIGHT = """
extern "C" {
__global__ void shuffles(const float* a, float* out, int width) {
  const int t = threadIdx.x;
  const float v = a[t];
  out[0 * 32 + t] = __shfl_sync(0xffffffffu, v, 3, width);
  out[1 * 32 + t] = __shfl_up_sync(0xffffffffu, v, 2, width);
  out[2 * 32 + t] = __shfl_down_sync(0xffffffffu, v, 5, width);
  out[3 * 32 + t] = __shfl_xor_sync(0xffffffffu, v, 4, width);
}
__global__ void votes(const int* a, unsigned* out) {
  const int t = threadIdx.x;
  out[0 * 32 + t] = __ballot_sync(0xffffffffu, a[t] & 1);
  out[1 * 32 + t] = __any_sync(0xffffffffu, a[t] > 6);
  out[2 * 32 + t] = __all_sync(0xffffffffu, a[t] < 7);
  out[3 * 32 + t] = __match_any_sync(0xffffffffu, a[t]);
  __syncwarp();
}
__global__ void half_warp(const int* a, unsigned* out) {
  const int t = threadIdx.x;
  if (t < 16) out[t] = __ballot_sync(0xffffu, a[t] & 1);
  else out[t] = __ballot_sync(0xffff0000u, a[t] & 1);
}
__global__ void places(int* out) {
  const int inside = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  out[block * blockDim.x * blockDim.y * blockDim.z + inside] = 1000 * block + inside;
}
__global__ void counts(const int* a, int* out) {
  const int t = threadIdx.x;
  const int n = __syncthreads_count(a[t] & 1), any = __syncthreads_or(a[t] > 90), all = __syncthreads_and(a[t] < 90);
  if (t == 0) { out[0] = n; out[1] = any; out[2] = all; }
}
__global__ void atomics(const int* a, int* out) {
  atomicAdd(&out[0], a[threadIdx.x]);
  atomicMax(&out[1], a[threadIdx.x]);
  atomicMin(&out[2], a[threadIdx.x]);
  if (atomicCAS(&out[3], 0, 7) == 0) atomicAdd(&out[4], 1);
}
__global__ void dynamic(const float* a, float* out) {
  CUDA_SHIM_DYNAMIC_SHARED(float, s);
  s[threadIdx.x] = a[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x];
}
}
"""


@cache
def module(name: str, flags: tuple[str, ...] = ()) -> host.HostModule:
    source = {"wrong": WRONG, "races": RACES, "right": RIGHT}[name]
    return host.build_source(f'#line 1 "{name}.cu"\n' + source, name, flags=flags)


@pytest.mark.parametrize(
    ("kernel", "block", "message"),
    [
        ("barrier_in_branch", 32, r"divergent barrier: __syncthreads \(wrong.cu:3\) after 16 threads"),
        ("two_barriers", 64, r"divergent barrier: __syncthreads \(wrong.cu:6\) and __syncthreads \(wrong.cu:8\)"),
        ("exited_lane", 32, r"a lane named in the mask has exited: __shfl_down_sync \(wrong.cu:14\)"),
        ("not_in_mask", 32, r"a lane is not in the mask it passed: __shfl_sync"),
        ("deadlock", 32, r"deadlock: thread \d+ waits for ever at __ballot_sync"),
    ],
)
@pytest.mark.parametrize("seed", SCHEDULES)
def test_lost_convergence_is_an_error(kernel, block, message, seed):
    with pytest.raises(RuntimeError, match=message):
        module("wrong").get_function(kernel)((2,), (block,), (np.zeros(64, np.float32),), seed=seed)


def test_a_kernel_runs_after_one_that_failed():
    with pytest.raises(RuntimeError):
        module("wrong").get_function("deadlock")((1,), (32,), (np.zeros(32, np.float32),))
    a, out = np.ones(256, np.float32), np.zeros(1, np.float32)
    module("races").get_function("tree")((1,), (256,), (a, out))
    assert out[0] == 256


def test_bad_address_is_an_error_with_its_line():
    with pytest.raises(RuntimeError, match=r"SIGSEGV.*\[thread 0,0,0\] \[block 0,0,0\]"):
        module("wrong").get_function("bad_address")((1,), (8,), (np.zeros(8, np.float32), np.int64(1 << 40)))


@pytest.mark.parametrize(("kernel", "extra"), [("shared_index", (np.int32(5),)), ("misaligned", ())])
def test_undefined_behaviour_is_trapped(kernel, extra):
    with pytest.raises(RuntimeError, match="SIGILL, undefined behaviour was trapped"):
        module("wrong", host.UBSAN).get_function(kernel)((1,), (8,), (np.zeros(64, np.float32), *extra))


def test_address_sanitizer_names_the_line():
    script = textwrap.dedent(
        """
        import numpy as np
        from tests.cuda_host import build as host
        from tests.cuda_host.test_shim import module
        kernel = module("wrong", host.ASAN).get_function("off_the_end")
        kernel((1,), (8,), (np.zeros(4000, np.float32), np.int32(int(__import__("sys").argv[1]))))
        """
    )

    def run(first: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", script, str(first)]
        return subprocess.run(
            command, cwd=ROOT, env=host.asan_environment(), capture_output=True, text=True, check=False
        )

    assert run(3992).returncode == 0
    beyond = run(3993)
    assert beyond.returncode != 0
    assert "heap-buffer-overflow" in beyond.stderr
    line = WRONG[: WRONG.index("a[threadIdx.x + n] = 1;\n}\n}")].count("\n") + 1
    assert f"wrong.cu:{line}" in beyond.stderr


def totals(kernel: str, threads: int, n: int) -> list[float]:
    found = []
    for seed in SCHEDULES:
        out = np.zeros(1, np.float32)
        module("races").get_function(kernel)((1,), (threads,), (np.ones(n, np.float32), out), seed=seed)
        found.append(float(out[0]))
    return found


def test_schedules_expose_a_missing_barrier():
    assert set(totals("tree_without_barrier", 256, 256)) != {256.0}


def test_schedules_expose_warp_synchronous_code():
    assert set(totals("warp_synchronous", 32, 64)) != {64.0}


def test_a_right_reduction_does_not_depend_on_the_schedule():
    assert totals("tree", 256, 256) == [256.0] * 4


def test_blocks_run_in_the_order_of_the_schedule():
    last = []
    for seed in SCHEDULES:
        out = np.full(1, -1, np.int32)
        module("races").get_function("block_order")((50,), (32,), (out,), seed=seed)
        last.append(int(out[0]))
    assert last[:2] == [49, 0]
    assert len(set(last)) >= 3


def test_shared_memory_starts_as_nan_in_every_block():
    out = np.zeros(32, np.float32)
    for _ in range(2):
        module("races").get_function("unwritten")((3,), (32,), (out,))
        assert np.isnan(out).all()


@pytest.mark.parametrize("seed", SCHEDULES)
@pytest.mark.parametrize("width", [8, 16, 32])
def test_shuffles(seed, width, rng):
    a, out = rng.standard_normal(32).astype(np.float32), np.zeros((4, 32), np.float32)
    module("right").get_function("shuffles")((1,), (32,), (a, out, np.int32(width)), seed=seed)
    rows = a.reshape(-1, width)
    lane = np.arange(width)
    up = rows[:, np.where(lane >= 2, lane - 2, lane)]
    down = rows[:, np.where(lane + 5 < width, lane + 5, lane)]
    expected = [np.repeat(rows[:, 3], width), up.ravel(), down.ravel(), rows[:, lane ^ 4].ravel()]
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("seed", SCHEDULES)
def test_votes(seed, rng):
    a, out = rng.integers(0, 8, 32).astype(np.int32), np.zeros((4, 32), np.uint32)
    module("right").get_function("votes")((1,), (32,), (a, out), seed=seed)
    bit = np.uint32(1) << np.arange(32, dtype=np.uint32)
    assert (out[0] == bit[a % 2 == 1].sum()).all()
    assert (out[1] == (a > 6).any()).all()
    assert (out[2] == (a < 7).all()).all()
    assert out[3].tolist() == [int(bit[a == v].sum()) for v in a]


@pytest.mark.parametrize("seed", SCHEDULES)
def test_halves_of_a_warp_vote_apart(seed, rng):
    a, out = rng.integers(0, 2, 32).astype(np.int32), np.zeros(32, np.uint32)
    module("right").get_function("half_warp")((1,), (32,), (a, out), seed=seed)
    bit = np.uint32(1) << np.arange(32, dtype=np.uint32)
    low, high = int(bit[:16][a[:16] == 1].sum()), int(bit[16:][a[16:] == 1].sum())
    assert out.tolist() == [low] * 16 + [high] * 16


@pytest.mark.parametrize("seed", SCHEDULES)
@pytest.mark.parametrize("flags", [(), ("-DCUDA_SHIM_UCONTEXT",)])
def test_indices_in_three_dimensions(seed, flags):
    grid, block = (3, 2, 2), (5, 3, 2)  # 30 threads: a partial warp
    out = np.full((12, 30), -1, np.int32)
    module("right", flags).get_function("places")(grid, block, (out,), seed=seed)
    np.testing.assert_array_equal(out, 1000 * np.arange(12)[:, None] + np.arange(30))


@pytest.mark.parametrize("flags", [(), ("-DCUDA_SHIM_UCONTEXT",)])
def test_counting_barriers_and_atomics(flags, rng):
    a = rng.integers(1, 100, 100).astype(np.int32)
    counted, summed = np.zeros(3, np.int32), np.array([0, 0, 1000, 0, 0], np.int32)
    module("right", flags).get_function("counts")((1,), (100,), (a, counted))
    assert counted.tolist() == [int((a % 2).sum()), int((a > 90).any()), int((a < 90).all())]
    module("right", flags).get_function("atomics")((1,), (100,), (a, summed), seed=2)
    assert summed.tolist() == [int(a.sum()), int(a.max()), int(a.min()), 7, 1]


def test_dynamic_shared_memory(rng):
    a, out = rng.standard_normal(64).astype(np.float32), np.zeros(64, np.float32)
    module("right").get_function("dynamic")((1,), (64,), (a, out), shared_mem=256)
    np.testing.assert_array_equal(out, a[::-1])


@pytest.mark.parametrize(
    ("grid", "block", "shared", "message"),
    [
        ((1,), (1025,), 0, "invalid block size"),
        ((1,), (1, 1, 65), 0, "invalid block size"),
        ((1, 65536), (32,), 0, "invalid grid size"),
        ((1,), (32,), 49153, "48 KiB"),
    ],
)
def test_limits_of_a_launch(grid, block, shared, message):
    with pytest.raises(RuntimeError, match=message):
        module("races").get_function("unwritten")(grid, block, (np.zeros(32, np.float32),), shared_mem=shared)
