"""Numba twin of ops/moments.py: the sums over windows, in double precision for either type of image."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from astrid_gpu.kernels._pool import share

__all__ = ["measure_moments"]


_SMALL = 200_000  # pixels that one thread sums sooner than another wakes up


@nb.njit(cache=True, nogil=True)
def _sum_window(images, i, y, x, sigma, radius, mask, across, out):  # noqa: ANN001, ANN202 - compiled
    ny, nx = images.shape[1], images.shape[2]
    cy, cx = int(np.floor(y + 0.5)), int(np.floor(x + 0.5))
    scale = -0.5 / (sigma * sigma)
    sw = sd = sv = su = syy = sxx = sxy = 0.0
    low, high = max(0, cx - radius), min(nx, cx + radius + 1)
    width = max(high - low, 0)
    for c in range(width):  # the weight is a product: one exponential a row and one a column
        across[c] = np.exp(scale * (low + c - x) ** 2)
    for j in range(max(0, cy - radius), min(ny, cy + radius + 1)):
        v = j - y
        down, row = np.exp(scale * v * v), images[i, j]
        for c in range(width):
            d = np.float64(row[low + c])
            if not np.isfinite(d) or (mask.size and mask[i % mask.shape[0], j, low + c] != 0):
                continue
            u = low + c - x
            w = down * across[c]
            wd = w * d
            sw += w
            sd += wd
            sv += wd * v
            su += wd * u
            syy += wd * v * v
            sxx += wd * u * u
            sxy += wd * v * u
    out[0], out[1], out[2], out[3], out[4], out[5], out[6] = sw, sd, sv, su, syy, sxx, sxy


@nb.njit(cache=True, nogil=True)
def _sum_windows(images, image, y, x, sigma, radius, mask, out):  # noqa: ANN001, ANN202
    across = np.empty(2 * radius + 1)
    for k in range(y.size):
        _sum_window(images, image[k], y[k], x[k], sigma[k], radius, mask, across, out[k])


def measure_moments(images: Any, image: Any, y: Any, x: Any, sigma: Any, radius: int, mask: Any = None) -> np.ndarray:
    """Sum moments in windows; contract in `astrid_gpu.ops.moments.measure_moments`."""
    out = np.empty((len(y), 7))
    plane = np.empty((0, 0, 0), np.uint8) if mask is None else np.ascontiguousarray(mask).view(np.uint8)
    v, u, s = (np.ascontiguousarray(a, dtype=np.float64) for a in (y, x, sigma))
    which = np.ascontiguousarray(image, dtype=np.int64)
    at_once = max(1, _SMALL // (2 * radius + 1) ** 2)

    def part(task: int) -> None:
        rows = slice(at_once * task, at_once * (task + 1))
        _sum_windows(images, which[rows], v[rows], u[rows], s[rows], radius, plane, out[rows])

    share(part, -(-len(y) // at_once))
    return out
