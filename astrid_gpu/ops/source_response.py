"""What the matched filter answers to a source whose PSF is not the one that the filter was made with.

The flux alpha = S / F_S of a source of PSF P' is <k, P'> / <k, P> times its flux (k is k_n for one that the science
image has, k_r for one that the reference has). Both scalar products are sums over Fourier modes, and linear in P'.
Equation numbers as in `astrid_gpu.ops.zogy` (Zackay, Ofek & Gal-Yam 2016).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu.ops.fourier import transfer_function
from astrid_gpu.ops.noise_spectrum import filter_power
from astrid_gpu.ops.zogy import score_kernels

__all__ = ["source_response"]

_PLACES = 64  # filters made at once: some 20 MB


def source_response(
    psfs: tuple[np.ndarray, np.ndarray],
    params: np.ndarray,
    terms: tuple[np.ndarray | None, np.ndarray | None],
    *,
    noise: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return <k_n, T> and <k_r, T> of each of n filters and each stamp T of some.

    Parameters
    ----------
    psfs : pair of float64 arrays, shape (1 or n, ky, kx)
        P_n and P_r that the filters are made with: odd, centred, sum 1.
    params : array, shape (n, 5)
        `ops.zogy.make_params`.
    terms : pair of arrays (n_terms, ky, kx), or None
        Stamps of odd sides, of science and reference; None where nothing is asked.
    noise : pair of float64 arrays (1 or n, ky, kx), or None
        Autocorrelations of the noise; None is white.

    Returns
    -------
    pair of arrays (n, n_terms), or None
        On a periodic grid of at least twice the largest stamp: what wraps is less than 1e-4 of them.
    """
    given = [a for a in (*psfs, *terms, *noise) if a is not None]
    side = 1 << int(np.ceil(np.log2(2 * max(max(a.shape[1:]) for a in given))))
    weighted = [None if t is None else _weighted(t, side) for t in terms]
    parts: list[list[np.ndarray]] = [[], []]
    for start in range(0, len(params), _PLACES):
        rows = slice(start, start + _PLACES)
        chosen = [None if a is None else a if len(a) == 1 else a[rows] for a in (*psfs, *noise)]
        kernels = _filters(chosen, params[rows], side)
        for part, kernel, term in zip(parts, kernels, weighted, strict=True):
            if term is not None:
                part.append(kernel.view(float).reshape(len(kernel), -1) @ term.T)
    n, r = (np.concatenate(part) if part else None for part in parts)
    return n, r


def _filters(stamps: list[Any], params: np.ndarray, side: int) -> list[np.ndarray]:
    """Return k_n and k_r of both PSFs and noises, as they act on the images, (n, side, side / 2 + 1) each."""
    spectra = [transfer_function(p, (side, side), np.fft.rfft2) for p in stamps[:2]]
    white = [1.0 if a is None else 1 / np.sqrt(filter_power(a, (side, side))) for a in stamps[2:]]
    kernels = score_kernels(spectra[0] * white[0], spectra[1] * white[1], params)
    shape = (len(params), *kernels[0].shape[1:])
    return [np.ascontiguousarray(np.broadcast_to(k * w, shape)) for k, w in zip(kernels, white, strict=True)]


def _weighted(terms: np.ndarray, side: int) -> np.ndarray:
    """Return stamps as rows whose product with a half spectrum, as (real, imaginary) pairs, is the whole sum."""
    spectra = transfer_function(np.asarray(terms, float), (side, side), np.fft.rfft2).conj()
    columns = np.full(spectra.shape[-1], 2.0 / side**2)
    columns[[0, -1]] /= 2
    return np.ascontiguousarray(spectra * columns).view(float).reshape(len(terms), -1)
