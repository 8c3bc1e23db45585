r"""The slowly varying part of a covariance of blank pixels: sky that the background left, told by lags beyond noise.

Resampling, drizzling and charge spreading correlate pixels that are near each other. What the background leaves of an
uneven sky is correlated over tens of pixels: at lags beyond 9 px there is nothing else, and from there it goes on to
lag 0 as a paraboloid. A hundredth of the variance matters: to a PSF of 25 px in area it is a quarter of its noise. And
if cut off where noise is thought to end it rings: the spectrum falls to nothing at frequencies that are full of noise.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from astrid_gpu.ops.fourier import transfer_function

__all__ = ["BEYOND", "without_slow"]

BEYOND = 9.0
"""Lag from which on noise is taken to have no correlation, pixels."""

_GRID = (64, 64)
_MASKS = 1.2  # errors over those of a frame without holes
_SURE = 2.0  # times what chance makes of chi², from which on it is believed


def without_slow(covariance: np.ndarray, pairs: np.ndarray, taper: np.ndarray) -> np.ndarray:
    r"""Return a covariance less its slowly varying part, as far as that is more than chance.

    Parameters
    ----------
    covariance : array (k, k)
        Lag 0 in the middle.
    pairs : array (k, k)
        Pairs of blank pixels behind each lag; between masks there are far fewer at large ones.
    taper : array (k, k)
        1 on the lags that noise is correlated over, falling to 0.

    Notes
    -----
    c(d) = a + b y² + c x² + e x y, fitted to the lags beyond `BEYOND`. The four numbers are sums over the covariances,
    which have the errors that follow from the power of the noise (`_noise_variation`), and the part is taken off times
    :math:`(1 - 2 p / \chi^2)_+`, p = 4.
    """
    rows, solve, outside = _fit(covariance.shape[0])
    found = solve @ covariance[outside]
    slow = np.tensordot(found, rows, 1)
    power = np.maximum(_transform(((covariance - slow) * taper)[None])[0], 0)
    weights = np.zeros(rows.shape)
    weights[:, outside] = solve
    spectra = (_transform(weights) * power).reshape(len(rows), -1)
    n = max(float(pairs[outside].mean()), 1.0)
    errors = 2 * _MASKS**2 / n * spectra @ spectra.T / spectra.shape[1]
    scale = np.sqrt(np.maximum(np.diag(errors), 1e-300))
    x = found / scale
    chi2 = float(x @ np.linalg.pinv(errors / np.outer(scale, scale)) @ x)
    trust = max(0.0, 1 - _SURE * len(rows) / max(chi2, 1e-12))
    return covariance - trust * slow


@cache
def _fit(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the paraboloids (4, k, k), the matrix that fits them to the lags outside, and which those are."""
    lags = np.arange(side) - side // 2
    y, x = np.meshgrid(lags, lags, indexing="ij")
    outside = np.hypot(y, x) >= BEYOND
    rows = np.array([np.ones(y.shape), y**2, x**2, y * x], float)
    return rows, np.linalg.pinv(rows[:, outside].T), outside


def _transform(rows: np.ndarray) -> np.ndarray:
    return np.asarray(transfer_function(rows, _GRID, np.fft.fft2).real)
