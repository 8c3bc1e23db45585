"""Fitting a PSF to stars in their windows: the PSF moved by a fraction of a pixel, one star's fit, a crowd's sums."""

from __future__ import annotations

import numpy as np

__all__ = ["FURTHEST", "MODEL_ERROR", "Spline", "crowd_light", "crowd_sums", "fit_stars", "psf_at", "spline_of"]

MODEL_ERROR = 0.02
"""Of the PSF's own value: keeps the brightest stars and the core from ruling alone."""
FURTHEST = 2.0
"""Pixels: a centre is not sought further from the middle pixel of its window."""
_FITS = 4
_LEAST_STEP = 1e-4  # px; the fit is linear in the shift: after one this small nothing is left to find
_LONGEST_STEP = 0.5

Spline = tuple[np.ndarray, int]
"""Cubic-spline coefficients of a stamp, and the index of those that the windows begin at."""


def spline_of(psf: np.ndarray, half: int, reach: float) -> Spline:
    """Return the spline through a stamp, for windows of half side `half` that it is to be moved in.

    Parameters
    ----------
    psf : float array, square, of odd side
    half : int
    reach : float
        Largest shift along an axis, pixels, that the border leaves room for.
    """
    from scipy.ndimage import spline_filter

    own = psf.shape[0] // 2
    grow = max(half - own, 0) + 4 + int(np.ceil(reach))
    return spline_filter(np.pad(psf, grow), order=3, mode="mirror"), own + grow - half


def psf_at(spline: Spline, half: int, dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
    """Return the PSF centred (dy, dx) off the middle of windows of half side `half`.

    Parameters
    ----------
    spline : Spline
        Made for this `half` and for shifts as large as these.
    half : int
    dy, dx : float array, shape (m,)

    Returns
    -------
    float64 array, shape (m, 2 half + 1, 2 half + 1)
        0 beyond the stamp. One shift a window, so the spline is four taps along each axis.
    """
    side = 2 * half + 1
    coefficients, first = spline
    (sy, wy), (sx, wx) = _taps(-dy), _taps(-dx)
    out = np.empty((len(dy), side, side))
    for jy, jx in {*zip(sy.tolist(), sx.tolist(), strict=True)}:  # windows of one whole-pixel shift go together
        these = np.flatnonzero((sy == jy) & (sx == jx))
        block = coefficients[first + jy - 1 : first + jy + side + 2, first + jx - 1 : first + jx + side + 2]
        rows = np.tensordot(wy[these], np.stack([block[k : k + side] for k in range(4)]), 1)
        out[these] = sum(wx[these, k, None, None] * rows[:, :, k : k + side] for k in range(4))
    return out


def _taps(shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the whole part of shifts (m,), and the weights (m, 4) of a cubic B-spline at what is left."""
    whole = np.floor(shift).astype(int)
    t = shift - whole
    weights = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    return whole, np.stack(weights, axis=1) / 6


def fit_stars(
    clean: np.ndarray, variance: np.ndarray, bad: np.ndarray, spline: Spline, offset: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Fit flux f, centre and sky c of each star: its window is :math:`f P(x - \delta) + c`.

    Each step is a linear fit of f, c and of f times a small shift, whose columns are the negative gradient of the PSF
    moved as far as is known; weights are :math:`1 / (V + (0.02 f P)^2)`. It ends with a shift below 0.0001 px, or the
    fourth fit.

    Parameters
    ----------
    clean, variance : float64 array, shape (m, s, s), s odd
        Neighbours taken off.
    bad : bool array, shape (m, s, s)
    spline : Spline
        Of the PSF, made for these windows and for shifts of 2 px and the steps of three fits.
    offset : float array, shape (m, 2)
        First centres (y, x) off the middle pixels.

    Returns
    -------
    offset : float64 array (m, 2)
        At most `FURTHEST`.
    flux, sky : float64 array (m,)
    """
    m, half = len(clean), clean.shape[1] // 2
    offset, flux, sky = np.array(offset, float), np.zeros(m), np.zeros(m)
    live = np.arange(m)
    for i in range(_FITS):
        model = psf_at(spline, half, offset[live, 0], offset[live, 1])
        flux[live], sky[live], step = _linear_fit(clean[live], variance[live], bad[live], model)
        if i == _FITS - 1:
            break
        offset[live] += np.clip(step, -_LONGEST_STEP, _LONGEST_STEP)
        live = live[np.abs(step).max(axis=1, initial=0.0) >= _LEAST_STEP]
        if live.size == 0:
            break
    return np.clip(offset, -FURTHEST, FURTHEST), flux, sky


def _linear_fit(
    clean: np.ndarray, variance: np.ndarray, bad: np.ndarray, model: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return flux, sky and shift of each window."""
    slope_y, slope_x = np.gradient(model, axis=1), np.gradient(model, axis=2)
    peak = np.maximum((clean * model).sum((1, 2)) / (model**2).sum((1, 2)), 0.0)
    weight = np.where(bad, 0.0, 1.0 / (variance + (MODEL_ERROR * peak[:, None, None] * model) ** 2))
    columns = np.stack([model, -slope_y, -slope_x, np.ones_like(model)], axis=-1)
    normal = np.einsum("mabp,mab,mabq->mpq", columns, weight, columns, optimize=True)
    right = np.einsum("mabp,mab,mab->mp", columns, weight, clean, optimize=True)
    ridge = 1e-10 * np.einsum("mpp->mp", normal)[:, :, None] * np.eye(4) + 1e-300 * np.eye(4)
    solution = np.linalg.solve(normal + ridge, right[:, :, None])[:, :, 0]
    flux = solution[:, 0]
    return flux, solution[:, 3], solution[:, 1:3] / np.where(flux > 0, flux, np.inf)[:, None]


def crowd_sums(windows: np.ndarray, models: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of image times model, and of model squared, over the good pixels of each source's window.

    Parameters
    ----------
    windows : float array, shape (n, k, k), k odd
        Pixels round each source, NaN where they are bad or beyond the frame.
    models : float64 array, shape (n, k, k)

    Returns
    -------
    float64 array (n,), float64 array (n,)
    """
    good = ~np.isnan(windows)
    seen = np.where(good, models, 0.0)
    return np.einsum("mab,mab->m", np.where(good, windows, 0.0), seen), np.einsum("mab,mab->m", seen, models)


def crowd_light(
    light: np.ndarray,
    models: np.ndarray,
    flux: np.ndarray,
    window: np.ndarray,
    source: np.ndarray,
    dy: np.ndarray,
    dx: np.ndarray,
) -> None:
    """Add flux times model of source `source[i]` to `light[window[i]]`, in place, for every pair i.

    Parameters
    ----------
    light : float64 array, shape (m, s, s), s odd
    models : float64 array, shape (n, k, k), k odd
    flux : float array, shape (n,)
    window, source : int array, shape (p,)
    dy, dx : int array, shape (p,)
        Middle pixel of the source less that of the window.
    """
    half, own = light.shape[1] // 2, models.shape[1] // 2
    for w, k, v, u in zip(window.tolist(), source.tolist(), dy.tolist(), dx.tolist(), strict=True):
        y0, x0 = half + v - own, half + u - own
        rows = slice(max(y0, 0), max(min(y0 + 2 * own + 1, 2 * half + 1), 0))
        columns = slice(max(x0, 0), max(min(x0 + 2 * own + 1, 2 * half + 1), 0))
        inner = models[k, rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0]
        if rows.start < rows.stop and columns.start < columns.stop:
            light[w, rows, columns] += flux[k] * inner
