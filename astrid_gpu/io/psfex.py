"""PSFEx models (Bertin 2011): a polynomial in position of stamps sampled at a step of their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from astrid_gpu.errors import PsfError
from astrid_gpu.image import PSFModel
from astrid_gpu.io.files import describe_hdus, open_fits

__all__ = ["PsfexModel", "is_psfex", "model_from_hdu", "psfex_form", "read_psfex"]

_LANCZOS = 4
_BEYOND = 0.02  # of the range of a model's stars: what they may lie outside of its image
_REACH = 1.0  # times that range: how far beyond its stars a polynomial may be evaluated
_RIM = 0.05  # times that range: how much wider than it a chip is, and with it a cutout at its edge


@dataclass(frozen=True, repr=False)
class PsfexModel:
    """A PSFEx model in the file's own form.

    Parameters
    ----------
    components : array, shape (n_terms, ny, nx), float64
        Coefficient images of the polynomial terms 1, x, x^2, ..., y, xy, ..., y^2, in PSFEx's order: power of x
        fastest, total degree at most `polyorder`.
    polyorder : int
        Degree, 0 for a constant PSF.
    zero, scale : (x, y)
        The polynomial's variables are (position - zero) / scale, positions counted from 1 as FITS does.
    sampling : float
        PSF_SAMP: step of the model's pixels in pixels of the image.
    fwhm : float
        As the file states it, in pixels of the image; NaN if it does not.
    """

    components: np.ndarray
    polyorder: int
    zero: tuple[float, float]
    scale: tuple[float, float]
    sampling: float
    fwhm: float = float("nan")
    n_stars: int = 0
    chi2: float = float("nan")
    name: str = "psfex"

    def model(self, shape: tuple[int, int] | None = None) -> PSFModel:
        """Return the model on the pixels of the image, of an image of `shape` if that is known.

        Each component is interpolated at integer offsets over PSF_SAMP by a Lanczos-4 kernel (PSFEx's own), which is
        exact for PSF_SAMP = 1 and, being linear, the same as doing so with the PSF of a place.

        Raises
        ------
        PsfError
            Its stars do not fit an image of this shape: it belongs to another one.
        """
        if shape is not None and self.polyorder:
            self._check(shape)
        terms = np.stack([_resample(component, self.sampling) for component in self.components])
        (zx, zy), (sx, sy) = self.zero, self.scale
        where = ((zy - 1.0, zx - 1.0), (sy, sx)) if self.polyorder else ((0.0, 0.0), (1.0, 1.0))
        origin = f"psfex {self.name}"
        if self.polyorder and not all(low > -_BEYOND * span for low, _, span in self._spans()):
            (left, right, _), (lower, upper, _) = self._spans()
            origin += (
                f", taken for a cutout's: its stars ran over x {left:.0f} to {right:.0f}, y {lower:.0f} to {upper:.0f}"
            )
        known: dict[str, Any] = {"n_stars": self.n_stars, "residual": self.chi2, "origin": origin}
        return PSFModel(terms, shape, *where, **known)

    def _check(self, shape: tuple[int, int]) -> None:
        """Refuse a shape that the stars of the model, which ran over zero -+ scale / 2, do not fit.

        A model whose stars begin well before the first pixel, along either axis, was shifted to a cutout by whoever
        made it; the cutout may lie at an edge of the chip, which the stars of the whole chip reach but for a rim.
        """
        spans = self._spans()
        whole = all(low > -_BEYOND * span for low, _, span in spans)
        for axis, n, (low, high, span) in zip("xy", shape[::-1], spans, strict=True):
            too_large = whole and high > n + _BEYOND * span
            if too_large or max(n - high, low) > (_REACH if whole else _RIM) * span:
                msg = (
                    f"{self.name}: the stars of the model lie from {axis} {low:.0f} to {high:.0f}, the image has "
                    f"{n} pixels along {axis}: the model belongs to an image of another size. Give the model of this "
                    "one, or read_psf(path, x=..., y=...) for the PSF at one place"
                )
                raise PsfError(msg)

    def _spans(self) -> list[tuple[float, float, float]]:
        """Return where the stars of the model began and ended along x and along y, and the distance between."""
        return [(z - abs(s) / 2, z + abs(s) / 2, abs(s)) for z, s in zip(self.zero, self.scale, strict=True)]

    def raw_at(self, x: float | None = None, y: float | None = None) -> np.ndarray:
        """Return the model at (x, y) on its own grid, neither resampled nor normalised."""
        u = 0.0 if x is None else (float(x) + 1.0 - self.zero[0]) / self.scale[0]
        v = 0.0 if y is None else (float(y) + 1.0 - self.zero[1]) / self.scale[1]
        terms = [u**i * v**j for j in range(self.polyorder + 1) for i in range(self.polyorder + 1 - j)]
        return np.tensordot(np.array(terms), self.components, axes=1)

    def __repr__(self) -> str:
        _, ny, nx = self.components.shape
        return (
            f"<PsfexModel {self.name}: {nx}x{ny} at {self.sampling:.3g} px, degree {self.polyorder}, "
            f"FWHM {self.fwhm:.2f} px, {self.n_stars} stars>"
        )


def _resample(model: np.ndarray, step: float) -> np.ndarray:
    """Sample a model of pixel size `step` (image pixels) at whole image pixels about its centre: an odd stamp."""
    if abs(step - 1.0) < 1e-6:
        return model
    weights = []
    for n in model.shape:
        half = int((n // 2) * step)
        position = np.arange(-half, half + 1) / step + n // 2
        whole = np.floor(position)[:, None] + np.arange(1 - _LANCZOS, _LANCZOS + 1)[None, :]
        # Each kernel is normalised over all of its reach, so that a constant stays one, also beside the border.
        total = _lanczos(position[:, None] - whole).sum(axis=1, keepdims=True)
        weights.append(_lanczos(position[:, None] - np.arange(n)[None, :]) / total)
    return weights[0] @ model @ weights[1].T


def _lanczos(distance: np.ndarray) -> np.ndarray:
    """Return the Lanczos-4 kernel at `distance` pixels."""
    return np.where(np.abs(distance) < _LANCZOS, np.sinc(distance) * np.sinc(distance / _LANCZOS), 0.0)


def is_psfex(hdu: Any) -> bool:
    """Whether an HDU is the table of a PSFEx model."""
    return ("POLNGRP" in hdu.header and "PSFNAXIS" in hdu.header) or (
        hasattr(hdu, "columns") and any(name.upper() == "PSF_MASK" for name in hdu.columns.names)
    )


def read_psfex(path: str | Path, *, shape: tuple[int, int] | None = None) -> PSFModel:
    """Read a PSFEx ``.psf`` file.

    Parameters
    ----------
    path : str or Path
        A FITS table with PSF_MASK and the polynomial's keywords, as PSFEx writes it.
    shape : (ny, nx), optional
        Of its image; checked against where the model's stars were.

    Returns
    -------
    PSFModel
        ``.at(y, x)`` gives the PSF at a 0-based pixel; by default where the fit is centred, or the middle of `shape`.

    Raises
    ------
    FitsError
        Missing, damaged or not FITS.
    PsfError
        No PSFEx table in it, or one that depends on more than the position, or a model of another image size.
    """
    return psfex_form(path).model(shape)


def psfex_form(path: str | Path) -> PsfexModel:
    """Read a PSFEx file in its own form."""
    path = Path(path)
    with open_fits(path) as hdus:
        table = next((hdu for hdu in hdus if is_psfex(hdu)), None)
        if table is None:
            msg = f"{path} holds no PSFEx model (a table with PSF_MASK): {describe_hdus(hdus)}"
            raise PsfError(msg)
        return model_from_hdu(table, path)


def model_from_hdu(hdu: Any, path: str | Path) -> PsfexModel:
    """Return the model in a PSFEx table."""
    header = hdu.header
    column = next(name for name in hdu.columns.names if name.upper() == "PSF_MASK")
    components = np.array(hdu.data[column][0], dtype=np.float64)
    if components.ndim == 2:
        components = components[None]
    n_axes = int(header.get("POLNAXIS", 2 if "POLZERO1" in header else 0))
    order = int(header.get("POLDEG1", 0)) if n_axes else 0
    names = [str(header.get(f"POLNAME{i + 1}", "")).upper() for i in range(n_axes)]
    if n_axes not in (0, 2) or (n_axes and not (names[0].startswith("X") and names[1].startswith("Y"))):
        msg = f"{path}: the model depends on {', '.join(names)}; only a polynomial in x and y is read"
        raise PsfError(msg)
    expected = (order + 1) * (order + 2) // 2
    if len(components) != expected:
        msg = f"{path}: a polynomial of degree {order} has {expected} terms, the file has {len(components)}"
        raise PsfError(msg)
    axes = (1, 2)
    return PsfexModel(
        components=components,
        polyorder=order,
        zero=tuple(float(header.get(f"POLZERO{i}", 0.0)) for i in axes),  # type: ignore[arg-type]
        scale=tuple(float(header.get(f"POLSCAL{i}", 1.0)) for i in axes),  # type: ignore[arg-type]
        sampling=float(header.get("PSF_SAMP", 1.0)),
        fwhm=float(header.get("PSF_FWHM", float("nan"))),
        n_stars=int(header.get("ACCEPTED", 0)),
        chi2=float(header.get("CHI2", float("nan"))),
        name=Path(path).name,
    )
