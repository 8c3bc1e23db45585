"""Polynomials over the field through what stars say: robust fits, and which order the stars support and call for."""

from __future__ import annotations

import numpy as np

from astrid_gpu._host_ops import host_op
from astrid_gpu.ops.field import frame_scale, n_terms, terms_at
from astrid_gpu.ops.field_fit import fit_polynomial

__all__ = ["ORDERS", "highest_order", "left_out", "lowest_order"]

ORDERS = (0, 1, 2, 3)
_PER_TERM = 3  # stars for every term of the polynomial
_LEVERAGE = 1.0  # variance of the fit anywhere in the frame over that of one star
_SURE = 2.0  # standard errors by which a higher order must predict better


def highest_order(y: np.ndarray, x: np.ndarray, shape: tuple[int, int]) -> int:
    """Return the highest order that stars at these places can fix all over the frame.

    Three stars a term, and nowhere in the frame a variance of the fit above that of a single star.
    """
    centre, scale = frame_scale(shape)
    gy, gx = (a.ravel() for a in np.meshgrid(*(np.linspace(0, n - 1, 5) for n in shape), indexing="ij"))
    best = 0
    for order in ORDERS[1:]:
        if len(y) < _PER_TERM * n_terms(order):
            break
        basis, frame = terms_at(y, x, order, centre, scale), terms_at(gy, gx, order, centre, scale)
        if np.linalg.matrix_rank(basis, tol=1e-6 * len(y)) < basis.shape[1]:
            break
        leverage = np.einsum("gk,kl,gl->g", frame, np.linalg.inv(basis.T @ basis), frame)
        if leverage.max() > _LEVERAGE:
            break
        best = order
    return best


def left_out(bases: list[np.ndarray], values: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Return chi-squared of each star about polynomials fitted to the others, (orders, m).

    Parameters
    ----------
    bases : list of arrays (m, n_terms)
        Terms at the stars, one array for each order, the highest last: what varies beyond the errors is measured there.
    values, errors : arrays (m, k)
        k quantities of each star; the chi-squared of each is cut at 25 and added.
    """
    out, fit = np.zeros((len(bases), len(values))), host_op("fit_polynomial", fit_polynomial)
    for value, error in zip(values.T, errors.T, strict=True):
        _, _, spread2 = fit(bases[-1], value, error)
        for k, basis in enumerate(bases):
            solution, w, _ = fit(basis, value, error, spread2=spread2)
            lever = w * np.einsum("mk,kl,ml->m", basis, np.linalg.inv((basis.T * w) @ basis), basis)
            rest = (value - basis @ solution) / np.clip(1.0 - lever, 0.1, 1.0)
            out[k] += np.minimum(rest**2 / (error**2 + spread2), 25.0)
    return out


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
    middle = float(np.median(values))
    spread = max(1.4826 * float(np.median(np.abs(values - middle))), 1e-12)
    cut = np.clip(values, middle - 10 * spread, middle + 10 * spread)
    return float(cut.mean()), float(cut.std() / np.sqrt(max(len(cut) - 1, 1)))
