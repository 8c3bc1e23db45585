"""The fit of an elliptical Moffat profile to a stamp, or to the pixels of a few stars at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from astrid_gpu._host_ops import host_op
from astrid_gpu.ops.moffat import Moffat, moffat_equations, moffat_profile

__all__ = ["fit_moffat", "fit_moffat_stars"]

_BETA = 3.5, 0.35  # prior of ln(beta): a seeing-limited PSF has 2.5 to 5
_LOW = [np.log(0.3), -1.5, -1.5, np.log(1.4)]
_HIGH = [np.log(200.0), 1.5, 1.5, np.log(15.0)]
_TOLERANCE = 1e-4  # relative change of chi-squared: the step after that changes it by far less
_LEAST_STEP = 1e-6
_ROUNDS = 40


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


def _chain(p: np.ndarray) -> np.ndarray:
    """Return how a star's shape and centre change with the parameters, (6, 6): e = p tanh(|p|) / |p|, else one."""
    length = max(float(np.hypot(p[1], p[2])), 1e-6)
    factor = np.tanh(length) / length
    along = (1.0 / np.cosh(length) ** 2 - factor) / length**2
    chain = np.eye(6)
    chain[1:3, 1:3] = factor * np.eye(2) + along * np.outer(p[1:3], p[1:3])
    return chain


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
    linearly inside the fit, the rest by Levenberg and Marquardt's method with derivatives in closed form. beta has a
    wide log-normal prior about 3.5, which matters for noisy stamps only.

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
    m, reach = len(stamps), max(1.5, 0.5 * fwhm)
    fit = _Fit(stamps, variance)
    first = np.array(
        [*(_shape_start(fwhm) if start is None else _pack(start)), *np.clip(centres, -reach, reach).ravel()]
    )
    low, high = np.array(_LOW + [-reach - 0.01] * (2 * m)), np.array(_HIGH + [reach + 0.01] * (2 * m))
    now = _minimise(fit, first, low, high)
    profiles = [_unpack(now.p, *now.p[4 + 2 * k : 6 + 2 * k]) for k in range(m)]
    freedom = np.maximum((fit.weight > 0).sum(axis=(1, 2)) - 4, 1)
    fluxes = np.array([now.linear[k, 0] * moffat_profile(profiles[k], stamps.shape[1:]).sum() for k in range(m)])
    best = profiles[0]._replace(amplitude=float(now.linear[0, 0]), constant=float(now.linear[0, 1]))
    return best, fluxes, now.costs / freedom


class _State(NamedTuple):
    """Parameters, matrix of the normal equations, half the gradient, chi-squared; linear parameters, each star's."""

    p: np.ndarray
    matrix: np.ndarray
    gradient: np.ndarray
    cost: float
    linear: np.ndarray
    costs: np.ndarray


class _Fit:
    """The stars and their weights; how far the parameters p leave them unexplained, and how that changes with p."""

    def __init__(self, stamps: np.ndarray, variance: np.ndarray) -> None:
        use = variance > 0
        self.stamps, self.weight = stamps, np.where(use, 1.0 / np.sqrt(np.where(use, variance, 1.0)), 0.0)

    def at(self, p: np.ndarray) -> _State:
        """Return the normal equations and all else at some parameters; chi-squared includes the prior."""
        matrix, gradient, chain = np.zeros((len(p), len(p))), np.zeros(len(p)), _chain(p)
        linear, costs = np.zeros((len(self.stamps), 2)), np.zeros(len(self.stamps))
        op = host_op("moffat_equations", moffat_equations)
        for k, (stamp, weight) in enumerate(zip(self.stamps, self.weight, strict=True)):
            linear[k], own, slope, costs[k] = op(_unpack(p, *p[4 + 2 * k : 6 + 2 * k]), stamp, weight)
            own, slope, here = chain @ own @ chain, chain @ slope, slice(4 + 2 * k, 6 + 2 * k)
            matrix[:4, :4] += own[:4, :4]
            matrix[:4, here], matrix[here, :4], matrix[here, here] = own[:4, 4:], own[4:, :4], own[4:, 4:]
            gradient[:4] += slope[:4]
            gradient[here] = slope[4:]
        pull = (p[3] - np.log(_BETA[0])) / _BETA[1]
        matrix[3, 3] += 1 / _BETA[1] ** 2
        gradient[3] += pull / _BETA[1]
        return _State(p, matrix, gradient, float(costs.sum()) + pull**2, linear, costs)


def _minimise(fit: _Fit, p: np.ndarray, low: np.ndarray, high: np.ndarray) -> _State:
    """Return the parameters of least chi-squared between bounds, and all else there.

    A parameter that presses on its bound is held.
    """
    now, damping = fit.at(np.clip(p, low, high)), 1e-3
    for _ in range(_ROUNDS):
        p, gradient, matrix = now.p, now.gradient, now.matrix
        free = ~(((p <= low) & (gradient > 0)) | ((p >= high) & (gradient < 0)))
        scale = np.maximum(np.diag(matrix), 1e-12 * max(np.diag(matrix).max(), 1e-300))
        damped = (matrix + np.diag(damping * scale))[np.ix_(free, free)]
        step = np.zeros_like(p)
        step[free] = -np.linalg.solve(damped, gradient[free])
        # An e-fold in size or half a pixel at most: further away the slopes say nothing.
        there = fit.at(np.clip(p + step / max(1.0, 2.0 * np.abs(step).max()), low, high))
        if not there.cost < now.cost:
            damping *= 10.0
            if damping > 1e8 or np.abs(there.p - p).max() < _LEAST_STEP:
                break
            continue
        small = now.cost - there.cost < _TOLERANCE * now.cost or np.abs(there.p - p).max() < _LEAST_STEP
        now, damping = there, max(0.1 * damping, 1e-9)
        if small:
            break
    return now
