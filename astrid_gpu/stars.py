"""Find the stars of one image, tell them from what only looks like one, and match the lists of two images."""

from __future__ import annotations

from enum import IntFlag
from typing import Any

import numpy as np

from astrid_gpu._star_shapes import FWHM_PER_SIGMA, Locus, Shapes, adaptive_moments, point_locus
from astrid_gpu.errors import InputError, ShapeMismatchError
from astrid_gpu.image import Image

__all__ = ["STAR_DTYPE", "StarFlag", "find_stars", "match_stars"]

STAR_DTYPE = np.dtype(
    [
        ("x", "f8"),
        ("y", "f8"),
        ("flux", "f8"),
        ("peak", "f8"),
        ("fwhm", "f8"),
        ("ellipticity", "f8"),
        ("snr", "f8"),
        ("isolated", "?"),
        ("saturated", "?"),
        ("flags", "u4"),
    ]
)
"""Columns of a star list. x, y: 0-based pixels; flux, peak: unit of the image; fwhm: pixels, of the best Gaussian."""


class StarFlag(IntFlag):
    """Why a source is not a clean star; 0 = it is."""

    EDGE = 1
    BAD_PIXEL = 2
    SATURATED = 4
    SHARP = 8
    EXTENDED = 16
    NO_SHAPE = 32


_FIRST_FWHM = 3.5  # filter for the first look when nothing is known; stars of 1.5 to 10 px still pass it


def find_stars(
    image: Image,
    *,
    background_rms: Any,
    psf_fwhm: float | None = None,
    threshold: float = 5.0,
    max_stars: int | None = 5000,
    saturated: np.ndarray | None = None,
) -> np.ndarray:
    """Find sources by a matched filter, centre them, and sort point sources from the rest.

    Parameters
    ----------
    image : Image
        Background-subtracted. Masked pixels count for nothing.
    background_rms : float or array (ny, nx)
        Standard deviation of the background in the unit of the image.
    psf_fwhm : float, optional
        Pixels. Default: that of `image.psf`; else it is estimated from the sources.
    threshold : float
        In sigmas of the matched filter.
    max_stars : int, optional
        Keep at most so many, the most significant. None: all.
    saturated : bool array (ny, nx), optional
        Saturated pixels. Default: `calibrate.saturation_mask(image)`.

    Returns
    -------
    structured array of `STAR_DTYPE`, most significant first
        All sources, with `flags` of `StarFlag` saying which are no clean stars: near the edge or bad pixels,
        saturated, SHARP (narrower than a star: cosmic ray, hot pixel), EXTENDED (wider or more elongated: galaxy,
        blend), NO_SHAPE (too faint or too blended to measure). `isolated`: neighbours bring less than 2 % of the
        source's own light to its centre and none of 5 % of its flux lies within 1.5 FWHM. Empty if there is nothing.

    Notes
    -----
    Centres are adaptive Gaussian-weighted ones: their error is about FWHM / (2 S/N), 0.02 px at S/N 100 and
    FWHM 4 px. Cost: a few Gaussian filters of the image plus O(window²) a source.
    """
    data, bad, weight = _prepare(image, background_rms)
    if saturated is None:
        from astrid_gpu._saturation import saturation_mask

        saturated = saturation_mask(image)[0]
    hint = psf_fwhm if psf_fwhm is not None else (image.psf.fwhm if image.psf is not None else None)
    if hint is not None and not (np.isfinite(hint) and hint > 0):
        hint = None
    saturated = saturated & ~np.isnan(image.data)  # NaN is bad, not bright
    fwhm, locus = _learn_width(data, bad, weight, saturated, hint)
    found = _detect(data, weight, fwhm, threshold)
    if found[0].size == 0:
        return np.zeros(0, STAR_DTYPE)
    return _catalogue(data, bad, saturated, found, fwhm, locus, max_stars)


def _prepare(image: Image, background_rms: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return float64 pixels (0 where bad), the bad ones, and weights 1/rms²."""
    rms = np.asarray(background_rms, dtype=float)
    if rms.ndim not in (0, 2) or (rms.ndim == 2 and rms.shape != image.shape):
        msg = f"background_rms must be a number or an array of shape {image.shape}, got shape {rms.shape}"
        raise ShapeMismatchError(msg)
    bad = image.bad | ~np.isfinite(rms)
    usable = rms[np.isfinite(rms) & ~bad] if rms.ndim else rms[np.isfinite(rms)]
    if usable.size and not np.all(usable > 0):
        msg = f"background_rms must be positive, got {float(usable.min()):g}; is the image constant?"
        raise InputError(msg)
    data = np.where(bad, 0.0, image.data.astype(np.float64))
    weight = np.where(bad, 0.0, 1.0 / np.where(bad, 1.0, np.broadcast_to(rms, image.shape)) ** 2)
    return data, bad, weight


def _learn_width(
    data: np.ndarray, bad: np.ndarray, weight: np.ndarray, saturated: np.ndarray, hint: float | None
) -> tuple[float, Locus]:
    """Return the FWHM to filter with and the point-source locus, from the bright sources; two rounds."""
    fwhm, locus = hint or _FIRST_FWHM, Locus(float("nan"), float("nan"), float("nan"), 0)
    for _ in range(3):
        y, x, snr, _ = _detect(data, weight, fwhm, 10.0)
        keep = np.argsort(-snr)[:400]
        y, x, snr = y[keep], x[keep], snr[keep]
        if y.size == 0:
            break
        shapes = adaptive_moments(data, ~bad, y, x, fwhm)
        clean = shapes.converged & ~_near(bad | saturated, y, x, fwhm) & ~_at_edge(data.shape, y, x, fwhm)
        votes = clean & (snr > min(25.0, np.median(snr))) & (shapes.fwhm < 2.7 * fwhm)  # 3 is as wide as is measured
        locus = point_locus(shapes.fwhm[votes], shapes.ellipticity[votes], snr[votes], hint)
        if not np.isfinite(locus.fwhm):
            break
        done, fwhm = abs(locus.fwhm / fwhm - 1) < 0.1, float(np.clip(locus.fwhm, 1.2, min(data.shape) / 4))
        if done:
            break
    return fwhm, locus if np.isfinite(locus.fwhm) else Locus(fwhm, 0.1 * fwhm, 0.0, 0)


def _detect(
    data: np.ndarray, weight: np.ndarray, fwhm: float, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return y, x, significance and flux of the sources above `threshold` in the Gaussian matched filter.

    The matched filter sees faint sources best and merges those closer than 1.5 FWHM; a filter of half the width,
    less the matched one so that smooth wings drop out, sees those apart, and its peaks go first.
    """
    snr, flux = _filtered(data, weight, fwhm)
    fine, _ = _filtered(data, weight, 0.5 * fwhm)
    # Half the width is half the S/N of a star; noise of the difference about 1, and 2 % for imperfect profiles.
    excess = fine - 0.5 * snr
    broad = _peaks(snr, fwhm) & (snr > threshold)
    close = _peaks(fine, fwhm) & (excess > max(threshold, 5.0) + 0.02 * snr) & (fine > threshold) & (snr > threshold)
    from astrid_gpu.ops.mask import dilate

    y, x = np.nonzero(close | (broad & ~dilate(close, max(1, round(0.6 * fwhm)))))
    return y, x, snr[y, x], flux[y, x]


def _filtered(data: np.ndarray, weight: np.ndarray, fwhm: float) -> tuple[np.ndarray, np.ndarray]:
    """Return significance and flux of a Gaussian of `fwhm` fitted at every pixel; 0 where most of it is masked."""
    from scipy.ndimage import gaussian_filter

    sigma = max(fwhm / FWHM_PER_SIGMA, 0.4)
    # sum g² w: the square of a Gaussian is one of sigma / sqrt(2), of sum 1 / (4 pi sigma²).
    norm = gaussian_filter(weight, sigma / np.sqrt(2), mode="constant") / (4 * np.pi * sigma**2)
    signal = gaussian_filter(data * weight, sigma, mode="constant")
    enough = norm > 0.05 * norm.max() if norm.size else norm > 0
    safe = np.where(enough, norm, 1.0)
    return np.where(enough, signal / np.sqrt(safe), 0.0), np.where(enough, signal / safe, 0.0)


def _peaks(snr: np.ndarray, fwhm: float) -> np.ndarray:
    """Return local maxima over a square of about one FWHM."""
    from scipy.ndimage import maximum_filter

    return snr == maximum_filter(snr, size=2 * max(1, round(0.5 * fwhm)) + 1, mode="constant")


def _near(mask: np.ndarray, y: np.ndarray, x: np.ndarray, fwhm: float) -> np.ndarray:
    """Return which positions have a pixel of `mask` within one FWHM."""
    if not mask.any():
        return np.zeros(len(y), dtype=bool)
    from astrid_gpu.ops.mask import dilate

    return dilate(mask, max(1, round(fwhm)))[y, x]


def _at_edge(shape: tuple[int, int], y: np.ndarray, x: np.ndarray, fwhm: float) -> np.ndarray:
    """Return which positions lie within one FWHM of the frame's edge."""
    reach = max(2.0, fwhm)
    return (y < reach) | (x < reach) | (y > shape[0] - 1 - reach) | (x > shape[1] - 1 - reach)


def _catalogue(
    data: np.ndarray,
    bad: np.ndarray,
    saturated: np.ndarray,
    found: tuple[np.ndarray, ...],
    fwhm: float,
    locus: Locus,
    max_stars: int | None,
) -> np.ndarray:
    """Measure, flag and sort the peaks found."""
    y, x, snr, flux = found
    order = np.argsort(-snr)
    y, x, snr, flux = y[order], x[order], snr[order], flux[order]
    shapes = adaptive_moments(data, ~bad, y, x, fwhm)
    keep = _first_of_each(shapes, 0.4 * fwhm)
    shapes = Shapes(*(column[keep] for column in shapes))
    y, x, snr, flux = y[keep], x[keep], snr[keep], flux[keep]
    stars = np.zeros(len(y), STAR_DTYPE)
    stars["x"], stars["y"], stars["snr"], stars["flux"] = shapes.x, shapes.y, snr, flux
    stars["peak"] = data[y, x]
    stars["fwhm"] = np.where(shapes.converged, shapes.fwhm, np.nan)
    stars["ellipticity"] = np.where(shapes.converged, shapes.ellipticity, np.nan)
    stars["saturated"] = _near(saturated, y, x, max(1.0, 0.7 * fwhm))
    stars["flags"] = _flags(data.shape, bad, stars, shapes, (y, x), fwhm, locus)
    stars["isolated"] = _isolated(stars, fwhm)
    return stars[:max_stars] if max_stars is not None else stars


def _first_of_each(shapes: Shapes, radius: float) -> np.ndarray:
    """Return indices without the fainter of any two that converged on the same centre."""
    from scipy.spatial import cKDTree

    pairs = cKDTree(np.stack([shapes.y, shapes.x], axis=1)).query_pairs(radius, output_type="ndarray")
    drop = np.zeros(len(shapes.y), dtype=bool)
    drop[pairs.max(axis=1)] = True  # sorted by significance: the larger index is the fainter
    return np.flatnonzero(~drop)


def _flags(
    shape: tuple[int, int],
    bad: np.ndarray,
    stars: np.ndarray,
    shapes: Shapes,
    pixel: tuple[np.ndarray, np.ndarray],
    fwhm: float,
    locus: Locus,
) -> np.ndarray:
    """Return the `StarFlag` bits of each source."""
    y, x = pixel
    measured = shapes.converged & (stars["snr"] > 8)
    # Errors of the shape: about 1 / (S/N) of its size, and the spread that the field itself shows.
    error = np.hypot(3.0 * locus.width, 2.5 * locus.fwhm / stars["snr"])
    # Below 2 px a star's apparent shape depends on where in the pixel it falls.
    phase = 0.5 * np.exp(-((locus.fwhm / 1.5) ** 2))
    error = error + phase * locus.fwhm
    sharp = measured & (shapes.fwhm < 0.8 * locus.fwhm - error)
    round_limit = locus.ellipticity + 0.12 + 3.0 / stars["snr"] + 1.5 * phase
    wide = measured & ((shapes.fwhm > 1.12 * locus.fwhm + error) | (shapes.ellipticity > round_limit))
    flags = np.zeros(len(stars), np.uint32)
    for condition, bit in (
        (_at_edge(shape, y, x, fwhm), StarFlag.EDGE),
        (_near(bad, y, x, fwhm), StarFlag.BAD_PIXEL),
        (stars["saturated"], StarFlag.SATURATED),
        (sharp, StarFlag.SHARP),
        (wide & ~sharp, StarFlag.EXTENDED),
        (~measured, StarFlag.NO_SHAPE),
    ):
        flags |= np.where(condition, np.uint32(int(bit)), np.uint32(0))
    return flags


def _isolated(stars: np.ndarray, fwhm: float) -> np.ndarray:
    """Return which sources no neighbour contaminates, neighbours taken as Moffat profiles of beta = 3."""
    from scipy.spatial import cKDTree

    reach = 6.0 * fwhm
    pairs = cKDTree(np.stack([stars["y"], stars["x"]], axis=1)).query_pairs(reach, output_type="ndarray")
    if not len(pairs):
        return np.ones(len(stars), dtype=bool)
    i, j = np.concatenate([pairs, pairs[:, ::-1]]).T
    distance = np.hypot(stars["y"][i] - stars["y"][j], stars["x"][i] - stars["x"][j])
    ratio = np.maximum(stars["flux"][j], 0) / np.maximum(stars["flux"][i], 1e-30)
    light = ratio * (1.0 + (distance * 1.0196 / fwhm) ** 2) ** -3
    brought = np.bincount(i, weights=light, minlength=len(stars))
    close = np.bincount(i, weights=(ratio > 0.05) & (distance < 1.5 * fwhm), minlength=len(stars))
    return (brought < 0.02) & (close == 0)


def match_stars(a: np.ndarray, b: np.ndarray, *, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Return indices into two star lists of the same sources: mutual nearest neighbours within `radius` pixels.

    Parameters
    ----------
    a, b : structured arrays with x and y
    radius : float
        Pixels; positive.

    Returns
    -------
    (ia, ib) : int arrays, shape (k,)
        a[ia[i]] is b[ib[i]]; both empty if nothing matches.
    """
    if not radius > 0:
        msg = f"radius must be a positive number of pixels, got {radius:g}"
        raise InputError(msg)
    empty = np.zeros(0, dtype=np.intp)
    if len(a) == 0 or len(b) == 0:
        return empty, empty
    from scipy.spatial import cKDTree

    places_a, places_b = (np.stack([s["y"], s["x"]], axis=1) for s in (a, b))
    distance, to_b = cKDTree(places_b).query(places_a)
    _, to_a = cKDTree(places_a).query(places_b)
    ia = np.flatnonzero((distance <= radius) & (to_a[to_b] == np.arange(len(a))))
    return ia, to_b[ia]
