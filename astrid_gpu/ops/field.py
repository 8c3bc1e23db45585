"""Polynomials over the field: how a PSF, a flux ratio or a sky varies from place to place.

The variables are v = (y - y0) / sy and u = (x - x0) / sx, from -1 to 1 over a frame; the terms are v^j u^i with i + j
at most the order, the power of u fastest: 1, u, u², v, uv, v² for order 2.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["frame_scale", "n_terms", "on_grid", "order_of", "powers", "terms_at"]


def powers(order: int) -> list[tuple[int, int]]:
    """Return the powers (of v, of u) of the terms."""
    return [(j, i) for j in range(order + 1) for i in range(order + 1 - j)]


def n_terms(order: int) -> int:
    """Return the number of terms, (order + 1)(order + 2) / 2."""
    return (order + 1) * (order + 2) // 2


def order_of(count: int) -> int | None:
    """Return the order that has so many terms, None if none has."""
    order = round((np.sqrt(8.0 * count + 1.0) - 3.0) / 2.0)
    return order if order >= 0 and n_terms(order) == count else None


def frame_scale(shape: tuple[int, int]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the middle (y, x) of a frame and half its sides, which make the variables run from -1 to 1."""
    ny, nx = shape
    return ((ny - 1) / 2, (nx - 1) / 2), (max((ny - 1) / 2, 0.5), max((nx - 1) / 2, 0.5))


def terms_at(y: Any, x: Any, order: int, centre: tuple[float, float], scale: tuple[float, float]) -> np.ndarray:
    """Return the terms at places (y, x), float64, shape (*places, n_terms)."""
    v = (np.asarray(y, np.float64) - centre[0]) / scale[0]
    u = (np.asarray(x, np.float64) - centre[1]) / scale[1]
    v, u = np.broadcast_arrays(v, u)
    return np.stack([v**j * u**i for j, i in powers(order)], axis=-1)


def on_grid(
    coefficients: np.ndarray, y: np.ndarray, x: np.ndarray, centre: tuple[float, float], scale: tuple[float, float]
) -> np.ndarray:
    """Return the polynomial with these coefficients (n_terms,) where rows y cross columns x, float64 (len(y), len(x)).

    As `terms_at(y[:, None], x[None, :]) @ coefficients`, in two products of thin matrices.
    """
    order = int(order_of(len(coefficients)) or 0)
    mesh = np.zeros((order + 1, order + 1))
    mesh[tuple(np.transpose(powers(order)))] = coefficients
    v, u = ((np.asarray(p, np.float64) - o) / s for p, o, s in zip((y, x), centre, scale, strict=True))
    rows, columns = (np.vander(p, order + 1, increasing=True) for p in (v, u))
    return np.asarray((rows @ mesh) @ columns.T)
