r"""The gain of an image that tells none: how the noise of stars about the PSF rises with their light.

A pixel of a star with m counts has the variance

.. math:: V = \sigma^2 + m / g + (\epsilon m)^2

of which the last term is what the PSF is wrong by. The sum over the core of a star of its squared residuals less
:math:`\sigma^2`, over the sum of m, is thus :math:`1 / g + \epsilon^2 \sum m^2 / \sum m`: over many stars a straight
line, whose intercept is the photon noise.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from astrid_gpu._host_ops import host_op
from astrid_gpu.errors import PsfError
from astrid_gpu.image import Image
from astrid_gpu.ops.noise import source_variance
from astrid_gpu.ops.psf_fit import FURTHEST, fit_stars, psf_at, spline_of
from astrid_gpu.ops.stamps import gather_stamps
from astrid_gpu.psf import measure_one
from astrid_gpu.results import Step

__all__ = ["MeasuredGain", "measure_gain", "with_photon_noise"]

_LEAST_STARS = 12
_MOST_STARS = 400
_LEAST_SNR = 25.0
_SURE = 4.0  # sigma of 1 / g, below which nothing was measured
_CLIP = 3.5  # sigma of a star's value about the line
_FREE = 4  # parameters fitted to each star


class MeasuredGain(NamedTuple):
    """Gain, its relative error, the PSF's relative error epsilon, and the stars used."""

    gain: float
    relative_error: float
    psf_error: float
    n_stars: int


def with_photon_noise(image: Image, stars: np.ndarray, sigma: float) -> tuple[Image, list[Step]]:
    """Add the photon noise of the sources to a variance that lacks it, by the gain that the stars show.

    Parameters
    ----------
    image : Image
        Background-subtracted, with its variance, which is the sky's alone.
    stars : structured array of `find_stars`
    sigma : float
        Background standard deviation.

    Returns
    -------
    (Image, list of Step)
        The image as it is and no step, where the stars show nothing.
    """
    try:
        psf = measure_one(image, stars).psf
    except PsfError:
        return image, []
    found = measure_gain(image, psf.data, psf.fwhm, stars, sigma)
    if found is None:
        return image, []
    kind = image.known_variance.dtype.type
    whole = host_op("source_variance", source_variance)(image.data, kind(sigma), found.gain, image.bad)
    added = np.maximum(whole - sigma**2, 0).astype(kind, copy=False)
    text = (
        f"{image.name}: source photon noise by gain {found.gain:.4g} +- {found.gain * found.relative_error:.2g}, "
        f"measured on the residuals of {found.n_stars} stars about the PSF, which is wrong by {found.psf_error:.1%}"
    )
    return image.with_(variance=image.known_variance + added), [Step("noise", text, found._asdict())]


def measure_gain(image: Image, psf: np.ndarray, fwhm: float, stars: np.ndarray, sigma: float) -> MeasuredGain | None:
    """Measure counts per photon on the residuals of stars.

    Parameters
    ----------
    image : Image
        Background-subtracted, and not resampled: noise that is correlated is underestimated.
    psf : array, shape (k, k), k odd
        Sum 1.
    fwhm : float
        Pixels.
    stars : structured array of `find_stars`
    sigma : float
        Background standard deviation.

    Returns
    -------
    MeasuredGain or None
        None where fewer than 12 isolated stars of S/N 25 say so, or the intercept is not 4 of its errors above 0.

    Notes
    -----
    Cost: four linear fits of a few hundred windows of 2 FWHM.
    """
    half = max(2, round(fwhm))
    usable = (stars["flags"] == 0) & stars["isolated"] & (stars["snr"] > _LEAST_SNR)
    y, x = stars["y"][usable], stars["x"][usable]
    inside = (y > half) & (x > half) & (y < image.shape[0] - 1 - half) & (x < image.shape[1] - 1 - half)
    y, x = y[inside][:_MOST_STARS], x[inside][:_MOST_STARS]
    if y.size < _LEAST_STARS:
        return None
    rows, columns = np.rint(y).astype(np.int64), np.rint(x).astype(np.int64)
    where = (np.zeros(y.size, np.int64), rows, columns, 2 * half + 1)
    bad = gather_stamps(image.bad[None], *where, True)
    whole = ~bad.any(axis=(1, 2))
    windows = gather_stamps(np.where(image.bad, 0, image.data)[None], *where, 0.0).astype(float)[whole]
    offset = np.stack([y - rows, x - columns], axis=1)[whole]
    if len(windows) < _LEAST_STARS:
        return None
    light, excess = _residuals(windows, sigma**2, np.asarray(psf, float), half, offset)
    return _line(light, excess, sigma**2)


def _residuals(
    windows: np.ndarray, noise: float, psf: np.ndarray, half: int, offset: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the model (m, n) of each star's pixels, and its squared residuals less the sky's variance.

    Pixels that a fit of four parameters could follow have smaller residuals than noise: each is divided by the share
    that the fit leaves it.
    """
    spline = spline_of(psf, half, FURTHEST + 2.0)
    variance, bad = np.full(windows.shape, noise), np.zeros(windows.shape, bool)
    offset, flux, sky = fit_stars(windows, variance, bad, spline, offset)
    shape = psf_at(spline, half, offset[:, 0], offset[:, 1])
    columns = np.stack(
        [shape, np.gradient(shape, axis=1), np.gradient(shape, axis=2), np.ones_like(shape)], axis=-1
    ).reshape(len(shape), -1, _FREE)
    basis, _ = np.linalg.qr(columns)
    left = 1.0 - np.sum(basis**2, axis=-1)
    rest = (windows - flux[:, None, None] * shape - sky[:, None, None]).reshape(len(shape), -1)
    return flux[:, None] * shape.reshape(len(shape), -1), rest**2 / np.maximum(left, 0.1) - noise


def _line(light: np.ndarray, excess: np.ndarray, noise: float) -> MeasuredGain | None:
    """Fit excess = m / g + epsilon² m² star by star, outliers left out."""
    total = light.sum(axis=1)
    keep = total > 0
    total, light, excess = total[keep], light[keep], excess[keep]
    value, arm = excess.sum(axis=1) / total, np.sum(light**2, axis=1) / total
    a, b, error = max(float(np.median(value)), 1e-30), 0.0, np.inf
    used = np.ones(value.size, bool)
    for _ in range(12):
        pixel = np.maximum(noise + a * np.maximum(light, 0) + b * light**2, noise)
        spread = np.sqrt(2 * np.sum(pixel**2, axis=1)) / total
        weight = used / spread**2
        design = np.stack([np.ones_like(arm), arm], axis=1)
        normal = design.T @ (weight[:, None] * design)
        a, b = np.linalg.solve(normal, design.T @ (weight * value))
        error = float(np.sqrt(np.linalg.inv(normal)[0, 0]))
        if b < 0:  # a perfect PSF: a mean does it
            a, b, error = float(np.sum(weight * value) / weight.sum()), 0.0, float(1 / np.sqrt(weight.sum()))
        a = max(float(a), 1e-30)
        fresh = np.abs(value - a - b * arm) < _CLIP * spread
        if np.count_nonzero(fresh) < _LEAST_STARS:
            return None
        if np.array_equal(fresh, used):
            break
        used = fresh
    if not a > _SURE * error:
        return None
    return MeasuredGain(1 / a, error / a, float(np.sqrt(max(b, 0.0))), int(used.sum()))
