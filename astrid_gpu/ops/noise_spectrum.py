r"""Coloured noise: the power spectrum q(k) of background noise from its autocorrelation, and a filter that whitens it.

The noise of resampled, drizzled or coadded images is correlated from pixel to pixel. With sigma the standard deviation
of a pixel and a(d) the correlation of two pixels d apart (a(0) = 1), its power spectrum is sigma² q(k), where

.. math:: q(k) = h(\hat a, 0.003), \quad \hat a(k) = \sum_d a(d) e^{-2 \pi i k d}, \quad
    h(\hat a, f) = \frac{\hat a + \sqrt{\hat a^2 + (2 f \max \hat a)^2}}{1 + \sqrt{1 + (2 f)^2}}

The mean of â over all frequencies is 1. A measured â may fall to zero or below; h is â where that is far above f of its
maximum, f of its maximum where it is 0, without a kink, which keeps kernels compact; and 1 for white noise.

The filters of ZOGY do not have to go as far: they take the noise to be q_f(k) = h(â, 0.05). No frequency is then
trusted more than twenty times as much as another for having less noise, which would be trusting PSFs where they are
next to nothing. Their noise is reckoned with q: it is right whatever the filter.

ZOGY needs nothing else: with N̂ / sqrt(q_f) in the place of N̂, P̂_n / sqrt(q_f) in that of P̂_n, and the same of R, the
equations for white noise are those for

.. math:: den(k) = \sigma_n^2 q_n F_r^2 |\hat P_r|^2 + \sigma_r^2 q_r F_n^2 |\hat P_n|^2

(q_n and q_r being those filters' q_f.) Ŝ, D̂ and F_S come out the same, and k̂_n comes out as k̂_n sqrt(q_f). Noise of
variance V_N(x) is white noise, convolved with the zero-phase kernel of sqrt(q): so V_N is convolved with the square of
the kernel of k̂_n sqrt(q), which is what came out times sqrt(q / q_f). Only F_D and P_D have to be told of q_f(0).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from astrid_gpu.ops.fourier import transfer_function

__all__ = ["FILTER_FLOOR", "NOISE_FLOOR", "convolved", "filter_power", "kernel_stamps", "noise_power", "trimmed"]

FILTER_FLOOR = 0.05
"""Least noise power that a filter counts on, as a fraction of its maximum."""

NOISE_FLOOR = 0.003
"""Least noise power that there is taken to be, likewise."""

_PEAK_GRID = 64
_STAMP_GRID = 256
_CUT = 1e-7


def noise_power(
    stamps: Any, shape: tuple[int, int], rfft2: Callable[[Any], Any] = np.fft.rfft2, *, xp: Any = np
) -> Any:
    """Return q (m, py, px // 2 + 1), real and positive, on the half spectrum of a frame of `shape`.

    Parameters
    ----------
    stamps : float64 array, shape (m, ky, kx)
        Autocorrelation, on the host: odd sides no larger than `shape`, symmetric about the middle pixel, which is 1.
    shape : (py, px)
    rfft2 : callable
        Forward real transform over the last two axes, of arrays of `xp`.
    """
    return _power(stamps, shape, NOISE_FLOOR, rfft2, xp)


def filter_power(
    stamps: Any, shape: tuple[int, int], rfft2: Callable[[Any], Any] = np.fft.rfft2, *, xp: Any = np
) -> Any:
    """Return q_f (m, py, px // 2 + 1); arguments as of `noise_power`."""
    return _power(stamps, shape, FILTER_FLOOR, rfft2, xp)


def _power(stamps: Any, shape: tuple[int, int], floor: float, rfft2: Callable[[Any], Any], xp: Any) -> Any:
    power = transfer_function(xp.asarray(stamps), shape, rfft2, xp=xp).real
    least = xp.asarray(floor * _peak(stamps))[:, None, None]
    return (power + xp.sqrt(power**2 + 4 * least**2)) / (1 + np.sqrt(1 + 4 * floor**2))


def _peak(stamps: np.ndarray) -> np.ndarray:
    """Return max â (m,), from one grid whatever that of the frame."""
    side = max(_PEAK_GRID, *stamps.shape[1:])
    return transfer_function(stamps, (side, side), np.fft.rfft2).real.max(axis=(1, 2))


def kernel_stamps(stamps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the kernels of 1 / sqrt(q_f) and of sqrt(q / q_f) as odd, centred stamps (m, ky, kx) float64.

    For backends that want stamps. Cut where all but 1e-7 of the sum of absolute values lies within; at k = 0 exact.
    """
    side = max(_STAMP_GRID, 1 << int(np.ceil(np.log2(3 * max(stamps.shape[1:])))))
    q, filtered = noise_power(stamps, (side, side)), filter_power(stamps, (side, side))
    one, two = (_kernel(spectrum, side) for spectrum in (1 / np.sqrt(filtered), np.sqrt(q / filtered)))
    return one, two


def _kernel(spectrum: np.ndarray, side: int) -> np.ndarray:
    """Return the kernels of real half spectra as odd stamps, trimmed."""
    kernels = np.fft.fftshift(np.fft.irfft2(spectrum, s=(side, side)), axes=(1, 2))[:, 1:, 1:]
    kernels = trimmed(kernels, _CUT)
    return kernels * (spectrum[:, 0, 0] / kernels.sum(axis=(1, 2)))[:, None, None]


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
