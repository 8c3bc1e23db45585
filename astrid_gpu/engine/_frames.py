"""From images with holes and edges to periodic frames without: masks, units, padding, smooth fill."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from astrid_gpu.backends import Backend
from astrid_gpu.flags import INVALID, PixelFlag
from astrid_gpu.ops import fill as reference_fill
from astrid_gpu.ops.mask import border, dilate

__all__ = ["FILL_UNCERTAINTY", "Frames", "combine_masks", "fill_frames", "reach_flags"]

FILL_UNCERTAINTY = 1.0
"""1-sigma error of a filled pixel as a fraction of the fill itself: beside a saturated core, or a star cut by the
edge of the frame, what is missing is as uncertain as it is bright; on blank sky it is nearly nothing."""


class Frames(NamedTuple):
    """Periodic frames (m, py, px) ready to transform, in units of the image's own noise."""

    data: Any
    variance: Any


def combine_masks(backend: Backend, science: Any, reference: Any, mask: Any | None) -> Any:
    """Return pixel flags uint8 (1 or n, ny, nx): the caller's mask and the pixels that are not finite.

    A boolean mask marks pixels bad in both images; an integer one holds bits of `PixelFlag`.
    """
    xp = backend.xp
    lost_science = ~xp.isfinite(science)
    lost_reference = ~xp.isfinite(reference)
    flags = xp.zeros((1, *science.shape[1:]), dtype=xp.uint8)
    if mask is not None:
        both = int(PixelFlag.BAD_SCIENCE | PixelFlag.BAD_REFERENCE)
        flags = xp.where(mask, xp.uint8(both), xp.uint8(0)) if mask.dtype == bool else mask.astype(xp.uint8)
    for lost, bit in ((lost_science, PixelFlag.BAD_SCIENCE), (lost_reference, PixelFlag.BAD_REFERENCE)):
        if bool(lost.any()):
            flags = flags | xp.where(lost, xp.uint8(int(bit)), xp.uint8(0))
    return flags


def fill_frames(
    backend: Backend,
    images: Any,
    variance: Any,
    invalid: Any,
    padded: tuple[int, int],
    *,
    unit: float,
    sigma: float,
    radius: int,
) -> Frames:
    """Pad images to a periodic frame, fill the padding and the invalid pixels, and carry the variance along.

    Parameters
    ----------
    images : array (m, ny, nx)
    variance : array (1 or m, ny, nx) or float
        In the square of the unit of `images`.
    invalid : bool array (1 or m', ny, nx)
        If it differs from image to image the result has m' frames.
    unit : float
        Divides the images, and its square the variance.
    sigma, radius : float, int
        Window of `ops.fill.fill_masked`.

    Notes
    -----
    Padding is filled as holes are, and its variance is FILL_UNCERTAINTY² times the square of the fill: blank sky
    beyond the edge adds no noise, so V(S) is right up to the last pixel, and a star cut by the edge raises V(S)
    as far as it can be wrong.
    """
    xp = backend.xp
    ny, nx = images.shape[1:]
    m = max(images.shape[0], invalid.shape[0])
    frame = xp.zeros((m, *padded), dtype=images.dtype)
    frame[:, :ny, :nx] = xp.where(invalid, xp.zeros((), images.dtype), images) * images.dtype.type(1 / unit)
    bad = xp.ones((invalid.shape[0], *padded), dtype=xp.uint8)
    bad[:, :ny, :nx] = invalid
    fill = backend.ops.get("fill_masked")
    if fill is None:
        filled = reference_fill.fill_masked(frame, bad, sigma, radius, xp=xp)
    else:
        filled = fill(frame, bad, sigma, radius)
    error = (FILL_UNCERTAINTY * xp.where(bad != 0, filled, xp.zeros((), filled.dtype))) ** 2
    # A very uncertain fill would drown the blank sky in single-precision rounding: transform it in double.
    spread = error.astype(np.float64) if bool(error.max() > 1e3) else error
    if isinstance(variance, float):
        spread[:, :ny, :nx] += xp.where(invalid, 0, 1).astype(spread.dtype) * spread.dtype.type(variance / unit**2)
    else:
        scaled = xp.where(invalid, xp.zeros((), variance.dtype), variance) * (1 / unit**2)
        spread[:, :ny, :nx] += scaled.astype(spread.dtype)
    return Frames(filled, spread)


def reach_flags(backend: Backend, flags: Any, radius: int) -> Any:
    """Add the NEAR_BAD and EDGE bits within `radius` pixels of invalid pixels and of the frame's edge."""
    xp = backend.xp
    invalid = (flags & INVALID) != 0
    near = dilate(invalid, radius, xp=xp) & ~invalid if bool(invalid.any()) else invalid
    edge = border(flags.shape[1:], radius, xp=xp)
    flags = flags | xp.where(near, xp.uint8(int(PixelFlag.NEAR_BAD)), xp.uint8(0))
    return flags | xp.where(edge, xp.uint8(int(PixelFlag.EDGE)), xp.uint8(0))[None]
