"""Launch of kernels/peaks.cu; reference in astrid_gpu/ops/peaks.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu.backends.cuda.context import NULL, Context, blocks_for
from astrid_gpu.backends.cuda.signature import DOUBLE

__all__ = ["find_peaks"]

_THREADS = 256
_MOST_IMAGES = 32768  # a grid has at most 65535 rows


def find_peaks(
    ctx: Context, images: Any, threshold: Any, mask: Any, both: bool, *, capacity: int = 0
) -> tuple[np.ndarray, ...]:
    """Find local maxima; contract in `astrid_gpu.ops.peaks.find_peaks`. One number and the maxima leave the device.

    There is room for `capacity` of them (0: one pixel in 256); if that does not do, the kernel runs again with room.
    """
    n, ny, nx = images.shape
    if n > _MOST_IMAGES:
        halves = (slice(0, n // 2), slice(n // 2, n))
        parts = [_part(ctx, images, threshold, mask, both, capacity, rows) for rows in halves]
        return tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))
    found = _launch(ctx, images, threshold, mask, both, capacity or max(1024, images.size // 256))
    key, value, tied = (a.get() if hasattr(a, "get") else a for a in found)
    image, pixel = key // (ny * nx), key % (ny * nx)
    return image, pixel // nx, pixel % nx, value, tied.astype(bool)


def _launch(ctx: Context, images: Any, threshold: Any, mask: Any, both: bool, room: int) -> tuple[Any, Any, Any]:
    """Run the kernel until its output fits; return keys, values and ties on the device."""
    n, ny, nx = images.shape
    xp = ctx.xp
    kernel = ctx.kernel("peaks.cu", "local_maxima", (DOUBLE,) if images.dtype == np.float64 else ())
    levels = xp.asarray(threshold).astype(images.dtype)
    plane, stride = NULL, 0
    if mask is not None:
        plane, stride = xp.ascontiguousarray(mask), ny * nx if mask.shape[0] > 1 else 0
    while True:
        count = xp.zeros(1, np.uint64)
        key, value, tied = xp.empty(room, np.int64), xp.empty(room, np.float64), xp.empty(room, np.uint8)
        kernel(
            (blocks_for(ny * nx, 4 * _THREADS, 4096), n),
            (_THREADS,),
            (
                images, plane, levels, np.int32(ny), np.int32(nx), np.int64(stride), np.int32(both), np.int64(room),
                count, key, value, tied,
            ),
        )  # fmt: skip
        found = int(count[0])
        if found <= room:
            return key[:found], value[:found], tied[:found]
        room = found


def _part(
    ctx: Context, images: Any, threshold: Any, mask: Any, both: bool, capacity: int, rows: slice
) -> tuple[np.ndarray, ...]:
    shared = mask is None or mask.shape[0] == 1
    part = mask if shared else mask[rows]
    image, *rest = find_peaks(ctx, images[rows], threshold[rows], part, both, capacity=capacity)
    return image + rows.start, *rest
