"""Numba twin of ops/psf_fit.py: window by window, in double precision."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from astrid_gpu.kernels._threads import shares

__all__ = ["crowd_light", "crowd_sums", "fit_one", "fit_stars", "psf_at", "render", "step_scale"]

_FAST = {"contract", "nsz", "reassoc"}
# As in the reference.
_MODEL_ERROR = 0.02
_FURTHEST = 2.0
_FITS = 4
_LEAST_STEP = 1e-2
_LONGEST_STEP = 0.5
_STARS = 100  # that one thread renders sooner than another wakes up


@nb.njit(cache=True, nogil=True)
def _taps(shift, weights, slopes):  # noqa: ANN001, ANN202 - compiled
    """Write the weights of a cubic B-spline at what is left of a shift beyond its whole part, and return that.

    `slopes` are their derivatives by minus the shift, which is by the place of the PSF.
    """
    whole = int(np.floor(shift))
    t = shift - whole
    weights[0] = (1 - t) ** 3 / 6
    weights[1] = (3 * t**3 - 6 * t**2 + 4) / 6
    weights[2] = (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6
    weights[3] = t**3 / 6
    slopes[0] = (1 - t) ** 2 / 2
    slopes[1] = (4 * t - 3 * t**2) / 2
    slopes[2] = (3 * t**2 - 2 * t - 1) / 2
    slopes[3] = -(t**2) / 2
    return whole


@nb.njit(cache=True, nogil=True, fastmath=_FAST)
def render(coefficients, first, dy, dx, out):  # noqa: ANN001, ANN201
    """Write the PSF (dy, dx) off the middle of a window."""
    side = out.shape[0]
    wy, wx, slopes, line = np.empty(4), np.empty(4), np.empty(4), np.empty(side + 3)
    r, c = first + _taps(-dy, wy, slopes) - 1, first + _taps(-dx, wx, slopes) - 1
    v0, v1, v2, v3 = wy[0], wy[1], wy[2], wy[3]
    u0, u1, u2, u3 = wx[0], wx[1], wx[2], wx[3]
    for y in range(side):
        p0, p1 = coefficients[r + y, c : c + side + 3], coefficients[r + y + 1, c : c + side + 3]
        p2, p3 = coefficients[r + y + 2, c : c + side + 3], coefficients[r + y + 3, c : c + side + 3]
        for i in range(side + 3):
            line[i] = v0 * p0[i] + v1 * p1[i] + v2 * p2[i] + v3 * p3[i]
        row = out[y]
        for i in range(side):
            row[i] = u0 * line[i] + u1 * line[i + 1] + u2 * line[i + 2] + u3 * line[i + 3]


@nb.njit(cache=True, nogil=True, fastmath=_FAST)
def _difference(before, after, step, out):  # noqa: ANN001, ANN202
    for i in range(out.size):
        out[i] = step * (before[i] - after[i])


@nb.njit(cache=True, nogil=True)
def _slopes(planes):  # noqa: ANN001, ANN202
    """Write the negative gradients of planes[0] along y and x, by differences of neighbouring pixels."""
    side = planes.shape[1]
    for y in range(side):
        low, high = max(y - 1, 0), min(y + 1, side - 1)
        _difference(planes[0, low], planes[0, high], 1.0 / (high - low), planes[1, y])
        p, out = planes[0, y], planes[2, y]
        out[0], out[side - 1] = p[0] - p[1], p[side - 2] - p[side - 1]
        _difference(p[: side - 2], p[2:], 0.5, out[1 : side - 1])


@nb.njit(cache=True, nogil=True)
def step_scale(coefficients, first, side):  # noqa: ANN001, ANN201
    """Return by how much differences overstate a shift along y and x; see `astrid_gpu.ops.psf_fit.step_scale`."""
    planes, weights, slopes, scale = np.empty((3, side, side)), np.empty(4), np.empty(4), np.empty(2)
    render(coefficients, first, 0.0, 0.0, planes[0])
    _slopes(planes)
    _taps(0.0, weights, slopes)
    for axis in range(2):
        wy, wx = (slopes, weights) if axis == 0 else (weights, slopes)
        top = square = 0.0
        for y in range(side):
            for x in range(side):
                true = 0.0
                for j in range(4):
                    for i in range(4):
                        true += wy[j] * wx[i] * coefficients[first - 1 + y + j, first - 1 + x + i]
                top += true * planes[1 + axis, y, x]
                square += planes[1 + axis, y, x] ** 2
        scale[axis] = max(top / max(square, 1e-300), 1.0)
    return scale


@nb.njit(cache=True, nogil=True)
def _render_all(coefficients, first, dy, dx, out):  # noqa: ANN001, ANN202
    for k in range(out.shape[0]):
        render(coefficients[min(k, coefficients.shape[0] - 1)], first, dy[k], dx[k], out[k])


@nb.njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def _height(clean, model):  # noqa: ANN001, ANN202
    """Return the flux of an unweighted fit of the model, not negative."""
    top = square = 0.0
    for i in range(model.size):
        top += clean[i] * model[i]
        square += model[i] * model[i]
    return max(top / square, 0.0)


@nb.njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def _add_up(m, g, h, d, v, scale, weight, normal):  # noqa: ANN001, ANN202
    """Write the normal equations of model, shift in y, shift in x, constant; `v` is infinite at bad pixels."""
    for i in range(m.size):
        e = scale * m[i]
        weight[i] = 1.0 / (v[i] + e * e)
    s00 = s01 = s02 = s03 = s11 = s12 = s13 = s22 = s23 = s33 = 0.0
    r0 = r1 = r2 = r3 = 0.0
    for i in range(m.size):
        w = weight[i]
        wm, wg, wh, wd = w * m[i], w * g[i], w * h[i], w * d[i]
        s00 += wm * m[i]
        s01 += wm * g[i]
        s02 += wm * h[i]
        s03 += wm
        s11 += wg * g[i]
        s12 += wg * h[i]
        s13 += wg
        s22 += wh * h[i]
        s23 += wh
        s33 += w
        r0 += wd * m[i]
        r1 += wd * g[i]
        r2 += wd * h[i]
        r3 += wd
    normal[0, 0], normal[0, 1], normal[0, 2], normal[0, 3], normal[0, 4] = s00, s01, s02, s03, r0
    normal[1, 1], normal[1, 2], normal[1, 3], normal[1, 4] = s11, s12, s13, r1
    normal[2, 2], normal[2, 3], normal[2, 4] = s22, s23, r2
    normal[3, 3], normal[3, 4] = s33, r3


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
def fit_one(clean, variance, coefficients, first, scales, offset, planes, weight, normal):  # noqa: ANN001, ANN201
    """Fit one star to its flat window, bad pixels of infinite variance; `offset` is the first guess and the result.

    Returns flux and sky. `scales`: see `step_scale`. `planes` (3, side, side), `weight` (side²) and `normal` (4, 5) are
    to work in.
    """
    flat = planes.reshape(3, -1)
    flux = sky = 0.0
    for i in range(_FITS):
        render(coefficients, first, offset[0], offset[1], planes[0])
        _slopes(planes)
        scale = _MODEL_ERROR * _height(clean, flat[0])
        _add_up(flat[0], flat[1], flat[2], clean, variance, scale, weight, normal)
        _solve(normal)
        flux, sky = normal[0, 4], normal[3, 4]
        if i == _FITS - 1 or not flux > 0:
            break
        dy, dx = normal[1, 4] / flux / scales[0], normal[2, 4] / flux / scales[1]
        offset[0] += min(max(dy, -_LONGEST_STEP), _LONGEST_STEP)
        offset[1] += min(max(dx, -_LONGEST_STEP), _LONGEST_STEP)
        if max(abs(dy), abs(dx)) < _LEAST_STEP:
            break
    offset[0], offset[1] = min(max(offset[0], -_FURTHEST), _FURTHEST), min(max(offset[1], -_FURTHEST), _FURTHEST)
    return flux, sky


@nb.njit(cache=True, nogil=True)
def _fit_all(clean, variance, bad, coefficients, first, scales, offset, flux, sky):  # noqa: ANN001, ANN202
    side = clean.shape[1]
    planes, weight, normal = np.empty((3, side, side)), np.empty(side * side), np.empty((4, 5))
    spread = np.empty(side * side)
    for k in range(clean.shape[0]):
        v, b = variance[k].reshape(-1), bad[k].reshape(-1)
        for i in range(spread.size):
            spread[i] = np.inf if b[i] else v[i]
        own = coefficients[min(k, coefficients.shape[0] - 1)]
        flux[k], sky[k] = fit_one(clean[k].reshape(-1), spread, own, first, scales, offset[k], planes, weight, normal)


@nb.njit(cache=True, nogil=True, fastmath=_FAST)
def _sum_windows(windows, models, light, square):  # noqa: ANN001, ANN202
    for k in range(light.size):
        d, p = windows[k], models[k]
        total = norm = 0.0
        for i in range(p.size):
            good = d[i] == d[i]  # not NaN
            m = p[i] if good else 0.0
            total += m * (d[i] if good else np.float32(0.0))
            norm += m * m
        light[k], square[k] = total, norm


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


def _stack(coefficients: np.ndarray) -> np.ndarray:
    return np.require(coefficients, float, "CW").reshape(-1, *coefficients.shape[-2:])


def psf_at(spline: tuple[np.ndarray, int], half: int, dy: Any, dx: Any) -> np.ndarray:
    """Move the PSF; contract in `astrid_gpu.ops.psf_fit.psf_at`."""
    out, stack = np.empty((len(dy), 2 * half + 1, 2 * half + 1)), _stack(spline[0])
    dy, dx = (np.require(a, float, "CW") for a in (dy, dx))

    def part(first: int, last: int) -> None:
        these = slice(first, last)
        _render_all(stack[these] if len(stack) > 1 else stack, spline[1], dy[these], dx[these], out[these])

    shares(part, len(dy), least=_STARS)
    return out


def fit_stars(
    clean: Any, variance: Any, bad: Any, spline: tuple[np.ndarray, int], offset: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit stars; contract in `astrid_gpu.ops.psf_fit.fit_stars`."""
    clean, variance, places = (np.require(a, float, "CW") for a in (clean, variance, np.array(offset, float)))
    flux, sky, holes = np.empty(len(clean)), np.empty(len(clean)), np.require(bad, bool, "CW").view(np.uint8)
    splines = _stack(spline[0])
    scales = step_scale(splines[0], spline[1], clean.shape[1])
    _fit_all(clean, variance, holes, splines, spline[1], scales, places, flux, sky)
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
