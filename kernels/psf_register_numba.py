"""Numba twin of ops/psf_register.py: each star fitted, scaled and shifted while its window is in cache."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from astrid_gpu.kernels._threads import shares
from astrid_gpu.kernels.psf_fit_numba import fit_one, render, step_scale

__all__ = ["mean_star", "register_stars"]

_FAST = {"contract", "nsz", "reassoc"}
# As in the reference.
_MODEL_ERROR = 0.02
_LIGHT_ERROR = 0.05
_NEAR = 0.05
_HUBER = 2.5
_FEWEST = 5
_HALVINGS = 80  # of the range of a pixel's values at most; ten or so find the median unless values are equal
_LANES = 32  # pixels whose median is looked for at once
_STARS = 12  # that one thread registers sooner than another wakes up


@nb.njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def _clean(data, light, variance, bad, clean, spread):  # noqa: ANN001, ANN202 - compiled
    """Write a window less its neighbours, and its variance, infinite at bad pixels; return how many these are."""
    n = 0
    for i in range(data.size):
        clean[i] = data[i] - light[i]
        e = _LIGHT_ERROR * light[i]
        spread[i] = np.inf if bad[i] else variance[i] + e * e
        n += bad[i]
    return n


@nb.njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def _scaled(clean, spread, model, core, flux, sky):  # noqa: ANN001, ANN202
    """Scale a window to unit flux, in place, the fit at bad pixels; return reduced chi-squared over the core.

    `core` holds 1 in the core and 0 elsewhere.
    """
    positive = flux > 0
    inverse = 1.0 / flux if positive else 1.0
    misfit = n = 0.0
    for i in range(clean.size):
        m, v = model[i], spread[i] * (inverse * inverse)
        unit = (clean[i] - sky) * inverse if v < np.inf else m
        e, rest = _MODEL_ERROR * m, unit - m
        misfit += core[i] * rest * rest / (v + e * e)
        n += core[i] if v < np.inf else 0.0
        clean[i], spread[i] = unit, v
    return misfit / max(n - 4.0, 1.0) if positive else np.inf


@nb.njit(cache=True, nogil=True)
def _phase(offset, s, kernel):  # noqa: ANN001, ANN202
    """Write D(t) = sin(pi t) / (s sin(pi t / s)) at t = 1 - s, ..., s - 1 less `offset`."""
    top = np.sin(np.pi * offset)
    for k in range(2 * s - 1):
        below = np.sin(np.pi * (k + 1 - s - offset) / s)
        sign = 1.0 if (k + 1 - s) % 2 else -1.0  # sin(pi (n - offset)) = -(-1)^n sin(pi offset)
        kernel[k] = sign * top / (s * below) if abs(below) >= 1e-9 else 1.0


@nb.njit(cache=True, nogil=True, fastmath=_FAST)
def _product(a, b, out):  # noqa: ANN001, ANN202
    """Write the matrix product a b, four rows of b at a time."""
    inner, n = a.shape[1], b.shape[1]
    for y in range(a.shape[0]):
        row = out[y]
        for i in range(n):
            row[i] = 0.0
        for j in range(0, inner - 3, 4):
            w0, w1, w2, w3 = a[y, j], a[y, j + 1], a[y, j + 2], a[y, j + 3]
            p0, p1, p2, p3 = b[j], b[j + 1], b[j + 2], b[j + 3]
            for i in range(n):
                row[i] += w0 * p0[i] + w1 * p1[i] + w2 * p2[i] + w3 * p3[i]
        for j in range(inner - inner % 4, inner):
            w, p = a[y, j], b[j]
            for i in range(n):
                row[i] += w * p[i]


@nb.njit(cache=True, nogil=True)
def _shift(window, dy, dx, kernel, down, lines, across, out):  # noqa: ANN001, ANN202
    """Write the middle of a window shifted by (dy, dx); (2s - 1), (k, s), (k, s) and (s, k) to work in."""
    s, k = window.shape[0], out.shape[0]
    margin = (s - k) // 2
    _phase(dy, s, kernel)
    for y in range(k):
        for j in range(s):
            down[y, j] = kernel[margin + y - j + s - 1]
    _phase(dx, s, kernel)
    for i in range(s):
        for x in range(k):
            across[i, x] = kernel[margin + x - i + s - 1]
    _product(down, window, lines)
    _product(lines, across, out)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _weigh(spread, psf, reached, dead, out):  # noqa: ANN001, ANN202
    """Write inverse variances of the middle of a window: 0 at bad pixels, with `reached` also beside them."""
    k, s = out.shape[0], spread.shape[0]
    margin = (s - k) // 2
    for y in range(k):
        for x in range(k):
            v = spread[margin + y, margin + x]
            if reached:
                for j in range(margin + y - 1, margin + y + 2):
                    for i in range(margin + x - 1, margin + x + 2):
                        v = v if spread[j, i] < np.inf else np.inf
            e = _MODEL_ERROR * psf[y, x]
            out[y, x] = 0.0 if dead else 1.0 / (v + e * e)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _register(  # noqa: ANN202
    data, light, variance, bad, coefficients, first, scales, psf, offset, core, shifted, weight, chi2  # noqa: ANN001
):  # fmt: skip
    s, k = data.shape[1], shifted.shape[1]
    planes, root, normal = np.empty((3, s, s)), np.empty(s * s), np.empty((4, 5))
    clean, spread, kernel = np.empty(s * s), np.empty(s * s), np.empty(2 * s - 1)
    down, lines, across = np.empty((k, s)), np.empty((k, s)), np.empty((s, k))
    for m in range(data.shape[0]):
        holes = _clean(
            data[m].reshape(-1), light[m].reshape(-1), variance[m].reshape(-1), bad[m].reshape(-1), clean, spread
        )
        own, stamp = coefficients[min(m, coefficients.shape[0] - 1)], psf[min(m, psf.shape[0] - 1)]
        flux, sky = fit_one(clean, spread, own, first, scales, offset[m], planes, root, normal)
        render(own, first, offset[m, 0], offset[m, 1], planes[0])
        chi2[m] = _scaled(clean, spread, planes[0].reshape(-1), core, flux, sky)
        _shift(clean.reshape(s, s), -offset[m, 0], -offset[m, 1], kernel, down, lines, across, shifted[m])
        reached = holes > 0 and max(abs(offset[m, 0]), abs(offset[m, 1])) > _NEAR
        _weigh(spread.reshape(s, s), stamp, reached, not flux > 0, weight[m])


@nb.njit(cache=True, nogil=True, fastmath=_FAST)
def _count(values, limit, count):  # noqa: ANN001, ANN202
    """Count the values of each column of `values` (m, lanes) up to its limit."""
    for i in range(_LANES):
        count[i] = 0.0
    m = values.shape[0]
    for k in range(0, m - 3, 4):
        a, b, c, d = values[k], values[k + 1], values[k + 2], values[k + 3]
        for i in range(_LANES):
            t = limit[i]
            count[i] += (
                (1.0 if a[i] <= t else 0.0) + (1.0 if b[i] <= t else 0.0)
                + (1.0 if c[i] <= t else 0.0) + (1.0 if d[i] <= t else 0.0)
            )  # fmt: skip
    for k in range(m - m % 4, m):
        row = values[k]
        for i in range(_LANES):
            count[i] += 1.0 if row[i] <= limit[i] else 0.0


@nb.njit(cache=True, nogil=True, fastmath=_FAST)
def _above(values, limit, out):  # noqa: ANN001, ANN202
    """Write the least value of each column above its limit."""
    for i in range(_LANES):
        out[i] = np.inf
    for k in range(values.shape[0]):
        row = values[k]
        for i in range(_LANES):
            out[i] = min(out[i], row[i] if row[i] > limit[i] else np.inf)


@nb.njit(cache=True, nogil=True, fastmath=_FAST)
def _range(values, low, high):  # noqa: ANN001, ANN202
    """Write the largest value of each column, and one below its smallest."""
    for i in range(_LANES):
        low[i] = high[i] = values[0, i]
    for k in range(1, values.shape[0]):
        row = values[k]
        for i in range(_LANES):
            low[i], high[i] = min(low[i], row[i]), max(high[i], row[i])
    for i in range(_LANES):
        low[i] -= high[i] - low[i] + 1e-9 * abs(low[i]) + 1e-300


@nb.njit(cache=True, nogil=True)
def _medians(values, low, high, middle, count, out):  # noqa: ANN001, ANN202
    """Write the median of each column: its range is halved until as many values as must lie below it do."""
    m = values.shape[0]
    rank = (m - 1) // 2
    _range(values, low, high)
    below = np.zeros(_LANES)
    for _ in range(_HALVINGS):
        done = True
        for i in range(_LANES):
            middle[i] = 0.5 * (low[i] + high[i])
            done &= below[i] == rank
        if done:
            break
        _count(values, middle, count)
        for i in range(_LANES):
            if count[i] > rank:
                high[i] = middle[i]
            else:
                low[i], below[i] = middle[i], count[i]
    _above(values, low, out)
    if m % 2 == 0:  # the mean of the middle two
        _count(values, out, count)
        _above(values, out, high)
        for i in range(_LANES):
            out[i] = 0.5 * (out[i] + (high[i] if count[i] == rank + 1 else out[i]))


@nb.njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def _average(values, weights, n, middle, mean, total, scatter):  # noqa: ANN001, ANN202
    """Average n columns with Huber weights about `middle`."""
    for i in range(n):
        mean[i] = total[i] = scatter[i] = 0.0
    for k in range(values.shape[0]):
        for i in range(n):
            size = abs(values[k, i] - middle[i]) * np.sqrt(weights[k, i])
            w = weights[k, i] * min(1.0, _HUBER / max(size, 1e-12))
            weights[k, i] = w
            total[i] += w
            mean[i] += w * values[k, i]
    for i in range(n):
        mean[i] /= total[i] if total[i] > 0 else 1.0
    for k in range(values.shape[0]):
        for i in range(n):
            r = weights[k, i] * (values[k, i] - mean[i])
            scatter[i] += r * r
    for i in range(n):
        scatter[i] /= total[i] * total[i] if total[i] > 0 else 1.0


@nb.njit(cache=True, nogil=True)
def _means(stamps, weight, mean, total, scatter):  # noqa: ANN001, ANN202
    m, size = stamps.shape
    values, weights = np.zeros((m, _LANES)), np.zeros((m, _LANES))
    low, high, count, middle = np.empty(_LANES), np.empty(_LANES), np.empty(_LANES), np.empty(_LANES)
    about = np.empty(_LANES)
    for first in range(0, size, _LANES):
        n = min(_LANES, size - first)
        for k in range(m):
            for i in range(n):
                values[k, i], weights[k, i] = stamps[k, first + i], weight[k, first + i]
        _medians(values, low, high, middle, count, about)
        part = slice(first, first + n)
        _average(values, weights, n, about, mean[part], total[part], scatter[part])


def register_stars(
    data: Any, light: Any, variance: Any, bad: Any, spline: tuple[Any, int], psf: Any, offset: Any, radius: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Register stars; contract in `astrid_gpu.ops.psf_register.register_stars`."""
    planes = [np.require(a, float, "CW") for a in (data, light, variance)]
    planes.append(np.require(bad, bool, "CW").view(np.uint8))
    m, k, half = len(data), psf.shape[-1], planes[0].shape[1] // 2
    stamps, splines = (np.require(a, float, "CW").reshape(-1, *a.shape[-2:]) for a in (psf, spline[0]))
    places, chi2, shifted, weight = np.array(offset, float), np.empty(m), np.empty((m, k, k)), np.empty((m, k, k))
    grid, scales = np.arange(-half, half + 1), step_scale(splines[0], spline[1], 2 * half + 1)
    core = (np.hypot(grid[:, None], grid) < radius).ravel().astype(float)

    def part(first: int, last: int) -> None:
        these = slice(first, last)
        own = [a[these] if len(a) > 1 else a for a in (splines, stamps)]
        out = (a[these] for a in (shifted, weight, chi2))
        _register(*(a[these] for a in planes), own[0], spline[1], scales, own[1], places[these], core, *out)

    shares(part, m, least=_STARS)
    return shifted, weight, places, chi2


def mean_star(stamps: Any, weight: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average stars; contract in `astrid_gpu.ops.psf_register.mean_star`."""
    m, shape = len(stamps), stamps.shape[1:]
    if m < _FEWEST:
        total = weight.sum(axis=0)
        return (weight * stamps).sum(axis=0) / np.where(total > 0, total, 1.0), total, np.zeros(shape)
    out = np.empty((3, shape[0] * shape[1]))
    _means(np.require(stamps, float, "CW").reshape(m, -1), np.require(weight, float, "CW").reshape(m, -1), *out)
    mean, total, scatter = out.reshape(3, *shape)
    return mean, total, scatter
