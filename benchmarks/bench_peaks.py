"""Candidates of one float32 significance map with sources of both signs, beside sep and photutils.

Three jobs: the peak pixels alone (`find_peaks`), with centroids of windows round them, which is what sep.extract gives
of one map (it deblends too), and the whole table of `detect`. The error is the share of sources that
were missed, and of peaks that are no source; the JSON has the rms distance of the matched ones in pixels. Every backend
must give the reference's peaks, or it has failed.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.engine.peaks import measure
from astrid_gpu.ops.psf_stamps import moffat_stamp
from benchmarks.harness import Work, installed
from tests.hand_made import hand_made

pytest.importorskip("pytest_benchmark")

THRESHOLD = 5.0
PER_MEGAPIXEL = 120
MAPS = ("difference", "score_corr", "flux", "flux_error", "mask", "science", "reference")


@cache
def field(side):
    """The difference and the true places (y, x)."""
    rng = np.random.default_rng(5)
    count = int(PER_MEGAPIXEL * side * side / 1e6)
    cells = rng.choice((side // 32 - 2) ** 2, count, replace=False)
    corner = 32 * np.stack(np.divmod(cells, side // 32 - 2), axis=1) + 48
    places = corner + rng.uniform(-8, 8, corner.shape)
    snr = rng.choice([-1, 1], count) * (7 + 20 * rng.pareto(1.5, count))
    sources = np.column_stack([places, snr])
    return hand_made(rng, moffat_stamp(2.8, 3.0, 31), sources, shape=(side, side), dtype=np.float32), places


def moved(b, diff):
    """The difference with its maps where the backend lives."""
    return replace(diff, **{k: b.asarray(getattr(diff, k)) for k in MAPS})


def make_find_peaks(backend, side):
    """Peak pixels of both signs."""
    b = ag.get_backend(backend)
    score = b.asarray(field(side)[0].score_corr)
    return lambda: ag.find_peaks(score, THRESHOLD, polarity="both", min_separation=3, backend=b)


def make_detect(backend, side, extractor="peaks"):
    """The whole table: peaks, positions, fluxes, shapes, flags."""
    b = ag.get_backend(backend)
    diff = moved(b, field(side)[0])
    return lambda: ag.detect(diff, THRESHOLD, extractor=extractor, backend=b)


def make_sep(side):
    """sep.extract on the map and its negative, no filter (it is filtered), one pixel enough."""
    import sep

    maps = [np.ascontiguousarray(sign * field(side)[0].score_corr) for sign in (1, -1)]
    return lambda: np.concatenate([sep.extract(m, THRESHOLD, minarea=1, filter_kernel=None) for m in maps])


def make_centroids(backend, side):
    """Peaks of one sign, all sources made positive, and their Gaussian-weighted centroids in three rounds."""
    b = ag.get_backend(backend)
    score = b.asarray(np.abs(field(side)[0].score_corr))

    def run():
        found = ag.find_peaks(score, THRESHOLD, min_separation=3, backend=b)
        y, x = found["y"].astype(float), found["x"].astype(float)
        for _ in range(3):  # as SExtractor's windowed positions
            sums = measure(b, score[None], found["image"], y, x, np.full(len(found), 1.3), 6)
            y, x = y + 2 * sums[:, 2] / sums[:, 1], x + 2 * sums[:, 3] / sums[:, 1]
        return {"y": y, "x": x}

    return run


def make_extract(side):
    """sep.extract on the same map, deblending as it comes."""
    import sep

    score = np.abs(field(side)[0].score_corr)
    return lambda: sep.extract(score, THRESHOLD, minarea=1, filter_kernel=None)


def make_photutils(side):
    """photutils.detection.find_peaks on the map and its negative, boxes of 7 px."""
    from photutils.detection import find_peaks

    maps = [sign * field(side)[0].score_corr for sign in (1, -1)]

    def run():
        tables = [find_peaks(m, THRESHOLD, box_size=7) for m in maps]
        y, x = (np.concatenate([np.asarray(t[k]) for t in tables]) for k in ("y_peak", "x_peak"))
        return {"y": y, "x": x}

    return run


PEERS = {"sep": make_sep, "photutils": make_photutils}


def row(bench, operation, name, work, side, agrees=lambda found: True, **more):
    """One row; completeness and accuracy against the truth."""
    from scipy.spatial import cKDTree

    places = field(side)[1]

    def match(found):
        distance, nearest = cKDTree(np.column_stack([found["y"], found["x"]])).query(places)
        return distance[distance < 1.5], len(found["y"]) - len(set(nearest[distance < 1.5].tolist()))

    def error(found):
        matched, false = match(found)
        return (len(places) - len(matched) + false) / len(places) if agrees(found) else np.inf

    def notes(found):
        matched, false = match(found)
        return {"found": len(matched), "false": false, "offset": np.sqrt(np.mean(matched**2))}

    bench.row(operation, name, f"{side} x {side}", work, error=error, tolerance=0.05, notes=notes,
              error_of="sources missed or false", pixels=side * side, **more)  # fmt: skip


@pytest.fixture
def side(bench):
    return 512 if bench.quick else 2048


def test_find_peaks(bench, backend, side):
    """Every backend, beside both peers, turn about."""
    want = make_find_peaks("numpy", side)()
    rivals = {name: make(side) for name, make in PEERS.items() if installed(name)}
    work = Work(make_find_peaks, {"backend": backend.name, "side": side}, {"side": 256})
    row(bench, "find_peaks", backend.name, work, side, agrees=lambda found: np.array_equal(found, want), rivals=rivals,
        moved=4e-6 * side * side)  # fmt: skip


def test_centroids(bench, backend, side):
    """Peaks and centroids, beside sep.extract."""
    rivals = {"sep.extract": make_extract(side)} if installed("sep") else {}
    work = Work(make_centroids, {"backend": backend.name, "side": side}, {"side": 256})
    row(bench, "peaks and centroids", backend.name, work, side, rivals=rivals, moved=4e-6 * side * side)


def test_detect(bench, backend, side):
    """Positions to 1e-6 px and the flags of the reference."""
    want = make_detect("numpy", side)()

    def agrees(found):
        same = len(found["x"]) == len(want["x"]) and np.array_equal(found["flags"], want["flags"])
        return same and np.allclose(found["x"], want["x"], rtol=0, atol=1e-6)

    work = Work(make_detect, {"backend": backend.name, "side": side}, {"side": 256})
    row(bench, "detect", backend.name, work, side, agrees=agrees)


@pytest.mark.parametrize("extractor", ["sep", "photutils"])
def test_detect_by_others(bench, extractor, side):
    """The same table, its pixels found by a peer."""
    if not installed(extractor, "numba"):
        pytest.skip(f"{extractor} or numba is not installed")
    work = Work(make_detect, {"backend": "numba", "side": side, "extractor": extractor}, {"side": 256})
    row(bench, "detect", "numba", work, side, variant=f"pixels by {extractor}", rounds=3)


@pytest.mark.parametrize("peer", sorted(PEERS))
def test_peer(bench, peer, side):
    """The peers themselves."""
    pytest.importorskip(peer)
    row(bench, "find_peaks", peer, Work(PEERS[peer], {"side": side}, {"side": 256}), side)
