"""Launch of image_extremes in kernels/zogy_frames.cuh; reference in astrid_gpu/ops/extremes.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu.backends.cuda.context import Context, blocks_for, options_for

__all__ = ["extremes"]

_PIXELS = 1024  # of a block in one round
_MOST_BLOCKS = 512  # of an image; the grid's other side is the images
_MOST_IMAGES = 65535


def extremes(ctx: Context, images: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Look through a stack once; contract in `astrid_gpu.ops.extremes.extremes`. float32 or float64; the host waits."""
    xp = ctx.xp
    n, size = images.shape[0], images.shape[1] * images.shape[2]
    if n > _MOST_IMAGES:
        halves = extremes(ctx, images[: n // 2]), extremes(ctx, images[n // 2 :])
        finite, least, most = (np.concatenate(pair) for pair in zip(*halves, strict=True))
        return finite, least, most
    blocks = blocks_for(size, _PIXELS, _MOST_BLOCKS)
    parts = xp.empty((n, blocks, 3), images.dtype)
    kernel = ctx.kernel("zogy.cu", "image_extremes", options_for(images.dtype))
    kernel((blocks, n), (256,), (xp.ascontiguousarray(images), parts, np.int64(size)))
    host = (parts.get() if hasattr(parts, "get") else parts).astype(np.float64)
    return host[:, :, 2].all(axis=1), host[:, :, 0].min(axis=1), host[:, :, 1].max(axis=1)
