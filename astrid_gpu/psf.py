"""Measure the point-spread function of an image from its own stars."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from astrid_gpu._device_frame import device_of, subtract_sky, variance_of
from astrid_gpu._field_fit import ORDERS, highest_order
from astrid_gpu._host_ops import both, host_backend, on_host
from astrid_gpu._psf_doubts import width_scatter
from astrid_gpu._psf_field import fit_field, spread_over, usable_stars
from astrid_gpu._psf_stack import PsfStack, build_psf
from astrid_gpu.backends import Backend, get_backend, library_of, resolve_backend
from astrid_gpu.backends.blas import one_blas_thread
from astrid_gpu.errors import InputError, PsfError
from astrid_gpu.image import PSF, Image, PSFModel
from astrid_gpu.ops.psf_stamps import fwhm_of
from astrid_gpu.stars import StarFlag, find_stars, match_stars

__all__ = ["MeasuredPsf", "measure_one", "measure_psf", "measure_psf_pair"]

_NEEDED = 5  # good stars for an empirical PSF
_ROUNDEST, _WIDEST = 0.3, 15.0  # ellipticity, and FWHM in pixels, from which on one of a few sources is no star
_FALLBACKS = ("moffat", "error")
_MORE = 2  # times max_stars where the PSF may vary: each place has to be known from its own stars


class MeasuredPsf(NamedTuple):
    """The constant PSF, the varying one if there is one, how it was found, and `width_scatter` of its stars."""

    psf: PSF
    model: PSFModel | None
    note: str
    scatter: float = float("nan")


def measure_psf(
    image: Image | np.ndarray,
    *,
    stars: np.ndarray | None = None,
    size: int | None = None,
    fallback: str = "moffat",
    variance: Any = None,
    min_snr: float = 20.0,
    max_stars: int = 80,
    order: int | str = 0,
    backend: str | Backend = "auto",
) -> PSF | PSFModel:
    """Build the PSF of an image from its isolated, unsaturated stars, constant or varying over the field.

    With 5 good stars or more it is empirical in the core and goes over into a fitted elliptical Moffat profile
    where the stars no longer say more than noise; with fewer it is the Moffat profile alone, fitted to what there
    is, one star included. With an order above 0 it is a polynomial in position, as smooth: changes of width and
    ellipticity first, and what else stands out of the noise.

    Parameters
    ----------
    image : Image or array (ny, nx)
        Any background is removed if `stars` is not given; with `stars` it must be background-subtracted. Its planes may
        lie on a device.
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
        The most significant so many are used; twice as many, spread over the frame, where the PSF may vary.
    order : {0, 1, 2, 3, "auto"}
        Degree of the polynomial over the field. "auto" takes the highest that there are stars for (three a term, spread
        over the frame), and of those the lowest that predicts stars left out of the fit as well as the best does,
        within two standard errors.
    backend : str or Backend
        See `get_backend`. "auto" works where the image lies.

    Returns
    -------
    PSF or PSFModel
        A `PSF` for order 0, also where "auto" finds that enough. Odd sides, centred, sum 1, with fwhm, ellipticity,
        n_stars and residual: the median reduced chi-squared of the stars over the core, with 2 % of error granted to
        the model. Its stamps are float64 on the host for images on any backend: so `zogy` takes them.

    Raises
    ------
    PsfError
        No usable star, or too few with fallback="error", or for the order asked for.
    TypeError
        Image, mask, variance and noise are of different libraries.

    Notes
    -----
    Sky, noise, the search for stars and the cutting of windows run where the image lies; the windows of the stars and
    of their neighbours, some MB, come to the host, where they are fitted by the fused operations of `numba` where it is
    installed. On a device saturated stars are told by their level alone, trails of charge are not followed, and a
    variance plane is taken as it is. Cost: O(stars x size² x 15) plus a sparse linear solve for the neighbours; a
    varying PSF about twice that; without `stars` also the sky and the search, which read the frame several
    times.
    """
    found = measure_one(
        image,
        stars,
        size=size,
        fallback=fallback,
        variance=variance,
        min_snr=min_snr,
        max_stars=max_stars,
        order=order,
        backend=backend,
    )
    return found.psf if found.model is None else found.model


def measure_one(
    image: Image | np.ndarray,
    stars: np.ndarray | None,
    *,
    size: int | None = None,
    fallback: str = "moffat",
    variance: Any = None,
    min_snr: float = 20.0,
    max_stars: int = 80,
    order: int | str = 0,
    backend: str | Backend = "auto",
) -> MeasuredPsf:
    """Return what `measure_psf` finds: the constant PSF, the varying one, and how; its parameters."""
    if fallback not in _FALLBACKS:
        msg = f"fallback must be one of {', '.join(_FALLBACKS)}, got {fallback!r}"
        raise InputError(msg)
    if order != "auto" and order not in ORDERS:
        msg = f"order must be 'auto' or one of {', '.join(map(str, ORDERS))}, got {order!r}"
        raise InputError(msg)
    image = _as_image(image, backend)
    asked = None if isinstance(backend, str) and backend == "auto" else get_backend(backend)
    device = device_of(image, backend, variance_given=variance)
    if device is None and asked is not None and asked.is_gpu:
        device = asked
    if device is not None:
        image, variance = _sent(image, variance, device)
    with one_blas_thread(), on_host(host_backend() if device is not None or asked is None else asked):
        image, stars, variance = _prepare(image, stars, variance, device)
        chosen = _spread(stars, _choose(stars, min_snr, None), image.shape, max_stars, order)
        return _build(image, stars, chosen, variance, size, fallback, order, device)


def _spread(
    stars: np.ndarray, chosen: np.ndarray, shape: tuple[int, int], max_stars: int, order: int | str
) -> np.ndarray:
    """Return the best stars; where the PSF may vary more of them, from all over the frame."""
    if order == 0:
        return chosen[:max_stars]
    return chosen[spread_over(stars["y"][chosen], stars["x"][chosen], shape, _MORE * max_stars)]


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
    order: int | str = 0,
) -> tuple[MeasuredPsf, MeasuredPsf]:
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
        best = np.argsort(-np.minimum(stars_science["snr"][chosen[0]], stars_reference["snr"][chosen[1]]))
        chosen = [c[best] for c in chosen]
        which = _spread(stars_science[chosen[0]], np.arange(len(best)), science.shape, max_stars, order)
        chosen = [c[which] for c in chosen]
    else:
        catalogues = stars_science, stars_reference
        chosen = [_spread(s, g, science.shape, max_stars, order) for s, g in zip(catalogues, good, strict=True)]
    with on_host(host_backend()):
        return both(
            lambda: _build(science, stars_science, chosen[0], variance_science, size, fallback, order),
            lambda: _build(reference, stars_reference, chosen[1], variance_reference, size, fallback, order),
        )


def _as_image(image: Any, backend: str | Backend) -> Image:
    if isinstance(image, Image):
        return image
    if library_of(image) == "cupy":
        array = resolve_backend(backend, {"image": image}).asarray(image)
    else:
        array = np.ma.filled(np.ma.asarray(image).astype(float), np.nan)
    if array.ndim != 2:
        msg = f"measure_psf takes an Image or an array (ny, nx), got shape {tuple(array.shape)}"
        raise InputError(msg)
    return Image(array)


def _sent(image: Image, variance: Any, backend: Backend) -> tuple[Image, Any]:
    """Return an image and a variance as arrays of a device's library: one that was asked for by name, or their own."""
    planes = {name: getattr(image, name) for name in ("data", "variance", "mask")}
    there = {name: backend.asarray(plane) for name, plane in planes.items() if plane is not None}
    return image.with_(**there), backend.asarray(variance) if np.ndim(variance) else variance


def _prepare(
    image: Image, stars: np.ndarray | None, variance: Any, device: Backend | None
) -> tuple[Image, np.ndarray, Any]:
    """Return a background-subtracted Image, its stars and its variance: one, a plane, or None for the image's own."""
    if stars is not None:
        return image, stars, variance
    if device is not None:
        image, rms = subtract_sky(image, device)
        variance = variance_of(image, rms, device) if variance is None else variance
        return image, find_stars(image, background_rms=rms, backend=device), variance
    from astrid_gpu.calibrate import noise_variance, saturation_mask, subtract_background

    saturated, _ = saturation_mask(image)
    image, background, _ = subtract_background(image)
    if variance is None:
        variance, _, _ = noise_variance(image, background)
    return image, find_stars(image, background_rms=background.rms, saturated=saturated), variance


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
    # So few set their own standard of what a star is: a galaxy alone in its field would be one.
    round_ = (stars["ellipticity"] < _ROUNDEST) & (stars["fwhm"] < _WIDEST)
    for tier in tiers:
        if (tier & round_).any():
            return order[np.flatnonzero(tier & round_)[:max_stars]]
    rest = ((stars["flags"] & hopeless) == 0) & (stars["snr"] >= 15.0) & round_
    return order[np.flatnonzero(rest)[:_NEEDED]]


def _build(
    image: Image,
    stars: np.ndarray,
    chosen: np.ndarray,
    variance: Any,
    size: int | None,
    fallback: str,
    order: int | str = 0,
    device: Backend | None = None,
) -> MeasuredPsf:
    """Build the PSF from the chosen stars, or say why not."""
    if len(chosen) == 0 or (len(chosen) < _NEEDED and fallback == "error"):
        n_all, n_clean = len(stars), int((stars["flags"] == 0).sum()) if len(stars) else 0
        msg = (
            f"{image.name}: no PSF can be measured: {n_all} sources found, {n_clean} of them clean stars, "
            f"{len(chosen)} usable; {_NEEDED} are needed for an empirical PSF and 1 for a Moffat fit, of less than "
            f"{_WIDEST:g} px FWHM and {_ROUNDEST:g} ellipticity. "
            "Give a PSF stamp instead (psf_science=, psf_reference= or Image.psf), or fallback='moffat'"
        )
        raise PsfError(msg)
    fwhm = float(np.clip(np.nanmedian(stars["fwhm"][chosen]), 1.0, min(image.shape) / 3))
    half = _half(size, fwhm, image.shape)
    empirical = len(chosen) >= _NEEDED
    stack = build_psf(image, variance, stars, chosen, half, fwhm, empirical=empirical, device=device)
    n = int(stack.used.sum())
    psf = PSF(
        data=stack.psf,
        fwhm=fwhm_of(stack.psf),
        ellipticity=stack.moffat.ellipticity,
        n_stars=n,
        residual=stack.chi2,
        origin="stars" if empirical else "moffat fit",
        flux_error=stack.flux_error,
    )
    if not empirical and order in (0, "auto"):
        note = f"fewer than {_NEEDED} good stars: a Moffat profile fitted to {n}"
        return MeasuredPsf(psf, None, note)
    model, note = _over_field(image, stack, stars[chosen], fwhm, order)
    return MeasuredPsf(psf, model, note, width_scatter(stars[chosen], image.shape))


def _over_field(
    image: Image, stack: PsfStack, stars: np.ndarray, fwhm: float, order: int | str
) -> tuple[PSFModel | None, str]:
    """Return the PSF as it varies over the field, None where a constant one is enough, and how that was found."""
    if order == 0:
        return None, ""
    used = stars[usable_stars(stack)]
    highest = highest_order(used["y"], used["x"], image.shape)
    if order != "auto" and int(order) > highest:
        msg = (
            f"{image.name}: {len(used)} stars as they lie support a PSF of order {highest} at most, not {order}: three "
            "stars a term are needed and all over the frame. Lower the order, or use order='auto'"
        )
        raise PsfError(msg)
    if highest == 0:
        return None, f"constant: {len(used)} stars as they lie do not support more"
    found = fit_field(stack, image.shape, fwhm, order, highest)
    figures = ", ".join(f"{k}: {v:.3f}" for k, v in found.held_out.items())
    note = f"order {found.order}" + (f", chi-squared of held-out stars by order {figures}" if figures else "")
    if found.order == 0:
        return None, f"constant: {note}"
    n = int(found.used.sum())
    return PSFModel(found.terms, image.shape, n_stars=n, residual=found.chi2, origin="stars"), note


def _half(size: int | None, fwhm: float, shape: tuple[int, int]) -> int:
    """Return the half side of the stamp."""
    if size is not None:
        if size < 5:
            msg = f"size must be at least 5 pixels, got {size}"
            raise InputError(msg)
        return int(size) // 2
    return max(5, min(int(np.ceil(4.0 * fwhm)), (min(shape) - 1) // 2))
