"""Measure candidates: position, flux, shape and flags from windows round their peaks, whatever found them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from astrid_gpu._among_residuals import among_residuals
from astrid_gpu._local_psfs import LocalPsfs
from astrid_gpu.backends import Backend
from astrid_gpu.engine.peaks import gather, measure
from astrid_gpu.flags import INVALID, CandidateFlag
from astrid_gpu.ops.moments import PsfWindow, Refined, Shapes, calibrate_peaks, refine_peaks, shapes
from astrid_gpu.ops.noise import row_medians
from astrid_gpu.ops.point_source import point_source_chi2

__all__ = ["DIPOLE_FLOOR", "Maps", "climb", "measure_candidates"]

DIPOLE_FLOOR = 3.5
"""Least significance of the other lobe of a dipole: weaker extrema are found next to any candidate by chance."""
_SHARP = -0.5  # excess half way between a point source (0) and a single pixel (-1)
_WIDE = 0.25  # excess of a source 1.3 times as wide as the PSF
_ELONGATED = 0.15  # ellipticity under the window of an axis ratio of about 1.5
_RESIDUAL = 0.03  # of a static source: what registration and PSF errors leave of bright stars on real pairs (1 to 4 %)
_COVERED = 0.4  # least part of the window's weight on usable pixels

_EIGHT = [(0, 0), *((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx)]  # staying is the first choice


class Maps(NamedTuple):
    """The stacks (n, ny, nx) of a difference on its backend, and the PSFs where candidates may lie.

    `flux`, `flux_error` and `science` may be None; `mask` is the low byte of the pixel flags, `details` the next one,
    None if no pixel has a bit there. `reach` (n,) is the radius in pixels about a candidate in which mask bits count.
    `response` is the difference's `flux_response`.
    """

    backend: Backend
    difference: Any
    score: Any
    flux: Any
    flux_error: Any
    mask: Any
    details: Any
    science: Any
    psfs: LocalPsfs
    reach: np.ndarray
    response: Any = None


def measure_candidates(maps: Maps, peaks: np.ndarray, others: np.ndarray) -> dict[str, np.ndarray]:
    """Measure candidates at peak pixels.

    Parameters
    ----------
    maps : Maps
    peaks : structured array of `PEAK_DTYPE`, m rows
    others : structured array of `PEAK_DTYPE`
        All peaks of S_corr beyond `DIPOLE_FLOOR` or lower, among which the other lobes of dipoles are looked for.

    Returns
    -------
    dict of str to array (m,)
        x, y, polarity, score, flux, flux_error, snr, fwhm, elongation, sharpness, chi2, flags, n_bad, edge_distance.
    """
    sign = np.where(peaks["value"] >= 0, 1, -1)
    place = _refine(maps, peaks, sign)
    y, x = peaks["y"] + place.dy, peaks["x"] + place.dx
    ny, nx = maps.score.shape[1:]
    flux, error = _photometry(maps, peaks, sign, place)
    with np.errstate(divide="ignore", invalid="ignore"):
        snr = np.abs(flux) / error
    trusted = np.where(np.isfinite(snr), snr, np.abs(peaks["value"]))
    fwhm, elongation, sharpness, shape_flags = _shape(maps, peaks["image"], y, x, sign, trusted)
    mask_flags, n_bad = _mask_bits(maps, peaks)
    flags = mask_flags | shape_flags | _dipoles(peaks, others, maps.reach)
    flags[_near_bright_star(maps, peaks, flux)] |= np.uint32(CandidateFlag.BRIGHT_STAR)
    flags[~place.ok] |= np.uint32(CandidateFlag.NO_CENTROID)
    return {
        "x": x, "y": y, "polarity": sign, "score": peaks["value"], "flux": flux, "flux_error": error, "snr": snr,
        "fwhm": fwhm, "elongation": elongation, "sharpness": sharpness,
        "chi2": _fit_quality(maps, peaks, place, error), "flags": flags, "n_bad": n_bad,
        "edge_distance": np.minimum(np.minimum(x, nx - 1 - x), np.minimum(y, ny - 1 - y)),
    }  # fmt: skip


def climb(maps: Maps, peaks: np.ndarray) -> np.ndarray:
    """Move peaks of S_corr uphill to the summits of the flux map, by one FWHM at most, and drop those that meet.

    The two agree where the variance is level. Beside a masked column it rises by orders of magnitude within a pixel
    or two and pushes the peak of S_corr off the source; S itself, the likelihood of a source at each pixel, stays.

    Parameters
    ----------
    maps : Maps
    peaks : structured array of `PEAK_DTYPE`

    Returns
    -------
    structured array
        The same rows, places moved and values kept; of rows that come together on one summit the strongest stays.
    """
    if maps.flux is None or len(peaks) == 0:
        return peaks
    radius = max(1, int(np.ceil(np.max(maps.reach))))
    hill = _stamps(maps, maps.flux, peaks, 2 * radius + 3) * np.where(peaks["value"] >= 0, 1, -1)[:, None, None]
    hill = np.where(np.isfinite(hill), hill, -np.inf)
    row = np.arange(len(peaks))
    y = x = np.full(len(peaks), radius + 1)
    for _ in range(radius):
        near = np.stack([hill[row, y + dy, x + dx] for dy, dx in _EIGHT], axis=1)
        best = np.argmax(near, axis=1)
        y, x = y + np.array(_EIGHT)[best, 0], x + np.array(_EIGHT)[best, 1]
    moved = peaks.copy()
    moved["y"] += y - radius - 1
    moved["x"] += x - radius - 1
    order = np.argsort(-np.abs(moved["value"]), kind="stable")
    keys = np.stack([moved["image"], moved["y"], moved["x"], moved["value"] >= 0], axis=1)[order]
    _, first = np.unique(keys, axis=0, return_index=True)
    kept = moved[np.sort(order[first])]
    return kept[np.lexsort((kept["x"], kept["y"], kept["image"]))]


def _stamps(maps: Maps, stack: Any, peaks: np.ndarray, size: int) -> np.ndarray:
    fill = 0.0 if stack.dtype.itemsize == 1 else np.nan
    return gather(maps.backend, stack, peaks["image"], peaks["y"], peaks["x"], size, fill)


def _refine(maps: Maps, peaks: np.ndarray, sign: np.ndarray) -> Refined:
    """Fit the summit in the flux map, which is S and so the likelihood; where that fails, in S_corr."""
    signed = sign[:, None, None]
    place = refine_peaks(signed * _stamps(maps, maps.score, peaks, 3))
    in_flux = None if maps.flux is None else refine_peaks(signed * _stamps(maps, maps.flux, peaks, 3))
    if in_flux is not None:
        place = Refined(
            np.where(in_flux.ok, in_flux.dy, place.dy), np.where(in_flux.ok, in_flux.dx, place.dx),
            in_flux.value, in_flux.ok | place.ok,
        )  # fmt: skip
    for rows, psf, _ in maps.psfs.groups(peaks["image"], peaks["y"], peaks["x"]):
        if psf is None:
            continue
        exact = calibrate_peaks(Refined(*(column[rows] for column in place)), psf)
        for column, values in zip(place, exact, strict=True):
            column[rows] = values
    return place


def _photometry(maps: Maps, peaks: np.ndarray, sign: np.ndarray, place: Refined) -> tuple[np.ndarray, np.ndarray]:
    """Return the PSF flux at the summit and its error at the peak pixel; NaN where a map is missing.

    What is negative is a source of the reference, with the reference's PSF.
    """
    none = np.full(len(peaks), np.nan)
    flux = none if maps.flux is None else sign * place.value
    error = none if maps.flux_error is None else _stamps(maps, maps.flux_error, peaks, 1)[:, 0, 0].astype(np.float64)
    if maps.response is not None:
        factor = np.where(sign < 0, maps.response.vanished(peaks["y"], peaks["x"]), 1.0)
        flux, error = flux * factor, error * factor
    return flux, error


def _shape(
    maps: Maps, image: np.ndarray, y: np.ndarray, x: np.ndarray, sign: np.ndarray, snr: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return FWHM, axis ratio, sharpness, and the flags SHARP, EXTENDED (against the noise) and BRIGHT_STAR."""
    fwhm, elongation, sharpness = np.full((3, len(y)), np.nan)
    flags = np.zeros(len(y), np.uint32)
    for rows, _, window in maps.psfs.groups(image, y, x):
        if window is None:
            continue
        sigma = np.full(len(rows), window.sigma)
        sums = measure(maps.backend, maps.difference, image[rows], y[rows], x[rows], sigma, window.radius)
        flags[rows[_on_bright_star(maps, window, image[rows], y[rows], x[rows], sums)]] = CandidateFlag.BRIGHT_STAR
        sums[:, 1:] *= sign[rows, None]
        sums[sums[:, 0] < _COVERED * 2 * np.pi * window.sigma**2] = np.nan
        form = shapes(sums, window)
        fwhm[rows], elongation[rows] = window.fwhm * form.width, form.elongation
        sharpness[rows] = -form.excess
        sharp, extended = _judge(form, window, snr[rows])
        flags[rows[extended]] |= np.uint32(CandidateFlag.EXTENDED)
        flags[rows[sharp]] |= np.uint32(CandidateFlag.SHARP)
    return fwhm, elongation, sharpness, flags


def _fit_quality(maps: Maps, peaks: np.ndarray, place: Refined, error: np.ndarray) -> np.ndarray:
    """Return the reduced chi² of the fit of the PSF at each candidate's place; NaN without a PSF or an error."""
    chi2 = np.full(len(peaks), np.nan)
    for rows, psf, window in maps.psfs.groups(peaks["image"], peaks["y"], peaks["x"]):
        if psf is None or window is None or maps.flux_error is None:
            continue
        radius = max(2, round(1.5 * window.fwhm))
        stamps = _stamps(maps, maps.difference, peaks[rows], 2 * radius + 1)
        # Where D is white, a pixel's noise is that of the flux times sqrt(sum P²).
        noise = error[rows] * np.sqrt(np.sum(psf**2))
        chi2[rows] = point_source_chi2(stamps, place.dy[rows], place.dx[rows], noise, psf)
    return chi2


def _judge(form: Shapes, window: PsfWindow, snr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which candidates are sharp and which extended.

    Both must be so by a margin that matters and by one that chance gives a point source once in 700 times: 3
    standard deviations of the excess, 3.7 of the length of the ellipticity (two components), 5 of excess less
    ellipticity (the narrow axis of a track of two or three pixels).
    """
    one, length = window.noise_excess / snr, window.noise_shape / snr
    ellipticity = np.hypot(form.e1, form.e2)
    narrow = form.excess - ellipticity * (1 + form.excess)
    sharp = (form.excess < _SHARP) & (form.excess < -3.0 * one)
    sharp |= (narrow < _SHARP) & (narrow < -5.0 * np.maximum(one, length)) & (form.excess < 0)
    extended = (form.excess > _WIDE) & (form.excess > 3.0 * one)
    extended |= (ellipticity > _ELONGATED) & (ellipticity > 3.7 * length) & (form.excess > -_WIDE)
    return sharp, extended & ~sharp


def _on_bright_star(
    maps: Maps, window: PsfWindow, image: np.ndarray, y: np.ndarray, x: np.ndarray, sums: np.ndarray
) -> np.ndarray:
    """Return which candidates are no more than a residual of what the science image has there besides them.

    Static light = science less difference less the median of the surroundings, summed under the candidate's window.
    """
    if maps.science is None:
        return np.zeros(len(y), bool)
    sigma = np.full(len(y), window.sigma)
    seen = measure(maps.backend, maps.science, image, y, x, sigma, window.radius)
    row, column = (np.floor(a + 0.5).astype(np.int64) for a in (y, x))
    stamps = gather(maps.backend, maps.science, image, row, column, 6 * window.radius + 1, np.nan)
    round_about = stamps.reshape(len(y), -1)
    finite = np.where(np.isfinite(round_about), round_about, np.nan)
    finite[~np.isfinite(finite).any(axis=1)] = 0.0
    static = seen[:, 1] - sums[:, 1] - row_medians(finite)[0] * seen[:, 0]
    return np.abs(sums[:, 1]) < _RESIDUAL * static


def _near_bright_star(maps: Maps, peaks: np.ndarray, flux: np.ndarray) -> np.ndarray:
    """Return which candidates are among the residuals of a bright star; none without a PSF, a flux or the image."""
    if maps.science is None or maps.flux is None:
        return np.zeros(len(peaks), bool)
    top = np.full(len(peaks), np.nan)
    for rows, psf, _ in maps.psfs.groups(peaks["image"], peaks["y"], peaks["x"]):
        if psf is not None:
            top[rows] = np.max(psf)
    height = np.nan_to_num(np.abs(flux) * top, nan=np.inf)
    return among_residuals(maps.backend, maps.score, maps.science, peaks, height, maps.reach)


def _mask_bits(maps: Maps, peaks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the union of the mask bits within reach of each peak, uint32, and the number of invalid pixels there."""
    radius = int(np.ceil(maps.reach.max(initial=1)))
    stamps = _stamps(maps, maps.mask, peaks, 2 * radius + 1)
    v, u = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    near = (v**2 + u**2)[None] <= maps.reach[peaks["image"], None, None] ** 2
    bits = np.where(near, stamps, 0).astype(np.uint8)
    union = np.bitwise_or.reduce(bits, axis=(1, 2)).astype(np.uint32)
    if maps.details is not None:
        more = np.where(near, _stamps(maps, maps.details, peaks, 2 * radius + 1), 0).astype(np.uint32)
        union |= np.bitwise_or.reduce(more, axis=(1, 2)) << np.uint32(8)
    return union, ((bits & INVALID) != 0).sum(axis=(1, 2))


def _dipoles(peaks: np.ndarray, others: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Flag candidates with a peak of the other sign, at least a third as strong, within two FWHM."""
    from scipy.spatial import cKDTree

    flags = np.zeros(len(peaks), np.uint32)
    others = others[np.abs(others["value"]) >= DIPOLE_FLOOR]
    for image in np.unique(peaks["image"]):
        for sign in (1, -1):
            rows = np.flatnonzero((peaks["image"] == image) & (sign * peaks["value"] > 0))
            lobes = others[(others["image"] == image) & (sign * others["value"] < 0)]
            if len(rows) == 0 or len(lobes) == 0:
                continue
            here = cKDTree(np.stack([peaks["y"][rows], peaks["x"][rows]], axis=1))
            there = cKDTree(np.stack([lobes["y"], lobes["x"]], axis=1))
            strength = np.abs(lobes["value"])
            for row, near in zip(rows, here.query_ball_tree(there, 2 * reach[image]), strict=True):
                if near and strength[near].max() >= abs(peaks["value"][row]) / 3:
                    flags[row] |= np.uint32(CandidateFlag.DIPOLE)
    return flags
