"""Which size the point sources of a field share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Locus", "point_locus"]


class Locus(NamedTuple):
    """Where the point sources lie: their FWHM, its scatter, their ellipticity, and how many defined it."""

    fwhm: float
    width: float
    ellipticity: float
    n: int


def point_locus(fwhm: np.ndarray, ellipticity: np.ndarray, snr: np.ndarray, hint: float | None) -> Locus:
    """Return the FWHM the point sources share.

    They are the narrowest thing many sources have in common: of the peaks in the density of ln(FWHM) that reach
    half of the highest, the narrowest is taken; one that lies below 1.6 px (hot pixels, cosmic rays) only if it is
    the highest by far. If that peak is no tight clump (a field of galaxies, a handful of sources) it is the
    narrowest round, significant source that is no cosmic ray, with its like. A hint outvotes the density where
    fewer than 5 sources speak.

    Parameters
    ----------
    fwhm, ellipticity, snr : float array, shape (m,)
        Of the sources good enough to vote.
    hint : float, optional
        FWHM in pixels from elsewhere.
    """
    use = np.isfinite(fwhm) & (fwhm > 0) & (ellipticity < 0.5)
    f, e, s = fwhm[use], ellipticity[use], snr[use]
    if f.size < 5 and hint is not None:
        near = np.abs(np.log(f / hint)) < 0.25
        if not near.any():
            return Locus(float(hint), 0.05 * float(hint), 0.0, 0)
        centre = float(np.average(f[near], weights=s[near]))
        return Locus(centre, 0.05 * float(hint), float(np.median(e[near])), int(near.sum()))
    if f.size == 0:
        return Locus(float("nan"), float("nan"), float("nan"), 0)
    centre, tight = _densest(np.log(f), s, hint)
    if not tight and hint is None:
        centre = _narrowest(f, e, s, centre)
    return _around(centre, f, e)


def _densest(logs: np.ndarray, snr: np.ndarray, hint: float | None) -> tuple[float, bool]:
    """Return the FWHM at the chosen peak of the density of ln(FWHM), and whether the peak is a tight clump."""
    weight = np.minimum(snr, 100.0) ** 0.5
    if hint is not None:
        weight = weight * np.exp(-0.5 * ((logs - np.log(hint)) / 0.3) ** 2) + 1e-9
    grid = np.linspace(logs.min() - 0.2, logs.max() + 0.2, 400)
    density = (weight * np.exp(-0.5 * ((grid[:, None] - logs) / 0.06) ** 2)).sum(1)
    peaks = np.flatnonzero((density[1:-1] >= density[:-2]) & (density[1:-1] > density[2:])) + 1
    tall = peaks[density[peaks] >= 0.5 * density.max()]
    real = tall[grid[tall] > np.log(1.6)]
    place = grid[real[0] if real.size else tall[np.argmax(density[tall])]]
    distance = np.abs(logs - place)
    inner, outer = int((distance < 0.06).sum()), int((distance < 0.24).sum())
    # A continuum of sizes puts a quarter of the wide band into the narrow one.
    return float(np.exp(place)), inner >= 4 and inner > 0.45 * outer


def _narrowest(f: np.ndarray, e: np.ndarray, s: np.ndarray, centre: float) -> float:
    """Return the FWHM of the narrowest round, bright source that cannot be a cosmic ray; `centre` if there is none."""
    floor = 1.9 if np.median(f) > 2.5 else 1.1
    real = (e < 0.2) & (f > floor) & (s > min(50.0, np.median(s)))
    return float(f[real].min()) * 1.03 if real.any() else centre


def _around(centre: float, f: np.ndarray, e: np.ndarray) -> Locus:
    """Return median, width and ellipticity of the sources near `centre`."""
    near = np.abs(np.log(f / centre)) < 0.15
    n = int(near.sum())
    if n == 0:
        return Locus(centre, 0.05 * centre, 0.0, 0)
    middle = float(np.median(f[near]))
    width = 1.4826 * float(np.median(np.abs(f[near] - middle))) if n >= 3 else 0.05 * middle
    return Locus(middle, max(width, 0.01 * middle), float(np.median(e[near])), n)
