"""Numba twin of ops/convolve.py: bands of rows with their border in cache, four taps to a sweep."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

__all__ = ["convolve"]

_BAND = 32  # rows of a band
_STRIP = 1024  # pixels of a row that stay in the first-level cache while all taps pass over them


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


@nb.njit(cache=True, parallel=True, fastmath={"contract", "nsz", "reassoc"})
def _direct(images, dy, dx, weights, rows, columns, before, out):  # noqa: ANN001, ANN202
    n, ny, nx = images.shape
    reach = rows.size - ny
    bands = (ny + _BAND - 1) // _BAND
    for task in nb.prange(n * bands):
        k, y0 = task // bands, (task % bands) * _BAND
        y1 = min(y0 + _BAND, ny)
        w = weights[k % weights.shape[0]]
        band = np.empty((y1 - y0 + reach, columns.size), images.dtype)
        _fill_band(images[k], rows, columns, before, y0, y1 - y0 + reach, band)
        for y in range(y0, y1):
            for x0 in range(0, nx, _STRIP):
                m = min(_STRIP, nx - x0)
                o = out[k, y, x0 : x0 + m]
                o[:] = 0
                for g in range(0, w.size, 4):
                    w0, w1, w2, w3 = w[g], w[g + 1], w[g + 2], w[g + 3]
                    q0 = band[y - y0 + dy[g], x0 + dx[g] : x0 + dx[g] + m]
                    q1 = band[y - y0 + dy[g + 1], x0 + dx[g + 1] : x0 + dx[g + 1] + m]
                    q2 = band[y - y0 + dy[g + 2], x0 + dx[g + 2] : x0 + dx[g + 2] + m]
                    q3 = band[y - y0 + dy[g + 3], x0 + dx[g + 3] : x0 + dx[g + 3] + m]
                    for x in range(m):
                        o[x] += w0 * q0[x] + w1 * q1[x] + w2 * q2[x] + w3 * q3[x]


def convolve(images: Any, kernel: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Direct convolution; contract in `astrid_gpu.ops.convolve.convolve`. Sums in the dtype of `images`."""
    pixels = np.ascontiguousarray(images)
    _, ky, kx = kernel.shape
    used = np.flatnonzero(np.any(kernel != 0, axis=0).ravel())  # zero taps cost nothing
    padding = -used.size % 4
    taps = np.zeros((kernel.shape[0], used.size + padding), pixels.dtype)
    taps[:, : used.size] = kernel.reshape(kernel.shape[0], -1)[:, used]
    dy = np.zeros(taps.shape[1], np.int64)
    dx = np.zeros(taps.shape[1], np.int64)
    dy[: used.size], dx[: used.size] = ky - 1 - used // kx, kx - 1 - used % kx
    out = np.empty_like(pixels)
    nx = pixels.shape[2]
    whole = (columns[: columns.size - nx + 1] == 0) & (columns[nx - 1 :] == nx - 1)  # a run 0 1 2 ... nx - 1 begins
    _direct(pixels, dy, dx, taps, rows, columns, int(np.argmax(whole)), out)
    return out
