"""An elliptical Moffat profile and its fit to a stamp."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Moffat", "fit_moffat", "moffat_profile"]

_BETA = 3.5, 0.35  # prior of ln(beta): a seeing-limited PSF has 2.5 to 5
_BETA_LIMITS = 1.4, 15.0


class Moffat(NamedTuple):
    """Amplitude, constant, centre relative to the middle pixel, size, two shear components, and beta.

    The profile is A (1 + q)^-beta + c with q = |S^-1 (r - r0)|² / alpha²; alpha² sqrt-determinant scaled, (e1, e2)
    the shear: q = ((1 - e1) dx² + (1 + e1) dy² - 2 e2 dx dy) / (alpha² sqrt(1 - e1² - e2²)).
    """

    amplitude: float
    constant: float
    y0: float
    x0: float
    alpha: float
    e1: float
    e2: float
    beta: float

    @property
    def fwhm(self) -> float:
        """Full width at half maximum of the circle of the same area, pixels."""
        return float(2.0 * self.alpha * np.sqrt(2.0 ** (1.0 / self.beta) - 1.0))

    @property
    def ellipticity(self) -> float:
        """1 - b/a."""
        e = min(float(np.hypot(self.e1, self.e2)), 0.99)
        return float(1.0 - np.sqrt((1.0 - e) / (1.0 + e)))


def moffat_profile(m: Moffat, shape: tuple[int, int], *, centred: bool = False, fine: int = 3) -> np.ndarray:
    """Return the profile without its constant on a stamp, each pixel the mean of `fine` x `fine` points."""
    offsets = (np.arange(fine) - (fine - 1) / 2) / fine
    y = (np.arange(shape[0]) - shape[0] // 2)[:, None] + offsets[None, :]
    x = (np.arange(shape[1]) - shape[1] // 2)[:, None] + offsets[None, :]
    y0, x0 = (0.0, 0.0) if centred else (m.y0, m.x0)
    dy, dx = y.ravel()[:, None] - y0, x.ravel()[None, :] - x0
    scale = m.alpha**2 * np.sqrt(max(1.0 - m.e1**2 - m.e2**2, 1e-6))
    q = ((1 - m.e1) * dx**2 + (1 + m.e1) * dy**2 - 2 * m.e2 * dx * dy) / scale
    values = m.amplitude * (1.0 + q) ** -m.beta
    return values.reshape(shape[0], fine, shape[1], fine).mean(axis=(1, 3))


def fit_moffat(stamp: np.ndarray, error: np.ndarray, fwhm: float) -> Moffat:
    """Fit a Moffat profile and a constant to a stamp by least squares.

    Parameters
    ----------
    stamp : float array, odd sides, the source near its middle
    error : float array of the same shape
        1-sigma errors; infinite to leave a pixel out.
    fwhm : float
        Start, pixels.

    Notes
    -----
    beta has a wide log-normal prior about 3.5, which matters for noisy stamps only. Points sampled at 3x3 a pixel.
    """
    from scipy.optimize import least_squares

    use = np.isfinite(error) & (error > 0)
    weight = np.where(use, 1.0 / np.where(use, error, 1.0), 0.0)
    half = stamp.shape[0] // 2, stamp.shape[1] // 2
    peak = max(float(stamp[half[0] - 1 : half[0] + 2, half[1] - 1 : half[1] + 2].max()), 1e-30)
    alpha = 0.5 * fwhm / np.sqrt(2.0 ** (1.0 / _BETA[0]) - 1.0)

    def unpack(p: np.ndarray) -> Moffat:
        size = np.tanh(np.hypot(p[5], p[6])) / max(np.hypot(p[5], p[6]), 1e-12)
        return Moffat(p[0] * peak, p[1] * peak, p[2], p[3], float(np.exp(p[4])), p[5] * size, p[6] * size, float(np.exp(p[7])))

    def residual(p: np.ndarray) -> np.ndarray:
        m = unpack(p)
        misfit = ((moffat_profile(m, stamp.shape) + m.constant - stamp) * weight)[use]
        return np.append(misfit, (p[7] - np.log(_BETA[0])) / _BETA[1])

    start = np.array([1.1, 0.0, 0.0, 0.0, np.log(alpha), 0.0, 0.0, np.log(_BETA[0])])
    reach = max(1.5, 0.5 * fwhm)
    low = [0.01, -1.0, -reach, -reach, np.log(0.3), -1.5, -1.5, np.log(_BETA_LIMITS[0])]
    high = [10.0, 1.0, reach, reach, np.log(20 * fwhm + 1), 1.5, 1.5, np.log(_BETA_LIMITS[1])]
    found = least_squares(residual, start, bounds=(low, high), x_scale=[0.1, 0.01, 0.1, 0.1, 0.1, 0.1, 0.1, 0.3], max_nfev=60)
    return unpack(found.x)
