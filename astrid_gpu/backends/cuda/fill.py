"""Launch of kernels/fill.cu: the smooth fill of unusable pixels. Mathematics: `astrid_gpu.ops.fill`."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu.backends.cuda.context import Context, blocks_for, options_for

__all__ = ["fill_masked"]

_TILE = (32, 8)
# As ops.fill.FADE, which this layer may not import; tests/parity/test_cuda_zogy.py holds the two equal.
FADE = 0.02


def fill_masked(ctx: Context, images: Any, bad: Any, sigma: float, radius: int) -> Any:
    """Replace each bad pixel by a Gaussian-weighted mean of the good pixels round it on a periodic frame.

    Parameters
    ----------
    images : float32 or float64 array, shape (n, py, px)
        Finite wherever `bad` is 0.
    bad : bool or uint8 array, shape (n, py, px) or (1, py, px)
        Nonzero = replace.
    sigma : float
        Width of the Gaussian in pixels.
    radius : int
        Half side of the window in pixels, cut to what fits the frame once.

    Returns
    -------
    array, shape (n, py, px)
        A new array; good pixels are unchanged.

    Notes
    -----
    Cost: one pass, and (2 radius + 1)² cached reads a bad pixel. Deterministic.
    """
    xp = ctx.xp
    n, py, px = images.shape
    real = images.dtype
    radius = min(int(radius), (min(py, px) - 1) // 2)
    line = np.exp(-(np.arange(radius + 1) ** 2) / (2.0 * sigma * sigma))
    full = (2.0 * line.sum() - 1.0) ** 2
    images, bad = xp.ascontiguousarray(images), xp.ascontiguousarray(bad)
    filled = xp.empty_like(images)
    kernel = ctx.kernel("fill.cu", "fill_masked", options_for(real))
    kernel(
        (blocks_for(px, _TILE[0]), blocks_for(py, _TILE[1]), blocks_for(n, 1)),
        _TILE,
        (
            *(images, bad, xp.asarray(line, dtype=real), filled),
            *(np.int32(value) for value in (n, py, px, radius)),
            real.type(FADE * full),
            np.int64(py * px if bad.shape[0] > 1 else 0),
        ),
    )
    return filled
