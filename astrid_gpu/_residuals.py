"""What static stars leave in a difference: flux, offset and width errors, fitted with the PSF and its derivatives."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from astrid_gpu.engine.peaks import find_peaks
from astrid_gpu.flags import INVALID
from astrid_gpu.ops.moments import refine_peaks
from astrid_gpu.ops.noise import median_sigma
from astrid_gpu.ops.stamps import gather_stamps

__all__ = ["StarResiduals", "star_residuals"]

_BRIGHT = 20.0  # S/N of the stars that are looked at, at least
_MOST = 100  # stars, the brightest
_FEWEST = 5  # stars that a median is taken of
_CHANGED = 0.3  # of its light: a star that changed by more is a variable and no witness


class StarResiduals(NamedTuple):
    """Medians over the static stars; errors are those of the medians, from the scatter from star to star.

    `n` stars; `flux`: part of their light that is left, signed; `dy`, `dx`: offset of science from reference in pixels;
    `scatter`: standard deviation of the offsets from star to star, a component, beyond the noise; `width`: part of the
    squared width by which the science star is wider than the model; `leak_offset` and `leak_width`: largest part of a
    star's significance that offset and width leave in the score map; `slope`: what one pixel of offset leaves.
    """

    n: int
    flux: float
    flux_error: float
    dy: float
    dx: float
    offset_error: float
    scatter: float
    width: float
    width_error: float
    leak_offset: float
    leak_width: float
    slope: float


def star_residuals(
    difference: np.ndarray, science: Any, error: np.ndarray | None, mask: np.ndarray, psf: np.ndarray | None
) -> StarResiduals | None:
    """Fit what bright static stars leave in a difference.

    A star of flux f that is a pixels off, e of its flux too bright and wider by dC (squared width) leaves
    f (e P_D - a . grad P_D + dC/2 laplace P_D) to first order; the four terms are fitted to each star's pixels.

    Parameters
    ----------
    difference, science, error, mask : arrays, shape (ny, nx)
        D / F_D; the background-subtracted science image; flux error map; pixel flags.
    psf : array or None
        P_D.

    Returns
    -------
    StarResiduals, or None if fewer than five stars can be used.

    Notes
    -----
    Cost: one search for peaks in the science image, then work in proportion to at most 100 stars.
    """
    if psf is None or error is None or science is None or science.shape != difference.shape:
        return None
    width = _sigma_of(psf)
    half = max(3, math.ceil(2.5 * width))
    norm = float(np.sqrt(np.sum(psf**2)))
    finite = error[:: max(1, error.shape[0] // 256)]
    noise = norm * float(np.median(finite[np.isfinite(finite)])) if np.isfinite(finite).any() else math.nan
    if not noise > 0:
        return None
    # A star of S/N s has a peak of about s noise max(P) / norm.
    level = _BRIGHT * noise * float(psf.max()) / norm
    stars = _bright_stars(science, mask, level, half)
    if len(stars) < _FEWEST:
        return None
    stamps = [
        gather_stamps(image[None], np.zeros(len(stars), np.int64), stars["y"], stars["x"], 2 * half + 1, np.nan)
        for image in (difference, science)
    ]
    whole = np.isfinite(stamps[0]).all(axis=(1, 2)) & np.isfinite(stamps[1]).all(axis=(1, 2))
    if whole.sum() < _FEWEST:
        return None
    left, light = (stamp[whole].astype(np.float64) for stamp in stamps)
    flux = light.sum(axis=(1, 2)) / _enclosed(psf, half)
    at = refine_peaks(light[:, half - 1 : half + 2, half - 1 : half + 2])
    static = (flux > 0) & at.ok
    if static.sum() < _FEWEST:
        return None
    fits, flux = _fit(left[static], flux[static], at.dy[static], at.dx[static], psf), flux[static]
    static = np.isfinite(fits).all(axis=1) & (np.abs(fits[:, 0]) < _CHANGED)
    return _summary(fits[static], noise / (norm * flux[static]), width) if static.sum() >= _FEWEST else None


def _bright_stars(science: np.ndarray, mask: np.ndarray, level: float, half: int) -> np.ndarray:
    """Return the peaks of the science image above `level` that stand alone, away from bad pixels and edges."""
    invalid = (mask & INVALID) != 0
    found = find_peaks(science, level, mask=invalid, min_separation=half, max_peaks=3 * _MOST)
    ny, nx = science.shape
    y, x = found["y"], found["x"]
    inside = (y >= half) & (y < ny - half) & (x >= half) & (x < nx - half)
    found = found[inside]
    return found[np.argsort(-found["value"], kind="stable")[:_MOST]]


def _fit(left: np.ndarray, flux: np.ndarray, dy: np.ndarray, dx: np.ndarray, psf: np.ndarray) -> np.ndarray:
    """Return flux, y, x and width terms (m, 4) of stars at offsets (dy, dx) from their middle pixel, per flux."""
    half = left.shape[1] // 2
    # What lies further out than the stamp and the reach of a shift does not matter.
    middle, cut = [k // 2 for k in psf.shape], half + 4
    psf = psf[tuple(slice(max(0, m - cut), m + cut + 1) for m in middle)]
    ky, kx = psf.shape
    shape = (max(ky, 2 * half + 1) + 8, max(kx, 2 * half + 1) + 8)
    fy, fx = 2j * np.pi * np.fft.fftfreq(shape[0])[:, None], 2j * np.pi * np.fft.rfftfreq(shape[1])[None]
    hat = np.fft.rfft2(psf, shape) * np.exp(-fy * dy[:, None, None] - fx * dx[:, None, None])
    rows, cols = ((k // 2 + np.arange(-half, half + 1)) % side for k, side in zip((ky, kx), shape, strict=True))
    terms = np.stack(
        [
            np.fft.irfft2(hat * factor, s=shape)[:, rows[:, None], cols].reshape(len(left), -1)
            for factor in (1.0, -fy, -fx, 0.5 * (fy**2 + fx**2))
        ],
        axis=2,
    )
    normal = np.einsum("mpa,mpb->mab", terms, terms)
    right = np.einsum("mpa,mp->ma", terms, left.reshape(len(left), -1) / flux[:, None])
    return np.linalg.solve(normal, right[:, :, None])[:, :, 0]


def _summary(fits: np.ndarray, noise: np.ndarray, width: float) -> StarResiduals:
    n = len(fits)
    middles, spreads = zip(*(median_sigma(fits[:, k]) for k in range(4)), strict=True)
    errors = [1.2533 * s / math.sqrt(n) for s in spreads]
    # Noise of an offset: that of the flux over the slope of the PSF, sqrt(sum P_y^2 / sum P^2) = 1 / (sqrt(2) width).
    by_noise = float(np.median(noise)) * math.sqrt(2.0) * width
    scatter = math.sqrt(max(0.5 * (spreads[1] ** 2 + spreads[2] ** 2) - by_noise**2, 0.0))
    # The score of a star is a hill of width sqrt(2) w: its slope is at most exp(-1/2) / (sqrt(2) w) of its height, and
    # a change d of the squared width takes d / (2 w^2) / 2 of it off its top.
    slope = math.exp(-0.5) / (math.sqrt(2.0) * width)
    return StarResiduals(
        n, middles[0], errors[0], middles[1], middles[2], max(errors[1:3]), scatter, middles[3] / width**2,
        errors[3] / width**2, slope * math.hypot(middles[1], middles[2]), abs(middles[3]) / (2 * width**2), slope,
    )  # fmt: skip


def _sigma_of(psf: np.ndarray) -> float:
    """Return the width in pixels of the Gaussian with the same sum P^2 as the PSF."""
    return max(0.5 / math.sqrt(math.pi * float(np.sum(psf**2)) / float(psf.sum()) ** 2), 0.5)


def _enclosed(psf: np.ndarray, half: int) -> float:
    ky, kx = psf.shape
    rows, cols = slice(max(0, ky // 2 - half), ky // 2 + half + 1), slice(max(0, kx // 2 - half), kx // 2 + half + 1)
    return float(psf[rows, cols].sum() / psf.sum())
