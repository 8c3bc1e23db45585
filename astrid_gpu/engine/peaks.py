"""`find_peaks`: check the arguments, choose the backend, dispatch; moments and stamps for the stages above."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu.backends import Backend, resolve_backend
from astrid_gpu.engine._checks import as_plane, as_stack, per_image
from astrid_gpu.errors import InputError
from astrid_gpu.ops import moments as moment_ops
from astrid_gpu.ops import peaks as peak_ops
from astrid_gpu.ops import stamps as stamp_ops

__all__ = ["PEAK_DTYPE", "find_peaks", "gather", "measure"]

PEAK_DTYPE = np.dtype([("image", np.int64), ("y", np.int64), ("x", np.int64), ("value", np.float64)])
_POLARITIES = ("positive", "negative", "both")


def find_peaks(
    images: Any,
    threshold: Any,
    *,
    min_separation: float = 1,
    mask: Any = None,
    polarity: str = "positive",
    max_peaks: int | None = None,
    backend: str | Backend = "auto",
) -> np.ndarray:
    """Find the local maxima above a threshold.

    A peak is a pixel above the threshold and all its eight neighbours; pixels on the border count, with the
    neighbours they have. A plateau of equal pixels is one peak, at its first pixel in raster order, if all round it
    is lower. The answer is the same on every backend, alone or in a stack.

    Parameters
    ----------
    images : array, shape (ny, nx) or (n, ny, nx)
        Not modified. NaN and infinities are masked pixels.
    threshold : float or array (n,)
        Peaks are strictly above it, in the unit of the images (rounded to float32 for float32 images).
    min_separation : float
        Pixels. Of two peaks of the same sign within this distance the stronger stays, strongest first; of two equal
        ones the earlier in raster order. Peaks are never direct neighbours, so 1 removes none.
    mask : array of bool or uint8, shape (ny, nx) or (n, ny, nx), optional
        Nonzero = no peak here; neighbours treat the pixel as lower.
    polarity : {"positive", "negative", "both"}
        "negative" finds minima below -threshold; both need a threshold >= 0.
    max_peaks : int, optional
        Keep only the strongest of each image.
    backend : str or Backend
        See `get_backend`.

    Returns
    -------
    numpy.ndarray, structured: image, y, x (int64), value (float64, signed)
        Sorted by (image, y, x). A host array on every backend: it is a table, as long as there are peaks.

    Raises
    ------
    InputError
        An argument is out of its range, or a threshold is not finite.
    ShapeMismatchError
        Mask or thresholds do not fit the images.

    Notes
    -----
    Cost: one read of the pixels; what follows is in proportion to the peaks.

    Examples
    --------
    >>> import numpy as np, astrid_gpu as ag
    >>> image = np.zeros((5, 5)); image[2, 3] = 7.0
    >>> ag.find_peaks(image, 5.0, backend="numpy")[["y", "x"]].tolist()
    [(2, 3)]
    """
    chosen = resolve_backend(backend, {"images": images, "mask": mask})
    stack = as_stack(chosen, images, "images", _exact_type(chosen, images))
    levels = per_image(threshold, "threshold", stack.shape[0])
    _check(levels, min_separation, polarity, max_peaks)
    plane = None
    if mask is not None:
        plane = as_plane(chosen, mask, "mask", stack.shape[0], tuple(stack.shape[1:]))
        if plane.dtype not in (np.dtype(bool), np.dtype(np.uint8)):
            plane = plane != 0
    if polarity == "negative":
        stack = -stack
    both = polarity == "both"
    op = chosen.ops.get("find_peaks")
    if op is None:
        found = peak_ops.find_peaks(stack, levels, plane, both, xp=chosen.xp)
    else:
        found = op(stack, levels, plane, both)
    columns = peak_ops.select_peaks(stack, plane, peak_ops.Maxima(*found), float(min_separation), both, xp=chosen.xp)
    peaks = np.empty(len(columns[0]), PEAK_DTYPE)
    for name, column in zip(PEAK_DTYPE.names or (), columns, strict=True):
        peaks[name] = column
    if polarity == "negative":
        peaks["value"] *= -1
    return peaks if max_peaks is None else _strongest(peaks, max_peaks)


def _exact_type(backend: Backend, images: Any) -> np.dtype:
    """Float32 stays, everything else becomes float64 on every backend: rounding would make ties."""
    dtype = getattr(images, "dtype", None)
    return np.dtype(np.float32) if dtype in (np.dtype(np.float32), np.dtype(np.float16)) else np.dtype(np.float64)


def _check(levels: np.ndarray, min_separation: float, polarity: str, max_peaks: int | None) -> None:
    if polarity not in _POLARITIES:
        msg = f"polarity must be one of {', '.join(map(repr, _POLARITIES))}; got {polarity!r}"
        raise InputError(msg)
    if polarity != "positive" and np.any(levels < 0):
        msg = f"polarity {polarity!r} needs thresholds >= 0, got {float(levels.min()):g}"
        raise InputError(msg)
    if not (np.isfinite(min_separation) and min_separation >= 0):
        msg = f"min_separation must be a distance in pixels >= 0, got {min_separation!r}"
        raise InputError(msg)
    if max_peaks is not None and (int(max_peaks) != max_peaks or max_peaks < 0):
        msg = f"max_peaks must be a whole number >= 0 or None, got {max_peaks!r}"
        raise InputError(msg)


def _strongest(peaks: np.ndarray, most: int) -> np.ndarray:
    """Keep the strongest of each image, equal ones in raster order."""
    order = np.lexsort((np.arange(len(peaks)), -np.abs(peaks["value"]), peaks["image"]))
    image = peaks["image"][order]
    place = np.arange(len(peaks)) - np.searchsorted(image, image)
    return peaks[np.sort(order[place < most])]


def gather(backend: Backend, images: Any, image: Any, y: Any, x: Any, size: int, fill: float) -> np.ndarray:
    """Cut windows round pixels of a stack and bring them, and only them, to the host; see `ops.stamps`."""
    op = backend.ops.get("gather_stamps")
    i, j, k = (np.ascontiguousarray(a, dtype=np.int64) for a in (image, y, x))
    if op is None:
        return backend.to_host(stamp_ops.gather_stamps(images, i, j, k, size, fill, xp=backend.xp))
    return backend.to_host(op(images, i, j, k, size, fill))


def measure(
    backend: Backend, images: Any, image: Any, y: Any, x: Any, sigma: Any, radius: int, mask: Any = None
) -> np.ndarray:
    """Sum Gaussian-weighted moments round places of a stack, as host float64; see `ops.moments.measure_moments`."""
    op = backend.ops.get("measure_moments")
    i = np.ascontiguousarray(image, dtype=np.int64)
    v, u, s = (np.ascontiguousarray(a, dtype=np.float64) for a in (y, x, sigma))
    if op is None:
        return backend.to_host(moment_ops.measure_moments(images, i, v, u, s, radius, mask, xp=backend.xp))
    return backend.to_host(op(images, i, v, u, s, radius, mask))
