"""Launches of kernels/resample.cu; reference in astrid_gpu/ops/resample.py."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from astrid_gpu.backends.cuda.context import NULL, Context, blocks_for, expect_shape, options_for

__all__ = ["resample"]

_THREADS = 128
_TILE = (32, 8)
# Values of the B-splines of degree 3 and 5 on pixels, from the middle on.
_SAMPLED = {"cubic": (4 / 6, 1 / 6), "quintic": (66 / 120, 26 / 120, 1 / 120)}


def resample(
    ctx: Context,
    images: Any,
    y_map: Any,
    x_map: Any,
    kernel: str,
    bad: Any = None,
    beyond: float = 0.5,
    filtered: bool = False,
) -> Any:
    """Read images at positions; contract in `astrid_gpu.ops.resample.resample`. float32 or float64.

    Raises
    ------
    ValueError
        `y_map` and `x_map`, or `images` and `bad`, differ in shape; nothing is launched.
    """
    xp = ctx.xp
    options = options_for(images.dtype)
    n, ny, nx = images.shape
    y_map, x_map = (xp.ascontiguousarray(positions, dtype=np.float64) for positions in (y_map, x_map))
    expect_shape("x_map", x_map, y_map.shape)
    out = xp.empty((n, *y_map.shape), images.dtype)
    if out.size == 0:
        return out
    source = xp.ascontiguousarray(images)
    if kernel in _SAMPLED and not filtered:
        source = _coefficients(ctx, source, kernel)
    if bad is not None:
        expect_shape("bad", bad, images.shape)
        bad = xp.ascontiguousarray(bad)
    ctx.kernel("resample.cu", f"resample_{kernel}", options)(
        (blocks_for(y_map.size, _THREADS, 1 << 20),),
        (_THREADS,),
        (
            source, y_map, x_map, NULL if bad is None else bad, out, np.int32(n), np.int32(ny), np.int32(nx),
            np.int64(y_map.size), np.float64(beyond),
        ),
    )  # fmt: skip
    return out


def _coefficients(ctx: Context, images: Any, kernel: str) -> Any:
    """Return the spline coefficients of images, filtered along x and then along y."""
    n, ny, nx = images.shape
    half = _filter(kernel, images.dtype == np.float64)
    taps = ctx.xp.asarray(half.astype(images.dtype))
    launch = ctx.kernel("resample.cu", "spline_filter", options_for(images.dtype))
    for across in (True, False):
        out = ctx.xp.empty_like(images)
        sizes = (np.int32(ny), np.int32(nx), np.int32(len(half) - 1), np.int32(across))
        launch((blocks_for(nx, _TILE[0]), blocks_for(ny, _TILE[1]), n), _TILE, (images, out, taps, *sizes))
        images = out
    return images


@lru_cache(maxsize=4)
def _filter(kernel: str, double: bool) -> np.ndarray:
    """Return half of the filter that undoes the sampled B-spline, from its middle on, to the rounding of the type."""
    size = 512
    line = np.zeros(size)
    for k, value in enumerate(_SAMPLED[kernel]):
        line[k] = line[-k] = value
    taps = np.fft.irfft(1.0 / np.fft.rfft(line).real, size)[: size // 4]
    return taps[: 1 + int(np.flatnonzero(np.abs(taps) > (1e-17 if double else 3e-9)).max())]
