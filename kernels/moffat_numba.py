"""Numba twin of ops/moffat.py: the sums over a pixel's points, then those over pixels."""

from __future__ import annotations

from functools import cache
from typing import Any

import numba as nb
import numpy as np

__all__ = ["moffat_equations"]

_FAST = {"contract", "nsz", "reassoc"}
# As in the reference.
_ROUNDEST = 1e-6
_POINTS = ((1.3, 4), (3.0, 3))
_FEWEST = 2


@nb.njit(cache=True, nogil=True, fastmath=_FAST)
def _places(shape, at, y0, x0, dy, dx):  # noqa: ANN001, ANN202 - compiled
    for axis, (out, middle) in enumerate(((dy, y0), (dx, x0))):
        for k in range(shape[axis]):
            for j in range(at.size):
                out[k * at.size + j] = k - shape[axis] // 2 + at[j] - middle


@nb.njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def _forms(shape, at, y0, x0, alpha, e1, e2, dy, dx, out):  # noqa: ANN001, ANN202
    """Write the places of the points and 1 + q of all, (ny n, nx n)."""
    _places(shape, at, y0, x0, dy, dx)
    scale = 1.0 / (alpha * alpha * np.sqrt(max(1.0 - e1 * e1 - e2 * e2, _ROUNDEST)))
    for y in range(dy.size):
        row, v = out[y], dy[y]
        first, cross = 1.0 + scale * (1.0 + e1) * v * v, -2.0 * scale * e2 * v
        for x in range(dx.size):
            row[x] = first + dx[x] * (cross + scale * (1.0 - e1) * dx[x])


@nb.njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def _planes(form, log, value, dy, dx, share, alpha, e1, e2, beta, out):  # noqa: ANN001, ANN202
    """Write the profile and its six derivatives, (7, ny, nx), means over the points of each pixel."""
    _, ny, nx = out.shape
    n, round2 = share.size, max(1.0 - e1 * e1 - e2 * e2, _ROUNDEST)
    scale = 1.0 / (alpha * alpha * np.sqrt(round2))
    ax, ay, axy = scale * (1.0 - e1), scale * (1.0 + e1), -2.0 * scale * e2
    for y in range(ny):
        for x in range(nx):
            mean = xx = yy = xy = along_y = along_x = by_beta = 0.0
            for j in range(y * n, (y + 1) * n):
                for i in range(x * n, (x + 1) * n):
                    v, u = dy[j], dx[i]
                    w = share[j - y * n] * share[i - x * n] * value[j, i]
                    mean += w
                    by_beta -= beta * log[j, i] * w
                    slope = -beta * w / form[j, i]
                    xx += slope * u * u
                    yy += slope * v * v
                    xy += slope * u * v
                    along_y += slope * v
                    along_x += slope * u
            by_size = ax * xx + ay * yy + axy * xy
            out[0, y, x] = mean
            out[1, y, x] = -2.0 * by_size
            out[2, y, x] = scale * (yy - xx) + (e1 / round2) * by_size
            out[3, y, x] = -2.0 * scale * xy + (e2 / round2) * by_size
            out[4, y, x] = by_beta
            out[5, y, x] = -2.0 * ay * along_y - axy * along_x
            out[6, y, x] = -2.0 * ax * along_x - axy * along_y


@nb.njit(cache=True, nogil=True, fastmath=_FAST)
def _dot(a, b):  # noqa: ANN001, ANN202
    total = 0.0
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@nb.njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def _equations(planes, stamp, weight, linear, matrix, gradient):  # noqa: ANN001, ANN202
    """Write what `moffat_equations` returns, chi-squared returned; `planes` (7, pixels) are weighted in place."""
    size = stamp.size
    misfit = np.empty(size)
    for k in range(7):
        p = planes[k]
        for i in range(size):
            p[i] *= weight[i]
    for i in range(size):
        misfit[i] = -stamp[i] * weight[i]
    aa, ab, bb = _dot(planes[0], planes[0]) + 1e-300, _dot(planes[0], weight), _dot(weight, weight) + 1e-300
    f, g, det = -_dot(planes[0], misfit), -_dot(weight, misfit), max(aa * bb - ab * ab, 1e-300)
    linear[0], linear[1] = (f * bb - g * ab) / det, (g * aa - f * ab) / det
    for i in range(size):
        misfit[i] += linear[0] * planes[0, i] + linear[1] * weight[i]
    for k in range(6):
        p = planes[1 + k]
        f, g = linear[0] * _dot(p, planes[0]), linear[0] * _dot(p, weight)
        u, v = (f * bb - g * ab) / det, (g * aa - f * ab) / det
        for i in range(size):
            p[i] = linear[0] * p[i] - u * planes[0, i] - v * weight[i]
        gradient[k] = _dot(p, misfit)
        for j in range(k + 1):
            matrix[k, j] = matrix[j, k] = _dot(p, planes[1 + j])
    return _dot(misfit, misfit)


@cache
def _nodes(points: int) -> tuple[np.ndarray, np.ndarray]:
    at, weight = np.polynomial.legendre.leggauss(points)
    return 0.5 * at, 0.5 * weight


def moffat_equations(m: Any, stamp: Any, weight: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return the equations of one star; contract in `astrid_gpu.ops.moffat.moffat_equations`."""
    points = next((n for limit, n in _POINTS if m.fwhm < limit), _FEWEST)
    (ny, nx), (at, share) = stamp.shape, _nodes(points)
    dy, dx, form = np.empty(ny * points), np.empty(nx * points), np.empty((ny * points, nx * points))
    planes, linear, matrix, gradient = np.empty((7, ny, nx)), np.empty(2), np.empty((6, 6)), np.empty(6)
    _forms((ny, nx), at, m.y0, m.x0, m.alpha, m.e1, m.e2, dy, dx, form)
    log = np.log(form)  # NumPy's logarithm and exponential take several numbers at once, Numba's do not
    _planes(form, log, np.exp(-m.beta * log), dy, dx, share, m.alpha, m.e1, m.e2, m.beta, planes)
    flat = (np.require(a, float, "CW").ravel() for a in (stamp, weight))
    cost = _equations(planes.reshape(7, -1), *flat, linear, matrix, gradient)
    return linear, matrix, gradient, cost
