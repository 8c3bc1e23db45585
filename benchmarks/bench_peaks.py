"""Candidates of one 2048 x 2048 float32 significance map with 500 sources: time beside agreement, and the peers.

Run: ``python -m pytest benchmarks/bench_peaks.py``. Two jobs: the peak pixels alone (`find_peaks`, beside
photutils.detection.find_peaks and sep.extract), and the whole table of `detect`. `found` counts true
sources with a peak within 1.5 px, `false` all other peaks, `offset` is the rms distance of the matched ones in pixels:
of the peak pixel for `find_peaks`, of the fitted place for the rest. Every backend must give the reference's peaks.
"""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.ops.psf_stamps import moffat_stamp
from tests.hand_made import hand_made

pytest.importorskip("pytest_benchmark")

SIDE, SOURCES, THRESHOLD = 2048, 500, 5.0
BACKENDS = ["numpy", "numba", "cupy"]
_rows: list[str] = []


@pytest.fixture(scope="module")
def field():
    """The difference and the true places (y, x)."""
    rng = np.random.default_rng(5)
    cells = rng.choice((SIDE // 32 - 2) ** 2, SOURCES, replace=False)
    corner = 32 * np.stack(np.divmod(cells, SIDE // 32 - 2), axis=1) + 48
    places = corner + rng.uniform(-8, 8, corner.shape)
    snr = rng.choice([-1, 1], SOURCES) * (6 + 20 * rng.pareto(1.5, SOURCES))
    psf = moffat_stamp(2.8, 3.0, 31)
    sources = np.column_stack([places, snr])
    return hand_made(rng, psf, sources, shape=(SIDE, SIDE), dtype=np.float32), places


@pytest.fixture(scope="module", autouse=True)
def table(request):
    """Print all rows when the module is done."""
    yield
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n\n{SIDE} x {SIDE} float32, {SOURCES} sources of both signs, threshold {THRESHOLD:g}")
        print(f"{'':30}{'median ms':>10}{'min ms':>9}{'found':>7}{'false':>7}{'offset':>8}")
        print("\n".join(_rows))


def record(name, benchmark, y, x, places):
    """Note a row: times from the benchmark, completeness and accuracy against the truth."""
    from scipy.spatial import cKDTree

    distance, nearest = cKDTree(np.column_stack([y, x])).query(places)
    matched = distance < 1.5
    found, false = int(matched.sum()), len(y) - len(set(nearest[matched].tolist()))
    offset = float(np.sqrt(np.mean(distance[matched] ** 2)))
    benchmark.extra_info.update({"found": found, "false": false, "offset": offset})
    times = benchmark.stats.stats
    _rows.append(f"{name:30}{1e3 * times.median:>10.1f}{1e3 * times.min:>9.1f}{found:>7}{false:>7}{offset:>8.3f}")


def on(name, diff):
    """The backend and the maps of the difference where it lives."""
    if name not in ag.available_backends():
        pytest.skip(f"{name} is not available here")
    from dataclasses import replace

    b = ag.get_backend(name)
    names = ("difference", "score_corr", "flux", "flux_error", "mask", "science", "reference")
    return b, replace(diff, **{k: b.asarray(getattr(diff, k)) for k in names})


@pytest.mark.parametrize("name", BACKENDS)
def test_find_peaks(benchmark, field, name):
    """Peak pixels of both signs."""
    diff, places = field
    b, moved = on(name, diff)
    run = lambda: ag.find_peaks(moved.score_corr, THRESHOLD, polarity="both", min_separation=3, backend=b)  # noqa: E731
    found = benchmark.pedantic(run, warmup_rounds=1, rounds=5 if name == "numpy" else 25)
    reference = ag.find_peaks(diff.score_corr, THRESHOLD, polarity="both", min_separation=3, backend="numpy")
    np.testing.assert_array_equal(found, reference)
    record(f"find_peaks {name}", benchmark, found["y"], found["x"], places)


@pytest.mark.parametrize("name", BACKENDS)
def test_detect(benchmark, field, name):
    """The whole table: peaks, positions, fluxes, shapes, flags."""
    diff, places = field
    b, moved = on(name, diff)
    found = benchmark.pedantic(lambda: ag.detect(moved, THRESHOLD, backend=b), warmup_rounds=1, rounds=5)
    reference = ag.detect(diff, THRESHOLD, backend="numpy")
    np.testing.assert_allclose(found["x"], reference["x"], atol=1e-6)
    np.testing.assert_array_equal(found["flags"], reference["flags"])
    record(f"detect {name}", benchmark, found["y"], found["x"], places)


@pytest.mark.parametrize("extractor", ["sep", "photutils"])
def test_detect_by_others(benchmark, field, extractor):
    """The same table, its pixels found by a peer."""
    pytest.importorskip(extractor)
    diff, places = field
    run = lambda: ag.detect(diff, THRESHOLD, extractor=extractor, backend="numba")  # noqa: E731
    found = benchmark.pedantic(run, warmup_rounds=1, rounds=3)
    record(f"detect numba, {extractor}", benchmark, found["y"], found["x"], places)


def test_sep(benchmark, field):
    """The peer: sep.extract on the map and its negative, no filter (it is filtered), one pixel enough."""
    sep = pytest.importorskip("sep")
    diff, places = field
    maps = [np.ascontiguousarray(sign * diff.score_corr) for sign in (1, -1)]
    run = lambda: [sep.extract(m, THRESHOLD, minarea=1, filter_kernel=None) for m in maps]  # noqa: E731
    found = np.concatenate(benchmark.pedantic(run, warmup_rounds=1, rounds=10))
    record("sep.extract (both signs)", benchmark, found["y"], found["x"], places)


def test_photutils(benchmark, field):
    """The peer: photutils.detection.find_peaks on the map and its negative, boxes of 7 px."""
    photutils = pytest.importorskip("photutils.detection")
    diff, places = field
    maps = [sign * diff.score_corr for sign in (1, -1)]
    run = lambda: [photutils.find_peaks(m, THRESHOLD, box_size=7) for m in maps]  # noqa: E731
    tables = benchmark.pedantic(run, warmup_rounds=1, rounds=3)
    y, x = (np.concatenate([np.asarray(t[k]) for t in tables]) for k in ("y_peak", "x_peak"))
    record("photutils.find_peaks (both)", benchmark, y, x, places)
