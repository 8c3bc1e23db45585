"""True convolution of images with small kernels: directly, tap by tap, or by FFT.

The kernel is flipped, as the mathematics has it: ``out[y, x] = sum_ji k[j, i] image[y - j + cy, x - i + cx]`` with
the centre of the kernel at ``(cy, cx) = (ky // 2, kx // 2)``: the middle of an odd side, the pixel after the middle of
an even one (as in scipy.ndimage and `numpy.fft.fftshift`). What lies outside the image is said once, by
`border_index`: a table from the rows (columns) of the bordered image to those of the image.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["BOUNDARIES", "border", "border_index", "convolve", "convolve_fft", "kernel_spectrum", "reaches", "separate"]

BOUNDARIES = ("reflect", "zero", "wrap")


def border_index(n: int, side: int, boundary: str) -> np.ndarray:
    """Return where the pixels of a bordered axis come from.

    Parameters
    ----------
    n : int
        Pixels of the image along the axis.
    side : int
        Side of the kernel. The border is ``side - 1 - side // 2`` pixels before and ``side // 2`` after.
    boundary : {"reflect", "zero", "wrap"}
        "reflect": d c b a | a b c d | d c b a. "zero": 0 outside. "wrap": periodic. Any width: reflections repeat.

    Returns
    -------
    array of int32, shape (n + side - 1,)
        Index into the image, -1 for zero.
    """
    where = np.arange(n + side - 1) - (side - 1 - side // 2)
    if boundary == "zero":
        where = np.where((where >= 0) & (where < n), where, -1)
    elif boundary == "wrap":
        where = where % n
    else:
        where = where % (2 * n)
        where = np.minimum(where, 2 * n - 1 - where)
    return where.astype(np.int32)


def border(images: Any, rows: np.ndarray, columns: np.ndarray, *, xp: Any = np, out: Any = None) -> Any:
    """Return a stack with its border: ``images[:, rows][:, :, columns]``, 0 where an index is -1.

    Parameters
    ----------
    out : array, shape (n, rows.size, columns.size), optional
        Where to put it.
    """
    _, ny, nx = images.shape
    if out is None:
        out = xp.empty((images.shape[0], rows.size, columns.size), images.dtype)
    y, x = _start(rows, ny), _start(columns, nx)
    inner = out[:, y : y + ny]
    inner[:, :, x : x + nx] = images  # all but the border is one plain copy
    for part in (slice(0, x), slice(x + nx, None)):
        inner[:, :, part] = images[:, :, xp.asarray(columns[part])]
        inner[:, :, part] *= xp.asarray(columns[part] >= 0)
    for part in (slice(0, y), slice(y + ny, None)):
        out[:, part] = inner[:, xp.asarray(rows[part])]
        out[:, part] *= xp.asarray(rows[part] >= 0)[:, None]
    return out


def _start(where: np.ndarray, n: int) -> int:
    """Return where a run 0, 1, ..., n - 1 begins in a table of `border_index`."""
    return int(np.argmax((where[: where.size - n + 1] == 0) & (where[n - 1 :] == n - 1)))


def convolve(images: Any, kernel: np.ndarray, rows: np.ndarray, columns: np.ndarray, *, xp: Any = np) -> Any:
    """Convolve a stack directly, one tap after the other.

    Parameters
    ----------
    images : array, shape (n, ny, nx), float32 or float64
        Finite.
    kernel : array of float64 in host memory, shape (1, ky, kx) or (n, ky, kx)
        Not normalised here.
    rows, columns : arrays of int32 in host memory, shapes (ny + ky - 1,) and (nx + kx - 1,)
        From `border_index`.
    xp : module
        Array namespace of `images`.

    Returns
    -------
    array, shape (n, ny, nx)
        In the dtype of `images`; summed in float64 here, in that dtype by the fast twins.

    Notes
    -----
    Cost: ``ky kx`` multiplications and additions a pixel.
    """
    _, ny, nx = images.shape
    _, ky, kx = kernel.shape
    bordered = border(images, rows, columns, xp=xp)
    taps = xp.asarray(kernel)
    total = xp.zeros(images.shape, xp.float64)
    for j in range(ky):
        for i in range(kx):
            y, x = ky - 1 - j, kx - 1 - i
            total += taps[:, j, i, None, None] * bordered[:, y : y + ny, x : x + nx]
    return total.astype(images.dtype)


def kernel_spectrum(kernel: np.ndarray, rows: np.ndarray, columns: np.ndarray, dtype: np.dtype, fft: Any) -> Any:
    """Return the transform of kernels (n, ky, kx) on the frame that `convolve_fft` uses."""
    taps = np.zeros((kernel.shape[0], fft.next_fast_len(rows.size), fft.next_fast_len(columns.size)), dtype)
    taps[:, : kernel.shape[1], : kernel.shape[2]] = kernel
    return fft.rfft2(fft.asarray(taps))


def convolve_fft(
    images: Any, kernel: np.ndarray, rows: np.ndarray, columns: np.ndarray, fft: Any, spectrum: Any = None
) -> Any:
    """Convolve a stack by FFT; arguments and result as in `convolve`.

    The transforms are as long as the image with its border, so what wraps around falls on the border and is cut off.
    The mean of every image is taken out first and put back after: rounding is relative to what is left.

    Parameters
    ----------
    fft : Backend
        Anything with `xp`, `asarray`, `rfft2`, `irfft2` and `next_fast_len`.
    spectrum : array, optional
        `kernel_spectrum` of `kernel`, where it is at hand.

    Notes
    -----
    Cost: two real FFTs of the bordered image, and one of each kernel.
    """
    xp = fft.xp
    _, ny, nx = images.shape
    _, ky, kx = kernel.shape
    shape = (fft.next_fast_len(rows.size), fft.next_fast_len(columns.size))
    mean = images.mean(axis=(1, 2), keepdims=True, dtype=xp.float64).astype(images.dtype)
    frame = xp.zeros((images.shape[0], *shape), images.dtype)
    bordered = border(images, rows, columns, xp=xp, out=frame[:, : rows.size, : columns.size])
    bordered -= mean
    product = fft.rfft2(frame)
    product *= kernel_spectrum(kernel, rows, columns, images.dtype, fft) if spectrum is None else spectrum
    full = fft.irfft2(product, shape)
    back = mean * xp.asarray(kernel.sum(axis=(1, 2))[:, None, None].astype(images.dtype))
    return full[:, ky - 1 : ky - 1 + ny, kx - 1 : kx - 1 + nx] + back


def separate(kernel: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray] | None:
    """Return kernels (n, ky, kx) as columns (n, ky, 1) and rows (n, 1, kx) whose products they are, or None.

    The only candidates are the column and the row through the largest value. They count if their product is the
    kernel to `tolerance` of that value, in all kernels of the stack.
    """
    n, _, kx = kernel.shape
    largest = np.abs(kernel).reshape(n, -1).argmax(axis=1)
    at = np.arange(n)
    column, row = kernel[at, :, largest % kx], kernel[at, largest // kx]
    peak = np.abs(row).max(axis=1)[:, None, None]
    if not peak.all():
        return None
    column, row = column[:, :, None] / row[at, largest % kx][:, None, None], row[:, None]
    return (column, row) if np.all(np.abs(column * row - kernel) <= tolerance * peak) else None


def reaches(bad: Any, rows: np.ndarray, columns: np.ndarray, *, xp: Any = np) -> Any:
    """Return where a kernel of the size behind `rows` and `columns` touches a bad pixel, (n, ny, nx) bool.

    Parameters
    ----------
    bad : array of bool, shape (n, ny, nx)
    """
    found = border(bad, rows, columns, xp=xp)
    for axis, n in ((1, bad.shape[1]), (2, bad.shape[2])):
        total = xp.cumsum(found.astype(xp.int32), axis=axis)
        width = found.shape[axis] - n + 1
        last = xp.take(total, xp.arange(width - 1, width - 1 + n), axis=axis)
        before = xp.take(total, xp.maximum(xp.arange(n) - 1, 0), axis=axis)
        inside = (xp.arange(n) > 0).reshape((-1, 1) if axis == 1 else (1, -1))
        found = last - before * inside > 0
    return found
