r"""Whether the noise of parts of a frame differs by more than chance, and how far a part's own is to be believed.

A sum :math:`f = \sum_d w(d) c(d)` over the covariances measured on n blank pixels of Gaussian noise of the power q(k)
has the error that follows from its being a quadratic form of the pixels:

.. math:: \mathrm{cov}(f_i, f_j) = \frac{2}{n} \langle q(k)^2 W_i(k) W_j(k) \rangle_k

with W the transform of w. The sum that matters is the variance of S, of which the weights are the autocorrelations of
the kernels k_n and k_r.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from astrid_gpu._noise_spectrum import REACH, tapered
from astrid_gpu.ops.fourier import transfer_function
from astrid_gpu.ops.zogy_kernels import ZogyKernels

__all__ = ["Sensitivity", "differs", "sensitivity"]

_GRID = (64, 64)
_LAGS = ((0, 0), (0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0))
_TAPER = 4.0
_MASKS = 1.2  # errors over those of a frame without holes
_SIGNIFICANT = 5.0  # standard deviations, of chi² and of one part's own departure
_SCORE_MATTERS = 0.05, 0.12  # of the variance of S: scatter of all parts, departure of one
_CORRELATION_MATTERS = 0.05, 0.2  # of neighbours, likewise


@dataclass(frozen=True)
class Sensitivity:
    """What matters of the noise of a pair, and how well it is measured.

    Attributes
    ----------
    weights : arrays (25, 25), one an image
        Their products with the covariances of the images add up to the variance of S, 1 for the noise of the frame.
    power : arrays (64, 64), one an image
        Power of the noise of the frame, in units of the variance stated.
    """

    weights: list[np.ndarray]
    power: list[np.ndarray]

    def score_variance(self, covariances: list[np.ndarray]) -> float:
        """Return the variance of S with noise of these covariances (25, 25), over that with the frame's."""
        return sum(float((w * c).sum()) for w, c in zip(self.weights, covariances, strict=True))

    def score_error(self, n: float) -> float:
        """Return its error for covariances of n blank pixels."""
        pairs = zip(self.power, self.weights, strict=True)
        return _MASKS * float(np.sqrt(sum(_covariance(q, w[None])[0, 0] for q, w in pairs) / n))

    def correlation_error(self, i: int, n: float) -> float:
        """Return the error of the correlation of neighbours in image i for covariances of n blank pixels."""
        at = _features()[1] + _features()[2]
        w, q = at / 2, self.power[i]
        rho = float((_transform(w[None])[0] * q).mean() / q.mean())
        w = w - rho * _features()[0]
        return _MASKS * float(np.sqrt(_covariance(q, w[None])[0, 0] / n)) / float(q.mean())

    @cached_property
    def _whitened(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return of each image sums of covariances (p, 25, 25), independent and of unit error for one pixel."""
        found = []
        for q, w in zip(self.power, self.weights, strict=True):
            rows = np.concatenate([_features(), w[None] / abs(w).sum()])
            values, vectors = np.linalg.eigh(_covariance(q, rows))
            kept = values > 1e-6 * values.max()
            found.append((np.tensordot((vectors[:, kept] / np.sqrt(values[kept])).T, rows, 1), values[kept]))
        return found

    def trust(self, i: int, own: np.ndarray, around: np.ndarray, n_own: float, n_around: float) -> float:
        """Return how far the covariances of a part are to be taken before those around it, 0 to 1 (James & Stein).

        `around` are the means of a neighbourhood of `n_around` pixels of which the part's `n_own` are some.
        """
        rows = self._whitened[i][0]
        error = _MASKS * np.sqrt(max(1 / n_own - 1 / n_around, 1e-12))
        chi2 = float((((rows * (own - around)).sum(axis=(1, 2)) / error) ** 2).sum())
        return max(0.0, 1 - len(rows) / max(chi2, 1e-12))


def sensitivity(kernels: ZogyKernels, sigmas: list[float], covariances: list[np.ndarray]) -> Sensitivity:
    """Make a `Sensitivity`.

    Parameters
    ----------
    kernels : ZogyKernels
        Those of a pair, of images in the unit that `sigmas` are in.
    sigmas : list of 2 floats
    covariances : list of 2 arrays (25, 25)
        Of the frame's noise, in units of sigma².
    """
    lags, taper = np.arange(-REACH, REACH + 1), tapered(_TAPER)
    weights = []
    for kernel, sigma in zip(kernels.score, sigmas, strict=True):
        spectrum = np.fft.rfft2(kernel[0])
        full = np.fft.irfft2(abs(spectrum) ** 2, s=kernel[0].shape)[np.ix_(lags, lags)]
        weights.append(sigma**2 * full * taper)
    total = sum(float((w * c).sum()) for w, c in zip(weights, covariances, strict=True))
    power = [np.maximum(_transform((c * taper)[None])[0], 0) for c in covariances]
    return Sensitivity([w / total for w in weights], power)


def differs(parts: list[list[np.ndarray]], counts: list[float], known: Sensitivity) -> tuple[str, float]:
    """Return in words what of the noise of parts of a frame varies by more than chance and enough to matter.

    Parameters
    ----------
    parts : list of lists of arrays (25, 25)
        Covariances of the images in each part.
    counts : list of float
        Blank pixels of each.
    known : Sensitivity

    Returns
    -------
    (text, scatter) : str, float
        Nothing if none does; scatter of the width of S_corr from part to part, chance taken off.
    """
    if len(parts) < 2:
        return "", 0.0
    values = np.array([known.score_variance(part) for part in parts])
    errors = np.array([known.score_error(n) for n in counts])
    varies, scatter = _varies(values, errors, _SCORE_MATTERS)
    told = [f"the noise that S sees varies by {50 * scatter:.1f} %"] if varies else []
    for i, role in enumerate(("science", "reference")):
        rho = np.array(
            [(c[REACH, REACH + 1] + c[REACH + 1, REACH]) / 2 / c[REACH, REACH] for c in (p[i] for p in parts)]
        )
        errors = np.array([known.correlation_error(i, n) for n in counts])
        varies, spread = _varies(rho, errors, _CORRELATION_MATTERS)
        if varies:
            told.append(f"the correlation of the {role} noise varies by {spread:.2f}")
    return " and ".join(told), scatter / 2


def _varies(values: np.ndarray, errors: np.ndarray, matters: tuple[float, float]) -> tuple[bool, float]:
    """Return whether values scatter by more than their errors and enough to matter, and their own scatter."""
    off = values - np.average(values, weights=errors**-2.0)
    chi2, n = float(((off / errors) ** 2).sum()), len(off) - 1
    scatter = float(np.sqrt(max(0.0, (off**2).mean() - (errors**2).mean())))
    widely = chi2 > n + _SIGNIFICANT * np.sqrt(2 * n) and scatter > matters[0]
    somewhere = (abs(off) > np.maximum(matters[1], _SIGNIFICANT * errors)).any()
    return bool(widely or somewhere), scatter


def _features() -> np.ndarray:
    """Return weights (p, 25, 25) that pick the covariances of near lags, the two opposite ones of each."""
    rows = np.zeros((len(_LAGS), 2 * REACH + 1, 2 * REACH + 1))
    for row, (y, x) in zip(rows, _LAGS, strict=True):
        row[REACH + y, REACH + x] += 0.5
        row[REACH - y, REACH - x] += 0.5
    return rows


def _transform(rows: np.ndarray) -> Any:
    return transfer_function(rows, _GRID, np.fft.fft2).real


def _covariance(power: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the covariances (p, p) of sums with weights `rows` (p, 25, 25), for one pixel."""
    spectra = (_transform(rows) * power).reshape(len(rows), -1)
    return 2 * spectra @ spectra.T / spectra.shape[1]
