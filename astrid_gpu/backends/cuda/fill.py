"""Launch of kernels/fill.cu: the smooth fill of unusable pixels. Mathematics: `astrid_gpu.ops.fill`."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu.backends.cuda.context import Context, blocks_for, expect_shape, options_for

__all__ = ["fill_masked"]

_TILE = (32, 8)
# As in ops.fill, which this layer may not import; the parity tests hold them equal.
FADE, SHRINK = 0.005, 4.0


def fill_masked(ctx: Context, images: Any, bad: Any, profiles: np.ndarray) -> Any:
    """Replace each bad pixel by a Gaussian-weighted mean of the good pixels round it, less the noise of that mean.

    Parameters
    ----------
    images : float32 or float64 array, shape (n, py, px)
        Finite wherever `bad` is 0.
    bad : bool or uint8 array, shape (n, py, px) or (1, py, px)
        Nonzero = replace.
    profiles : float array, shape (1 or n, radius + 1), on the host
        The Gaussian along one axis (`ops.fill.fill_profiles`).

    Returns
    -------
    array, shape (n, py, px)
        A new array; good pixels are unchanged.

    Raises
    ------
    ValueError
        A shape does not fit; nothing is launched.

    Notes
    -----
    Cost: one pass, and (2 radius + 1)² cached reads a bad pixel. Deterministic.
    """
    xp = ctx.xp
    n, py, px = images.shape
    real = images.dtype
    radius = profiles.shape[1] - 1
    fades = FADE * (2.0 * profiles.sum(axis=1) - profiles[:, 0]) ** 2
    many = profiles.shape[0] > 1
    images, bad = xp.ascontiguousarray(images), xp.ascontiguousarray(bad)
    expect_shape("bad", bad, images.shape, (1, py, px))
    expect_shape("profiles", profiles, (n, radius + 1), (1, radius + 1))
    if 2 * radius + 1 > min(py, px):
        msg = f"a window of {2 * radius + 1} pixels does not fit the frame ({py}, {px}) once; cut it with fill_profiles"
        raise ValueError(msg)
    filled = xp.empty_like(images)
    kernel = ctx.kernel("fill.cu", "fill_masked", options_for(real))
    kernel(
        (blocks_for(px, _TILE[0]), blocks_for(py, _TILE[1]), blocks_for(n, 1)),
        _TILE,
        (
            *(images, bad, xp.asarray(profiles, dtype=real), xp.asarray(fades, dtype=real), filled),
            *(np.int32(value) for value in (n, py, px, radius)),
            real.type(SHRINK),
            np.int64(py * px if bad.shape[0] > 1 else 0),
            *(np.int32(stride if many else 0) for stride in (radius + 1, 1)),
        ),
    )
    return filled
