r"""Whether a piece of a noise map has one variance or two, each on its own side of some line; and which pixels which.

Squares of Gaussian noise of the variance v that is correlated over an area a have in a cell of n pixels a mean m that
is, to good approximation, Gamma distributed with the shape :math:`\kappa = n / 2a`:

.. math:: \ln p(m \mid v) = -\kappa \, (\ln v + m / v) + \mathrm{const}

A cell is given to whichever of two variances is likelier, for the cells around it together and then, where the edge
between the two is known roughly, for itself with a vote of its neighbours (iterated conditional modes: Besag 1986). The
variances are those of their cells.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["TwoLevels", "cell_means", "correlated_area", "two_levels"]

_WINDOW = 5  # cells a side that decide together
_ROUNDS, _LAST = 8, 4  # so often by windows; then each cell by itself, drawn to what its eight neighbours are
_PULL = 0.5  # of each neighbour, in ln likelihood: straight edges stay, single cells do not


class TwoLevels(NamedTuple):
    """Cells of the higher variance, bool (m, n); both variances, lower first; gain in ln likelihood of the windows."""

    high: np.ndarray
    variances: tuple[float, float]
    gain: float


def correlated_area(stamp: np.ndarray) -> float:
    """Return the sum of the squared autocorrelation of white noise behind a kernel (ky, kx), pixels."""
    shape = [2 * n for n in stamp.shape]
    rho = np.fft.irfft2(abs(np.fft.rfft2(stamp, s=shape)) ** 2, s=shape)
    return float(((rho / rho[0, 0]) ** 2).sum())


def cell_means(values: np.ndarray, good: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean square of the good pixels of cells of a side, 0 where there are none, and how many those are."""
    starts = [np.arange(0, n, side) for n in values.shape]

    def total(plane: np.ndarray) -> np.ndarray:
        return np.add.reduceat(np.add.reduceat(plane, starts[0], axis=0), starts[1], axis=1)  # type: ignore[no-any-return]

    n = total(good.astype(np.float32))
    return total(np.where(good, values, 0).astype(np.float64) ** 2) / np.maximum(n, 1), n


def two_levels(mean: np.ndarray, kappa: np.ndarray) -> TwoLevels | None:
    """Split cells in two by their variance; None where they will not part.

    Parameters
    ----------
    mean, kappa : arrays (m, n)
        Mean square of each cell, and the shape of its distribution; 0 for a cell that says nothing.
    """
    smooth = _around(kappa * mean, _WINDOW) / np.maximum(_around(kappa, _WINDOW), 1e-12)
    known = kappa > 0
    if not known.any() or not smooth[known].min() > 0:
        return None
    high = smooth > np.sqrt(smooth[known].min() * smooth[known].max())
    gain = 0.0
    for i in range(_ROUNDS + _LAST + 1):
        found = _variances(mean, kappa, high)
        if found is None:
            return None
        low, top = found
        own = kappa * (mean * (1 / low - 1 / top) - np.log(top / low))
        if i < _ROUNDS:
            high = _around(own, _WINDOW) > 0
        elif i == _ROUNDS:
            gain = _gain(mean, kappa, np.where(high, top, low))
        if i >= _ROUNDS:
            votes = np.where(high, 1.0, -1.0)
            high = own + _PULL * (_around(votes, 3) - votes) > 0
    return TwoLevels(high, (low, top), gain)


def _variances(mean: np.ndarray, kappa: np.ndarray, high: np.ndarray) -> tuple[float, float] | None:
    """Return the variances of the cells that are not high and of those that are; None if either are missing."""
    if not kappa[high].any() or not kappa[~high].any():
        return None
    low, top = (float((kappa * mean)[side].sum() / kappa[side].sum()) for side in (~high, high))
    return (low, top) if top > low > 0 else None


def _gain(mean: np.ndarray, kappa: np.ndarray, v: np.ndarray) -> float:
    """Return how much likelier variances `v` are than one for all, ln."""
    one = float((kappa * mean).sum() / kappa.sum())
    return float((kappa * (np.log(one / v) + mean * (1 / one - 1 / v))).sum())


def _around(plane: np.ndarray, side: int) -> np.ndarray:
    """Return sums over windows of some cells a side about each cell, of those that there are."""
    half = side // 2
    for axis in (0, 1):
        wide = np.pad(plane, [(half + 1, half) if a == axis else (0, 0) for a in (0, 1)])
        sums = np.cumsum(np.moveaxis(wide, axis, 0), axis=0)
        plane = np.moveaxis(sums[side:] - sums[:-side], 0, axis)
    return plane
