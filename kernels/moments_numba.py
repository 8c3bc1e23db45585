"""Numba twin of ops/moments.py: the sums over windows, in double precision for either type of image."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

__all__ = ["measure_moments"]


@nb.njit(parallel=True, cache=True)
def _sum_windows(images, image, y, x, sigma, radius, mask, out):  # noqa: ANN001, ANN202 - compiled
    ny, nx = images.shape[1], images.shape[2]
    for k in nb.prange(y.size):
        cy, cx = int(np.floor(y[k] + 0.5)), int(np.floor(x[k] + 0.5))
        i, scale = image[k], -0.5 / (sigma[k] * sigma[k])
        sw = sd = sv = su = syy = sxx = sxy = 0.0
        low, high = max(0, cx - radius), min(nx, cx + radius + 1)
        across = np.empty(max(high - low, 0))
        for c in range(across.size):  # the weight is a product: one exponential a row and one a column
            across[c] = np.exp(scale * (low + c - x[k]) ** 2)
        for j in range(max(0, cy - radius), min(ny, cy + radius + 1)):
            v = j - y[k]
            down, row = np.exp(scale * v * v), images[i, j]
            for c in range(across.size):
                d = np.float64(row[low + c])
                if not np.isfinite(d) or (mask.size and mask[i % mask.shape[0], j, low + c] != 0):
                    continue
                u = low + c - x[k]
                w = down * across[c]
                wd = w * d
                sw += w
                sd += wd
                sv += wd * v
                su += wd * u
                syy += wd * v * v
                sxx += wd * u * u
                sxy += wd * v * u
        out[k, 0], out[k, 1], out[k, 2], out[k, 3] = sw, sd, sv, su
        out[k, 4], out[k, 5], out[k, 6] = syy, sxx, sxy


def measure_moments(
    images: Any, image: Any, y: Any, x: Any, sigma: Any, radius: int, mask: Any = None
) -> np.ndarray:
    """Sum moments in windows; contract in `astrid_gpu.ops.moments.measure_moments`."""
    out = np.empty((len(y), 7))
    plane = np.empty((0, 0, 0), np.uint8) if mask is None else np.ascontiguousarray(mask).view(np.uint8)
    places = (np.ascontiguousarray(a, dtype=np.float64) for a in (y, x, sigma))
    _sum_windows(images, np.ascontiguousarray(image, dtype=np.int64), *places, radius, plane, out)
    return out
