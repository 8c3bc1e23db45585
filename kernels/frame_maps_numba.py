"""The last pass of ZOGY over a whole frame: half spectra along y become images, and these the maps.

Planes, plans and work space as in `frame_passes_numba`. Images come back two at a time as the parts of a complex one,
sixteen columns at a time, into a window of a few such blocks: rows of the maps are written in pieces long enough for
the memory. The noise of the registration needs the neighbours of a pixel, so the window has a block more on both sides.
"""
# ruff: noqa: ANN001, ANN202 - compiled: the types are the caller's

from __future__ import annotations

import numba as nb
import numpy as np
from astrid_gpu.kernels.fft_numba import fft_columns
from astrid_gpu.kernels.lanes_numba import LANES, OPTIONS, larger, load, root, smaller, splat, store, transpose16

__all__ = ["WINDOW", "write_maps"]

f4 = np.float32
INVERSE = np.float32(-1)
WINDOW = 8
"""Blocks of columns written at a time."""

PITCH = (WINDOW + 2) * LANES


@nb.njit(**OPTIONS)
def _put_together(one, two, x0, few, z, py, px):
    """Write the spectrum along y of a + ib from the half spectra of a and b; `two` may be of no size."""
    flat = one.reshape(one.size), two.reshape(two.size)
    zr, zi = z[0], z[1]
    for block in range(one.shape[0]):
        at = (block * px + x0) * 2 * LANES
        for part in range(2):
            transpose16(flat[0], at + part * LANES, 2 * LANES, few[part], 0, LANES)
            if two.size:
                transpose16(flat[1], at + part * LANES, 2 * LANES, few[2 + part], 0, LANES)
        for c in range(min(LANES, py // 2 + 1 - block * LANES)):
            k = block * LANES + c
            i, j, o = k * LANES, (py - k) % py * LANES, c * LANES
            ar, ai, br, bi = load(few[0], o), load(few[1], o), splat(f4(0)), splat(f4(0))
            if two.size:
                br, bi = load(few[2], o), load(few[3], o)
            store(zr, j, ar + bi)
            store(zi, j, br - ai)
            store(zr, i, ar - bi)
            store(zi, i, br + ai)


@nb.njit(**OPTIONS)
def _back_to_space(one, two, x0, a, b, bufs, plan):
    """Transform sixteen columns of two planes back along y, into a and b from row 1 on; row 0 is what lies above."""
    py, px, fy, wy, _, _ = plan
    z = bufs[2]
    _put_together(one, two, x0, bufs[3].reshape(bufs[3].size)[: 4 * LANES**2].reshape(4, LANES**2), z, py, px)
    fft_columns(z[0], z[1], LANES, a[PITCH:], b[PITCH:], PITCH, bufs[0], bufs[1], py, fy, wy, INVERSE)
    store(a, 0, load(a, PITCH * py))
    store(b, 0, load(b, PITCH * py))


@nb.njit(**OPTIONS)
def _keep(window, count, rows):
    """Move the last block that was written, and the one beyond, to the window's beginning: S_N and S_R."""
    for k in range(2):
        flat = window[k]
        for i in range(0, rows * PITCH, PITCH):
            store(flat, i, load(flat, i + count * LANES))
            store(flat, i + LANES, load(flat, i + (count + 1) * LANES))


@nb.njit(**OPTIONS)
def _variance_row(v, e, filled, level, floor, i, width, out):
    """Write V(S) of what was measured, fill errors included, of `width` pixels from i."""
    factor, low, zero = splat(level), splat(floor), splat(f4(0))
    for x in range(0, width, LANES):
        photon = factor * load(v, i + x)
        if filled:
            bound = larger(load(e, i + x), zero)
            photon = photon + bound * bound
        store(out, x, larger(photon, low))


@nb.njit(**OPTIONS)
def _total_row(a, b, i, width, errors, photon, out):
    """Write V(S) with what registration and flux ratio add to it (eqs. 30, 32); a and b are S_N and S_R."""
    ey, ex, ef, zero = splat(errors[0]), splat(errors[1]), splat(errors[2]), splat(f4(0))
    for x in range(0, width, LANES):
        k = i + x
        p, q = load(a, k), load(b, k)
        up, right = load(a, k + PITCH) - load(a, k - PITCH), load(a, k + 1) - load(a, k - 1)
        above, beside = load(b, k + PITCH) - load(b, k - PITCH), load(b, k + 1) - load(b, k - 1)
        static = larger(smaller(p, q), zero) + larger(smaller(zero - p, zero - q), zero)
        moved = ey * (up * up + above * above) + ex * (right * right + beside * beside)
        store(out, x, load(photon, x) + moved + ef * (static * static))


@nb.njit(**OPTIONS)
def _scaled_row(values, i, factor, width, out):
    """Write values times a factor."""
    scale = splat(factor)
    for x in range(0, width, LANES):
        store(out, x, scale * load(values, i + x))


@nb.njit(**OPTIONS)
def _over_root_row(values, variance, width, out):
    """Write values over the root of their variance."""
    for x in range(0, width, LANES):
        store(out, x, load(values, x) / root(load(variance, x)))


@nb.njit(**OPTIONS)
def _root_row(variance, factor, width, out):
    """Write the root of a variance times a factor."""
    scale = splat(factor)
    for x in range(0, width, LANES):
        store(out, x, scale * root(load(variance, x)))


@nb.njit(**OPTIONS)
def _copy_row(values, width, out, place):
    """Write a row of a map."""
    whole = width - width % LANES
    for x in range(0, whole, LANES):
        store(out, place + x, load(values, x))
    for x in range(whole, width):
        out[place + x] = values[x]


@nb.njit(**OPTIONS)
def _blot(bad, x0, width, maps):
    """Write NaN at the bad pixels of some columns."""
    for y in range(bad.shape[0]):
        for x in range(x0, x0 + width):
            if bad[y, x] != 0:
                for out in maps:
                    if out.size:
                        out[y * bad.shape[1] + x] = np.nan


@nb.njit(**OPTIONS)
def _finish(window, at, modes, scales, errors, x0, width, shape, maps, rows):
    """Divide, scale and write `width` columns from x0 on (eqs. 25, 41, 43); `rows` (4, PITCH) is work space."""
    difference, score, apart, weigh, filled = modes
    s_n, s_r, d, v, e = window[0], window[1], window[at[2]], window[at[3]], window[at[4]]
    d_map, score_map, corr_map, flux_map, error_map = maps
    photon, total, s, out = rows[0], rows[1] if apart else rows[0], rows[2], rows[3]
    for y in range(shape[0]):
        i, place = (y + 1) * PITCH + LANES, y * shape[1] + x0
        if difference:
            _scaled_row(d, i, scales[4], width, out)
            _copy_row(out, width, d_map, place)
        if score:
            _scaled_row(s_n, i, f4(1), width, s)
            if apart:
                for x in range(0, width, LANES):
                    store(s, x, load(s, x) - load(s_r, i + x))
        if score_map.size:
            _scaled_row(s, 0, scales[0], width, out)
            _copy_row(out, width, score_map, place)
        if not weigh:
            continue
        _variance_row(v, e, filled, scales[3], scales[2], i, width, photon)
        if flux_map.size:
            _scaled_row(s, 0, scales[1], width, out)
            _copy_row(out, width, flux_map, place)
            _root_row(photon, scales[1], width, out)
            _copy_row(out, width, error_map, place)
        if corr_map.size:
            if apart:
                _total_row(s_n, s_r, i, width, errors, photon, total)
            _over_root_row(s, total, width, out)
            _copy_row(out, width, corr_map, place)


@nb.njit(**OPTIONS)
def write_maps(planes, pairs, at, modes, scales, errors, first, last, shape, bad, maps, window, bufs, plan) -> None:
    """Transform planes back along y and write blocks of columns `first` to `last` of the maps.

    Parameters
    ----------
    planes : float32 (m, blocks, px, 2, 16)
    pairs : int (6,)
        Which planes to transform, two at a time; -1: none.
    at : int (5,)
        Where in `pairs` S_N (or S), S_R, D, V(S) and the fill error are.
    modes : bool (5,)
        D wanted; S wanted; S_N and S_R apart (then the first two of `pairs`); V(S) there; fill error there.
    scales : float32 (5,)
        From S to score and to flux; floor of V(S); factors of V(S) and D.
    errors : float32 (3,)
        As in `tiles_numba.science_pair`.
    maps : five float32 (ny, nx)
        D, score, score_corr, flux, flux_error; of no size where not wanted. NaN where `bad`.
    window : float32 (6, at least (py + 1) * PITCH)
        Work space.
    """
    py, px = plan[0], plan[1]
    reach, rows = (1 if modes[2] else 0), np.empty((4, PITCH), f4)
    flat = (
        maps[0].reshape(maps[0].size), maps[1].reshape(maps[1].size), maps[2].reshape(maps[2].size),
        maps[3].reshape(maps[3].size), maps[4].reshape(maps[4].size),
    )  # fmt: skip
    for start in range(first, last, WINDOW):
        count = min(WINDOW, last - start)
        for step in range(-reach, count + reach):
            x0, to = (start + step) * LANES % px, (step + 1) * LANES
            for pair in range(3 if 0 <= step < count else 1):
                one, two = pairs[2 * pair], pairs[2 * pair + 1]
                if one < 0 or (pair == 0 and reach and start > first and step < 1):
                    continue
                second, a, b = planes[max(two, 0)], window[2 * pair, to:], window[2 * pair + 1, to:]
                if two < 0:
                    second = second[:0]
                _back_to_space(planes[one], second, x0, a, b, bufs, plan)
        x0, width = start * LANES, min(count * LANES, shape[1] - start * LANES)
        _finish(window, at, modes, scales, errors, x0, width, shape, flat, rows)
        if bad.size:
            _blot(bad, x0, width, flat)
        if reach:
            _keep(window, count, py + 1)
