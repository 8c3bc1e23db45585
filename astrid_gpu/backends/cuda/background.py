"""Launch code of kernels/background.cu."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu.backends.cuda.context import NULL, Context, blocks_for
from astrid_gpu.backends.cuda.signature import DOUBLE

__all__ = ["mesh_interpolate", "mesh_statistics"]

_THREADS = 256
_ROWS_A_BLOCK = 8  # rows that one block of mesh_interpolate shares its weights over
_HELD = 4096  # pixels of a box that a block keeps in registers: THREADS * HELD of background.cu
_MAX_GRID = 65535  # largest grid along y and z
_STATISTICS = {"sextractor": 0, "median": 1, "mean": 2}


def mesh_statistics(
    ctx: Context, images: Any, mask: Any, box: int, clip: float, statistic: str
) -> tuple[Any, Any, Any]:
    """Clipped statistics of the mesh boxes; contract in `astrid_gpu.ops.background.mesh_statistics`.

    In float32; float64 images are rounded to it first.
    """
    xp = ctx.xp
    pixels = xp.ascontiguousarray(images, dtype=np.float32)
    n, ny, nx = pixels.shape
    by, bx = -(-ny // box), -(-nx // box)
    level, rms = xp.empty((n, by, bx), np.float64), xp.empty((n, by, bx), np.float64)
    count = xp.empty((n, by, bx), np.int32)
    flags = None if mask is None else xp.ascontiguousarray(mask, dtype=np.bool_)
    shared = flags is not None and flags.shape[0] == 1
    largest = -(-ny // by) * -(-nx // bx)  # no box has more pixels
    kernel = ctx.kernel("background.cu", "mesh_statistics_held" if largest <= _HELD else "mesh_statistics")
    for first in range(0, n, _MAX_GRID):
        part = slice(first, min(n, first + _MAX_GRID))
        kernel(
            (bx, by, part.stop - first),
            (_THREADS,),
            (
                pixels[part],
                NULL if flags is None else (flags if shared else flags[part]),
                level[part],
                rms[part],
                count[part],
                np.int32(ny),
                np.int32(nx),
                np.int64(0 if shared else ny * nx),
                np.float64(clip),
                np.int32(_STATISTICS[statistic]),
            ),
        )
    return level, rms, count


def mesh_interpolate(ctx: Context, mesh: Any, rows: Any, columns: Any, dtype: Any) -> Any:
    """Bicubic spline through a mesh; contract in `astrid_gpu.ops.background.mesh_interpolate`.

    The small product along y runs in float64 on `xp`, the many pixels along x in the kernel, in `dtype`.
    """
    xp = ctx.xp
    kind = np.dtype(dtype)
    nodes, bends = _along_x(mesh, rows, columns, kind, xp)
    n, ny, bx = nodes.shape
    nx = columns.left.size
    out = xp.empty((n, ny, nx), kind)
    table = [xp.asarray(a) for a in (columns.left, columns.right, columns.weights.astype(kind))]
    options = (DOUBLE,) if kind == np.float64 else ()
    kernel = ctx.kernel("background.cu", "mesh_interpolate", options)
    sizes = (np.int32(ny), np.int32(nx), np.int32(bx))
    grid = (blocks_for(nx, _THREADS), blocks_for(ny, _ROWS_A_BLOCK))
    for first in range(0, n, _MAX_GRID):
        part = slice(first, min(n, first + _MAX_GRID))
        kernel((*grid, part.stop - first), (_THREADS,), (nodes[part], bends[part], *table, out[part], *sizes))
    return out


def _along_x(mesh: Any, rows: Any, columns: Any, kind: np.dtype, xp: Any) -> tuple[Any, Any]:
    """Evaluate the splines along y and return node values and second derivatives along x, (n, ny, bx)."""
    w = xp.asarray(rows.weights)[:, :, None]
    left, right = xp.asarray(rows.left), xp.asarray(rows.right)
    curved = xp.matmul(xp.asarray(rows.curvature), mesh)
    nodes = w[0] * mesh[:, left] + w[1] * mesh[:, right] + w[2] * curved[:, left] + w[3] * curved[:, right]
    bends = xp.matmul(nodes, xp.asarray(columns.curvature).T)
    return tuple(xp.ascontiguousarray(a.astype(kind)) for a in (nodes, bends))
