"""Gaussian-weighted moments of 10000 windows on one float32 frame, beside sep.winpos.

Sigma 1.3 px, windows of 13 x 13 px (`detect` at FWHM 3 px); the error is the largest difference from the reference over
the largest sum. sep.winpos does a related job: it iterates such a weighted centroid and gives no second moments.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.engine.peaks import measure
from astrid_gpu.ops.moments import measure_moments
from benchmarks.harness import Work, installed

pytest.importorskip("pytest_benchmark")

SIDE, WINDOWS, SIGMA, RADIUS = 2048, 10_000, 1.3, 6


@cache
def field(windows=WINDOWS):
    """The frame and the places of the windows."""
    rng = np.random.default_rng(5)
    image = rng.standard_normal((1, SIDE, SIDE)).astype(np.float32)
    y, x = rng.uniform(0, SIDE - 1, (2, windows))
    return image, (np.zeros(windows, np.int64), y, x, np.full(windows, SIGMA))


def make_moments(backend, windows):
    """Frame where the backend lives, sums on the host."""
    image, where = field(windows)
    b = ag.get_backend(backend)
    given = b.asarray(image)
    return lambda: measure(b, given, *where, RADIUS)


def make_winpos(windows):
    """Windowed positions, iterated, one thread."""
    import sep

    image, (_, y, x, sigma) = field(windows)
    return lambda: sep.winpos(image[0], x, y, sigma)


def test_measure_moments(bench, backend):
    """Every backend, beside sep.winpos."""
    windows = 1000 if bench.quick else WINDOWS
    image, where = field(windows)
    want = measure_moments(image.astype(np.float64), *where, RADIUS)
    work = Work(make_moments, {"backend": backend.name, "windows": windows}, {"windows": 100})
    rivals = {"sep.winpos": make_winpos(windows)} if installed("sep") else {}
    bench.row(f"moments, {windows} windows", backend.name, f"{SIDE} x {SIDE}", work, rivals=rivals, tolerance=1e-12,
              error=lambda got: np.abs(got - want).max() / np.abs(want).max(), error_of="largest sum",
              pixels=SIDE * SIDE, moved=4e-6 * windows * (2 * RADIUS + 1) ** 2)  # fmt: skip
