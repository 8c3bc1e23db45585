"""Numba twins of ops/convolve.py, in cache: tap by tap, as a column and a row, and by FFT down the columns.

The FFT goes down the columns only, sixteen of them side by side; along the rows the spectra are convolved tap by tap:
``kx`` multiplications where a direct sum has ``ky kx``, on neighbours in memory, and nothing is ever transposed. Two
tiles are transformed as one complex one, and the kernel, being real, keeps them apart.
"""

from __future__ import annotations

import threading
from typing import Any

import numba as nb
import numpy as np
from astrid_gpu.kernels._pool import share
from astrid_gpu.kernels.fft_numba import fft_columns, is_smooth, plan_fft
from astrid_gpu.kernels.lanes_numba import LANES, OPTIONS, load, splat, store

__all__ = ["convolve", "convolve_fft", "convolve_separable"]

_WIDTH = 128  # pixels of a row that one tile of the FFT gives
_LENGTHS = [n for n in range(64, 1025, LANES) if is_smooth(n)]

_BAND = 32  # rows of a band
_STRIP = 256  # pixels of a row that stay in the first-level cache while all taps pass over them


@nb.njit(cache=True, nogil=True)
def _fill_band(image, rows, columns, before, first, count, band):  # noqa: ANN001, ANN202 - compiled
    """Copy `count` rows of the bordered image, from bordered row `first`; the image begins at column `before`."""
    nx = image.shape[1]
    for r in range(count):
        source = rows[first + r]
        line = band[r]
        if source < 0:
            line[:] = 0
            continue
        pixels = image[source]
        line[before : before + nx] = pixels
        for c in range(before):
            line[c] = pixels[columns[c]] if columns[c] >= 0 else 0
        for c in range(before + nx, columns.size):
            line[c] = pixels[columns[c]] if columns[c] >= 0 else 0


@nb.njit(cache=True, nogil=True, fastmath={"contract", "nsz", "reassoc"})
def _add(line, a, b, c, d, wa, wb, wc, wd):  # noqa: ANN001, ANN202
    for x in range(line.size):
        line[x] += wa * a[x] + wb * b[x] + wc * c[x] + wd * d[x]


@nb.njit(cache=True, nogil=True)
def _direct(image, dy, dx, w, rows, columns, before, band, out):  # noqa: ANN001, ANN202
    """Convolve a band of rows tap by tap; `out` holds those rows and `rows` begins with what they need."""
    ny, nx = out.shape
    _fill_band(image, rows, columns, before, 0, band.shape[0], band)
    for y in range(ny):
        for x0 in range(0, nx, _STRIP):
            m = min(_STRIP, nx - x0)
            line = out[y, x0 : x0 + m]
            for x in range(m):
                line[x] = 0
            for g in range(0, w.size, 4):
                a = band[y + dy[g], x0 + dx[g] : x0 + dx[g] + m]
                b = band[y + dy[g + 1], x0 + dx[g + 1] : x0 + dx[g + 1] + m]
                c = band[y + dy[g + 2], x0 + dx[g + 2] : x0 + dx[g + 2] + m]
                d = band[y + dy[g + 3], x0 + dx[g + 3] : x0 + dx[g + 3] + m]
                _add(line, a, b, c, d, w[g], w[g + 1], w[g + 2], w[g + 3])


@nb.njit(**OPTIONS)
def _weigh(source, i, step, weights, target, j, count):  # noqa: ANN001, ANN202
    """Write target[j + x] = sum_t weights[t] source[i + step t + x] for x below count, rounded up to 64."""
    zero = splat(np.float32(0))
    for x in range(0, count, 4 * LANES):
        a, b, c, d = zero, zero, zero, zero
        for t in range(weights.size):
            w, k = splat(weights[t]), i + step * t + x
            a = a + w * load(source, k)
            b = b + w * load(source, k + LANES)
            c = c + w * load(source, k + 2 * LANES)
            d = d + w * load(source, k + 3 * LANES)
        store(target, j + x, a)
        store(target, j + x + LANES, b)
        store(target, j + x + 2 * LANES, c)
        store(target, j + x + 3 * LANES, d)


@nb.njit(**OPTIONS)
def _separable(image, down, across, rows, columns, before, band, pitch, line, out):  # noqa: ANN001, ANN202
    """Do the same with the product of a column and a row of taps, both flipped."""
    ny, nx = out.shape
    _fill_band(image, rows, columns, before, 0, rows.size, band.reshape(-1, pitch))
    for x0 in range(0, nx, _STRIP):
        m = min(_STRIP, nx - x0)
        for y in range(ny):
            _weigh(band, y * pitch + x0, pitch, down, line, 0, m + across.size - 1)
            _weigh(line, 0, 1, across, line, 0, m)  # in place: it writes behind what it reads
            part = out[y, x0 : x0 + m]
            for x in range(m):
                part[x] = line[x]


class _Room(threading.local):
    """Work space that each thread has for itself: `array`, flat, on a boundary of cache lines."""

    def __init__(self, size: int, dtype: Any = np.float32) -> None:
        lanes = 64 // np.dtype(dtype).itemsize
        raw = np.empty(size + lanes, dtype)
        first = -(raw.ctypes.data // raw.itemsize) % lanes
        self.array = raw[first : first + size]


def _by_bands(pixels: np.ndarray, reach: int, height: int, work: Any) -> np.ndarray:
    """Call ``work(k, rows of the image, rows of the bordered image, out)`` for bands of all images, by threads."""
    n, ny, _ = pixels.shape
    out, bands = np.empty_like(pixels), -(-ny // height)

    def band(task: int) -> None:
        k, y = task // bands, height * (task % bands)
        last = min(y + height, ny)
        work(k, slice(y, last + reach), out[k, y:last])

    share(band, n * bands)
    return out


def convolve(images: Any, kernel: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Direct convolution; contract in `astrid_gpu.ops.convolve.convolve`. Sums in the dtype of `images`."""
    pixels = np.ascontiguousarray(images)
    _, ky, kx = kernel.shape
    used = np.flatnonzero(np.any(kernel != 0, axis=0).ravel())  # zero taps cost nothing
    padding = -used.size % 4
    taps = np.zeros((kernel.shape[0], used.size + padding), pixels.dtype)
    taps[:, : used.size] = kernel.reshape(kernel.shape[0], -1)[:, used]
    dy, dx = np.zeros(taps.shape[1], np.int64), np.zeros(taps.shape[1], np.int64)
    dy[: used.size], dx[: used.size] = ky - 1 - used // kx, kx - 1 - used % kx
    before = _image_begins(columns, pixels.shape[2])

    room = _Room((_BAND + ky - 1) * columns.size, pixels.dtype)

    def work(k: int, part: slice, out: np.ndarray) -> None:
        band = room.array.reshape(-1, columns.size)[: len(out) + ky - 1]
        _direct(pixels[k], dy, dx, taps[k % len(taps)], rows[part], columns, before, band, out)

    return _by_bands(pixels, ky - 1, _BAND, work)


def convolve_separable(
    images: Any, column: np.ndarray, row: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray | None:
    """Contract in `astrid_gpu.ops.convolve.convolve_separable`; one pass over the frame. None for float64."""
    if images.dtype != np.float32:
        return None
    pixels = np.ascontiguousarray(images)
    down, across = (np.ascontiguousarray(k.reshape(len(k), -1)[:, ::-1], np.float32) for k in (column, row))
    before, reach = _image_begins(columns, pixels.shape[2]), column.shape[1] - 1
    pitch = -(-columns.size // LANES) * LANES + 8 * LANES  # vectors reach beyond the last column

    room, line = _Room((2 * _BAND + reach) * pitch), _Room(_STRIP + across.shape[1] + 8 * LANES)

    def work(k: int, part: slice, out: np.ndarray) -> None:
        taps = down[k % len(down)], across[k % len(across)]
        _separable(pixels[k], *taps, rows[part], columns, before, room.array, pitch, line.array, out)

    return _by_bands(pixels, reach, 2 * _BAND, work)


def _image_begins(columns: np.ndarray, nx: int) -> int:
    """Return where in a table of `border_index` the image itself begins: a run 0 1 2 ... nx - 1."""
    return int(np.argmax((columns[: columns.size - nx + 1] == 0) & (columns[nx - 1 :] == nx - 1)))


@nb.njit(**OPTIONS)
def _fill_tile(image, rows, columns, before, y, x, mean, tile, pitch):  # noqa: ANN001, ANN202
    """Copy the bordered image from (y, x) on, less `mean`, to the rows of `tile`; nothing beyond it."""
    nx = image.shape[1]
    wide = min(pitch, columns.size - x)
    first = min(max(before - x, 0), wide)  # the image itself lies in columns `first` to `last`
    last = max(min(before + nx - x, wide), first)
    for r in range(tile.size // pitch):
        line = tile[r * pitch : (r + 1) * pitch]
        source = rows[y + r] if y + r < rows.size else -1
        if source < 0:
            for c in range(pitch):
                line[c] = -mean
            continue
        pixels = image[source]
        for c in range(first):
            line[c] = (pixels[columns[x + c]] if columns[x + c] >= 0 else 0) - mean
        if last > first:
            part, here = pixels[x + first - before : x + last - before], line[first:last]
            for c in range(part.size):
                here[c] = part[c] - mean
        for c in range(last, wide):
            line[c] = (pixels[columns[x + c]] if columns[x + c] >= 0 else 0) - mean
        for c in range(wide, pitch):
            line[c] = 0


@nb.njit(**OPTIONS)
def _along_rows(re, im, pitch, width, kr, ki):  # noqa: ANN001, ANN202
    """Convolve every row of a complex tile, in place, with its own taps kr + i ki (rows, kx)."""
    zero = splat(np.float32(0))
    for k in range(kr.shape[0]):
        for i in range(k * pitch, k * pitch + width, 4 * LANES):
            ar, br, cr, dr = zero, zero, zero, zero
            ai, bi, ci, di = zero, zero, zero, zero
            for t in range(kr.shape[1]):
                c, s = splat(kr[k, t]), splat(ki[k, t])
                u, v = load(re, i + t), load(im, i + t)
                ar, ai = ar + c * u - s * v, ai + c * v + s * u
                u, v = load(re, i + t + LANES), load(im, i + t + LANES)
                br, bi = br + c * u - s * v, bi + c * v + s * u
                u, v = load(re, i + t + 2 * LANES), load(im, i + t + 2 * LANES)
                cr, ci = cr + c * u - s * v, ci + c * v + s * u
                u, v = load(re, i + t + 3 * LANES), load(im, i + t + 3 * LANES)
                dr, di = dr + c * u - s * v, di + c * v + s * u
            store(re, i, ar)
            store(im, i, ai)
            store(re, i + LANES, br)
            store(im, i + LANES, bi)
            store(re, i + 2 * LANES, cr)
            store(im, i + 2 * LANES, ci)
            store(re, i + 3 * LANES, dr)
            store(im, i + 3 * LANES, di)


@nb.njit(**OPTIONS)
def _two_tiles(image, rows, columns, before, y, x, step, mean, kr, ki, radices, w, room, total, out):  # noqa: ANN001, ANN202
    """Convolve the tiles of `step` rows from row y on, and from y + step on, as one complex tile."""
    length, nx = kr.shape[0], out.shape[1]
    both = 2 * LANES * length
    one, two = room[:both].reshape(2, -1), room[both : 2 * both].reshape(2, -1)
    size = (room.size - 2 * both) // 2
    re, im, pitch = room[2 * both : 2 * both + size], room[2 * both + size :], size // length
    width = min(_WIDTH, nx - x)
    full = (width + 4 * LANES - 1) // (4 * LANES) * (4 * LANES)
    _fill_tile(image, rows, columns, before, y, x, mean, re[: length * pitch], pitch)
    _fill_tile(image, rows, columns, before, y + step, x, mean, im[: length * pitch], pitch)
    for c in range(0, min(full + kr.shape[1] - 1, pitch), LANES):
        fft_columns(re[c:], im[c:], pitch, re[c:], im[c:], pitch, one, two, length, radices, w, np.float32(1))
    _along_rows(re, im, pitch, full, kr, ki)
    for c in range(0, width, LANES):
        fft_columns(re[c:], im[c:], pitch, re[c:], im[c:], pitch, one, two, length, radices, w, np.float32(-1))
    offset = mean * total
    for r in range(min(2 * step, out.shape[0] - y)):
        tile, line = (re, r) if r < step else (im, r - step)
        begin = (length - step + line) * pitch
        source, target = tile[begin : begin + width], out[y + r, x : x + width]
        for c in range(width):
            target[c] = source[c] + offset


def _tile_length(ny: int, ky: int) -> int:
    """Return the length of the transform that is cheapest for ny rows and ky taps."""

    def cost(length: int) -> float:
        pairs = -(-ny // (2 * (length - ky + 1)))
        return pairs * length * (np.log2(length) + 8.0)

    return min((n for n in _LENGTHS if n >= 2 * ky), key=cost)


def convolve_fft(images: Any, kernel: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray | None:
    """Convolution by FFT; contract in `astrid_gpu.ops.convolve.convolve_fft`. None for what this way is not made for.

    That is float64, and kernels of more than `_LENGTHS` or `_WIDTH` allow.
    """
    _, ky, kx = kernel.shape
    if images.dtype != np.float32 or 2 * ky > _LENGTHS[-1] or kx > _WIDTH:
        return None
    pixels = np.ascontiguousarray(images)
    n, ny, nx = pixels.shape
    length = _tile_length(ny, ky)
    step, pitch = length - ky + 1, -(-(_WIDTH + kx - 1) // LANES) * LANES
    radices, w = plan_fft(length)
    taps = np.fft.fft(kernel[:, :, ::-1], length, axis=1) / length
    kr, ki = np.ascontiguousarray(taps.real, np.float32), np.ascontiguousarray(taps.imag, np.float32)
    total = kernel.sum(axis=(1, 2))
    means = pixels[:, ::8, ::8].mean(axis=(1, 2), dtype=np.float64).astype(np.float32)  # rounding is relative to it
    before, pairs, strips = _image_begins(columns, nx), -(-ny // (2 * step)), -(-nx // _WIDTH)
    out, room = np.empty_like(pixels), _Room(2 * (2 * LANES + pitch) * length)

    def tiles(task: int) -> None:
        rest, strip = divmod(task, strips)
        k, pair = divmod(rest, pairs)
        m = k % len(kernel)
        place = 2 * step * pair, _WIDTH * strip, step, means[k], kr[m], ki[m]
        _two_tiles(pixels[k], rows, columns, before, *place, radices, w, room.array, np.float32(total[m]), out[k])

    share(tiles, n * pairs * strips)
    return out
