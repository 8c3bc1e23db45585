"""The whole call of `align`: a frame with SIP distortion, turned by 2 degrees and 3 % larger, to an undistorted grid.

Data, variance and mask go together. The field is free of noise and its stars are drawn at places and with counts that
both WCS know, so the errors are exact: the row's is the largest error of a star's counts within 13 pixels, relative;
its notes have the largest error of a centroid in pixels and what `align` says of its map. Beside it reproject_interp
(bicubic, data alone, surface brightness: multiplied here by the exact area of each pixel after the time is taken) and
reproject_adaptive (flux-conserving, data alone).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy.special import erf

import astrid_gpu as ag
from benchmarks.harness import Work, installed

pytest.importorskip("pytest_benchmark")
pytest.importorskip("astropy")

HALF = 6  # px; of the window in which counts and centroids are taken
SIGMA = 1.5  # px, of the Gaussian stars in the source


def make_wcs(side, *, distorted):
    """One of two WCS of the same field."""
    from astropy.wcs import WCS, Sip

    wcs = WCS(naxis=2)
    kind = "-SIP" if distorted else ""
    wcs.wcs.ctype = [f"RA---TAN{kind}", f"DEC--TAN{kind}"]
    wcs.wcs.crval, wcs.wcs.crpix = [150.0, 2.0], [side / 2 + 3.3, side / 2 - 5.7]
    turn, scale = (np.deg2rad(2.0), 1.0) if distorted else (0.0, 1.03)
    c, s = np.cos(turn) * scale / 3600, np.sin(turn) * scale / 3600
    wcs.wcs.cd = [[-c, s], [s, c]]
    wcs.array_shape = (side, side)
    if distorted:  # 4 px at the corners
        a, b = np.zeros((4, 4)), np.zeros((4, 4))
        a[2, 0], a[1, 1], b[0, 2], b[1, 1] = np.array([2.0, -1.0, 1.5, 1.0]) / (side / 2) ** 2
        a[3, 0], b[0, 3] = np.array([1.0, -1.0]) / (side / 2) ** 3
        wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    return wcs


@cache
def field(side):
    """The frame, its WCS and the target's, and where in the target its stars are: y, x, counts."""
    from astropy.wcs.utils import pixel_to_pixel

    source, target = make_wcs(side, distorted=True), make_wcs(side, distorted=False)
    rng = np.random.default_rng(8)
    places = np.arange(40.0, side - 40, 48)
    y, x = (grid.ravel() + rng.uniform(-9, 9, grid.size) for grid in np.meshgrid(places, places, indexing="ij"))
    counts = np.exp(rng.uniform(np.log(1e3), np.log(1e5), y.size))
    data = np.zeros((side, side))
    for j, i, f in zip(y, x, counts, strict=True):
        low_y, low_x = int(j) - 12, int(i) - 12
        steps = [
            np.diff(0.5 * erf((low + np.arange(26) - 0.5 - at) / (SIGMA * np.sqrt(2))))
            for low, at in ((low_y, j), (low_x, i))
        ]
        data[low_y : low_y + 25, low_x : low_x + 25] += f * np.outer(*steps)
    there_x, there_y = pixel_to_pixel(source, target, x, y)
    edge = 20
    inner = (there_y > edge) & (there_y < side - edge) & (there_x > edge) & (there_x < side - edge)
    inner &= (y > edge) & (y < side - edge) & (x > edge) & (x < side - edge)
    variance = np.full((side, side), 9.0, np.float32)
    mask = np.zeros((side, side), np.uint8)
    mask[5::97, 3::89] = 1  # between the stars as a rule; where not, the star is left out
    clear = ~np.array(
        [mask[round(j) - 14 : round(j) + 15, round(i) - 14 : round(i) + 15].any() for j, i in zip(y, x, strict=True)]
    )
    keep = inner & clear
    image = ag.Image(data.astype(np.float32), variance=variance, mask=mask, wcs=source, name="image")
    return image, target, (there_y[keep], there_x[keep], counts[keep])


def errors(data, stars):
    """Largest relative error of the counts, and of the centroids in pixels; (NaN, NaN) if one star is not whole."""
    v, u = np.mgrid[-HALF : HALF + 1, -HALF : HALF + 1]
    worst = np.zeros(2)
    for j, i, f in zip(*stars, strict=True):
        row, column = round(j), round(i)
        window = data[row - HALF : row + HALF + 1, column - HALF : column + HALF + 1].astype(float)
        total = window.sum()
        off = np.hypot(np.sum(window * v) / total - (j - row), np.sum(window * u) / total - (i - column))
        worst = np.maximum(worst, [abs(total / f - 1), off])  # a NaN stays
    return worst


def make_align(backend, side, kernel):
    """The whole call, by world coordinates."""
    image, target, _ = field(side)
    return lambda: ag.align(image, target, method="wcs", kernel=kernel, backend=backend)


def make_interp(side):
    """reproject_interp of the data."""
    from reproject import reproject_interp

    image, target, _ = field(side)
    return lambda: reproject_interp((image.data, image.wcs), target, shape_out=image.shape, order="bicubic")[0]


def make_adaptive(side):
    """reproject_adaptive of the data."""
    from reproject import reproject_adaptive

    image, target, _ = field(side)
    return lambda: reproject_adaptive((image.data, image.wcs), target, shape_out=image.shape, conserve_flux=True)[0]


def areas(side):
    """Source pixels in each target pixel, from the two WCS."""
    image, target, _ = field(side)
    exact = ag.align(image, target, method="wcs").source_position(*np.mgrid[:side, :side].astype(float))
    (yy, yx), (xy, xx) = (np.gradient(plane) for plane in exact)
    return np.abs(yy * xx - yx * xy)


@pytest.mark.parametrize("kernel", ["spline5", "lanczos3", "bilinear"])
def test_align(bench, backend, kernel):
    """Every backend, by world coordinates; rivals turn about with the default kernel.

    Grids that differ by 3 % beat over a star's width: Lanczos-3 and bilinear lose up to a per cent of its counts.
    """
    side = 512 if bench.quick or backend.name == "numpy" else 1024
    _, _, stars = field(side)
    rivals = {}
    if kernel == "spline5" and backend.name != "numpy" and installed("reproject") and not bench.quick:
        rivals = {"reproject interp": make_interp(side), "reproject adaptive": make_adaptive(side)}
    work = Work(make_align, {"backend": backend.name, "side": side, "kernel": kernel},
                {"backend": backend.name, "side": 128, "kernel": kernel})  # fmt: skip
    bench.row(f"align, {kernel}", backend.name, f"{side} x {side}", work,
              error=lambda got: errors(got.image.data, stars)[0], tolerance=1e-3 if kernel == "spline5" else 0.02,
              error_of="counts of a star", pixels=side * side, rivals=rivals, rounds=3,
              notes=lambda got: {"centroid": errors(got.image.data, stars)[1], "map_error": got.map_error,
                                 "noise_factor": got.noise_factor})  # fmt: skip


@pytest.mark.parametrize("peer", ["interp", "adaptive"])
def test_peer(bench, peer):
    """reproject's two, with the same errors measured; the flux-conserving one spreads light beyond the window."""
    pytest.importorskip("reproject")
    side = 512
    _, _, stars = field(side)
    area = areas(side) if peer == "interp" else 1.0
    work = Work(make_interp if peer == "interp" else make_adaptive, {"side": side}, {"side": 128})
    bench.row(f"align, {peer}", "reproject", f"{side} x {side}", work,
              error=lambda got: errors(got * area, stars)[0], tolerance=0.02, error_of="counts of a star",
              pixels=side * side, rounds=3,
              notes=lambda got: {"centroid": errors(got * area, stars)[1]})  # fmt: skip
