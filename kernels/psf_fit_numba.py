"""Numba twin of ops/psf_fit.py: window by window, in double precision. One thread: both images of a pair go at once."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

__all__ = ["crowd_light", "crowd_sums", "fit_stars", "psf_at"]

_FAST = {"contract", "nsz", "reassoc"}
# As in the reference.
_MODEL_ERROR = 0.02
_FURTHEST = 2.0
_FITS = 4
_LEAST_STEP = 1e-4
_LONGEST_STEP = 0.5


@nb.njit(cache=True, nogil=True)
def _taps(shift, weights):  # noqa: ANN001, ANN202 - compiled
    """Write the weights of a cubic B-spline at what is left of a shift beyond its whole part, and return that."""
    whole = int(np.floor(shift))
    t = shift - whole
    weights[0] = (1 - t) ** 3 / 6
    weights[1] = (3 * t**3 - 6 * t**2 + 4) / 6
    weights[2] = (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6
    weights[3] = t**3 / 6
    return whole


@nb.njit(cache=True, nogil=True, fastmath=_FAST)
def _four(a, b, c, d, w, out):  # noqa: ANN001, ANN202
    w0, w1, w2, w3 = w[0], w[1], w[2], w[3]
    for i in range(out.size):
        out[i] = w0 * a[i] + w1 * b[i] + w2 * c[i] + w3 * d[i]


@nb.njit(cache=True, nogil=True)
def _render(coefficients, first, dy, dx, out):  # noqa: ANN001, ANN202
    """Write the PSF (dy, dx) off the middle of a window."""
    side = out.shape[0]
    wy, wx, line = np.empty(4), np.empty(4), np.empty(side + 3)
    r, c = first + _taps(-dy, wy) - 1, first + _taps(-dx, wx) - 1
    for y in range(side):
        rows = coefficients[r + y : r + y + 4, c : c + side + 3]
        _four(rows[0], rows[1], rows[2], rows[3], wy, line)
        _four(line[0:side], line[1 : side + 1], line[2 : side + 2], line[3 : side + 3], wx, out[y])


@nb.njit(cache=True, nogil=True)
def _render_all(coefficients, first, dy, dx, out):  # noqa: ANN001, ANN202
    for k in range(out.shape[0]):
        _render(coefficients, first, dy[k], dx[k], out[k])


@nb.njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def _height(clean, model):  # noqa: ANN001, ANN202
    """Return the flux of an unweighted fit of the model, not negative."""
    top = square = 0.0
    for y in range(model.shape[0]):
        d, p = clean[y], model[y]
        for x in range(p.size):
            top += d[x] * p[x]
            square += p[x] * p[x]
    return max(top / square, 0.0)


@nb.njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def _add_row(above, p, below, step, d, v, holes, scale, weight, gx, normal):  # noqa: ANN001, ANN202
    """Add a row to the normal equations of model, shift in y, shift in x, constant; `step`: 1 / rows between slopes."""
    n = p.size
    for x in range(n):
        e = scale * p[x]
        weight[x] = 0.0 if holes[x] else 1.0 / (v[x] + e * e)
    gx[0], gx[n - 1] = p[0] - p[1], p[n - 2] - p[n - 1]
    for x in range(1, n - 1):
        gx[x] = 0.5 * (p[x - 1] - p[x + 1])
    s00 = s01 = s02 = s03 = s11 = s12 = s13 = s22 = s23 = s33 = 0.0
    r0 = r1 = r2 = r3 = 0.0
    for x in range(n):
        w, m, g, h = weight[x], p[x], step * (above[x] - below[x]), gx[x]
        wm, wg, wh, wd = w * m, w * g, w * h, w * d[x]
        s00 += wm * m
        s01 += wm * g
        s02 += wm * h
        s03 += wm
        s11 += wg * g
        s12 += wg * h
        s13 += wg
        s22 += wh * h
        s23 += wh
        s33 += w
        r0 += wd * m
        r1 += wd * g
        r2 += wd * h
        r3 += wd
    normal[0, 0] += s00
    normal[0, 1] += s01
    normal[0, 2] += s02
    normal[0, 3] += s03
    normal[1, 1] += s11
    normal[1, 2] += s12
    normal[1, 3] += s13
    normal[2, 2] += s22
    normal[2, 3] += s23
    normal[3, 3] += s33
    normal[0, 4] += r0
    normal[1, 4] += r1
    normal[2, 4] += r2
    normal[3, 4] += r3


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _solve(normal):  # noqa: ANN001, ANN202
    """Solve the equations whose upper half is in `normal`, right sides in the last column; the result goes there."""
    for i in range(4):
        normal[i, i] = normal[i, i] * (1 + 1e-10) + 1e-300
        for j in range(i):
            normal[i, j] = normal[j, i]
    for i in range(4):
        for j in range(i + 1, 4):
            factor = normal[j, i] / normal[i, i]
            for k in range(i, 5):
                normal[j, k] -= factor * normal[i, k]
    for i in range(3, -1, -1):
        for k in range(i + 1, 4):
            normal[i, 4] -= normal[i, k] * normal[k, 4]
        normal[i, 4] /= normal[i, i]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _fit_one(clean, variance, bad, coefficients, first, offset, model, weight, gx, normal):  # noqa: ANN001, ANN202
    """Fit one star; `offset` is the first guess and becomes the result. Return flux and sky."""
    side = clean.shape[0]
    flux = sky = 0.0
    for i in range(_FITS):
        _render(coefficients, first, offset[0], offset[1], model)
        scale = _MODEL_ERROR * _height(clean, model)
        normal[:] = 0.0
        for y in range(side):
            low, high = max(y - 1, 0), min(y + 1, side - 1)
            step = 1.0 / (high - low)
            _add_row(model[low], model[y], model[high], step, clean[y], variance[y], bad[y], scale, weight, gx, normal)
        _solve(normal)
        flux, sky = normal[0, 4], normal[3, 4]
        if i == _FITS - 1 or not flux > 0:
            break
        dy, dx = normal[1, 4] / flux, normal[2, 4] / flux
        offset[0] += min(max(dy, -_LONGEST_STEP), _LONGEST_STEP)
        offset[1] += min(max(dx, -_LONGEST_STEP), _LONGEST_STEP)
        if max(abs(dy), abs(dx)) < _LEAST_STEP:
            break
    offset[0], offset[1] = min(max(offset[0], -_FURTHEST), _FURTHEST), min(max(offset[1], -_FURTHEST), _FURTHEST)
    return flux, sky


@nb.njit(cache=True, nogil=True)
def _fit_all(clean, variance, bad, coefficients, first, offset, flux, sky):  # noqa: ANN001, ANN202
    side = clean.shape[1]
    model, weight, gx, normal = np.empty((side, side)), np.empty(side), np.empty(side), np.empty((4, 5))
    for k in range(clean.shape[0]):
        flux[k], sky[k] = _fit_one(
            clean[k], variance[k], bad[k], coefficients, first, offset[k], model, weight, gx, normal
        )


@nb.njit(cache=True, nogil=True, fastmath=_FAST)
def _sum_windows(windows, models, light, square):  # noqa: ANN001, ANN202
    for k in range(light.size):
        d, p = windows[k], models[k]
        light[k] = square[k] = 0.0
        for i in range(p.size):
            good = d[i] == d[i]
            m = p[i] if good else 0.0
            light[k] += m * (d[i] if good else np.float32(0.0))
            square[k] += m * m


@nb.njit(cache=True, nogil=True, fastmath=_FAST)
def _add_models(light, models, flux, window, source, dy, dx):  # noqa: ANN001, ANN202
    side, own = light.shape[1], models.shape[1]
    for i in range(window.size):
        plane, model, f = light[window[i]], models[source[i]], flux[source[i]]
        y0, x0 = side // 2 + dy[i] - own // 2, side // 2 + dx[i] - own // 2
        first, last = max(x0, 0), min(x0 + own, side)
        if first >= last:
            continue
        for y in range(max(y0, 0), min(y0 + own, side)):
            o, p = plane[y, first:last], model[y - y0, first - x0 : last - x0]
            for x in range(o.size):
                o[x] += f * p[x]


def psf_at(spline: tuple[np.ndarray, int], half: int, dy: Any, dx: Any) -> np.ndarray:
    """Move the PSF; contract in `astrid_gpu.ops.psf_fit.psf_at`."""
    out = np.empty((len(dy), 2 * half + 1, 2 * half + 1))
    _render_all(*spline, np.require(dy, float, "CW"), np.require(dx, float, "CW"), out)
    return out


def fit_stars(
    clean: Any, variance: Any, bad: Any, spline: tuple[np.ndarray, int], offset: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit stars; contract in `astrid_gpu.ops.psf_fit.fit_stars`."""
    clean, variance, places = (np.require(a, float, "CW") for a in (clean, variance, np.array(offset, float)))
    flux, sky = np.empty(len(clean)), np.empty(len(clean))
    _fit_all(clean, variance, np.require(bad, bool, "CW").view(np.uint8), *spline, places, flux, sky)
    return places, flux, sky


def crowd_sums(windows: Any, models: Any) -> tuple[np.ndarray, np.ndarray]:
    """Sum over windows; contract in `astrid_gpu.ops.psf_fit.crowd_sums`. The windows are read as float32."""
    light, square, n = np.empty(len(models)), np.empty(len(models)), len(models)
    _sum_windows(
        np.require(windows, np.float32, "CW").reshape(n, -1), np.require(models, float, "CW").reshape(n, -1),
        light, square,
    )  # fmt: skip
    return light, square


def crowd_light(light: Any, models: Any, flux: Any, window: Any, source: Any, dy: Any, dx: Any) -> None:
    """Add sources to windows; contract in `astrid_gpu.ops.psf_fit.crowd_light`. `light` is contiguous."""
    pairs = (np.require(a, np.int64, "CW") for a in (window, source, dy, dx))
    _add_models(light, np.require(models, float, "CW"), np.require(flux, float, "CW"), *pairs)
