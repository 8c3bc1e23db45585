"""What goes into a stream of exposures, and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Exposure", "Found"]


@dataclass(frozen=True)
class Exposure:
    """A science image as it lies in its file.

    Attributes
    ----------
    pixels : int16, uint16 or int32 array (ny, nx), of either byte order
    scale, zero : float
        BSCALE and BZERO: flux = zero + scale * pixels. The level of the sky is taken off `zero`.
    sigma : float
        Background standard deviation, in units of flux.
    flux : float
        F_n.
    per_count : float
        Variance that a unit of flux adds (1 / gain); 0: sigma^2 everywhere.
    blank : int, optional
        Value of pixels without data.
    """

    pixels: np.ndarray
    scale: float = 1.0
    zero: float = 0.0
    sigma: float = 1.0
    flux: float = 1.0
    per_count: float = 0.0
    blank: int | None = None


@dataclass(frozen=True)
class Found:
    """Peaks of one exposure's S_corr, brightest first.

    Attributes
    ----------
    number : int
        Of the exposure, from 0.
    y, x : int64 arrays (m,)
    score_corr : float64 array (m,)
    tied : bool array (m,)
        Whether a neighbour has the same value, on a device, where each pixel of a plateau is told; elsewhere a plateau
        is one peak.
    stamps : float32 array (m, 3, side, side) or None
        Science, reference and difference round each peak, NaN beyond the image and where there was no room.
    truncated : bool
        The batch had more peaks than there was room for; which ones are missing is not determined.
    """

    number: int
    y: np.ndarray
    x: np.ndarray
    score_corr: np.ndarray
    tied: np.ndarray
    stamps: np.ndarray | None
    truncated: bool
