"""From images with holes and edges to periodic frames without: masks, units, padding, smooth fill."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from astrid_gpu.backends import Backend
from astrid_gpu.flags import INVALID, PixelFlag
from astrid_gpu.ops import extremes as reference_extremes
from astrid_gpu.ops import fill as reference_fill
from astrid_gpu.ops.fourier import transfer_function
from astrid_gpu.ops.mask import dilate

__all__ = ["FILL_UNCERTAINTY", "NEGLIGIBLE", "Frames", "combine_masks", "extremes", "fill_frames", "reach_flags"]

FILL_UNCERTAINTY = 3.0
"""Error of a filled pixel as a fraction of the fill, where all of the pixel's surroundings are missing: in a saturated
core, or a star cut by the edge of the frame, what is missing may well be thrice as bright as its rim suggests. It falls
with the part of the window that is missing: a lone bad pixel is known from its neighbours to a few tens of per cent; on
blank sky the fill is nothing and so is its error. The errors of neighbouring filled pixels have one cause and add up
coherently: |k| * error, squared, goes into V(S)."""


NEGLIGIBLE = 1.0
"""Fills below this many sigma of the background are what is left of noise peaks; their errors are not followed."""


class Frames(NamedTuple):
    """Periodic frames (m, py, px) ready to transform, in units of the image's own noise.

    `variance` is that of the pixels that were measured, 0 elsewhere; `error` the largest likely error of the filled
    ones, None if nothing was filled with anything.
    """

    data: Any
    variance: Any
    error: Any


def combine_masks(
    backend: Backend, science: Any, reference: Any, mask: Any | None, finite: tuple[bool, bool] = (False, False)
) -> Any:
    """Return pixel flags uint8 (1 or n, ny, nx): the caller's mask and the pixels that are not finite.

    A boolean mask marks pixels bad in both images; an integer one holds bits of `PixelFlag`. `finite` tells which of
    the two images are known to hold finite pixels only.
    """
    xp = backend.xp
    flags = xp.zeros((1, *science.shape[1:]), dtype=xp.uint8)
    if mask is not None:
        both = int(PixelFlag.BAD_SCIENCE | PixelFlag.BAD_REFERENCE)
        flags = xp.where(mask, xp.uint8(both), xp.uint8(0)) if mask.dtype == bool else mask.astype(xp.uint8)
    bits = PixelFlag.BAD_SCIENCE, PixelFlag.BAD_REFERENCE
    for images, bit, good in zip((science, reference), bits, finite, strict=True):
        lost = None if good else ~xp.isfinite(images)
        if lost is not None and bool(lost.any()):
            flags = flags | xp.where(lost, xp.uint8(int(bit)), xp.uint8(0))
    return flags


def extremes(backend: Backend, images: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return whether each image is finite, and its smallest and largest value, (n,) each on the host."""
    fused = backend.ops.get("extremes")
    return fused(images) if fused else reference_extremes.extremes(images, xp=backend.xp)


def fill_frames(
    backend: Backend,
    images: Any,
    variance: Any,
    invalid: Any,
    padded: tuple[int, int],
    *,
    unit: np.ndarray,
    profiles: np.ndarray,
) -> Frames:
    """Pad images to a periodic frame, fill the padding and the invalid pixels, and carry the variance along.

    Parameters
    ----------
    images : array (m, ny, nx)
    variance : array (1 or m, ny, nx) or float
        In the square of the unit of `images`.
    invalid : bool array (1 or m', ny, nx)
        If it differs from image to image the result has m' frames.
    unit : array (n,)
        Noise of each image: divides it, and its square the variance. A shared image stays shared if all are equal.
    profiles : array (1 or m, radius + 1)
        Windows of `ops.fill.fill_masked`.

    Notes
    -----
    Padding is filled as holes are. Blank sky beyond the edge is filled with nothing and has no variance, so V(S) is
    right up to the last pixel; a star cut by the edge is continued, and V(S) raised as far as that can be wrong.
    """
    xp = backend.xp
    ny, nx = images.shape[1:]
    unit = unit[:1] if np.all(unit == unit[0]) else unit
    scale = xp.asarray(1 / unit)[:, None, None]
    holes = bool(invalid.any())
    zero = xp.zeros((), images.dtype)
    m = max(images.shape[0], invalid.shape[0], len(unit), len(profiles))
    frame = xp.zeros((m, *padded), dtype=images.dtype)
    frame[:, :ny, :nx] = (xp.where(invalid, zero, images) if holes else images) * scale.astype(images.dtype)
    bad = xp.ones((invalid.shape[0], *padded), dtype=xp.uint8)
    bad[:, :ny, :nx] = invalid
    fill = backend.ops.get("fill_masked")
    filled = fill(frame, bad, profiles) if fill else reference_fill.fill_masked(frame, bad, profiles, xp=xp)
    inside = xp.where(invalid, filled[:, :ny, :nx], zero) if holes else None
    parts = [filled[:, ny:], filled[:, :ny, nx:], *([] if inside is None else [inside])]
    largest = xp.max(xp.stack([abs(part).max(axis=(1, 2), initial=0) for part in parts]), axis=0)
    follow = largest > NEGLIGIBLE  # image by image, so that a stack equals its loop
    error = None
    if bool(follow.any()):
        error = abs(xp.where(bad != 0, filled, zero)) * follow[:, None, None]
        error = error * (FILL_UNCERTAINTY * _missing_part(backend, bad, profiles)).astype(error.dtype)
    planes = max(invalid.shape[0], getattr(variance, "shape", (1,))[0], len(unit))
    spread = xp.zeros((planes, *padded), dtype=images.dtype)
    spread[:, :ny, :nx] = variance * _square(scale, variance)
    if holes:
        spread[:, :ny, :nx] *= ~invalid
    return Frames(filled, spread, error)


def _square(scale: Any, variance: Any) -> Any:
    """Return scale² in the type of `variance`, or in double where that would leave single precision."""
    square = scale**2
    small = getattr(variance, "dtype", None) == np.float32
    return square.astype(np.float32) if small and bool(((square > 1e-30) & (square < 1e30)).all()) else square


def _missing_part(backend: Backend, bad: Any, profiles: np.ndarray) -> Any:
    """Return the part of each pixel's window, weighted as in the fill, that is bad: (1 or m, py, px) in [0, 1]."""
    line = np.concatenate([profiles[:, :0:-1], profiles], axis=1)
    window = line[:, :, None] * line[:, None, :]
    window /= window.sum(axis=(1, 2), keepdims=True)
    shape = tuple(bad.shape[1:])
    spectrum = transfer_function(backend.asarray(window, np.float32), shape, backend.rfft2, xp=backend.xp)
    part = backend.irfft2(backend.rfft2(bad.astype(np.float32)) * spectrum, shape)
    return backend.xp.clip(part, 0, 1)


def reach_flags(backend: Backend, flags: Any, radius: int, clean: bool = False) -> None:
    """Set the bits NEAR_BAD and EDGE within `radius` pixels of invalid pixels and of the frame's edge, in place.

    `clean` tells that no pixel is invalid.
    """
    xp = backend.xp
    invalid = None if clean else (flags & INVALID) != 0
    if invalid is not None and bool(invalid.any()):
        near = _grow(backend, invalid, radius)
        near &= ~invalid
        flags |= near.view(xp.uint8) * xp.uint8(int(PixelFlag.NEAR_BAD))
    ny, nx = flags.shape[1:]
    edge = xp.uint8(int(PixelFlag.EDGE))
    top, left = min(radius, ny), min(radius, nx)
    for part in (
        np.s_[:, :top],
        np.s_[:, max(ny - radius, top) :],
        np.s_[:, :, :left],
        np.s_[:, :, max(nx - radius, left) :],
    ):
        flags[part] |= edge


def _grow(backend: Backend, masks: Any, radius: int) -> Any:
    """Return each mask grown into squares."""
    fused = backend.ops.get("dilate")
    return (
        dilate(masks, radius, xp=backend.xp) if fused is None else backend.xp.stack([fused(m, radius) for m in masks])
    )
