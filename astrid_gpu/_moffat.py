"""An elliptical Moffat profile, and its fit to a stamp or to the pixels of a few stars at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Moffat", "fit_moffat", "fit_moffat_stars", "moffat_profile"]

_BETA = 3.5, 0.35  # prior of ln(beta): a seeing-limited PSF has 2.5 to 5
_LOW = [np.log(0.3), -1.5, -1.5, np.log(1.4)]
_HIGH = [np.log(200.0), 1.5, 1.5, np.log(15.0)]
_CORE = 3.0  # FWHM from the middle; further out two points a side integrate a pixel well enough
_TOLERANCE = 1e-6  # relative change of chi-squared, and step over the scale of a parameter
_ROUNDS = 40


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


def moffat_profile(m: Moffat, shape: tuple[int, int], *, centred: bool = False) -> np.ndarray:
    """Return the profile without its constant on a stamp, each pixel the mean of a grid of points in it.

    As many points a side as the width calls for: 7 below a FWHM of 1.5 px, 1 above 5; beyond 3 FWHM from the middle 2.
    """
    if centred:
        m = m._replace(y0=0.0, x0=0.0)
    return m.amplitude * _shape(m, shape, slopes=False)[0]


def _shape(m: Moffat, shape: tuple[int, int], *, slopes: bool) -> np.ndarray:
    """Return the profile of amplitude 1 and, with `slopes`, its derivatives by ln alpha, e1, e2, ln beta, y0, x0."""
    fine, core = _points(m.fwhm), int(np.ceil(_CORE * m.fwhm)) + 1
    middle = [n // 2 for n in shape]
    inner = tuple(slice(max(c - core, 0), c + core + 1) for c in middle)
    y, x = (np.arange(n, dtype=float) - c for n, c in zip(shape, middle, strict=True))
    if min(shape) <= 2 * core + 1:
        return _means(m, y, x, fine, slopes=slopes)
    planes = _means(m, y, x, min(fine, 2), slopes=slopes)
    planes[:, inner[0], inner[1]] = _means(m, y[inner[0]], x[inner[1]], fine, slopes=slopes)
    return planes


def _means(m: Moffat, y: np.ndarray, x: np.ndarray, fine: int, *, slopes: bool) -> np.ndarray:
    """Return `_shape` on the pixels (y, x), each the mean of `fine` x `fine` points."""
    offsets = (np.arange(fine) - (fine - 1) / 2) / fine
    dy = (y[:, None] + offsets).ravel()[:, None] - m.y0
    dx = (x[:, None] + offsets).ravel()[None, :] - m.x0
    round_ = np.sqrt(max(1.0 - m.e1**2 - m.e2**2, 1e-6))
    scale = 1.0 / (m.alpha**2 * round_)
    q = ((1 - m.e1) * scale) * dx**2 + ((1 + m.e1) * scale) * dy**2
    if m.e2:
        q -= (2 * m.e2 * scale) * dx * dy
    log = np.log1p(q)
    value = np.exp(-m.beta * log)
    if not slopes:
        return _mean(value, fine)[None]
    by_q = -m.beta * value / (1.0 + q)
    # q and its derivatives are polynomials in dy and dx: by_q makes the sums along x, and they those along y.
    plain, first, second = (
        _binned(by_q * power if power is not None else by_q, fine, 1) for power in (None, dx, dx**2)
    )
    xx, yy, xy = (_binned(part, fine, 0) for part in (second, plain * dy**2, first * dy))
    along_y, along_x = _binned(plain * dy, fine, 0), _binned(first, fine, 0)
    by_size = scale * ((1 - m.e1) * xx + (1 + m.e1) * yy - 2 * m.e2 * xy)
    means = (
        _mean(value, fine),
        -2.0 * by_size,
        scale * (yy - xx) + (m.e1 / round_**2) * by_size,
        (-2.0 * scale) * xy + (m.e2 / round_**2) * by_size,
        -m.beta * _mean(log * value, fine),
        scale * (2 * m.e2 * along_x - 2 * (1 + m.e1) * along_y),
        scale * (2 * m.e2 * along_y - 2 * (1 - m.e1) * along_x),
    )
    return np.stack(means)


def _mean(values: np.ndarray, fine: int) -> np.ndarray:
    return _binned(_binned(values, fine, 1), fine, 0)


def _binned(values: np.ndarray, fine: int, axis: int) -> np.ndarray:
    """Return means of `fine` neighbours along an axis."""
    if fine == 1:
        return values
    parts = [values[k::fine] if axis == 0 else values[:, k::fine] for k in range(fine)]
    total = parts[0] + parts[1]
    for part in parts[2:]:
        total += part
    return total * (1.0 / fine)  # type: ignore[no-any-return]


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


def _by_parameters(planes: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Turn derivatives by e1 and e2 into those by the parameters behind them: e = p tanh(|p|) / |p|."""
    length = max(float(np.hypot(p[1], p[2])), 1e-6)
    factor = np.tanh(length) / length
    along = (1.0 / np.cosh(length) ** 2 - factor) / length**2
    chain = factor * np.eye(2) + along * np.outer(p[1:3], p[1:3])
    out = planes.copy()
    out[1], out[2] = (
        chain[0, 0] * planes[1] + chain[1, 0] * planes[2],
        chain[0, 1] * planes[1] + chain[1, 1] * planes[2],
    )
    return out


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
    p, linear, misfits = _minimise(fit, first, low, high)
    profiles = [_unpack(p, *p[4 + 2 * k : 6 + 2 * k]) for k in range(m)]
    freedom = np.maximum(fit.use.sum(axis=(1, 2)) - 4, 1)
    fluxes = np.array([linear[k, 0] * moffat_profile(profiles[k], stamps.shape[1:]).sum() for k in range(m)])
    best = profiles[0]._replace(amplitude=float(linear[0, 0]), constant=float(linear[0, 1]))
    return best, fluxes, (misfits**2).sum(axis=(1, 2)) / freedom


class _State(NamedTuple):
    """Parameters, matrix of the normal equations, half the gradient, chi-squared; linear parameters and misfits."""

    p: np.ndarray
    matrix: np.ndarray
    gradient: np.ndarray
    cost: float
    linear: np.ndarray
    misfits: np.ndarray


class _Fit:
    """The stars and their weights; what the parameters p leave of them, and how that changes with p."""

    def __init__(self, stamps: np.ndarray, variance: np.ndarray) -> None:
        self.stamps, self.use = stamps, variance > 0
        self.weight = np.where(self.use, 1.0 / np.sqrt(np.where(self.use, variance, 1.0)), 0.0)

    def residuals(self, p: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """Return each star's weighted planes (7, s, s), the linear parameters (m, 2) and the misfits (m, s, s)."""
        linear, misfits, planes = np.zeros((len(self.stamps), 2)), np.zeros_like(self.stamps), []
        for k, (stamp, w) in enumerate(zip(self.stamps, self.weight, strict=True)):
            plane = _shape(_unpack(p, *p[4 + 2 * k : 6 + 2 * k]), stamp.shape, slopes=True)
            shape, each = plane[0] * w, _by_parameters(plane[1:], p) * w
            a, b, c = (shape * shape).sum(), (w * shape).sum(), (w * w).sum()
            f, g = (w * shape * stamp).sum(), (w * w * stamp).sum()
            det = max(a * c - b * b, 1e-300)
            linear[k] = (f * c - g * b) / det, (a * g - b * f) / det
            misfits[k] = linear[k, 0] * shape + (linear[k, 1] - stamp) * w
            planes.append(np.concatenate([shape[None], each]))
        return planes, linear, misfits

    def at(self, p: np.ndarray) -> _State:
        """Return the normal equations and all else at some parameters; chi-squared includes the prior.

        Flux and constant follow the other parameters, so what they can make up for is projected out of the
        derivatives (variable projection in Kaufman's form, BIT 15, 49, 1975): the gradient is exact.
        """
        planes, linear, misfits = self.residuals(p)
        matrix, gradient = np.zeros((len(p), len(p))), np.zeros(len(p))
        for k, (plane, w) in enumerate(zip(planes, self.weight, strict=True)):
            known = np.stack([plane[0].ravel(), w.ravel()])
            columns = linear[k, 0] * plane[1:].reshape(6, -1)
            overlap = known @ known.T + 1e-300 * np.eye(2)
            columns -= (columns @ known.T) @ np.linalg.solve(overlap, known)
            index = np.array([0, 1, 2, 3, 4 + 2 * k, 5 + 2 * k])
            matrix[np.ix_(index, index)] += columns @ columns.T
            gradient[index] += columns @ misfits[k].ravel()
        pull = (p[3] - np.log(_BETA[0])) / _BETA[1]
        matrix[3, 3] += 1 / _BETA[1] ** 2
        gradient[3] += pull / _BETA[1]
        return _State(p, matrix, gradient, float((misfits**2).sum()) + pull**2, linear, misfits)


def _minimise(fit: _Fit, p: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the parameters of least chi-squared between bounds, the linear ones there, and the misfits.

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
            if damping > 1e8 or np.abs(there.p - p).max() < 0.1 * _TOLERANCE:
                break
            continue
        small = now.cost - there.cost < _TOLERANCE * now.cost or np.abs(there.p - p).max() < 0.1 * _TOLERANCE
        now, damping = there, max(0.1 * damping, 1e-9)
        if small:
            break
    return now.p, now.linear, now.misfits
