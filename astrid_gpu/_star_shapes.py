"""Centres and shapes of sources by adaptive Gaussian moments, and which shape the point sources share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from astrid_gpu.ops.flux import cut_windows

__all__ = ["FWHM_PER_SIGMA", "Locus", "Shapes", "adaptive_moments", "point_locus"]

FWHM_PER_SIGMA = 2.3548200450309493


class Shapes(NamedTuple):
    """Best-fitting elliptical Gaussians of m sources, float64 (m,); `converged` is bool."""

    y: np.ndarray
    x: np.ndarray
    fwhm: np.ndarray
    ellipticity: np.ndarray
    flux: np.ndarray
    converged: np.ndarray


class Locus(NamedTuple):
    """Where the point sources lie: their FWHM, its scatter, their ellipticity, and how many defined it."""

    fwhm: float
    width: float
    ellipticity: float
    n: int


def adaptive_moments(
    image: np.ndarray, good: np.ndarray, y: np.ndarray, x: np.ndarray, fwhm: float, *, n_iter: int = 30
) -> Shapes:
    r"""Fit an elliptical Gaussian window to each source by matching moments (Bernstein & Jarvis 2002, AJ 123, 583).

    The window's covariance C and the weighted moments M of the source under it give the source's own covariance
    :math:`O = (M^{-1} - C^{-1})^{-1}`; C is set to O until they agree. At the fixed point this is the least-squares
    elliptical Gaussian, which noise in the wings and neighbours hardly touch.

    Parameters
    ----------
    image : float array, shape (ny, nx)
        Background-subtracted, finite.
    good : bool array, shape (ny, nx)
    y, x : int array, shape (m,)
        Peak pixels.
    fwhm : float
        Start, and with it the size of the window: 2 FWHM to either side, at least 4 px.

    Notes
    -----
    O(m n_iter window²), vectorised over the sources; those that run away keep the start and converged = False.
    """
    half = max(4, int(np.ceil(2.0 * fwhm)))
    stamps = cut_windows(np.where(good, image, 0.0), y, x, half)
    m = len(y)
    grid = np.arange(-half, half + 1, dtype=float)
    start = (fwhm / FWHM_PER_SIGMA) ** 2
    limit = (0.25, max(9.0 * start, 4.0))
    cov = np.tile([start, 0.0, start], (m, 1))  # yy, xy, xx
    cy, cx, ok = np.zeros(m), np.zeros(m), np.ones(m, dtype=bool)
    moved = np.full(m, np.inf)
    for i in range(n_iter):
        live = np.flatnonzero(ok & (moved > 1e-4))
        if live.size == 0:
            break
        step = _moment_step(stamps[live], grid, cy[live], cx[live], cov[live], limit)
        new_cy, new_cx, new_cov, fine = step
        # The shape waits for the centre: two rounds of recentring first.
        moved[live] = np.abs(new_cy - cy[live]) + np.abs(new_cx - cx[live]) + np.abs(new_cov - cov[live]).max(1) / start
        cy[live], cx[live] = new_cy, new_cx
        if i >= 2:
            cov[live] = np.where(fine[:, None], new_cov, cov[live])
        ok[live] = fine & (np.hypot(new_cy, new_cx) < max(1.5, 0.6 * fwhm))
    yy, xy, xx = cov.T
    det = np.maximum(yy * xx - xy**2, 1e-12)
    spread = np.sqrt((yy - xx) ** 2 / 4 + xy**2)
    major2, minor2 = (yy + xx) / 2 + spread, np.maximum((yy + xx) / 2 - spread, 1e-12)
    flux = _window_flux(stamps, grid, cy, cx, cov)
    cy, cx = np.where(ok, cy, 0.0), np.where(ok, cx, 0.0)
    return Shapes(y + cy, x + cx, FWHM_PER_SIGMA * det**0.25, 1 - np.sqrt(minor2 / major2), flux, ok)


def _window(grid: np.ndarray, cy: np.ndarray, cx: np.ndarray, cov: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the Gaussian windows (k, s, s) and the offsets from their centres."""
    dy, dx = grid[None, :, None] - cy[:, None, None], grid[None, None, :] - cx[:, None, None]
    yy, xy, xx = (cov[:, j, None, None] for j in range(3))
    det = yy * xx - xy**2
    return np.exp(-0.5 * (xx * dy**2 - 2 * xy * dy * dx + yy * dx**2) / det), dy, dx


def _moment_step(
    stamps: np.ndarray, grid: np.ndarray, cy: np.ndarray, cx: np.ndarray, cov: np.ndarray, limit: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One step of centre and covariance; `fine` is False where flux or moments are not positive."""
    window, dy, dx = _window(grid, cy, cx, cov)
    weighted = window * stamps
    total = weighted.sum((1, 2))
    fine = total > 0
    safe = np.where(fine, total, 1.0)
    my, mx = (weighted * dy).sum((1, 2)) / safe, (weighted * dx).sum((1, 2)) / safe
    moments = np.stack([(weighted * p).sum((1, 2)) / safe for p in (dy * dy, dy * dx, dx * dx)], axis=1)
    moments -= np.stack([my * my, my * mx, mx * mx], axis=1)
    own, solvable = _unweight(moments, cov, limit)
    step = np.clip(np.stack([2 * my, 2 * mx]), -1.0, 1.0)
    return np.where(fine, cy + step[0], cy), np.where(fine, cx + step[1], cx), own, fine & solvable


def _unweight(moments: np.ndarray, cov: np.ndarray, limit: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return O = (M^-1 - C^-1)^-1 with its eigenvalues kept within `limit`."""
    # All light in one pixel (a hot pixel) has no second moments: the floor makes it merely the narrowest thing.
    m_yy, m_xy, m_xx = np.maximum(moments[:, 0], 0.05), moments[:, 1], np.maximum(moments[:, 2], 0.05)
    m_xy = np.clip(m_xy, -0.99 * np.sqrt(m_yy * m_xx), 0.99 * np.sqrt(m_yy * m_xx))
    c_yy, c_xy, c_xx = cov.T
    m_det, c_det = m_yy * m_xx - m_xy**2, c_yy * c_xx - c_xy**2
    solvable = (moments[:, 0] > -0.5) & (moments[:, 2] > -0.5)
    m_det = np.where(solvable, m_det, 1.0)
    # Inverse covariances as (yy, xy, xx); a source wider than any window has none: a floor makes it merely wide.
    i_yy, i_xy, i_xx = m_xx / m_det - c_xx / c_det, -m_xy / m_det + c_xy / c_det, m_yy / m_det - c_yy / c_det
    mean, diff = (i_yy + i_xx) / 2, np.hypot((i_yy - i_xx) / 2, i_xy)
    angle = 0.5 * np.arctan2(2 * i_xy, i_yy - i_xx)
    low, high = 1 / limit[1], 1 / limit[0]
    e1, e2 = 1 / np.clip(mean + diff, low, high), 1 / np.clip(mean - diff, low, high)
    c, s = np.cos(angle), np.sin(angle)
    own = np.stack([e1 * c * c + e2 * s * s, (e1 - e2) * c * s, e1 * s * s + e2 * c * c], axis=1)
    return own, solvable


def _window_flux(stamps: np.ndarray, grid: np.ndarray, cy: np.ndarray, cx: np.ndarray, cov: np.ndarray) -> np.ndarray:
    """Return the flux of the matched Gaussian: twice the weighted sum."""
    window, _, _ = _window(grid, cy, cx, cov)
    return (window * stamps).sum((1, 2)) / np.maximum((window**2).sum((1, 2)), 1e-12) * window.sum((1, 2))


def point_locus(fwhm: np.ndarray, ellipticity: np.ndarray, snr: np.ndarray, hint: float | None) -> Locus:
    """Return the FWHM the point sources share.

    They are the narrowest thing many sources have in common: of the peaks in the density of ln(FWHM) that reach
    half of the highest, the narrowest is taken; one that lies below 1.6 px (hot pixels, cosmic rays) only if it is
    the highest by far. If that peak is no tight clump (a field of galaxies, a handful of sources) it is the
    narrowest round, significant source that is no cosmic ray, with its like. A hint outvotes the density where
    fewer than 5 sources speak.

    Parameters
    ----------
    fwhm, ellipticity, snr : float array, shape (m,)
        Of the sources good enough to vote.
    hint : float, optional
        FWHM in pixels from elsewhere.
    """
    use = np.isfinite(fwhm) & (fwhm > 0) & (ellipticity < 0.5)
    f, e, s = fwhm[use], ellipticity[use], snr[use]
    if f.size < 5 and hint is not None:
        near = np.abs(np.log(f / hint)) < 0.25
        if not near.any():
            return Locus(float(hint), 0.05 * float(hint), 0.0, 0)
        centre = float(np.average(f[near], weights=s[near]))
        return Locus(centre, 0.05 * float(hint), float(np.median(e[near])), int(near.sum()))
    if f.size == 0:
        return Locus(float("nan"), float("nan"), float("nan"), 0)
    centre, tight = _densest(np.log(f), s, hint)
    if not tight and hint is None:
        centre = _narrowest(f, e, s, centre)
    return _around(centre, f, e)


def _densest(logs: np.ndarray, snr: np.ndarray, hint: float | None) -> tuple[float, bool]:
    """Return the FWHM at the chosen peak of the density of ln(FWHM), and whether the peak is a tight clump."""
    weight = np.minimum(snr, 100.0) ** 0.5
    if hint is not None:
        weight = weight * np.exp(-0.5 * ((logs - np.log(hint)) / 0.3) ** 2) + 1e-9
    grid = np.linspace(logs.min() - 0.2, logs.max() + 0.2, 400)
    density = (weight * np.exp(-0.5 * ((grid[:, None] - logs) / 0.06) ** 2)).sum(1)
    peaks = np.flatnonzero((density[1:-1] >= density[:-2]) & (density[1:-1] > density[2:])) + 1
    tall = peaks[density[peaks] >= 0.5 * density.max()]
    real = tall[grid[tall] > np.log(1.6)]
    place = grid[real[0] if real.size else tall[np.argmax(density[tall])]]
    distance = np.abs(logs - place)
    inner, outer = int((distance < 0.06).sum()), int((distance < 0.24).sum())
    # A continuum of sizes puts a quarter of the wide band into the narrow one.
    return float(np.exp(place)), inner >= 4 and inner > 0.45 * outer


def _narrowest(f: np.ndarray, e: np.ndarray, s: np.ndarray, centre: float) -> float:
    """Return the FWHM of the narrowest round, bright source that cannot be a cosmic ray; `centre` if there is none."""
    floor = 1.9 if np.median(f) > 2.5 else 1.1
    real = (e < 0.2) & (f > floor) & (s > min(50.0, np.median(s)))
    return float(f[real].min()) * 1.03 if real.any() else centre


def _around(centre: float, f: np.ndarray, e: np.ndarray) -> Locus:
    """Return median, width and ellipticity of the sources near `centre`."""
    near = np.abs(np.log(f / centre)) < 0.15
    n = int(near.sum())
    if n == 0:
        return Locus(centre, 0.05 * centre, 0.0, 0)
    middle = float(np.median(f[near]))
    width = 1.4826 * float(np.median(np.abs(f[near] - middle))) if n >= 3 else 0.05 * middle
    return Locus(middle, max(width, 0.01 * middle), float(np.median(e[near])), n)
