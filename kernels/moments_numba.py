"""Numba twin of ops/moments.py: the sums over windows, in double precision for either type of image."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from astrid_gpu.kernels._pool import share

__all__ = ["measure_moments"]


_SMALL = 200_000  # pixels that one thread sums sooner than another wakes up


@nb.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _sum_row(flat, begin, weights, places, width):  # noqa: ANN001, ANN202 - compiled, types are the caller's
    """Sum w, w d, w d u and w d u² over a row from flat[begin] on, pixels that are not finite left out."""
    sw = sd = su = sxx = 0.0
    first = np.uint64(begin)  # an index that cannot be negative needs no test
    for c in range(width):
        k = np.uint64(c)
        d, u, w = np.float64(flat[first + k]), places[k], weights[k]
        good = abs(d) < np.inf
        w, d = w if good else 0.0, d if good else 0.0
        wd = w * d
        sw += w
        sd += wd
        su += wd * u
        sxx += wd * u * u
    return sw, sd, su, sxx


@nb.njit(cache=True, nogil=True)
def _sum_windows(flat, ny, nx, image, y, x, sigma, radius, mask, out):  # noqa: ANN001, ANN202
    across, places, weights = np.empty(2 * radius + 1), np.empty(2 * radius + 1), np.empty(2 * radius + 1)
    for k in range(y.size):
        cy, cx = int(np.floor(y[k] + 0.5)), int(np.floor(x[k] + 0.5))
        scale = -0.5 / (sigma[k] * sigma[k])
        low = max(0, cx - radius)
        width = max(min(nx, cx + radius + 1) - low, 0)
        for c in range(width):  # the weight is a product: one exponential a row and one a column
            u = low + c - x[k]
            places[c], across[c], weights[c] = u, np.exp(scale * u * u), 0.0
        for m in range(7):
            out[k, m] = 0.0
        for j in range(max(0, cy - radius), min(ny, cy + radius + 1)):
            v, begin = j - y[k], (image[k] * ny + j) * nx + low
            if mask.size:
                here = begin % mask.size  # one mask for all images, or one each
                for c in range(width):
                    weights[c] = across[c] if mask[here + c] == 0 else 0.0
                sw, sd, su, sxx = _sum_row(flat, begin, weights, places, width)
            else:
                sw, sd, su, sxx = _sum_row(flat, begin, across, places, width)
            down = np.exp(scale * v * v)
            out[k, 0] += down * sw
            out[k, 1] += down * sd
            out[k, 2] += down * sd * v
            out[k, 3] += down * su
            out[k, 4] += down * sd * v * v
            out[k, 5] += down * sxx
            out[k, 6] += down * su * v


def measure_moments(images: Any, image: Any, y: Any, x: Any, sigma: Any, radius: int, mask: Any = None) -> np.ndarray:
    """Sum moments in windows; contract in `astrid_gpu.ops.moments.measure_moments`."""
    out = np.empty((len(y), 7))
    flat, (_, ny, nx) = np.ascontiguousarray(images).reshape(-1), images.shape
    plane = np.empty(0, np.uint8) if mask is None else np.ascontiguousarray(mask).view(np.uint8).reshape(-1)
    v, u, s = (np.ascontiguousarray(a, dtype=np.float64) for a in (y, x, sigma))
    which = np.ascontiguousarray(image, dtype=np.int64)
    at_once = max(1, _SMALL // (2 * radius + 1) ** 2)

    def part(task: int) -> None:
        rows = slice(at_once * task, at_once * (task + 1))
        _sum_windows(flat, ny, nx, which[rows], v[rows], u[rows], s[rows], radius, plane, out[rows])

    share(part, -(-len(y) // at_once))
    return out
