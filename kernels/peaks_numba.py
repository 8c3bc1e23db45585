"""Numba twin of ops/peaks.py: the pass over the pixels, in bands of rows."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from astrid_gpu.kernels._pool import share

__all__ = ["find_peaks"]

_BAND = 128  # rows of a band
_BLOCK = 128  # pixels that are looked at together; most blocks of a sky hold nothing
_PART = 16  # and of those that do, most parts
_ROOM = 1024  # maxima of a band, unless there are more


@nb.njit(cache=True, nogil=True)
def _judge(image, mask, y, x, sign, centre):  # noqa: ANN001, ANN202 - compiled, types are the caller's
    """Return 0 if a good pixel is no maximum, 1 if it is, 2 if it is one and has an equal neighbour."""
    ny, nx = image.shape
    result = 1
    for j in range(max(y - 1, 0), min(y + 2, ny)):
        for i in range(max(x - 1, 0), min(x + 2, nx)):
            other = sign * image[j, i]
            if not other >= centre or not np.isfinite(other) or (j == y and i == x):
                continue
            if mask.size and mask[j, i] != 0:
                continue
            if other > centre or j < y or (j == y and i < x):
                return 0
            result = 2
    return result


@nb.njit(cache=True, nogil=True)
def _highest(bits):  # noqa: ANN001, ANN202
    top = bits[0]
    for k in range(bits.size):
        top = max(top, bits[k])
    return top


@nb.njit(cache=True, nogil=True)
def _furthest(bits, magnitude):  # noqa: ANN001, ANN202
    top = bits[0] & magnitude
    for k in range(bits.size):
        top = max(top, bits[k] & magnitude)
    return top


@nb.njit(cache=True, nogil=True)
def _scan(image, bits, mask, level, bound, magnitude, both, y0, y1, where, value, tied):  # noqa: ANN001, ANN202
    """Find the maxima of rows y0 to y1; return how many, and write those there is room for.

    `bits` are the pixels as signed integers, which have the order of the numbers where those are positive, and NaN at
    the top: blocks that do not exceed `bound`, the bits of a level >= 0, are passed over.
    """
    found = 0
    one = image.dtype.type(1)
    for y in range(y0, y1):
        row = image[y]
        for b0 in range(0, row.size, _BLOCK):
            b1 = min(b0 + _BLOCK, row.size)
            block = bits[y, b0:b1]
            if (_furthest(block, magnitude) if both else _highest(block)) <= bound:
                continue
            for x0 in range(b0, b1, _PART):
                part = bits[y, x0 : min(x0 + _PART, b1)]
                if (_furthest(part, magnitude) if both else _highest(part)) <= bound:
                    continue
                for x in range(x0, x0 + part.size):
                    v = row[x]
                    if not (v > level or (both and v < -level)) or not np.isfinite(v):
                        continue
                    if mask.size and mask[y, x] != 0:
                        continue
                    sign = one if v > level else -one
                    kind = _judge(image, mask, y, x, sign, sign * v)
                    if kind == 0:
                        continue
                    if found < value.size:
                        where[0, found], where[1, found], value[found], tied[found] = y, x, v, kind == 2
                    found += 1
    return found


def find_peaks(images: Any, threshold: Any, mask: Any, both: bool) -> tuple[np.ndarray, ...]:
    """Find local maxima; contract in `astrid_gpu.ops.peaks.find_peaks`. They come in raster order."""
    n, ny, _ = images.shape
    levels = np.asarray(threshold).astype(images.dtype)
    planes = np.empty((1, 0, 0), np.uint8) if mask is None else np.ascontiguousarray(mask).view(np.uint8)
    integer = np.dtype(f"i{images.dtype.itemsize}").type
    bits, magnitude = images.view(integer), np.iinfo(integer).max
    bounds = np.where(levels >= 0, np.abs(levels).view(integer), np.iinfo(integer).min)
    bands = -(-ny // _BAND)
    found: list[Any] = [None] * (n * bands)

    def band(task: int) -> None:
        k, y = task // bands, _BAND * (task % bands)
        given = images[k], bits[k], planes[k % len(planes)], levels[k], bounds[k], integer(magnitude), both
        room = _ROOM
        while True:
            where, value, tied = np.empty((2, room), np.int64), np.empty(room), np.empty(room, np.bool_)
            m = _scan(*given, y, min(y + _BAND, ny), where, value, tied)
            if m <= room:
                found[task] = where[:, :m], value[:m], tied[:m]
                return
            room = m

    share(band, n * bands)
    (y, x), value, tied = (np.concatenate(column, axis=-1) for column in zip(*found, strict=True))
    image = np.repeat(np.arange(n * bands) // bands, [row[1].size for row in found])
    return image, y, x, value, tied
