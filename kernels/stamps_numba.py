"""Numba twin of ops/stamps.py."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

__all__ = ["gather_stamps"]


_SMALL = 200_000  # pixels that one thread cuts sooner than a team of threads wakes up


@nb.njit(cache=True)
def _cut(images, image, y0, x0, fill, out):  # noqa: ANN001, ANN202 - compiled
    ny, nx = images.shape[1], images.shape[2]
    size = out.shape[0]
    first = min(max(0, -x0), size)
    count = max(0, min(size, nx - x0) - first)
    for j in range(size):
        row = out[j]
        if y0 + j < 0 or y0 + j >= ny or count == 0:
            row[:] = fill
            continue
        # Whole slices: indices that may be negative keep the compiler from moving more than a pixel at a time.
        row[:first] = fill
        row[first : first + count] = images[image, y0 + j, x0 + first : x0 + first + count]
        row[first + count :] = fill


@nb.njit(parallel=True, cache=True)
def _gather_many(images, image, y, x, fill, out):  # noqa: ANN001, ANN202
    half = out.shape[1] // 2
    for k in nb.prange(out.shape[0]):
        _cut(images, image[k], y[k] - half, x[k] - half, fill, out[k])


@nb.njit(cache=True)
def _gather_few(images, image, y, x, fill, out):  # noqa: ANN001, ANN202
    half = out.shape[1] // 2
    for k in range(out.shape[0]):
        _cut(images, image[k], y[k] - half, x[k] - half, fill, out[k])


def gather_stamps(images: Any, image: Any, y: Any, x: Any, size: int, fill: float) -> np.ndarray:
    """Cut windows; contract in `astrid_gpu.ops.stamps.gather_stamps`."""
    out = np.empty((len(y), size, size), images.dtype)
    places = (np.ascontiguousarray(a, dtype=np.int64) for a in (image, y, x))
    gather = _gather_few if out.size < _SMALL else _gather_many
    gather(images, *places, np.asarray(fill).astype(images.dtype)[()], out)
    return out
