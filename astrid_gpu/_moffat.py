"""An elliptical Moffat profile, and its fit to a stamp or to the pixels of a few stars at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Moffat", "fit_moffat", "fit_moffat_stars", "moffat_profile"]

_BETA = 3.5, 0.35  # prior of ln(beta): a seeing-limited PSF has 2.5 to 5
_LOW = [np.log(0.3), -1.5, -1.5, np.log(1.4)]
_HIGH = [np.log(200.0), 1.5, 1.5, np.log(15.0)]


class Moffat(NamedTuple):
    """Amplitude, constant, centre relative to the middle pixel, size, two components of ellipticity, and beta.

    The profile is A (1 + q)^-beta + c with
    q = ((1 - e1) dx² + (1 + e1) dy² - 2 e2 dx dy) / (alpha² sqrt(1 - e1² - e2²)).
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


def moffat_profile(m: Moffat, shape: tuple[int, int], *, centred: bool = False, fine: int | None = None) -> np.ndarray:
    """Return the profile without its constant on a stamp, each pixel the mean of `fine` x `fine` points.

    By default as many points as the width calls for: 7 below a FWHM of 1.5 px, 1 above 5.
    """
    if fine is None:
        fine = _points(m.fwhm)
    offsets = (np.arange(fine) - (fine - 1) / 2) / fine
    y = (np.arange(shape[0]) - shape[0] // 2)[:, None] + offsets[None, :]
    x = (np.arange(shape[1]) - shape[1] // 2)[:, None] + offsets[None, :]
    y0, x0 = (0.0, 0.0) if centred else (m.y0, m.x0)
    dy, dx = y.ravel()[:, None] - y0, x.ravel()[None, :] - x0
    scale = m.alpha**2 * np.sqrt(max(1.0 - m.e1**2 - m.e2**2, 1e-6))
    q = ((1 - m.e1) * dx**2 + (1 + m.e1) * dy**2 - 2 * m.e2 * dx * dy) / scale
    values = m.amplitude * np.exp(-m.beta * np.log1p(q))
    return values.reshape(shape[0], fine, shape[1], fine).mean(axis=(1, 3)) if fine > 1 else values


def _points(fwhm: float) -> int:
    return 7 if fwhm < 1.5 else 5 if fwhm < 2.5 else 3 if fwhm < 5 else 1


def _shape_start(fwhm: float) -> list[float]:
    """Return ln(alpha), two ellipticity parameters and ln(beta) to begin with."""
    alpha = 0.5 * fwhm / np.sqrt(2.0 ** (1.0 / _BETA[0]) - 1.0)
    return [float(np.log(np.clip(alpha, 0.31, 190.0))), 0.0, 0.0, float(np.log(_BETA[0]))]


def _pack(m: Moffat) -> list[float]:
    """Return the four shape parameters of a profile; the inverse of `_unpack`."""
    length = min(float(np.hypot(m.e1, m.e2)), 0.9)
    factor = np.arctanh(length) / max(length, 1e-12)
    values = np.array([np.log(m.alpha), m.e1 * factor, m.e2 * factor, np.log(m.beta)])
    return list(np.clip(values, np.array(_LOW) + 1e-3, np.array(_HIGH) - 1e-3))


def _unpack(p: np.ndarray, y0: float, x0: float, amplitude: float = 1.0, constant: float = 0.0) -> Moffat:
    """Turn fit parameters into a Moffat; the ellipticity runs through tanh and so stays below 1."""
    length = np.hypot(p[1], p[2])
    factor = np.tanh(length) / max(length, 1e-12)
    alpha, beta = float(np.exp(p[0])), float(np.exp(p[3]))
    return Moffat(amplitude, constant, float(y0), float(x0), alpha, float(p[1] * factor), float(p[2] * factor), beta)


def fit_moffat(stamp: np.ndarray, error: np.ndarray, fwhm: float, *, start: Moffat | None = None) -> Moffat:
    """Fit a Moffat profile and a constant to a stamp by least squares; see `fit_moffat_stars`, of which it is one.

    Parameters
    ----------
    stamp, error : float array of one shape, odd sides, the source near the middle
        Errors are 1-sigma; infinite to leave a pixel out.
    fwhm : float
        Start, pixels; `start` if given goes before it.
    """
    centre = np.zeros((1, 2)) if start is None else np.array([[start.y0, start.x0]])
    variance = np.where(np.isfinite(error) & (error > 0), error, 0.0)[None] ** 2
    return fit_moffat_stars(stamp[None], variance, centre, fwhm, start=start)[0]


def fit_moffat_stars(
    stamps: np.ndarray, variance: np.ndarray, centres: np.ndarray, fwhm: float, *, start: Moffat | None = None
) -> tuple[Moffat, np.ndarray, np.ndarray]:
    """Fit one Moffat shape to several stars at once, each with its own flux, centre and constant.

    Nothing is shifted or interpolated, so it holds for undersampled stars too. Fluxes and constants are solved
    linearly inside the fit. beta has a wide log-normal prior about 3.5, which matters for noisy stamps only.

    Parameters
    ----------
    stamps, variance : float array, shape (m, s, s), s odd
        A variance of 0 leaves a pixel out.
    centres : float array, shape (m, 2)
        First centres (y, x) relative to the middle pixels.
    fwhm : float
        First width, pixels.
    start : Moffat, optional
        First shape, instead of a circular one of `fwhm`.

    Returns
    -------
    (moffat, fluxes, chi2)
        Amplitude, constant and centre of `moffat` are those of the first star; fluxes and reduced chi-squared (m,).
    """
    from scipy.optimize import least_squares

    m, reach = len(stamps), max(1.5, 0.5 * fwhm)
    use = variance > 0
    weight = np.where(use, 1.0 / np.sqrt(np.where(use, variance, 1.0)), 0.0)
    centres = np.clip(centres, -reach, reach)

    def solve(p: np.ndarray) -> tuple[list[Moffat], np.ndarray, np.ndarray]:
        """Return the profiles, the linear parameters (m, 2) and the misfits (m, s, s)."""
        profiles, linear, misfits = [], np.zeros((m, 2)), np.zeros_like(stamps)
        for k in range(m):
            profile = _unpack(p, p[4 + 2 * k], p[5 + 2 * k])
            shape, w = moffat_profile(profile, stamps.shape[1:]), weight[k]
            a, b, c = (w * w * shape * shape).sum(), (w * w * shape).sum(), (w * w).sum()
            f, g = (w * w * shape * stamps[k]).sum(), (w * w * stamps[k]).sum()
            det = max(a * c - b * b, 1e-300)
            linear[k] = (f * c - g * b) / det, (a * g - b * f) / det
            misfits[k] = (linear[k, 0] * shape + linear[k, 1] - stamps[k]) * w
            profiles.append(profile)
        return profiles, linear, misfits

    def residual(p: np.ndarray) -> np.ndarray:
        return np.append(solve(p)[2].ravel(), (p[3] - np.log(_BETA[0])) / _BETA[1])

    first = np.array([*(_shape_start(fwhm) if start is None else _pack(start)), *centres.ravel()])
    low, high = np.array(_LOW + [-reach - 0.01] * (2 * m)), np.array(_HIGH + [reach + 0.01] * (2 * m))
    found = least_squares(residual, first, bounds=(low, high), x_scale=0.1, xtol=1e-6, ftol=1e-6, max_nfev=40)
    profiles, linear, misfits = solve(found.x)
    freedom = np.maximum(use.sum(axis=(1, 2)) - 4, 1)
    fluxes = np.array([linear[k, 0] * moffat_profile(profiles[k], stamps.shape[1:]).sum() for k in range(m)])
    best = profiles[0]._replace(amplitude=float(linear[0, 0]), constant=float(linear[0, 1]))
    return best, fluxes, (misfits**2).sum(axis=(1, 2)) / freedom
