"""Which order of a PSF over the field its stars call for: each star against what the others say of its place."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from astrid_gpu._field_fit import Fitted, left_out, lowest_order
from astrid_gpu._host_ops import host_op
from astrid_gpu._psf_shapes import Shaped, Templates, local_stamps
from astrid_gpu._psf_stack import trusted
from astrid_gpu.ops.field_fit import fit_pixels, left_out_pixels

__all__ = ["CAUTION", "Choice", "choose_order"]

CAUTION = 2.0
"""Times the noise that a pixel's term has to stand out by: it would bring it in all over the frame."""


class Choice(NamedTuple):
    """The order, the shapes' coefficients (3, n) over the field, the mean chi-squared of left-out stars by order."""

    order: int
    coefficients: np.ndarray
    figures: dict[int, float]


def choose_order(bases: list[np.ndarray], templates: Templates, stars: Shaped, fwhm: float) -> Choice:
    """Return the lowest order that predicts left-out stars as well as the best does, within two standard errors.

    Asked twice, of the shapes' amplitudes and of all pixels of the core: the first sees small changes of width and
    ellipticity, the second whatever else there is. The higher answer counts.

    Parameters
    ----------
    bases : list of float64 arrays (m, n)
        Terms of each order at the stars, the lowest first.
    templates, stars
        Of the constant PSF.
    fwhm : float
    """
    misfit, fits = left_out(bases, stars.amplitudes, stars.errors)
    least, figures = lowest_order(misfit), dict(enumerate(misfit.mean(axis=1).tolist()))
    if least < len(bases) - 1:
        by_pixels = [_left_out(*pair, templates, stars, fwhm) for pair in zip(bases[least:], fits[least:], strict=True)]
        least += lowest_order(np.stack(by_pixels))
    return Choice(least, fits[least].coefficients, figures)


def _left_out(basis: np.ndarray, fit: Fitted, templates: Templates, stars: Shaped, fwhm: float) -> np.ndarray:
    """Return chi-squared of each star's core about the PSF that the other stars say is at its place."""
    cut, m = (slice(None), *templates.tight), len(basis)
    rest, shapes = stars.rest[cut], templates.shapes[cut]
    if basis.shape[1] == 1:
        return templates.misfit(stars, np.zeros_like(rest))
    more = rest - local_stamps(basis @ fit.coefficients.T, shapes)
    flat, weight = more.reshape(m, -1), stars.weight[cut].reshape(m, -1)
    pixels, error, seen = host_op("fit_pixels", fit_pixels)(basis, flat, weight)
    shape = basis.shape[1], *more.shape[1:]
    trust = trusted(pixels.reshape(shape), error.reshape(shape), fwhm, CAUTION).reshape(shape[0], -1)
    expected, core = local_stamps(fit.expected, shapes), templates.core[templates.tight].ravel()
    expected.reshape(m, -1)[:, core] += left_out_pixels(basis, flat[:, core], seen[:, core], trust[:, core])
    return templates.misfit(stars, expected)
