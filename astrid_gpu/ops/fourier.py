"""Padding, transfer functions and half-spectrum sums for real FFTs over the last two axes.

Convention: forward transforms are unnormalised, inverse ones divide by the number of pixels (NumPy's). A half
spectrum has shape (..., py, px // 2 + 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["central_stamp", "half_sum", "padded_shape", "shift_phase", "transfer_function"]


def padded_shape(shape: tuple[int, int], reach: int, next_fast_len: Callable[[int], int]) -> tuple[int, int]:
    """Return the padded frame that keeps kernels of full width `reach` from wrapping round an image of `shape`.

    One band of at least `reach` pixels serves both sides, because the padded frame is periodic.
    """
    return next_fast_len(shape[0] + reach), next_fast_len(shape[1] + reach)


def transfer_function(stamps: Any, shape: tuple[int, int], rfft2: Callable[[Any], Any], *, xp: Any = np) -> Any:
    """Return the transform of odd, centred stamps placed with their middle pixel on pixel (0, 0).

    Parameters
    ----------
    stamps : array, shape (m, ky, kx), ky and kx odd and no larger than `shape`
    shape : (py, px)
        The padded frame.

    Returns
    -------
    array, shape (m, py, px // 2 + 1), complex
        P̂(k). Never made with fftshift, which misplaces odd frames by one pixel.
    """
    _, ky, kx = stamps.shape
    frame = xp.zeros((stamps.shape[0], *shape), dtype=stamps.dtype)
    frame[:, :ky, :kx] = stamps
    return rfft2(xp.roll(frame, (-(ky // 2), -(kx // 2)), axis=(1, 2)))


def central_stamp(frames: Any, side: tuple[int, int], *, xp: Any = np) -> Any:
    """Cut the odd `side` around pixel (0, 0) out of periodic `frames` (m, py, px): the inverse of placing a stamp."""
    ky, kx = side
    return xp.roll(frames, (ky // 2, kx // 2), axis=(1, 2))[:, :ky, :kx]


def half_sum(values: Any, px: int, *, xp: Any = np) -> Any:
    """Sum a real, Hermitian-symmetric quantity over the full frequency plane, given on the half spectrum.

    Columns 0 and, for even `px`, px/2 stand for themselves; each other one stands for two.
    """
    weights = xp.full(values.shape[-1], 2.0)
    weights[0] = 1.0
    if px % 2 == 0:
        weights[-1] = 1.0
    return (values * weights).sum(axis=(-2, -1))


def shift_phase(shape: tuple[int, int], dy: float, dx: float, *, xp: Any = np) -> Any:
    """Return the half-spectrum phase that moves an image by (+dy, +dx) pixels.

    On even sides the Nyquist row and column get the real part only, so that real images stay real.
    """
    py, px = shape
    fy, fx = xp.fft.fftfreq(py), xp.fft.rfftfreq(px)
    row, column = xp.exp(-2j * np.pi * fy * dy), xp.exp(-2j * np.pi * fx * dx)
    if py % 2 == 0:
        row[py // 2] = row[py // 2].real
    if px % 2 == 0:
        column[-1] = column[-1].real
    return row[:, None] * column[None, :]
