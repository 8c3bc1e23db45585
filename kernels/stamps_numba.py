"""Numba twin of ops/stamps.py."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from astrid_gpu.kernels._pool import share

__all__ = ["gather_stamps"]


_SMALL = 100_000  # pixels that one thread cuts sooner than another wakes up


@nb.njit(cache=True, nogil=True)
def _cut(images, image, y, x, fill, out):  # noqa: ANN001, ANN202 - compiled
    ny, nx = images.shape[1], images.shape[2]
    size = out.shape[1]
    for k in range(out.shape[0]):
        y0, x0 = y[k] - size // 2, x[k] - size // 2
        first = min(max(0, -x0), size)
        last = max(min(size, nx - x0), first)
        for j in range(size):
            row = out[k, j]
            begin, end = (first, last) if 0 <= y0 + j < ny else (size, size)
            for i in range(begin):
                row[i] = fill
            if end > begin:
                part = images[image[k], y0 + j, x0 + begin : x0 + end]
                here = row[begin:end]  # indices that count from 0: others are checked for a sign, one at a time
                for i in range(part.size):
                    here[i] = part[i]
            for i in range(end, size):
                row[i] = fill


def gather_stamps(images: Any, image: Any, y: Any, x: Any, size: int, fill: float) -> np.ndarray:
    """Cut windows; contract in `astrid_gpu.ops.stamps.gather_stamps`."""
    out = np.empty((len(y), size, size), images.dtype)
    which, v, u = (np.ascontiguousarray(a, dtype=np.int64) for a in (image, y, x))
    value = np.asarray(fill).astype(images.dtype)[()]
    at_once = max(1, _SMALL // max(size * size, 1))

    def part(task: int) -> None:
        rows = slice(at_once * task, at_once * (task + 1))
        _cut(images, which[rows], v[rows], u[rows], value, out[rows])

    share(part, -(-len(y) // at_once))
    return out
