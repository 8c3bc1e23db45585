"""Measure the point-spread function of an image from its own stars."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu._host_ops import both
from astrid_gpu._psf_stack import build_psf
from astrid_gpu.errors import InputError, PsfError
from astrid_gpu.image import PSF, Image
from astrid_gpu.ops.psf_stamps import fwhm_of
from astrid_gpu.stars import StarFlag, find_stars, match_stars

__all__ = ["measure_psf", "measure_psf_pair"]

_NEEDED = 5  # good stars for an empirical PSF
_FALLBACKS = ("moffat", "error")


def measure_psf(
    image: Image | np.ndarray,
    *,
    stars: np.ndarray | None = None,
    size: int | None = None,
    fallback: str = "moffat",
    variance: Any = None,
    min_snr: float = 20.0,
    max_stars: int = 80,
) -> PSF:
    """Build the PSF of an image from its isolated, unsaturated stars.

    With 5 good stars or more it is empirical in the core and goes over into a fitted elliptical Moffat profile
    where the stars no longer say more than noise; with fewer it is the Moffat profile alone, fitted to what there
    is, one star included.

    Parameters
    ----------
    image : Image or array (ny, nx)
        Any background is removed if `stars` is not given; with `stars` it must be background-subtracted.
    stars : structured array, optional
        Of `find_stars` on this image: all of them, neighbours are needed too.
    size : int, optional
        Side of the stamp, raised to odd. Default 2 ceil(4 FWHM) + 1, at most the image.
    fallback : {"moffat", "error"}
        With too few stars: fit a Moffat profile, or raise.
    variance : array (ny, nx) or float, optional
        Default: `image.variance`, else that of blank sky.
    min_snr : float
        Least S/N of a star; lowered to 8 if too few reach it.
    max_stars : int
        The most significant so many are used.

    Returns
    -------
    PSF
        Odd sides, centred, sum 1, with fwhm, ellipticity, n_stars and residual: the median reduced chi-squared of the
        stars over the core, with 2 % of error granted to the model.

    Raises
    ------
    PsfError
        No usable star, or too few with fallback="error".

    Notes
    -----
    Cost: O(stars x size² x 20) plus a sparse linear solve for the neighbours.
    """
    if fallback not in _FALLBACKS:
        msg = f"fallback must be one of {', '.join(_FALLBACKS)}, got {fallback!r}"
        raise InputError(msg)
    image, stars, variance = _prepare(image, stars, variance)
    chosen = _choose(stars, min_snr, max_stars)
    return _build(image, stars, chosen, variance, size, fallback)


def measure_psf_pair(
    science: Image,
    reference: Image,
    stars_science: np.ndarray,
    stars_reference: np.ndarray,
    *,
    size: int | None = None,
    fallback: str = "moffat",
    variance_science: Any = None,
    variance_reference: Any = None,
    min_snr: float = 20.0,
    max_stars: int = 80,
) -> tuple[PSF, PSF]:
    """Measure both PSFs of a registered pair from the same stars where there are enough of them.

    What is wrong with a star (a hidden companion, a galaxy) is then wrong in both PSFs alike and cancels in the
    difference. Where fewer than 5 stars are good in both images each takes its own.

    Parameters are those of `measure_psf`; both images background-subtracted.
    """
    good = [_choose(s, min_snr, None) for s in (stars_science, stars_reference)]
    sides = (stars_science[good[0]], stars_reference[good[1]])
    width = float(np.nanmedian(np.concatenate([s["fwhm"] for s in sides]))) if all(len(s) for s in sides) else 3.0
    ia, ib = match_stars(*sides, radius=max(1.0, 0.5 * width))
    if len(ia) >= _NEEDED:
        chosen = [good[0][ia], good[1][ib]]
        order = np.argsort(-np.minimum(stars_science["snr"][chosen[0]], stars_reference["snr"][chosen[1]]))[:max_stars]
        chosen = [c[order] for c in chosen]
    else:
        chosen = [g[:max_stars] for g in good]
    return both(
        lambda: _build(science, stars_science, chosen[0], variance_science, size, fallback),
        lambda: _build(reference, stars_reference, chosen[1], variance_reference, size, fallback),
    )


def _prepare(image: Any, stars: np.ndarray | None, variance: Any) -> tuple[Image, np.ndarray, Any]:
    """Return a background-subtracted Image, its stars and its variance: one, a plane, or None for the image's own."""
    if not isinstance(image, Image):
        array = np.ma.filled(np.ma.asarray(image).astype(float), np.nan)
        if array.ndim != 2:
            msg = f"measure_psf takes an Image or an array (ny, nx), got shape {array.shape}"
            raise InputError(msg)
        image = Image(array)
    if stars is None:
        from astrid_gpu.calibrate import noise_variance, saturation_mask, subtract_background

        saturated, _ = saturation_mask(image)
        image, background, _ = subtract_background(image)
        if variance is None:
            variance, _, _ = noise_variance(image, background)
        stars = find_stars(image, background_rms=background.rms, saturated=saturated)
    return image, stars, variance


def _choose(stars: np.ndarray, min_snr: float, max_stars: int | None) -> np.ndarray:
    """Return indices of the stars to build from: clean and isolated, most significant first; then what there is."""
    order = np.argsort(-stars["snr"])
    stars = stars[order]
    clean = stars["flags"] == 0
    hopeless = int(StarFlag.SATURATED | StarFlag.SHARP | StarFlag.EDGE | StarFlag.BAD_PIXEL | StarFlag.NO_SHAPE)
    tiers = (
        clean & stars["isolated"] & (stars["snr"] >= min_snr),
        clean & stars["isolated"] & (stars["snr"] >= 8.0),
        clean & (stars["snr"] >= 8.0),
    )
    for tier in tiers:
        if tier.sum() >= _NEEDED:
            return order[np.flatnonzero(tier)[:max_stars]]
    for tier in tiers:
        if tier.any():
            return order[np.flatnonzero(tier)[:max_stars]]
    rest = ((stars["flags"] & hopeless) == 0) & (stars["snr"] >= 15.0) & (stars["ellipticity"] < 0.4)
    return order[np.flatnonzero(rest)[:_NEEDED]]


def _build(image: Image, stars: np.ndarray, chosen: np.ndarray, variance: Any, size: int | None, fallback: str) -> PSF:
    """Build the PSF from the chosen stars, or say why not."""
    if len(chosen) == 0 or (len(chosen) < _NEEDED and fallback == "error"):
        n_all, n_clean = len(stars), int((stars["flags"] == 0).sum()) if len(stars) else 0
        msg = (
            f"{image.name}: no PSF can be measured: {n_all} sources found, {n_clean} of them clean stars, "
            f"{len(chosen)} usable; {_NEEDED} are needed for an empirical PSF and 1 for a Moffat fit. "
            "Give a PSF stamp instead (psf_science=, psf_reference= or Image.psf), or fallback='moffat'"
        )
        raise PsfError(msg)
    fwhm = float(np.clip(np.nanmedian(stars["fwhm"][chosen]), 1.0, min(image.shape) / 3))
    half = _half(size, fwhm, image.shape)
    empirical = len(chosen) >= _NEEDED
    stack = build_psf(image, variance, stars, chosen, half, fwhm, empirical=empirical)
    n = int(stack.used.sum())
    return PSF(
        data=stack.psf,
        fwhm=fwhm_of(stack.psf),
        ellipticity=stack.moffat.ellipticity,
        n_stars=n,
        residual=stack.chi2,
        origin="stars" if empirical else "moffat fit",
    )


def _half(size: int | None, fwhm: float, shape: tuple[int, int]) -> int:
    """Return the half side of the stamp."""
    if size is not None:
        if size < 5:
            msg = f"size must be at least 5 pixels, got {size}"
            raise InputError(msg)
        return int(size) // 2
    return max(5, min(int(np.ceil(4.0 * fwhm)), (min(shape) - 1) // 2))
