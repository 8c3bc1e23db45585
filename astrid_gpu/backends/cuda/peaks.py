"""Launch of kernels/peaks.cu; reference in astrid_gpu/ops/peaks.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu.backends.cuda.context import NULL, Context, blocks_for
from astrid_gpu.backends.cuda.signature import DOUBLE
from astrid_gpu.ops.peaks import Maxima, select_peaks

__all__ = ["find_peaks", "local_maxima"]

_THREADS = 256
_MOST_IMAGES = 32768  # a grid has at most 65535 rows


def find_peaks(
    ctx: Context, images: Any, threshold: Any, mask: Any, min_separation: float, both: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Find the peaks of a stack; contract in `astrid_gpu.ops.peaks.find_peaks`. One number and the peaks come back."""
    found = local_maxima(ctx, images, threshold, mask, both)
    return select_peaks(images, mask, found, min_separation, both, xp=ctx.xp)


def local_maxima(ctx: Context, images: Any, threshold: Any, mask: Any, both: bool, *, capacity: int = 0) -> Maxima:
    """Return the maxima of step 1. If `capacity` (0: one pixel in 256) does not hold them, it runs again with room."""
    n, ny, nx = images.shape
    if n > _MOST_IMAGES:
        halves = (slice(0, n // 2), slice(n // 2, n))
        parts = [_part(ctx, images, threshold, mask, both, capacity, rows) for rows in halves]
        return Maxima(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    xp = ctx.xp
    kernel = ctx.kernel("peaks.cu", "local_maxima", (DOUBLE,) if images.dtype == np.float64 else ())
    levels = xp.asarray(threshold).astype(images.dtype)
    plane, stride = NULL, 0
    if mask is not None:
        plane, stride = xp.ascontiguousarray(mask), ny * nx if mask.shape[0] > 1 else 0
    room = capacity or max(1024, images.size // 256)
    while True:
        count = xp.zeros(1, np.uint64)
        key, value, tied = xp.empty(room, np.int64), xp.empty(room, np.float64), xp.empty(room, np.uint8)
        kernel(
            (blocks_for(ny * nx, _THREADS, 4096), n),
            (_THREADS,),
            (
                images, plane, levels, np.int32(ny), np.int32(nx), np.int64(stride), np.int32(both), np.int64(room),
                count, key, value, tied,
            ),
        )  # fmt: skip
        found = int(count[0])
        if found <= room:
            break
        room = found
    host = [a[:found].get() if hasattr(a, "get") else a[:found] for a in (key, value, tied)]
    image, pixel = host[0] // (ny * nx), host[0] % (ny * nx)
    return Maxima(image, pixel // nx, pixel % nx, host[1], host[2].astype(bool))


def _part(ctx: Context, images: Any, threshold: Any, mask: Any, both: bool, capacity: int, rows: slice) -> Maxima:
    shared = mask is None or mask.shape[0] == 1
    found = local_maxima(ctx, images[rows], threshold[rows], mask if shared else mask[rows], both, capacity=capacity)
    return found._replace(image=found.image + rows.start)
