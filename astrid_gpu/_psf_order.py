"""Which order of a PSF over the field its stars call for: each star against what the others say of its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from astrid_gpu._field_fit import left_out, leverages, lowest_order
from astrid_gpu._host_ops import host_op
from astrid_gpu._psf_shapes import Stars, Templates, fit_amplitudes, local_stamps
from astrid_gpu._psf_stack import trusted
from astrid_gpu.ops.field_fit import fit_pixels, left_out_pixels

__all__ = ["CAUTION", "Choice", "choose_order"]

CAUTION = 2.0
"""Times the noise that a pixel's term has to stand out by: it would bring it in all over the frame."""
_LEAST_FREE = 0.05  # of a star left to itself by the fit, where it is left out


class Choice(NamedTuple):
    """The order, the shapes' coefficients (3, n) over the field, the mean chi-squared of left-out stars by order."""

    order: int
    coefficients: np.ndarray
    figures: dict[int, float]


def choose_order(
    basis: Callable[[int], np.ndarray],
    templates: Templates,
    stars: Stars,
    amplitudes: tuple[np.ndarray, np.ndarray],
    highest: int,
    fwhm: float,
) -> Choice:
    """Return the lowest order up to `highest` that predicts stars as well as the best does, within two standard errors.

    Asked twice, of the shapes' amplitudes and of all pixels of the core: the first sees small changes of width and
    ellipticity, the second whatever else there is. The higher answer counts.

    Parameters
    ----------
    basis : callable
        Terms of an order at the stars, (m, n).
    templates, stars
        Of the constant PSF.
    amplitudes : float64 arrays (m, 3)
        Of the shapes in each star, and their errors.
    highest : int
    fwhm : float
    """
    bases = [basis(k) for k in range(highest + 1)]
    misfit, coefficients = left_out(bases, *amplitudes)
    least, figures = lowest_order(misfit), dict(enumerate(misfit.mean(axis=1).tolist()))
    if least < highest:
        found = zip(bases[least:], coefficients[least:], strict=True)
        chi2 = [templates.misfit(stars, _predicted(terms, templates, stars, first, fwhm)) for terms, first in found]
        least += lowest_order(np.stack(chi2))
    return Choice(least, coefficients[least], figures)


def _predicted(
    basis: np.ndarray, templates: Templates, stars: Stars, first: np.ndarray, fwhm: float
) -> np.ndarray:
    """Return the PSF at each star's place by a polynomial through the others, (m, k, k).

    `first` are coefficients (3, n) of the shapes, good enough to know flux, centre and sky of the stars.
    """
    psf, shapes = templates.psf, templates.shapes
    if basis.shape[1] == 1:
        return np.broadcast_to(psf, stars.stamps.shape)
    plain = psf + local_stamps(basis @ first.T, shapes)
    stars = templates.settled(stars, plain)
    values, errors = templates.amplitudes(stars.stamps - plain, stars.weight)
    more, weight = fit_amplitudes(basis, values, errors)
    lever = (weight * leverages(basis, (basis.T * weight[:, None]) @ basis)).T
    fitted = basis @ more.T
    expected = (fitted - lever * values) / np.maximum(1.0 - lever, _LEAST_FREE)
    rest, m = (stars.stamps - plain - local_stamps(fitted, shapes))[:, *templates.tight], len(basis)
    flat, weight = (a.reshape(m, -1) for a in (rest, stars.weight[:, *templates.tight]))
    pixels, error, seen = host_op("fit_pixels", fit_pixels)(basis, flat, weight)
    shape = basis.shape[1], *rest.shape[1:]
    trust = trusted(pixels.reshape(shape), error.reshape(shape), fwhm, CAUTION).reshape(shape[0], -1)
    local = plain + local_stamps(expected, shapes)
    core = templates.core[templates.tight].ravel()
    others = np.zeros(flat.shape)
    others[:, core] = left_out_pixels(basis, flat[:, core], seen[:, core], trust[:, core])
    local[:, *templates.tight] += others.reshape(rest.shape)
    return local

