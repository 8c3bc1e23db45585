"""`Image`, `PSF` and `PSFModel`: what the stages pass to each other. Plain NumPy arrays beside their astronomy."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from astrid_gpu.errors import InputError, PsfError, ShapeMismatchError
from astrid_gpu.ops.field import frame_scale, n_terms, order_of, terms_at
from astrid_gpu.ops.psf_stamps import centre_stamps, ellipticity_of, fwhm_of

__all__ = ["PSF", "Image", "PSFModel"]


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
    flux_error : float
        Relative error of all fluxes fitted with it, by the noise of its stars, wings included; NaN if not measured.
    """

    data: np.ndarray
    fwhm: float = float("nan")
    ellipticity: float = float("nan")
    n_stars: int = 0
    residual: float = float("nan")
    origin: str = "stamp"
    flux_error: float = float("nan")

    def __post_init__(self) -> None:
        if self.data.ndim != 2:
            msg = f"a PSF is a two-dimensional stamp, got shape {self.data.shape}"
            raise PsfError(msg)

    def __repr__(self) -> str:
        ny, nx = self.data.shape
        stars = f", {self.n_stars} stars" if self.n_stars else ""
        return f"<PSF {nx}x{ny} px, FWHM {self.fwhm:.2f} px, from {self.origin}{stars}>"


@dataclass(frozen=True, repr=False, eq=False)
class PSFModel:
    r"""A point-spread function that varies over the field: a polynomial in position whose coefficients are stamps.

    The PSF at (y, x) is :math:`\sum_{ji} v^j u^i T_{ji}`, centred and of sum 1, with v = (y - y0) / sy and
    u = (x - x0) / sx.

    Parameters
    ----------
    terms : array, shape (n_terms, ky, kx), odd sides, float64
        Coefficient stamps, those of 1, u, u², ..., v, uv, ..., v²: the power of u fastest, j + i at most the order.
    shape : (ny, nx), optional
        Of the image it belongs to; None if that is not known, then `centre` and `scale` are needed.
    centre, scale : (y, x), optional
        (y0, x0) and (sy, sx), 0-based pixels. Default: the middle of the frame and half its sides, so that v and u run
        from -1 to 1.
    fwhm, ellipticity : float, optional
        In the middle of the frame; measured there by default.
    n_stars : int
        Stars it was built from; 0 for a model that was given.
    residual : float
        Reduced chi-squared of the stars about it, NaN if not measured.
    origin : str
        Where it comes from: "stars", "psfex FILE", ...
    """

    terms: np.ndarray
    shape: tuple[int, int] | None = None
    centre: tuple[float, float] | None = None
    scale: tuple[float, float] | None = None
    fwhm: float = float("nan")
    ellipticity: float = float("nan")
    n_stars: int = 0
    residual: float = float("nan")
    origin: str = "model"

    def __post_init__(self) -> None:
        terms = np.asarray(self.terms, np.float64)
        if terms.ndim != 3 or order_of(len(terms)) is None or not all(side % 2 for side in terms.shape[1:]):
            msg = (
                f"a PSFModel has 1, 3, 6, 10, ... stamps with odd sides, shape (n_terms, ky, kx) for order 0, 1, 2, 3, "
                f"...; got shape {terms.shape}"
            )
            raise PsfError(msg)
        if not np.isfinite(terms).all():
            msg = f"the stamps of a PSFModel must be finite, {int((~np.isfinite(terms)).sum())} pixels are not"
            raise PsfError(msg)
        if self.shape is None and (self.centre is None or self.scale is None):
            msg = "a PSFModel needs the shape of its image, or the centre and scale of its variables"
            raise PsfError(msg)
        centre, scale = ((0.0, 0.0), (1.0, 1.0)) if self.shape is None else frame_scale(self.shape)
        values: dict[str, Any] = {"terms": terms, "centre": self.centre or centre, "scale": self.scale or scale}
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if not (np.isfinite(self.fwhm) and np.isfinite(self.ellipticity)):
            middle = self._as_they_lie(*self._middle())[0]
            if not np.isfinite(self.fwhm):
                object.__setattr__(self, "fwhm", fwhm_of(middle))
            if not np.isfinite(self.ellipticity):
                object.__setattr__(self, "ellipticity", ellipticity_of(middle, fwhm=self.fwhm))

    @classmethod
    def fit(
        cls,
        stamps: np.ndarray,
        y: np.ndarray,
        x: np.ndarray,
        *,
        order: int,
        shape: tuple[int, int] | None = None,
        centre: tuple[float, float] | None = None,
        scale: tuple[float, float] | None = None,
        weights: np.ndarray | None = None,
        **known: Any,
    ) -> PSFModel:
        """Return the model that fits stamps known at some places, by (weighted) least squares.

        Parameters
        ----------
        stamps : array, shape (n, ky, kx), odd sides, centred, sum 1
        y, x : array, shape (n,)
            0-based pixels.
        order : int
        shape : (ny, nx), optional
            Of the image.
        centre, scale : (y, x), optional
            Of the variables, where the shape is not known.
        weights : array, shape (n,), optional
        **known
            fwhm, ellipticity, n_stars, residual, origin.

        Raises
        ------
        PsfError
            Fewer places than the order has terms, or places that do not fix them.
        """
        if shape is not None:
            centre, scale = frame_scale(shape)
        if centre is None or scale is None:
            msg = "a PSFModel needs the shape of its image, or the centre and scale of its variables"
            raise PsfError(msg)
        basis = terms_at(np.ravel(y), np.ravel(x), order, centre, scale)
        root = np.ones(len(basis)) if weights is None else np.sqrt(np.asarray(weights, float))
        flat = np.asarray(stamps, float).reshape(len(basis), -1)
        solution, _, rank, _ = np.linalg.lstsq(basis * root[:, None], flat * root[:, None], rcond=1e-8)
        if rank < basis.shape[1]:
            msg = f"{len(basis)} places do not fix the {n_terms(order)} terms of order {order}; lower the order"
            raise PsfError(msg)
        return cls(solution.reshape(-1, *np.shape(stamps)[1:]), shape, centre, scale, **known)

    @property
    def order(self) -> int:
        """Total degree of the polynomial."""
        return int(order_of(len(self.terms)) or 0)

    def _middle(self) -> tuple[float, float]:
        if self.shape is None:
            return self.centre  # type: ignore[return-value]
        return (self.shape[0] - 1) / 2, (self.shape[1] - 1) / 2

    def stamps(self, y: Any, x: Any) -> np.ndarray:
        """Return the PSF at places, float64, shape (n, ky, kx): odd sides, centred within 0.002 px, each of sum 1.

        Parameters
        ----------
        y, x : float or array
            0-based pixels; n of them after broadcasting.

        Raises
        ------
        PsfError
            The polynomial has run off at a place (no positive sum): far outside of where it was fitted.
        """
        return centre_stamps(self._as_they_lie(y, x))

    def _as_they_lie(self, y: Any, x: Any) -> np.ndarray:
        """Return the PSF at places, of sum 1, but not centred; see `stamps`."""
        y, x = (np.ravel(a) for a in np.broadcast_arrays(np.asarray(y, float), np.asarray(x, float)))
        basis = terms_at(y, x, self.order, self.centre, self.scale)  # type: ignore[arg-type]
        stamps = np.tensordot(basis, self.terms, axes=1)
        sums = stamps.sum(axis=(1, 2))
        broken = ~(sums > 0.01 * np.abs(stamps).sum(axis=(1, 2)))
        if broken.any():
            k = int(np.flatnonzero(broken)[0])
            msg = (
                f"{self.origin}: the PSF has no positive sum at (y {y[k]:g}, x {x[k]:g}); its polynomial of order "
                f"{self.order} holds for {'its own image' if self.shape is None else f'an image of {self.shape}'} only"
            )
            raise PsfError(msg)
        return stamps / sums[:, None, None]  # type: ignore[no-any-return]

    def at(self, y: float | None = None, x: float | None = None) -> PSF:
        """Return the PSF at the 0-based pixel (y, x), by default in the middle of the frame."""
        middle = self._middle()
        place = middle[0] if y is None else float(y), middle[1] if x is None else float(x)
        stamp = self.stamps(*place)[0]
        width = fwhm_of(stamp)
        return PSF(stamp, width, ellipticity_of(stamp, fwhm=width), self.n_stars, self.residual, self.origin)

    def __repr__(self) -> str:
        _, ny, nx = self.terms.shape
        over = "" if self.shape is None else f" over {self.shape[1]}x{self.shape[0]}"
        stars = f", {self.n_stars} stars" if self.n_stars else ""
        return (
            f"<PSFModel {nx}x{ny} px of order {self.order}{over}, FWHM {self.fwhm:.2f} px, from {self.origin}{stars}>"
        )


def _is_number(value: Any, *, zero: bool) -> bool:
    """Whether a value is one finite positive number, or 0 where that is allowed."""
    number = np.asarray(value)
    usable = number.ndim == 0 and number.dtype.kind in "iuf" and bool(np.isfinite(number))
    return usable and bool(number >= 0 if zero else number > 0)


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
    psf : PSF or PSFModel, optional
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
    psf: PSF | PSFModel | None = None
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
        for label, least in (("gain", "positive"), ("read_noise", "not negative")):
            value = getattr(self, label)
            if value is not None and not _is_number(value, zero=label == "read_noise"):
                msg = f"{self.name}: {label} must be one finite number, {least}, or None if unknown; got {value!r}"
                raise InputError(msg)
        for label in ("variance", "mask"):
            plane = getattr(self, label)
            if plane is not None and plane.shape != self.data.shape:
                msg = (
                    f"{self.name}: the {label} has shape {plane.shape} but the image {self.data.shape}; "
                    "they must be the same"
                )
                raise ShapeMismatchError(msg)
        if isinstance(self.psf, PSFModel) and self.psf.shape not in (None, self.data.shape):
            msg = (
                f"{self.name}: its PSF model belongs to an image of {self.psf.shape}, this one has {self.data.shape}; "
                "give the model of this image, or model.at(y, x) for the PSF at one place"
            )
            raise PsfError(msg)

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
