r"""Coloured noise: the power spectrum q(k) of background noise from its autocorrelation, and what makes it white.

The noise of resampled, drizzled or coadded images is correlated from pixel to pixel. With sigma the standard deviation
of a pixel and a(d) the correlation of two pixels d apart (a(0) = 1), its power spectrum is sigma² q(k), where

.. math::

    q(k) = \tfrac12 \left(\hat a + \sqrt{\hat a^2 + 4 f^2}\right), \quad \hat a(k) = \sum_d a(d) e^{-2 \pi i k d},
    \quad f = 0.03 \max \hat a.

The mean of â over all frequencies is 1. A measured â may fall to zero or below; q is â where that is far above f and
f where it is 0, without a kink, which keeps the kernels below compact. So no frequency is trusted more than 1 / f.

ZOGY needs nothing else: with N̂ / sqrt(q_n) in the place of N̂, P̂_n / sqrt(q_n) in that of P̂_n, and the same of R, the
equations for white noise are those for

.. math:: den(k) = \sigma_n^2 q_n F_r^2 |\hat P_r|^2 + \sigma_r^2 q_r F_n^2 |\hat P_n|^2

Ŝ, D̂ and F_S come out the same, k̂_n comes out as k̂_n sqrt(q_n), whose square is what the variances are convolved
with (noise of variance V_N(x) is white noise, convolved with the zero-phase kernel of sqrt(q_n)), and only F_D and P_D
have to be told of q(0).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from astrid_gpu.ops.fourier import transfer_function

__all__ = ["NOISE_FLOOR", "convolved", "noise_floor", "noise_power", "trimmed", "whitener", "whitening_stamps"]

NOISE_FLOOR = 0.03
"""Noise power that is assumed where the autocorrelation says that there is none, as a fraction of its maximum."""

_FLOOR_GRID = 64
_STAMP_GRID = 256
_CUT = 1e-7


def noise_floor(stamps: np.ndarray) -> np.ndarray:
    """Return f (m,) of autocorrelation stamps (m, ky, kx), odd and centred: from the maximum of â on one fixed grid."""
    side = max(_FLOOR_GRID, *stamps.shape[1:])
    return NOISE_FLOOR * transfer_function(stamps, (side, side), np.fft.rfft2).real.max(axis=(1, 2))


def noise_power(
    stamps: Any, floors: Any, shape: tuple[int, int], rfft2: Callable[[Any], Any] = np.fft.rfft2, *, xp: Any = np
) -> Any:
    """Return q (m, py, px // 2 + 1), real and positive, on the half spectrum of a frame of `shape`.

    Parameters
    ----------
    stamps : float64 array, shape (m, ky, kx)
        Autocorrelation: odd sides no larger than `shape`, symmetric about the middle pixel, which is 1.
    floors : array, shape (m,)
        `noise_floor`.
    shape : (py, px)
    rfft2 : callable
        Forward real transform over the last two axes.
    """
    power = transfer_function(stamps, shape, rfft2, xp=xp).real
    floor = xp.asarray(floors)[:, None, None]
    return (power + xp.sqrt(power**2 + 4 * floor**2)) / 2


def whitener(
    stamps: Any, floors: Any, shape: tuple[int, int], rfft2: Callable[[Any], Any] = np.fft.rfft2, *, xp: Any = np
) -> Any:
    """Return 1 / sqrt(q) (m, py, px // 2 + 1): what makes the noise white; arguments as of `noise_power`."""
    return 1 / xp.sqrt(noise_power(stamps, floors, shape, rfft2, xp=xp))


def whitening_stamps(stamps: np.ndarray, floors: np.ndarray) -> np.ndarray:
    """Return the kernels of 1 / sqrt(q) as odd, centred stamps (m, ky, kx) float64, for backends that want stamps.

    Cut where all but 1e-7 of the sum of absolute values lies within. Their transform at k = 0 is exactly that of q.
    """
    side = max(_STAMP_GRID, 1 << int(np.ceil(np.log2(3 * max(stamps.shape[1:])))))
    white = whitener(stamps, floors, (side, side))
    kernels = np.fft.fftshift(np.fft.irfft2(white, s=(side, side)), axes=(1, 2))[:, 1:, 1:]
    kernels = trimmed(kernels, _CUT)
    return kernels * (white[:, 0, 0] / kernels.sum(axis=(1, 2)))[:, None, None]


def trimmed(stamps: np.ndarray, cut: float) -> np.ndarray:
    """Return the middle of odd stamps (m, ky, kx) that holds all but `cut` of the sum of absolute values of each."""
    size = abs(stamps)
    for axis in (1, 2):
        line = size.sum(axis=3 - axis)
        middle = line.shape[1] // 2
        outer = line[:, :middle][:, ::-1] + line[:, middle + 1 :]
        beyond = outer[:, ::-1].cumsum(axis=1)[:, ::-1]  # what lies at a distance of 1 + k or more
        half = int((beyond > cut * line.sum(axis=1, keepdims=True)).sum(axis=1).max())
        inner = slice(middle - half, middle + half + 1)
        stamps, size = (a[:, inner] if axis == 1 else a[:, :, inner] for a in (stamps, size))
    return np.ascontiguousarray(stamps)


def convolved(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Return the convolutions of odd stamps (1 or m, ky, kx) with others, whole: (m, ky + ly - 1, kx + lx - 1)."""
    side = one.shape[1] + two.shape[1] - 1, one.shape[2] + two.shape[2] - 1
    return np.fft.irfft2(np.fft.rfft2(one, s=side) * np.fft.rfft2(two, s=side), s=side)
