"""Launch of kernels/stamps.cu; reference in astrid_gpu/ops/stamps.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu.backends.cuda.context import Context, blocks_for
from astrid_gpu.backends.cuda.signature import DOUBLE

__all__ = ["gather_stamps"]


def gather_stamps(ctx: Context, images: Any, image: Any, y: Any, x: Any, size: int, fill: float) -> Any:
    """Cut windows; contract in `astrid_gpu.ops.stamps.gather_stamps`. Masks are uint8 or bool, images float."""
    xp = ctx.xp
    out = xp.empty((len(y), size, size), images.dtype)
    if len(y) == 0:
        return out
    where = xp.stack([xp.asarray(a, dtype=np.int64) for a in (image, y, x)])
    if images.dtype.itemsize == 1:
        kernel, value = ctx.kernel("stamps.cu", "gather_masks"), np.uint8(fill)
    else:
        options = (DOUBLE,) if images.dtype == np.float64 else ()
        kernel, value = ctx.kernel("stamps.cu", "gather_stamps", options), images.dtype.type(fill)
    _, ny, nx = images.shape
    kernel(
        (blocks_for(out.size, 256),),
        (256,),
        (images, where, out, np.int32(ny), np.int32(nx), np.int32(size), value, np.int64(len(y))),
    )
    return out
