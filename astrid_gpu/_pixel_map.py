"""Pixel maps: where each pixel of a target grid lies in a source image.

Maps go from the target to the source, so nothing is ever inverted and every output pixel is computed once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["Coordinates", "GridMap", "PixelMap", "Polynomial", "grid_map"]

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


class GridMap:
    """A map on the pixels of a grid.

    A sky projection costs microseconds a point, so the map is evaluated on nodes `step` pixels apart and interpolated
    by a bicubic spline; the error is measured half-way between nodes and the step halved until it is < 0.001 px.
    Where that does not succeed, or the map is undefined at a node, every pixel is evaluated. `error` is the largest
    error measured, pixels; 0 where every pixel is evaluated.

    Parameters
    ----------
    pixel_map : PixelMap
        Target to source.
    shape : (int, int)
        Of the target grid.
    step : int
        First distance of the nodes in pixels.
    """

    def __init__(self, pixel_map: PixelMap, shape: tuple[int, int], *, step: int = 32) -> None:
        self.pixel_map, self.shape = pixel_map, shape
        self.error = 0.0
        self._nodes: tuple[np.ndarray, np.ndarray] | None = None
        self._planes: Coordinates | None = None
        self._every: Coordinates | None = None
        ny, nx = shape
        while step >= 4 and min(ny, nx) > 2 * step:
            nodes = tuple(np.linspace(0, n - 1, -(-(n - 1) // step) + 1) for n in shape)
            if min(nodes[0].size, nodes[1].size) >= 4:
                planes = pixel_map(*np.meshgrid(*nodes, indexing="ij"))
                if not all(np.isfinite(plane).all() for plane in planes):
                    break
                between = tuple(0.5 * (places[1:] + places[:-1]) for places in nodes)
                truth = pixel_map(*np.meshgrid(*between, indexing="ij"))
                found = _interpolate(nodes, planes, between)
                error = max(float(np.abs(a - b).max()) for a, b in zip(found, truth, strict=True))
                if error < _MAP_ERROR:
                    self.error = error
                    self._nodes, self._planes = nodes, planes  # type: ignore[assignment]
                    break
            step //= 2

    def at(self, rows: np.ndarray, columns: np.ndarray) -> Coordinates:
        """Return source y and x on the grid of some rows and columns, float64, NaN where undefined."""
        if self._nodes is not None and self._planes is not None:
            return _interpolate(self._nodes, self._planes, (rows, columns))
        if self._every is None:
            y_map, x_map = np.empty(self.shape), np.empty(self.shape)
            for low in range(0, self.shape[0], _ROWS):
                band = np.arange(low, min(low + _ROWS, self.shape[0]))
                y_map[band], x_map[band] = self.pixel_map(*np.meshgrid(band, np.arange(self.shape[1]), indexing="ij"))
            self._every = y_map, x_map
        if rows.size == self.shape[0] and columns.size == self.shape[1]:
            return self._every
        return self._every[0][np.ix_(rows, columns)], self._every[1][np.ix_(rows, columns)]

    def full(self) -> Coordinates:
        """Return source y and x of every pixel, float64, NaN where undefined."""
        return self.at(np.arange(self.shape[0]), np.arange(self.shape[1]))


def grid_map(pixel_map: PixelMap, shape: tuple[int, int], *, step: int = 32) -> Coordinates:
    """Evaluate a map at every pixel of a grid; see `GridMap`.

    Returns
    -------
    y_map, x_map : array, shape `shape`, float64
        Position in the source of every target pixel; NaN where the map is undefined.
    """
    return GridMap(pixel_map, shape, step=step).full()


def _interpolate(
    nodes: tuple[np.ndarray, ...], planes: tuple[np.ndarray, ...], places: tuple[np.ndarray, ...]
) -> Coordinates:
    """Evaluate bicubic splines through planes on nodes at the grid of places."""
    down, across = (_spline_matrix(n, p) for n, p in zip(nodes, places, strict=True))
    return tuple(down @ plane @ across.T for plane in planes)  # type: ignore[return-value]


def _spline_matrix(nodes: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the matrix that takes values at even nodes to the not-a-knot cubic spline's at places."""
    m, step = nodes.size, float(nodes[1] - nodes[0])
    system, bend = np.zeros((m, m)), np.zeros((m, m))
    for i in range(1, m - 1):
        system[i, i - 1 : i + 2] = 1.0, 4.0, 1.0
        bend[i, i - 1 : i + 2] = 6.0, -12.0, 6.0
    system[0, :3] = system[-1, -3:] = 1.0, -2.0, 1.0  # the third derivative does not jump at the last inner nodes
    curvature = np.linalg.solve(system, bend)
    left = np.clip(((places - nodes[0]) / step).astype(np.int64), 0, m - 2)
    u = (places - nodes[left]) / step
    v, row = 1.0 - u, np.arange(places.size)
    matrix = ((v**3 - v) / 6.0)[:, None] * curvature[left] + ((u**3 - u) / 6.0)[:, None] * curvature[left + 1]
    matrix[row, left] += v
    matrix[row, left + 1] += u
    return matrix
