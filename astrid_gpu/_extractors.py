"""The extractors of `detect`: each turns a significance map into peak pixels; all else about candidates is shared."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from astrid_gpu.backends import Backend
from astrid_gpu.engine.peaks import PEAK_DTYPE, find_peaks
from astrid_gpu.errors import BackendUnavailableError, InputError
from astrid_gpu.ops.peaks import Maxima, suppress

__all__ = ["EXTRACTORS", "extract", "suppress_near"]

EXTRACTORS = ("peaks", "sep", "photutils")
_INSTALL = "install it with: pip install 'astrid-gpu[fits]', or use extractor='peaks'"


def extract(name: str, backend: Backend, score: Any, invalid: Any, threshold: float) -> np.ndarray:
    """Return the peak pixels of both signs beyond `threshold`.

    Parameters
    ----------
    name : {"peaks", "sep", "photutils"}
    score : array, shape (n, ny, nx)
        Significance with unit noise.
    invalid : bool array, shape (n, ny, nx)

    Returns
    -------
    structured array of `PEAK_DTYPE`, sorted by (image, y, x); `value` is the score at the pixel, signed
    """
    if name == "peaks":
        return find_peaks(score, threshold, mask=invalid, polarity="both", backend=backend)
    if backend.is_gpu:
        msg = f"extractor {name!r} runs on the CPU but the difference is on a GPU; use extractor='peaks' there"
        raise TypeError(msg)
    one_sign = _sep if name == "sep" else _photutils
    parts = [_of_image(i, plane, invalid[i], threshold, one_sign) for i, plane in enumerate(score)]
    peaks = np.concatenate(parts)
    return peaks[np.lexsort((peaks["x"], peaks["y"], peaks["image"]))]


def _of_image(
    image: int, score: np.ndarray, invalid: np.ndarray, threshold: float, one_sign: Callable[..., Any]
) -> np.ndarray:
    """Run an extractor on one image and on its negative; drop what it puts on masked or faint pixels."""
    bad = invalid | ~np.isfinite(score)
    clean = np.ascontiguousarray(np.where(bad, 0.0, score), dtype=np.float64)
    found = np.concatenate([np.stack(one_sign(sign * clean, bad, threshold), axis=1) for sign in (1, -1)])
    y, x = np.unique(found.astype(np.int64), axis=0).T
    usable = ~bad[y, x] & (np.abs(clean[y, x]) > threshold)
    peaks = np.empty(int(usable.sum()), PEAK_DTYPE)
    peaks["image"], peaks["y"], peaks["x"], peaks["value"] = image, y[usable], x[usable], clean[y, x][usable]
    return peaks


def _sep(data: np.ndarray, bad: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the peak pixels (y, x) of sep.extract: connected pixels above the threshold, deblended."""
    try:
        import sep
    except ImportError as exc:
        msg = f"extractor 'sep' needs the package sep, which does not import ({exc}); {_INSTALL}"
        raise BackendUnavailableError(msg) from exc
    try:
        # The map is filtered already: no kernel, and one pixel beyond the threshold is enough.
        found = sep.extract(data, threshold, mask=bad, minarea=1, filter_kernel=None)
    except Exception as exc:
        msg = f"sep.extract failed at threshold {threshold:g}: {exc}. Raise the threshold or use extractor='peaks'"
        raise InputError(msg) from exc
    return found["ypeak"], found["xpeak"]


def _photutils(data: np.ndarray, bad: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the peak pixels (y, x) of photutils.detection.find_peaks in boxes of 3x3 pixels."""
    try:
        from photutils.detection import find_peaks as photutils_peaks
        from photutils.utils.exceptions import NoDetectionsWarning
    except ImportError as exc:
        msg = f"extractor 'photutils' needs the package photutils, which does not import ({exc}); {_INSTALL}"
        raise BackendUnavailableError(msg) from exc
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoDetectionsWarning)
        found = photutils_peaks(data, threshold, box_size=3, mask=bad)
    if found is None:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.asarray(found["y_peak"]), np.asarray(found["x_peak"])


def suppress_near(peaks: np.ndarray, separation: np.ndarray) -> np.ndarray:
    """Drop duplicates of one sign: within `separation` (n,) pixels of its image the strongest stays."""
    keep = np.ones(len(peaks), bool)
    for image in np.unique(peaks["image"]):
        rows = np.flatnonzero(peaks["image"] == image)
        one = peaks[rows]
        maxima = Maxima(one["image"], one["y"], one["x"], one["value"], np.zeros(len(one), bool))
        keep[rows] = suppress(maxima, float(separation[image]), True)
    return peaks[keep]
