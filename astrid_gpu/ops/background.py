"""The sky under the stars: clipped statistics of mesh boxes, and a bicubic spline through them.

The method of SExtractor [1]_. An image is cut into nearly equal boxes. In every box the pixels are clipped about
their *median* until none falls out; about the mean the wings of the stars would pull the centre of the clipping
with them. What is left is sky with a little star light on its bright side, and Pearson's rule of thumb for the
mode of such a distribution, ``2.5 median - 1.5 mean``, removes most of that. Where mean and median differ by more
than 0.3 standard deviations the box is crowded, the rule breaks down, and the median is taken. The mesh of boxes is
median-filtered, and a natural bicubic spline through the box centres gives the level of every pixel.

References
----------
.. [1] Bertin & Arnouts 1996, A&AS 117, 393, section 4.
"""

from __future__ import annotations

from functools import lru_cache
from math import erf, exp, pi, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

__all__ = [
    "CROWDED",
    "MAX_ROUNDS",
    "STATISTICS",
    "SplineAxis",
    "box_edges",
    "clipped_width",
    "grouped_median",
    "mesh_fill",
    "mesh_filter",
    "mesh_interpolate",
    "mesh_statistics",
    "mesh_untilt",
    "spline_axis",
    "spline_lowest",
    "spline_matrix",
]

STATISTICS = ("sextractor", "median", "mean")
CROWDED = 0.3  # |mean - median| in standard deviations from which a box is crowded (SExtractor's number)
MAX_ROUNDS = 50  # rounds of clipping; sky needs 3 to 8


def box_edges(n: int, box: int) -> np.ndarray:
    """Return the edges of the boxes along an axis of `n` pixels.

    The axis is shared evenly by ``ceil(n / box)`` boxes, so none is larger than `box`, none is a sliver, and their
    sizes differ by one pixel at most. Box i holds the pixels ``edges[i] <= p < edges[i + 1]``.
    """
    count = -(-n // box)
    return np.arange(count + 1) * n // count


def grouped_median(values: Any) -> float:
    """Return the median of the sorted 1-D `values`, ties resolved.

    Pixels that share one number (images of integers) are taken as spread evenly from half-way to the number below
    to half-way to the number above, as a statistician's median of grouped data. Without it the sky of an integer
    image jumps by whole counts, and the mode by 2.5. Of distinct numbers it is the median, to a quarter of the
    difference of the two gaps beside it.
    """
    n = values.size
    middle = values[n // 2]
    below = int((values < middle).sum())
    upto = int((values <= middle).sum())
    low = float(values[below - 1] if below > 0 else middle)
    high = float(values[upto] if upto < n else middle)
    lower_edge = 0.5 * (low + float(middle))
    upper_edge = 0.5 * (float(middle) + high)
    return lower_edge + (upper_edge - lower_edge) * (0.5 * n - below) / (upto - below)


def _box_statistics(values: Any, clip: float, statistic: str) -> tuple[float, float]:
    """Clip the sorted pixels of one box until nothing changes; return level and standard deviation."""
    for _ in range(MAX_ROUNDS):
        median = grouped_median(values)
        deviation = values - median
        offset = float(deviation.mean())  # mean - median; exactly 0 for a constant box
        spread = float(deviation.std())
        limit = clip * spread if spread > 0.0 else 0.0  # infinity times 0 is no limit at all
        kept = values[abs(deviation) <= limit]
        if kept.size == values.size:
            break
        if kept.size == 0:  # nearly all pixels alike, and one far off draws the median away from every one of them
            kept = values[values == values[values.size // 2]]
        values = kept
    if statistic == "median":
        return median, spread
    if statistic == "mean":
        return median + offset, spread
    if abs(offset) < CROWDED * spread:
        return median - 1.5 * offset, spread  # = 2.5 median - 1.5 mean
    return median, spread


def mesh_statistics(
    images: Any, mask: Any, box: int, clip: float, statistic: str, *, xp: Any = np
) -> tuple[Any, Any, Any]:
    """Return the clipped statistics of every mesh box.

    Parameters
    ----------
    images : array, shape (n, ny, nx), float32 or float64
        NaN and infinities are left out.
    mask : array of bool, shape (n, ny, nx) or (1, ny, nx), or None
        True pixels are left out.
    box : int
        Largest side of a box in pixels; see `box_edges`.
    clip : float
        Pixels further than this many standard deviations from the median are dropped, again and again.
    statistic : {"sextractor", "median", "mean"}
        What `level` is: the mode as estimated by SExtractor, the clipped median, or the clipped mean.
    xp : module
        Array namespace of `images`.

    Returns
    -------
    level, rms : arrays of float64, shape (n, by, bx)
        Level, and standard deviation of the pixels kept, *not* corrected for the wings that the clipping cut off
        (see `clipped_width`). NaN in a box without a good pixel.
    count : array of int32, shape (n, by, bx)
        Good pixels of the box, before clipping.

    Notes
    -----
    Sums in float64. Cost: one sort of the pixels, and a pass over the box for every round of clipping.
    """
    n, ny, nx = images.shape
    rows, columns = box_edges(ny, box), box_edges(nx, box)
    shape = (n, rows.size - 1, columns.size - 1)
    level = np.full(shape, np.nan)
    rms = np.full(shape, np.nan)
    count = np.zeros(shape, np.int32)
    for k, j, i in np.ndindex(shape):
        window = (slice(rows[j], rows[j + 1]), slice(columns[i], columns[i + 1]))
        values = images[k][window]
        good = xp.isfinite(values)
        if mask is not None:
            good &= ~mask[k if mask.shape[0] > 1 else 0][window]
        values = xp.sort(values[good].astype(xp.float64))
        count[k, j, i] = values.size
        if values.size:
            level[k, j, i], rms[k, j, i] = _box_statistics(values, clip, statistic)
    return xp.asarray(level), xp.asarray(rms), xp.asarray(count)


@lru_cache(maxsize=64)
def clipped_width(clip: float) -> float:
    """Return the standard deviation that a unit Gaussian is left with when it is clipped until nothing changes.

    The width x solves ``x**2 = 1 - 2 a phi(a) / (2 Phi(a) - 1)`` with ``a = clip * x``, the variance of a Gaussian cut
    at +-a. It is 0.985 at 3 sigma: a measured rms divided by it is unbiased. Below ``clip = sqrt(3)`` there is no
    such width: a flat distribution would be clipped for ever.
    """
    if clip > 30.0:  # nothing is cut off
        return 1.0
    width = 1.0
    for _ in range(10_000):
        a = clip * width
        inside = erf(a / sqrt(2.0))
        new = sqrt(max(1.0 - 2.0 * a * exp(-0.5 * a * a) / sqrt(2.0 * pi) / inside, 0.0))
        if abs(new - width) < 1e-14:
            break
        width = new
    return width


def mesh_fill(mesh: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Replace the boxes that are not `usable` by the mean of the nearest usable ones.

    Parameters
    ----------
    mesh : array, shape (n, by, bx)
    usable : array of bool, shape (n, by, bx)
        At least one True in every image.
    """
    filled = np.array(mesh, dtype=np.float64)
    for k in range(mesh.shape[0]):
        have_y, have_x = np.nonzero(usable[k])
        for j, i in zip(*np.nonzero(~usable[k]), strict=True):
            distance = (have_y - j) ** 2 + (have_x - i) ** 2
            nearest = distance == distance.min()
            filled[k, j, i] = mesh[k, have_y[nearest], have_x[nearest]].mean()
    return filled


def mesh_filter(mesh: np.ndarray, size: int) -> np.ndarray:
    """Return the running median of every mesh over `size` x `size` boxes.

    At the edges the window shrinks on both sides alike, as in SExtractor, so a sky gradient stays what it is.

    Parameters
    ----------
    mesh : array, shape (n, by, bx), without NaN
    size : int
        Odd; 1 changes nothing.
    """
    _, by, bx = mesh.shape
    filtered = np.empty(mesh.shape, np.float64)
    reach_y, reach_x = (np.minimum(size // 2, np.minimum(np.arange(m), np.arange(m)[::-1])) for m in (by, bx))
    for y in np.unique(reach_y):
        for x in np.unique(reach_x):
            rows, columns = np.flatnonzero(reach_y == y), np.flatnonzero(reach_x == x)
            windows = sliding_window_view(mesh, (2 * y + 1, 2 * x + 1), axis=(1, 2))
            chosen = windows[:, rows - y][:, :, columns - x]
            filtered[:, rows[:, None], columns] = np.median(chosen, axis=(-2, -1))
    return filtered


def mesh_untilt(rms: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Take the slope of the sky within a box out of its rms.

    A level that changes by d across a box adds d**2 / 12 to the variance of its pixels, which is no noise. The slope is
    that of the mesh; at most three quarters of the variance are taken away, so a broken mesh cannot make noise vanish.

    Parameters
    ----------
    rms, level : arrays, shape (n, by, bx)
    """
    variance = rms**2
    tilt = np.zeros_like(variance)
    for axis in (1, 2):
        if level.shape[axis] > 1:
            tilt += np.gradient(level, axis=axis) ** 2 / 12.0
    return np.sqrt(variance - np.minimum(tilt, 0.75 * variance))


class SplineAxis(NamedTuple):
    """A natural cubic spline along one axis, tabulated for every pixel.

    The value at pixel p is ``w0 f[left] + w1 f[right] + w2 m[left] + w3 m[right]`` with ``w = weights[:, p]``, node
    values f and their second derivatives ``m = curvature @ f``.
    """

    left: np.ndarray  # (n,) int32
    right: np.ndarray  # (n,) int32
    weights: np.ndarray  # (4, n) float64
    curvature: np.ndarray  # (g, g) float64


@lru_cache(maxsize=64)
def spline_axis(n: int, nodes: int) -> SplineAxis:
    """Return the spline through the centres of `nodes` boxes that share an axis of `n` pixels.

    The outer halves of the first and the last box continue the cubic of the nearest interval.
    """
    edges = np.arange(nodes + 1) * n // nodes
    centre = 0.5 * (edges[:-1] + edges[1:] - 1)
    if nodes == 1:
        zero = np.zeros(n, np.int32)
        return SplineAxis(zero, zero, np.repeat([[1.0], [0.0], [0.0], [0.0]], n, axis=1), np.zeros((1, 1)))
    step = np.diff(centre)
    pixel = np.arange(n)
    left = np.clip(np.searchsorted(centre, pixel, side="right") - 1, 0, nodes - 2).astype(np.int32)
    h = step[left]
    b = (pixel - centre[left]) / h
    a = 1.0 - b
    weights = np.stack([a, b, (a**3 - a) * h**2 / 6.0, (b**3 - b) * h**2 / 6.0])
    return SplineAxis(left, (left + 1).astype(np.int32), weights, _natural_curvature(step))


def _natural_curvature(step: np.ndarray) -> np.ndarray:
    """Return the matrix from node values to second derivatives, which vanish at both ends.

    Continuity of the slope at node i: ``h0 m[i-1] + 2 (h0 + h1) m[i] + h1 m[i+1] = 6 (d1 - d0)``, with d the
    slopes of the chords on both sides.
    """
    nodes = step.size + 1
    curvature = np.zeros((nodes, nodes))
    if nodes < 3:
        return curvature
    slopes = (np.eye(nodes)[1:] - np.eye(nodes)[:-1]) / step[:, None]
    inner = np.diag(2.0 * (step[:-1] + step[1:])) + np.diag(step[1:-1], 1) + np.diag(step[1:-1], -1)
    curvature[1:-1] = np.linalg.solve(inner, 6.0 * np.diff(slopes, axis=0))
    return curvature


def spline_matrix(axis: SplineAxis) -> np.ndarray:
    """Return `axis` as a dense matrix (n, g): values at the pixels = matrix @ values at the nodes."""
    w = axis.weights[:, :, None]
    unit = np.eye(axis.curvature.shape[0])
    values = w[0] * unit[axis.left] + w[1] * unit[axis.right]
    return values + w[2] * axis.curvature[axis.left] + w[3] * axis.curvature[axis.right]


@lru_cache(maxsize=64)
def _largest_gain(n: int, nodes: int) -> float:
    """Return the largest sum of |weights| of the nodes over the pixels of an axis: 1 would be no overshoot."""
    return float(np.abs(spline_matrix(spline_axis(n, nodes))).sum(axis=1).max())


def spline_lowest(mesh: np.ndarray, rows: SplineAxis, columns: SplineAxis) -> np.ndarray:
    """Return a number for each mesh (n, by, bx) that its spline does not fall below at any pixel.

    The weights of the nodes sum to 1, so a spline through numbers of ``middle +- half`` stays within
    ``middle +- gain half`` with the largest sum of their absolute values, `gain`.
    """
    gain = np.prod([_largest_gain(axis.left.size, axis.curvature.shape[0]) for axis in (rows, columns)])
    low, high = mesh.min(axis=(1, 2)), mesh.max(axis=(1, 2))
    return 0.5 * (low + high) - 0.5 * gain * (high - low)


def mesh_interpolate(mesh: Any, rows: SplineAxis, columns: SplineAxis, dtype: Any, *, xp: Any = np) -> Any:
    """Evaluate the bicubic spline through a mesh at every pixel.

    Parameters
    ----------
    mesh : array of float64, shape (n, by, bx)
        Values at the box centres, finite.
    rows, columns : SplineAxis
        From ``spline_axis(ny, by)`` and ``spline_axis(nx, bx)``.
    dtype : dtype
        Of the result: float32 or float64.
    xp : module
        Array namespace of `mesh`.

    Returns
    -------
    array, shape (n, ny, nx)
    """
    down = xp.asarray(spline_matrix(rows))
    across = xp.asarray(spline_matrix(columns).T)
    return (down @ mesh @ across).astype(dtype)
