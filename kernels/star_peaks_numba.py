"""Numba twin of ops/star_peaks.py: both filters of a band of rows at once, in float32, while the band is in cache."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from astrid_gpu.kernels._pool import share

__all__ = ["star_peaks"]

_LEAST_COVER = 0.05  # as in the reference
_BAND = 32  # rows of a band: with its border it stays in the second-level cache
_FAST = {"contract", "nsz", "reassoc"}


@nb.njit(cache=True, nogil=True, fastmath=_FAST)
def _load(data, bad, weight, scale, first, signal, cover):  # noqa: ANN001, ANN202 - compiled
    """Fill rows of w I and of w, from row `first` of the frame on; 0 at bad pixels and outside."""
    ny, nx = data.shape
    for r in range(signal.shape[0]):
        y = first + r
        s, w = signal[r], cover[r]
        if y < 0 or y >= ny:
            s[:] = 0
            w[:] = 0
            continue
        d, b = data[y], bad[y]
        if weight.size:
            given = weight[y]
            for x in range(nx):
                w[x] = np.float32(0) if b[x] else given[x]
                s[x] = np.float32(0) if b[x] else d[x] * scale * given[x]
        else:
            for x in range(nx):
                w[x] = np.float32(0) if b[x] else np.float32(1)
                s[x] = np.float32(0) if b[x] else d[x] * scale


@nb.njit(cache=True, nogil=True, fastmath=_FAST)
def _down(rows, c, taps, line):  # noqa: ANN001, ANN202
    """Filter column by column at row `c` into the middle of `line`, whose borders stay 0."""
    nx = rows.shape[1]
    pad = (line.size - nx) // 2
    o, p = line[pad : pad + nx], rows[c]
    t = taps[0]
    for x in range(nx):
        o[x] = t * p[x]
    for k in range(1, taps.size):
        t, a, b = taps[k], rows[c - k], rows[c + k]
        for x in range(nx):
            o[x] += t * (a[x] + b[x])


@nb.njit(cache=True, nogil=True, fastmath=_FAST)
def _across(line, taps, out):  # noqa: ANN001, ANN202
    nx = out.size
    pad = (line.size - nx) // 2
    p = line[pad : pad + nx]
    t = taps[0]
    for x in range(nx):
        out[x] = t * p[x]
    for k in range(1, taps.size):
        t, a, b = taps[k], line[pad - k : pad - k + nx], line[pad + k : pad + k + nx]
        for x in range(nx):
            out[x] += t * (a[x] + b[x])


@nb.njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")  # else a test for 0 at every division
def _divide(signal, norm, least, low, high, out):  # noqa: ANN001, ANN202
    """Write the significance of a row, 0 where the norm is not above `least`; widen each column's range of norms."""
    for x in range(norm.size):
        n = norm[x]
        low[x] = n if n < low[x] else low[x]
        high[x] = n if n > high[x] else high[x]
        safe = n if n > least else np.float32(1)
        s = signal[x] / np.sqrt(safe)
        out[x] = s if n > least else np.float32(0)


@nb.njit(cache=True, nogil=True)
def _filter_band(data, bad, weight, scale, taps, least, first, last, snr, fine, ranges):  # noqa: ANN001, ANN202
    """Filter rows first to last; `taps`: wide signal, wide norm, narrow signal, narrow norm. `ranges` of the norms."""
    nx = data.shape[1]
    pad = max(taps[0].size, taps[1].size, taps[2].size, taps[3].size) - 1
    signal = np.empty((last - first + 2 * pad, nx), np.float32)
    cover = np.empty_like(signal)
    _load(data, bad, weight, scale, first - pad, signal, cover)
    line, s, n = np.zeros(nx + 2 * pad, np.float32), np.empty(nx, np.float32), np.empty(nx, np.float32)
    limits = np.empty((2, 2, nx), np.float32)
    limits[:, 0], limits[:, 1] = np.inf, 0.0
    for y in range(first, last):
        c = y - first + pad
        _down(signal, c, taps[0], line)
        _across(line, taps[0], s)
        _down(cover, c, taps[1], line)
        _across(line, taps[1], n)
        _divide(s, n, least[0], limits[0, 0], limits[0, 1], snr[y])
        _down(signal, c, taps[2], line)
        _across(line, taps[2], s)
        _down(cover, c, taps[3], line)
        _across(line, taps[3], n)
        _divide(s, n, least[1], limits[1, 0], limits[1, 1], fine[y])
    for k in range(2):
        ranges[k, 0], ranges[k, 1] = limits[k, 0].min(), limits[k, 1].max()


@nb.njit(cache=True, nogil=True)
def _highest(plane, y, x, reach):  # noqa: ANN001, ANN202
    value = plane[y, x]
    for j in range(max(0, y - reach), min(plane.shape[0], y + reach + 1)):
        for i in range(max(0, x - reach), min(plane.shape[1], x + reach + 1)):
            if plane[j, i] > value:
                return False
    return True


@nb.njit(cache=True, nogil=True)
def _scan(snr, fine, reach, threshold, first, last, out):  # noqa: ANN001, ANN202
    """List peaks of rows first to last as y, x, kind (1 broad, 2 close, 3 both); return their number, listed or not."""
    nx = snr.shape[1]
    found = 0
    for y in range(first, last):
        row = snr[y]
        for x0 in range(0, nx, 64):
            block = row[x0 : min(x0 + 64, nx)]
            beyond = 0
            for k in range(block.size):  # becomes vector code; most blocks of a sky hold nothing
                beyond += block[k] > threshold
            if beyond == 0:
                continue
            for k in range(block.size):
                value = block[k]
                if not value > threshold:
                    continue
                x = x0 + k
                sharp = fine[y, x]
                kind = 1 if _highest(snr, y, x, reach) else 0
                stands_out = sharp - 0.5 * value > max(threshold, 5.0) + 0.02 * value and sharp > threshold
                if stands_out and _highest(fine, y, x, reach):
                    kind += 2
                if kind:
                    if found < out.shape[0]:
                        out[found, 0], out[found, 1], out[found, 2] = y, x, kind
                    found += 1
    return found


@nb.njit(cache=True, nogil=True)
def _norms(bad, weight, taps, y, x, out):  # noqa: ANN001, ANN202
    """Sum g² w at the pixels given."""
    ny, nx = bad.shape
    reach = taps.size - 1
    for k in range(y.size):
        total = 0.0
        for j in range(max(0, y[k] - reach), min(ny, y[k] + reach + 1)):
            row = 0.0
            for i in range(max(0, x[k] - reach), min(nx, x[k] + reach + 1)):
                if not bad[j, i]:
                    w = np.float64(weight[j, i]) if weight.size else 1.0
                    row += taps[abs(i - x[k])] * w
            total += taps[abs(j - y[k])] * row
        out[k] = total


def _taps(sigma: float) -> np.ndarray:
    """Return the right half of a Gaussian cut off at 4 sigma, of sum 1 with its mirror image."""
    t = np.exp(-0.5 * (np.arange(int(4.0 * sigma + 0.5) + 1) / sigma) ** 2)
    return t / (2 * t.sum() - t[0])


def star_peaks(
    data: Any, bad: Any, rms: Any, widths: tuple[float, float], reach: tuple[int, int], threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Find sources; contract in `astrid_gpu.ops.star_peaks.star_peaks`. Significances are good to 1e-6 of themselves.

    The frame is passed over once for both filters and once for their peaks. Where the weights' maximum proves so high
    that some pixels are covered too little, their bands are filtered again with that known.
    """
    pixels = np.require(data, np.float32, "CW")
    holes = np.require(bad, bool, "CW").view(np.uint8)
    unit, weight = _weights(rms, holes)
    taps, exact = [], []
    for sigma in widths:
        norm = _taps(sigma / np.sqrt(2))
        exact.append((norm, 4 * np.pi * sigma**2))
        root = np.sqrt(exact[-1][1])
        taps += [_taps(sigma), norm / root]  # g² is separable: its constant is split between both axes
    snr, fine = _filtered(pixels, holes, weight, 1.0 / unit, tuple(t.astype(np.float32) for t in taps))
    found = _peaks(snr, fine, reach[0], threshold)
    y, x = _first_the_close(found, reach[1], snr.shape)
    norms = np.empty(y.size)
    _norms(holes, weight, exact[0][0], y, x, norms)
    height = snr[y, x].astype(np.float64)
    return y, x, height, unit * height / np.sqrt(norms / exact[0][1])


def _weights(rms: Any, holes: np.ndarray) -> tuple[float, np.ndarray]:
    """Return a unit for the pixels and the weights in it; none if they are all 1. No float32 overflows then."""
    noise = np.asarray(rms, dtype=float)
    if noise.ndim == 0:
        return float(noise), np.empty((0, 0), np.float32)
    good = noise[holes == 0]
    unit = float(np.median(good)) if good.size else 1.0
    return unit, np.ascontiguousarray(np.where(holes, 0.0, (unit / np.where(holes, unit, noise)) ** 2), np.float32)


def _filtered(
    pixels: np.ndarray, holes: np.ndarray, weight: np.ndarray, scale: float, taps: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the significance under both filters."""
    snr, fine = np.empty_like(pixels), np.empty_like(pixels)
    first = np.arange(0, pixels.shape[0], _BAND)
    last = np.minimum(first + _BAND, pixels.shape[0])
    ranges, least = np.zeros((len(first), 2, 2)), np.zeros(2, np.float32)

    def band(k: int, least: np.ndarray) -> None:
        _filter_band(pixels, holes, weight, np.float32(scale), taps, least, first[k], last[k], snr, fine, ranges[k])

    share(lambda k: band(k, least), len(first))
    enough = (_LEAST_COVER * ranges[:, :, 1].max(axis=0)).astype(np.float32)
    again = np.flatnonzero((ranges[:, :, 0] <= enough).any(axis=1))
    share(lambda k: band(again[k], enough), len(again))
    return snr, fine


def _peaks(snr: np.ndarray, fine: np.ndarray, reach: int, threshold: float) -> np.ndarray:
    """Return y, x, kind of the peaks in raster order, shape (m, 3)."""
    edges = [*range(0, snr.shape[0], 4 * _BAND), snr.shape[0]]
    found = [np.empty((0, 3), np.int64)] * (len(edges) - 1)

    def part(k: int) -> None:
        room = np.empty((4 * _BAND * snr.shape[1] // 100, 3), np.int64)
        n = _scan(snr, fine, reach, threshold, edges[k], edges[k + 1], room)
        if n > len(room):
            room = np.empty((n, 3), np.int64)
            _scan(snr, fine, reach, threshold, edges[k], edges[k + 1], room)
        found[k] = room[:n]

    share(part, len(found))
    return np.concatenate(found)


def _first_the_close(found: np.ndarray, nearby: int, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return y, x of the peaks of the narrow filter, and of those of the wide one that have none of these `nearby`."""
    y, x, kind = found.T
    close = kind >= 2
    if not close.any():
        return y.copy(), x.copy()
    marks = np.zeros((shape[0] + 2 * nearby, shape[1] + 2 * nearby), bool)
    marks[y[close] + nearby, x[close] + nearby] = True
    near = np.zeros(len(y), bool)
    for j in range(2 * nearby + 1):
        for i in range(2 * nearby + 1):
            near |= marks[y + j, x + i]
    keep = close | ~near
    return y[keep], x[keep]
