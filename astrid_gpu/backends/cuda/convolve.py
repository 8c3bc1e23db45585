"""Launch code of kernels/convolve.cu."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu.backends.cuda.context import Context
from astrid_gpu.backends.cuda.signature import DOUBLE

__all__ = ["convolve"]

_TILE = 32
_BLOCK = (32, 8)
_MAX_GRID = 65535  # largest grid along z


def convolve(ctx: Context, images: Any, kernel: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> Any:
    """Direct convolution; contract in `astrid_gpu.ops.convolve.convolve`. Sums in the dtype of `images`."""
    xp = ctx.xp
    pixels = xp.ascontiguousarray(images)
    n, ny, nx = pixels.shape
    shared, ky, kx = kernel.shape[0] == 1, *kernel.shape[1:]
    taps = xp.asarray(np.ascontiguousarray(kernel[:, ::-1, ::-1], dtype=pixels.dtype))
    table = (xp.asarray(rows), xp.asarray(columns))
    sizes = (np.int32(ny), np.int32(nx), np.int32(ky), np.int32(kx), np.int64(0 if shared else ky * kx))
    out = xp.empty_like(pixels)
    launch = ctx.kernel("convolve.cu", "convolve_direct", (DOUBLE,) if pixels.dtype == np.float64 else ())
    grid = (-(-nx // _TILE), -(-ny // _TILE))
    for first in range(0, n, _MAX_GRID):
        part = slice(first, min(n, first + _MAX_GRID))
        own = taps if shared else taps[part]
        launch((*grid, part.stop - first), _BLOCK, (pixels[part], own, *table, out[part], *sizes))
    return out
