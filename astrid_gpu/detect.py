"""`detect`: from a difference to a table of candidates."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu._extractors import EXTRACTORS, extract, suppress_near
from astrid_gpu._local_psfs import LocalPsfs
from astrid_gpu._measure import DIPOLE_FLOOR, Maps, climb, measure_candidates
from astrid_gpu.backends import Backend, library_of, resolve_backend
from astrid_gpu.engine._checks import as_plane, as_stack
from astrid_gpu.engine.peaks import find_peaks
from astrid_gpu.errors import InputError, ShapeMismatchError
from astrid_gpu.flags import INVALID, PixelFlag
from astrid_gpu.results import Candidates, Difference

__all__ = ["CANDIDATE_COLUMNS", "candidate_dtype", "detect"]

CANDIDATE_COLUMNS = (
    ("id", np.int64), ("x", np.float64), ("y", np.float64), ("ra", np.float64), ("dec", np.float64),
    ("polarity", np.int64), ("score", np.float64), ("flux", np.float64), ("flux_error", np.float64),
    ("snr", np.float64), ("mag", np.float64), ("mag_error", np.float64), ("fwhm", np.float64),
    ("elongation", np.float64), ("sharpness", np.float64), ("chi2", np.float64),
    ("flags", np.uint32), ("n_bad", np.int64), ("edge_distance", np.float64),
)  # fmt: skip
_POLARITIES = ("positive", "negative", "both")
_NO_PSF_SEPARATION = 3.0  # pixels, where nothing is known of the PSF


def candidate_dtype(*, stack: bool = False) -> np.dtype:
    """Return the type of a candidate's row; `image` follows `id` when the difference is a stack."""
    columns = list(CANDIDATE_COLUMNS)
    if stack:
        columns.insert(1, ("image", np.int64))
    return np.dtype(columns)


def detect(
    diff: Difference,
    threshold: float = 5.0,
    polarity: str = "both",
    *,
    extractor: str = "peaks",
    min_separation: float | None = None,
    max_candidates: int | None = None,
    backend: str | Backend | None = None,
) -> Candidates:
    """Find the sources of a difference and measure them.

    Candidates are the local extrema of S_corr beyond the threshold. Nothing that was found is hidden: what looks
    wrong is flagged (`astrid_gpu.flags.CandidateFlag`) and stays in the table.

    Parameters
    ----------
    diff : Difference
        With `score_corr`; one image or a stack. Its `flux` and `flux_error` give the photometry, its `psf` the
        shapes; without them those columns are NaN.
    threshold : float
        In sigma of S_corr, positive.
    polarity : {"both", "positive", "negative"}
        Brighter in the science image, fainter, or both.
    extractor : {"peaks", "sep", "photutils"}
        What finds the pixels: our local maxima, on any backend; sep.extract (connected pixels, deblended); or
        photutils.detection.find_peaks. The measurements are the same for all.
    min_separation : float, optional
        Pixels; of two candidates of one sign within it the stronger stays. Default: the FWHM of `diff.psf`.
    max_candidates : int, optional
        Keep the strongest of each image.
    backend : str or Backend, optional
        Default: chosen by the arrays, as "auto".

    Returns
    -------
    Candidates
        Rows sorted by (image, y, x) of their peak pixel, `id` counting from 1. Columns: `x`, `y` (pixels, 0-based,
        maximum-likelihood position), `ra`, `dec` (degrees ICRS, NaN without a WCS), `polarity` (+1 or -1), `score`
        (S_corr of the peak pixel, signed), `flux` and `flux_error` (PSF flux at (x, y), in the unit of the
        difference, signed; for the PSF of that place, the reference's where it is negative), `snr` = |flux| /
        flux_error, `mag` and `mag_error` (of |flux|; NaN without a zero point), `fwhm` (pixels; that of `diff.psf`
        for a point source), `elongation` (a/b), `sharpness` (0 for a point source with a standard deviation of about
        1 / snr, 1 for a single pixel, negative for what is wide), `chi2` (reduced chi² of the fit of `diff.psf` to the
        pixels within 1.5 FWHM; 1 for a point source), `flags`, `n_bad` (invalid pixels within one FWHM),
        `edge_distance` (pixels to the nearest outermost pixel centre); for a stack
        `image`.

    Raises
    ------
    InputError
        No S_corr in `diff`, or an argument out of its range.
    BackendUnavailableError
        The extractor's package is not installed.
    TypeError
        A CPU extractor was asked for on GPU arrays.

    Notes
    -----
    Flags: the mask bits within one FWHM of the peak. DIPOLE: a peak of the other sign, at least 3.5 sigma and a
    third as strong, within two FWHM. SHARP and EXTENDED: the second moments of the difference under a window matched
    to the PSF, relative to a point source's, are at most half of it (all round, or along the narrow axis as of a
    cosmic-ray track), or wider by a quarter or elongated, and that by 3 standard deviations of the candidate's own
    noise (see `astrid_gpu.ops.moments`): chance gives a star of S/N 10 either flag about once in 200, and of single
    hot pixels 3 % are missed at S/N 5.5 and 0.3 % at S/N 7 (tests/statistical/test_detect.py). A cosmic ray is only
    as sharp in the difference as the reference allows: a reference of much worse seeing and equal noise spreads it
    over its own PSF. BRIGHT_STAR (where `diff.science` is at hand): less than 3 % of the light the science image has
    there besides; or within 12 FWHM of a star of ten times its height, where S_corr in a ring of 1.5 to 5 FWHM about it
    is wider than 1.5 and the candidate is less than five times that width. NO_CENTROID: no summit within a pixel; the
    pixel itself is given.

    Only windows round candidates leave the device, and the science image's maxima in blocks of one FWHM. Cost: two
    reads of S_corr and one of the science image, then work in proportion to the candidates and the 3.5-sigma peaks.

    References
    ----------
    .. [1] Zackay, Ofek & Gal-Yam 2016, ApJ 830, 27, eqs. 25, 41, 43.
    """
    _check(threshold, polarity, extractor, min_separation, max_candidates)
    maps, invalid = _maps(diff, backend)
    separation = _separations(maps, min_separation)
    every = find_peaks(maps.score, min(DIPOLE_FLOOR, threshold), mask=invalid, polarity="both", backend=maps.backend)
    if extractor == "peaks":
        found = every[np.abs(every["value"]) > threshold]
    else:
        found = extract(extractor, maps.backend, maps.score, invalid, threshold)
    found = suppress_near(climb(maps, suppress_near(found, separation)), separation)
    if polarity != "both":
        found = found[found["value"] > 0] if polarity == "positive" else found[found["value"] < 0]
    if max_candidates is not None:
        found = _strongest(found, max_candidates)
    stack = np.ndim(diff.score_corr) == 3
    rows = np.zeros(len(found), candidate_dtype(stack=stack))
    rows["id"] = np.arange(1, len(found) + 1)
    if stack:
        rows["image"] = found["image"]
    for name, column in measure_candidates(maps, found, every).items():
        rows[name] = column
    _calibrate(rows, diff, found["image"], maps.score.shape[0])
    meta = {"polarity": polarity, "method": diff.method, "backend": maps.backend.name, **diff.meta}
    return Candidates(rows, float(threshold), extractor, meta)


def _check(
    threshold: float, polarity: str, extractor: str, min_separation: float | None, max_candidates: int | None
) -> None:
    if not (np.isfinite(threshold) and threshold > 0):
        msg = f"threshold must be a positive number of sigma, got {threshold!r}"
        raise InputError(msg)
    for name, value, allowed in (("polarity", polarity, _POLARITIES), ("extractor", extractor, EXTRACTORS)):
        if value not in allowed:
            msg = f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}"
            raise InputError(msg)
    if min_separation is not None and not (np.isfinite(min_separation) and min_separation >= 0):
        msg = f"min_separation must be a distance in pixels >= 0, or None; got {min_separation!r}"
        raise InputError(msg)
    if max_candidates is not None and (int(max_candidates) != max_candidates or max_candidates < 0):
        msg = f"max_candidates must be a whole number >= 0 or None, got {max_candidates!r}"
        raise InputError(msg)


def _maps(diff: Difference, backend: str | Backend | None) -> tuple[Maps, Any]:
    """Return the maps of a difference as stacks on their backend, and which pixels are invalid."""
    if diff.score_corr is None:
        msg = "the difference has no score_corr to threshold; compute it with outputs=('difference', 'score_corr', ...)"
        raise InputError(msg)
    named = {k: getattr(diff, k) for k in ("difference", "score_corr", "flux", "flux_error")}
    b = resolve_backend(backend or "auto", named | {"mask": diff.mask})
    stacks: dict[str, Any] = {k: None if a is None else as_stack(b, a, k, _real(a)) for k, a in named.items()}
    shape = tuple(stacks["score_corr"].shape)
    for name, stack in stacks.items():
        if stack is not None and tuple(stack.shape) != shape:
            msg = f"{name} has shape {tuple(stack.shape)} but score_corr {shape}; they must be the same"
            raise ShapeMismatchError(msg)
    details = None
    if diff.mask is None:
        lost = ~b.xp.isfinite(stacks["score_corr"])
        mask = lost.astype(np.uint8) * np.uint8(PixelFlag.NO_DATA)
    else:
        bits = as_plane(b, diff.mask, "mask", shape[0], shape[1:])
        mask = b.xp.ascontiguousarray(b.xp.broadcast_to(bits.astype(np.uint8), shape))
        if bits.dtype.itemsize > 1 and bool((bits > 255).any()):
            details = b.xp.ascontiguousarray(b.xp.broadcast_to((bits >> 8).astype(np.uint8), shape))
    science = None
    if diff.science is not None and library_of(diff.science) == library_of(diff.score_corr):
        science = as_stack(b, diff.science, "science", _real(diff.science))
        science = science if tuple(science.shape) == shape else None
    psfs = LocalPsfs(diff.psf, shape[0], diff.tiles)
    windows = [psfs.middle(i) for i in range(shape[0])]
    reach = np.array([_NO_PSF_SEPARATION if w is None else max(w.fwhm, 1.0) for w in windows])
    difference, score, flux, error = stacks.values()
    maps = Maps(b, difference, score, flux, error, mask, details, science, psfs, reach, diff.flux_response)
    return maps, (mask & np.uint8(INVALID)) != 0


def _real(array: Any) -> np.dtype:
    dtype = np.dtype(getattr(array, "dtype", np.float64))
    return dtype if dtype in (np.dtype(np.float32), np.dtype(np.float64)) else np.dtype(np.float64)


def _separations(maps: Maps, min_separation: float | None) -> np.ndarray:
    return maps.reach if min_separation is None else np.full(len(maps.reach), float(min_separation))


def _strongest(found: np.ndarray, most: int) -> np.ndarray:
    order = np.lexsort((np.arange(len(found)), -np.abs(found["value"]), found["image"]))
    image = found["image"][order]
    return found[np.sort(order[np.arange(len(found)) - np.searchsorted(image, image) < most])]


def _calibrate(rows: np.ndarray, diff: Difference, image: np.ndarray, n: int) -> None:
    """Fill ra, dec, mag and mag_error."""
    rows["ra"], rows["dec"] = _sky(diff.wcs, rows["x"], rows["y"], image)
    zero_points = np.full(1, np.nan) if diff.zero_point is None else np.atleast_1d(np.asarray(diff.zero_point, float))
    with np.errstate(divide="ignore", invalid="ignore"):
        rows["mag"] = np.broadcast_to(zero_points, n)[image] - 2.5 * np.log10(np.abs(rows["flux"]))
        rows["mag_error"] = 2.5 / np.log(10) / rows["snr"] if diff.zero_point is not None else np.nan


def _sky(wcs: Any, x: np.ndarray, y: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ICRS degrees through any APE 14 WCS: one for all images, or one each."""
    ra, dec = np.full(len(x), np.nan), np.full(len(x), np.nan)
    if wcs is None:
        return ra, dec
    each = isinstance(wcs, (list, tuple))
    for k in np.unique(image) if each else [None]:
        rows = slice(None) if k is None else image == k
        one = wcs[k] if each else wcs
        if one is None or len(x[rows]) == 0:
            continue
        sky = one.pixel_to_world(x[rows], y[rows])
        icrs = sky.icrs
        ra[rows], dec[rows] = icrs.ra.deg, icrs.dec.deg
    return ra, dec
