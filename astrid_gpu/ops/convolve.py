"""True convolution of images with small kernels: directly, tap by tap, or by FFT.

The kernel is flipped, as the mathematics has it: ``out[y, x] = sum_ji k[j, i] image[y - j + cy, x - i + cx]`` with
the centre of the kernel at ``(cy, cx) = (ky // 2, kx // 2)``: the middle of an odd side, the pixel after the middle of
an even one (as in scipy.ndimage and `numpy.fft.fftshift`). What lies outside the image is said once, by
`border_index`: a table from the rows (columns) of the bordered image to those of the image.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "BOUNDARIES",
    "TileAxis",
    "border",
    "border_index",
    "convolve",
    "convolve_fft",
    "convolve_separable",
    "kernel_spectrum",
    "reaches",
    "separate",
    "tile_axis",
]

BOUNDARIES = ("reflect", "zero", "wrap")
# An FFT costs a pixel the more the less of it fits in cache, about as 1 + length / CACHED an axis. Processor time of
# one thread (EPYC, float32, 41 x 41 taps, in turns): 2048^2 pixels 63 ms in tiles, 96 whole; 4096^2 253 and 555 ms.
TILES = (256, 384, 512, 768, 1024, 1536, 2048)
CACHED = 1500


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


def convolve_separable(
    images: Any, column: np.ndarray, row: np.ndarray, rows: np.ndarray, columns: np.ndarray, *, xp: Any = np
) -> Any:
    """Convolve a stack with the products of columns (n, ky, 1) and rows (n, 1, kx); else as `convolve`.

    Fast twins may return None for a type they are not made for.
    """
    _, ny, nx = images.shape
    down = convolve(images, column, rows, np.arange(nx, dtype=np.int32), xp=xp)
    return convolve(down, row, np.arange(ny, dtype=np.int32), columns, xp=xp)


class TileAxis(NamedTuple):
    """How an axis is cut for the FFT: `tiles` tiles that give `step` pixels each, from transforms of `length`."""

    tiles: int
    step: int
    length: int


def tile_axis(n: int, side: int, fft: Any) -> TileAxis:
    """Return how to cut an axis of `n` pixels for a kernel of `side`: as a whole, or in the tiles that cost least."""
    whole = fft.next_fast_len(n + side - 1)
    options = [TileAxis(-(-n // (t - side + 1)), t - side + 1, t) for t in TILES if 2 * side <= t < whole]
    return min(
        [TileAxis(1, n, whole), *options], key=lambda axis: axis.tiles * axis.length * (1 + axis.length / CACHED)
    )


def kernel_spectrum(kernel: np.ndarray, shape: tuple[int, int], dtype: np.dtype, fft: Any) -> Any:
    """Return the transforms of kernels (n, ky, kx), each in the corner of a tile of `shape`."""
    taps = np.zeros((kernel.shape[0], *shape), dtype)
    taps[:, : kernel.shape[1], : kernel.shape[2]] = kernel
    return fft.rfft2(fft.asarray(taps))


def convolve_fft(images: Any, kernel: np.ndarray, rows: np.ndarray, columns: np.ndarray, fft: Any) -> Any:
    """Convolve a stack by FFT; arguments and result as in `convolve`.

    Overlap-save: the bordered image is cut into tiles that overlap by the kernel, small enough to stay in cache; what
    wraps around within a tile falls on the overlap and is cut off. The mean of every image is taken out first and
    put back after: rounding is relative to what is left.

    Parameters
    ----------
    fft : Backend
        Anything with `xp`, `asarray`, `rfft2`, `irfft2` and `next_fast_len`. Fast twins do without, and may return None
        for types and kernels they are not made for.

    Notes
    -----
    Cost: two real FFTs of the bordered image, a third more for the overlap, and one of a tile for each kernel.
    """
    xp = fft.xp
    n, ny, nx = images.shape
    _, ky, kx = kernel.shape
    down, across = tile_axis(ny, ky, fft), tile_axis(nx, kx, fft)
    tile = (down.length, across.length)
    spectrum = kernel_spectrum(kernel, tile, images.dtype, fft)[:, None]
    mean = images.mean(axis=(1, 2), keepdims=True, dtype=xp.float64).astype(images.dtype)
    frame_shape = ((down.tiles - 1) * down.step + down.length, (across.tiles - 1) * across.step + across.length)
    frame = xp.zeros((n, *frame_shape), images.dtype)
    bordered = border(images, rows, columns, xp=xp, out=frame[:, : rows.size, : columns.size])
    bordered -= mean
    out = xp.empty_like(images)
    for y in range(0, ny, down.step):
        band, high = frame[:, y : y + down.length], min(down.step, ny - y)
        starts = range(0, nx, across.step)
        tiles = xp.stack([band[:, :, x : x + across.length] for x in starts], axis=1)
        product = fft.rfft2(tiles.reshape(-1, *tile)).reshape(n, len(starts), tile[0], -1)
        product *= spectrum
        full = fft.irfft2(product.reshape(-1, *product.shape[2:]), tile).reshape(n, len(starts), *tile)
        for i, x in enumerate(starts):
            wide = min(across.step, nx - x)
            out[:, y : y + high, x : x + wide] = full[:, i, ky - 1 : ky - 1 + high, kx - 1 : kx - 1 + wide]
    out += mean * xp.asarray(kernel.sum(axis=(1, 2))[:, None, None].astype(images.dtype))
    return out


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
