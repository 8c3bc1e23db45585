"""A float32 frame read between its pixels, turned by two arc minutes and shifted, as a registration does.

Every backend by every kernel; scipy's map_coordinates where it has the same one.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy import ndimage

import astrid_gpu as ag
from astrid_gpu.engine.resample import resample
from astrid_gpu.ops import resample as reference
from benchmarks.harness import Work

pytest.importorskip("pytest_benchmark")

ORDERS = {"bilinear": 1, "cubic": 3, "quintic": 5}


@cache
def field(side):
    """The frame and the maps."""
    image = np.random.default_rng(6).standard_normal((side, side)).astype(np.float32)
    y, x = np.mgrid[:side, :side].astype(np.float64)
    return image, 0.9999998 * y - 0.0006 * x + 3.3, 0.0006 * y + 0.9999998 * x - 2.7


def make_resample(backend, side, kernel):
    """Everything where the backend lives."""
    b = ag.get_backend(backend)
    image, *maps = (b.asarray(a) for a in field(side))
    return lambda: resample(image, *maps, kernel=kernel, backend=b)


def make_scipy(side, kernel):
    """SciPy's spline, one thread, the same mirror."""
    image, y, x = field(side)
    return lambda: ndimage.map_coordinates(image, [y, x], order=ORDERS[kernel], mode="mirror")


@pytest.mark.parametrize("kernel", ["bilinear", "lanczos3", "cubic"])
def test_resample(bench, backend, kernel):
    """The largest error against the reference, in units of the frame's noise, where both are finite."""
    side = 512 if bench.quick or backend.name == "numpy" else 2048  # the reference takes a second a megapixel
    image, y, x = field(side)
    part = np.s_[: min(side, 256), : min(side, 256)]
    want = reference.resample(image[None].astype(np.float64), y[part], x[part], kernel)[0]

    def error(got):
        return float(np.nanmax(np.abs(backend.to_host(got)[part] - want)))

    work = Work(make_resample, {"backend": backend.name, "side": side, "kernel": kernel}, {"side": 64})
    rivals = {"scipy": make_scipy(side, kernel)} if kernel in ORDERS else {}
    bench.row(f"resample, {kernel}", backend.name, f"{side} x {side}", work, error=error, tolerance=1e-4,
              error_of="value, noise 1", pixels=side * side, moved=24e-6 * side * side, rivals=rivals)  # fmt: skip
