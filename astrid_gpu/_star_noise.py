"""How much more of the sky's noise a matched filter sees than of white noise: resampled pixels go up and down together.

A search that takes such noise for white finds its peaks by the hundred, and takes them off the stars that a PSF is
measured on as if they were neighbours. Stars too faint to be told apart are correlated like that too, but they are what
is looked for: only windows that scatter no more than the noise does are asked.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu._windows import cut
from astrid_gpu.backends import Backend
from astrid_gpu.ops.star_peaks import FWHM_PER_SIGMA

__all__ = ["filtered_noise", "sky_correlation"]

_REACH = 3  # px; resampling and drizzling reach no further
_GRID, _HALF = 6, 22  # windows along each side of the frame, and their half side
_CLIP = 5.0  # standard deviations
_LEAST = 0.7  # of a window's pixels that must be good
_ENOUGH = 4000  # pixels
_BLANK = 1.25  # times the variance of the noise, up to which a window holds little else
_SURE = 1.2  # less is not told from white noise with some light of stars in it, and makes few peaks
_LAGS = [(v, u) for v in range(_REACH + 1) for u in range(-_REACH, _REACH + 1) if (v, u) > (0, 0)]


def sky_correlation(backend: Backend, data: Any, bad: Any, rms: Any) -> np.ndarray:
    """Return the correlation of blank sky at the lags (v, u) of half a plane, from windows all over the frame.

    By the differences of pixels, which slow changes of the sky hardly enter. 0 where too little of the sky is blank.

    Parameters
    ----------
    backend : Backend
        Of the planes.
    data, bad : array (ny, nx)
        Background-subtracted pixels; which are bad.
    rms : float or array (ny, nx)
        Of the background.
    """
    half = min(_HALF, (min(data.shape) - 1) // 2)
    y, x = (p.ravel() for p in np.meshgrid(*(_places(n, half) for n in data.shape), indexing="ij"))
    windows = cut(backend, data, y, x, half, np.nan).astype(np.float64)
    windows[cut(backend, bad, y, x, half, 1) != 0] = np.nan
    noise = cut(backend, rms, y, x, 0, np.nan)[:, 0, 0] if np.ndim(rms) else np.full(len(y), float(rms))
    usable = (np.isfinite(windows).mean(axis=(1, 2)) > _LEAST) & np.isfinite(noise) & (noise > 0)
    windows = windows[usable] / noise[usable, None, None].astype(np.float64)
    if len(windows):
        windows -= np.nanmedian(windows, axis=(1, 2), keepdims=True)
    blank = windows[np.array([_variance(w, 1.0) < _BLANK for w in windows], bool)]
    total = _variance(blank, 1.0) if blank.size >= _ENOUGH else 0.0
    if not total > 0:
        return np.zeros(len(_LAGS))
    rest = np.array([_variance(_difference(blank, v, u), 2.0 * total) for v, u in _LAGS])
    return 1.0 - 0.5 * rest / total  # type: ignore[no-any-return]


def filtered_noise(correlation: np.ndarray, fwhm: float) -> float:
    """Return the noise of an image filtered by a Gaussian over that of white noise of the same rms, 1 at least.

    The variance is sum_l r(l) g(l), g(l) = exp(-l² / 4 s²) being the correlation of filtered white noise.
    """
    sigma2 = (fwhm / FWHM_PER_SIGMA) ** 2
    g = np.exp([-(v * v + u * u) / (4.0 * sigma2) for v, u in _LAGS])
    factor = float(np.sqrt(max(1.0 + 2.0 * float(g @ correlation), 1.0)))
    return factor if factor > _SURE else 1.0


def _places(n: int, half: int) -> np.ndarray:
    """Return the middles of windows along a side, none beyond the frame and none in another."""
    count = max(1, min(_GRID, n // (2 * half + 1)))
    return np.rint(np.linspace(half, n - 1 - half, count) if count > 1 else [(n - 1) / 2]).astype(int)


def _difference(windows: np.ndarray, v: int, u: int) -> np.ndarray:
    """Return pixels less those (v, u) further on."""
    side = windows.shape[1]
    left, right = max(-u, 0), side - max(u, 0)
    return windows[:, : side - v, left:right] - windows[:, v:, left + u : right + u]  # type: ignore[no-any-return]


def _variance(values: np.ndarray, first: float) -> float:
    """Return the mean square of what is not NaN, twice clipped, from a first guess of it."""
    squares = np.square(values)
    variance = first
    for _ in range(2):
        here = squares <= _CLIP**2 * variance
        n = np.count_nonzero(here)
        variance = float(np.sum(squares, where=here)) / n if n else 0.0
    return variance
