"""The empirical PSF: stars put on one centre, cleaned of neighbours, averaged, their far wings replaced by a fit."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from astrid_gpu._host_ops import host_op
from astrid_gpu._moffat import Moffat, fit_moffat, fit_moffat_stars, moffat_profile
from astrid_gpu._psf_crowd import Crowd, Cuts
from astrid_gpu.image import Image
from astrid_gpu.ops.psf_fit import FURTHEST, MODEL_ERROR, fit_stars, psf_at, spline_of
from astrid_gpu.ops.psf_stamps import centroid_of, fwhm_of

__all__ = ["PsfStack", "Registered", "blend", "build_psf", "inliers", "register", "tapered"]

_MARGIN = 4  # pixels cut round a stamp so that shifting it brings in nothing from outside
_ROUNDS = 4


class Registered(NamedTuple):
    """Stars of unit flux on one centre, (m, side, side): what `register` makes of their windows."""

    cuts: Cuts
    light: np.ndarray
    shifted: np.ndarray
    weight: np.ndarray
    offset: np.ndarray
    chi2: np.ndarray


class PsfStack(NamedTuple):
    """A PSF and how it came about."""

    psf: np.ndarray
    moffat: Moffat
    used: np.ndarray
    chi2: float
    empirical_radius: float
    stars: Registered | None = None


def build_psf(
    image: Image,
    variance: Any,
    stars: np.ndarray,
    chosen: np.ndarray,
    half: int,
    fwhm: float,
    *,
    empirical: bool,
) -> PsfStack:
    """Build the PSF from `stars[chosen]`, the other `stars` being neighbours to take off.

    Each round: fluxes of all sources given the PSF so far (a linear system), neighbours subtracted, each star's
    flux, centre and local sky fitted, its pixels shifted to a common centre by a Fourier phase, and averaged with
    inverse-variance and Huber weights; a Moffat profile fitted to the average; where the average does not differ
    from that by more than its own noise the profile stands in (`blend`). Stars that fit badly are dropped.

    Parameters
    ----------
    image : Image
        Background-subtracted.
    variance : float, array (ny, nx) or None
        None: that of the image, else that of its blank sky.
    stars : structured array of `find_stars`
    chosen : int array
        Indices into `stars`.
    half : int
        Half side of the PSF.
    fwhm : float
        Start, pixels.
    empirical : bool
        False: the Moffat profile alone is returned.
    """
    cuts = Cuts(image, variance, stars[chosen], half + _MARGIN if empirical else half)
    crowd = Crowd(image, stars, chosen, cuts, half)
    # A windowed centre in a crowd is off by a little: the fit against the PSF refines it from here.
    offset = np.stack([stars["y"][chosen] - cuts.y, stars["x"][chosen] - cuts.x], axis=1)
    psf = _start_psf(half, fwhm)
    if not empirical:
        return _profile_alone(cuts, crowd, psf, offset, fwhm)
    keep = np.ones(len(chosen), dtype=bool)
    moffat: Moffat | None = None
    radius, chi2 = 0.0, np.full(len(chosen), np.nan)
    for i in range(_ROUNDS):
        light = crowd.light(psf)
        shifted, weight, offset, chi2 = register(cuts, light, psf, offset, fwhm)
        if i >= 1:
            keep = inliers(chi2)
        mean, error = _average(shifted[keep], weight[keep], psf)
        moffat = fit_moffat(mean, np.hypot(error, 0.01 * np.abs(psf)), fwhm, start=moffat)
        profile = moffat_profile(moffat, mean.shape)
        blended, radius = blend(mean - moffat.constant, profile, error, fwhm)
        psf = _finish(blended)
    assert moffat is not None
    registered = Registered(cuts, light, shifted, weight, offset, chi2)
    return PsfStack(psf, moffat, keep, float(np.median(chi2[keep])), radius, registered)


def _profile_alone(cuts: Cuts, crowd: Crowd, psf: np.ndarray, offset: np.ndarray, fwhm: float) -> PsfStack:
    """Fit a Moffat profile to the pixels of the chosen stars, neighbours taken off with the last round's profile."""
    reach = min(cuts.half, int(np.ceil(max(3.0 * fwhm, 4.0))))
    inner = slice(cuts.half - reach, cuts.half + reach + 1)
    m = len(offset)
    start, chi2 = None, np.full(m, np.nan)
    for _ in range(2):
        light = crowd.light(psf)
        clean = (cuts.data - light)[:, inner, inner]
        error2 = (cuts.variance + (0.05 * light) ** 2)[:, inner, inner] + (MODEL_ERROR * np.maximum(clean, 0.0)) ** 2
        error2 = np.where(cuts.bad[:, inner, inner], 0.0, error2)
        start, _, chi2 = fit_moffat_stars(clean, error2, offset, fwhm, start=start)
        psf = _finish(moffat_profile(start, psf.shape, centred=True))
    assert start is not None
    return PsfStack(psf, start, np.ones(m, bool), float(np.median(chi2)), 0.0)


def _start_psf(half: int, fwhm: float) -> np.ndarray:
    alpha = 0.5 * fwhm / np.sqrt(2.0 ** (1.0 / 3.5) - 1.0)
    stamp = moffat_profile(Moffat(1.0, 0.0, 0.0, 0.0, alpha, 0.0, 0.0, 3.5), (2 * half + 1, 2 * half + 1))
    return stamp / stamp.sum()


def register(
    cuts: Cuts, neighbours: np.ndarray, psf: np.ndarray, offset: np.ndarray, fwhm: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fit flux, centre and sky of each star, and return it shifted to the middle with unit flux.

    Parameters
    ----------
    psf : array, shape (side, side), or (m, side, side) with one for each star

    Returns
    -------
    shifted, weight : float arrays (m, side, side)
        Weight is the inverse variance of a pixel of `shifted`, 0 where bad.
    offset : float array (m, 2)
        Centres (y, x) relative to the middle pixel.
    chi2 : float array (m,)
        Reduced chi-squared over the core, errors of the model allowed for.
    """
    clean = cuts.data - neighbours
    # A neighbour is taken off to some 5 % only.
    variance = cuts.variance + (0.05 * neighbours) ** 2
    reach = max(np.abs(offset).max() + 1.5, FURTHEST)  # three steps of half a pixel
    offset, flux, sky, model = _fitted(clean, variance, cuts, psf, offset, reach)
    safe = np.where(flux > 0, flux, 1.0)[:, None, None]
    unit = (clean - sky[:, None, None]) / safe
    unit = np.where(cuts.bad, model, unit)
    variance = variance / safe**2
    error2 = variance + (MODEL_ERROR * model) ** 2
    grid = np.arange(-cuts.half, cuts.half + 1)
    core = (np.hypot(*np.meshgrid(grid, grid, indexing="ij")) < 1.2 * fwhm)[None] & ~cuts.bad
    misfit = np.where(core, (unit - model) ** 2 / error2, 0.0).sum((1, 2))
    chi2 = np.where(flux > 0, misfit / np.maximum(core.sum((1, 2)) - 4, 1), np.inf)
    inner = slice(_MARGIN, -_MARGIN)
    holes = _fourier_round(cuts.bad, -offset)[:, inner, inner]
    weight = np.where(holes, 0.0, 1.0 / (variance[:, inner, inner] + (MODEL_ERROR * psf) ** 2))
    weight[flux <= 0] = 0.0
    return _fourier_shift(unit, -offset, _MARGIN), weight, offset, chi2


def _fitted(
    clean: np.ndarray, variance: np.ndarray, cuts: Cuts, psf: np.ndarray, offset: np.ndarray, reach: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return centres, fluxes, skies and the PSF at those centres of stars that share one PSF, or have one each."""
    fit, place = host_op("fit_stars", fit_stars), host_op("psf_at", psf_at)
    if psf.ndim == 2:
        spline = spline_of(psf, cuts.half, reach)
        offset, flux, sky = fit(clean, variance, cuts.bad, spline, offset)
        return offset, flux, sky, place(spline, cuts.half, offset[:, 0], offset[:, 1])
    parts = []
    for i, own in enumerate(psf):
        spline, one = spline_of(own, cuts.half, reach), slice(i, i + 1)
        where, flux, sky = fit(clean[one], variance[one], cuts.bad[one], spline, offset[one])
        parts.append((where, flux, sky, place(spline, cuts.half, where[:, 0], where[:, 1])))
    return tuple(np.concatenate(each) for each in zip(*parts, strict=True))  # type: ignore[return-value]


def _fourier_shift(stamps: np.ndarray, offset: np.ndarray, margin: int = 0) -> np.ndarray:
    """Shift each (s, s) stamp, s odd, by offset (y, x) with a Fourier phase, and cut `margin` pixels off all round.

    The phase is a circular convolution along each axis with D(t) = sin(pi t) / (s sin(pi t / s)), so two products of
    small matrices. The edge is the margin's concern.
    """
    s = stamps.shape[1]
    # D at the pixels from -(s - 1) to s - 1 before the shift, which is all that a row of the matrix takes from.
    t = np.arange(1 - s, s)[None, None] - offset[:, :, None]
    below = np.sin(np.pi * t / s)
    near = np.abs(below) < 1e-9
    kernel = np.where(near, 1.0, np.sin(np.pi * t) / (s * np.where(near, 1.0, below)))
    index = np.arange(margin, s - margin)[:, None] - np.arange(s)[None, :] + s - 1
    down, across = kernel[:, 0][:, index], kernel[:, 1][:, index]
    return down @ stamps @ across.transpose(0, 2, 1)


def _fourier_round(holes: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Return bad pixels after the shift: the pixels a bad one reaches."""
    if not holes.any():
        return holes
    grown = holes.copy()
    for axis in (1, 2):
        grown |= np.roll(grown, 1, axis=axis) | np.roll(grown, -1, axis=axis)
    large = np.abs(offset).max(axis=1) > 0.05
    return np.where(large[:, None, None], grown, holes)


def inliers(chi2: np.ndarray, factor: float = 1.0) -> np.ndarray:
    """Return which stars fit: chi-squared not far above the median's, or `factor` times as far; at least half."""
    finite = np.isfinite(chi2)
    if finite.sum() < 4:
        return finite if finite.any() else np.ones_like(finite)
    middle = np.median(chi2[finite])
    spread = 1.4826 * np.median(np.abs(chi2[finite] - middle))
    return finite & (chi2 <= middle + factor * max(4.0 * spread, 0.5 * middle))


def _average(stamps: np.ndarray, weight: np.ndarray, psf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weighted mean with Huber weights about the pixel's median, and its error from the scatter."""
    if len(stamps) >= 5:
        middle = np.median(stamps, axis=0)
        residual = np.abs(stamps - middle) * np.sqrt(weight)
        weight = weight * np.minimum(1.0, 2.5 / np.maximum(residual, 1e-12))
    total = weight.sum(axis=0)
    mean = np.where(total > 0, (weight * stamps).sum(axis=0) / np.where(total > 0, total, 1.0), psf)
    formal = 1.0 / np.where(total > 0, total, 1.0)
    if len(stamps) >= 5:
        seen = (weight**2 * (stamps - mean) ** 2).sum(axis=0) / np.where(total > 0, total, 1.0) ** 2
        n = len(stamps)
        formal = _radial_mean(seen, total > 0) * n / (n - 1)
    return mean, np.where(total > 0, np.sqrt(formal), np.inf)


def _radius(shape: tuple[int, int]) -> np.ndarray:
    y, x = np.arange(shape[0]) - shape[0] // 2, np.arange(shape[1]) - shape[1] // 2
    return np.hypot(y[:, None], x[None, :])


def _radial_mean(values: np.ndarray, use: np.ndarray) -> np.ndarray:
    """Return the azimuthal mean in rings one pixel wide, at each pixel."""
    ring = np.rint(_radius(values.shape)).astype(int)
    n = np.bincount(ring[use], minlength=ring.max() + 1)
    total = np.bincount(ring[use], weights=values[use], minlength=ring.max() + 1)
    mean = total / np.maximum(n, 1)
    overall = values[use].mean() if use.any() else 0.0
    return np.where(n > 0, mean, overall)[ring]


def blend(
    mean: np.ndarray, profile: np.ndarray, error: np.ndarray, fwhm: float, caution: float = 1.0
) -> tuple[np.ndarray, float]:
    """Return mean where it says more than its noise, the profile where it does not.

    Per ring the departure from the profile is shrunk by (Stein) 1 - caution noise² / departure²; outside one FWHM the
    factor may only fall with radius. Also returns the radius at which it falls below a half.
    """
    radius = _radius(mean.shape)
    departure = np.where(np.isfinite(error), mean - profile, 0.0)
    use = np.isfinite(error)
    power, noise = _radial_mean(departure**2, use), _radial_mean(np.where(use, error, 0.0) ** 2, use)
    factor = np.clip(1.0 - caution * noise / np.maximum(power, 1e-300), 0.0, 1.0)
    rings = np.rint(radius).astype(int)
    steps = np.zeros(rings.max() + 1)
    steps[rings.ravel()] = factor.ravel()
    steps = np.convolve(np.pad(steps, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
    inner = max(1, round(fwhm))
    if inner < len(steps):
        steps[inner:] = np.minimum.accumulate(steps[inner:])
        # A ring or two beyond may be trusted only as far as it stands out; the tail of chance is cut.
        steps[inner:] = np.where(steps[inner:] < 0.2, 0.0, steps[inner:])
    smooth = np.interp(radius, np.arange(len(steps)), steps)
    reach = float(np.max(radius[smooth > 0.5], initial=0.0))
    return profile + smooth * departure, reach


def tapered(stamp: np.ndarray) -> np.ndarray:
    """Return a stamp, or a stack of them, brought to zero towards the border."""
    half = stamp.shape[-1] // 2
    radius = _radius(stamp.shape[-2:])
    taper = np.clip((half + 0.5 - radius) / max(0.1 * half, 1.5), 0.0, 1.0)
    return stamp * np.sin(0.5 * np.pi * taper) ** 2


def _finish(stamp: np.ndarray) -> np.ndarray:
    """Taper the border, centre, normalise."""
    half = stamp.shape[0] // 2
    stamp = tapered(stamp)
    width = fwhm_of(stamp)
    for _ in range(3):
        y, x = centroid_of(stamp, fwhm=width)
        shift = np.array([[half - y, half - x]])
        if np.abs(shift).max() < 0.003:
            break
        stamp = _fourier_shift(stamp[None], shift)[0]
    return stamp / stamp.sum()
