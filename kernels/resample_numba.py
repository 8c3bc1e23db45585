"""Numba twin of ops/resample.py, with the area and the footprint of a map: bands of target rows go to threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba as nb
import numpy as np
from astrid_gpu.kernels._pool import share

__all__ = ["map_area", "resample", "spline_coefficients"]

_FAST = {"contract", "nsz", "reassoc"}
_ROWS = 64  # of a band
_NOTHING = 1e-12  # as in astrid_gpu.ops.resample
_KINDS = {"nearest": 0, "bilinear": 1, "lanczos3": 2, "cubic": 3, "quintic": 5}
_POLES = {3: (-0.2679491924311227,), 5: (-0.4305753470999738, -0.04309628820326465)}


@nb.njit(cache=True, nogil=True, inline="always")
def _mirror(index, n):  # noqa: ANN001, ANN202 - compiled, types are the caller's
    if n == 1:
        return 0
    index = abs(index) % (2 * (n - 1))
    return 2 * (n - 1) - index if index >= n else index


def _bands(work: Callable[[int, int], None], rows: int) -> None:
    """Call ``work(first, last)`` for bands of rows, on all threads."""
    parts = -(-rows // _ROWS)
    share(lambda k: work(rows * k // parts, rows * (k + 1) // parts), parts)


def _prefilter(degree: int, dtype: Any) -> np.ndarray:
    """Half of the filter from pixels to spline coefficients; its tails are powers of the poles."""
    # h = product over the poles of ((1 - z)^2 / ... ) written as a sum; solved on a few taps instead of by residues.
    reach = int(np.ceil(np.log(1e-17 if dtype == np.float64 else 3e-9) / np.log(-_POLES[degree][0])))
    index = np.arange(-2 * reach, 2 * reach + 1)
    taps = np.where(index == 0, 1.0, 0.0)
    for pole in _POLES[degree]:
        decay = pole ** np.abs(index) * (1 - pole) / (1 + pole)
        taps = np.convolve(taps, decay, mode="same")
    return taps[2 * reach : 3 * reach + 1].astype(dtype)


@nb.njit(cache=True, nogil=True, fastmath=_FAST)
def _filter_down(image, taps, first, last, out):  # noqa: ANN001, ANN202
    ny, nx = image.shape
    for y in range(first, last):
        o, p, t = out[y], image[y], taps[0]
        for x in range(nx):
            o[x] = t * p[x]
        for k in range(1, taps.size):
            t, a, b = taps[k], image[_mirror(y - k, ny)], image[_mirror(y + k, ny)]
            for x in range(nx):
                o[x] += t * (a[x] + b[x])


@nb.njit(cache=True, nogil=True, fastmath=_FAST)
def _filter_across(image, taps, first, last):  # noqa: ANN001, ANN202
    """In place, a row at a time through a line with mirrored ends."""
    nx = image.shape[1]
    pad = taps.size - 1
    line = np.empty(nx + 2 * pad, image.dtype)
    for y in range(first, last):
        o = image[y]
        line[pad : pad + nx] = o
        for k in range(1, pad + 1):
            line[pad - k] = o[_mirror(-k, nx)]
            line[pad + nx - 1 + k] = o[_mirror(nx - 1 + k, nx)]
        t = taps[0]
        middle = line[pad : pad + nx]
        for x in range(nx):
            o[x] = t * middle[x]
        for k in range(1, taps.size):
            t, a, b = taps[k], line[pad - k : pad - k + nx], line[pad + k : pad + k + nx]
            for x in range(nx):
                o[x] += t * (a[x] + b[x])


def spline_coefficients(images: Any, degree: int) -> np.ndarray:
    """Return B-spline coefficients; contract in `astrid_gpu.ops.resample.spline_coefficients`."""
    out, taps = np.empty_like(images), _prefilter(degree, images.dtype)
    for image, result in zip(images, out, strict=True):
        _bands(lambda a, b, i=image, o=result: _filter_down(i, taps, a, b, o), len(image))
        _bands(lambda a, b, o=result: _filter_across(o, taps, a, b), len(image))
    return out


@nb.njit(cache=True, nogil=True)
def _quintic(f):  # noqa: ANN001, ANN202
    g = 1.0 - f
    f2, g2 = f * f, g * g
    return (
        g2 * g2 * g / 120.0,
        (26.0 - f * (50.0 - f * (20.0 + f * (20.0 - f * (20.0 - 5.0 * f))))) / 120.0,
        (66.0 - f2 * (60.0 - f2 * (30.0 - 10.0 * f))) / 120.0,
        (66.0 - g2 * (60.0 - g2 * (30.0 - 10.0 * g))) / 120.0,
        (26.0 - g * (50.0 - g * (20.0 + g * (20.0 - g * (20.0 - 5.0 * g))))) / 120.0,
        f2 * f2 * f / 120.0,
    )


@nb.njit(cache=True, nogil=True)
def _cubic(f):  # noqa: ANN001, ANN202
    g = 1.0 - f
    return (
        0.0,
        g * g * g / 6.0,
        (4.0 - f * f * (6.0 - 3.0 * f)) / 6.0,
        (4.0 - g * g * (6.0 - 3.0 * g)) / 6.0,
        f * f * f / 6.0,
        0.0,
    )


@nb.njit(cache=True, nogil=True)
def _lanczos(f):  # noqa: ANN001, ANN202
    """Windowed sincs of sum 1; all sines from three: sin(a - b) = sin a cos b - cos a sin b."""
    if f == 0.0:
        return 0.0, 0.0, 1.0, 0.0, 0.0, 0.0
    s, s3, c3 = np.sin(np.pi * f), np.sin(np.pi * f / 3.0), np.cos(np.pi * f / 3.0)
    h = np.sqrt(0.75)
    a, b, c = s3, 0.5 * s3 - h * c3, -0.5 * s3 - h * c3  # sin(pi (f - k) / 3) for k = 0, 1, 2
    return (
        -b * s / ((f + 2.0) * (f + 2.0)),
        c * s / ((f + 1.0) * (f + 1.0)),
        a * s / (f * f),
        -b * s / ((f - 1.0) * (f - 1.0)),
        c * s / ((f - 2.0) * (f - 2.0)),
        a * s / ((f - 3.0) * (f - 3.0)),
    )


@nb.njit(cache=True, nogil=True)
def _weights(kind, f):  # noqa: ANN001, ANN202
    """Return the weights of six taps at `f` past a pixel, the first two pixels before it; not normalised."""
    if kind == 5:
        return _quintic(f)
    if kind == 3:
        return _cubic(f)
    if kind == 2:
        return _lanczos(f)
    if kind == 1:
        return 0.0, 0.0, 1.0 - f, f, 0.0, 0.0
    near = 1.0 if f < 0.5 else 0.0
    return 0.0, 0.0, near, 1.0 - near, 0.0, 0.0


@nb.njit(cache=True, nogil=True)
def _sum_edge(source, bad, top, left, wy, wx):  # noqa: ANN001, ANN202
    """Sum over six taps an axis with mirrored edges; NaN where one that has weight is bad."""
    ny, nx = source.shape
    total = 0.0
    for j in range(6):
        row = _mirror(top + j, ny)
        for i in range(6):
            w = wy[j] * wx[i]
            if abs(w) <= _NOTHING:
                continue
            column = _mirror(left + i, nx)
            if bad.size and bad[row, column]:
                return np.nan
            total += w * source[row, column]
    return total


@nb.njit(cache=True, nogil=True, fastmath=_FAST)
def _sum_six(flat, place, nx, wy, wx):  # noqa: ANN001, ANN202
    """Sum over six taps an axis inside of the frame, from the flat index of the first."""
    kind = flat.dtype.type
    w0, w1, w2, w3, w4, w5 = kind(wx[0]), kind(wx[1]), kind(wx[2]), kind(wx[3]), kind(wx[4]), kind(wx[5])
    total = kind(0)
    for j in range(6):
        p = np.uint64(place + j * nx)
        total += kind(wy[j]) * (
            w0 * flat[p]
            + w1 * flat[p + np.uint64(1)]
            + w2 * flat[p + np.uint64(2)]
            + w3 * flat[p + np.uint64(3)]
            + w4 * flat[p + np.uint64(4)]
            + w5 * flat[p + np.uint64(5)]
        )
    return total


@nb.njit(cache=True, nogil=True, fastmath=_FAST)
def _sum_two(flat, place, nx, fy, fx):  # noqa: ANN001, ANN202
    kind = flat.dtype.type
    p, q, one = np.uint64(place), np.uint64(place + nx), np.uint64(1)
    u, v = kind(fx), kind(fy)
    above = flat[p] + u * (flat[p + one] - flat[p])
    below = flat[q] + u * (flat[q + one] - flat[q])
    return above + v * (below - above)


@nb.njit(cache=True, nogil=True)
def _read(source, bad, near, y_map, x_map, kind, beyond, first, last, out):  # noqa: ANN001, ANN202
    ny, nx = source.shape
    flat = source.ravel()
    low, high_y, high_x = -beyond, ny - 1 + beyond, nx - 1 + beyond
    for r in range(first, last):
        ys, xs, o = y_map[r], x_map[r], out[r]
        for c in range(o.size):
            y, x = ys[c], xs[c]
            if not (y >= low and y <= high_y and x >= low and x <= high_x):
                o[c] = np.nan
                continue
            row, column = int(np.floor(y)), int(np.floor(x))
            fy, fx = y - row, x - column
            inner = row >= 2 and row + 4 <= ny and column >= 2 and column + 4 <= nx
            if inner and near.size and near[row, column]:
                inner = False
            if not inner:
                wy, wx = _weights(kind, fy), _weights(kind, fx)
                total = (wy[0] + wy[1] + wy[2] + wy[3] + wy[4] + wy[5]) * (
                    wx[0] + wx[1] + wx[2] + wx[3] + wx[4] + wx[5]
                )
                o[c] = _sum_edge(source, bad, row - 2, column - 2, wy, wx) / total
            elif kind == 5:
                o[c] = _sum_six(flat, (row - 2) * nx + column - 2, nx, _quintic(fy), _quintic(fx))
            elif kind == 3:
                o[c] = _sum_six(flat, (row - 2) * nx + column - 2, nx, _cubic(fy), _cubic(fx))
            elif kind == 2:
                wy, wx = _lanczos(fy), _lanczos(fx)
                total = (wy[0] + wy[1] + wy[2] + wy[3] + wy[4] + wy[5]) * (
                    wx[0] + wx[1] + wx[2] + wx[3] + wx[4] + wx[5]
                )
                o[c] = _sum_six(flat, (row - 2) * nx + column - 2, nx, wy, wx) / total
            elif kind == 1:
                o[c] = _sum_two(flat, row * nx + column, nx, fy, fx)
            else:
                o[c] = source[row + (fy >= 0.5), column + (fx >= 0.5)]


def resample(
    images: Any,
    y_map: Any,
    x_map: Any,
    kernel: str,
    bad: Any = None,
    beyond: float = 0.5,
    filtered: bool = False,
) -> np.ndarray:
    """Read images at positions; contract in `astrid_gpu.ops.resample.resample`."""
    from astrid_gpu.kernels.noise_numba import dilate

    kind = _KINDS[kernel]
    source = np.ascontiguousarray(images)
    if kind > 2 and not filtered:
        source = spline_coefficients(source, kind)
    maps = [np.ascontiguousarray(positions, np.float64) for positions in (y_map, x_map)]
    out = np.empty((len(source), *maps[0].shape), source.dtype)
    nothing = np.empty((0, 0), np.bool_)
    for k, image in enumerate(source):
        lost = nothing if bad is None or not bad[k].any() else np.ascontiguousarray(bad[k])
        near = dilate(lost, 3) if lost.size else nothing
        _bands(
            lambda a, b, i=image, m=lost, n=near, o=out[k]: _read(i, m, n, *maps, kind, beyond, a, b, o),
            len(maps[0]),
        )
    return out


@nb.njit(cache=True, nogil=True)
def _area_row(y_map, x_map, r, ny, nx, reach, area, code):  # noqa: ANN001, ANN202
    my, mx = y_map.shape
    a, b = max(r - 1, 0), min(r + 1, my - 1)
    across = max(b - a, 1)
    y0, y1, x0, x1, ys, xs = y_map[a], y_map[b], x_map[a], x_map[b], y_map[r], x_map[r]
    for c in range(mx):
        p, q = max(c - 1, 0), min(c + 1, mx - 1)
        step = max(q - p, 1)
        yy, xy = (y1[c] - y0[c]) / across, (x1[c] - x0[c]) / across
        yx, xx = (ys[q] - ys[p]) / step, (xs[q] - xs[p]) / step
        area[c] = abs(yy * xx - yx * xy)
        edge = min(min(ys[c], ny - 1 - ys[c]), min(xs[c], nx - 1 - xs[c]))
        code[c] = 0 if not edge >= -0.5 else 1 if edge < reach else 2


@nb.njit(cache=True, nogil=True)
def _areas(y_map, x_map, ny, nx, reach, first, last, area, code):  # noqa: ANN001, ANN202
    for r in range(first, last):
        _area_row(y_map, x_map, r, ny, nx, reach, area[r], code[r])


def map_area(y_map: Any, x_map: Any, shape: tuple[int, int], reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the area of target pixels and where they lie; contract in `astrid_gpu.ops.resample.map_area`."""
    maps = [np.ascontiguousarray(positions, np.float64) for positions in (y_map, x_map)]
    area, code = np.empty(maps[0].shape), np.empty(maps[0].shape, np.uint8)
    _bands(lambda a, b: _areas(*maps, *shape, float(reach), a, b, area, code), len(area))
    return area, code
