"""Centres and shapes of sources by adaptive Gaussian moments."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from astrid_gpu.ops.stamps import gather_stamps
from astrid_gpu.ops.star_peaks import FWHM_PER_SIGMA

__all__ = ["Moments", "Shapes", "moment_limits", "shapes_of", "star_moments"]

_ROUNDS = 30
_LEAST_MOVE = 1e-4  # centre in pixels plus covariance relative to the start's: what moves less in a round is done
_LEAST_VARIANCE = 0.05  # px²; all light in one pixel (a hot pixel) has no second moment: so it is merely the narrowest


class Moments(NamedTuple):
    """Centres off the peak pixels, shape (m,), covariances yy, xy, xx, shape (m, 3), and which of them converged."""

    dy: np.ndarray
    dx: np.ndarray
    covariance: np.ndarray
    converged: np.ndarray


class Shapes(NamedTuple):
    """Best-fitting elliptical Gaussians of m sources, float64 (m,); `converged` is bool."""

    y: np.ndarray
    x: np.ndarray
    fwhm: np.ndarray
    ellipticity: np.ndarray
    converged: np.ndarray


def moment_limits(fwhm: float) -> tuple[int, float, float, float]:
    """Return half side of the window (4 at least), variance to start from, largest one, and reach of a centre; px."""
    start = (fwhm / FWHM_PER_SIGMA) ** 2
    return max(4, int(np.ceil(2.0 * fwhm))), start, max(9.0 * start, 4.0), max(1.5, 0.6 * fwhm)


def star_moments(
    data: np.ndarray, bad: np.ndarray, y: np.ndarray, x: np.ndarray, limits: tuple[int, float, float, float]
) -> Moments:
    r"""Fit an elliptical Gaussian window to each source by matching moments (Bernstein & Jarvis 2002, AJ 123, 583).

    The window's covariance C and the weighted moments M of the source under it give the source's own covariance
    :math:`O = (M^{-1} - C^{-1})^{-1}`; C is set to O until they agree. At the fixed point this is the least-squares
    elliptical Gaussian, which noise in the wings and neighbours hardly touch. The shape waits for the centre: two
    rounds of recentring first.

    Parameters
    ----------
    data : float array, shape (ny, nx)
        Background-subtracted; pixels that are bad or outside count as 0.
    bad : bool array, shape (ny, nx)
    y, x : int array, shape (m,)
        Peak pixels, inside the frame.
    limits : (int, float, float, float)
        See `moment_limits`.

    Returns
    -------
    Moments
        Of those that run away converged is False. Cost: O(m rounds window²), 30 rounds at most and about ten as a rule.
    """
    half, start, most, reach = limits
    places = (np.zeros(len(y), np.int64), y, x, 2 * half + 1)
    stamps = gather_stamps(data[None], *places, 0.0).astype(np.float64)
    stamps[gather_stamps(bad[None], *places, 0.0)] = 0.0
    m = len(y)
    grid = np.arange(-half, half + 1, dtype=float)
    cov = np.tile([start, 0.0, start], (m, 1))  # yy, xy, xx
    cy, cx, ok = np.zeros(m), np.zeros(m), np.ones(m, dtype=bool)
    moved = np.full(m, np.inf)
    for i in range(_ROUNDS):
        live = np.flatnonzero(ok & (moved > _LEAST_MOVE))
        if live.size == 0:
            break
        new_cy, new_cx, new_cov, fine = _moment_step(stamps[live], grid, cy[live], cx[live], cov[live], most)
        moved[live] = np.abs(new_cy - cy[live]) + np.abs(new_cx - cx[live]) + np.abs(new_cov - cov[live]).max(1) / start
        cy[live], cx[live] = new_cy, new_cx
        if i >= 2:
            cov[live] = np.where(fine[:, None], new_cov, cov[live])
        ok[live] = fine & (np.hypot(new_cy, new_cx) < reach)
    return Moments(cy, cx, cov, ok)


def shapes_of(y: np.ndarray, x: np.ndarray, moments: Moments) -> Shapes:
    """Return centres in pixels of the frame, those of the peak where nothing converged, sizes and ellipticities."""
    yy, xy, xx = moments.covariance.T
    det = np.maximum(yy * xx - xy**2, 1e-12)
    spread = np.sqrt((yy - xx) ** 2 / 4 + xy**2)
    major2, minor2 = (yy + xx) / 2 + spread, np.maximum((yy + xx) / 2 - spread, 1e-12)
    dy, dx = (np.where(moments.converged, d, 0.0) for d in moments[:2])
    return Shapes(y + dy, x + dx, FWHM_PER_SIGMA * det**0.25, 1 - np.sqrt(minor2 / major2), moments.converged)


def _moment_step(
    stamps: np.ndarray, grid: np.ndarray, cy: np.ndarray, cx: np.ndarray, cov: np.ndarray, most: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One step of centre and covariance; `fine` is False where flux or moments are not positive."""
    dy, dx = grid[None, :, None] - cy[:, None, None], grid[None, None, :] - cx[:, None, None]
    yy, xy, xx = (cov[:, j, None, None] for j in range(3))
    window = np.exp(-0.5 * (xx * dy**2 - 2 * xy * dy * dx + yy * dx**2) / (yy * xx - xy**2))
    weighted = window * stamps
    total = weighted.sum((1, 2))
    fine = total > 0
    safe = np.where(fine, total, 1.0)
    my, mx = (weighted * dy).sum((1, 2)) / safe, (weighted * dx).sum((1, 2)) / safe
    moments = np.stack([(weighted * p).sum((1, 2)) / safe for p in (dy * dy, dy * dx, dx * dx)], axis=1)
    moments -= np.stack([my * my, my * mx, mx * mx], axis=1)
    own, solvable = _unweight(moments, cov, most)
    step = np.clip(np.stack([2 * my, 2 * mx]), -1.0, 1.0)
    return np.where(fine, cy + step[0], cy), np.where(fine, cx + step[1], cx), own, fine & solvable


def _unweight(moments: np.ndarray, cov: np.ndarray, most: float) -> tuple[np.ndarray, np.ndarray]:
    """Return O = (M^-1 - C^-1)^-1 with its eigenvalues kept between 0.25 px² and `most`."""
    m_yy, m_xx = np.maximum(moments[:, 0], _LEAST_VARIANCE), np.maximum(moments[:, 2], _LEAST_VARIANCE)
    m_xy = np.clip(moments[:, 1], -0.99 * np.sqrt(m_yy * m_xx), 0.99 * np.sqrt(m_yy * m_xx))
    c_yy, c_xy, c_xx = cov.T
    m_det, c_det = m_yy * m_xx - m_xy**2, c_yy * c_xx - c_xy**2
    solvable = (moments[:, 0] > -0.5) & (moments[:, 2] > -0.5)
    m_det = np.where(solvable, m_det, 1.0)
    # Inverse covariances as (yy, xy, xx); a source wider than any window has none: a floor makes it merely wide.
    i_yy, i_xy, i_xx = m_xx / m_det - c_xx / c_det, -m_xy / m_det + c_xy / c_det, m_yy / m_det - c_yy / c_det
    mean, diff = (i_yy + i_xx) / 2, np.hypot((i_yy - i_xx) / 2, i_xy)
    angle = 0.5 * np.arctan2(2 * i_xy, i_yy - i_xx)
    e1, e2 = 1 / np.clip(mean + diff, 1 / most, 4.0), 1 / np.clip(mean - diff, 1 / most, 4.0)
    c, s = np.cos(angle), np.sin(angle)
    own = np.stack([e1 * c * c + e2 * s * s, (e1 - e2) * c * s, e1 * s * s + e2 * c * c], axis=1)
    return own, solvable
