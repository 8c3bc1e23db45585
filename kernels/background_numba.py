"""Numba twins of ops/background.py: boxes sorted by radix and clipped from both ends; the spline a row at a time.

Pixels are sorted as unsigned keys, the bits of a float32 turned so that their order is the order of the numbers. In a
sorted box every round of clipping is a contiguous range, its median a look-up.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

__all__ = ["mesh_interpolate", "mesh_statistics"]

# As in astrid_gpu.ops.background; kernels import nothing from above, the parity test holds the two together.
_CROWDED = 0.3
_MAX_ROUNDS = 50
_STATISTICS = {"sextractor": 0, "median": 1, "mean": 2}
_DIGIT = 11  # bits of a radix digit: three digits make 33


@nb.njit(cache=True, nogil=True)
def _gather(bits, mask, y0, y1, x0, x1, keys):  # noqa: ANN001, ANN202 - compiled, types are the caller's
    """Write the keys of the good pixels of a box; return how many and the lowest. An empty `mask` masks nothing."""
    n, low = 0, np.uint32(0xFFFFFFFF)
    masked = mask.size > 0
    for y in range(y0, y1):
        row = bits[y, x0:x1]
        if masked:
            flag = mask[y, x0:x1]
        for x in range(x1 - x0):
            b = row[x]
            if (b & np.uint32(0x7F800000)) == np.uint32(0x7F800000) or (masked and flag[x]):
                continue
            if b == np.uint32(0x80000000):  # -0 is 0
                b = np.uint32(0)
            key = ~b if b >> np.uint32(31) else b | np.uint32(0x80000000)
            low = min(low, key)
            keys[n] = key
            n += 1
    return n, low


@nb.njit(cache=True, nogil=True)
def _radix_sort(keys, spare, n, lowest, counts):  # noqa: ANN001, ANN202
    """Sort keys[:n], less `lowest`; return the buffer that holds the result, one of the two given.

    Sky on a pedestal spans less than two digits of keys above its lowest, which saves the third pass.
    """
    last = np.uint32((1 << _DIGIT) - 1)
    counts[:] = 0
    for k in range(n):
        b = keys[k] - lowest
        keys[k] = b
        counts[0, b & last] += 1
        counts[1, (b >> np.uint32(_DIGIT)) & last] += 1
        counts[2, b >> np.uint32(2 * _DIGIT)] += 1
    source, target = keys, spare
    for digit in range(3):
        shift = np.uint32(digit * _DIGIT)
        place = counts[digit]
        if place[(source[0] >> shift) & last] == n:  # all share this digit: already in order
            continue
        total = 0
        for k in range(place.size):
            here = place[k]
            place[k] = total
            total += here
        for k in range(n):
            b = source[k]
            d = (b >> shift) & last
            target[place[d]] = b
            place[d] += 1
        source, target = target, source
    return source


@nb.njit(cache=True, nogil=True)
def _grouped_median(values, start, stop):  # noqa: ANN001, ANN202
    """Median of the sorted values[start:stop], ties resolved as in the reference."""
    n = stop - start
    middle = values[start + n // 2]
    first = start + n // 2
    while first > start and values[first - 1] == middle:
        first -= 1
    last = start + n // 2 + 1
    while last < stop and values[last] == middle:
        last += 1
    m = np.float64(middle)
    lower = 0.5 * (np.float64(values[first - 1]) + m) if first > start else m
    upper = 0.5 * (m + np.float64(values[last])) if last < stop else m
    return lower + (upper - lower) * (0.5 * n - (first - start)) / (last - first)


@nb.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _sums(values, start, stop, median):  # noqa: ANN001, ANN202
    """Sum and sum of squares of the deviations from `median`."""
    part = values[start:stop]
    first, second = 0.0, 0.0
    for k in range(part.size):
        d = np.float64(part[k]) - median
        first += d
        second += d * d
    return first, second


@nb.njit(cache=True, nogil=True)
def _clip(values, n, clip, statistic):  # noqa: ANN001, ANN202
    """Clip the sorted values[:n] about their median until nothing changes; return level and rms."""
    start, stop = 0, n
    median, offset, spread = 0.0, 0.0, 0.0
    for _ in range(_MAX_ROUNDS):
        median = _grouped_median(values, start, stop)
        first, second = _sums(values, start, stop, median)
        kept = stop - start
        offset = first / kept
        spread = np.sqrt(max(second / kept - offset * offset, 0.0))
        limit = clip * spread if spread > 0.0 else 0.0
        while median - np.float64(values[start]) > limit:
            start += 1
        while np.float64(values[stop - 1]) - median > limit:
            stop -= 1
        if stop - start == kept:
            break
    if statistic == 2:
        return median + offset, spread
    if statistic == 0 and abs(offset) < _CROWDED * spread:
        return median - 1.5 * offset, spread
    return median, spread


@nb.njit(cache=True, parallel=True)
def _statistics(bits, mask, rows, columns, clip, statistic, level, rms, count):  # noqa: ANN001, ANN202
    n, by, bx = level.shape
    largest = (rows[1:] - rows[:-1]).max() * (columns[1:] - columns[:-1]).max()
    for strip in nb.prange(n * by):
        k, j = strip // by, strip % by
        keys, spare = np.empty(largest, np.uint32), np.empty(largest, np.uint32)
        counts = np.empty((3, 1 << _DIGIT), np.int32)
        values = np.empty(largest, np.float32)
        raw = values.view(np.uint32)
        masked = mask[k % max(mask.shape[0], 1)] if mask.shape[0] else mask.reshape(0, 0)
        for i in range(bx):
            good, lowest = _gather(bits[k], masked, rows[j], rows[j + 1], columns[i], columns[i + 1], keys)
            count[k, j, i] = good
            if good == 0:
                level[k, j, i], rms[k, j, i] = np.nan, np.nan
                continue
            in_order = _radix_sort(keys, spare, good, lowest, counts)
            for p in range(good):
                b = in_order[p] + lowest
                raw[p] = b ^ np.uint32(0x80000000) if b >> np.uint32(31) else ~b
            level[k, j, i], rms[k, j, i] = _clip(values, good, clip, statistic)


def mesh_statistics(
    images: Any, mask: Any, box: int, clip: float, statistic: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clipped statistics of the mesh boxes; contract in `astrid_gpu.ops.background.mesh_statistics`.

    Sorts in float32; float64 images are rounded to it first.
    """
    pixels = np.ascontiguousarray(images, dtype=np.float32)
    n, ny, nx = pixels.shape
    by, bx = -(-ny // box), -(-nx // box)
    rows, columns = np.arange(by + 1) * ny // by, np.arange(bx + 1) * nx // bx
    level, rms = np.empty((n, by, bx)), np.empty((n, by, bx))
    count = np.empty((n, by, bx), np.int32)
    flags = np.zeros((0, 0, 0), np.bool_) if mask is None else np.ascontiguousarray(mask, dtype=np.bool_)
    _statistics(pixels.view(np.uint32), flags, rows, columns, float(clip), _STATISTICS[statistic], level, rms, count)
    return level, rms, count


@nb.njit(cache=True, parallel=True, fastmath={"contract", "nsz", "arcp"})
def _evaluate(nodes, bends, starts, left, right, weights, out):  # noqa: ANN001, ANN202
    """Row splines: `nodes` and `bends` (n, ny, bx) are values and second derivatives, already interpolated in y.

    Between two `starts` the nodes are the same, so the loop over pixels has no look-ups and vectorises.
    """
    n, ny, _ = out.shape
    for line in nb.prange(n * ny):
        k, y = line // ny, line % ny
        f, m, row = nodes[k, y], bends[k, y], out[k, y]
        for s in range(starts.size - 1):
            x0, x1 = starts[s], starts[s + 1]
            i, j = left[x0], right[x0]
            fi, fj, mi, mj = f[i], f[j], m[i], m[j]
            w0, w1, w2, w3 = weights[0, x0:x1], weights[1, x0:x1], weights[2, x0:x1], weights[3, x0:x1]
            part = row[x0:x1]
            for x in range(part.size):
                part[x] = w0[x] * fi + w1[x] * fj + w2[x] * mi + w3[x] * mj


def mesh_interpolate(mesh: Any, rows: Any, columns: Any, dtype: Any) -> np.ndarray:
    """Bicubic spline through a mesh; contract in `astrid_gpu.ops.background.mesh_interpolate`.

    The small product along y is done in float64 by `_down`, the many pixels along x in `dtype`.
    """
    kind = np.dtype(dtype)
    nodes = _down(np.asarray(mesh, dtype=np.float64), rows)
    bends = nodes @ columns.curvature.T
    left, right = columns.left, columns.right
    starts = np.concatenate([[0], np.flatnonzero(np.diff(left)) + 1, [left.size]])
    out = np.empty((*nodes.shape[:2], left.size), kind)
    _evaluate(nodes.astype(kind), bends.astype(kind), starts, left, right, columns.weights.astype(kind), out)
    return out


def _down(mesh: np.ndarray, rows: Any) -> np.ndarray:
    """Evaluate the splines along y: (n, by, bx) to (n, ny, bx)."""
    w = rows.weights[:, :, None]
    bends = rows.curvature @ mesh
    values = w[0] * mesh[:, rows.left] + w[1] * mesh[:, rows.right]
    return values + w[2] * bends[:, rows.left] + w[3] * bends[:, rows.right]
