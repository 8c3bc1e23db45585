"""The PSF over the field: how registered stars depart from the constant PSF.

Each term of the polynomial is a stamp in two parts. What a change of width or of ellipticity would look like is known
from the constant PSF itself; its amplitude is fitted to every star and then over the field. What else the stars show,
pixel by pixel, is added as far as it stands out of the noise, ring by ring (`_psf_stack.trusted`), so that the wings
stay smooth and no term brings in noise where the stars say nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from astrid_gpu._host_ops import host_op
from astrid_gpu._psf_order import CAUTION, choose_order
from astrid_gpu._psf_shapes import Shaped, Templates, fit_shapes, local_stamps, templates_of
from astrid_gpu._psf_stack import PsfStack, inliers, tapered, trusted
from astrid_gpu.backends.blas import one_blas_thread
from astrid_gpu.ops.field import frame_scale, terms_at
from astrid_gpu.ops.field_fit import fit_pixels

__all__ = ["FieldFit", "fit_field", "spread_over", "usable_stars"]

_LOOSE = 4.0  # times the limit for chi-squared about the constant PSF


class FieldFit(NamedTuple):
    """Stamps of the polynomial, its stars, their median reduced chi-squared, what left-out stars say of each order."""

    terms: np.ndarray
    used: np.ndarray
    chi2: float
    order: int
    held_out: dict[int, float]


def spread_over(y: np.ndarray, x: np.ndarray, shape: tuple[int, int], most: int, cells: int = 4) -> np.ndarray:
    """Return indices of at most `most` places, given best first, taken in turn from cells of the frame."""
    cell = [np.clip(p * cells // n, 0, cells - 1).astype(int) for p, n in zip((y, x), shape, strict=True)]
    number = cell[0] * cells + cell[1]
    by_cell = np.argsort(number, kind="stable")
    first = np.searchsorted(number[by_cell], number[by_cell])
    rank = np.empty(len(number), int)
    rank[by_cell] = np.arange(len(number)) - first
    return np.sort(np.argsort(rank, kind="stable")[:most])


def usable_stars(stack: PsfStack) -> np.ndarray:
    """Return which stars tell how the PSF varies: one at the border may fit the constant PSF badly because it does."""
    return stack.used if stack.stars is None else inliers(stack.stars.chi2, _LOOSE)


@one_blas_thread()
def fit_field(stack: PsfStack, shape: tuple[int, int], fwhm: float, order: int | str, highest: int) -> FieldFit:
    """Fit the PSF over the field to the stars that the constant one was built from.

    Parameters
    ----------
    stack : PsfStack
        With its registered stars.
    shape : (ny, nx)
        Of the image.
    fwhm : float
    order : {"auto", 0, 1, 2, 3}
        "auto" takes the lowest order that predicts left-out stars as well as the best does; see `choose_order`.
    highest : int
        What the stars support: see `highest_order`.

    Returns
    -------
    FieldFit
        With one term if order 0 is enough.
    """
    held_out: dict[int, float] = {}
    stars, used = stack.stars, usable_stars(stack)
    assert stars is not None
    templates = templates_of(stack.psf, fwhm)
    shaped = templates.shaped(stars.shifted[used], stars.weight[used])
    y, x = (c[used] + stars.offset[used, k] for k, c in enumerate((stars.cuts.y, stars.cuts.x)))
    if order == "auto":
        bases = [terms_at(y, x, k, *frame_scale(shape)) for k in range(highest + 1)]
        order, coefficients, held_out = choose_order(bases, templates, shaped, fwhm)
    else:
        coefficients = fit_shapes(terms_at(y, x, int(order), *frame_scale(shape)), shaped)
    order = int(order)
    if order == 0:
        return FieldFit(stack.psf[None], stack.used, stack.chi2, 0, held_out)
    basis = terms_at(y, x, order, *frame_scale(shape))
    terms = np.einsum("tk,tab->kab", coefficients, templates.shapes)
    chi2 = _chi_squared(shaped, terms, basis, templates)
    used[used] = keep = inliers(chi2)
    terms = _with_pixels(terms, basis[keep], shaped.of(keep), fwhm)
    return FieldFit(_normal(terms, stack.psf), used, float(np.median(chi2[keep])), order, held_out)


def _chi_squared(stars: Shaped, terms: np.ndarray, basis: np.ndarray, templates: Templates) -> np.ndarray:
    """Return the reduced chi-squared of stars over the core, about the PSF of their place."""
    core = templates.core
    rest, weight = stars.rest[:, core] - basis @ terms[:, core], stars.weight[:, core]
    return (weight * rest**2).sum(axis=1) / np.maximum((weight > 0).sum(axis=1) - 4, 1)  # type: ignore[no-any-return]


def _with_pixels(terms: np.ndarray, basis: np.ndarray, stars: Shaped, fwhm: float) -> np.ndarray:
    """Return the terms with what the pixels of stars show besides, as far as it stands out."""
    m, rest = len(basis), stars.rest - local_stamps(basis, terms)
    fit = host_op("fit_pixels", fit_pixels)
    pixels, error, _ = fit(basis, rest.reshape(m, -1), stars.weight.reshape(m, -1))
    pixels, error = (a.reshape(terms.shape) for a in (pixels, error))
    return terms + tapered(trusted(pixels, error, fwhm, CAUTION) * pixels)


def _normal(terms: np.ndarray, psf: np.ndarray) -> np.ndarray:
    """Return terms, `psf` added to the first, that make a PSF of sum 1 everywhere."""
    terms = terms.copy()
    terms[0] += psf
    terms[1:] -= terms[1:].sum((1, 2), keepdims=True) / terms[0].sum() * terms[0]
    return terms / terms[0].sum()  # type: ignore[no-any-return]
