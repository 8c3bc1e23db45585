r"""Proper image subtraction after Zackay, Ofek & Gal-Yam 2016, ApJ 830, 27 (equation numbers are theirs).

Symbols: N science, R reference, P_n and P_r their PSFs, sigma their background standard deviations, F their flux
scales; a hat is a Fourier transform, all on the half spectrum of a real FFT.

.. math::

    den      &= \sigma_n^2 F_r^2 |\hat P_r|^2 + \sigma_r^2 F_n^2 |\hat P_n|^2 \\
    \hat D   &= (F_r \hat P_r \hat N - F_n \hat P_n \hat R) / \sqrt{den}                 & (13) \\
    F_D      &= F_r F_n / \sqrt{\sigma_n^2 F_r^2 + \sigma_r^2 F_n^2}                     & (15) \\
    \hat P_D &= F_r F_n \hat P_r \hat P_n / (F_D \sqrt{den})                             & (14) \\
    \hat k_n &= F_n F_r^2 \overline{\hat P_n} |\hat P_r|^2 / den                         & (29) \\
    \hat k_r &= F_r F_n^2 \overline{\hat P_r} |\hat P_n|^2 / den                         & (28) \\
    \hat S   &= \hat k_n \hat N - \hat k_r \hat R                                        & (12) \\
    V(S)     &= V_N \otimes k_n^2 + V_R \otimes k_r^2 + V_{ast} + (\epsilon S_0)^2        & (26-33) \\
    S_{corr} &= S / \sqrt{V(S)}                                                          & (25) \\
    F_S      &= N_{pix}^{-1} \sum_k F_n^2 F_r^2 |\hat P_n|^2 |\hat P_r|^2 / den          & (42) \\
    \alpha   &= S / F_S, \quad \sigma_\alpha = \sqrt{V_N(S) + V_R(S)} / F_S              & (41, 43)

**Guard.** Where both PSFs vanish `den` is rounding noise. Frequencies with den <= den_floor (1e-12 of its value at
k = 0) carry no information: Ŝ is 0 there and D̂ takes its equal-PSF limit
(F_r N̂ - F_n R̂) / sqrt(sigma_n² F_r² + sigma_r² F_n²), which keeps its noise white.

The last term of V(S) is not in the paper: epsilon is the relative error of the flux ratio, and of the PSFs as far as
they differ from star to star. An error of the scale is common to all pixels of a source, so it goes with what is
static at that place, S_0 = min(|S_N|, |S_R|) where the two have one sign and 0 elsewhere, and is not a variance spread
by k_r².
A source that is new or gone is in one image only and pays nothing; swapping the images changes nothing.

**Coloured noise.** Where the noise of N has the power spectrum sigma_n² q_n(k) in place of sigma_n², the functions
below take N̂ / sqrt(q_n) and P̂_n / sqrt(q_n) for N̂ and P̂_n, and the same of R (`ops.noise_spectrum`). Then den is
q_n q_r times smaller than

.. math:: den(k) = \sigma_n^2 q_n F_r^2 |\hat P_r|^2 + \sigma_r^2 q_r F_n^2 |\hat P_n|^2

D̂, Ŝ and F_S are those of this den, `score_kernels` returns k̂_n sqrt(q_n) and k̂_r sqrt(q_r), whose squares (where q is
the true spectrum) V_N and V_R are convolved with, and P̂_D has to be divided by its value at k = 0.

`params` has shape (n, 5): sigma_n, sigma_r, F_n, F_r, den_floor.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from astrid_gpu.ops.fourier import half_sum

__all__ = [
    "DEN_FLOOR",
    "difference_psf",
    "flux_scale",
    "make_params",
    "score_kernels",
    "score_norm",
    "zogy_finish",
    "zogy_spectra",
]

DEN_FLOOR = 1e-12
"""Frequencies whose denominator is below this fraction of its value at k = 0 carry no information (see Guard)."""


def make_params(sigma_n: Any, sigma_r: Any, flux_n: Any, flux_r: Any) -> np.ndarray:
    """Return `params` (n, 5) from per-image scalars (n,); the last column is the floor of the denominator."""
    columns = np.broadcast_arrays(*(np.atleast_1d(np.asarray(a, float)) for a in (sigma_n, sigma_r, flux_n, flux_r)))
    s_n, s_r, f_n, f_r = columns
    floor = DEN_FLOOR * (s_n**2 * f_r**2 + s_r**2 * f_n**2)
    return np.stack([s_n, s_r, f_n, f_r, floor], axis=1)


def _columns(params: Any, like: Any, xp: Any) -> list[Any]:
    """Return the columns of `params` as (n, 1, 1) arrays of the real type of `like`."""
    columns = xp.asarray(params).astype(like.real.dtype)
    return [columns[:, i, None, None] for i in range(5)]


def _denominator(Pn: Any, Pr: Any, s_n: Any, s_r: Any, f_n: Any, f_r: Any) -> tuple[Any, Any, Any]:
    """Return den, |P̂_n|² and |P̂_r|²."""
    pn2, pr2 = abs(Pn) ** 2, abs(Pr) ** 2
    return s_n**2 * f_r**2 * pr2 + s_r**2 * f_n**2 * pn2, pn2, pr2


def flux_scale(params: np.ndarray, power: tuple[Any, Any] = (1.0, 1.0)) -> np.ndarray:
    """Return F_D (n,), eq. 15; `power` is q_n and q_r at k = 0, 1 for white noise."""
    s_n, s_r, f_n, f_r = params[:, :4].T
    return f_r * f_n / np.sqrt(s_n**2 * power[0] * f_r**2 + s_r**2 * power[1] * f_n**2)


def score_kernels(Pn: Any, Pr: Any, params: Any, *, xp: Any = np) -> tuple[Any, Any]:
    """Return k̂_n and k̂_r (eqs. 29, 28), shape (n, py, hx), zero where `den` is at its floor."""
    s_n, s_r, f_n, f_r, floor = _columns(params, Pn, xp)
    den, pn2, pr2 = _denominator(Pn, Pr, s_n, s_r, f_n, f_r)
    inverse = xp.where(den > floor, 1 / xp.maximum(den, floor), 0)
    return f_n * f_r**2 * Pn.conj() * pr2 * inverse, f_r * f_n**2 * Pr.conj() * pn2 * inverse


def difference_psf(Pn: Any, Pr: Any, params: Any, *, xp: Any = np) -> Any:
    """Return P̂_D (eq. 14), shape (n, py, hx); P̂_D(0) = 1, and 0 where `den` is at its floor."""
    s_n, s_r, f_n, f_r, floor = _columns(params, Pn, xp)
    den, _, _ = _denominator(Pn, Pr, s_n, s_r, f_n, f_r)
    white = xp.sqrt(s_n**2 * f_r**2 + s_r**2 * f_n**2)
    return xp.where(den > floor, Pr * Pn * white / xp.sqrt(xp.maximum(den, floor)), 0)


def score_norm(Pn: Any, Pr: Any, params: Any, shape: tuple[int, int], *, xp: Any = np) -> Any:
    """Return F_S (n,), eq. 42, for a padded frame of `shape`."""
    s_n, s_r, f_n, f_r, floor = _columns(params, Pn, xp)
    den, pn2, pr2 = _denominator(Pn, Pr, s_n, s_r, f_n, f_r)
    terms = xp.where(den > floor, f_n**2 * f_r**2 * pn2 * pr2 / xp.maximum(den, floor), 0)
    return half_sum(terms, shape[1], xp=xp) / (shape[0] * shape[1])


def zogy_spectra(N: Any, R: Any, Pn: Any, Pr: Any, params: Any, *, xp: Any = np) -> tuple[Any, Any, Any]:
    """Combine four spectra into D̂, Ŝ_N = k̂_n N̂ and Ŝ_R = k̂_r R̂ (eqs. 13, 31, 33).

    Parameters
    ----------
    N : complex array, shape (n, py, hx)
    R, Pn, Pr : complex array, shape (n, py, hx) or (1, py, hx)
        A leading 1 is shared by the stack.
    params : array, shape (n, 5)

    Returns
    -------
    (D, Sn, Sr) : complex arrays, shape (n, py, hx)
        Score spectrum: Ŝ = Sn - Sr.
    """
    s_n, s_r, f_n, f_r, floor = _columns(params, N, xp)
    den, _, _ = _denominator(Pn, Pr, s_n, s_r, f_n, f_r)
    usable = den > floor
    white = xp.sqrt(s_n**2 * f_r**2 + s_r**2 * f_n**2)
    matched = (f_r * Pr * N - f_n * Pn * R) / xp.sqrt(xp.where(usable, den, 1))
    D = xp.where(usable, matched, (f_r * N - f_n * R) / white)
    kn, kr = score_kernels(Pn, Pr, params, xp=xp)
    return D, kn * N, kr * R


def _gradient_squared(image: Any, axis: int, *, xp: Any) -> Any:
    """Square of the central difference along `axis` of a periodic frame."""
    slope = (xp.roll(image, -1, axis=axis) - xp.roll(image, 1, axis=axis)) / 2
    return slope**2


def zogy_finish(
    Sn: Any,
    Sr: Any,
    variance: Any,
    scales: Any,
    errors: Any,
    shape: tuple[int, int],
    outputs: Collection[str],
    *,
    xp: Any = np,
) -> dict[str, Any]:
    """Turn S_N, S_R and V_N(S) + V_R(S) into the maps asked for, cropped to the frame (eqs. 25, 30, 32, 41, 43).

    Parameters
    ----------
    Sn, Sr : real array, shape (n, py, px)
        On the periodic padded frame; the image is its first `shape` pixels.
    variance : real array, shape (n, py, px) or (1, py, px)
        V_N ⊗ k_n² + V_R ⊗ k_r². Rounding may leave it at or below zero far from any pixel; it is floored.
    scales : array, shape (n, 3)
        Factors from S to the caller's score, from S to flux, and the floor of the variance.
    errors : array, shape (n, 3)
        Registration noise, 1-sigma pixels in y and x (the gradients of S_N and S_R are central differences), and the
        relative error of the flux ratio.
    outputs : subset of {"score", "score_corr", "flux", "flux_error"}

    Returns
    -------
    dict of str to array, shape (n, ny, nx)
    """
    ny, nx = shape
    real = Sn.dtype
    score_scale, flux_factor, floor = (xp.asarray(scales).astype(real)[:, i, None, None] for i in range(3))
    sigma_y, sigma_x, epsilon = (xp.asarray(errors).astype(real)[:, i, None, None] for i in range(3))
    score = (Sn - Sr)[:, :ny, :nx]
    photon = xp.maximum(variance[:, :ny, :nx], floor)
    maps: dict[str, Any] = {}
    if "score" in outputs:
        maps["score"] = score * score_scale
    if "score_corr" in outputs:
        ast_y = _gradient_squared(Sn, 1, xp=xp) + _gradient_squared(Sr, 1, xp=xp)
        ast_x = _gradient_squared(Sn, 2, xp=xp) + _gradient_squared(Sr, 2, xp=xp)
        static = xp.where(Sn * Sr > 0, xp.minimum(abs(Sn), abs(Sr)), 0)
        ast = (sigma_y**2 * ast_y + sigma_x**2 * ast_x + (epsilon * static) ** 2)[:, :ny, :nx]
        maps["score_corr"] = score / xp.sqrt(photon + ast)
    if "flux" in outputs:
        maps["flux"] = score * flux_factor
    if "flux_error" in outputs:
        maps["flux_error"] = xp.broadcast_to(xp.sqrt(photon) * flux_factor, score.shape)
    return maps
