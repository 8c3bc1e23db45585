"""The flux ratio over the field: thin cloud, shutters and flat fields make beta a smooth function of position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from astrid_gpu._field_fit import highest_order, left_out, lowest_order
from astrid_gpu._host_ops import host_op
from astrid_gpu.ops.field import frame_scale, on_grid, order_of, terms_at
from astrid_gpu.ops.field_fit import fit_polynomial

__all__ = ["FluxModel", "fit_flux_model"]


@dataclass(frozen=True, repr=False, eq=False)
class FluxModel:
    """Flux ratio beta = F_n / F_r as a polynomial in position.

    Parameters
    ----------
    coefficients : array (n_terms,)
        Of 1, u, u², ..., v, uv, ..., v² (see `ops.field`), u and v running from -1 to 1 over the frame.
    covariance : array (n_terms, n_terms)
        Of the coefficients.
    shape : (ny, nx)
        Of the frame.
    """

    coefficients: np.ndarray
    covariance: np.ndarray
    shape: tuple[int, int]

    @property
    def order(self) -> int:
        """Total degree of the polynomial."""
        return int(order_of(len(self.coefficients)) or 0)

    def at(self, y: np.ndarray | float, x: np.ndarray | float) -> np.ndarray:
        """Return beta at 0-based pixels (y, x), float64, shape of y and x after broadcasting."""
        return terms_at(y, x, self.order, *frame_scale(self.shape)) @ self.coefficients

    def error_at(self, y: np.ndarray | float, x: np.ndarray | float) -> np.ndarray:
        """Return the 1-sigma error of beta at pixels (y, x)."""
        terms = terms_at(y, x, self.order, *frame_scale(self.shape))
        return np.sqrt(np.einsum("...k,kl,...l->...", terms, self.covariance, terms))

    def over_rows(self, rows: slice) -> np.ndarray:
        """Return beta at every pixel of some rows, float64."""
        ny, nx = self.shape
        return on_grid(self.coefficients, np.arange(*rows.indices(ny)), np.arange(nx), *frame_scale(self.shape))

    def over_frame(self) -> np.ndarray:
        """Return beta at every pixel, shape (ny, nx), float64."""
        return self.over_rows(slice(None))

    @property
    def middle(self) -> float:
        """Beta in the middle of the frame."""
        return float(self.at(*((n - 1) / 2 for n in self.shape)))

    @property
    def spread(self) -> tuple[float, float]:
        """Least and largest beta on a grid of places over the frame."""
        y, x = (np.linspace(0, n - 1, 9) for n in self.shape)
        values = self.at(y[:, None], x[None, :])
        return float(values.min()), float(values.max())

    def __repr__(self) -> str:
        low, high = self.spread
        return f"<FluxModel of order {self.order}: beta {self.middle:.4g}, from {low:.4g} to {high:.4g} over the frame>"


def fit_flux_model(
    y: np.ndarray,
    x: np.ndarray,
    ratios: np.ndarray,
    errors: np.ndarray,
    beta: float,
    shape: tuple[int, int],
    order: int | str = "auto",
) -> tuple[FluxModel | None, dict[int, float]]:
    """Fit the flux ratio over the field to that of single sources.

    Parameters
    ----------
    y, x : arrays (m,)
        Places, pixels.
    ratios, errors : arrays (m,)
        Flux ratio of each source over `beta`, and its error. Outliers are weighted down.
    beta : float
        The constant flux ratio, which the model has in the weighted mean of the sources.
    shape : (ny, nx)
    order : {"auto", 0, 1, 2, 3}
        "auto": the lowest order that predicts sources left out of the fit as well as any. A number is lowered to what
        the sources support.

    Returns
    -------
    model : FluxModel or None
        None where beta is constant.
    figures : dict
        Mean chi-squared of left-out sources by order, empty if only one order was possible.
    """
    figures: dict[int, float] = {}
    highest = highest_order(y, x, shape)
    scale = frame_scale(shape)
    if order == "auto" and highest:
        bases = [terms_at(y, x, k, *scale) for k in range(highest + 1)]
        misfit, _ = left_out(bases, ratios[:, None], errors[:, None])
        figures = dict(enumerate(misfit.mean(axis=1).tolist()))
        highest = lowest_order(misfit)
    degree = highest if order == "auto" else min(int(order), highest)
    if degree == 0:
        return None, figures
    basis = terms_at(y, x, degree, *scale)
    solution, weights, _ = host_op("fit_polynomial", fit_polynomial)(basis, ratios, errors)
    covariance = np.linalg.inv((basis.T * weights) @ basis)
    mean = float((weights * (basis @ solution)).sum() / weights.sum())
    if not mean > 0:
        return None, figures
    factor = beta / mean
    model = FluxModel(solution * factor, covariance * factor**2, shape)
    return (model, figures) if model.spread[0] > 0.2 * beta else (None, figures)
