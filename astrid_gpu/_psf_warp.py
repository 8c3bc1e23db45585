"""Carrying a PSF that varies over the field to another grid, with its image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from astrid_gpu._pixel_map import PixelMap
from astrid_gpu._warp import warp_stamp
from astrid_gpu.image import PSF, PSFModel
from astrid_gpu.ops.field import n_terms
from astrid_gpu.ops.psf_stamps import resize_odd

__all__ = ["shift_psf", "warp_psf"]

_PLACES = 7  # a side
_HIGHEST = 3


def shift_psf(psf: PSF | PSFModel | None, shape: tuple[int, int], shift: tuple[int, int]) -> PSF | PSFModel | None:
    """Return the PSF of an image moved by whole pixels: target pixel (y, x) is source pixel (y, x) + shift."""
    if not isinstance(psf, PSFModel):
        return psf
    assert psf.centre is not None
    centre = (psf.centre[0] - shift[0], psf.centre[1] - shift[1])
    return replace(psf, shape=None if psf.shape is None else shape, centre=centre)


def warp_psf(psf: PSFModel, pixel_map: PixelMap, shape: tuple[int, int], *, kernel: str = "spline5") -> PSFModel | None:
    """Return the PSF of a resampled image: evaluated where each place comes from, and carried through the local map.

    Parameters
    ----------
    psf : PSFModel
        In source pixels.
    pixel_map : PixelMap
        From target to source.
    shape : (ny, nx)
        Of the target.
    kernel : str
        What the image is resampled with.

    Returns
    -------
    PSFModel or None
        Of the same order, 3 at most, or lower where the source covers little of the target; None if it covers none.
    """
    y, x = (a.ravel() for a in np.meshgrid(*(np.linspace(0, n - 1, _PLACES) for n in shape), indexing="ij"))
    there_y, there_x = pixel_map(y, x)
    inside = np.isfinite(there_y) & np.isfinite(there_x)
    if psf.shape is not None:
        for place, n in ((there_y, psf.shape[0]), (there_x, psf.shape[1])):
            inside &= (place > -0.05 * n) & (place < 1.05 * n)
    if not inside.any():
        return None
    y, x, there_y, there_x = (a[inside] for a in (y, x, there_y, there_x))
    stamps = [
        warp_stamp(stamp, pixel_map.jacobian(float(v), float(u)), kernel=kernel)
        for stamp, v, u in zip(psf.stamps(there_y, there_x), y, x, strict=True)
    ]
    side = tuple(max(stamp.shape[axis] for stamp in stamps) for axis in (0, 1))
    stack = np.stack([resize_odd(s, (s.shape[0] // 2, s.shape[1] // 2), side) for s in stamps])
    spread = np.unique(y).size, np.unique(x).size
    order = min(psf.order, _HIGHEST, min(spread) - 1)
    while order and len(y) < 2 * n_terms(order):
        order -= 1
    known: dict[str, Any] = {"n_stars": psf.n_stars, "residual": psf.residual, "origin": psf.origin}
    return PSFModel.fit(stack, y, x, order=order, shape=shape, **known)
