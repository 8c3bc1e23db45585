r"""Reading images between their pixels: nearest, bilinear, Lanczos-3, cubic and quintic spline.

All are separable sums over the pixels around a position,

.. math:: I(y, x) = \sum_{j, i} h(y - j)\, h(x - i)\, c_{ji},

with c the pixels themselves or, for the splines, the coefficients of the B-spline that passes through them
(Unser 1999, IEEE Signal Proc. Mag. 16, 22). Beyond the frame the image is mirrored about its outermost pixels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

__all__ = [
    "DEGREES",
    "KERNELS",
    "map_area",
    "mirrored",
    "prefilter_taps",
    "resample",
    "spline_coefficients",
    "tap_weights",
]

DEGREES = {"cubic": 3, "quintic": 5}
"""Of the splines."""

_NOTHING = 1e-12  # weight of a tap that has none

KERNELS = {"nearest": 1, "bilinear": 2, "lanczos3": 6, "cubic": 4, "quintic": 6}
"""Kernel -> taps an axis."""


def mirrored(index: Any, n: int, *, xp: Any = np) -> Any:
    """Return the pixel that stands at an index beyond the frame: ... 2 1 | 0 1 2 ... n-2 n-1 | n-2 ..."""
    if n == 1:
        return xp.zeros_like(index)
    period = 2 * (n - 1)
    index = xp.abs(index) % period
    return xp.where(index >= n, period - index, index)


def _b_spline(degree: int, t: Any, *, xp: Any = np) -> Any:
    """Centred B-spline: sum over k of (-1)^k C(n+1, k) max(t + (n+1)/2 - k, 0)^n / n!."""
    from math import comb, factorial

    total = xp.zeros_like(t)
    for k in range(degree + 2):
        total = total + (-1) ** k * comb(degree + 1, k) * xp.maximum(t + (degree + 1) / 2 - k, 0.0) ** degree
    return total / factorial(degree)


def tap_weights(kernel: str, fraction: Any, *, xp: Any = np) -> list[tuple[int, Any]]:
    """Return the taps of a kernel at positions `fraction` past a pixel, 0 to 1: (pixels from it, weights)."""
    if kernel == "nearest":
        return [(0, xp.where(fraction < 0.5, 1.0, 0.0)), (1, xp.where(fraction < 0.5, 0.0, 1.0))]
    if kernel == "bilinear":
        return [(0, 1.0 - fraction), (1, fraction)]
    if kernel == "lanczos3":
        taps = [(k, xp.sinc(fraction - k) * xp.sinc((fraction - k) / 3.0)) for k in range(-2, 4)]
        total = sum(weight for _, weight in taps)
        return [(k, weight / total) for k, weight in taps]
    degree = DEGREES[kernel]
    half = (degree + 1) // 2
    return [(k, _b_spline(degree, fraction - k, xp=xp)) for k in range(1 - half, half + 1)]


@lru_cache(maxsize=8)
def prefilter_taps(degree: int, *, double: bool) -> np.ndarray:
    """Return half of the symmetric filter that turns pixels into spline coefficients, from its middle on.

    It undoes the sampled B-spline: the inverse of its (periodic) transfer function, cut where it has fallen below
    the rounding of float32 or float64.
    """
    n = 512
    reach = degree // 2
    sampled = np.zeros(n)
    for k in range(-reach, reach + 1):
        sampled[k] = _b_spline(degree, np.float64(k))
    taps = np.fft.irfft(1.0 / np.fft.rfft(sampled).real, n)[: n // 4]
    least = 1e-17 if double else 3e-9
    return taps[: 1 + int(np.max(np.flatnonzero(np.abs(taps) > least)))].copy()


def spline_coefficients(images: Any, degree: int, *, xp: Any = np) -> Any:
    """Return the B-spline coefficients of images (n, ny, nx), finite everywhere, in their own type."""
    taps = prefilter_taps(degree, double=True)
    out = images.astype(np.float64)
    for axis in (1, 2):
        n = out.shape[axis]
        index = xp.arange(n)
        total = taps[0] * out
        for k in range(1, len(taps)):
            for sign in (-1, 1):
                total += taps[k] * xp.take(out, mirrored(index + sign * k, n, xp=xp), axis=axis)
        out = total
    return out.astype(images.dtype)


def resample(
    images: Any,
    y_map: Any,
    x_map: Any,
    kernel: str,
    bad: Any = None,
    beyond: float = 0.5,
    filtered: bool = False,
    *,
    xp: Any = np,
) -> Any:
    """Read images at positions.

    Parameters
    ----------
    images : float array, shape (n, ny, nx)
        Finite everywhere.
    y_map, x_map : float array, shape (my, mx)
        Positions, pixels; shared by the images.
    kernel : name in `KERNELS`
    bad : bool array, shape (n, ny, nx), optional
        Positions that have one of these among their taps give NaN, taps without weight not counted.
    beyond : float
        Positions further outside than this many pixels past the outermost pixel centres give NaN, as NaN does.
    filtered : bool
        `images` are what `spline_coefficients` returned.

    Returns
    -------
    array, shape (n, my, mx), dtype of `images`
        O(taps²) a position.
    """
    n, ny, nx = images.shape
    inside = (y_map >= -beyond) & (y_map <= ny - 1 + beyond) & (x_map >= -beyond) & (x_map <= nx - 1 + beyond)
    y, x = (xp.where(inside, positions, 0.0).astype(np.float64) for positions in (y_map, x_map))
    raw = kernel in DEGREES and not filtered
    source = spline_coefficients(images, DEGREES[kernel], xp=xp) if raw else images
    row, column = xp.floor(y).astype(np.int64), xp.floor(x).astype(np.int64)
    down, across = tap_weights(kernel, y - row, xp=xp), tap_weights(kernel, x - column, xp=xp)
    out = xp.zeros((n, *y.shape))
    lost = xp.zeros((n, *y.shape), bool)
    for j, wy in down:
        for i, wx in across:
            place = (slice(None), mirrored(row + j, ny, xp=xp), mirrored(column + i, nx, xp=xp))
            out += wy * wx * source[place]
            if bad is not None:
                lost |= bad[place] & (xp.abs(wy * wx) > _NOTHING)
    return xp.where(inside & ~lost, out, np.nan).astype(images.dtype)


def map_area(y_map: np.ndarray, x_map: np.ndarray, shape: tuple[int, int], reach: float) -> tuple[Any, Any]:
    """Return how many source pixels each target pixel covers, and whether it lies in the source.

    Parameters
    ----------
    y_map, x_map : float array, shape (my, mx)
        Source position of every target pixel.
    shape : (int, int)
        (ny, nx) of the source.
    reach : float
        Pixels.

    Returns
    -------
    area : float64 array, shape (my, mx)
        |d(y, x) / d(target y, x)| by differences of neighbours; NaN where the map is.
    code : uint8 array, shape (my, mx)
        0 outside of the source's pixels, 1 in them but closer than `reach` to the outermost centres, 2 further in.
    """
    ny, nx = shape
    (yy, yx), (xy, xx) = (
        [np.gradient(plane, axis=axis) if plane.shape[axis] > 1 else np.zeros_like(plane) for axis in (0, 1)]
        for plane in (y_map, x_map)
    )
    edge = np.minimum(np.minimum(y_map, ny - 1 - y_map), np.minimum(x_map, nx - 1 - x_map))
    code = (edge >= -0.5).astype(np.uint8) + (edge >= reach)
    return np.abs(yy * xx - yx * xy), code.astype(np.uint8)
