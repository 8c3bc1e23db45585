"""Polynomials over the field through what stars say: robust fits, and which order the stars support and call for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from astrid_gpu._host_ops import host_op
from astrid_gpu.ops.field import frame_scale, n_terms, powers, terms_at
from astrid_gpu.ops.field_fit import fit_polynomial, median_of

__all__ = ["ORDERS", "Fitted", "highest_order", "left_out", "leverages", "lowest_order"]

ORDERS = (0, 1, 2, 3)
_PER_TERM = 3  # stars for every term of the polynomial
_LEVERAGE = 1.0  # variance of the fit anywhere in the frame over that of one star
_RANK = 1e-6  # singular value of the terms, over the number of stars, below which they do not tell terms apart
_SURE = 2.0  # standard errors by which a higher order must predict better


def highest_order(y: np.ndarray, x: np.ndarray, shape: tuple[int, int]) -> int:
    """Return the highest order that stars at these places can fix all over the frame.

    Three stars a term, and nowhere in the frame a variance of the fit above that of a single star.
    """
    centre, scale = frame_scale(shape)
    gy, gx = (a.ravel() for a in np.meshgrid(*(np.linspace(0, n - 1, 5) for n in shape), indexing="ij"))
    best, most = 0, ORDERS[-1]
    stars, places = terms_at(y, x, most, centre, scale), terms_at(gy, gx, most, centre, scale)
    for order in ORDERS[1:]:
        if len(y) < _PER_TERM * n_terms(order):
            break
        mine = [sum(power) <= order for power in powers(most)]
        basis, frame = stars[:, mine], places[:, mine]
        normal = basis.T @ basis
        if np.linalg.eigvalsh(normal)[0] < (_RANK * len(y)) ** 2:
            break
        if leverages(frame, normal).max() > _LEVERAGE:
            break
        best = order
    return best


def leverages(basis: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Return b^T A^-1 b of terms b (m, n) and matrices A (..., n, n), (..., m)."""
    return ((basis @ np.linalg.inv(normal)) * basis).sum(axis=-1)  # type: ignore[no-any-return]


class Fitted(NamedTuple):
    """A polynomial through k quantities of m stars: its coefficients (k, n_terms), and what each star's others say."""

    coefficients: np.ndarray
    expected: np.ndarray


def left_out(bases: list[np.ndarray], values: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, list[Fitted]]:
    """Return chi-squared of each star about polynomials fitted to the others, (orders, m), and the polynomials.

    Parameters
    ----------
    bases : list of arrays (m, n_terms)
        Terms at the stars, one array for each order, the highest last: what varies beyond the errors is measured there.
    values, errors : arrays (m, k)
        k quantities of each star; the chi-squared of each is cut at 25 and added.

    Returns
    -------
    chi2 : float64 array (orders, m)
    fits : list of Fitted
        For each order; `expected` (m, k).
    """
    out, found, fit = np.zeros((len(bases), len(values))), [], host_op("fit_polynomial", fit_polynomial)
    columns = list(zip(values.T, errors.T, strict=True))
    spread2 = [fit(bases[-1], value, error)[2] for value, error in columns]
    total = errors.T**2 + np.array(spread2)[:, None]
    for k, basis in enumerate(bases):
        fits = [fit(basis, *column, spread2=s)[:2] for column, s in zip(columns, spread2, strict=True)]
        solution, weight = (np.stack(part) for part in zip(*fits, strict=True))
        lever = weight * leverages(basis, (basis.T * weight[:, None]) @ basis)
        rest = (values.T - solution @ basis.T) / np.clip(1.0 - lever, 0.1, 1.0)
        out[k] = np.minimum(rest**2 / total, 25.0).sum(axis=0)
        found.append(Fitted(solution, values - rest.T))
    return out, found


def lowest_order(misfit: np.ndarray) -> int:
    """Return the lowest order (first axis) whose mean misfit is within two standard errors of the least."""
    best = int(np.argmin([_clipped_mean(row - misfit[0])[0] for row in misfit]))
    for order in range(best):
        worse, error = _clipped_mean(misfit[order] - misfit[best])
        if worse <= _SURE * error:
            return order
    return best


def _clipped_mean(values: np.ndarray) -> tuple[float, float]:
    """Return the mean of values cut at 10 robust sigmas, and its error."""
    middle = median_of(values)
    spread = max(1.4826 * median_of(np.abs(values - middle)), 1e-12)
    cut = np.clip(values, middle - 10 * spread, middle + 10 * spread)
    return float(cut.mean()), float(cut.std() / np.sqrt(max(len(cut) - 1, 1)))
