r"""The convolution kernels of ZOGY in real space, on a small grid: what tiles and fast backends work with.

D = d_n ⊗ N - d_r ⊗ R, S_N = k_n ⊗ N, S_R = k_r ⊗ R and V(S) = k_n² ⊗ V_N + k_r² ⊗ V_R are convolutions, and their
kernels have died away a few PSF widths from the middle, however large the frame is. So they are made once, in double
precision, on a grid that is only large enough to hold them; F_S, P_D and k² come out of the same grid. Equation
numbers as in `astrid_gpu.ops.zogy` (Zackay, Ofek & Gal-Yam 2016). Where noise is coloured the kernels that V_N and V_R
are convolved with are no longer the squares of those of S, but nothing else changes for whoever uses them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from astrid_gpu.ops import zogy
from astrid_gpu.ops.fourier import central_stamp, transfer_function
from astrid_gpu.ops.noise_spectrum import filter_power, noise_power

__all__ = ["KernelTails", "ZogyKernels", "kernel_grid", "zogy_kernels"]

SMALLEST_GRID = 256
"""Side of the grid for PSF stamps up to a third of it: enough for halos of 64 pixels, twice over."""


@dataclass(frozen=True)
class KernelTails:
    """What lies outside the square of half width `halo` round the middle of the kernels; worst of the stack.

    `score` values are in units of the noise of S, `difference` values of the noise of D: `*_rms` is the noise that
    the outside carries, `*_peak` the largest single weight there: no star of unit flux can show more than that.
    """

    halo: int
    score_rms: float
    score_peak: float
    difference_rms: float
    difference_peak: float


@dataclass(frozen=True)
class ZogyKernels:
    """Kernels (m, g, g) float64 on a periodic grid, middle at (0, 0), for images in units of their own noise.

    Attributes
    ----------
    score : (k_n, k_r), eqs. 29, 28
    difference : (d_n, d_r), eq. 13: D is `difference[0]` ⊗ N - `difference[1]` ⊗ R
    weights : (w_n, w_r)
        V(S) = w_n² ⊗ V_N + w_r² ⊗ V_R: k_n and k_r themselves, behind the zero-phase kernels of sqrt(q) where noise is
        coloured.
    psf : P_D (m, g, g), eq. 14, sum 1
    norm : F_S (m,), eq. 42
    transfer : (P̂_n, P̂_r), half spectra (1 or m, g, g / 2 + 1)
    colour : (sqrt(q_n), sqrt(q_r)), likewise; None for white noise
    """

    score: tuple[np.ndarray, np.ndarray]
    difference: tuple[np.ndarray, np.ndarray]
    weights: tuple[np.ndarray, np.ndarray]
    psf: np.ndarray
    norm: np.ndarray
    transfer: tuple[np.ndarray, np.ndarray]
    colour: tuple[Any, Any] = (None, None)
    _measured: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def star_residuals(self, halo: int) -> tuple[float, float]:
        """Return how much of a star of unit flux shows in S, and in D, if the kernels are cut at `halo`.

        The largest value that one image's star leaves where the whole kernels would have cancelled it, in units of the
        noise of S and of D. Far less than the `*_peak` of `tails` where the tails are of frequencies that no star has.
        """
        if ("star", halo) not in self._measured:
            self._measured["star", halo] = self._star_residuals(halo)
        return self._measured["star", halo]

    def _star_residuals(self, halo: int) -> tuple[float, float]:
        shown = []
        for kernels, noise in ((self.score, self._noise(self.weights)), (self.difference, self._noise(self._white()))):
            left = np.zeros(len(noise))
            for kernel, transfer in zip(kernels, self.transfer, strict=True):
                outside = kernel.copy()
                near = np.arange(-halo, halo + 1)
                outside[:, near[:, None], near] = 0
                stars = np.fft.irfft2(np.fft.rfft2(outside) * transfer, s=outside.shape[1:])
                left = np.maximum(left, abs(stars).max(axis=(1, 2)))
            shown.append(float((left / noise).max()))
        return shown[0], shown[1]

    def tails(self, halo: int) -> KernelTails:
        """Measure what the kernels hold beyond `halo` pixels from the middle, along y or x."""
        if ("tails", halo) not in self._measured:
            self._measured["tails", halo] = self._tails(halo)
        return self._measured["tails", halo]

    def _tails(self, halo: int) -> KernelTails:
        s_rms, s_peak = _outside(self.score, halo, self.colour)
        d_rms, d_peak = _outside(self.difference, halo, self.colour)
        noise, white = self._noise(self.weights), self._noise(self._white())
        return KernelTails(
            halo,
            float((s_rms / noise).max()),
            float((s_peak / noise).max()),
            float((d_rms / white).max()),
            float((d_peak / white).max()),
        )

    @staticmethod
    def _noise(kernels: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Return the noise (m,) that two kernels make of white noise."""
        return np.sqrt(sum((k**2).sum(axis=(1, 2)) for k in kernels))

    def _white(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the kernels of D that act on white noise."""
        n, r = (_coloured(k, colour) for k, colour in zip(self.difference, self.colour, strict=True))
        return n, r

    def psf_stamps(self, side: tuple[int, int]) -> np.ndarray:
        """Return P_D as odd stamps (m, ky, kx) of sum 1, as far as the grid holds them."""
        g = self.psf.shape[-1]
        stamps = central_stamp(self.psf, (min(side[0], g - 1), min(side[1], g - 1)))
        return stamps / stamps.sum(axis=(1, 2), keepdims=True)


def _coloured(kernel: np.ndarray, colour: np.ndarray | None) -> np.ndarray:
    """Return a kernel behind the zero-phase kernel of sqrt(q): what acts on white noise."""
    return kernel if colour is None else np.fft.irfft2(np.fft.rfft2(kernel) * colour, s=kernel.shape[1:])


def _outside(
    kernels: tuple[np.ndarray, np.ndarray], halo: int, colours: tuple[Any, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the noise that two kernels carry beyond `halo`, and their largest value there, each (m,)."""
    energy = peak = np.zeros(1)
    middle = slice(halo + 1, -halo or None)
    for kernel, colour in zip(kernels, colours, strict=True):
        square = kernel**2
        above, beside = square[:, middle], np.delete(square, np.s_[middle], axis=1)[:, :, middle]
        if colour is None:
            energy = energy + above.sum(axis=(1, 2)) + beside.sum(axis=(1, 2))
        else:
            outside, near = kernel.copy(), np.arange(-halo, halo + 1)
            outside[:, near[:, None], near] = 0
            energy = energy + (_coloured(outside, colour) ** 2).sum(axis=(1, 2))
        peak = np.maximum(peak, np.maximum(above.max(axis=(1, 2), initial=0), beside.max(axis=(1, 2), initial=0)))
    return np.sqrt(energy), np.sqrt(peak)


def kernel_grid(*sides: int) -> int:
    """Return the side of the grid for PSF stamps of these sides: a power of two, at least three stamps wide."""
    return max(SMALLEST_GRID, 1 << int(np.ceil(np.log2(3 * max(sides)))))


def zogy_kernels(
    psf_n: np.ndarray,
    psf_r: np.ndarray,
    params: np.ndarray,
    grid: int | None = None,
    *,
    noise: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
) -> ZogyKernels:
    """Make the kernels of D and S from PSF stamps.

    Parameters
    ----------
    psf_n, psf_r : float64 arrays, shape (1 or m, ky, kx)
        Odd, centred stamps of sum 1, on the host.
    params : array, shape (1 or m, 5)
        `ops.zogy.make_params`.
    grid : int, optional
        Side of the grid; default `kernel_grid`.
    noise : pair of float64 arrays (1 or m, ky, kx), or None
        Autocorrelations of the noise of N and of R (`ops.noise_spectrum`); None is white.

    Returns
    -------
    ZogyKernels
        m is the largest of the leading axes.

    Notes
    -----
    Cost per kernel set: 7 real FFTs of the grid in double precision, about 5 ms for 256 x 256 on one core; 5 more for
    coloured noise.
    """
    sides = [side for stamps in (psf_n, psf_r, *noise) if stamps is not None for side in stamps.shape[1:]]
    g = grid or kernel_grid(*sides)
    P = [transfer_function(p, (g, g), np.fft.rfft2) for p in (psf_n, psf_r)]
    colour = [None if a is None else np.sqrt(noise_power(a, (g, g))) for a in noise]
    white = [None if a is None else 1 / np.sqrt(filter_power(a, (g, g))) for a in noise]
    Pn, Pr = (_times(p, w) for p, w in zip(P, white, strict=True))  # of the images made white
    floor = params[:, 4, None, None]
    s_n, s_r, f_n, f_r = (params[:, i, None, None] for i in range(4))
    pn2, pr2 = (p.real**2 + p.imag**2 for p in (Pn, Pr))
    den = s_n**2 * f_r**2 * pr2 + s_r**2 * f_n**2 * pn2
    usable = den > floor
    inverse = np.where(usable, 1 / np.maximum(den, floor), 0)
    root = np.sqrt(inverse)
    both = np.sqrt(s_n**2 * f_r**2 + s_r**2 * f_n**2)
    k = f_n * f_r**2 * Pn.conj() * (pr2 * inverse), f_r * f_n**2 * Pr.conj() * (pn2 * inverse)  # eqs. 29, 28
    d = np.where(usable, f_r * Pr * root, f_r / both), np.where(usable, f_n * Pn * root, f_n / both)  # eq. 13
    psf = Pr * Pn * (both * root)  # eq. 14

    def back(spectrum: np.ndarray) -> np.ndarray:
        return np.fft.irfft2(np.broadcast_to(spectrum, den.shape), s=(g, g))

    (kn, kr), (dn, dr) = ([_times(each, w) for each, w in zip(pair, white, strict=True)] for pair in (k, d))
    score = back(kn), back(kr)
    coloured = any(a is not None for a in noise)
    weights = (back(_times(kn, colour[0])), back(_times(kr, colour[1]))) if coloured else score
    return ZogyKernels(
        score=score,
        difference=(back(dn), back(dr)),
        weights=weights,
        psf=back(psf / psf[:, :1, :1] if coloured else psf),
        norm=zogy.half_sum(f_n**2 * f_r**2 * pn2 * pr2 * inverse, g) / g**2,
        transfer=(P[0], P[1]),
        colour=(colour[0], colour[1]),
    )


def _times(spectrum: np.ndarray, factor: np.ndarray | None) -> np.ndarray:
    return spectrum if factor is None else spectrum * factor
