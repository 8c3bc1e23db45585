r"""Position, brightness and shape of candidates from small windows.

**Position.** The matched-filter score of a point source is the autocorrelation of the difference PSF: a smooth hill,
nearly Gaussian at its top, whose summit is the maximum-likelihood position. `refine_peaks` fits a paraboloid to the
logarithm of the 3x3 pixels round the peak, each weighted by the square of its value (the weight that uniform noise
gives a logarithm). For a Gaussian PSF it is exact at any width and offset; for another one `calibrate_peaks` removes
what the same fit gets wrong on the known autocorrelation.

**Shape.** `measure_moments` sums the difference image under a round Gaussian window w of width sigma, that of the
difference PSF,

.. math:: M_{ij} = \sum_p w\, d\, (p - c)_i (p - c)_j \Big/ \sum_p w\, d ,

masked pixels and those beyond the frame left out. For a Gaussian source of covariance C and W = sigma² it is
M = C W / (C + W), so C = M W / (W - M), which `shapes` inverts. With t = tr M / 2 and t_0 the same for the PSF, the
*excess* t / t_0 - 1 is -1 for a single hot pixel, 0 for the PSF and about +1 for a uniform glow. White noise gives it
the standard deviation 1 / (S/N) for a Gaussian PSF: the scale on which sharp and extended are told from chance.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "FWHM",
    "PsfWindow",
    "Refined",
    "Shapes",
    "calibrate_peaks",
    "measure_moments",
    "psf_window",
    "refine_peaks",
    "shapes",
]

FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))
"""Full width at half maximum of a Gaussian of sigma 1."""
_CHUNK = 4096  # windows at a time in the reference, to bound its memory
_LARGEST = 0.98  # of W: wider than that the window sees a flat field, and noise decides


class Refined(NamedTuple):
    """Sub-pixel maxima: offsets `dy`, `dx` from the peak pixel, the `value` there, and whether the fit held."""

    dy: np.ndarray
    dx: np.ndarray
    value: np.ndarray
    ok: np.ndarray


class PsfWindow(NamedTuple):
    """The window matched to a PSF, and what it measures of that PSF; lengths in pixels.

    `fwhm` of the PSF; `sigma` and `radius` of the window; `yy`, `xx`, `xy` the PSF's moments M; `noise_excess` and
    `noise_shape`: standard deviation, times S/N, of the excess and of each ellipticity component of a point source in
    white noise (1 for a Gaussian PSF).
    """

    fwhm: float
    sigma: float
    radius: int
    yy: float
    xx: float
    xy: float
    noise_excess: float
    noise_shape: float


class Shapes(NamedTuple):
    """Per candidate: `width` over that of the PSF, axis ratio a/b, angle (radians from x to y), excess, ellipticity.

    `e1` and `e2` are (M_xx - M_yy) and 2 M_xy over 2 t, less those of the PSF. NaN where the sums are not positive.
    """

    width: np.ndarray
    elongation: np.ndarray
    theta: np.ndarray
    excess: np.ndarray
    e1: np.ndarray
    e2: np.ndarray


def measure_moments(
    images: Any, image: Any, y: Any, x: Any, sigma: Any, radius: int, mask: Any = None, *, xp: Any = np
) -> Any:
    """Sum Gaussian-weighted moments in square windows.

    Parameters
    ----------
    images : real array, shape (n, ny, nx)
        NaN and infinite pixels are left out.
    image : int64 array, shape (m,)
    y, x : float64 array, shape (m,)
        Centres c in pixels; the window is centred on the nearest pixel.
    sigma : float64 array, shape (m,)
        Width of the weight w = exp(-|p - c|² / (2 sigma²)) in pixels.
    radius : int
        Half side of the window in pixels.
    mask : bool or uint8 array, shape (1 or n, ny, nx), optional
        Nonzero = left out.

    Returns
    -------
    float64 array, shape (m, 7)
        Sums of w, w d, w d v, w d u, w d v², w d u², w d v u, with (v, u) = p - c along y and x.
    """
    m = len(y)
    out = xp.empty((m, 7), np.float64)
    columns = [xp.asarray(a) for a in (image, y, x, sigma)]
    for start in range(0, m, _CHUNK):
        rows = slice(start, start + _CHUNK)
        i, v, u, s = (column[rows] for column in columns)
        out[rows] = _moments_of(images, i, v, u, s, radius, mask, xp)
    return out


def _moments_of(images: Any, image: Any, y: Any, x: Any, sigma: Any, radius: int, mask: Any, xp: Any) -> Any:
    _, ny, nx = images.shape
    steps = xp.arange(-radius, radius + 1)
    rows = xp.floor(y + 0.5).astype(np.int64)[:, None] + steps
    columns = xp.floor(x + 0.5).astype(np.int64)[:, None] + steps
    v, u = (rows - y[:, None])[:, :, None], (columns - x[:, None])[:, None, :]
    inside = ((rows >= 0) & (rows < ny))[:, :, None] & ((columns >= 0) & (columns < nx))[:, None, :]
    yc, xc = xp.clip(rows, 0, ny - 1)[:, :, None], xp.clip(columns, 0, nx - 1)[:, None, :]
    i = image[:, None, None]
    d = images[i, yc, xc].astype(np.float64)
    inside &= xp.isfinite(d)
    if mask is not None:
        inside &= mask[i % mask.shape[0], yc, xc] == 0
    w = xp.where(inside, xp.exp(-0.5 * (v**2 + u**2) / sigma[:, None, None] ** 2), 0.0)
    wd = w * xp.where(inside, d, 0.0)
    sums = [w, wd, wd * v, wd * u, wd * v**2, wd * u**2, wd * v * u]
    return xp.stack([s.sum(axis=(1, 2)) for s in sums], axis=1)


def psf_window(psf: np.ndarray, fwhm: float) -> PsfWindow:
    """Return the window for a PSF, an odd, centred stamp (ky, kx) of known FWHM in pixels."""
    sigma = max(fwhm / FWHM, 0.7)
    radius = int(np.ceil(4 * sigma))
    ky, kx = psf.shape
    sums = measure_moments(
        psf[None], np.zeros(1, np.int64), np.array([ky // 2.0]), np.array([kx // 2.0]), np.array([sigma]), radius
    )[0]
    yy, xx, xy = sums[4:] / sums[1]
    t = 0.5 * (yy + xx)
    v, u = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(float)
    w = np.exp(-0.5 * (v**2 + u**2) / sigma**2)
    # Pixel noise s gives the flux the error s / sqrt(sum P²), and sum(w d) is flux times sum(w P).
    per_snr = np.sqrt(np.sum(psf**2)) / sums[1]
    return PsfWindow(
        fwhm, sigma, radius, float(yy), float(xx), float(xy),
        float(per_snr * np.sqrt(np.sum((w * (0.5 * (v**2 + u**2) - t)) ** 2)) / t),
        float(per_snr * np.sqrt(np.sum((w * (u**2 - v**2)) ** 2)) / (2 * t)),
    )  # fmt: skip


def shapes(sums: np.ndarray, window: PsfWindow) -> Shapes:
    """Turn the sums of `measure_moments` (m, 7) under the window of a PSF into shapes."""
    W, t0 = window.sigma**2, 0.5 * (window.yy + window.xx)
    with np.errstate(divide="ignore", invalid="ignore"):
        norm = np.where(sums[:, 1] > 0, sums[:, 1], np.nan)
        yy, xx, xy = (sums[:, k] / norm for k in (4, 5, 6))
        t = 0.5 * (xx + yy)
        spread = np.hypot(0.5 * (xx - yy), xy)
        major, minor = _deconvolve(t + spread, W), _deconvolve(t - spread, W)
        positive = np.where(t > 0, t, np.nan)
        return Shapes(
            width=np.sqrt(np.maximum(_deconvolve(t, W), 0.0) / _deconvolve(np.asarray(t0), W)),
            elongation=np.where(minor > 0, np.sqrt(major / np.where(minor > 0, minor, np.nan)), np.nan),
            theta=0.5 * np.arctan2(2 * xy, xx - yy),
            excess=t / t0 - 1,
            e1=0.5 * (xx - yy) / positive - 0.5 * (window.xx - window.yy) / t0,
            e2=xy / positive - window.xy / t0,
        )


def _deconvolve(moment: np.ndarray, W: float) -> np.ndarray:
    """C = M W / (W - M), with M held below W."""
    held = np.minimum(moment, _LARGEST * W)
    return held * W / (W - held)


def refine_peaks(stamps: np.ndarray) -> Refined:
    """Fit the summit of peaks.

    Parameters
    ----------
    stamps : float array, shape (m, 3, 3)
        The peak pixel and its neighbours, with the sign that makes the peak positive. NaN where there is no pixel;
        values far below the peak or negative count little or nothing.

    Returns
    -------
    Refined
        Where the fit has no maximum within 1 pixel of the peak, the peak pixel itself, with `ok` False.
    """
    stamps = np.asarray(stamps, np.float64).reshape(-1, 9)
    peak = stamps[:, 4]
    y, x = (a.ravel() - 1.0 for a in np.mgrid[:3, :3])
    design = np.stack([np.ones(9), y, x, y * y, x * x, x * y], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = stamps / peak[:, None]
        usable = np.isfinite(ratio) & (ratio > 0.02)
        weight = np.where(usable, np.minimum(ratio, 1.0) ** 2, 0.0)
        log = np.where(usable, np.log(np.where(usable, ratio, 1.0)), 0.0)
    normal = np.einsum("mk,ka,kb->mab", weight, design, design)
    right = np.einsum("mk,ka,mk->ma", weight, design, log)
    # Five free pixels round the peak at least: else the six numbers of a paraboloid are not determined.
    solvable = np.isfinite(peak) & (peak > 0) & (usable.sum(axis=1) >= 6)
    solvable &= np.linalg.cond(np.where(solvable[:, None, None], normal, np.eye(6))) < 1e8
    a = np.linalg.solve(np.where(solvable[:, None, None], normal, np.eye(6)), right[:, :, None])[:, :, 0]
    determinant = 4 * a[:, 3] * a[:, 4] - a[:, 5] ** 2
    maximum = solvable & (determinant > 0) & (a[:, 3] + a[:, 4] < 0)
    safe = np.where(maximum, determinant, 1.0)
    dy = np.where(maximum, (a[:, 5] * a[:, 2] - 2 * a[:, 4] * a[:, 1]) / safe, 0.0)
    dx = np.where(maximum, (a[:, 5] * a[:, 1] - 2 * a[:, 3] * a[:, 2]) / safe, 0.0)
    ok = maximum & (np.abs(dy) <= 1) & (np.abs(dx) <= 1)
    dy, dx = np.where(ok, dy, 0.0), np.where(ok, dx, 0.0)
    height = a[:, 0] + 0.5 * (a[:, 1] * dy + a[:, 2] * dx)
    value = np.where(ok, peak * np.exp(np.where(ok, height, 0.0)), peak)
    return Refined(dy, dx, value, ok)


def calibrate_peaks(refined: Refined, psf: np.ndarray) -> Refined:
    """Remove the errors that `refine_peaks` makes on noiseless point sources of a PSF that is not Gaussian.

    The same fit is made to the autocorrelation of `psf` (odd, centred stamp), which is the matched-filter image of a
    point source, at the offsets found; what comes out too much or too little there is taken off: up to 0.01 px and
    2 % for a Moffat PSF of FWHM 2 px, less for wider ones. `value` must come from a map of PSF flux.
    """
    rows = np.flatnonzero(refined.ok)
    if rows.size == 0:
        return refined
    hill = _autocorrelation(psf, reach=12)
    dy, dx = refined.dy[rows], refined.dx[rows]
    for _ in range(2):  # the error of the fit changes slowly with the offset: two rounds converge
        model = refine_peaks(_hill_stamps(hill, dy, dx))
        dy = np.where(model.ok, refined.dy[rows] - (model.dy - dy), dy)
        dx = np.where(model.ok, refined.dx[rows] - (model.dx - dx), dx)
    model = refine_peaks(_hill_stamps(hill, dy, dx))
    sure = model.ok & (np.abs(model.value - 1) < 0.1)
    out = Refined(*(column.copy() for column in refined))
    out.dy[rows], out.dx[rows] = np.where(sure, dy, refined.dy[rows]), np.where(sure, dx, refined.dx[rows])
    out.value[rows] = refined.value[rows] / np.where(sure, model.value, 1.0)
    return out


def _autocorrelation(psf: np.ndarray, reach: int) -> np.ndarray:
    """Return the normalised autocorrelation of a stamp at offsets up to `reach`, its value 1 in the middle."""
    side = 2 * max(*psf.shape, reach + 1)
    power = np.abs(np.fft.rfft2(psf, (side, side))) ** 2
    full = np.roll(np.fft.irfft2(power, (side, side)), (reach, reach), (0, 1))[: 2 * reach + 1, : 2 * reach + 1]
    return full / full[reach, reach]


def _hill_stamps(hill: np.ndarray, dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
    """Return `hill`, its summit at offset (dy, dx) from the middle pixel, on 3x3 pixels: (m, 3, 3)."""
    from scipy.ndimage import map_coordinates

    reach = hill.shape[0] // 2
    j, i = np.mgrid[-1:2, -1:2]
    places = np.stack([reach + j - dy[:, None, None], reach + i - dx[:, None, None]])
    return map_coordinates(hill, places, order=5, mode="mirror")
