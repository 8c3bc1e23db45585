r"""The convolution kernels of ZOGY in real space, on a small grid: what tiles and fast backends work with.

D = d_n ⊗ N - d_r ⊗ R, S_N = k_n ⊗ N, S_R = k_r ⊗ R and V(S) = k_n² ⊗ V_N + k_r² ⊗ V_R are convolutions, and their
kernels have died away a few PSF widths from the middle, however large the frame is. So they are made once, in double
precision, on a grid that is only large enough to hold them; F_S, P_D and k² come out of the same grid. Equation
numbers as in `astrid_gpu.ops.zogy` (Zackay, Ofek & Gal-Yam 2016).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from astrid_gpu.ops import zogy
from astrid_gpu.ops.fourier import central_stamp, transfer_function

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
    psf : P_D (m, g, g), eq. 14, sum 1
    norm : F_S (m,), eq. 42
    transfer : (P̂_n, P̂_r), half spectra (1 or m, g, g / 2 + 1)
    """

    score: tuple[np.ndarray, np.ndarray]
    difference: tuple[np.ndarray, np.ndarray]
    psf: np.ndarray
    norm: np.ndarray
    transfer: tuple[np.ndarray, np.ndarray]
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
        for kernels in (self.score, self.difference):
            noise = np.sqrt(sum((k**2).sum(axis=(1, 2)) for k in kernels))
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
        s_rms, s_peak = _outside(self.score, halo)
        d_rms, d_peak = _outside(self.difference, halo)
        noise = np.sqrt(sum((k**2).sum(axis=(1, 2)) for k in self.score))
        white = np.sqrt(sum((k**2).sum(axis=(1, 2)) for k in self.difference))
        return KernelTails(
            halo,
            float((s_rms / noise).max()),
            float((s_peak / noise).max()),
            float((d_rms / white).max()),
            float((d_peak / white).max()),
        )

    def psf_stamps(self, side: tuple[int, int]) -> np.ndarray:
        """Return P_D as odd stamps (m, ky, kx) of sum 1, as far as the grid holds them."""
        g = self.psf.shape[-1]
        stamps = central_stamp(self.psf, (min(side[0], g - 1), min(side[1], g - 1)))
        return stamps / stamps.sum(axis=(1, 2), keepdims=True)


def _outside(kernels: tuple[np.ndarray, np.ndarray], halo: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the root of the energy of two kernels beyond `halo`, and their largest value there, each (m,)."""
    energy = peak = np.zeros(1)
    middle = slice(halo + 1, -halo or None)
    for kernel in kernels:
        square = kernel**2
        above, beside = square[:, middle], np.delete(square, np.s_[middle], axis=1)[:, :, middle]
        energy = energy + above.sum(axis=(1, 2)) + beside.sum(axis=(1, 2))
        peak = np.maximum(peak, np.maximum(above.max(axis=(1, 2), initial=0), beside.max(axis=(1, 2), initial=0)))
    return np.sqrt(energy), np.sqrt(peak)


def kernel_grid(*sides: int) -> int:
    """Return the side of the grid for PSF stamps of these sides: a power of two, at least three stamps wide."""
    return max(SMALLEST_GRID, 1 << int(np.ceil(np.log2(3 * max(sides)))))


def zogy_kernels(psf_n: np.ndarray, psf_r: np.ndarray, params: np.ndarray, grid: int | None = None) -> ZogyKernels:
    """Make the kernels of D and S from PSF stamps.

    Parameters
    ----------
    psf_n, psf_r : float64 arrays, shape (1 or m, ky, kx)
        Odd, centred stamps of sum 1, on the host.
    params : array, shape (1 or m, 5)
        `ops.zogy.make_params`.
    grid : int, optional
        Side of the grid; default `kernel_grid`.

    Returns
    -------
    ZogyKernels
        m is the largest of the three leading axes.

    Notes
    -----
    Cost per kernel set: 7 real FFTs of the grid in double precision, about 5 ms for 256 x 256 on one core.
    """
    g = grid or kernel_grid(*psf_n.shape[1:], *psf_r.shape[1:])
    Pn, Pr = (transfer_function(p, (g, g), np.fft.rfft2) for p in (psf_n, psf_r))
    floor = params[:, 4, None, None]
    s_n, s_r, f_n, f_r = (params[:, i, None, None] for i in range(4))
    pn2, pr2 = (p.real**2 + p.imag**2 for p in (Pn, Pr))
    den = s_n**2 * f_r**2 * pr2 + s_r**2 * f_n**2 * pn2
    usable = den > floor
    inverse = np.where(usable, 1 / np.maximum(den, floor), 0)
    root = np.sqrt(inverse)
    white = np.sqrt(s_n**2 * f_r**2 + s_r**2 * f_n**2)
    spectra = (
        f_n * f_r**2 * Pn.conj() * (pr2 * inverse),  # eq. 29
        f_r * f_n**2 * Pr.conj() * (pn2 * inverse),  # eq. 28
        np.where(usable, f_r * Pr * root, f_r / white),  # eq. 13
        np.where(usable, f_n * Pn * root, f_n / white),
        Pr * Pn * (white * root),  # eq. 14
    )
    kn, kr, dn, dr, pd = (np.fft.irfft2(np.broadcast_to(k, den.shape), s=(g, g)) for k in spectra)
    norm = zogy.half_sum(f_n**2 * f_r**2 * pn2 * pr2 * inverse, g) / g**2
    return ZogyKernels((kn, kr), (dn, dr), pd, norm, (Pn, Pr))
