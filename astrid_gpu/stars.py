"""Find the stars of one image, tell them from what only looks like one, and match the lists of two images."""

from __future__ import annotations

from enum import IntFlag
from typing import Any, NamedTuple

import numpy as np

from astrid_gpu._device_frame import DeviceFrame, device_of
from astrid_gpu._host_ops import host_backend, host_op
from astrid_gpu._star_noise import filtered_noise, sky_correlation
from astrid_gpu._star_shapes import Locus, point_locus
from astrid_gpu.backends import Backend
from astrid_gpu.errors import InputError, ShapeMismatchError
from astrid_gpu.image import Image
from astrid_gpu.ops.stamps import gather_stamps
from astrid_gpu.ops.star_moments import Shapes, moment_limits, shapes_of, star_moments
from astrid_gpu.ops.star_peaks import filter_widths, peak_reach, star_peaks

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


_SAME_PEAKS = 0.35  # of ln(FWHM): filters as like as this find the same bright sources
_FIRST_FWHM = 3.5  # filter for the first look when nothing is known; stars of 1.5 to 10 px still pass it


def find_stars(
    image: Image,
    *,
    background_rms: Any,
    psf_fwhm: float | None = None,
    threshold: float = 5.0,
    max_stars: int | None = 5000,
    saturated: np.ndarray | None = None,
    backend: str | Backend = "auto",
) -> np.ndarray:
    """Find sources by a matched filter, centre them, and sort point sources from the rest.

    Parameters
    ----------
    image : Image
        Background-subtracted. Masked pixels count for nothing. Its planes may lie on a device.
    background_rms : float or array (ny, nx)
        Standard deviation of the background in the unit of the image.
    psf_fwhm : float, optional
        Pixels. Default: that of `image.psf`; else it is estimated from the sources.
    threshold : float
        In sigmas of the matched filter.
    max_stars : int, optional
        Keep at most so many, the most significant. None: all.
    saturated : bool array (ny, nx), optional
        Saturated pixels. Default: `calibrate.saturation_mask(image)`; on a device those at the saturation level.
    backend : str or Backend
        Of an image on a device, see `get_backend`.

    Returns
    -------
    structured array of `STAR_DTYPE`, most significant first
        All sources, with `flags` of `StarFlag` saying which are no clean stars: near the edge or bad pixels,
        saturated, SHARP (narrower than a star: cosmic ray, hot pixel), EXTENDED (wider or more elongated: galaxy,
        blend), NO_SHAPE (too faint or too blended to measure). `isolated`: neighbours bring less than 2 % of the
        source's own light to its centre and none of 5 % of its flux lies within 1.5 FWHM. Empty if there is nothing.
        A table on the host also for an image on a device, of which only windows of the sources are brought there.

    Raises
    ------
    TypeError
        Image, noise and saturated pixels are of different libraries.

    Notes
    -----
    Where the noise is correlated (resampled, drizzled, coadded images) the filter sees more of it than of white noise;
    the correlation is measured on windows of blank sky, and threshold and S/N count by the noise that is seen.

    Centres are adaptive Gaussian-weighted ones: their error is about FWHM / (2 S/N), 0.02 px at S/N 100 and
    FWHM 4 px. Cost: a few Gaussian filters of the image plus O(window²) a source.
    """
    frame = _prepare(image, background_rms, saturated, backend)
    hint = psf_fwhm if psf_fwhm is not None else (image.psf.fwhm if image.psf is not None else None)
    if hint is not None and not (np.isfinite(hint) and hint > 0):
        hint = None
    fwhm, locus = _learn_width(frame, hint)
    found = frame.detect(fwhm, threshold)
    if found[0].size == 0:
        return np.zeros(0, STAR_DTYPE)
    return _catalogue(frame, found, fwhm, locus, max_stars)


class _Frame(NamedTuple):
    """Pixels, bad ones among them, the rms of the background (one or a map), and what is saturated (NaN is not).

    `DeviceFrame` is the same on a device.
    """

    data: np.ndarray
    bad: np.ndarray
    rms: np.ndarray
    saturated: np.ndarray
    correlation: np.ndarray  # of the sky's noise, see `sky_correlation`

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx)."""
        return self.data.shape  # type: ignore[return-value]

    def detect(self, fwhm: float, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return y, x, significance and flux of the sources above `threshold`."""
        rms, how = self.rms * filtered_noise(self.correlation, fwhm), (filter_widths(fwhm), peak_reach(fwhm), threshold)
        return host_op("star_peaks", star_peaks)(self.data, self.bad, rms, *how)  # type: ignore[no-any-return]

    def moments(self, y: np.ndarray, x: np.ndarray, fwhm: float) -> Shapes:
        """Return centres and shapes of the sources at pixels (y, x)."""
        moments = host_op("star_moments", star_moments)(self.data, self.bad, y, x, moment_limits(fwhm))
        return shapes_of(y, x, moments)

    def peaks(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the pixels at (y, x), 0 where they are bad."""
        return np.where(self.bad[y, x], 0.0, self.data[y, x])

    def near_bad(self, y: np.ndarray, x: np.ndarray, reach: float) -> np.ndarray:
        """Return which places have a bad pixel within `reach`."""
        return _near(self.bad, y, x, reach)

    def near_saturated(self, y: np.ndarray, x: np.ndarray, reach: float) -> np.ndarray:
        """Return which places have a saturated pixel within `reach`."""
        return _near(self.saturated, y, x, reach)


def _prepare(image: Image, background_rms: Any, saturated: Any, backend: str | Backend) -> _Frame | DeviceFrame:
    """Return the frame with its noise checked."""
    if np.ndim(background_rms) not in (0, 2) or (
        np.ndim(background_rms) == 2 and tuple(background_rms.shape) != image.shape
    ):
        given = np.shape(background_rms)
        msg = f"background_rms must be a number or an array of shape {image.shape}, got shape {given}"
        raise ShapeMismatchError(msg)
    device = device_of(image, backend, background_rms=background_rms, saturated=saturated)
    if device is not None:
        return DeviceFrame(image, background_rms, saturated, device)
    rms = np.asarray(background_rms, dtype=float)
    bad = image.bad
    if not np.isfinite(rms).all():
        bad |= ~np.isfinite(rms)
    usable = rms[~bad] if rms.ndim else rms[np.isfinite(rms)]
    if usable.size and not np.all(usable > 0):
        msg = f"background_rms must be positive, got {float(usable.min()):g}; is the image constant?"
        raise InputError(msg)
    if saturated is None:
        from astrid_gpu._saturation import saturation_mask

        saturated = saturation_mask(image)[0]
    correlation = sky_correlation(host_backend(), image.data, bad, rms)
    return _Frame(image.data, bad, rms, saturated & ~np.isnan(image.data), correlation)


def _learn_width(frame: _Frame | DeviceFrame, hint: float | None) -> tuple[float, Locus]:
    """Return the FWHM to filter with and the point-source locus, from the bright sources; three rounds at most."""
    fwhm, locus = hint or _FIRST_FWHM, Locus(float("nan"), float("nan"), float("nan"), 0)
    shape, filtered = frame.shape, 0.0
    for _ in range(3):
        if not abs(np.log(max(filtered, 1e-9) / fwhm)) < _SAME_PEAKS:
            y, x, snr, _ = frame.detect(fwhm, 10.0)
            keep = np.argsort(-snr)[:400]
            y, x, snr, filtered = y[keep], x[keep], snr[keep], fwhm
        if y.size == 0:
            break
        shapes = frame.moments(y, x, fwhm)
        spoilt = frame.near_bad(y, x, fwhm) | frame.near_saturated(y, x, fwhm)
        clean = shapes.converged & ~spoilt & ~_at_edge(shape, y, x, fwhm)
        votes = clean & (snr > min(25.0, np.median(snr))) & (shapes.fwhm < 2.7 * fwhm)  # 3 is as wide as is measured
        locus = point_locus(shapes.fwhm[votes], shapes.ellipticity[votes], snr[votes], hint)
        if not np.isfinite(locus.fwhm):
            break
        done, fwhm = abs(locus.fwhm / fwhm - 1) < 0.1, float(np.clip(locus.fwhm, 1.2, min(shape) / 4))
        if done:
            break
    return fwhm, locus if np.isfinite(locus.fwhm) else Locus(fwhm, 0.1 * fwhm, 0.0, 0)


def _near(mask: np.ndarray, y: np.ndarray, x: np.ndarray, fwhm: float) -> np.ndarray:
    """Return which positions have a pixel of `mask` within one FWHM."""
    if not mask.any():
        return np.zeros(len(y), dtype=bool)
    side = 2 * max(1, round(fwhm)) + 1
    return gather_stamps(mask[None], np.zeros(len(y), np.int64), y, x, side, 0.0).any(axis=(1, 2))


def _at_edge(shape: tuple[int, int], y: np.ndarray, x: np.ndarray, fwhm: float) -> np.ndarray:
    """Return which positions lie within one FWHM of the frame's edge."""
    reach = max(2.0, fwhm)
    return (y < reach) | (x < reach) | (y > shape[0] - 1 - reach) | (x > shape[1] - 1 - reach)


def _catalogue(
    frame: _Frame | DeviceFrame, found: tuple[np.ndarray, ...], fwhm: float, locus: Locus, max_stars: int | None
) -> np.ndarray:
    """Measure, flag and sort the peaks found."""
    y, x, snr, flux = found
    order = np.argsort(-snr)
    y, x, snr, flux = y[order], x[order], snr[order], flux[order]
    shapes = frame.moments(y, x, fwhm)
    keep = _first_of_each(shapes, 0.4 * fwhm)
    shapes = Shapes(*(column[keep] for column in shapes))
    y, x, snr, flux = y[keep], x[keep], snr[keep], flux[keep]
    stars = np.zeros(len(y), STAR_DTYPE)
    stars["x"], stars["y"], stars["snr"], stars["flux"] = shapes.x, shapes.y, snr, flux
    stars["peak"] = frame.peaks(y, x)
    stars["fwhm"] = np.where(shapes.converged, shapes.fwhm, np.nan)
    stars["ellipticity"] = np.where(shapes.converged, shapes.ellipticity, np.nan)
    stars["saturated"] = frame.near_saturated(y, x, max(1.0, 0.7 * fwhm))
    stars["flags"] = _flags(frame, stars, shapes, (y, x), fwhm, locus)
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
    frame: _Frame | DeviceFrame,
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
        (_at_edge(frame.shape, y, x, fwhm), StarFlag.EDGE),
        (frame.near_bad(y, x, fwhm), StarFlag.BAD_PIXEL),
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
