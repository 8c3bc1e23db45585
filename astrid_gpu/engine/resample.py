"""`resample`: read images between their pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu.backends import Backend, library_of, resolve_backend
from astrid_gpu.engine import _checks
from astrid_gpu.errors import InputError, ShapeMismatchError
from astrid_gpu.ops import noise as noise_ops
from astrid_gpu.ops import resample as reference_ops

__all__ = ["resample"]

_FILL_WIDTH, _FILL_LEAST = 1.5, 1e-3  # of the mean that stands in for a bad pixel before a spline passes through


def resample(images: Any, y_map: Any, x_map: Any, *, kernel: str = "lanczos3", backend: str | Backend = "auto") -> Any:
    r"""Read images at given positions.

    Surface brightness is read: to conserve the counts of sources multiply by the local ratio of pixel areas, or use
    `align`, which does that, carries variance and mask along and keeps bad pixels from ringing.

    Parameters
    ----------
    images : array, shape (ny, nx) or (n, ny, nx)
        NaN and infinities are bad pixels. Not modified.
    y_map, x_map : array, shape (my, mx)
        Where each output pixel lies in the images, in their pixels; the same for all of a stack.
    kernel : {"lanczos3", "quintic", "cubic", "bilinear", "nearest"}
        "quintic" and "cubic" are interpolating B-splines. The largest error of a star of FWHM 2.5 px shifted by half a
        pixel both ways, over its peak: Lanczos-3 1.0 %, quintic 0.25 %, cubic 1.3 %.
    backend : str or Backend
        See `get_backend`.

    Returns
    -------
    array, shape (my, mx) or (n, my, mx)
        float32 for float32 images, else the backend's own type. NaN where a position is NaN or more than half a pixel
        beyond the outermost pixel centres, and where one of the kernel's taps (1, 4, 16 or 36) is a bad pixel. Taps
        beyond the frame see its mirror image.

    Raises
    ------
    InputError
        An unknown kernel.
    ShapeMismatchError
        `images` is no image or stack, or the maps are not two-dimensional and of one shape.
    TypeError
        Arrays of different libraries are mixed.

    Notes
    -----
    I(y, x) = sum_ji h(y - j) h(x - i) c_ji. Cost: the square of the taps a pixel, and a filter of 25 taps an axis
    first for the splines.

    Examples
    --------
    >>> import numpy as np
    >>> from astrid_gpu.engine.resample import resample
    >>> y, x = np.mgrid[:4, :4] + 0.5
    >>> float(resample(np.arange(25.0).reshape(5, 5), y, x, kernel="bilinear", backend="numpy")[0, 0])
    3.0
    """
    chosen = resolve_backend(backend, {"images": images, "y_map": y_map, "x_map": x_map})
    if kernel not in reference_ops.KERNELS:
        msg = f"kernel must be one of {', '.join(reference_ops.KERNELS)}, got {kernel!r}"
        raise InputError(msg)
    single = np.ndim(images) == 2
    dtype = _checks.float_type(chosen, [images])
    stack = _checks.as_stack(chosen, images, "images", dtype)
    maps = [chosen.asarray(positions, np.float64) for positions in (y_map, x_map)]
    if maps[0].ndim != 2 or maps[0].shape != maps[1].shape:
        msg = f"y_map and x_map must be two-dimensional and of one shape, got {maps[0].shape} and {maps[1].shape}"
        raise ShapeMismatchError(msg)
    bad = ~chosen.xp.isfinite(stack)
    dirty = bool(bad.any())
    if dirty:
        stack = _filled(chosen, stack, bad, spline=kernel in reference_ops.DEGREES)
    op = chosen.ops.get("resample")
    arguments = (stack, *maps, kernel, bad if dirty else None)
    out = op(*arguments) if op else reference_ops.resample(*arguments, xp=chosen.xp)
    out = out[0] if single else out
    return chosen.to_host(out) if chosen.is_gpu and library_of(images) != "cupy" else out


def _filled(backend: Backend, stack: Any, bad: Any, *, spline: bool) -> Any:
    """Put something finite in bad pixels: a spline passes through all pixels, and would ring about a zero."""
    if not spline:
        return backend.xp.where(bad, stack.dtype.type(0), stack)
    host, lost = backend.to_host(stack), backend.to_host(bad)
    op = None if backend.is_gpu else backend.ops.get("smooth_good")
    smooth = op or noise_ops.smooth_good
    means = np.stack([smooth(image, b, _FILL_WIDTH, _FILL_LEAST) for image, b in zip(host, lost, strict=True)])
    return backend.asarray(np.where(lost, means, host))
