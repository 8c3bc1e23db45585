"""Pixel maps: where each pixel of a target grid lies in a source image.

Maps go from the target to the source, so nothing is ever inverted and every output pixel is computed once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["Coordinates", "PixelMap", "Polynomial", "grid_map"]

Coordinates = tuple[np.ndarray, np.ndarray]

_MAP_ERROR = 1e-3  # px; largest error allowed in a map interpolated from nodes
_ROWS = 512  # rows handled at once where a map is evaluated pixel by pixel


@dataclass(frozen=True)
class Polynomial:
    """Polynomial distortion of the plane.

    Parameters
    ----------
    coefficients : array, shape (2, n_terms)
        Of y and of x, for the terms of `terms`.
    order : int
        Total degree.
    centre, scale : (float, float), float
        The terms are powers of ``(y - centre_y) / scale`` and ``(x - centre_x) / scale``.
    """

    coefficients: np.ndarray
    order: int
    centre: tuple[float, float]
    scale: float

    def powers(self) -> list[tuple[int, int]]:
        """Exponents (of v, of u) of the terms: 1, then v, u, then v^2, vu, u^2 ... of normalised y, x."""
        return [(degree - i, i) for degree in range(self.order + 1) for i in range(degree + 1)]

    def terms(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the design matrix, shape (..., n_terms)."""
        v, u = (y - self.centre[0]) / self.scale, (x - self.centre[1]) / self.scale
        return np.stack([v**i * u**j for i, j in self.powers()], axis=-1)

    def __call__(self, y: np.ndarray, x: np.ndarray) -> Coordinates:
        v, u = (y - self.centre[0]) / self.scale, (x - self.centre[1]) / self.scale
        out_y, out_x = np.zeros(np.shape(v)), np.zeros(np.shape(v))
        for (i, j), (a, b) in zip(self.powers(), self.coefficients.T, strict=True):
            term = v**i * u**j
            out_y += a * term
            out_x += b * term
        return out_y, out_x


@dataclass(frozen=True)
class PixelMap:
    """Source position of a target position: the polynomial `correction` of `base`; None stands for the identity."""

    base: Callable[[np.ndarray, np.ndarray], Coordinates] | None = None
    correction: Polynomial | None = None

    def __call__(self, y: np.ndarray, x: np.ndarray) -> Coordinates:
        y, x = np.asarray(y, float), np.asarray(x, float)
        if self.base is not None:
            y, x = self.base(y, x)
        return (y, x) if self.correction is None else self.correction(y, x)

    def jacobian(self, y: float, x: float) -> np.ndarray:
        """Return d(source y, x) / d(target y, x) at one place, shape (2, 2), by central differences over one pixel."""
        rows, columns = self(np.array([y + 0.5, y - 0.5, y, y]), np.array([x, x, x + 0.5, x - 0.5]))
        return np.array([[rows[0] - rows[1], rows[2] - rows[3]], [columns[0] - columns[1], columns[2] - columns[3]]])


def grid_map(pixel_map: PixelMap, shape: tuple[int, int], *, step: int = 32) -> Coordinates:
    """Evaluate a map at every pixel of a grid.

    A sky projection costs microseconds a point, so the map is evaluated on nodes `step` pixels apart and interpolated
    by a bicubic spline; the error is measured half-way between nodes and the step halved until it is < 0.001 px.

    Parameters
    ----------
    pixel_map : PixelMap
        Target to source.
    shape : (int, int)
        Of the target grid.
    step : int
        First distance of the nodes in pixels.

    Returns
    -------
    y_map, x_map : array, shape `shape`, float64
        Position in the source of every target pixel; NaN where the map is undefined.
    """
    from scipy.interpolate import RectBivariateSpline

    ny, nx = shape
    while step >= 4 and min(ny, nx) > 2 * step:
        nodes_y = np.linspace(0, ny - 1, -(-(ny - 1) // step) + 1)
        nodes_x = np.linspace(0, nx - 1, -(-(nx - 1) // step) + 1)
        if min(nodes_y.size, nodes_x.size) >= 4:
            planes = pixel_map(*np.meshgrid(nodes_y, nodes_x, indexing="ij"))
            if not all(np.isfinite(plane).all() for plane in planes):
                break
            splines = [RectBivariateSpline(nodes_y, nodes_x, plane) for plane in planes]
            between_y, between_x = (0.5 * (nodes[1:] + nodes[:-1]) for nodes in (nodes_y, nodes_x))
            truth = pixel_map(*np.meshgrid(between_y, between_x, indexing="ij"))
            error = max(
                np.abs(spline(between_y, between_x) - plane).max() for spline, plane in zip(splines, truth, strict=True)
            )
            if error < _MAP_ERROR:
                rows, columns = np.arange(ny), np.arange(nx)
                return splines[0](rows, columns), splines[1](rows, columns)
        step //= 2
    y_map, x_map = np.empty(shape), np.empty(shape)
    for low in range(0, ny, _ROWS):
        band = slice(low, min(low + _ROWS, ny))
        y_map[band], x_map[band] = pixel_map(*np.meshgrid(np.arange(ny)[band], np.arange(nx), indexing="ij"))
    return y_map, x_map
