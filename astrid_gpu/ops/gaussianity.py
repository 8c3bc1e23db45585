r"""What Gaussian noise of known correlation must look like: moments, tails and peaks with their scatter.

The score map on blank sky is white noise through the matched filter: a Gaussian field of unit variance whose
correlation at a lag is that of the difference PSF with itself, rho = A(lag) / A(0). The mean of a Hermite polynomial
H_k over N pixels of such a field is 0 with the variance

.. math:: \mathrm{Var} = \frac{k!}{N} \sum_{\rm lags} \rho^k

(Mehler's formula): k = 1 is the mean, 2 the variance, 3 the skewness, 4 the excess kurtosis. So N / sum(rho^k) is the
number of independent samples that each of them sees.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["autocorrelation", "expected_peaks", "expected_tail", "moment_scatter", "moments"]

_QUIET = 1e-3  # correlations below this are left out: of a noisy PSF's wings they add up to nothing but noise
_NODES = 48  # of the Gauss-Legendre rule over the correlation


def autocorrelation(psf: np.ndarray | None, stride: int = 1) -> np.ndarray:
    """Return the correlation of the score at all lags of a grid of every `stride`-th pixel, 1 in the middle.

    Parameters
    ----------
    psf : float array, shape (ky, kx), or None
        P_D; None for a score that is no matched filter, whose pixels are independent.
    stride : int
        Pixels between samples, along both axes.

    Returns
    -------
    float64 array, odd sides
    """
    if psf is None:
        return np.ones((1, 1))
    ky, kx = psf.shape
    shape = (2 * ky - 1, 2 * kx - 1)
    power = np.abs(np.fft.rfft2(psf, shape)) ** 2
    full = np.roll(np.fft.irfft2(power, shape), (ky - 1, kx - 1), (0, 1))
    rho = full / full[ky - 1, kx - 1]
    rho[np.abs(rho) < _QUIET] = 0.0
    return rho[(ky - 1) % stride :: stride, (kx - 1) % stride :: stride]


def moments(values: np.ndarray) -> tuple[float, float, float, float]:
    """Return mean, standard deviation, skewness and excess kurtosis; NaN for fewer than two values or no spread."""
    if values.size < 2:
        return (math.nan,) * 4
    mean = float(np.mean(values, dtype=np.float64))
    centred = values - values.dtype.type(mean)
    square = centred * centred
    variance = float(np.mean(square, dtype=np.float64))
    if not variance > 0:
        return mean, 0.0, math.nan, math.nan
    skewness = float(np.mean(square * centred, dtype=np.float64)) / variance**1.5
    return mean, math.sqrt(variance), skewness, float(np.mean(square * square, dtype=np.float64)) / variance**2 - 3.0


def moment_scatter(rho: np.ndarray, n: int, order: int) -> float:
    """Return the standard deviation of the mean (order 1), variance (2), skewness (3) or kurtosis (4) of n samples.

    Parameters
    ----------
    rho : float array
        From `autocorrelation`, on the grid of the samples.
    n : int
        Samples.
    """
    return math.sqrt(math.factorial(order) * max(float(np.sum(rho**order)), 1.0) / max(n, 1))


def expected_tail(threshold: float, rho: np.ndarray, n: int) -> tuple[float, float]:
    r"""Return how many of n samples lie above `threshold` sigma on one side, and the scatter of that number.

    .. math:: \mathrm{Var} = n \sum_{\rm lags} [P(x > u, y > u | \rho) - p^2], \quad
              P - p^2 = \int_0^\rho \frac{\exp(-u^2 / (1 + r))}{2 \pi \sqrt{1 - r^2}} dr

    (Plackett's identity): neighbours cross the threshold together, so that the scatter is more than Poisson's.
    """
    p = 0.5 * math.erfc(threshold / math.sqrt(2.0))
    x, w = np.polynomial.legendre.leggauss(_NODES)
    # r = sin(a) takes the root out of the integral.
    angle = np.arcsin(np.clip(rho[np.abs(rho) >= _QUIET], -1.0, 1.0))
    a = 0.5 * angle[:, None] * (1 + x)
    inner = np.exp(-(threshold**2) / np.maximum(1 + np.sin(a), 1e-12)) @ w
    together = 0.5 * angle * inner / (2 * np.pi)
    return n * p, math.sqrt(max(n * float(np.sum(together)), 0.0))


def expected_peaks(threshold: float, psf: np.ndarray | None, n: int) -> float:
    """Return how many local maxima above `threshold` sigma noise alone makes on n pixels, on one side.

    n sqrt(|Lambda|) u exp(-u^2 / 2) / (2 pi)^(3/2) with Lambda the curvature of the correlation (Adler 1981): right for
    a smooth field; maxima between pixels are counted with the height they would have there.
    """
    if psf is None:
        return n * 0.5 * math.erfc(threshold / math.sqrt(2.0))
    shape = (2 * psf.shape[0] - 1, 2 * psf.shape[1] - 1)
    power = np.abs(np.fft.fft2(psf, shape)) ** 2
    fy, fx = (2 * np.pi * np.fft.fftfreq(side) for side in shape)
    total = power.sum()
    yy, xx = (power.sum(axis=1) @ fy**2) / total, (power.sum(axis=0) @ fx**2) / total
    xy = (fy @ power @ fx) / total
    curvature = math.sqrt(max(yy * xx - xy**2, 0.0))
    return n * curvature * threshold * math.exp(-(threshold**2) / 2) / (2 * math.pi) ** 1.5
