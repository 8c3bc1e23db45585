"""Launch of kernels/moments.cu; reference in astrid_gpu/ops/moments.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu.backends.cuda.context import NULL, Context, blocks_for
from astrid_gpu.backends.cuda.signature import DOUBLE

__all__ = ["measure_moments"]

_WARPS = 4  # windows a block


def measure_moments(
    ctx: Context, images: Any, image: Any, y: Any, x: Any, sigma: Any, radius: int, mask: Any = None
) -> Any:
    """Sum moments in windows; contract in `astrid_gpu.ops.moments.measure_moments`."""
    xp = ctx.xp
    m = len(y)
    out = xp.empty((m, 7), np.float64)
    if m == 0:
        return out
    _, ny, nx = images.shape
    kernel = ctx.kernel("moments.cu", "measure_moments", (DOUBLE,) if images.dtype == np.float64 else ())
    centre = xp.stack([xp.asarray(a, dtype=np.float64) for a in (y, x, sigma)])
    plane, stride = NULL, 0
    if mask is not None:
        plane, stride = xp.ascontiguousarray(mask), ny * nx if mask.shape[0] > 1 else 0
    kernel(
        (blocks_for(m, _WARPS),),
        (32 * _WARPS,),
        (
            images, plane, xp.ascontiguousarray(xp.asarray(image, dtype=np.int64)), centre, np.int32(ny), np.int32(nx),
            np.int64(stride), np.int32(radius), np.int64(m), out,
        ),
    )  # fmt: skip
    return out
