"""Which candidates lie among the residuals of a bright star: S_corr scatters round them far beyond its noise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from astrid_gpu.backends import Backend
from astrid_gpu.engine.peaks import gather
from astrid_gpu.ops.noise import row_medians

__all__ = ["among_residuals"]

_RING = (1.5, 5.0)  # FWHM from a candidate: what a point source leaves in S_corr itself is gone at the inner radius
_WIDE = 1.5  # least width of S_corr in the ring, whose chance error is some 10 %
_RIVALS = 5.0  # times the width: a candidate that stands out by less is one of many
_STAR = 10.0  # times the height of the candidate in the image: a star that may leave such residuals
_REACH = 12.0  # FWHM; how far from a star they are looked for
_SAMPLE = 20_000  # pixels that tell the sky, where nobody took it off
_AT_ONCE = 500  # candidates whose surroundings are in memory


def among_residuals(
    backend: Backend, score: Any, science: Any, peaks: np.ndarray, height: np.ndarray, fwhm: np.ndarray
) -> np.ndarray:
    """Return which candidates are no more than the residuals that surround them, near a star that may leave such.

    Parameters
    ----------
    backend : Backend
    score, science : arrays (n, ny, nx) of the backend
        S_corr, and the background-subtracted science image.
    peaks : structured array of `PEAK_DTYPE`, m rows
    height : array (m,)
        Of each candidate in the image: its flux times the peak of the PSF.
    fwhm : array (n,)

    Returns
    -------
    bool array (m,)

    Notes
    -----
    The width of S_corr is 1.48 times the median of its modulus in a ring of 1.5 to 5 FWHM about the candidate, which a
    handful of true neighbours does not move. Cost: one read of the science image and a window of 10 FWHM a candidate.
    """
    out = np.zeros(len(peaks), bool)
    for image in np.unique(peaks["image"]):
        rows = np.flatnonzero(peaks["image"] == image)
        y, x = peaks["y"][rows], peaks["x"][rows]
        near = _brightest_near(backend, science[int(image)], y, x, float(fwhm[image])) > _STAR * np.abs(height[rows])
        rows = rows[near]
        for start in range(0, len(rows), _AT_ONCE):
            part = rows[start : start + _AT_ONCE]
            width = _widths(backend, score, peaks[part], float(fwhm[image]))
            out[part] = (width > _WIDE) & (np.abs(peaks["value"][part]) < _RIVALS * width)
    return out


def _widths(backend: Backend, score: Any, peaks: np.ndarray, fwhm: float) -> np.ndarray:
    """Return the robust width of S_corr in the ring about each peak, 0 where less than a third of it is usable."""
    inner, outer = (r * fwhm for r in _RING)
    half = int(np.ceil(outer))
    stamps = gather(backend, score, peaks["image"], peaks["y"], peaks["x"], 2 * half + 1, np.nan)
    v, u = np.mgrid[-half : half + 1, -half : half + 1]
    distance = np.hypot(v, u)
    ring = np.abs(stamps[:, (distance >= inner) & (distance <= outer)].astype(np.float64))
    middle, n = row_medians(ring)
    return np.where(n > ring.shape[1] / 3, 1.4826 * middle, 0.0)


def _brightest_near(backend: Backend, image: Any, y: np.ndarray, x: np.ndarray, fwhm: float) -> np.ndarray:
    """Return the height above the sky of the brightest pixel within `_REACH` FWHM of each place, to a FWHM."""
    side = max(1, round(fwhm))
    reach = round(_REACH * fwhm / side)
    blocks = np.pad(_highest_of_blocks(backend, image, side), reach, constant_values=-np.inf)
    around = sliding_window_view(blocks, (2 * reach + 1,) * 2)
    parts = np.split(np.arange(len(y)), range(_AT_ONCE, len(y), _AT_ONCE))
    highest = np.concatenate([around[y[part] // side, x[part] // side].max(axis=(1, 2)) for part in parts])
    step = max(1, int(np.sqrt(image.size / _SAMPLE)))
    sample = backend.to_host(image[::step, ::step])
    finite = sample[np.isfinite(sample)]
    sky = float(np.median(finite)) if finite.size else 0.0
    return highest.astype(np.float64) - sky


def _highest_of_blocks(backend: Backend, image: Any, side: int) -> np.ndarray:
    """Return the largest pixel of each block of `side` on the host, NaN left out."""
    ny, nx = image.shape
    if not backend.is_gpu:  # row by row of a block, then column by column: no copy of the image
        return _highest_of_rows(_highest_of_rows(image, side).T, side).T
    xp = backend.xp
    padded = xp.full((-(-ny // side) * side, -(-nx // side) * side), -np.inf, image.dtype)
    padded[:ny, :nx] = xp.where(xp.isnan(image), -np.inf, image)
    return backend.to_host(padded.reshape(-(-ny // side), side, -1, side).max(axis=(1, 3)))


def _highest_of_rows(image: np.ndarray, side: int) -> np.ndarray:
    """Return the largest of every `side` rows, -inf for NaN."""
    out = np.full((-(-len(image) // side), image.shape[1]), -np.inf, image.dtype)
    for first in range(side):
        rows = image[first::side]
        np.fmax(out[: len(rows)], rows, out=out[: len(rows)])
    return out
