"""The empirical PSF: stars put on one centre, cleaned of neighbours, averaged, their far wings replaced by a fit."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from astrid_gpu._host_ops import host_op
from astrid_gpu._moffat import fit_moffat, fit_moffat_stars
from astrid_gpu._psf_crowd import Crowd, Cuts
from astrid_gpu.backends import Backend
from astrid_gpu.image import Image
from astrid_gpu.ops.moffat import Moffat, moffat_profile
from astrid_gpu.ops.psf_fit import FURTHEST, MODEL_ERROR, Spline, spline_of
from astrid_gpu.ops.psf_intruders import intruders
from astrid_gpu.ops.psf_register import Aligned, fourier_shift, mean_star, register_stars
from astrid_gpu.ops.psf_stamps import centroid_of

__all__ = ["PsfStack", "Registered", "blend", "build_psf", "inliers", "register", "spline_reach", "tapered", "trusted"]

_MARGIN = 4  # pixels cut round a stamp so that shifting it brings in nothing from outside
_ROUNDS = 4
_FIRST = 40  # stars that the first two rounds go by, if there are more
_SAME_LIGHT = 1e-3  # of the peak; a PSF that changes by less leaves its neighbours' light, good to 5 %, as it is
_CENTRED = 5e-4  # px
_SETTLED = 0.25  # of its error; a PSF that changes by less in a round is done, with the third round


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
    flux_error: float = float("nan")


def build_psf(
    image: Image,
    variance: Any,
    stars: np.ndarray,
    chosen: np.ndarray,
    half: int,
    fwhm: float,
    *,
    empirical: bool,
    device: Backend | None = None,
) -> PsfStack:
    """Build the PSF from `stars[chosen]`, the other `stars` being neighbours to take off.

    Each round: fluxes of all sources given the PSF so far (a linear system), neighbours subtracted, each star's flux,
    centre and local sky fitted, its pixels shifted to a common centre by a Fourier phase, and averaged with
    inverse-variance and Huber weights; a Moffat profile fitted to the average; where the average does not differ from
    that by more than its own noise the profile stands in (`blend`). Two rounds by the best stars tell all others'
    centres as well as all of them would: a third by all ends it. Few stars take three rounds or four. Stars that fit
    badly are dropped, and of one that rules the mean the pixels about a source that the others lack (`intruders`).

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
    device : Backend, optional
        That of an image and variance on a device.
    """
    cuts = Cuts(image, variance, stars[chosen], half + _MARGIN if empirical else half, device)
    crowd = Crowd(image, stars, chosen, cuts, half)
    # A windowed centre in a crowd is off by a little: the fit against the PSF refines it from here.
    offset = np.stack([stars["y"][chosen] - cuts.y, stars["x"][chosen] - cuts.x], axis=1)
    moffat = _start(fwhm)
    psf = _of_unit_sum(moffat_profile(moffat, (2 * half + 1, 2 * half + 1)))
    if not empirical:
        return _profile_alone(cuts, crowd, psf, offset, fwhm)
    m = len(chosen)
    keep, lit = np.ones(m, dtype=bool), np.zeros_like(psf)
    for i in range(_ROUNDS):
        n = m if i >= 2 else min(m, _FIRST)
        if np.abs(psf - lit).max() > _SAME_LIGHT * psf.max() and (n == m or i == 0):
            light, lit = crowd.light(psf), psf
        shifted, weight, offset[:n], chi2 = register(cuts.first(n), light[:n], psf, offset[:n], fwhm)
        before, keep = keep, inliers(chi2) if i >= 1 else np.ones(n, dtype=bool)
        unit, trust = shifted[keep], weight[keep]
        if n == m and i >= 1 and (hidden := intruders(unit, trust, psf, fwhm)).any():
            trust[hidden] = 0.0
            weight[keep] = trust
        mean, error = _average(unit, trust, psf)
        if i != 1:  # the second mean is the first one but for better centres
            moffat = fit_moffat(mean, np.hypot(error, 0.01 * np.abs(psf)), fwhm, start=moffat)
        blended, radius = blend(mean - moffat.constant, moffat_profile(moffat, mean.shape), error, fwhm)
        last, psf = psf, _finish(blended, moffat.fwhm)
        if i >= 2 and (m > _FIRST or _settled(psf, last, error, before, keep)):
            break
    registered = Registered(cuts, light, shifted, weight, offset, chi2)
    return PsfStack(psf, moffat, keep, float(np.median(chi2[keep])), radius, registered, _flux_error(psf, error))


def _flux_error(psf: np.ndarray, error: np.ndarray) -> float:
    """Return the relative error of fluxes fitted with a PSF whose pixels, before it was normalised, have these errors.

    A fitted flux goes as sum P P' / sum P² and the sum is brought to 1: d ln f = sum dP (P / sum P² - 1).
    """
    known = np.isfinite(error)
    return float(np.sqrt(np.sum((error * (psf / (psf**2).sum() - 1.0))[known] ** 2)))


def _settled(psf: np.ndarray, last: np.ndarray, error: np.ndarray, before: np.ndarray, keep: np.ndarray) -> bool:
    """Return whether a round of the same stars has changed the PSF by a part of its error only."""
    return np.array_equal(before, keep) and bool((np.abs(psf - last) <= _SETTLED * error).all())


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
        psf = _finish(moffat_profile(start, psf.shape, centred=True), start.fwhm)
    assert start is not None
    return PsfStack(psf, start, np.ones(m, bool), float(np.median(chi2)), 0.0)


def _start(fwhm: float) -> Moffat:
    alpha = 0.5 * fwhm / np.sqrt(2.0 ** (1.0 / 3.5) - 1.0)
    return Moffat(1.0, 0.0, 0.0, 0.0, alpha, 0.0, 0.0, 3.5)


def _of_unit_sum(stamp: np.ndarray) -> np.ndarray:
    return stamp / stamp.sum()  # type: ignore[no-any-return]


def register(
    cuts: Cuts, neighbours: np.ndarray, psf: np.ndarray, offset: np.ndarray, fwhm: float, spline: Spline | None = None
) -> Aligned:
    """Fit flux, centre and sky of each star, and return it shifted to the middle with unit flux; see `register_stars`.

    Parameters
    ----------
    psf : array, shape (side, side), or (m, side, side) with one for each star
    spline : Spline, optional
        Through `psf`, where that is known already.
    """
    if spline is None:
        spline = spline_of(psf, cuts.half, spline_reach(offset))
    op = host_op("register_stars", register_stars)
    return Aligned(*op(cuts.data, neighbours, cuts.variance, cuts.bad, spline, psf, offset, 1.2 * fwhm))


def spline_reach(offset: np.ndarray) -> float:
    """Return how far a PSF may be moved in a fit that begins at these centres: by three steps of half a pixel."""
    return float(max(np.abs(offset).max() + 1.5, FURTHEST))


def inliers(chi2: np.ndarray, factor: float = 1.0) -> np.ndarray:
    """Return which stars fit: chi-squared not far above the median's, or `factor` times as far; at least half."""
    finite = np.isfinite(chi2)
    if finite.sum() < 4:
        return finite if finite.any() else np.ones_like(finite)
    middle = np.median(chi2[finite])
    spread = 1.4826 * np.median(np.abs(chi2[finite] - middle))
    return finite & (chi2 <= middle + factor * max(4.0 * spread, 0.5 * middle))


def _average(stamps: np.ndarray, weight: np.ndarray, psf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the robust mean of stars, `psf` where there is none, and its error: the ring's, from the scatter."""
    mean, total, formal = host_op("mean_star", mean_star)(stamps, weight)
    seen = total > 0
    if len(stamps) >= 5:
        n = len(stamps)
        formal = _radial_mean(formal, seen) * n / (n - 1)
    else:
        formal = 1.0 / np.where(seen, total, 1.0)
    return np.where(seen, mean, psf), np.where(seen, np.sqrt(formal), np.inf)


def _radius(shape: tuple[int, int]) -> np.ndarray:
    y, x = np.arange(shape[0]) - shape[0] // 2, np.arange(shape[1]) - shape[1] // 2
    return np.hypot(y[:, None], x[None, :])


@lru_cache(maxsize=16)
def _rings(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each pixel's ring one pixel wide, and the ring within it with the share of the next, flat."""
    radius = _radius(shape).ravel()
    ring = np.rint(radius).astype(int)
    inner = np.minimum(radius.astype(int), max(ring.max() - 1, 0))
    return ring, inner, np.clip(radius - inner, 0.0, 1.0)


def _by_ring(values: np.ndarray, use: np.ndarray) -> np.ndarray:
    """Return azimuthal means (n, rings) of a stack (n, k, k) over the pixels in `use`; of all where a ring has none."""
    ring, n = _rings(values.shape[1:])[0], len(values)
    most = int(ring.max()) + 1
    index = (ring + most * np.arange(n)[:, None])[use.reshape(n, -1)]
    count = np.bincount(index, minlength=n * most).reshape(n, most)
    total = np.bincount(index, weights=values[use], minlength=n * most).reshape(n, most)
    overall = total.sum(axis=1, keepdims=True) / np.maximum(count.sum(axis=1, keepdims=True), 1)
    return np.where(count > 0, total / np.maximum(count, 1), overall)


def _radial_mean(values: np.ndarray, use: np.ndarray) -> np.ndarray:
    """Return the azimuthal mean in rings one pixel wide, at each pixel."""
    return _by_ring(values[None], use[None])[0][_rings(values.shape)[0]].reshape(values.shape)


def blend(mean: np.ndarray, profile: np.ndarray, error: np.ndarray, fwhm: float) -> tuple[np.ndarray, float]:
    """Return a stamp where it says more than its noise, the profile where it does not.

    Also the largest radius at which the stamp itself counts for more than half.
    """
    share = trusted((mean - profile)[None], error[None], fwhm)[0]
    reach = float(np.max(_radius(mean.shape)[share > 0.5], initial=0.0))
    return profile + share * np.where(np.isfinite(error), mean - profile, 0.0), reach


def trusted(departure: np.ndarray, error: np.ndarray, fwhm: float, caution: float = 1.0) -> np.ndarray:
    """Return how far departures (n, k, k) of known error stand out of their noise, from 0 to 1, pixel by pixel.

    Per ring the factor is (Stein) 1 - caution noise² / departure²; outside one FWHM it may only fall with radius.
    """
    use = np.isfinite(error)
    noise = _by_ring(np.where(use, error, 0.0) ** 2, use)
    seen = _by_ring(np.where(use, departure, 0.0) ** 2, use)
    steps = np.clip(1.0 - caution * noise / np.maximum(seen, 1e-300), 0.0, 1.0)
    edge = np.concatenate([steps[:, :1], steps, steps[:, -1:]], axis=1)
    steps = 0.25 * edge[:, :-2] + 0.5 * edge[:, 1:-1] + 0.25 * edge[:, 2:]
    first = max(1, round(fwhm))
    if first < steps.shape[1]:
        outer = np.minimum.accumulate(steps[:, first:], axis=1)
        # A ring or two beyond may be trusted only as far as it stands out; the tail of chance is cut.
        steps[:, first:] = np.where(outer < 0.2, 0.0, outer)
    _, inner, share = _rings(departure.shape[1:])
    smooth = steps[:, inner] * (1.0 - share) + steps[:, np.minimum(inner + 1, steps.shape[1] - 1)] * share
    return smooth.reshape(departure.shape)  # type: ignore[no-any-return]


def tapered(stamp: np.ndarray) -> np.ndarray:
    """Return a stamp, or a stack of them, brought to zero towards the border."""
    half = stamp.shape[-1] // 2
    radius = _radius(stamp.shape[-2:])
    taper = np.clip((half + 0.5 - radius) / max(0.1 * half, 1.5), 0.0, 1.0)
    return stamp * np.sin(0.5 * np.pi * taper) ** 2


def _finish(stamp: np.ndarray, fwhm: float) -> np.ndarray:
    """Taper the border, centre, normalise."""
    half = stamp.shape[0] // 2
    stamp = tapered(stamp)
    for _ in range(3):
        y, x = centroid_of(stamp, fwhm=fwhm)
        shift = np.array([[half - y, half - x]])
        if np.abs(shift).max() < _CENTRED:
            break
        stamp = fourier_shift(stamp[None], shift)[0]
    return _of_unit_sum(stamp)
