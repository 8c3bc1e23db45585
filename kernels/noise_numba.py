"""Numba twins of ops/noise.py and of ops.mask.dilate: a row at a time, while the rows it needs are in cache.

Bands of rows go to threads (`_pool.share`), and several images may be worked on at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba as nb
import numpy as np
from astrid_gpu.kernels._pool import share

__all__ = ["dilate", "smooth_good", "source_variance"]

_FAST = {"contract", "nsz", "reassoc"}
_ROWS = 128  # of a band
# As in astrid_gpu.ops.noise; kernels import nothing from above, the parity test holds the two together.
_LEAST = 1e-3
_TRUST, _FAINT = 10.0, 2.5


def _bands(work: Callable[[int, int], None], rows: int) -> None:
    """Call ``work(first, last)`` for bands of rows, on all threads."""
    parts = -(-rows // _ROWS)
    share(lambda k: work(rows * k // parts, rows * (k + 1) // parts), parts)


def _taps(width: float, dtype: Any) -> np.ndarray:
    """Half of a Gaussian of sum 1 from its middle on, cut at 4 sigma as scipy.ndimage does."""
    x = np.arange(int(4.0 * width + 0.5) + 1)
    taps = np.exp(-0.5 * (x / width) ** 2)
    return (taps / (2 * taps.sum() - taps[0])).astype(dtype)


@nb.njit(cache=True, nogil=True, fastmath=_FAST)
def _down(image, bad, y, taps, value, cover):  # noqa: ANN001, ANN202 - compiled, types are the caller's
    """Filter good pixels and their number along the column at row y; edges repeat. Into the middle of the lines."""
    ny, nx = image.shape
    pad = (value.size - nx) // 2
    v, c = value[pad : pad + nx], cover[pad : pad + nx]
    v[:] = 0
    c[:] = 0
    zero = image.dtype.type(0)
    for k in range(1 - taps.size, taps.size):
        row = min(max(y + k, 0), ny - 1)
        t, d, b = taps[abs(k)], image[row], bad[row]
        for x in range(nx):
            w = zero if b[x] else t
            v[x] += zero if b[x] else t * d[x]
            c[x] += w


@nb.njit(cache=True, nogil=True, fastmath=_FAST)
def _across(line, nx, taps, out):  # noqa: ANN001, ANN202
    """Filter a line with repeated edges along itself."""
    pad = (line.size - nx) // 2
    line[:pad] = line[pad]
    line[pad + nx :] = line[pad + nx - 1]
    middle, t = line[pad : pad + nx], taps[0]
    for x in range(nx):
        out[x] = t * middle[x]
    for k in range(1, taps.size):
        t, a, b = taps[k], line[pad - k : pad - k + nx], line[pad + k : pad + k + nx]
        for x in range(nx):
            out[x] += t * (a[x] + b[x])


@nb.njit(cache=True, nogil=True, fastmath=_FAST)
def _down_all(image, y, taps, value):  # noqa: ANN001, ANN202
    """`_down` where every pixel in reach is good: without their number."""
    ny, nx = image.shape
    pad = (value.size - nx) // 2
    v = value[pad : pad + nx]
    v[:] = 0
    for k in range(1 - taps.size, taps.size):
        t, d = taps[abs(k)], image[min(max(y + k, 0), ny - 1)]
        for x in range(nx):
            v[x] += t * d[x]


@nb.njit(cache=True, nogil=True)
def _rows_with_bad(bad, first, last):  # noqa: ANN001, ANN202
    """Return how many of the rows before each one, from `first` on, have a bad pixel."""
    count = np.zeros(last - first + 1, np.int64)
    for k in range(last - first):
        found = np.uint8(0)
        for value in bad[first + k]:
            found |= np.uint8(value)
        count[k + 1] = count[k] + (found != 0)
    return count


@nb.njit(cache=True, nogil=True, fastmath=_FAST)
def _smooth_row(image, bad, y, clean, taps, least, lines, out):  # noqa: ANN001, ANN202
    """Write a smoothed row; `clean` tells that no pixel in reach is bad: then the weights are those of any such row."""
    nx = image.shape[1]
    share = lines[2, :nx]
    if clean:
        _down_all(image, y, taps, lines[0])
        total = taps[0]
        for k in range(1, taps.size):
            total += 2 * taps[k]
        share[:] = total * total
    else:
        _down(image, bad, y, taps, lines[0], lines[1])
        _across(lines[1], nx, taps, share)
    _across(lines[0], nx, taps, out)
    for x in range(nx):
        out[x] /= max(share[x], least)


@nb.njit(cache=True, nogil=True)
def _smooth(image, bad, taps, least, first, last, out):  # noqa: ANN001, ANN202
    lines = np.empty((3, image.shape[1] + 2 * (taps.size - 1)), image.dtype)
    reach = taps.size - 1
    low, end = max(0, first - reach), len(bad)
    lost = _rows_with_bad(bad, low, min(end, last + reach))
    for y in range(first, last):
        clean = lost[min(end, y + reach + 1) - low] == lost[max(0, y - reach) - low]
        _smooth_row(image, bad, y, clean, taps, least, lines, out[y])


@nb.njit(cache=True, nogil=True, fastmath=_FAST)
def _variance_row(signal, bad, sigma, scale, per_count, smooth, share, out):  # noqa: ANN001, ANN202
    """Write the variance of a row; `scale` holds what the neighbours' mean and the single pixel are compared with."""
    zero, one = signal.dtype.type(0), signal.dtype.type(1)
    least, own_share = scale[3], scale[4]
    for x in range(signal.size):
        # The mean without the pixel itself.
        value, part = (zero, zero) if bad[x] else (signal[x], own_share)
        around = smooth[x] * max(share[x], least) - part * value
        s, noise = max(around / max(share[x] - part, least), zero), max(sigma[x], scale[2])
        q = max(smooth[x], zero) / (scale[0] * noise)
        q *= q
        q *= q
        trust = zero if bad[x] else one - one / (one + q)
        f = s / (scale[1] * noise)
        f *= f
        f *= f
        faint = one - one / (one + f)
        adopted = trust * value + (one - trust) * faint * s
        out[x] = sigma[x] * sigma[x] + max(adopted, zero) * per_count


@nb.njit(cache=True, nogil=True)
def _variance(signal, bad, sigma, scale, per_count, taps, first, last, out):  # noqa: ANN001, ANN202
    lines = np.empty((3, signal.shape[1] + 2 * (taps.size - 1)), signal.dtype)
    smooth = np.empty(signal.shape[1], signal.dtype)
    least, reach = scale[3], taps.size - 1
    low, end = max(0, first - reach), len(bad)
    lost = _rows_with_bad(bad, low, min(end, last + reach))
    for y in range(first, last):
        clean = lost[min(end, y + reach + 1) - low] == lost[max(0, y - reach) - low]
        _smooth_row(signal, bad, y, clean, taps, least, lines, smooth)
        _variance_row(signal[y], bad[y], sigma[y], scale, per_count, smooth, lines[2], out[y])


def smooth_good(signal: Any, bad: Any, width: float, least: float) -> np.ndarray:
    """Smooth the good pixels of an image; contract in `astrid_gpu.ops.noise.smooth_good`."""
    image, lost = np.ascontiguousarray(signal), np.ascontiguousarray(bad)
    out, taps = np.empty_like(image), _taps(width, image.dtype)
    _bands(lambda a, b: _smooth(image, lost, taps, image.dtype.type(least), a, b, out), len(image))
    return out


def source_variance(signal: Any, sigma: Any, gain: float, bad: Any, *, width: float = 0.8) -> np.ndarray:
    """Return the variance of each pixel; contract in `astrid_gpu.ops.noise.source_variance`, in the signal's type."""
    image, lost = np.ascontiguousarray(signal), np.ascontiguousarray(bad)
    kind = image.dtype.type
    noise = np.ascontiguousarray(np.broadcast_to(np.asarray(sigma, image.dtype), image.shape))
    half = _taps(width, np.float64)
    own = half[0] ** 2  # the weight of the pixel itself, and the noise of the mean without it
    quiet = np.sqrt((2 * np.sum(half**2) - own) ** 2 - own**2) / (1 - own)
    scale = np.array([_TRUST, _FAINT * quiet, np.finfo(np.float32).tiny, _LEAST, own], image.dtype)
    out, taps = np.empty_like(image), _taps(width, image.dtype)
    _bands(lambda a, b: _variance(image, lost, noise, scale, kind(1.0 / gain), taps, a, b, out), len(image))
    return out


@nb.njit(cache=True, nogil=True)
def _grow_row(mask, filled, y, radius, line, out):  # noqa: ANN001, ANN202
    """Grow row y of a mask: the rows in reach laid over each other, then along the row by doubling."""
    ny, nx = mask.shape
    out[:] = 0
    some = False
    for row in range(max(0, y - radius), min(ny, y + radius + 1)):
        if filled[row]:
            some, m = True, mask[row]
            for x in range(nx):
                out[x] |= m[x]
    done = 0
    while some and done < radius:
        step = min(max(done, 1), radius - done, nx)
        line[:] = out
        low, high, a, b = out[: nx - step], out[step:], line[: nx - step], line[step:]
        for x in range(nx - step):
            high[x] |= a[x]
        for x in range(nx - step):
            low[x] |= b[x]
        done += min(max(done, 1), radius - done)


@nb.njit(cache=True, nogil=True)
def _any_row(mask, first, last, filled):  # noqa: ANN001, ANN202
    for y in range(first, last):
        found = np.uint8(0)
        for value in mask[y]:
            found |= value
        filled[y] = found


@nb.njit(cache=True, nogil=True)
def _grow(mask, filled, radius, first, last, out):  # noqa: ANN001, ANN202
    line = np.empty(mask.shape[1], np.uint8)
    for y in range(first, last):
        _grow_row(mask, filled, y, radius, line, out[y])


def dilate(mask: Any, radius: int) -> np.ndarray:
    """Grow True pixels into squares; contract in `astrid_gpu.ops.mask.dilate`, one image."""
    pixels = np.ascontiguousarray(mask).view(np.uint8)
    filled, out = np.empty(len(pixels), np.uint8), np.empty_like(pixels)
    _bands(lambda a, b: _any_row(pixels, a, b, filled), len(pixels))
    _bands(lambda a, b: _grow(pixels, filled, int(radius), a, b, out), len(pixels))
    return out.view(np.bool_)
