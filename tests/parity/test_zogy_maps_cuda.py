"""The fused subtraction on the device against the float64 engine: every map, whatever is shared and however batched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.backends.cuda.maps_job import job_of
from astrid_gpu.backends.cuda.maps_runner import PeakList, Runner
from astrid_gpu.backends.cuda.plans import smooth_length
from astrid_gpu.backends.cuda.stamp_grid import first_grid
from astrid_gpu.backends.cuda.stream import SubtractionStream
from astrid_gpu.backends.cuda.zogy_maps import prepare, spec_of, zogy_maps
from astrid_gpu.backends.numpy_ import NumpyBackend
from tests.cuda_host import build, device, emu
from tests.cuda_host.problems import ALL, KINDS, STREAM_SHAPE, exposures, given, problem


class Exact(NumpyBackend):
    """The reference in float64, on frames padded as a device pads them: D near an edge depends on that."""

    def next_fast_len(self, n: int) -> int:
        return smooth_length(n)


MAPS = ("difference", "score", "score_corr", "flux", "flux_error")
SCORE_CORR = 1e-3  # absolute: design, section 9


@pytest.fixture(params=["emulated", pytest.param("cupy", marks=pytest.mark.gpu)])
def any_device(request) -> Any:
    """The device, emulated or real."""
    if request.param == "emulated":
        return emu.backend(1, on_device=True)
    status = ag.backends.backend_status()["cupy"]
    if not status.available:
        pytest.skip(status.reason)
    return ag.get_backend("cupy")


def maps_of(b: Any, args: dict[str, Any], wanted: Any = ALL, **options: Any) -> dict[str, np.ndarray]:
    got = zogy_maps(b.context, *problem(b, args), set(wanted), **options)
    return {name: b.to_host(values) for name, values in got.items()}


def assert_exact(got: dict[str, np.ndarray], exact: Any) -> None:
    for name, values in got.items():
        wanted = getattr(exact, name)
        assert values.dtype == np.float32, name
        np.testing.assert_array_equal(np.isnan(values), np.isnan(wanted), err_msg=name)
        worst = np.nanmax(np.abs(values - wanted))
        limit = {"score_corr": SCORE_CORR, "difference": 1e-3}.get(name, 1e-5 * np.nanmax(np.abs(wanted)))
        assert worst <= limit, f"{name} is off by {worst:g}"


@pytest.mark.parametrize("kind", KINDS)
def test_every_map_is_the_engines(any_device, kind, rng):
    args = given(kind, rng)
    got = maps_of(any_device, args, chunk=2)
    assert set(got) == set(MAPS)
    assert_exact(got, ag.zogy(**args, backend=Exact()))


@pytest.mark.parametrize("kind", ["flat", "everything"])
@pytest.mark.parametrize(("chunk", "graph"), [(1, False), (3, False), (2, True), (1, True)])
def test_batches_and_graphs_give_the_same(any_device, kind, chunk, graph, rng):
    """Five pairs: the last batch is short, and a graph is recorded, then replayed."""
    args = given(kind, rng, n=5, shape=(50, 48))
    wanted, got = maps_of(any_device, args, chunk=5), maps_of(any_device, args, chunk=chunk, graph=graph)
    for name in MAPS:
        np.testing.assert_allclose(got[name], wanted[name], rtol=1e-5, atol=1e-5 * np.nanmax(np.abs(wanted[name])))


@pytest.mark.parametrize("wanted", [("difference",), ("score",), ("score_corr",), ("flux",), ("difference", "score")])
def test_what_is_asked_for_comes_back(wanted, rng):
    args = given("holes", rng)
    got = maps_of(emu.backend(), args, wanted)
    assert set(got) == set(wanted) | ({"flux_error"} if "flux" in wanted else set())
    assert_exact(got, ag.zogy(**args, backend=Exact()))


def test_the_small_grid_grows_until_the_kernels_fit(any_device, rng):
    """Very unequal seeing: a score kernel is wider than the stamps, and the first grid too small."""
    args = given("maps", rng, n=1, shape=(190, 170))
    grid = np.arange(-12, 13)
    r2 = grid[:, None] ** 2 + grid**2
    args["psf_science"], args["psf_reference"] = (1 + r2 / 4.0) ** -2.0, (1 + r2 / 30.0) ** -2.0
    b = any_device
    job = job_of(b.context, *problem(b, args), set(ALL))
    assert first_grid(job.padded, 25)[0] < prepare(b.context, job, 1)[0] <= job.padded[0]
    assert_exact(maps_of(b, args), ag.zogy(**args, backend=Exact()))


def test_float64_is_left_to_the_general_path(rng):
    checked, flags = problem(emu.backend(), given("plain", rng), np.float64)
    assert emu.backend().ops["zogy_maps"](checked, flags, set(ALL)) is None


def test_schedules_and_sanitizer_change_nothing(rng):
    args = given("everything", rng, n=2, shape=(40, 43))
    wanted = maps_of(emu.backend(0), args)
    for other in (emu.backend(1), emu.backend(2), emu.backend(3), emu.backend(2, build.UBSAN)):
        for name, values in maps_of(other, args).items():
            np.testing.assert_array_equal(values, wanted[name], err_msg=name)


def test_inputs_are_left_alone(rng):
    b = emu.backend()
    checked, flags = problem(b, given("everything", rng, n=2, shape=(40, 43)))
    names = ("science", "reference", "variance_science", "variance_reference")
    before = [getattr(checked, name).copy() for name in names] + [flags.copy()]
    zogy_maps(b.context, checked, flags, set(ALL))
    for a, w in zip([*(getattr(checked, name) for name in names), flags], before, strict=True):
        np.testing.assert_array_equal(a, w)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("seed", [0, 2])
def test_peaks_come_with_the_maps(both, seed, rng):
    """The peaks that the last kernel appends are those that find_peaks sees in the map, without a pass over it."""
    b = emu.backend(seed, on_device=True)
    xp = b.xp
    job = job_of(b.context, *problem(b, given("holes", rng)), {"score_corr"})
    runner = Runner(b.context, job, spec_of(job, 3), prepare(b.context, job, 3))
    threshold = np.full(job.n, 2.5)
    room = 400
    count, key = xp.zeros(1, np.uint64), xp.empty(room, np.int64)
    value, tied = xp.empty(room, np.float64), xp.empty(room, np.uint8)
    peaks = PeakList(xp.asarray(threshold.astype(np.float32)), both, count, key, value, tied)
    kept = {"score_corr": xp.empty((job.n, *job.shape), np.float32)}
    runner.run(job, kept, peaks)
    found = int(count.get()[0])
    image, y, x, height, ties = b.ops["find_peaks"](kept["score_corr"], threshold, None, both)
    assert 20 < found == len(y) <= room
    flat = (image * job.shape[0] + y) * job.shape[1] + x
    order, own = np.argsort(flat), np.argsort(key.get()[:found])
    np.testing.assert_array_equal(key.get()[:found][own], flat[order])
    np.testing.assert_array_equal(value.get()[:found][own], height[order])
    np.testing.assert_array_equal(tied.get()[:found][own] != 0, ties[order])
    again = xp.zeros(1, np.uint64)
    runner.run(job, {}, PeakList(peaks.thresholds, both, again, key[:5], value[:5], tied[:5]))
    assert int(again.get()[0]) == found, "the count goes on past the room, and no map need be written"


def test_nothing_passes_between_host_and_device(rng):
    b = emu.backend(on_device=True)
    got = b.ops["zogy_maps"](*problem(b, given("maps", rng)), set(ALL))
    assert all(isinstance(values, device.DeviceArray) for values in got.values())


def test_kernels_on_a_small_grid_are_those_of_the_frame(any_device, rng):
    """Usual seeing on a frame larger than the grid: nothing is lost."""
    b, args = any_device, given("noise", rng, n=2, shape=(250, 161))
    job = job_of(b.context, *problem(b, args), set(ALL))
    assert prepare(b.context, job, 2)[0] < job.padded[0]
    assert_exact(maps_of(b, args), ag.zogy(**args, backend=Exact()))


@pytest.mark.parametrize("graph", [False, True])
def test_streamed_exposures_have_the_same_candidates(any_device, graph):
    """Three slots, six batches: real streams and events where there is a device."""
    frames = exposures(11)
    args = given("maps", np.random.default_rng(6), n=1, shape=STREAM_SHAPE) | {"variance_science": None}
    stream = SubtractionStream(
        any_device.context, *problem(any_device, args), batch=2, slots=3, threshold=6.0, stamps=64, side=9, graph=graph
    )
    b = emu.backend()
    alone = SubtractionStream(b.context, *problem(b, args), batch=1, slots=1, threshold=6.0, stamps=64, side=9)
    for _ in range(2):
        for got, wanted in zip(stream.run(frames), alone.run(frames), strict=True):
            assert len(wanted.y) >= 1
            np.testing.assert_array_equal((got.y, got.x), (wanted.y, wanted.x))
            np.testing.assert_allclose(got.score_corr, wanted.score_corr, atol=SCORE_CORR)
            np.testing.assert_allclose(got.stamps, wanted.stamps, rtol=1e-4, atol=1e-2)
