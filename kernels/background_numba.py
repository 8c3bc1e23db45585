"""Numba twins of ops/background.py: boxes put in bins and clipped from both ends; the spline a row at a time.

The pixels of a box go into some thousand bins of equal width, in the order of their values. Every round of clipping
is then a contiguous range of them, and only the bin with the median has to be sorted, a dozen pixels. What falls in
no bin (stars, hot pixels) is in the outermost two, in no order: right whatever the pixels are, fast for a sky.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from astrid_gpu.kernels._pool import share

__all__ = ["mesh_interpolate", "mesh_statistics"]

# As in astrid_gpu.ops.background; kernels import nothing from above, the parity test holds the two together.
_CROWDED = 0.3
_MAX_ROUNDS = 50
_STATISTICS = {"sextractor": 0, "median": 1, "mean": 2}
_SAMPLE = 63  # pixels of a box that say where its bins lie
_REACH = 3.5  # bins go this many times the distance of the sample's quartiles beyond them: about 5 sigma
_LARGEST = 3.0e38  # of float32, nearly
_ROWS = 64  # rows of a map that one task writes


@nb.njit(cache=True, nogil=True)
def _gather(image, bits, mask, y0, y1, x0, x1, pixels):  # noqa: ANN001, ANN202 - compiled, types are the caller's
    """Copy the good pixels of a box; return how many. An empty `mask` masks nothing."""
    n, width = 0, x1 - x0
    if mask.size == 0:
        worst = np.uint32(0)
        for y in range(y0, y1):
            source, raw, target = image[y, x0:x1], bits[y, x0:x1], pixels[n : n + width]
            for x in range(width):
                target[x] = source[x]
                worst = max(worst, raw[x] & np.uint32(0x7FFFFFFF))
            n += width
        if worst < np.uint32(0x7F800000):  # else there are NaN or infinities
            return n
    n = 0
    for y in range(y0, y1):
        row = image[y, x0:x1]
        for x in range(width):
            if np.isfinite(row[x]) and not (mask.size and mask[y, x0 + x]):
                pixels[n] = row[x]
                n += 1
    return n


@nb.njit(cache=True, nogil=True)
def _sort(values, start, stop):  # noqa: ANN001, ANN202
    """Shell's sort, in place: an insertion sort for a dozen, and bearable for thousands."""
    for gap in (57_313, 15_313, 4_093, 1_093, 301, 132, 57, 23, 10, 4, 1):
        for k in range(start + gap, stop):
            v, p = values[k], k
            while p >= start + gap and values[p - gap] > v:
                values[p] = values[p - gap]
                p -= gap
            values[p] = v


@nb.njit(cache=True, nogil=True)
def _bins_of(pixels, n, bins, sample):  # noqa: ANN001, ANN202
    """Return the lower edge of the bins and their number per unit of value, from a sample of the pixels."""
    m = min(n, _SAMPLE)
    for k in range(m):
        sample[k] = pixels[k * n // m]
    _sort(sample, np.int64(0), m)
    low, high = np.float64(sample[m // 4]), np.float64(sample[(3 * m) // 4])
    reach = _REACH * (high - low)
    if reach == 0.0:  # most pixels are alike
        for k in range(n):
            low, high = min(low, np.float64(pixels[k])), max(high, np.float64(pixels[k]))
    low, high = max(low - reach, -_LARGEST), min(high + reach, _LARGEST)
    scale = bins / (high - low) if high > low else 0.0
    return np.float32(low), np.float32(min(scale, _LARGEST))


@nb.njit(cache=True, nogil=True)
def _put_in_bins(pixels, n, low, scale, which, ends, values):  # noqa: ANN001, ANN202
    """Copy the pixels to `values` bin by bin; bin b ends before ``ends[b]``."""
    top, nought = np.float32(ends.size - 1), np.float32(0)
    source, index = pixels[:n], which[:n]
    for k in range(index.size):
        t = (source[k] - low) * scale
        t = t if t > nought else nought
        index[k] = np.uint16(np.int32(t if t < top else top))
    ends[:] = 0
    for k in range(index.size):
        ends[np.uint64(index[k])] += 1
    total = 0
    for b in range(ends.size):
        here = ends[b]
        ends[b] = total
        total += here
    for k in range(index.size):
        b = np.uint64(index[k])
        p = ends[b]
        values[np.uint64(p)] = source[k]
        ends[b] = p + 1


@nb.njit(cache=True, nogil=True)
def _bin_at(ends, place):  # noqa: ANN001, ANN202
    """Return the bin that holds the place, and where it begins."""
    low, high = 0, ends.size - 1
    while low < high:
        b = (low + high) // 2
        if ends[b] > place:
            high = b
        else:
            low = b + 1
    return low, ends[low - 1] if low > 0 else 0


@nb.njit(cache=True, nogil=True)
def _grouped_median(values, ends, start, stop):  # noqa: ANN001, ANN202
    """Median of values[start:stop], ties resolved as in the reference.

    Also how far the nearest value is from it, and where those that equal the one in the middle begin and end.
    """
    n, place = stop - start, start + (stop - start) // 2
    b, first = _bin_at(ends, place)
    low, high = max(start, first), min(stop, ends[b])
    _sort(values, low, high)
    middle = values[place]
    first, last = place, place + 1
    while first > low and values[first - 1] == middle:
        first -= 1
    while last < high and values[last] == middle:
        last += 1
    below, above = middle, middle
    if first > low:
        below = values[first - 1]
    elif first > start:  # the largest of the bin before
        _, begin = _bin_at(ends, first - 1)
        below = values[first - 1]
        for k in range(max(start, begin), first):
            below = max(below, values[k])
    if last < high:
        above = values[last]
    elif last < stop:  # the smallest of the bin after
        b, _ = _bin_at(ends, last)
        above = values[last]
        for k in range(last, min(stop, ends[b])):
            above = min(above, values[k])
    m = np.float64(middle)
    lower, upper = 0.5 * (np.float64(below) + m), 0.5 * (m + np.float64(above))
    median = lower + (upper - lower) * (0.5 * n - (first - start)) / (last - first)
    nearest = min(abs(m - median), abs(np.float64(below) - median), abs(np.float64(above) - median))
    return median, nearest, first, last


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
def _drop_low(values, ends, start, stop, median, limit):  # noqa: ANN001, ANN202
    """Return where the values within `limit` below the median begin, moving what is not before them."""
    while start < stop:
        b, _ = _bin_at(ends, start)
        last = min(stop, ends[b])
        for p in range(start, last):
            v = values[p]
            if median - np.float64(v) > limit:
                values[p], values[start] = values[start], v
                start += 1
        if start < last:
            break
    return start


@nb.njit(cache=True, nogil=True)
def _drop_high(values, ends, start, stop, median, limit):  # noqa: ANN001, ANN202
    """Return where the values within `limit` above the median end, moving what is not behind them."""
    while stop > start:
        _, begin = _bin_at(ends, stop - 1)
        first = max(start, begin)
        for p in range(stop - 1, first - 1, -1):
            v = values[p]
            if np.float64(v) - median > limit:
                stop -= 1
                values[p], values[stop] = values[stop], v
        if stop > first:
            break
    return stop


@nb.njit(cache=True, nogil=True)
def _clip(values, ends, n, clip, statistic):  # noqa: ANN001, ANN202
    """Clip the binned values[:n] about their median until nothing changes; return level and rms."""
    start, stop = np.int64(0), n
    median, offset, spread = 0.0, 0.0, 0.0
    for _ in range(_MAX_ROUNDS):
        median, nearest, begin, end = _grouped_median(values, ends, start, stop)
        first, second = _sums(values, start, stop, median)
        kept = stop - start
        offset = first / kept
        spread = np.sqrt(max(second / kept - offset * offset, 0.0))
        limit = clip * spread if spread > 0.0 else 0.0
        if nearest > limit:  # nothing would be left
            start, stop = begin, end
            continue
        start = _drop_low(values, ends, start, stop, median, limit)
        stop = _drop_high(values, ends, start, stop, median, limit)
        if stop - start == kept:
            break
    if statistic == 2:
        return median + offset, spread
    if statistic == 0 and abs(offset) < _CROWDED * spread:
        return median - 1.5 * offset, spread
    return median, spread


@nb.njit(cache=True, nogil=True)
def _statistics(image, bits, mask, rows, columns, largest, clip, statistic, level, rms, count):  # noqa: ANN001, ANN202
    """Statistics of the boxes, of `largest` pixels at most, of one strip: rows[0] to rows[1]."""
    pixels, values = np.empty(largest, np.float32), np.empty(largest, np.float32)
    which, sample = np.empty(largest, np.uint16), np.empty(_SAMPLE, np.float32)
    ends = np.empty(min(max(largest // 4, 1), 1 << 16), np.int64)
    for i in range(level.size):
        n = _gather(image, bits, mask, rows[0], rows[1], columns[i], columns[i + 1], pixels)
        count[i] = n
        if n == 0:
            level[i], rms[i] = np.nan, np.nan
            continue
        low, scale = _bins_of(pixels, n, ends.size, sample)
        _put_in_bins(pixels, n, low, scale, which, ends, values)
        level[i], rms[i] = _clip(values, ends, n, clip, statistic)


def mesh_statistics(
    images: Any, mask: Any, box: int, clip: float, statistic: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clipped statistics of the mesh boxes; contract in `astrid_gpu.ops.background.mesh_statistics`.

    Looks at float32; float64 images are rounded to it first.
    """
    pixels = np.ascontiguousarray(images, dtype=np.float32)
    n, ny, nx = pixels.shape
    by, bx = -(-ny // box), -(-nx // box)
    rows, columns = np.arange(by + 1) * ny // by, np.arange(bx + 1) * nx // bx
    level, rms = np.empty((n, by, bx)), np.empty((n, by, bx))
    count = np.empty((n, by, bx), np.int32)
    flags = np.zeros((1, 0, 0), np.bool_) if mask is None else np.ascontiguousarray(mask, dtype=np.bool_)
    bits = pixels.view(np.uint32)
    kind, largest = _STATISTICS[statistic], int(np.diff(rows).max() * np.diff(columns).max())

    def strip(task: int) -> None:
        k, j = divmod(task, by)
        given, out = (pixels[k], bits[k], flags[k % len(flags)]), (level[k, j], rms[k, j], count[k, j])
        _statistics(*given, rows[j : j + 2], columns, largest, float(clip), kind, *out)

    share(strip, n * by)
    return level, rms, count


@nb.njit(cache=True, nogil=True, fastmath={"contract", "nsz", "arcp"})
def _evaluate(nodes, left, weights, starts, across, out):  # noqa: ANN001, ANN202
    """Rows of the spline. `nodes` (4, by, bx): values, second derivatives along y, along x, and along both.

    Between two `starts` the nodes are the same: a cubic in t, whose coefficients are constants of the loop.
    """
    bx = nodes.shape[2]
    f, m = np.empty(bx), np.empty(bx)
    for y in range(out.shape[0]):
        i = left[y]
        j = min(i + 1, nodes.shape[1] - 1)
        w0, w1, w2, w3 = weights[0, y], weights[1, y], weights[2, y], weights[3, y]
        for b in range(bx):
            f[b] = w0 * nodes[0, i, b] + w1 * nodes[0, j, b] + w2 * nodes[1, i, b] + w3 * nodes[1, j, b]
            m[b] = w0 * nodes[2, i, b] + w1 * nodes[2, j, b] + w2 * nodes[3, i, b] + w3 * nodes[3, j, b]
        for s in range(starts.size - 1):
            part = out[y, starts[s] : starts[s + 1]]
            e = min(s + 1, bx - 1)
            t0, h = across[s, 0], across[s, 1]
            c1 = (f[e] - f[s]) / h - h * (2.0 * m[s] + m[e]) / 6.0
            c2, c3 = 0.5 * m[s], (m[e] - m[s]) / (6.0 * h)
            k0, k1 = out.dtype.type(f[s]), out.dtype.type(c1)
            k2, k3 = out.dtype.type(c2), out.dtype.type(c3)
            first = out.dtype.type(t0)
            for x in range(part.size):
                t = first + out.dtype.type(np.int32(x))
                part[x] = k0 + t * (k1 + t * (k2 + t * k3))


def mesh_interpolate(mesh: Any, rows: Any, columns: Any, dtype: Any) -> np.ndarray:
    """Bicubic spline through a mesh; contract in `astrid_gpu.ops.background.mesh_interpolate`.

    What depends on the row alone is done in float64, the cubic along x in `dtype`.
    """
    level = np.asarray(mesh, dtype=np.float64)
    bends = level @ columns.curvature.T
    nodes = np.stack([level, rows.curvature @ level, bends, rows.curvature @ bends], axis=1)
    starts, across = _intervals(columns)
    n, ny = level.shape[0], rows.left.size
    out = np.empty((n, ny, columns.left.size), np.dtype(dtype))
    bands = -(-ny // _ROWS)

    def band(task: int) -> None:
        k, y = task // bands, _ROWS * (task % bands)
        part = slice(y, y + _ROWS)
        _evaluate(nodes[k], rows.left[part], rows.weights[:, part], starts, across, out[k, part])

    share(band, n * bands)
    return out


def _intervals(axis: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return where the intervals between nodes begin, and for each the first pixel's place in it and its length."""
    starts = np.concatenate([[0], np.flatnonzero(np.diff(axis.left)) + 1, [axis.left.size]])
    first = starts[:-1]
    if axis.curvature.shape[0] == 1:
        return starts, np.array([[0.0, 1.0]])
    # weights[1] is the place in the interval as a share of its length: it grows by 1 / length a pixel.
    share_of = axis.weights[1]
    length = np.array([1.0 / (share_of[s + 1] - share_of[s]) for s in first])
    return starts, np.stack([share_of[first] * length, length], axis=1)
