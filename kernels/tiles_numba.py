"""ZOGY of two tiles at once, in cache: every transform and every pass over the pixels of a tile, by one thread.

Two tiles are the real and the imaginary part of one complex array: the kernels of ZOGY are real, so both are convolved
by one complex transform and nothing has to be taken apart. Arrays between the transforms lie [x][ky]: the transform
along y leaves them so by transposing blocks of 16 x 16 in registers, and the one along x then runs down the columns as
well. Sixteen values of ky are carried through the transform along x, the combination of spectra and the inverse
transforms without leaving the cache.

`planes` (6, 2, size) and `bufs` (6, 2, 16 max(ty, tx)) are one thread's work space; `ty`, `tx` the sides of a tile,
`halo` its margin (multiples of 16); `fy`, `wy`, `fx`, `wx` the plans of `fft_numba`. `tile` holds y and x of the first
pixel of each of the two tiles, margin included.
"""
# ruff: noqa: ANN001, ANN201, ANN202 - compiled: the types are the caller's

from __future__ import annotations

import numba as nb
import numpy as np
from astrid_gpu.kernels.fft_numba import fft_columns
from astrid_gpu.kernels.lanes_numba import LANES, OPTIONS, larger, load, root, smaller, splat, store, transpose16

__all__ = ["error_pair", "kernel_pair", "reference_pair", "science_pair"]

f4 = np.float32
FORWARD, INVERSE = np.float32(1), np.float32(-1)


@nb.njit(**OPTIONS)
def _gather(image, ends, sides, y0, x0, n, out):
    """Copy sixteen columns of n rows to `out`; beyond the frame lie its margins, and nothing beyond those."""
    ny, nx = image.shape
    r = sides.shape[1] // 2
    flat = image.reshape(image.size)
    zero = splat(f4(0))
    for y in range(n):
        yy = y0 + y
        if 0 <= yy < ny and x0 >= 0 and x0 + LANES <= nx:
            store(out, LANES * y, load(flat, yy * nx + x0))
            continue
        store(out, LANES * y, zero)
        if yy < -r or yy >= ny + r:
            continue
        for c in range(max(0, -r - x0), min(LANES, nx + r - x0)):
            xx = x0 + c
            if yy < 0:
                out[LANES * y + c] = ends[yy + r, xx + r]
            elif yy >= ny:
                out[LANES * y + c] = ends[yy - ny + r, xx + r]
            elif xx < 0:
                out[LANES * y + c] = sides[yy, xx + r]
            elif xx >= nx:
                out[LANES * y + c] = sides[yy, xx - nx + r]
            else:
                out[LANES * y + c] = image[yy, xx]


@nb.njit(**OPTIONS)
def _to_frequency_y(image, ends, sides, tile, plane, bufs, ty, tx, fy, wy):
    """Transform both tiles of an image along y into plane[x][ky]."""
    ny, nx = image.shape
    flat, pitch = image.reshape(image.size), ty + LANES
    for j in range(0, tx, LANES):
        ya, xa, yb, xb = tile[0], tile[1] + j, tile[2], tile[3] + j
        inside = ya >= 0 and yb >= 0 and ya + ty <= ny and yb + ty <= ny
        if inside and min(xa, xb) >= 0 and max(xa, xb) + LANES <= nx:
            a, b, step = flat[ya * nx + xa :], flat[yb * nx + xb :], nx
        else:
            _gather(image, ends, sides, ya, xa, ty, bufs[2, 0])
            _gather(image, ends, sides, yb, xb, ty, bufs[2, 1])
            a, b, step = bufs[2, 0], bufs[2, 1], LANES
        out = bufs[3]
        fft_columns(a, b, step, out[0], out[1], LANES, bufs[0], bufs[1], ty, fy, wy, FORWARD)
        for k in range(0, ty, LANES):
            transpose16(out[0], k * LANES, LANES, plane[0], j * pitch + k, pitch)
            transpose16(out[1], k * LANES, LANES, plane[1], j * pitch + k, pitch)


@nb.njit(**OPTIONS)
def _forward_x(plane, k, out, bufs, ty, tx, fx, wx):
    """Transform the sixteen columns from ky = k along x into `out`."""
    fft_columns(plane[0, k:], plane[1, k:], ty + LANES, out[0], out[1], LANES, bufs[0], bufs[1], tx, fx, wx, FORWARD)


@nb.njit(**OPTIONS)
def _inverse_x(block, plane, k, bufs, ty, tx, fx, wx):
    """Transform `block` back along x, to where its columns lie in the plane."""
    pitch = ty + LANES
    fft_columns(block[0], block[1], LANES, plane[0, k:], plane[1, k:], pitch, bufs[0], bufs[1], tx, fx, wx, INVERSE)


@nb.njit(**OPTIONS)
def _times(a, k, out, n):
    """Write the product a k."""
    for i in range(0, n, LANES):
        ar, ai, kr, ki = load(a[0], i), load(a[1], i), load(k[0], i), load(k[1], i)
        store(out[0], i, ar * kr - ai * ki)
        store(out[1], i, ar * ki + ai * kr)


@nb.njit(**OPTIONS)
def _two_times(a, k, b, q, sign, out, n):
    """Write a k + sign b q."""
    s = splat(sign)
    for i in range(0, n, LANES):
        ar, ai, kr, ki = load(a[0], i), load(a[1], i), load(k[0], i), load(k[1], i)
        br, bi, qr, qi = load(b[0], i), load(b[1], i), load(q[0], i), load(q[1], i)
        store(out[0], i, (ar * kr - ai * ki) + s * (br * qr - bi * qi))
        store(out[1], i, (ar * ki + ai * kr) + s * (br * qi + bi * qr))


@nb.njit(**OPTIONS)
def _part(z, ty, tx, spectra):
    """Take the spectra of two real arrays out of that of the first plus i times the second: z (ty / 16, 2, 16 tx)."""
    half = f4(0.5)
    for ky in range(ty):
        k, c, k_, c_ = ky // LANES, ky % LANES, (ty - ky) % ty // LANES, (ty - ky) % ty % LANES
        for kx in range(tx):
            i, j = kx * LANES + c, (tx - kx) % tx * LANES + c_
            ar, ai, br, bi = z[k, 0, i], z[k, 1, i], z[k_, 0, j], z[k_, 1, j]
            spectra[0, k, 0, i], spectra[0, k, 1, i] = half * (ar + br), half * (ai - bi)
            spectra[1, k, 0, i], spectra[1, k, 1, i] = half * (ai + bi), half * (br - ar)


@nb.njit(**OPTIONS)
def kernel_pair(one, two, spectra, work, plan):
    """Write the spectra (2, ty / 16, 2, 16 tx) of two real kernels (ty, tx) float32."""
    planes, bufs, _ = work
    ty, tx, _, fy, wy, fx, wx = plan
    pitch, flat = ty + LANES, (one.reshape(one.size), two.reshape(two.size))
    for j in range(0, tx, LANES):
        out = bufs[3]
        fft_columns(flat[0][j:], flat[1][j:], tx, out[0], out[1], LANES, bufs[0], bufs[1], ty, fy, wy, FORWARD)
        for k in range(0, ty, LANES):
            transpose16(out[0], k * LANES, LANES, planes[0, 0], j * pitch + k, pitch)
            transpose16(out[1], k * LANES, LANES, planes[0, 1], j * pitch + k, pitch)
    z = np.empty(spectra.shape[1:], f4)
    for k in range(ty // LANES):
        _forward_x(planes[0], k * LANES, z[k], bufs, ty, tx, fx, wx)
    _part(z, ty, tx, spectra)


@nb.njit(**OPTIONS)
def reference_pair(frame, variance, tile, weigh, spectra, work, plan):
    """Write the spectra of R, and of V_R where `weigh`, of two tiles: spectra (2, ty / 16, 2, 16 tx)."""
    planes, bufs, _ = work
    ty, tx, _, fy, wy, fx, wx = plan
    nothing = np.zeros((0, 0), f4)
    _to_frequency_y(frame[0], frame[1], frame[2], tile, planes[0], bufs, ty, tx, fy, wy)
    if weigh:
        _to_frequency_y(variance, nothing, nothing, tile, planes[1], bufs, ty, tx, fy, wy)
    for k in range(ty // LANES):
        _forward_x(planes[0], k * LANES, spectra[0, k], bufs, ty, tx, fx, wx)
        if weigh:
            _forward_x(planes[1], k * LANES, spectra[1, k], bufs, ty, tx, fx, wx)


@nb.njit(**OPTIONS)
def error_pair(science, reference, tile, kernels, work, plan):
    """Leave |k_n| ⊗ E_n + |k_r| ⊗ E_r of two tiles in planes[5], before the inverse transform along y.

    science, reference : the fill errors of the frames, (image, ends, sides) each. kernels : the two spectra.
    """
    planes, bufs, _ = work
    ty, tx, _, fy, wy, fx, wx = plan
    n = LANES * tx
    _to_frequency_y(science[0], science[1], science[2], tile, planes[5], bufs, ty, tx, fy, wy)
    _to_frequency_y(reference[0], reference[1], reference[2], tile, planes[1], bufs, ty, tx, fy, wy)
    for k in range(ty // LANES):
        _forward_x(planes[5], k * LANES, bufs[2], bufs, ty, tx, fx, wx)
        _forward_x(planes[1], k * LANES, bufs[3], bufs, ty, tx, fx, wx)
        _two_times(bufs[2], kernels[0, k], bufs[3], kernels[1, k], f4(1), bufs[4], n)
        _inverse_x(bufs[4], planes[5], k * LANES, bufs, ty, tx, fx, wx)


@nb.njit(**OPTIONS)
def _combine(planes, spectra, kernels, modes, bufs, ty, tx, fx, wx):
    """Turn N and V_N (planes 0, 1) into D, S_N, S_R and V(S) (planes 0 to 3), all before the transforms along y."""
    difference, score, apart, weigh = modes[0], modes[1], modes[2], modes[3]
    n = LANES * tx
    for k in range(ty // LANES):
        at, r, kernel = k * LANES, spectra[0, k], kernels[:, k]
        _forward_x(planes[0], at, bufs[2], bufs, ty, tx, fx, wx)
        if weigh:
            _forward_x(planes[1], at, bufs[3], bufs, ty, tx, fx, wx)
            _two_times(bufs[3], kernel[4], spectra[1, k], kernel[5], f4(1), bufs[4], n)
            _inverse_x(bufs[4], planes[3], at, bufs, ty, tx, fx, wx)
        if difference:
            _two_times(bufs[2], kernel[0], r, kernel[1], f4(-1), bufs[4], n)
            _inverse_x(bufs[4], planes[0], at, bufs, ty, tx, fx, wx)
        if score and apart:
            _times(bufs[2], kernel[2], bufs[4], n)
            _inverse_x(bufs[4], planes[1], at, bufs, ty, tx, fx, wx)
            _times(r, kernel[3], bufs[4], n)
            _inverse_x(bufs[4], planes[2], at, bufs, ty, tx, fx, wx)
        elif score:
            _two_times(bufs[2], kernel[2], r, kernel[3], f4(-1), bufs[4], n)
            _inverse_x(bufs[4], planes[1], at, bufs, ty, tx, fx, wx)


@nb.njit(**OPTIONS)
def _back_y(plane, j, yr, yi, step, bufs, ty, fy, wy):
    """Transform sixteen columns of x back along y, to (yr, yi)."""
    pitch = ty + LANES
    for k in range(0, ty, LANES):
        transpose16(plane[0], j * pitch + k, pitch, bufs[2, 0], k * LANES, LANES)
        transpose16(plane[1], j * pitch + k, pitch, bufs[2, 1], k * LANES, LANES)
    fft_columns(bufs[2, 0], bufs[2, 1], LANES, yr, yi, step, bufs[0], bufs[1], ty, fy, wy, INVERSE)


@nb.njit(**OPTIONS)
def _to_space(plane, space, bufs, ty, tx, halo, fy, wy):
    """Transform both tiles back along y: space[part][y][x], and one block of columns beyond the middle."""
    for j in range(halo - LANES, tx - halo + LANES, LANES):
        _back_y(plane, j, space[0, j:], space[1, j:], tx + LANES, bufs, ty, fy, wy)


@nb.njit(**OPTIONS)
def _write_difference(plane, tile, bad, out, bufs, ty, tx, halo, fy, wy):
    """Transform D back along y and write the middles of both tiles, NaN where `bad`."""
    ny, nx = out.shape
    flat = out.reshape(out.size)
    for j in range(halo, tx - halo, LANES):
        block = bufs[3]
        _back_y(plane, j, block[0], block[1], LANES, bufs, ty, fy, wy)
        for part in range(2):
            y0, x0, values = tile[2 * part] + halo, tile[2 * part + 1] + j, block[part]
            width = min(LANES, nx - x0)
            for y in range(min(ty - 2 * halo, ny - y0)):
                i, k = (y0 + y) * nx + x0, (y + halo) * LANES
                if width == LANES and bad.size == 0:
                    store(flat, i, load(values, k))
                    continue
                for c in range(width):
                    dead = bad.size > 0 and bad[y0 + y, x0 + c]
                    flat[i + c] = np.nan if dead else values[k + c]


@nb.njit(**OPTIONS)
def _copy_row(values, width, bad, out, place, y, x0):
    """Write a row of a map, NaN where `bad`; a map that was not asked for has no pixels."""
    if out.size == 0:
        return
    whole = 0 if bad.size else width - width % LANES
    for x in range(0, whole, LANES):
        store(out, place + x, load(values, x))
    for x in range(whole, width):
        dead = bad.size > 0 and bad[y, x0 + x] != 0
        out[place + x] = np.nan if dead else values[x]


@nb.njit(**OPTIONS)
def _variance_row(v, fill, weigh, filled, flat_v, floor, i, width, out):
    """Write V(S) of what was measured, fill errors included, of `width` pixels from i."""
    low = splat(floor)
    for x in range(0, width, LANES):
        photon = load(v, i + x) if weigh else splat(flat_v)
        if filled:
            bound = larger(load(fill, i + x), splat(f4(0)))
            photon = photon + bound * bound
        store(out, x, larger(photon, low))


@nb.njit(**OPTIONS)
def _spread(a, b, i, pitch, errors):
    """Return what registration and flux ratio add to V(S) at sixteen pixels of S_N and S_R (eqs. 30, 32)."""
    p, q = load(a, i), load(b, i)
    up, right = load(a, i + pitch) - load(a, i - pitch), load(a, i + 1) - load(a, i - 1)
    above, beside = load(b, i + pitch) - load(b, i - pitch), load(b, i + 1) - load(b, i - 1)
    zero = splat(f4(0))
    static = larger(smaller(p, q), zero) + larger(smaller(zero - p, zero - q), zero)
    moved = splat(errors[0]) * (up * up + above * above) + splat(errors[1]) * (right * right + beside * beside)
    return moved + splat(errors[2]) * (static * static)


@nb.njit(**OPTIONS)
def _total_row(a, b, i, pitch, width, errors, photon, out):
    """Write V(S) with what registration and flux ratio add to it; a and b are S_N and S_R."""
    for x in range(0, width, LANES):
        store(out, x, load(photon, x) + _spread(a, b, i + x, pitch, errors))


@nb.njit(**OPTIONS)
def _score_rows(a, b, i, width, apart, total, photon, scales, rows):
    """Write S, S_corr, flux and flux error (eqs. 25, 41, 43) into the four `rows`."""
    to_score, to_flux = splat(scales[0]), splat(scales[1])
    score, corr, flux, error = rows[0], rows[1], rows[2], rows[3]
    for x in range(0, width, LANES):
        s = load(a, i + x) - load(b, i + x) if apart else load(a, i + x)
        store(corr, x, s / root(load(total, x)))
        store(error, x, root(load(photon, x)) * to_flux)
        store(score, x, s * to_score)
        store(flux, x, s * to_flux)


@nb.njit(**OPTIONS)
def _finish(scores, v, fill, tile, shape, modes, flat_v, scales, errors, bad, maps, rows, tx, ty, halo):
    """Divide, scale and write the middle of one tile; `scores` are S_N and S_R, or S and nothing."""
    apart, pitch, top, left = modes[2], tx + LANES, tile[0] + halo, tile[1] + halo
    width = min(tx - 2 * halo, shape[1] - left)
    photon = rows[4]
    total = rows[5] if apart else photon
    for y in range(min(ty - 2 * halo, shape[0] - top)):
        i = (y + halo) * pitch + halo
        _variance_row(v, fill, modes[3], modes[4], flat_v, scales[2], i, width, photon)
        if apart:
            _total_row(scores[0], scores[1], i, pitch, width, errors, photon, total)
        _score_rows(scores[0], scores[1], i, width, apart, total, photon, scales, rows)
        for k in range(4):
            _copy_row(rows[k], width, bad, maps[k], (top + y) * shape[1] + left, top + y, left)


@nb.njit(**OPTIONS)
def science_pair(
    frame, variance, tile, spectra, kernels, modes, flat_v, scales, errors, bad, difference, maps, work, plan
):
    """Subtract two tiles and write the maps asked for.

    frame : (image, ends, sides). variance : (ny, nx). difference, maps : what to write, of no size where not wanted;
    maps are score, score_corr, flux and flux_error, flat. work : (planes, bufs, rows).
    plan : (ty, tx, halo, fy, wy, fx, wx).
    modes : bool (5,): D wanted; S wanted; S_N and S_R kept apart; variances transformed (else V(S) is `flat_v`); a fill
    error lies in planes[5]. scales, errors: as `ops.zogy.zogy_finish`, errors squared and the first two quartered.
    """
    planes, bufs, rows = work
    ty, tx, halo, fy, wy, fx, wx = plan
    image = frame[0]
    nothing = np.zeros((0, 0), f4)
    _to_frequency_y(image, frame[1], frame[2], tile, planes[0], bufs, ty, tx, fy, wy)
    if modes[3]:
        _to_frequency_y(variance, nothing, nothing, tile, planes[1], bufs, ty, tx, fy, wy)
    _combine(planes, spectra, kernels, modes, bufs, ty, tx, fx, wx)
    if modes[0]:
        _write_difference(planes[0], tile, bad, difference, bufs, ty, tx, halo, fy, wy)
    if not modes[1]:
        return
    _to_space(planes[1], planes[4], bufs, ty, tx, halo, fy, wy)
    if modes[2]:
        _to_space(planes[2], planes[0], bufs, ty, tx, halo, fy, wy)
    if modes[3]:
        _to_space(planes[3], planes[1], bufs, ty, tx, halo, fy, wy)
    if modes[4]:
        _to_space(planes[5], planes[2], bufs, ty, tx, halo, fy, wy)
    for part in range(2):
        own, v, fill = tile[2 * part : 2 * part + 2], planes[1, part], planes[2, part]
        scores = (planes[4, part], planes[0, part])
        _finish(scores, v, fill, own, image.shape, modes, flat_v, scales, errors, bad, maps, rows, tx, ty, halo)
