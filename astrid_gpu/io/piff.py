"""Piff models (Jarvis et al. 2021, MNRAS 501, 1282): a grid of pixels in the sky's plane, interpolated by a polynomial.

Read without the piff package: its PixelGrid with the interpolations BasisPolynomial and Mean. The file's WCS is a
pickle, which is never opened: positions (u, v) follow from those of the stars in the file, by a polynomial in x and y.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from astrid_gpu.errors import PsfError
from astrid_gpu.image import PSFModel
from astrid_gpu.io.files import open_fits
from astrid_gpu.ops.field import n_terms, terms_at

__all__ = ["is_piff", "read_piff"]

_LANCZOS = 3  # Piff's own interpolation between the pixels of the grid
_PLACES = 9  # a side, at which the model is evaluated to become a polynomial of stamps
_HIGHEST = 3


def is_piff(hdus: Any) -> bool:
    """Whether a FITS file is a Piff model."""
    names = {hdu.name.lower() for hdu in hdus}
    return any("piff" in name for name in names) or {"psf", "psf_interp"} <= names


def read_piff(path: str | Path, *, shape: tuple[int, int] | None = None) -> PSFModel:
    """Read a Piff file as a PSF that varies over the field.

    Parameters
    ----------
    path : str or Path
    shape : (ny, nx), optional
        Of the image. Without it the model runs over the region of the file's stars.

    Returns
    -------
    PSFModel
        Of the order of the file's own polynomial, 3 at most, fitted to the file's model at 81 places.

    Raises
    ------
    PsfError
        A kind of model or interpolation that is not read, named; or stars that lie outside of an image of `shape`.
    """
    path = Path(path)
    with open_fits(path) as hdus:
        tables = {hdu.name.lower(): hdu.data for hdu in hdus if hasattr(hdu, "columns")}
    _refuse(path, tables)
    stars = tables["psf_stars"]
    x, y = (np.asarray(stars[name], float) - 1.0 for name in ("x", "y"))  # Piff counts from 1, as FITS
    low, high = np.array([y.min(), x.min()]), np.array([y.max(), x.max()])
    if shape is not None and np.any(high > np.array(shape) - 0.5):
        msg = (
            f"{path}: the model has stars up to (y {high[0]:.0f}, x {high[1]:.0f}), outside of an image of {shape}: it "
            "belongs to another image. Give the model of this one, or read_psf(path, x=..., y=...) for one place"
        )
        raise PsfError(msg)
    frame = ((0.0, 0.0), (shape[0] - 1.0, shape[1] - 1.0)) if shape is not None else (tuple(low), tuple(high))
    grid = (np.linspace(a, b, _PLACES) for a, b in zip(*frame, strict=True))
    places_y, places_x = (g.ravel() for g in np.meshgrid(*grid, indexing="ij"))
    stamps = _stamps(tables, (y, x), (places_y, places_x))
    order = min(_order(tables), _HIGHEST)
    chi2 = tables.get("psf_chisq")
    residual = float(chi2["chisq"][0] / chi2["dof"][0]) if chi2 is not None else float("nan")
    centre, scale = (low + high) / 2, np.maximum((high - low) / 2, 0.5)
    where: dict[str, Any] = {"shape": shape} if shape is not None else {"centre": tuple(centre), "scale": tuple(scale)}
    known: dict[str, Any] = {"n_stars": len(stars), "residual": residual, "origin": f"piff {path.name}"}
    return PSFModel.fit(stamps, places_y, places_x, order=order, **where, **known)


def _refuse(path: Path, tables: dict[str, Any]) -> None:
    """Raise for what is not read, naming it."""
    if not {"psf", "psf_model", "psf_interp", "psf_stars"} <= set(tables):
        kind = str(tables["psf"]["type"][0]) if "psf" in tables else "unknown"
        msg = f"{path}: a Piff file of kind {kind!r} is not read, only one chip with a model and an interpolation"
        raise PsfError(msg)
    model, interp = (str(tables[name]["type"][0]) for name in ("psf_model", "psf_interp"))
    if model != "PixelGrid" or interp not in ("BasisPolynomial", "Mean") or "psf_interp_solution" not in tables:
        msg = (
            f"{path}: a Piff model of kind {model} with interpolation {interp} is not read, only PixelGrid with "
            "BasisPolynomial or Mean; draw it with piff.read(path).draw(x, y) at some places and pass "
            "PSFModel.fit(stamps, y, x, order=..., shape=...)"
        )
        raise PsfError(msg)


def _order(tables: dict[str, Any]) -> int:
    """Return the order of the file's polynomial in u and v."""
    interp = tables["psf_interp"]
    return int(np.max(interp["order"][0])) if "order" in interp.names else 0


def _stamps(tables: dict[str, Any], stars: Any, places: Any) -> np.ndarray:
    """Return the model at places (y, x) on the pixels of the image, (n, side, side)."""
    model, solution = tables["psf_model"], tables["psf_interp_solution"]
    scale, size = float(model["scale"][0]), int(model["size"][0])
    u, v, jacobian = _sky_plane(tables["psf_stars"], stars, places)
    order = _order(tables)
    column = solution.names[0]
    values = np.asarray(solution[column][0], float)
    # The power of u is the outer one in Piff's basis.
    basis = np.stack([u**i * v**j for i in range(order + 1) for j in range(order + 1 - i)], axis=1)
    values = values.reshape(-1, basis.shape[1])
    grids = _grids(basis @ values.T, size, scale)
    half = int(np.floor(size // 2 * scale / np.sqrt(abs(np.median(np.linalg.det(jacobian))))))
    return np.stack([_drawn(grid, jac, scale, half) for grid, jac in zip(grids, jacobian, strict=True)])


def _sky_plane(stars: Any, at: Any, places: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return u and v at places, and d(v, u)/d(y, x) there, from the positions of the file's stars."""
    y, x = at
    centre, scale = (float(y.mean()), float(x.mean())), (float(np.ptp(y)) / 2 or 1.0, float(np.ptp(x)) / 2 or 1.0)
    order = max(k for k in range(_HIGHEST + 1) if len(y) >= 2 * n_terms(k) or k == 0)
    if order == 0:
        msg = f"the Piff file holds {len(y)} stars, too few to tell where on the sky its pixels are"
        raise PsfError(msg)
    known = np.stack([np.asarray(stars[name], float) for name in ("u", "v")], axis=1)
    solution = np.linalg.lstsq(terms_at(y, x, order, centre, scale), known, rcond=None)[0]

    def plane(py: np.ndarray, px: np.ndarray) -> np.ndarray:
        return terms_at(py, px, order, centre, scale) @ solution

    here = plane(*places)
    down = plane(places[0] + 0.5, places[1]) - plane(places[0] - 0.5, places[1])
    along = plane(places[0], places[1] + 0.5) - plane(places[0], places[1] - 0.5)
    jacobian = np.stack([np.stack([down[:, 1], along[:, 1]], 1), np.stack([down[:, 0], along[:, 0]], 1)], 1)
    return here[:, 0], here[:, 1], jacobian


def _grids(parameters: np.ndarray, size: int, scale: float) -> np.ndarray:
    """Return the grids (n, size, size), v along the first axis, that parameters (n, p) stand for.

    Older files leave out the middle pixel, whose value makes the sum 1, and, where the centre was held, the next one
    along each axis, whose values make the centroid 0.
    """
    n_missing = size * size - parameters.shape[1]
    if n_missing == 0:
        return parameters.reshape(-1, size, size)
    if n_missing not in (1, 3):
        msg = f"a Piff grid of {size}x{size} pixels with {parameters.shape[1]} parameters is not read"
        raise PsfError(msg)
    middle = size // 2
    held = [(middle, middle), (middle + 1, middle), (middle, middle + 1)][:n_missing]
    free = np.ones((size, size), bool)
    for place in held:
        free[place] = False
    grids = np.zeros((len(parameters), size, size))
    grids[:, free] = parameters
    offset = np.arange(size) - middle
    total, first, second = grids.sum((1, 2)), grids.sum(2) @ offset, grids.sum(1) @ offset
    if n_missing == 3:
        grids[:, middle + 1, middle], grids[:, middle, middle + 1] = -first, -second
        total = total - first - second
    grids[:, middle, middle] = 1.0 / scale**2 - total
    return grids


def _drawn(grid: np.ndarray, jacobian: np.ndarray, scale: float, half: int) -> np.ndarray:
    """Return a grid in the sky's plane at whole pixels of the image about its centre."""
    offset = np.arange(-half, half + 1)
    dy, dx = np.meshgrid(offset, offset, indexing="ij")
    v, u = ((jacobian[k, 0] * dy + jacobian[k, 1] * dx) / scale for k in (0, 1))
    middle = len(grid) // 2
    taps = np.arange(len(grid)) - middle
    rows, columns = (_lanczos(w[:, :, None] - taps) for w in (v, u))
    return np.einsum("yxa,ab,yxb->yx", rows, grid, columns, optimize=True)


def _lanczos(distance: np.ndarray) -> np.ndarray:
    near = np.abs(distance) < _LANCZOS
    return np.where(near, np.sinc(distance) * np.sinc(distance / _LANCZOS), 0.0)
