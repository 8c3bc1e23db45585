"""Numba twin of ops/stamps.py."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

__all__ = ["gather_stamps"]


@nb.njit(parallel=True, cache=True)
def _gather(images, image, y, x, out):  # noqa: ANN001, ANN202 - compiled
    ny, nx = images.shape[1], images.shape[2]
    m, size, _ = out.shape
    for k in nb.prange(m):
        y0, x0 = y[k] - size // 2, x[k] - size // 2
        first, last = max(0, -x0), min(size, nx - x0)
        for j in range(max(0, -y0), min(size, ny - y0)):
            for i in range(first, last):
                out[k, j, i] = images[image[k], y0 + j, x0 + i]


def gather_stamps(images: Any, image: Any, y: Any, x: Any, size: int, fill: float) -> np.ndarray:
    """Cut windows; contract in `astrid_gpu.ops.stamps.gather_stamps`."""
    out = np.full((len(y), size, size), np.asarray(fill).astype(images.dtype), images.dtype)
    _gather(images, *(np.ascontiguousarray(a, dtype=np.int64) for a in (image, y, x)), out)
    return out
