"""`estimate_background`: the level of the sky and its noise, batched, on any backend."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu.backends import Backend, library_of, resolve_backend
from astrid_gpu.engine import _checks
from astrid_gpu.errors import InputError
from astrid_gpu.ops import background as reference_ops
from astrid_gpu.results import Background

__all__ = ["estimate_background"]

MIN_BOX = 4
MIN_CLIP = 2.0
MIN_GOOD = 8  # good pixels that the best box of an image must have
MIN_FRACTION = 0.5  # of the best box's good pixels, below which a box is filled from its neighbours


def estimate_background(
    images: Any,
    *,
    box: int = 64,
    filter_size: int = 3,
    clip: float = 3.0,
    statistic: str = "sextractor",
    mask: Any = None,
    backend: str | Backend = "auto",
) -> Background:
    """Estimate the smooth sky of images and its noise, as SExtractor does.

    Boxes are clipped about their median, the mesh of their levels is median-filtered, and a bicubic spline goes
    through it. For skies that vary over a few boxes or more. Objects larger than a box (a nearby galaxy, a comet)
    become part of the background: use a larger box or mask them.

    Parameters
    ----------
    images : array, shape (ny, nx) or (n, ny, nx)
        Any unit. NaN and infinities are masked pixels. Not modified.
    box : int
        Largest side of a mesh box in pixels, from 4 to the longer side of the image; several times the size of a star.
        The frame is divided evenly, so boxes are a little smaller where `box` does not fit a whole number of times.
    filter_size : int
        Odd side, in boxes, of the median filter over the mesh; 1 for none.
    clip : float
        Pixels further than this many standard deviations from the median of their box are dropped, again and again
        until none is. At least 2; infinity for no clipping.
    statistic : {"sextractor", "median", "mean"}
        "sextractor": the mode, 2.5 median - 1.5 mean, or the median where the box is crowded. "median", "mean": of
        what the clipping left.
    mask : array of bool or integers, shape (ny, nx) or (n, ny, nx), optional
        Nonzero = bad.
    backend : str or Backend
        See `get_backend`.

    Returns
    -------
    Background
        `level` and `rms`, arrays like `images` (float32 for float32 images, else the backend's own type), finite
        everywhere, and `mesh`, float64, shape (by, bx) or (n, by, bx): the filtered levels at the box centres. `rms`
        is the noise of one pixel: unlike SExtractor's it is corrected for the wings that the clipping cut off and for
        the slope of the sky within a box.

    Raises
    ------
    InputError
        An option is out of range, or an image has no box with 8 good pixels.
    ShapeMismatchError
        `images` is not an image or a stack, or `mask` does not fit it.
    TypeError
        Arrays of different libraries are mixed.

    Notes
    -----
    Star light below the clipping threshold stays in: with the SExtractor statistic some 3 % of the noise in a
    sparse field (tests/statistical/test_background.py has the numbers, and those of sep beside them).

    References
    ----------
    .. [1] Bertin & Arnouts 1996, A&AS 117, 393.

    Examples
    --------
    >>> import numpy as np, astrid_gpu as ag
    >>> sky = 100 + np.random.default_rng(1).normal(0, 5, (256, 256))
    >>> background = ag.estimate_background(sky, backend="numpy")
    >>> bool(abs(background.level.mean() - 100) < 0.1), bool(abs(background.rms.mean() - 5) < 0.1)
    (True, True)
    """
    chosen = resolve_backend(backend, {"images": images, "mask": mask})
    _check_options(filter_size, clip, statistic)
    single = np.ndim(images) == 2
    if isinstance(images, np.ma.MaskedArray):
        images = np.ma.filled(images.astype(np.result_type(images.dtype, np.float32)), np.nan)
    dtype = _checks.float_type(chosen, [images])
    stack = _checks.as_stack(chosen, images, "images", dtype)
    n, ny, nx = stack.shape
    _check_box(box, ny, nx)
    bad = None
    if mask is not None:
        bad = chosen.xp.ascontiguousarray(_checks.as_plane(chosen, mask, "mask", n, (ny, nx)) != 0)

    level, rms = _mesh(chosen, stack, bad, int(box), int(filter_size), float(clip), statistic)
    rows, columns = reference_ops.spline_axis(ny, level.shape[1]), reference_ops.spline_axis(nx, level.shape[2])
    maps = [_interpolate(chosen, mesh, rows, columns, dtype) for mesh in (level, rms)]
    # The spline may overshoot below zero between a noisy box and a quiet one; seldom, and the pass costs time.
    floor = 0.5 * rms.min(axis=(1, 2), keepdims=True)
    if np.any(reference_ops.spline_lowest(rms, rows, columns) < floor[:, 0, 0]):
        chosen.xp.maximum(maps[1], chosen.asarray(floor.astype(dtype)), out=maps[1])
    arrays = [*maps, chosen.asarray(level)]
    if chosen.is_gpu and library_of(images) != "cupy":  # what came in decides what goes out
        arrays = [chosen.to_host(a) for a in arrays]
    return Background(*(a[0] if single else a for a in arrays))


def _check_options(filter_size: Any, clip: Any, statistic: Any) -> None:
    if statistic not in reference_ops.STATISTICS:
        msg = f"statistic must be one of {', '.join(reference_ops.STATISTICS)}, got {statistic!r}"
        raise InputError(msg)
    if not _is_integer(filter_size) or filter_size < 1 or filter_size % 2 == 0:
        msg = f"filter_size must be an odd positive number of boxes (1 for no filter), got {filter_size!r}"
        raise InputError(msg)
    if isinstance(clip, bool) or not isinstance(clip, int | float | np.number) or not clip >= MIN_CLIP:
        msg = (
            f"clip must be at least {MIN_CLIP:g} standard deviations, got {clip!r}: a tighter one would clip even a "
            "Gaussian without end; 3 is usual, infinity clips nothing"
        )
        raise InputError(msg)


def _check_box(box: Any, ny: int, nx: int) -> None:
    if not _is_integer(box):
        msg = f"box must be a whole number of pixels, got {box!r}"
        raise InputError(msg)
    if box < MIN_BOX:
        msg = f"box is {box} pixels, but statistics need at least {MIN_BOX}; 32 to 256 are usual"
        raise InputError(msg)
    if box > max(ny, nx):
        msg = (
            f"box is {box} pixels, more than either side of the {ny} x {nx} images; "
            f"give at most {max(ny, nx)}, which takes the whole frame as one box"
        )
        raise InputError(msg)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _mesh(
    backend: Backend, stack: Any, bad: Any, box: int, filter_size: int, clip: float, statistic: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return level and rms of the boxes on the host, filled, filtered and corrected, (n, by, bx) float64."""
    op = backend.ops.get("mesh_statistics")
    arguments = (stack, bad, box, clip, statistic)
    found = op(*arguments) if op else reference_ops.mesh_statistics(*arguments, xp=backend.xp)
    level, rms, count = (backend.to_host(a) for a in found)
    best = count.max(axis=(1, 2), keepdims=True)
    empty = np.flatnonzero(best.ravel() < MIN_GOOD)
    if empty.size:
        which = f"image {empty[0]} of the stack" if len(best) > 1 else "the image"
        msg = (
            f"{which} has no mesh box with {MIN_GOOD} good pixels: nearly everything is masked, NaN or infinite; "
            "check the mask, or take a larger box"
        )
        raise InputError(msg)
    usable = count >= np.maximum(MIN_GOOD, MIN_FRACTION * best)
    level, rms = (reference_ops.mesh_fill(mesh, usable) for mesh in (level, rms))
    level, rms = np.split(reference_ops.mesh_filter(np.concatenate([level, rms]), filter_size), 2)
    return level, reference_ops.mesh_untilt(rms / reference_ops.clipped_width(clip), level)


def _interpolate(backend: Backend, mesh: np.ndarray, rows: Any, columns: Any, dtype: np.dtype) -> Any:
    op = backend.ops.get("mesh_interpolate")
    arguments = (backend.asarray(mesh), rows, columns, dtype)
    return op(*arguments) if op else reference_ops.mesh_interpolate(*arguments, xp=backend.xp)
