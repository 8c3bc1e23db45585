"""From PSF stamps to spectra of any frame, and on a small grid in double precision to the score kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu.backends.cuda.context import Context, blocks_for
from astrid_gpu.backends.cuda.plans import smooth_length
from astrid_gpu.backends.cuda.signature import DOUBLE

__all__ = ["SmallGrid", "StampSpectrum", "first_grid", "next_grid", "scale_spectra"]

_THREADS = 128
_ROWS = 8  # SPECTRUM_ROWS of zogy_stamps.cuh


def first_grid(padded: tuple[int, int], side: int) -> tuple[int, int]:
    """Return the grid to try first for kernels of PSFs whose larger stamp is `side` wide; never above the frame."""
    start = smooth_length(max(128, 4 * side))
    return min(start, padded[0]), min(start, padded[1])


def next_grid(grid: tuple[int, int], padded: tuple[int, int]) -> tuple[int, int]:
    """Return a grid of about twice the side; the frame itself at last, where the kernels are exact."""
    y, x = (min(smooth_length(2 * g), p) for g, p in zip(grid, padded, strict=True))
    return y, x


class StampSpectrum:
    """Spectra of stamps whose middle pixel lies on pixel (0, 0) of a frame, summed directly in double precision.

    Stamps have few pixels: two short sums per frequency cost less than a transform of a frame in double precision and
    keep every digit of frequencies where a PSF all but vanishes.

    Parameters
    ----------
    ctx : Context
    side : (ky, kx)
        Odd.
    frame : (py, px)
    most : int
        Stamps at a time; memory for them is taken here.
    double : bool
        Give complex128 spectra instead of complex64.
    """

    def __init__(self, ctx: Context, side: tuple[int, int], frame: tuple[int, int], most: int, *, double: bool) -> None:
        (self._ky, self._kx), (self._py, px) = side, frame
        self._hx = px // 2 + 1
        self._across, self._down = ctx.plans.constant(("phases", side, frame), lambda: _phases(ctx.xp, side, frame))
        self._lines = ctx.xp.empty((most, self._ky, self._hx), np.complex128)
        self._first = ctx.kernel("zogy.cu", "stamp_lines")
        self._second = ctx.kernel("zogy.cu", "stamp_spectrum", (DOUBLE,) if double else ())

    def __call__(self, stamps: Any, out: Any, count: int) -> None:
        """Write the spectra of the first `count` stamps (m, ky, kx) float64 to `out` (m, py, hx)."""
        columns = blocks_for(self._hx, _THREADS)
        ky, kx, hx, py = np.int32(self._ky), np.int32(self._kx), np.int32(self._hx), np.int32(self._py)
        self._first((columns, self._ky, count), (_THREADS,), (stamps, self._across, self._lines, ky, kx, hx))
        grid = (columns, blocks_for(self._py, _ROWS), count)
        self._second(grid, (_THREADS,), (self._lines, self._down, out, ky, py, hx))


def _phases(xp: Any, side: tuple[int, int], frame: tuple[int, int]) -> tuple[Any, Any]:
    """Return the phases along x (kx, hx) and along y (py, ky), products of integers reduced before the division."""
    (ky, kx), (py, px) = side, frame
    across = np.outer(np.arange(kx) - kx // 2, np.arange(px // 2 + 1)) % px
    down = np.outer(np.arange(py), np.arange(ky) - ky // 2) % py
    return xp.asarray(np.exp(-2j * np.pi / px * across)), xp.asarray(np.exp(-2j * np.pi / py * down))


def scale_spectra(ctx: Context, spectra: Any, factors: Any, count: int, options: tuple[str, ...] = ()) -> None:
    """Multiply the first `count` half spectra (m, py, hx) by the real parts of others, or of one for all."""
    size = spectra.shape[1] * spectra.shape[2]
    stride = np.int64(size if factors.shape[0] > 1 else 0)
    kernel = ctx.kernel("zogy.cu", "scale_spectra", options)
    kernel((blocks_for(size, _THREADS), count), (_THREADS,), (spectra, factors, np.int64(size), stride))


class SmallGrid:
    """k_n and k_r of up to `most` pairs on a periodic grid, and the numbers that follow from them.

    Parameters
    ----------
    ctx : Context
    grid : (gy, gx)
    sides : ((ky, kx), (ky, kx))
        Of the stamps of P_n and P_r.
    most : int
        Pairs at a time.
    own : (bool, bool)
        Whether P_n and P_r differ from pair to pair.

    Attributes
    ----------
    kernels : (array, array)
        k_n and k_r, float64 (most, gy, gx), after `make`.
    """

    def __init__(self, ctx: Context, grid: tuple[int, int], sides: Any, most: int, own: tuple[bool, bool]) -> None:
        self._ctx, xp = ctx, ctx.xp
        self._factors: dict[Any, Any] = {}
        self.grid = grid
        self._size = grid[0] * (grid[1] // 2 + 1)
        self._own = own
        half = (grid[0], grid[1] // 2 + 1)
        lanes = [most if each else 1 for each in own]
        self._psfs = [xp.empty((m, *half), np.complex128) for m in lanes]
        self._hats = [xp.empty((most, *half), np.complex128) for _ in range(2)]
        self.kernels = tuple(xp.empty((most, *grid), np.float64) for _ in range(2))
        self._spectra = [StampSpectrum(ctx, side, grid, m, double=True) for side, m in zip(sides, lanes, strict=True)]
        self._plan = ctx.plans.get(grid, most, "Z2D")
        self._make = ctx.kernel("zogy.cu", "score_kernels")
        self._numbers = ctx.kernel("zogy.cu", "kernel_numbers")
        self._many = most > 1

    def make(self, stamps: tuple[Any, Any], params: Any, count: int, behind: Any = (None, None)) -> None:
        """Compute the kernels of `count` pairs: stamps (m, ky, kx) float64, params (count, 5) float64.

        `behind` are symmetric stamps (m, ky, kx) to convolve k_n and k_r with, or None.
        """
        for each, psf, own, spectrum in zip(stamps, self._psfs, self._own, self._spectra, strict=True):
            spectrum(each, psf, count if own else 1)
        norm = np.float64(1 / (self.grid[0] * self.grid[1]))
        self._make(
            (blocks_for(self._size, _THREADS), count),
            (_THREADS,),
            (*self._psfs, params, *self._hats, norm, np.int32(self._size), *self._strides()),
        )
        for hat, kernel, stamp in zip(self._hats, self.kernels, behind, strict=True):
            if stamp is not None:
                self._scale(hat, stamp, count)
            self._plan(hat, kernel)

    def reserve(self, stamps: Any) -> tuple[StampSpectrum, Any]:
        """Return what makes the spectra of stamps to convolve with, and memory for them; made once for each shape."""
        lanes = len(self._hats[0]) if stamps.shape[0] > 1 else 1
        key = lanes, tuple(stamps.shape[1:])
        if key not in self._factors:
            made = StampSpectrum(self._ctx, key[1], self.grid, lanes, double=True)
            self._factors[key] = made, self._ctx.xp.empty((lanes, self.grid[0], self.grid[1] // 2 + 1), np.complex128)
        return self._factors[key]

    def _scale(self, hat: Any, stamps: Any, count: int) -> None:
        """Multiply spectra by those of symmetric stamps."""
        spectrum, factors = self.reserve(stamps)
        spectrum(stamps, factors, count if len(factors) > 1 else 1)
        scale_spectra(self._ctx, hat, factors, count, (DOUBLE,))

    def numbers(self, params: Any, gains: Any, scales: Any, tails: Any, count: int, *, shared: bool) -> None:
        """Write `scales` (count, 3) and `tails` (count) of pairs that share one pair of kernels, or have their own."""
        gy, gx = self.grid
        self._numbers(
            (count,),
            (256,),
            (
                *self._psfs, params, gains, *self.kernels, scales, tails, np.int32(gy), np.int32(gx), *self._strides(),
                np.int32(0 if shared else gy * gx),
            ),
        )  # fmt: skip

    def _strides(self) -> tuple[np.int32, np.int32]:
        first, second = (np.int32(self._size if own else 0) for own in self._own)
        return first, second
