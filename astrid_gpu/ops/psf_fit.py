"""Fitting a PSF to stars in their windows: the PSF moved by a fraction of a pixel, one star's fit, a crowd's sums."""

from __future__ import annotations

import numpy as np

__all__ = [
    "FURTHEST",
    "MODEL_ERROR",
    "Spline",
    "crowd_light",
    "crowd_sums",
    "fit_stars",
    "psf_at",
    "spline_of",
    "step_scale",
]

MODEL_ERROR = 0.02
"""Of the PSF's own value: keeps the brightest stars and the core from ruling alone."""
FURTHEST = 2.0
"""Pixels: a centre is not sought further from the middle pixel of its window."""
_FITS = 4
_LEAST_STEP = 1e-2  # px; a step finds the centre to some 2 % of its own length
_LONGEST_STEP = 0.5

Spline = tuple[np.ndarray, int]
"""Cubic-spline coefficients of a stamp, or of one for each window, and the index of those that windows begin at."""


def spline_of(psf: np.ndarray, half: int, reach: float) -> Spline:
    """Return the spline through stamps, for windows of half side `half` that they are to be moved in.

    Parameters
    ----------
    psf : float array, square, of odd side; or (n, k, k)
    half : int
    reach : float
        Largest shift along an axis, pixels, that the border leaves room for.
    """
    from scipy.ndimage import spline_filter1d

    own = psf.shape[-1] // 2
    grow = max(half - own, 0) + 4 + int(np.ceil(reach))
    padded = np.pad(psf, [*[(0, 0)] * (psf.ndim - 2), (grow, grow), (grow, grow)])
    for axis in (-2, -1):
        padded = spline_filter1d(padded, order=3, axis=axis, mode="mirror")
    return padded, own + grow - half


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
    sy, wy, _ = _taps(-dy)
    sx, wx, _ = _taps(-dx)
    return _spread(spline, half, (sy, wy), (sx, wx))


def step_scale(spline: Spline, half: int) -> tuple[float, float]:
    """Return by how much a shift is overstated along y and x where it is fitted by differences of the PSF's pixels.

    The ratio of the spline's own slopes to the differences, by least squares, of the first stamp in the middle: steps
    divided by it converge at once instead of about the centre.
    """
    coefficients, first = spline
    own = (coefficients[0] if coefficients.ndim == 3 else coefficients), first
    whole, weights, slopes = _taps(np.zeros(1))
    model = psf_at(own, half, np.zeros(1), np.zeros(1))[0]
    true = [_spread(own, half, (whole, a), (whole, b))[0] for a, b in ((-slopes, weights), (weights, -slopes))]
    seen = [-np.gradient(model, axis=axis) for axis in (0, 1)]
    scale = [float((t * d).sum() / max((d * d).sum(), 1e-300)) for t, d in zip(true, seen, strict=True)]
    return max(scale[0], 1.0), max(scale[1], 1.0)


def _spread(
    spline: Spline, half: int, down: tuple[np.ndarray, np.ndarray], across: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return windows of a spline whose taps, whole shifts (m,) and weights (m, 4), are given along each axis."""
    side = 2 * half + 1
    coefficients, first = spline
    (sy, wy), (sx, wx) = down, across
    out = np.empty((len(sy), side, side))
    # Windows of one PSF and one whole-pixel shift go together.
    own = np.arange(len(sy)) if coefficients.ndim == 3 else np.zeros(len(sy), int)
    for k, jy, jx in {*zip(own.tolist(), sy.tolist(), sx.tolist(), strict=True)}:
        these = np.flatnonzero((own == k) & (sy == jy) & (sx == jx))
        plane = coefficients[k] if coefficients.ndim == 3 else coefficients
        block = plane[first + jy - 1 : first + jy + side + 2, first + jx - 1 : first + jx + side + 2]
        rows = np.tensordot(wy[these], np.stack([block[i : i + side] for i in range(4)]), 1)
        out[these] = sum(wx[these, i, None, None] * rows[:, :, i : i + side] for i in range(4))
    return out


def _taps(shift: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the whole part of shifts (m,), the weights (m, 4) of a cubic B-spline at what is left, their slopes."""
    whole = np.floor(shift).astype(int)
    t = shift - whole
    weights = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    slopes = [-3 * (1 - t) ** 2, 9 * t**2 - 12 * t, -9 * t**2 + 6 * t + 3, 3 * t**2]
    return whole, np.stack(weights, axis=1) / 6, np.stack(slopes, axis=1) / 6


def fit_stars(
    clean: np.ndarray, variance: np.ndarray, bad: np.ndarray, spline: Spline, offset: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Fit flux f, centre and sky c of each star: its window is :math:`f P(x - \delta) + c`.

    Each step is a linear fit of f, c and of f times a small shift, whose columns are the negative gradient of the PSF
    moved as far as is known; weights are :math:`1 / (V + (0.02 f P)^2)`. The gradient is that of neighbouring pixels,
    smoother than the spline's and by that kinder to a PSF that is itself known from these stars; `step_scale` makes up
    for its length. It ends with a shift below 0.01 px, or the fourth fit.

    Parameters
    ----------
    clean, variance : float64 array, shape (m, s, s), s odd
        Neighbours taken off.
    bad : bool array, shape (m, s, s)
    spline : Spline
        Of the PSF, or of one for each star, made for these windows and for shifts of 2 px and the steps of three fits.
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
    live, scale = np.arange(m), np.array(step_scale(spline, half))
    for i in range(_FITS):
        own = (spline[0][live] if spline[0].ndim == 3 else spline[0]), spline[1]
        model = psf_at(own, half, offset[live, 0], offset[live, 1])
        flux[live], sky[live], step = _linear_fit(clean[live], variance[live], bad[live], model)
        step /= scale
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
