"""How two images lie to each other over the field: offsets of matched stars fitted by a polynomial of proven order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from astrid_gpu.ops.field import frame_scale, n_terms, on_grid, terms_at
from astrid_gpu.ops.flux import extra_variance, tukey

__all__ = ["Places", "RegistrationField", "fit_registration"]

MAX_ORDER = 3
STARS_PER_TERM = 5
"""Stars that a polynomial must have for each of its terms."""

MIN_GAIN = 10.0
"""By how much a higher order must lower the Bayesian information criterion."""

_MAX_OFFSET = 3.0  # px; further off is another star
_GRID = 9  # places along each axis at which a field is looked at to see how far it runs


class Places(NamedTuple):
    """Matched stars: positions, offsets of the science image from the reference and their variances; (m,) each."""

    y: np.ndarray
    x: np.ndarray
    dy: np.ndarray
    dx: np.ndarray
    dy_variance: np.ndarray
    dx_variance: np.ndarray


@dataclass(frozen=True)
class RegistrationField:
    """Offset of the science image from the reference as a polynomial in position, and how well that is known.

    Parameters
    ----------
    shape : (ny, nx)
        Of the frame.
    order : int
        0 for a constant offset.
    terms : array, shape (2, n_terms)
        Of dy and dx, pixels, for the terms of `ops.field.terms_at`.
    covariance : array, shape (2, n_terms, n_terms)
    scatter : (float, float)
        What the offsets of single stars scatter about the field beyond their measuring errors, y and x.
    n_stars : int
        Stars that carry weight.
    """

    shape: tuple[int, int]
    order: int
    terms: np.ndarray
    covariance: np.ndarray
    scatter: tuple[float, float]
    n_stars: int

    def at(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the offsets (dy, dx) at places, shape (n, 2)."""
        basis = terms_at(np.ravel(y), np.ravel(x), self.order, *frame_scale(self.shape))
        return basis @ self.terms.T

    def on_grid(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the offsets where rows y cross columns x, shape (2, len(y), len(x)): dy and dx."""
        return np.stack([on_grid(terms, y, x, *frame_scale(self.shape)) for terms in self.terms])

    def error(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return what remains uncertain at places, 1 sigma in y and x: of the field, and from star to star; (n, 2)."""
        basis = terms_at(np.ravel(y), np.ravel(x), self.order, *frame_scale(self.shape))
        field = np.einsum("ni,aij,nj->na", basis, self.covariance, basis)
        return np.sqrt(np.maximum(field, 0.0) + np.array(self.scatter) ** 2)

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Return places that cover the frame, corners included."""
        axes = (np.linspace(0, n - 1, _GRID) for n in self.shape)
        rows, columns = (a.ravel() for a in np.meshgrid(*axes, indexing="ij"))
        return rows, columns

    def departure(self) -> float:
        """Return how far the field departs from its mean anywhere on the frame, pixels."""
        found = self.at(*self.grid())
        return float(np.abs(found - found.mean(axis=0)).max())

    def side(self, departure: float) -> int:
        """Return the side of tiles so small that the field departs from its value in their middle by hardly more."""
        side = 512
        while side > 128 and self.departure() * side / max(self.shape) > departure:
            side //= 2
        return side


class _Fit(NamedTuple):
    terms: np.ndarray
    covariance: np.ndarray
    scatter2: float
    weights: np.ndarray


def fit_registration(places: Places, shape: tuple[int, int]) -> RegistrationField | None:
    """Fit the offsets of matched stars over the field, with the lowest order that the stars do not contradict.

    Each order up to a cubic is fitted with Tukey weights and with the scatter beyond the measuring errors that it
    leaves; a higher one is taken if it lowers the Bayesian information criterion of both axes together by `MIN_GAIN`.

    Returns
    -------
    RegistrationField
        None with fewer than 3 usable stars: too few to know what scatters.
    """
    ok = np.isfinite(places.dy) & np.isfinite(places.dx)
    ok &= np.isfinite(places.dy_variance) & np.isfinite(places.dx_variance)
    ok &= (places.dy_variance > 0) & (places.dx_variance > 0)
    ok &= np.maximum(np.abs(places.dy), np.abs(places.dx)) < _MAX_OFFSET
    if np.count_nonzero(ok) < 3:
        return None
    kept = Places(*(column[ok] for column in places))
    best: tuple[float, int, list[_Fit]] | None = None
    for order in range(MAX_ORDER + 1):
        if order and len(kept.y) < STARS_PER_TERM * n_terms(order):
            break
        basis = terms_at(kept.y, kept.x, order, *frame_scale(shape))
        axes = ((kept.dy, kept.dy_variance), (kept.dx, kept.dx_variance))
        fits = [_fit(basis, *axis) for axis in axes]
        criterion = sum(_criterion(basis, *axis, fit) for axis, fit in zip(axes, fits, strict=True))
        if best is None or criterion < best[0] - MIN_GAIN:
            best = criterion, order, fits
    assert best is not None
    _, order, fits = best
    return RegistrationField(
        shape=shape,
        order=order,
        terms=np.stack([fit.terms for fit in fits]),
        covariance=np.stack([fit.covariance for fit in fits]),
        scatter=(float(np.sqrt(fits[0].scatter2)), float(np.sqrt(fits[1].scatter2))),
        n_stars=int(min((fit.weights > 0.05).sum() for fit in fits)),
    )


def _fit(basis: np.ndarray, values: np.ndarray, variance: np.ndarray) -> _Fit:
    """Fit one axis: Tukey-weighted least squares with a scatter beyond the errors.

    At first the scatter is what the median of the residuals says, which outliers do not raise; then what brings
    chi-squared to its expectation.
    """
    terms, weights = np.zeros(basis.shape[1]), np.ones(values.size)
    residual, scatter2 = values - np.median(values), np.inf
    for k in range(40):
        if k < 8:
            spread2 = (1.4826 * float(np.median(np.abs(residual - np.median(residual))))) ** 2
            scatter2 = max(spread2 - float(np.median(variance)), 0.0)
        else:
            scatter2 = extra_variance(residual, variance, np.ones(values.size), weights, n_fit=basis.shape[1])
        total = variance + scatter2
        weights = tukey(residual / np.sqrt(total))
        if np.count_nonzero(weights > 0.05) <= basis.shape[1]:
            weights = np.ones(values.size)
        root = np.sqrt(weights / total)
        new = np.linalg.lstsq(basis * root[:, None], values * root, rcond=None)[0]
        residual = values - basis @ new
        done, terms = np.abs(new - terms).max() < 1e-5, new
        if done and k > 8:
            break
    normal = (basis * (weights / (variance + scatter2))[:, None]).T @ basis
    return _Fit(terms, np.linalg.pinv(normal), scatter2, weights)


def _criterion(basis: np.ndarray, values: np.ndarray, variance: np.ndarray, fit: _Fit) -> float:
    """Return the Bayesian information criterion of a fit; stars that it rejects count as 5 sigma off."""
    total = variance + fit.scatter2
    chi2 = np.minimum((values - basis @ fit.terms) ** 2 / total, 25.0)
    return float(np.sum(chi2 + np.log(total)) + (basis.shape[1] + 1) * np.log(values.size))
