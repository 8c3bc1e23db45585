"""`Image` and `PSF`: what the stages pass to each other. Plain NumPy arrays beside their astronomy."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from astrid_gpu.errors import InputError, PsfError, ShapeMismatchError

__all__ = ["PSF", "Image"]


@dataclass(frozen=True)
class PSF:
    """A point-spread function, constant over the field.

    Parameters
    ----------
    data : array, shape (ky, kx), odd sides, float64
        Stamp, centred on the middle pixel, sum 1. Negative wings are kept.
    fwhm : float
        Full width at half maximum in pixels, from the area above half of the peak.
    ellipticity : float
        1 - b/a of the second moments, NaN if not measured.
    n_stars : int
        Stars it was built from; 0 for a PSF that was given.
    residual : float
        Reduced chi-squared of the stars about it, NaN if not measured.
    origin : str
        Where it comes from: "stars", "moffat fit", "stamp", "psfex", ...
    """

    data: np.ndarray
    fwhm: float = float("nan")
    ellipticity: float = float("nan")
    n_stars: int = 0
    residual: float = float("nan")
    origin: str = "stamp"

    def __post_init__(self) -> None:
        if self.data.ndim != 2:
            msg = f"a PSF is a two-dimensional stamp, got shape {self.data.shape}"
            raise PsfError(msg)

    def __repr__(self) -> str:
        ny, nx = self.data.shape
        stars = f", {self.n_stars} stars" if self.n_stars else ""
        return f"<PSF {nx}x{ny} px, FWHM {self.fwhm:.2f} px, from {self.origin}{stars}>"


@dataclass(frozen=True)
class Image:
    """One exposure: pixels and all that is known about them.

    Parameters
    ----------
    data : array, shape (ny, nx), float32 or float64
        Pixels in counts (or any linear flux unit). NaN and infinities are masked pixels.
    variance : array, shape (ny, nx), optional
        Variance of each pixel in the square of the unit of `data`, sources and background included.
    mask : array of uint8, shape (ny, nx), optional
        Nonzero = bad. Bits as the file gave them; the stages only ask whether they are zero.
    psf : PSF, optional
    wcs : astropy.wcs.WCS or any APE 14 WCS, optional
    zero_point : float, optional
        AB magnitude of one unit of flux.
    gain : float, optional
        Electrons per unit of `data`.
    read_noise : float, optional
        Electrons.
    saturation : float, optional
        Level at and above which pixels are saturated, in the unit of `data` as read.
    background_level : float, optional
        Sky that was already subtracted from `data`; 0 means none was. Counts for the Poisson noise.
    meta : dict
        Header keywords and whatever else belongs to the exposure.
    name : str
        For messages and provenance: the file name as a rule.
    """

    data: np.ndarray
    variance: np.ndarray | None = None
    mask: np.ndarray | None = None
    psf: PSF | None = None
    wcs: Any = None
    zero_point: float | None = None
    gain: float | None = None
    read_noise: float | None = None
    saturation: float | None = None
    background_level: float = 0.0
    meta: dict[str, Any] = field(default_factory=dict)
    name: str = "image"

    def __post_init__(self) -> None:
        if self.data.ndim != 2:
            msg = f"{self.name}: an Image holds one two-dimensional array, got shape {self.data.shape}"
            raise InputError(msg)
        for label in ("variance", "mask"):
            plane = getattr(self, label)
            if plane is not None and plane.shape != self.data.shape:
                msg = (
                    f"{self.name}: the {label} has shape {plane.shape} but the image {self.data.shape}; "
                    "they must be the same"
                )
                raise ShapeMismatchError(msg)

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx)."""
        return self.data.shape  # type: ignore[return-value]

    @property
    def bad(self) -> np.ndarray:
        """Boolean array: masked or not finite."""
        bad = ~np.isfinite(self.data)
        if self.mask is not None:
            bad |= self.mask != 0
        return bad

    @property
    def known_variance(self) -> np.ndarray:
        """The variance, which must have been given or estimated by now."""
        if self.variance is None:
            msg = f"{self.name}: the variance is not known yet; noise_variance() estimates it"
            raise InputError(msg)
        return self.variance

    def with_(self, **changes: Any) -> Image:
        """Return a copy with some fields replaced."""
        return replace(self, **changes)

    def __repr__(self) -> str:
        ny, nx = self.data.shape
        parts = [f"{nx}x{ny} px {self.data.dtype.name}", f"{int(self.bad.sum())} bad"]
        parts += [label for label in ("variance", "psf", "wcs") if getattr(self, label) is not None]
        if self.zero_point is not None:
            parts.append(f"zero point {self.zero_point:.2f}")
        return f"<Image {self.name}: {', '.join(parts)}>"
