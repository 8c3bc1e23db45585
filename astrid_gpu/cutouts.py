"""`cutouts`: science, reference and difference round each candidate, for eyes and for machine learning."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu.backends import Backend, resolve_backend
from astrid_gpu.engine._checks import as_plane, as_stack
from astrid_gpu.engine.peaks import gather
from astrid_gpu.errors import InputError, ShapeMismatchError
from astrid_gpu.flags import PixelFlag
from astrid_gpu.results import Candidates, Cutouts, Difference

__all__ = ["cutouts"]


def cutouts(
    diff: Difference, candidates: Candidates, size: int = 63, *, backend: str | Backend | None = None
) -> Cutouts:
    """Cut triplets round candidates.

    Parameters
    ----------
    diff : Difference
        With `science` and `reference`, the registered images that were differenced.
    candidates : Candidates
        Of the same difference; the pixel nearest to (x, y) becomes the middle one. A stack needs their `image`.
    size : int
        Odd side in pixels.
    backend : str or Backend, optional
        Default: chosen by the arrays, as "auto".

    Returns
    -------
    Cutouts
        `images` (m, 3, size, size): science, reference, difference, unnormalised, in the science image's unit (the
        reference times `diff.metrics["flux_ratio"]` where that is known);
        `score_corr` (m, size, size), NaN if `diff` has none; `mask` (m, size, size) uint8. NumPy arrays, float32 if
        the images are. Beyond the frame NaN with the NO_DATA bit.

    Raises
    ------
    InputError
        An even size, no science or reference image, candidates of a stack without their image number or beyond it.
    ShapeMismatchError
        Images of different shapes.

    Notes
    -----
    Only the windows leave the device. Memory: 17 bytes per pixel of a cutout in float32.
    """
    if int(size) != size or size < 1 or size % 2 == 0:
        msg = f"size must be an odd, positive number of pixels so that a candidate has a middle pixel; got {size!r}"
        raise InputError(msg)
    planes = {k: getattr(diff, k) for k in Cutouts.channels}
    for name, plane in planes.items():
        if plane is None:
            msg = (
                f"the difference holds no {name} image to cut from; keep it, as subtract() does, or set it with "
                f"dataclasses.replace(diff, {name}=...)"
            )
            raise InputError(msg)
    b = resolve_backend(backend or "auto", planes | {"score_corr": diff.score_corr, "mask": diff.mask})
    difference = as_stack(b, planes["difference"], "difference", _real(planes["difference"]))
    frame = tuple(difference.shape)
    n, shape = frame[0], frame[1:]
    where = _places(candidates, n, stack=np.ndim(planes["difference"]) == 3)
    dtype = np.result_type(*(_real(plane) for plane in planes.values()))
    images = np.empty((len(candidates), 3, int(size), int(size)), dtype)
    for channel, (name, plane) in enumerate(planes.items()):
        images[:, channel] = _cut(b, plane, name, frame, where, int(size), dtype)
    images[:, 1] *= diff.metrics.get("flux_ratio", 1.0)
    if diff.score_corr is None:
        score = np.full((len(candidates), int(size), int(size)), np.nan, dtype)
    else:
        score = _cut(b, diff.score_corr, "score_corr", frame, where, int(size), dtype)
    mask = np.zeros(shape, np.uint8) if diff.mask is None else diff.mask
    plane = as_plane(b, b.asarray(mask), "mask", n, shape).astype(np.uint8)
    meta = {"size": int(size), **candidates.meta}
    image, y, x = where
    bits = gather(b, b.xp.ascontiguousarray(plane), image % plane.shape[0], y, x, int(size), PixelFlag.NO_DATA)
    return Cutouts(images, score, bits, np.array(candidates["id"]), meta)


def _real(array: Any) -> np.dtype:
    dtype = np.dtype(getattr(array, "dtype", np.float64))
    return dtype if dtype in (np.dtype(np.float32), np.dtype(np.float64)) else np.dtype(np.float64)


def _cut(
    b: Backend, plane: Any, name: str, frame: tuple[int, ...], where: tuple[Any, ...], size: int, dtype: np.dtype
) -> np.ndarray:
    """Cut windows out of one kind of image on the `frame` (n, ny, nx); one image may serve the whole stack."""
    stack = as_stack(b, plane, name, dtype)
    if tuple(stack.shape[1:]) != frame[1:] or stack.shape[0] not in (1, frame[0]):
        msg = f"{name} has shape {tuple(stack.shape)} but the difference {frame}; they must be on one grid"
        raise ShapeMismatchError(msg)
    image, y, x = where
    return gather(b, stack, image % stack.shape[0], y, x, size, np.nan)


def _places(candidates: Candidates, n: int, *, stack: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return image number and middle pixel of each candidate."""
    rows = candidates.data
    if "image" in (rows.dtype.names or ()):
        image = np.asarray(rows["image"], np.int64)
    elif stack and n > 1:
        msg = f"the difference is a stack of {n} images but the candidates do not say which they belong to ('image')"
        raise InputError(msg)
    else:
        image = np.zeros(len(rows), np.int64)
    if len(image) and (image.min() < 0 or image.max() >= n):
        msg = f"a candidate is of image {int(image.max())} but the difference has images 0 to {n - 1}"
        raise InputError(msg)
    if not (np.isfinite(rows["x"]).all() and np.isfinite(rows["y"]).all()):
        msg = "a candidate has no finite position to cut round; drop such rows first"
        raise InputError(msg)
    y, x = (np.floor(rows[k] + 0.5).astype(np.int64) for k in ("y", "x"))
    return image, y, x
