"""Numba twin of ops/stamps.py."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

__all__ = ["gather_stamps"]


@nb.njit(parallel=True, cache=True)
def _gather(images, image, y, x, fill, out):  # noqa: ANN001, ANN202 - compiled
    ny, nx = images.shape[1], images.shape[2]
    m, size, _ = out.shape
    for k in nb.prange(m):
        y0, x0 = y[k] - size // 2, x[k] - size // 2
        first = min(max(0, -x0), size)
        count = max(0, min(size, nx - x0) - first)
        for j in range(size):
            row = out[k, j]
            if y0 + j < 0 or y0 + j >= ny or count == 0:
                row[:] = fill
                continue
            # Whole slices: indices that may be negative keep the compiler from moving more than a pixel at a time.
            row[:first] = fill
            row[first : first + count] = images[image[k], y0 + j, x0 + first : x0 + first + count]
            row[first + count :] = fill


def gather_stamps(images: Any, image: Any, y: Any, x: Any, size: int, fill: float) -> np.ndarray:
    """Cut windows; contract in `astrid_gpu.ops.stamps.gather_stamps`."""
    out = np.empty((len(y), size, size), images.dtype)
    places = (np.ascontiguousarray(a, dtype=np.int64) for a in (image, y, x))
    _gather(images, *places, np.asarray(fill).astype(images.dtype)[()], out)
    return out
