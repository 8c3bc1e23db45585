"""An elliptical Moffat profile integrated over pixels, and the normal equations of its fit to one star."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

__all__ = ["Equations", "Moffat", "moffat_equations", "moffat_profile", "nodes", "points_for", "profile_planes"]

_POINTS = ((1.3, 4), (3.0, 3))  # FWHM in pixels, and points a side below it
_FEWEST = 2
_ROUNDEST = 1e-6  # 1 - e² at least


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


class Equations(NamedTuple):
    """Flux and constant of least chi-squared; that chi-squared, half its gradient, and the Gauss-Newton matrix.

    Rows and columns are ln alpha, e1, e2, ln beta, y0, x0.
    """

    linear: np.ndarray
    matrix: np.ndarray
    gradient: np.ndarray
    cost: float


def moffat_profile(m: Moffat, shape: tuple[int, int], *, centred: bool = False) -> np.ndarray:
    """Return the profile without its constant on a stamp, integrated over pixels; see `nodes`."""
    if centred:
        m = m._replace(y0=0.0, x0=0.0)
    return m.amplitude * profile_planes(m, shape, slopes=False)[0]


@cache
def nodes(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Return places in a pixel, from -1/2 to 1/2, and weights of sum 1 of Gauss and Legendre's rule.

    Two points a side integrate a profile of 3 px FWHM to 8e-4 of its peak, where three at equal steps are off by 6e-3;
    three one of 1.3 px to 1e-4.
    """
    at, weight = np.polynomial.legendre.leggauss(points)
    return 0.5 * at, 0.5 * weight


def points_for(fwhm: float) -> int:
    """Return how many points a side a pixel is integrated by."""
    return next((n for limit, n in _POINTS if fwhm < limit), _FEWEST)


def profile_planes(m: Moffat, shape: tuple[int, int], *, slopes: bool) -> np.ndarray:
    """Return the profile of amplitude 1 and, with `slopes`, its derivatives by ln alpha, e1, e2, ln beta, y0, x0."""
    at, weight = nodes(points_for(m.fwhm))
    y, x = (np.arange(n, dtype=float) - n // 2 for n in shape)
    dy = (y[:, None] + at).ravel()[:, None] - m.y0
    dx = (x[:, None] + at).ravel()[None, :] - m.x0
    round2 = max(1.0 - m.e1**2 - m.e2**2, _ROUNDEST)
    scale = 1.0 / (m.alpha**2 * np.sqrt(round2))
    q = scale * ((1 - m.e1) * dx**2 + (1 + m.e1) * dy**2 - 2 * m.e2 * dx * dy)
    log = np.log1p(q)
    value = np.exp(-m.beta * log)
    if not slopes:
        return _means(value[None], weight)
    by_q = -m.beta * value / (1.0 + q)
    parts = (value, by_q * dx**2, by_q * dy**2, by_q * (dx * dy), by_q * dy, by_q * dx, -m.beta * (log * value))
    mean, xx, yy, xy, along_y, along_x, by_beta = _means(np.stack(parts), weight)
    by_size = scale * ((1 - m.e1) * xx + (1 + m.e1) * yy - 2 * m.e2 * xy)
    return np.stack(
        [
            mean,
            -2.0 * by_size,
            scale * (yy - xx) + (m.e1 / round2) * by_size,
            (-2.0 * scale) * xy + (m.e2 / round2) * by_size,
            by_beta,
            scale * (2 * m.e2 * along_x - 2 * (1 + m.e1) * along_y),
            scale * (2 * m.e2 * along_y - 2 * (1 - m.e1) * along_x),
        ]
    )


def _means(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return weighted means of the points (n, ny points, nx points) in each pixel."""
    n, side = len(values), len(weight)
    grid = values.reshape(n, values.shape[1] // side, side, values.shape[2] // side, side)
    return ((grid @ weight) * weight[:, None]).sum(axis=2)  # type: ignore[no-any-return]


def moffat_equations(m: Moffat, stamp: np.ndarray, weight: np.ndarray) -> Equations:
    """Fit flux and constant of a profile to a stamp, and return how chi-squared changes with its shape and centre.

    Flux and constant follow the other parameters, so what they can make up for is projected out of the derivatives
    (variable projection in Kaufman's form, BIT 15, 49, 1975): the gradient is exact.

    Parameters
    ----------
    m : Moffat
        Amplitude and constant do not count.
    stamp, weight : float64 array, shape (ny, nx)
        Weights are 1 / sigma, 0 to leave a pixel out.
    """
    planes = profile_planes(m, stamp.shape, slopes=True) * weight
    known = np.stack([planes[0].ravel(), weight.ravel()])
    data = (stamp * weight).ravel()
    overlap = known @ known.T + 1e-300 * np.eye(2)
    linear = np.linalg.solve(overlap, known @ data)
    misfit = linear @ known - data
    columns = linear[0] * planes[1:].reshape(6, -1)
    columns -= (columns @ known.T) @ np.linalg.solve(overlap, known)
    return Equations(linear, columns @ columns.T, columns @ misfit, float(misfit @ misfit))
