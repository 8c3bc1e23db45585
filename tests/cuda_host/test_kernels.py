"""Every CUDA operation on the CPU: the same under all schedules, free of undefined behaviour and of stray accesses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from astrid_gpu.backends.cuda import cuda_ops
from astrid_gpu.backends.cuda.context import kernel_files, kernel_source
from astrid_gpu.backends.cuda.signature import parse_signatures
from tests.cuda_host import build as host
from tests.cuda_host import emu
from tests.cuda_host.cases import CASES, leaves
from tests.cuda_host.problems import launch_the_rest

pytestmark = pytest.mark.skipif(bool(host.why_unavailable()), reason=host.why_unavailable() or "available")
ROOT = Path(__file__).resolve().parent.parent.parent
REALS = [np.float32, np.float64]


class _Recording(emu.EmulatedContext):
    """Notes which kernels were launched."""

    def __init__(self) -> None:
        super().__init__()
        self.launched: set[str] = set()

    def kernel(self, file, name, options=()):
        self.launched.add(f"{file}:{name}")
        return super().kernel(file, name, options)


def test_every_operation_has_a_case_and_every_kernel_is_launched(rng):
    ctx = _Recording()
    ops = cuda_ops(ctx)
    # Those two take a problem: tests/parity/test_zogy_maps_cuda.py, tests/unit/test_zogy_stream.py.
    assert set(ops) == {*CASES, "zogy_maps", "subtraction_stream"}
    backend = emu.backend()
    backend.context, backend.ops = ctx, ops
    launch_the_rest(backend, rng)
    for name, case in CASES.items():
        ops[name](*case(rng, np.float32))
    masks = (rng.random((1, 9, 9)) < 0.5).astype(np.uint8), np.zeros(1, np.int64), np.ones(1, np.int64)
    ops["gather_stamps"](*masks, np.ones(1, np.int64), 3, 1)
    known = {f"{file}:{name}" for file in kernel_files() for name in parse_signatures(kernel_source(file))}
    assert ctx.launched == known


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("name", CASES)
def test_results_do_not_depend_on_the_schedule(name, real):
    results = []
    for seed in (0, 1, 2, 3):
        args = CASES[name](np.random.default_rng(5), real)
        results.append([np.asarray(a) for a in leaves(name, emu.backend(seed).ops[name](*args))])
    assert sum(a.size for a in results[0]) > 0
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", CASES)
def test_no_undefined_behaviour(name):
    args = CASES[name](np.random.default_rng(6), np.float32)
    plain, trapped = emu.backend().ops[name](*args), emu.backend(1, host.UBSAN).ops[name](*args)
    for a, b in zip(leaves(name, plain), leaves(name, trapped), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", CASES)
def test_inputs_are_left_alone(name):
    args = CASES[name](np.random.default_rng(7), np.float32)
    before = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
    emu.backend().ops[name](*args)
    for a, b in zip(args, before, strict=True):
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_no_access_beyond_an_array():
    done = subprocess.run(
        [sys.executable, "-m", "tests.cuda_host.sanitize"],
        cwd=ROOT,
        env=host.asan_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == [*CASES, "zogy_maps"]
