"""Piff models (Jarvis et al. 2021, MNRAS 501, 1282) as PSFs that vary over the field.

Read without the piff package: PixelGrid, Gaussian, Moffat and Kolmogorov with BasisPolynomial, Polynomial or Mean. All
other kinds are drawn by the package where it is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from astrid_gpu.errors import PsfError
from astrid_gpu.image import PSFModel
from astrid_gpu.io.files import open_fits
from astrid_gpu.io.piff_grid import grid_stamps, why_not_between
from astrid_gpu.io.piff_package import PiffDrawn
from astrid_gpu.io.piff_params import highest_power, parameters_at, places_of, why_not_interpolated
from astrid_gpu.io.piff_profiles import PROFILES, profile_stamps
from astrid_gpu.ops.field import frame_scale, terms_at

__all__ = ["is_piff", "read_piff"]

_PLACES, _BETWEEN = 9, 4  # a side: places that a polynomial of stamps is fitted to, and others that it is tested at
_HIGHEST = 3
_CLOSE = 1e-3  # of the peak: a polynomial that comes as near as this to the model is enough


def is_piff(hdus: Any) -> bool:
    """Whether a FITS file is a Piff model."""
    names = {hdu.name.lower() for hdu in hdus}
    return any("piff" in name for name in names) or {"psf", "psf_interp"} <= names or {"psf", "psf_stars"} <= names


def read_piff(path: str | Path, *, shape: tuple[int, int] | None = None, chip: int | None = None) -> PSFModel:
    """Read a Piff file as a PSF that varies over the field.

    Parameters
    ----------
    path : str or Path
    shape : (ny, nx), optional
        Of the image. Without it the model runs over the region of the file's stars.
    chip : int, optional
        Number of the image's chip in a file of several.

    Returns
    -------
    PSFModel
        A polynomial of order 3 at most, fitted to the file's model at 81 places: of the lowest order, from that of the
        file's own polynomial on, that comes within 0.1 % of the peak at 16 others. How near it comes stands in
        `origin`.

    Raises
    ------
    PsfError
        A kind of model that is not read without the piff package, named, and that is not installed; a model that
        depends on more than the position; stars that lie outside of an image of `shape`; several chips and none chosen.

    Notes
    -----
    Kinds that are read here: PixelGrid (Lanczos kernels), Gaussian, Moffat and Kolmogorov, interpolated by
    BasisPolynomial, Polynomial or Mean over u, v, x and y; the WCS pickled in the file is then not opened. The package,
    which draws all others, does open it: as with any pickle, do so with files you trust only.
    """
    path = Path(path)
    with open_fits(path) as hdus:
        tables = {hdu.name.lower(): hdu.data for hdu in hdus if hasattr(hdu, "columns")}
    stars = _stars(path, tables, chip)
    frame = _frame(path, stars, shape)
    reason = _why_not_here(tables)
    by = ""
    if reason is None:
        draw: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda y, x: _stamps(tables, stars, y, x)  # noqa: E731
        least = min(highest_power(tables["psf_interp"], tables["psf_interp_solution"]), _HIGHEST)
    else:
        drawn = _by_package(path, reason, chip)
        draw, least, by = drawn.stamps, 0, f", drawn by piff {drawn.version}"
    chi2 = tables.get("psf_chisq")
    residual = float(chi2["chisq"][0]) / float(chi2["dof"][0]) if chi2 is not None and chi2["dof"][0] else float("nan")
    known: dict[str, Any] = {"n_stars": len(stars), "residual": residual}
    return _fitted(draw, frame, least, shape, f"piff {path.name}{by}", known)


def _stars(path: Path, tables: dict[str, Any], chip: int | None) -> Any:
    """Return the stars of the file, those of one chip if it has several."""
    if "psf_stars" not in tables or len(tables["psf_stars"]) == 0:
        kind = str(tables["psf"]["type"][0]) if "psf" in tables else "unknown"
        msg = f"{path}: a Piff file of kind {kind!r} without stars is not read: they tell where its model holds"
        raise PsfError(msg)
    stars, wcs = tables["psf_stars"], tables.get("psf_wcs")
    chips = sorted({int(n) for n in wcs["chipnums"]}) if wcs is not None and "chipnums" in wcs.names else []
    if chip is None and len(chips) > 1:
        msg = f"{path}: the model is of chips {', '.join(map(str, chips))}; choose with read_piff(path, chip=...)"
        raise PsfError(msg)
    if chip is not None and chips and chip not in chips:
        msg = f"{path}: there is no chip {chip} in it, only {', '.join(map(str, chips))}"
        raise PsfError(msg)
    if chip is None or len(chips) < 2 or "chipnum" not in stars.names:
        return stars
    return stars[np.asarray(stars["chipnum"], int) == chip]


def _frame(path: Path, stars: Any, shape: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners (y, x) of the region that the model is wanted for."""
    at = np.stack([np.asarray(stars[name], float) - 1.0 for name in ("y", "x")])  # Piff counts from 1, as FITS
    low, high = at.min(axis=1), at.max(axis=1)
    if shape is None:
        return low, high
    if np.any(high > np.array(shape) - 0.5):
        msg = (
            f"{path}: the model has stars up to (y {high[0]:.0f}, x {high[1]:.0f}), outside of an image of {shape}: it "
            "belongs to another image. Give the model of this one, or read_psf(path, x=..., y=...) for one place"
        )
        raise PsfError(msg)
    return np.zeros(2), np.array(shape) - 1.0


def _why_not_here(tables: dict[str, Any]) -> str | None:
    """Return what kind a file is of that only the package can draw, None for those that are read here."""
    if not {"psf_model", "psf_interp"} <= set(tables):
        return f"file of kind {str(tables['psf']['type'][0]) if 'psf' in tables else 'unknown'}"
    model = str(tables["psf_model"]["type"][0])
    interp, solution = tables["psf_interp"], tables.get("psf_interp_solution")
    between = why_not_between(tables["psf_model"]) if model == "PixelGrid" else None
    how = why_not_interpolated(interp, solution)
    if model not in ("PixelGrid", *PROFILES):
        return f"model of kind {model} with interpolation {interp['type'][0]}"
    return between or (how and f"model of kind {model} with {how}")


def _by_package(path: Path, reason: str, chip: int | None) -> PiffDrawn:
    """Let the package open a file of a kind that is not read here."""
    try:
        return PiffDrawn(path, chip)
    except ImportError as error:
        msg = (
            f"{path}: a Piff {reason} is not read without the piff package, only PixelGrid, Gaussian, Moffat and "
            'Kolmogorov with BasisPolynomial, Polynomial or Mean; pip install "astrid-gpu[piff]", or draw it elsewhere '
            "and pass PSFModel.fit(stamps, y, x, order=..., shape=...)"
        )
        raise PsfError(msg) from error


def _stamps(tables: dict[str, Any], stars: Any, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the model at places on the pixels of the image, (n, side, side), each of sum 1."""
    places, model = places_of(stars, y, x), tables["psf_model"]
    parameters = parameters_at(tables["psf_interp"], tables["psf_interp_solution"], places)
    if str(model["type"][0]) != "PixelGrid":
        return profile_stamps(model, parameters, places.jacobian)
    stamps = grid_stamps(model, parameters, places.jacobian)
    return stamps / stamps.sum((1, 2), keepdims=True)


def _fitted(
    draw: Callable[[np.ndarray, np.ndarray], np.ndarray],
    frame: tuple[np.ndarray, np.ndarray],
    least: int,
    shape: tuple[int, int] | None,
    origin: str,
    known: dict[str, Any],
) -> PSFModel:
    """Return the polynomial of stamps that comes near enough to what is drawn, of the lowest order from `least` on."""
    low, high = frame

    def grid(parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lines = (np.rint(a + parts * (b - a)) for a, b in zip(low, high, strict=True))
        places_y, places_x = (g.ravel() for g in np.meshgrid(*lines, indexing="ij"))
        return places_y, places_x

    places = grid(np.linspace(0, 1, _PLACES))
    between = grid((2 * np.arange(_BETWEEN) + 0.5) / (_PLACES - 1))
    n = len(places[0])
    stamps = draw(*(np.concatenate(pair) for pair in zip(places, between, strict=True)))
    if shape is None:
        middle, half = (low + high) / 2, np.maximum((high - low) / 2, 0.5)
        centre, scale = (float(middle[0]), float(middle[1])), (float(half[0]), float(half[1]))
    else:
        centre, scale = frame_scale(shape)
    given = {**known, "shape": shape, "centre": centre, "scale": scale}
    found: list[tuple[float, int, PSFModel]] = []
    for order in range(least, _HIGHEST + 1):
        model = PSFModel.fit(stamps[:n], places[0], places[1], order=order, **given)
        there = np.tensordot(terms_at(*between, order, centre, scale), model.terms, axes=1)
        error = float(np.abs(there - stamps[n:]).max() / stamps[n:].max())
        found.append((error, order, model))
        if error < _CLOSE:
            break
    error, order, model = min(found, key=lambda one: one[0])
    name = f"{origin}, order {order} within {100 * error:.2g} % of the peak" if error > 1e-6 else origin
    return PSFModel(model.terms, origin=name, **given)
