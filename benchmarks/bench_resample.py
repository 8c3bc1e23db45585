"""A float32 frame read between its pixels, turned by two arc minutes and shifted, as a registration does.

Every backend by every kernel; scipy's map_coordinates where it has the same one; and reproject_interp, which works out
where the pixels lie from two WCS too: that is its job, and in its time.
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


def make_reproject(side):
    """reproject_interp by its cubic spline, between two WCS that give these maps."""
    from astropy.wcs import WCS
    from reproject import reproject_interp

    image, y, x = field(side)
    here, there = WCS(naxis=2), WCS(naxis=2)
    turn = np.array([[x[0, 1] - x[0, 0], x[1, 0] - x[0, 0]], [y[0, 1] - y[0, 0], y[1, 0] - y[0, 0]]])
    for grid in (here, there):
        grid.wcs.ctype, grid.wcs.crval = ["RA---TAN", "DEC--TAN"], [150.0, 2.0]
    here.wcs.cd, here.wcs.crpix = 2e-4 * np.eye(2), [1.0, 1.0]
    there.wcs.cd, there.wcs.crpix = 2e-4 * turn, 1 - np.linalg.solve(turn, [x[0, 0], y[0, 0]])
    return lambda: reproject_interp((image, here), there, shape_out=image.shape, order="bicubic")[0]


@pytest.mark.parametrize("peer", ["scipy", "reproject"])
def test_peer(bench, peer):
    """The peers by a cubic spline; reproject knows the places to 1e-8 of a pixel or so, and edges are its own."""
    pytest.importorskip(peer)
    side = 512 if bench.quick else 2048
    image, y, x = field(side)
    inner = np.s_[40:256, 40:256]
    want = reference.resample(image[None].astype(np.float64), y[inner], x[inner], "cubic")[0]
    keywords = {"side": side} | ({"kernel": "cubic"} if peer == "scipy" else {})
    work = Work(make_scipy if peer == "scipy" else make_reproject, keywords, {"side": 64})
    bench.row("resample, cubic", peer, f"{side} x {side}", work, error=lambda got: np.nanmax(np.abs(got[inner] - want)),
              tolerance=1e-3, error_of="value, noise 1", pixels=side * side, moved=24e-6 * side * side,
              rounds=3)  # fmt: skip


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
