"""Numba twin of ops/peaks.py: the pass over the pixels."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

__all__ = ["find_peaks"]


@nb.njit(cache=True, inline="always")
def _lower(images, mask, i, y, x, sign, centre, before):  # noqa: ANN001, ANN202 - compiled
    """Return 0 if the neighbour forbids a peak, 1 if it is lower, 2 if it is equal."""
    if y < 0 or y >= images.shape[1] or x < 0 or x >= images.shape[2]:
        return 1
    other = sign * images[i, y, x]
    if not np.isfinite(other) or (mask.size and mask[i % mask.shape[0], y, x] != 0) or other < centre:
        return 1
    if other > centre or before:
        return 0
    return 2


@nb.njit(cache=True)
def _test(images, mask, i, y, x):  # noqa: ANN001, ANN202
    """Return 0 if the pixel, known to be beyond the threshold, is no maximum, 1 if it is, 2 if it is a tied one."""
    value = images[i, y, x]
    if not np.isfinite(value) or (mask.size and mask[i % mask.shape[0], y, x] != 0):
        return 0
    sign = images.dtype.type(1) if value > 0 else images.dtype.type(-1)
    return _neighbourhood(images, mask, i, y, x, sign, sign * value)


@nb.njit(cache=True)
def _neighbourhood(images, mask, i, y, x, sign, centre):  # noqa: ANN001, ANN202
    result = 1
    for dy in range(-1, 2):
        for dx in range(-1, 2):
            if dy == 0 and dx == 0:
                continue
            verdict = _lower(images, mask, i, y + dy, x + dx, sign, centre, dy < 0 or (dy == 0 and dx < 0))
            if verdict == 0:
                return 0
            result = max(result, verdict)
    return result


@nb.njit(cache=True)
def _scan_row(images, mask, level, both, i, y, out_x, out_value, out_tied):  # noqa: ANN001, ANN202
    """Find the maxima of one row; write them if there is room (the first pass only counts)."""
    row = images[i, y]
    nx = row.size
    found = 0
    one = images.dtype.type(1)
    for x0 in range(0, nx, 64):
        block = row[x0 : min(x0 + 64, nx)]
        beyond = 0
        # A sum of comparisons becomes vector code, NaN or not; most blocks of a sky hold nothing.
        if both:
            for k in range(block.size):
                beyond += (block[k] > level) | (block[k] < -level)
        else:
            for k in range(block.size):
                beyond += block[k] > level
        if beyond == 0:
            continue
        for k in range(block.size):
            value = block[k]
            if not (value > level or (both and value < -level)):
                continue
            if both:
                kind = _test(images, mask, i, y, x0 + k)
            elif not np.isfinite(value) or (mask.size and mask[i % mask.shape[0], y, x0 + k] != 0):
                kind = 0
            else:
                kind = _neighbourhood(images, mask, i, y, x0 + k, one, value)
            if kind == 0:
                continue
            if out_x.size:
                out_x[found], out_value[found], out_tied[found] = x0 + k, value, kind == 2
            found += 1
    return found


@nb.njit(parallel=True, cache=True)
def _count(images, mask, levels, both, counts):  # noqa: ANN001, ANN202
    n, ny, _ = images.shape
    for r in nb.prange(n * ny):
        nothing = np.empty(0, np.int64)
        counts[r] = _scan_row(
            images, mask, levels[r // ny], both, r // ny, r % ny, nothing, np.empty(0), np.empty(0, np.bool_)
        )


@nb.njit(parallel=True, cache=True)
def _collect(images, mask, levels, both, rows, first, x, value, tied):  # noqa: ANN001, ANN202
    ny = images.shape[1]
    for k in nb.prange(rows.size):
        r, a, b = rows[k], first[k], first[k + 1]
        _scan_row(images, mask, levels[r // ny], both, r // ny, r % ny, x[a:b], value[a:b], tied[a:b])


def find_peaks(images: Any, threshold: Any, mask: Any, both: bool) -> tuple[np.ndarray, ...]:
    """Find local maxima; contract in `astrid_gpu.ops.peaks.find_peaks`. They come in raster order.

    One pass counts them by row, a second visits the few rows that have some.
    """
    _, ny, _ = images.shape
    levels = np.asarray(threshold).astype(images.dtype)
    plane = np.empty((0, 0, 0), np.uint8) if mask is None else np.ascontiguousarray(mask).view(np.uint8)
    counts = np.zeros(images.shape[0] * ny, np.int64)
    _count(images, plane, levels, both, counts)
    rows = np.flatnonzero(counts)
    first = np.concatenate([[0], np.cumsum(counts[rows])]).astype(np.int64)
    x, value, tied = np.empty(first[-1], np.int64), np.empty(first[-1]), np.empty(first[-1], np.bool_)
    _collect(images, plane, levels, both, rows, first, x, value, tied)
    row = np.repeat(rows, counts[rows])
    return row // ny, row % ny, x, value, tied
