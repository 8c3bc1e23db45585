"""What the difference of two registered frames leaves in a window of them; the frames may lie on disk."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from astrid_gpu.calibrate import residual_background
from astrid_gpu.errors import InputError
from astrid_gpu.flags import PixelFlag
from astrid_gpu.image import PSF, Image

__all__ = ["Frames", "Residual", "middle_of", "residual_in"]

Window = tuple[slice, slice]


class Frames(Protocol):
    """Both images on one grid, (ny, nx): arrays, or frames on disk that are read by windows."""

    science: Any
    reference: Any
    variance_science: Any
    variance_reference: Any
    flags: np.ndarray


class Residual(NamedTuple):
    """Sky left in the difference, (ny, nx); width of its smoothed noise over what is said of it; how it was found."""

    level: np.ndarray
    width: float
    how: str


def middle_of(window: Window, side: int) -> Window:
    """Return the middle of a window, no more than `side` pixels along each axis."""
    y, x = (slice(s.start + max(0, s.stop - s.start - side) // 2, s.stop) for s in window)
    return slice(y.start, min(y.stop, y.start + side)), slice(x.start, min(x.stop, x.start + side))


def residual_in(
    frames: Frames,
    window: Window,
    psfs: tuple[PSF, PSF],
    beta: float,
    noise: tuple[np.ndarray | None, np.ndarray | None],
    scales: tuple[float, float],
    box: int | None = None,
) -> Residual | None:
    """Return what the difference leaves in a window; None where no pixel is usable in both.

    Parameters
    ----------
    frames : Frames
    window : pair of slices
    psfs, beta, noise, box
        As of `residual_background`.
    scales : pair of float
        What the variances of science and reference are multiplied by.
    """
    flags = frames.flags[window]
    lost = (flags & (0xFF ^ int(PixelFlag.NO_DATA))) != 0
    science = Image(frames.science[window], mask=lost.view(np.uint8))
    variances = tuple(
        plane[window] * plane.dtype.type(by)
        for plane, by in zip((frames.variance_science, frames.variance_reference), scales, strict=True)
    )
    footprint = (flags & int(PixelFlag.NO_DATA)) == 0
    try:
        found = residual_background(
            science,
            np.asarray(frames.reference[window]),
            beta,
            *psfs,
            (variances[0], variances[1]),
            footprint,
            box,
            noise,
        )
    except InputError:
        return None
    return Residual(*found)
