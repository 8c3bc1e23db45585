"""Stars put on one centre: each fitted, scaled to unit flux and shifted by a Fourier phase; and their robust mean."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from astrid_gpu.ops.psf_fit import MODEL_ERROR, Spline, fit_stars, psf_at

__all__ = ["Aligned", "fourier_shift", "mean_star", "register_stars"]

_LIGHT_ERROR = 0.05
"""Of the neighbours' light: it is taken off to so much only."""
_NEAR = 0.05  # px; a star shifted by less is not smeared by it
_HUBER = 2.5  # standard deviations
_FEWEST = 5  # stars from which on their scatter tells anything


class Aligned(NamedTuple):
    """Stars of unit flux on one centre, their inverse variances, centres and reduced chi-squared."""

    shifted: np.ndarray
    weight: np.ndarray
    offset: np.ndarray
    chi2: np.ndarray


def register_stars(
    data: np.ndarray,
    light: np.ndarray,
    variance: np.ndarray,
    bad: np.ndarray,
    spline: Spline,
    psf: np.ndarray,
    offset: np.ndarray,
    radius: float,
) -> Aligned:
    r"""Fit flux f, centre :math:`\delta` and sky c of each star, and shift :math:`(I - c) / f` by :math:`-\delta`.

    Parameters
    ----------
    data, light, variance : float64 array, shape (m, s, s), s odd
        Windows; what other sources bring into them; variance of the pixels.
    bad : bool array, shape (m, s, s)
        Bad pixels take the value of the fit.
    spline : Spline
        See `fit_stars`.
    psf : float64 array, shape (k, k) or (m, k, k), k odd, k < s
        What the spline was made of.
    offset : float array, shape (m, 2)
        First centres (y, x) off the middle pixels.
    radius : float
        Of the core that chi-squared is summed over, pixels.

    Returns
    -------
    Aligned
        shifted, weight (m, k, k); weight is the inverse variance, errors of the model allowed for, and 0 where a bad
        pixel reaches or the flux is not positive; offset (m, 2); chi2 (m,), infinite without a positive flux.
    """
    half, margin = data.shape[1] // 2, (data.shape[1] - psf.shape[-1]) // 2
    clean = data - light
    variance = variance + (_LIGHT_ERROR * light) ** 2
    offset, flux, sky = fit_stars(clean, variance, bad, spline, offset)
    model = psf_at(spline, half, offset[:, 0], offset[:, 1])
    safe = np.where(flux > 0, flux, 1.0)[:, None, None]
    unit = np.where(bad, model, (clean - sky[:, None, None]) / safe)
    variance = variance / safe**2
    grid = np.arange(-half, half + 1)
    core = (np.hypot(grid[:, None], grid) < radius)[None] & ~bad
    misfit = np.where(core, (unit - model) ** 2 / (variance + (MODEL_ERROR * model) ** 2), 0.0).sum((1, 2))
    chi2 = np.where(flux > 0, misfit / np.maximum(core.sum((1, 2)) - 4, 1), np.inf)
    inner = slice(margin, data.shape[1] - margin)
    holes = _reached(bad, offset)[:, inner, inner]
    weight = np.where(holes, 0.0, 1.0 / (variance[:, inner, inner] + (MODEL_ERROR * psf) ** 2))
    weight[flux <= 0] = 0.0
    return Aligned(fourier_shift(unit, -offset, margin), weight, offset, chi2)


def _reached(bad: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Return which pixels a bad one reaches in the shift."""
    if not bad.any():
        return bad
    grown = bad.copy()
    for axis in (1, 2):
        grown |= np.roll(grown, 1, axis=axis) | np.roll(grown, -1, axis=axis)
    return np.where((np.abs(offset).max(axis=1) > _NEAR)[:, None, None], grown, bad)


def fourier_shift(stamps: np.ndarray, offset: np.ndarray, margin: int = 0) -> np.ndarray:
    """Shift each (s, s) stamp, s odd, by offset (y, x) with a Fourier phase, and cut `margin` pixels off all round.

    The phase is a circular convolution along each axis with D(t) = sin(pi t) / (s sin(pi t / s)), so two products of
    small matrices. The edge is the margin's concern.
    """
    s = stamps.shape[1]
    # D at the pixels from -(s - 1) to s - 1 before the shift, which is all that a row of the matrix takes from.
    t = np.arange(1 - s, s)[None, None] - offset[:, :, None]
    below = np.sin(np.pi * t / s)
    near = np.abs(below) < 1e-9
    kernel = np.where(near, 1.0, np.sin(np.pi * t) / (s * np.where(near, 1.0, below)))
    index = np.arange(margin, s - margin)[:, None] - np.arange(s)[None, :] + s - 1
    down, across = kernel[:, 0][:, index], kernel[:, 1][:, index]
    return down @ stamps @ across.transpose(0, 2, 1)


def mean_star(stamps: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the weighted mean of stars, pixel by pixel, with Huber weights about their median.

    Parameters
    ----------
    stamps, weight : float64 array, shape (m, k, k)
        Values and inverse variances; fewer than 5 stars are averaged plainly.

    Returns
    -------
    mean, total, scatter : float64 array (k, k)
        0 where no star has a weight; the sum of the weights; and, from 5 stars on, the variance of the mean by what is
        seen of the stars' scatter about it, sum (w (z - mean))² / (sum w)², else 0.
    """
    few = len(stamps) < _FEWEST
    if not few:
        size = np.abs(stamps - np.median(stamps, axis=0)) * np.sqrt(weight)
        weight = weight * np.minimum(1.0, _HUBER / np.maximum(size, 1e-12))
    total = weight.sum(axis=0)
    safe = np.where(total > 0, total, 1.0)
    mean = (weight * stamps).sum(axis=0) / safe
    scatter = np.zeros_like(mean) if few else (weight**2 * (stamps - mean) ** 2).sum(axis=0) / safe**2
    return mean, total, scatter
