"""Fits over the field: a robust polynomial through what stars say, one through each pixel, small linear fits."""

from __future__ import annotations

import numpy as np

__all__ = ["fit_pixels", "fit_polynomial", "left_out_pixels", "linear_fits", "median_of"]

_ROUNDS = 8
_FAR = 5.0  # robust sigmas from which on a value has no weight
_HUBER = 2.5  # standard deviations of a pixel
_RIDGE = 1e-9
_LEAST_FREE = 0.05  # of a pixel left to itself by the fit, where it is left out


def fit_polynomial(
    basis: np.ndarray, values: np.ndarray, error: np.ndarray, *, spread2: float | None = None
) -> tuple[np.ndarray, np.ndarray, float]:
    """Fit a polynomial to values of known errors, outliers weighted down.

    Returns
    -------
    coefficients, weights
    spread2 : float
        Variance of the values beyond their errors, fitted unless it is given: without it the brightest few would rule.
    """
    known, spread2 = spread2 is not None, spread2 or 0.0
    rest = values - median_of(values)
    for i in range(_ROUNDS):
        total = np.sqrt(error**2 + spread2)
        size = np.abs(rest / total)
        size /= max(1.4826 * median_of(size), 1.0)
        # Huber's weights find the bulk; Tukey's then give what lies far off it no say at all.
        weight = np.minimum(1.0, 2.0 / np.maximum(size, 1e-12)) if i < _ROUNDS // 2 else _tukey(size)
        root = np.sqrt(weight) / total
        solution = np.linalg.lstsq(basis * root[:, None], values * root, rcond=1e-10)[0]
        rest = values - basis @ solution
        if not known:
            spread2 = max((1.4826 * median_of(np.abs(rest))) ** 2 - median_of(error**2), 0.0)
    return solution, root**2, spread2


def median_of(values: np.ndarray) -> float:
    """Return the median of finite numbers; of a hundred of them NumPy's own takes ten times as long."""
    ordered, n = np.sort(values), len(values)
    return 0.5 * float(ordered[(n - 1) // 2] + ordered[n // 2])


def _tukey(size: np.ndarray) -> np.ndarray:
    """Return biweights, with a trace of weight for all so that no place is ever lost."""
    return np.maximum(np.where(size < _FAR, (1.0 - (size / _FAR) ** 2) ** 2, 0.0), 1e-6)


def fit_pixels(basis: np.ndarray, values: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit a polynomial to each pixel of stars, with Huber weights about a first fit.

    Parameters
    ----------
    basis : float64 array, shape (m, n)
        Terms at the stars.
    values, weight : float64 array, shape (m, p)
        Pixels of each star and their inverse variances.

    Returns
    -------
    solution, error : float64 array (n, p)
        The error is that of the scatter which is seen (White 1980, Econometrica 48, 817),
        A^-1 (sum w² r² b b^T) A^-1 m / (m - n). Pixels without weight have 0 and an infinite error.
    w : float64 array (m, p)
        Weights by what the fit leaves of each pixel.
    """
    m, n = basis.shape
    w = weight
    squares = (basis[:, :, None] * basis[:, None]).reshape(m, n * n)
    for _ in range(2):
        normal = (w.T @ squares).reshape(-1, n, n)
        scale = np.einsum("akk->a", normal)
        seen = scale > 0
        normal[~seen] = np.eye(n)
        normal += (_RIDGE * np.where(seen, scale, 1.0))[:, None, None] * np.eye(n)
        inverse = np.linalg.inv(normal)
        solution = (inverse @ ((w * values).T @ basis)[:, :, None])[:, :, 0]
        misfit = values - basis @ solution.T
        w = weight * np.minimum(1.0, _HUBER / np.maximum(np.abs(misfit) * np.sqrt(w), 1e-12))
    meat = (((w * misfit) ** 2).T @ squares).reshape(-1, n, n)
    cover = inverse @ meat @ inverse * (m / max(m - n, 1))
    error = np.sqrt(np.maximum(np.einsum("akk->ak", cover), 0.0))
    solution[~seen], error[~seen] = 0.0, np.inf
    return solution.T.copy(), error.T.copy(), w


def left_out_pixels(basis: np.ndarray, values: np.ndarray, weight: np.ndarray, trust: np.ndarray) -> np.ndarray:
    r"""Return what fits to all stars but one say of each pixel of that one, for every star.

    With :math:`A = \sum_i w_i b_i b_i^T`, :math:`c = A^{-1} \sum_i w_i z_i b_i` and leverage
    :math:`h_i = w_i b_i^T A^{-1} b_i` the fit without star i is
    :math:`c - A^{-1} b_i w_i (z_i - b_i^T c) / (1 - h_i)` (Sherman and Morrison).

    Parameters
    ----------
    basis : float64 array, shape (m, n)
        Terms at the stars.
    values, weight : float64 array, shape (m, p)
        Pixels of each star and their weights.
    trust : float64 array, shape (n, p)
        Factor of each coefficient in the prediction.

    Returns
    -------
    float64 array (m, p)
    """
    m, n = basis.shape
    squares = (basis[:, :, None] * basis[:, None]).reshape(m, n * n)
    normal = (weight.T @ squares).reshape(-1, n, n)
    scale = np.einsum("akk->a", normal)
    normal += (_RIDGE * scale + np.where(scale > 0, 0.0, 1.0))[:, None, None] * np.eye(n)
    inverse = np.linalg.inv(normal)
    solution = (inverse @ ((weight * values).T @ basis)[:, :, None])[:, :, 0].T
    lever = weight * (squares @ inverse.reshape(-1, n * n).T)
    step = weight * (values - basis @ solution) / np.maximum(1.0 - lever, _LEAST_FREE)
    change = squares @ (trust.T[:, :, None] * inverse).reshape(-1, n * n).T
    return basis @ (trust * solution) - step * change


def linear_fits(
    own: np.ndarray | None, shared: np.ndarray, values: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit columns to the pixels of each star by weighted least squares.

    Parameters
    ----------
    own : float64 array, shape (m, p), optional
        The first column of each star.
    shared : float64 array, shape (c, p)
        Columns of all stars.
    values, weight : float64 array, shape (m, p)

    Returns
    -------
    solution, error : float64 array (m, c), or (m, 1 + c) with `own`
    chi2 : float64 array (m,)
        sum w r² of what is left.
    """
    m = len(values)
    columns = np.broadcast_to(shared, (m, *shared.shape))
    if own is not None:
        columns = np.concatenate([own[:, None], columns], axis=1)
    weighted = columns * weight[:, None]
    normal, right = weighted @ columns.transpose(0, 2, 1), np.einsum("mcp,mp->mc", weighted, values)
    scale = np.maximum(np.einsum("mcc->mc", normal), 1e-300)
    cover = np.linalg.inv(normal + _RIDGE * scale[:, :, None] * np.eye(normal.shape[1]))
    solution = np.einsum("mcd,md->mc", cover, right)
    error = np.sqrt(np.maximum(np.einsum("mcc->mc", cover), 0.0))
    rest = values - np.einsum("mc,mcp->mp", solution, columns)
    return solution, error, (weight * rest**2).sum(axis=1)
