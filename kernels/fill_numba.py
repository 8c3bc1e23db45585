"""Numba twin of ops/fill.py: one gather per bad pixel."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

__all__ = ["fill_masked"]

_FADE = 0.02  # astrid_gpu.ops.fill.FADE; kernels import nothing from above, the parity test holds the two together


@nb.njit(parallel=True, cache=True)
def _fill(images, bad, weights, full, out):  # noqa: ANN001, ANN202 - compiled, types are the caller's
    n, py, px = images.shape
    side = weights.shape[0]
    radius = side // 2
    for row in nb.prange(n * py):
        i, y = row // py, row % py
        j = i % bad.shape[0]
        for x in range(px):
            if bad[j, y, x] == 0:
                out[i, y, x] = images[i, y, x]
                continue
            total, weight = 0.0, 0.0
            for dy in range(side):
                yy = (y + dy - radius + py) % py
                for dx in range(side):
                    xx = x + dx - radius
                    xx = xx + px if xx < 0 else (xx - px if xx >= px else xx)
                    if bad[j, yy, xx] == 0:
                        g = weights[dy, dx]
                        total += g * images[i, yy, xx]
                        weight += g
            out[i, y, x] = total / (weight + full)


def fill_masked(images: Any, bad: Any, sigma: float, radius: int) -> np.ndarray:
    """Fill bad pixels from the good ones round them; contract in `astrid_gpu.ops.fill.fill_masked`."""
    radius = min(radius, (min(images.shape[1:]) - 1) // 2)
    offset = np.arange(-radius, radius + 1)
    weights = np.exp(-(offset[:, None] ** 2 + offset[None, :] ** 2) / (2 * sigma * sigma))
    out = np.empty_like(images)
    _fill(images, np.ascontiguousarray(bad).view(np.uint8), weights, _FADE * weights.sum(), out)
    return out
