"""The fused subtraction without its arithmetic: plans, schedule, buffers, bytes moved, graphs and the end of memory.

Run with a recording fake of the device's runtime (tests/cuda_host/runtime.py): launches, transforms and allocations are
written down, and refused where a device would go wrong without a word.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from astrid_gpu.backends.cuda import maps_plan
from astrid_gpu.backends.cuda.context import kernel_source
from astrid_gpu.backends.cuda.maps_job import job_of
from astrid_gpu.backends.cuda.maps_plan import Spec, compile_program, traffic
from astrid_gpu.backends.cuda.maps_runner import Runner
from astrid_gpu.backends.cuda.plans import PlanCache
from astrid_gpu.backends.cuda.signature import parse_signatures
from astrid_gpu.backends.cuda.stamp_grid import first_grid
from astrid_gpu.backends.cuda.zogy_maps import default_chunk, spec_of, zogy_maps
from astrid_gpu.errors import ConfigError, DeviceMemoryError
from tests.cuda_host import emu
from tests.cuda_host.problems import ALL, given, problem
from tests.cuda_host.runtime import Pool, RecordingRuntime

IMAGE = 4 * 2048**2  # bytes of a frame: the unit I of the byte floors
# The floors of the plain design, in images moved a pair: D, S_corr and flux with a variance linear in the pixels, and
# with variance maps. The goal is twice that.
FLOOR_FLAT, FLOOR_MAPS = 39.5, 51.5
LARGE = Spec((2048, 2048), (2100, 2100), 4)
EVERYTHING = frozenset({"R", "Pn", "Pr", "k", "VN", "VR"})


class Counting:
    """NumPy, whose arrays are taken from the pool of a runtime: never while a graph is captured."""

    ndarray = np.ndarray

    def __init__(self, runtime: RecordingRuntime) -> None:
        self._runtime = runtime

    def __getattr__(self, name: str) -> Any:
        function = getattr(np, name)
        if name not in ("empty", "zeros", "empty_like", "zeros_like", "asarray", "ascontiguousarray"):
            return function

        def allocate(*args: Any, **kwargs: Any) -> Any:
            array = function(*args, **kwargs)
            if array is not args[0]:
                self._runtime.allocate(array.nbytes)
            return array

        return allocate


class Context(emu.EmulatedContext):
    """The emulator with counted memory; with ``compute=False`` nothing runs and launches are only written down."""

    def __init__(self, *, compute: bool = True, limit: float = float("inf")) -> None:
        super().__init__(0, (), RecordingRuntime(compute=compute, pool=Pool(limit)))
        self.xp = Counting(self.runtime)
        self.compute = compute
        self.moved: list[tuple[str, int]] = []

    def kernel(self, file: str, name: str, options: tuple[str, ...] = ()) -> Any:
        if self.compute:
            return super().kernel(file, name, options)
        parameters = parse_signatures(kernel_source(file), options)[name]

        def launch(grid: Any, block: Any, args: Any, *, shared_mem: int = 0) -> None:
            assert len(args) == len(parameters)
            arrays = [a for p, a in zip(parameters, args, strict=True) if p.pointer and isinstance(a, np.ndarray)]
            self.moved.append((name, sum(a.nbytes for a in arrays)))

        return launch


# ---- plans -----------------------------------------------------------------------------------------------------------
class _Plan:
    def __init__(self, work_bytes: int) -> None:
        self.work_bytes = work_bytes


def test_plans_are_made_once_and_the_oldest_goes():
    made: list[Any] = []
    cache = PlanCache(lambda *key: made.append(key) or _Plan(10), capacity=2, limit=lambda: 1000)
    first = cache.get((8, 8), 1, "R2C")
    assert cache.get((8, 8), 1, "R2C") is first
    cache.get((8, 8), 2, "R2C")
    cache.get((8, 8), 1, "R2C")
    cache.get((8, 8), 1, "C2R")  # the batch of 2 is the least recently used
    assert cache.get((8, 8), 1, "R2C") is first
    assert len(cache) == 2
    assert len(made) == 3
    with pytest.raises(ValueError, match="kind must be one of R2C, C2R, D2Z, Z2D, got 'C2C'"):
        cache.get((8, 8), 1, "C2C")


def test_work_areas_are_bounded():
    sizes = iter([400, 500, 300, 5000])
    cache = PlanCache(lambda *key: _Plan(next(sizes)), limit=lambda: 1000)
    for batch in (1, 2, 3):
        cache.get((8, 8), batch, "R2C")
    assert cache.work_bytes == 800
    cache.get((8, 8), 4, "R2C")
    assert cache.work_bytes == 5000, "one plan is always allowed"
    cache.clear()
    assert len(cache) == cache.work_bytes == 0


def test_each_stream_has_plans_of_its_own():
    where = ["a"]
    cache = PlanCache(lambda *key: _Plan(1), limit=lambda: 1000, place=lambda: where[0])
    first = cache.get((8, 8), 1, "R2C")
    table = cache.constant("t", object)
    where[0] = "b"
    assert cache.get((8, 8), 1, "R2C") is not first
    assert cache.constant("t", object) is not table
    where[0] = "a"
    assert cache.get((8, 8), 1, "R2C") is first


def test_constants_are_kept_and_bounded():
    cache = PlanCache(lambda *key: _Plan(1), limit=lambda: 1000)
    assert cache.constant("a", object) is cache.constant("a", object)
    kept = cache.constant("a", object)
    for i in range(40):
        cache.constant(i, object)
    assert cache.constant("a", object) is not kept


# ---- schedule and buffers --------------------------------------------------------------------------------------------
def specs() -> list[Spec]:
    found = []
    for count in range(len(EVERYTHING) + 1):
        for own in itertools.combinations(sorted(EVERYTHING), count):
            for errors, split, first in itertools.product(((), ("EN",), ("EN", "ER")), (False, True), (False, True)):
                spec = replace(LARGE, own=frozenset(own), errors=frozenset(errors), split=split, inputs_first=first)
                found += [spec, replace(spec, score=False, variance=False), replace(spec, difference=False)]
    return found


def test_no_buffer_is_lost_in_any_schedule():
    """Every buffer is where it is read from, whole, whatever differs from pair to pair."""
    for spec in specs():
        program = compile_program(spec)
        assert maps_plan.check(program) == [], spec
        phases = [step.phase for step in program.steps]
        assert not spec.inputs_first or phases == sorted(phases), "a graph needs the transforms in one block"


@pytest.mark.parametrize(
    ("own", "errors", "first", "slots"),
    [
        ((), (), False, 4),
        (("VN",), (), False, 4),
        (("VN",), ("EN", "ER"), False, 5),
        (("VN",), (), True, 5),
        (tuple(EVERYTHING), ("EN", "ER"), False, 8),
    ],
)
def test_how_many_slots_a_batch_takes(own, errors, first, slots):
    spec = replace(LARGE, own=frozenset(own), errors=frozenset(errors), split=True, inputs_first=first)
    program = compile_program(spec)
    assert program.slot_count == slots
    assert maps_plan.bytes_per_image(program) == slots * 8 * 2100 * 1051
    assert maps_plan.bytes_per_image(program) < 40 * 2048**2, "bytes per pixel beside what goes in and comes out"


def test_a_buffer_overwritten_too_early_is_found():
    program = compile_program(replace(LARGE, own=frozenset({"VN"})))
    for name, slot in program.slots.items():
        for other in range(program.slot_count):
            moved = replace(program, slots={**program.slots, name: other})
            problems = maps_plan.check(moved)
            assert other == slot or problems or _harmless(moved, name), f"{name} in slot {other}"


def _harmless(program: maps_plan.Program, name: str) -> bool:
    """Whether the slot a buffer was moved to was free all the while that it is alive."""
    uses = [i for i, step in enumerate(program.steps) if name in (*step.reads, *step.writes)]
    others = [n for n, slot in program.slots.items() if slot == program.slots[name] and n != name]
    lives = [[i for i, s in enumerate(program.steps) if n in (*s.reads, *s.writes)] for n in others]
    return all(min(life) > max(uses) or max(life) < min(uses) for life in lives)


def test_a_spectrum_read_after_its_inverse_is_found():
    program = compile_program(LARGE)
    late = maps_plan.Step("output", "late", ("D",))
    assert any("D is not in slot" in text for text in maps_plan.check(replace(program, steps=(*program.steps, late))))


# ---- bytes -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("own", "maps", "floor"),
    [
        ((), (), FLOOR_FLAT),
        (("k", "Pn"), (), FLOOR_FLAT),
        (("VN",), ("VN", "VR"), FLOOR_MAPS),
        (tuple(EVERYTHING), ("VN", "VR"), FLOOR_MAPS),
    ],
)
@pytest.mark.parametrize("split", [False, True])
def test_bytes_stay_within_twice_the_floor(own, maps, floor, split):
    spec = replace(LARGE, own=frozenset(own), maps=frozenset(maps), split=split, flagged=True)
    assert sum(traffic(compile_program(spec)).values()) / IMAGE < 2 * floor


def test_bytes_of_the_usual_stack():
    """A shared reference, own variance maps, registration noise: under the floor of pairs that share nothing."""
    spec = replace(LARGE, own=frozenset({"VN"}), split=True)
    moved = sum(traffic(compile_program(spec)).values()) / IMAGE
    assert 40 < moved < FLOOR_MAPS


@pytest.mark.parametrize("kind", ["flat", "maps", "everything"])
def test_launches_move_what_the_schedule_says(kind, rng):
    """The arrays of every launch, added up, against the count that the floor is compared with."""
    ctx = Context(compute=False)
    b = emu.backend()
    b.context = ctx
    args = given(kind, rng, n=2, shape=(300, 310))
    args["psf_science"], args["psf_reference"] = np.asarray(args["psf_science"]), np.asarray(args["psf_reference"])
    job = job_of(ctx, *problem(b, args), set(ALL))
    spec = replace(spec_of(job, 2), errors=frozenset())
    runner = Runner(ctx, job, spec, first_grid(job.padded, 15))
    ctx.moved.clear()
    ctx.runtime.log.clear()
    out = {name: np.empty((2, 300, 310), np.float32) for name in job.wanted}
    runner.run(job, out)
    py, px = job.padded
    half, frame = 8 * py * (px // 2 + 1), 4 * py * px
    small = ("stamp_lines", "score_kernels")  # a few small tables, beside which nothing else counts
    transforms = sum(entry[-1] in ("R2C", "C2R") for entry in ctx.runtime.log)
    total = sum(size for name, size in ctx.moved if name not in small) / 2 + transforms * (frame + 3 * half)
    assert total == pytest.approx(sum(traffic(runner.program).values()), rel=0.08)


# ---- graphs ----------------------------------------------------------------------------------------------------------
def test_a_graph_holds_the_transforms_and_allocates_nothing(rng):
    ctx = Context()
    b = emu.backend()
    b.context = ctx
    args = given("everything", rng, n=7, shape=(40, 43))
    checked = problem(b, args)
    zogy_maps(ctx, *checked, set(ALL), chunk=2, graph=True)
    assert ctx.runtime.graphs == 1
    names = [entry[-1] for entry in ctx.runtime.log if entry[0] in ("run", "capture")]
    assert names.count("graph") == 3, "the first batch runs eagerly, the other three are replayed"
    start = ctx.runtime.log.index(("capture",))
    stop = next(i for i, entry in enumerate(ctx.runtime.log) if entry[-1] == "graph")
    inside = [entry[-1] for entry in ctx.runtime.log[start + 1 : stop]]
    assert {"R2C", "C2R", "zogy_combine", "zogy_weigh"} <= set(inside)
    assert not {"zogy_frame", "zogy_variance", "zogy_output", "copy"} & set(inside), "these touch the caller's arrays"


def test_nothing_is_allocated_batch_by_batch(rng):
    ctx = Context()
    b = emu.backend()
    b.context = ctx
    job = job_of(ctx, *problem(b, given("everything", rng, n=4, shape=(40, 43))), set(ALL))
    runner = Runner(ctx, job, spec_of(job, 2, follow=True), first_grid(job.padded, 15))
    out = {name: np.empty((2, 40, 43), np.float32) for name in job.wanted}
    used = ctx.runtime.pool.used
    for start in (0, 2):
        runner.run(job.part(start, start + 2), out)
    assert ctx.runtime.pool.used == used


# ---- memory ----------------------------------------------------------------------------------------------------------
def run_with(limit: float, rng: np.random.Generator, **options: Any) -> tuple[Context, dict[str, Any]]:
    ctx = Context(limit=limit)
    b = emu.backend()
    b.context = ctx
    return ctx, zogy_maps(ctx, *problem(b, given("maps", rng, n=8, shape=(50, 50))), set(ALL), **options)


def test_a_full_device_halves_the_batch_and_says_so_once(rng, caplog):
    free, wanted = run_with(float("inf"), rng, chunk=8)
    ctx = Context(limit=0.45 * free.runtime.pool.used)
    b = emu.backend()
    b.context = ctx
    checked, flags = problem(b, given("maps", np.random.default_rng(rng.bit_generator.seed_seq), n=8, shape=(50, 50)))
    notes: list[str] = []
    checked.note = notes.append
    caplog.set_level("WARNING", "astrid_gpu")
    got = zogy_maps(ctx, checked, flags, set(ALL), chunk=8)
    size = ctx.memory[checked.padded, "most"]
    assert size in (1, 2, 4)
    assert caplog.messages == notes == [f"the device is full: {size} of 8 pairs of (50, 50) at a time"]
    ctx.runtime.pool.limit = float("inf")
    ctx.runtime.log.clear()
    zogy_maps(ctx, checked, flags, set(ALL), chunk=8)
    assert len(notes) == 1, "what fits is remembered: it is said once"
    batches = {entry[2] for entry in ctx.runtime.log if entry[0] == "plan"}
    assert batches <= {1, size}
    for name, values in wanted.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-5, atol=1e-5 * np.nanmax(abs(values)))


def test_a_device_too_small_for_one_pair_is_our_error(rng):
    with pytest.raises(DeviceMemoryError, match=r"no room for the \d+ MiB that one pair of \(50, 50\) takes"):
        run_with(8 * 4 * 5 * 2500 + 300_000, rng)


def test_a_device_too_small_for_the_maps_is_our_error(rng):
    with pytest.raises(DeviceMemoryError, match=r"no room for the maps of 8 images of \(50, 50\); give fewer images"):
        run_with(8 * 4 * 3 * 2500, rng)


def test_other_errors_pass(rng, monkeypatch):
    def broken(*args: Any, **kwargs: Any) -> None:
        msg = "not memory"
        raise RuntimeError(msg)

    monkeypatch.setattr(Runner, "run", broken)
    with pytest.raises(RuntimeError, match="not memory"):
        run_with(float("inf"), rng)


# ---- how many at a time ----------------------------------------------------------------------------------------------
def chunk_of(side: int, n: int, *, l2: int, free: float = float("inf")) -> int:
    ctx = Context(limit=free)
    ctx.runtime.l2 = l2
    spec = replace(LARGE, shape=(side, side), padded=(side + 52, side + 52), own=frozenset({"VN"}), split=True)
    return default_chunk(ctx, spec, n)


def test_default_chunk():
    assert chunk_of(2048, 100, l2=60 << 20) == 4, "a frame of each in the cache of an H200"
    assert chunk_of(4096, 100, l2=60 << 20) == 1
    assert chunk_of(256, 1000, l2=60 << 20) > 100
    assert chunk_of(2048, 100, l2=4 << 20) == 1
    assert chunk_of(256, 100, l2=1 << 20) == 45, "small images: enough of them that launches do not take the time"
    assert chunk_of(2048, 3, l2=60 << 20) == 3
    assert chunk_of(2048, 100, l2=60 << 20, free=3e8) == 2
    assert chunk_of(2048, 100, l2=60 << 20, free=1e6) == 1


def test_the_environment_sets_the_chunk(rng, monkeypatch):
    monkeypatch.setenv("ASTRID_GPU_CHUNK", "3")
    ctx, _ = run_with(float("inf"), rng)
    assert ("plan", (70, 70), 3, "R2C") in ctx.runtime.log
    monkeypatch.setenv("ASTRID_GPU_CHUNK", "many")
    with pytest.raises(ConfigError, match="ASTRID_GPU_CHUNK is a number of images, at least 1; got 'many'"):
        run_with(float("inf"), rng)


def test_the_environment_asks_for_a_graph(rng, monkeypatch):
    monkeypatch.setenv("ASTRID_GPU_GRAPH", "1")
    ctx, _ = run_with(float("inf"), rng, chunk=2)
    assert ctx.runtime.graphs == 1
    ctx, _ = run_with(float("inf"), rng, chunk=2, graph=False)
    assert ctx.runtime.graphs == 0
