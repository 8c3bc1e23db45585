"""Launches of kernels/zogy.cu: the fused ZOGY combination and its finish. Mathematics: `astrid_gpu.ops.zogy`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from astrid_gpu.backends.cuda.context import NULL, Context, blocks_for, expect_shape, options_for

__all__ = ["zogy_finish", "zogy_spectra"]

_THREADS = 256
_TILE = (32, 8)
_OUTPUTS = ("score", "score_corr", "flux", "flux_error")  # in the order of the kernel's parameters


def zogy_spectra(ctx: Context, N: Any, R: Any, Pn: Any, Pr: Any, params: Any) -> tuple[Any, Any, Any]:
    """Combine four half spectra into D̂, Ŝ_N and Ŝ_R in one pass over memory.

    Parameters
    ----------
    N : complex64 or complex128 array, shape (n, py, hx)
    R, Pn, Pr : arrays of the type of `N`, shape (n, py, hx) or (1, py, hx)
        A leading 1 is shared by the stack and never repeated in memory.
    params : array, shape (n, 5)
        sigma_n, sigma_r, F_n, F_r, floor of the denominator; host or device, any float type.

    Returns
    -------
    (D, Sn, Sr) : arrays like `N`, new

    Raises
    ------
    ValueError
        A shape does not fit; nothing is launched.

    Notes
    -----
    Cost: each input read once, each output written once. Deterministic.
    """
    xp = ctx.xp
    n, size = N.shape[0], N.shape[1] * N.shape[2]
    N = xp.ascontiguousarray(N)
    R, Pn, Pr = (xp.ascontiguousarray(a, dtype=N.dtype) for a in (R, Pn, Pr))
    params = xp.ascontiguousarray(xp.asarray(params, dtype=N.real.dtype))
    for name, a in (("R", R), ("Pn", Pn), ("Pr", Pr)):
        expect_shape(name, a, N.shape, (1, *N.shape[1:]))
    expect_shape("params", params, (n, 5))
    D, Sn, Sr = (xp.empty_like(N) for _ in range(3))
    kernel = ctx.kernel("zogy.cu", "zogy_spectra", options_for(N.real.dtype))
    kernel(
        (blocks_for(size, _THREADS, 4096), blocks_for(n, 1)),
        (_THREADS,),
        (N, R, Pn, Pr, params, D, Sn, Sr, np.int32(n), np.int64(size), *(_stride(a, size) for a in (R, Pn, Pr))),
    )
    return D, Sn, Sr


def zogy_finish(
    ctx: Context,
    Sn: Any,
    Sr: Any,
    variance: Any,
    scales: Any,
    errors: Any,
    shape: tuple[int, int],
    outputs: Collection[str],
) -> dict[str, Any]:
    """Turn S_N, S_R and the variance of their difference into the maps asked for, cropped to `shape`, in one pass.

    Parameters
    ----------
    Sn, Sr : float32 or float64 array, shape (n, py, px)
    variance : array, shape (n or 1, py, px) or (n or 1, 1, 1)
    scales : array, shape (n, 3)
        From S to score, from S to flux, floor of the variance.
    errors : array, shape (n, 3)
        Registration noise (y, x), 1-sigma pixels; relative error of the flux ratio.
    shape : (ny, nx)
    outputs : subset of {"score", "score_corr", "flux", "flux_error"}

    Returns
    -------
    dict of str to array, shape (n, ny, nx)

    Raises
    ------
    ValueError
        A shape does not fit; nothing is launched.
    """
    xp = ctx.xp
    n, py, px = Sn.shape
    ny, nx = shape
    real = Sn.dtype
    Sn, Sr, variance = (xp.ascontiguousarray(a, dtype=real) for a in (Sn, Sr, variance))
    scales, errors = (xp.ascontiguousarray(xp.asarray(a, dtype=real)) for a in (scales, errors))
    expect_shape("Sr", Sr, Sn.shape)
    expect_shape("variance", variance, *((m, *frame) for m in (n, 1) for frame in ((py, px), (1, 1))))
    expect_shape("scales", scales, (n, 3))
    expect_shape("errors", errors, (n, 3))
    if not (0 < ny <= py and 0 < nx <= px):
        msg = f"shape {shape} does not fit the frame ({py}, {px})"
        raise ValueError(msg)
    maps = {name: xp.empty((n, ny, nx), dtype=real) for name in _OUTPUTS if name in outputs}
    if not maps:
        return maps
    v_n, v_y, v_x = variance.shape
    strides = (
        np.int64(v_y * v_x if v_n > 1 else 0),
        np.int32(v_x if v_y > 1 else 0),
        np.int32(1 if v_x > 1 else 0),
    )
    kernel = ctx.kernel("zogy.cu", "zogy_finish", options_for(real))
    kernel(
        (blocks_for(nx, _TILE[0]), blocks_for(ny, _TILE[1]), blocks_for(n, 1)),
        _TILE,
        (
            *(Sn, Sr, variance, scales, errors),
            *(maps.get(name, NULL) for name in _OUTPUTS),
            *(np.int32(side) for side in (n, py, px, ny, nx)),
            *strides,
        ),
    )
    return maps


def _stride(array: Any, size: int) -> np.int64:
    """Return the distance between images in elements: 0 for one image shared by the stack."""
    return np.int64(size if array.shape[0] > 1 else 0)
