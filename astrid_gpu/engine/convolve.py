"""`convolve`: true convolution of images, batched, on any backend."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu.backends import Backend, library_of, resolve_backend
from astrid_gpu.engine import _checks
from astrid_gpu.errors import InputError, ShapeMismatchError
from astrid_gpu.ops import convolve as reference_ops

__all__ = ["convolve"]

# Largest kernel, in taps, that is convolved directly; above it an FFT is faster. A separable kernel of ky x kx has
# ky + kx taps. By processor time of one thread (EPYC with AVX-512, float32): the float64 reference breaks even with
# scipy.fft at about 3 x 4 taps, the CPU kernels at 16 x 16 to 18 x 18; with their own FFT down the columns at 5 x 5,
# and separable kernels at 41 x 41. GPU: an estimate from bytes and shared-memory reads, not measured.
# Measure again: benchmarks/bench_convolve.py.
REFERENCE_TAPS = 12
CPU_TAPS = 289
COLUMN_TAPS = 25
SEPARABLE_TAPS = 80
GPU_TAPS = 256

MIN_WEIGHT = 1e-6  # of the kernel's weight that good pixels must carry for an interpolated value
_NAN = ("interpolate", "propagate")


def convolve(
    images: Any,
    kernel: Any,
    *,
    boundary: str = "reflect",
    nan: str = "interpolate",
    normalize: bool = True,
    backend: str | Backend = "auto",
) -> Any:
    r"""Convolve images with a kernel.

    A true convolution, the kernel flipped: for a matched filter flip the PSF first. Small or separable kernels are
    summed directly, large ones go by FFT; the result is the same to rounding.

    .. math:: o_{yx} = \sum_{ji} k_{ji}\, v_{y-j+c_y,\,x-i+c_x},
              \qquad c = (\lfloor k_y/2 \rfloor, \lfloor k_x/2 \rfloor)

    Parameters
    ----------
    images : array, shape (ny, nx) or (n, ny, nx)
        Not modified. NaN and infinities are bad pixels.
    kernel : array, shape (ky, kx) or (n, ky, kx)
        One for all images or one per image, of any size, finite. Centred on pixel ``(ky // 2, kx // 2)``: the middle of
        an odd side, the pixel after the middle of an even one.
    boundary : {"reflect", "zero", "wrap"}
        What lies outside: the mirror image, the edge pixel repeated (d c b a | a b c d); zeros; the other side.
    nan : {"interpolate", "propagate"}
        "interpolate": bad pixels have no weight, and every value is the kernel-weighted mean of the good pixels, times
        the kernel's sum, as in astropy. A value stays NaN where good pixels carry less than 1e-6 of the kernel's
        weight. "propagate": all that the kernel's box touches is NaN.
    normalize : bool
        Divide the kernel by its sum first.
    backend : str or Backend
        See `get_backend`.

    Returns
    -------
    array like `images`
        float32 for float32 images, else the backend's own type.

    Raises
    ------
    InputError
        The kernel is not finite, or sums to zero where a sum is needed; an option has no such value.
    ShapeMismatchError
        `images` is not an image or a stack, or `kernel` does not fit it.
    TypeError
        Arrays of different libraries are mixed.

    Notes
    -----
    Cost: ``ky kx`` multiplications a pixel (``ky + kx`` if the kernel is separable), or two real FFTs of the bordered
    image. With bad pixels to interpolate twice that, for the images that have some.

    Examples
    --------
    >>> import numpy as np, astrid_gpu as ag
    >>> image = np.zeros((5, 5))
    >>> image[2, 2] = 4.0
    >>> image[0, 0] = np.nan
    >>> ag.convolve(image, [[0, 1, 0], [1, 0, 1], [0, 1, 0]], backend="numpy")[1:4, 1:4].tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    """
    chosen = resolve_backend(backend, {"images": images, "kernel": kernel})
    _check_options(boundary, nan)
    single = np.ndim(images) == 2
    if isinstance(images, np.ma.MaskedArray):
        images = np.ma.filled(images.astype(np.result_type(images.dtype, np.float32)), np.nan)
    dtype = _checks.float_type(chosen, [images])
    stack = _checks.as_stack(chosen, images, "images", dtype)
    taps = _check_kernel(chosen.to_host(chosen.asarray(kernel)), stack.shape[0], normalize)

    bad, dirty = _bad_pixels(chosen, stack)
    if not dirty.size:
        out = _apply(chosen, stack, taps, boundary)
    else:
        clean = chosen.xp.where(bad, dtype.type(0), stack)
        if nan == "propagate":
            out = _apply(chosen, clean, taps, boundary)
            rows, columns = _border(stack.shape[1:], taps.shape[1:], boundary)
            out[reference_ops.reaches(bad, rows, columns, xp=chosen.xp)] = np.nan
        else:
            out = _interpolate(chosen, clean, bad, dirty, taps, boundary)
    out = out[0] if single else out
    # What came in decides what goes out.
    return chosen.to_host(out) if chosen.is_gpu and library_of(images) != "cupy" else out


def _check_options(boundary: Any, nan: Any) -> None:
    for name, value, allowed in (("boundary", boundary, reference_ops.BOUNDARIES), ("nan", nan, _NAN)):
        if value not in allowed:
            msg = f"{name} must be one of {', '.join(allowed)}, got {value!r}"
            raise InputError(msg)


def _bad_pixels(backend: Backend, stack: Any) -> tuple[Any, np.ndarray]:
    """Return where pixels are not finite, or None if nowhere, and the images that have some."""
    xp = backend.xp
    with np.errstate(invalid="ignore", over="ignore"):
        if np.all(np.isfinite(backend.to_host(stack.sum(axis=(1, 2))))):  # no NaN hides in a finite sum
            return None, np.empty(0, np.int64)
    bad = ~xp.isfinite(stack)
    return bad, np.flatnonzero(backend.to_host(bad.any(axis=(1, 2))))


def _check_kernel(kernel: np.ndarray, n: int, normalize: bool) -> np.ndarray:
    """Return the kernel as float64 (1 or n, ky, kx), normalised if asked."""
    if kernel.dtype.kind not in "fiub":
        msg = f"kernel must hold real numbers, got dtype {kernel.dtype}"
        raise InputError(msg)
    if kernel.ndim not in (2, 3) or 0 in kernel.shape:
        msg = f"kernel must be (ky, kx), or (n, ky, kx) with one per image, got shape {kernel.shape}"
        raise ShapeMismatchError(msg)
    taps = kernel.astype(np.float64).reshape(-1, *kernel.shape[-2:])
    if taps.shape[0] not in (1, n):
        msg = f"there are {taps.shape[0]} kernels for {n} image(s); give one, or one per image"
        raise ShapeMismatchError(msg)
    wrong = int((~np.isfinite(taps)).sum())
    if wrong:
        msg = f"kernel has {wrong} NaN or infinite value(s); replace them, with 0 to leave pixels out"
        raise InputError(msg)
    if not normalize:
        return taps
    if not _has_sum(taps).all():
        msg = "kernel sums to zero and cannot be normalised; pass normalize=False for a difference kernel"
        raise InputError(msg)
    return taps / taps.sum(axis=(1, 2), keepdims=True)


def _has_sum(taps: np.ndarray) -> np.ndarray:
    """Return, per kernel, whether its sum is more than rounding."""
    return np.abs(taps.sum(axis=(1, 2))) > 1e-12 * np.abs(taps).sum(axis=(1, 2))


def _border(shape: tuple[int, int], sides: tuple[int, int], boundary: str) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = (reference_ops.border_index(n, k, boundary) for n, k in zip(shape, sides, strict=True))
    return rows, columns


def _route(backend: Backend, taps: np.ndarray, dtype: np.dtype, holes: bool = False) -> tuple[str, Any]:
    """Return how to convolve fastest: ("separable", (columns, rows)), ("direct", None) or ("fft", None).

    `holes`: zeros must stay zeros, which an FFT in float32 does not grant; then only large kernels take one.
    """
    ops, (_, ky, kx) = backend.ops, taps.shape
    most = most_lines = REFERENCE_TAPS
    if ops.get("convolve") is not None:
        most = most_lines = GPU_TAPS if backend.is_gpu else CPU_TAPS
    if ops.get("convolve_fft") is not None and dtype == np.float32 and not holes:
        most, most_lines = COLUMN_TAPS, SEPARABLE_TAPS
    if min(ky, kx) > 2 and ky + kx <= most_lines:
        pair = reference_ops.separate(taps, 4.0 * float(np.finfo(dtype).eps))
        if pair is not None:
            return "separable", pair
    return ("direct" if ky * kx <= most else "fft"), None


def _apply(backend: Backend, stack: Any, taps: np.ndarray, boundary: str, holes: bool = False) -> Any:
    """Convolve finite images by the fastest way for this kernel."""
    route, pair = _route(backend, taps, stack.dtype, holes)
    if route == "separable":
        return _separable(backend, stack, pair[0], pair[1], boundary)
    if route == "direct":
        return _direct(backend, stack, taps, boundary)
    return _by_fft(backend, stack, taps, boundary)


def _direct(backend: Backend, stack: Any, taps: np.ndarray, boundary: str) -> Any:
    op = backend.ops.get("convolve")
    arguments = (stack, taps, *_border(stack.shape[1:], taps.shape[1:], boundary))
    return op(*arguments) if op else reference_ops.convolve(*arguments, xp=backend.xp)


def _separable(backend: Backend, stack: Any, column: np.ndarray, row: np.ndarray, boundary: str) -> Any:
    op = backend.ops.get("convolve_separable")
    if op is not None:
        out = op(stack, column, row, *_border(stack.shape[1:], (column.shape[1], row.shape[2]), boundary))
        if out is not None:
            return out
    return _direct(backend, _direct(backend, stack, column, boundary), row, boundary)


def _by_fft(backend: Backend, stack: Any, taps: np.ndarray, boundary: str) -> Any:
    """Convolve by FFT, as many images at a time as memory allows; on a CPU one, as batches gain nothing there."""
    rows, columns = _border(stack.shape[1:], taps.shape[1:], boundary)
    op = backend.ops.get("convolve_fft")
    if op is not None:
        done = op(stack, taps, rows, columns)
        if done is not None:
            return done
    n = stack.shape[0]
    at_once = 1
    if backend.is_gpu:  # frame, tiles, spectrum, inverse, and the work areas of two plans
        at_once = max(1, min(n, backend.free_memory() // (10 * stack.dtype.itemsize * rows.size * columns.size)))
    out = backend.xp.empty_like(stack)
    for first in range(0, n, at_once):
        part = slice(first, first + at_once)
        own = taps if taps.shape[0] == 1 else taps[part]
        out[part] = reference_ops.convolve_fft(stack[part], own, rows, columns, backend)
    return out


def _interpolate(backend: Backend, clean: Any, bad: Any, dirty: np.ndarray, taps: np.ndarray, boundary: str) -> Any:
    """Convolve `clean` (bad pixels 0) and divide by the share of the kernel that fell on good pixels.

    The images with bad pixels go in float64 if the FFT is used: in a hole its rounding would pass for weight.
    """
    xp, n = backend.xp, clean.shape[0]
    own = taps if taps.shape[0] == 1 else taps[dirty]
    if not _has_sum(own).all():
        msg = (
            "kernel sums to zero, so bad pixels cannot be interpolated by weight; fill them before, or pass "
            "nan='propagate'"
        )
        raise InputError(msg)
    total = own.sum(axis=(1, 2))[:, None, None]
    work = np.float64 if _route(backend, own, clean.dtype, holes=True)[0] == "fft" else clean.dtype
    which = xp.asarray(dirty)
    values = _apply(backend, clean[which].astype(work), own, boundary, holes=True)
    weight = _apply(backend, (~bad[which]).astype(work), own, boundary, holes=True)
    if boundary == "zero":  # the zeros outside count as good pixels
        whole = _apply(backend, xp.ones((own.shape[0], *clean.shape[1:]), work), own, boundary, holes=True)
        weight += xp.asarray(total.astype(weight.dtype)) - whole
    share = weight / xp.asarray(total.astype(weight.dtype))
    enough = xp.abs(weight) > MIN_WEIGHT * xp.asarray(np.abs(own).sum(axis=(1, 2))[:, None, None].astype(weight.dtype))
    fixed = xp.where(enough, values / xp.where(enough, share, 1), np.nan).astype(clean.dtype)
    if dirty.size == n:
        return fixed
    out = xp.empty_like(clean)
    out[which] = fixed
    rest = np.setdiff1d(np.arange(n), dirty)
    others = xp.asarray(rest)
    out[others] = _apply(backend, clean[others], taps if taps.shape[0] == 1 else taps[rest], boundary)
    return out
