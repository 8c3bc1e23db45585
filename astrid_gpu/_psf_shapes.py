"""Registered stars against the PSF over the field: what changes of width and ellipticity look like, and how much of it.

A star is compared on a small stamp that holds all that its light says; its flux, centre and sky are left free.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from astrid_gpu._host_ops import host_op
from astrid_gpu.ops.field_fit import fit_polynomial, linear_fits

__all__ = ["Stars", "Templates", "fit_amplitudes", "local_stamps", "templates_of"]

_REACH = 2.0  # FWHM from the middle to the border of the small stamps, and a pixel more
_CORE = 1.2  # FWHM: radius of the core
_FLOOR = 0.005  # of the PSF's own value: what stars are trusted to when orders are compared
_GRANTED = 0.02  # of it: what `register_stars` grants the model; what tells the orders apart is less


class Stars(NamedTuple):
    """Stars of unit flux on small stamps (m, k, k), and their inverse variances."""

    stamps: np.ndarray
    weight: np.ndarray


class Templates(NamedTuple):
    """The constant PSF (k, k), its slopes along y and x (2, k, k), how it changes with ln size and shear (3, k, k).

    On small stamps, cut out of the PSF by `inner`; the core with a pixel round it is cut out of them by `tight`. `full`
    are the shapes on stamps of the PSF's own size.
    """

    psf: np.ndarray
    slopes: np.ndarray
    shapes: np.ndarray
    core: np.ndarray
    tight: tuple[slice, slice]
    inner: tuple[slice, slice]
    full: np.ndarray

    def small(self, stamps: np.ndarray, weight: np.ndarray) -> Stars:
        """Return stars cut down to the small stamps."""
        return Stars(stamps[:, *self.inner], weight[:, *self.inner])

    def settled(self, stars: Stars, local: np.ndarray) -> Stars:
        """Return stars on the flux, centre and sky that fit the PSF of their place, (m, k, k), best."""
        others = np.stack([*self.slopes, np.ones_like(self.psf)])
        solution, _, _ = _fits(local, others, stars.stamps, stars.weight)
        flux = np.where(solution[:, 0] > 0.1, solution[:, 0], 1.0)
        return stars._replace(stamps=(stars.stamps - local_stamps(solution[:, 1:], others)) / flux[:, None, None])

    def amplitudes(self, rest: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return how much of each shape is in what a star has more than the PSF, and its error; both (m, 3)."""
        columns, n = np.stack([*self.shapes, self.psf, *self.slopes, np.ones_like(self.psf)]), len(self.shapes)
        solution, error, _ = _fits(None, columns, rest, weight)
        return solution[:, :n], error[:, :n]

    def misfit(self, stars: Stars, local: np.ndarray) -> np.ndarray:
        """Return reduced chi-squared of stars (m,) over the core about a PSF, with flux, centre and sky left free."""
        core = self.core
        weight = stars.weight[:, core]
        plain = 1.0 / np.maximum(weight, 1e-300) - (_GRANTED * self.psf[core]) ** 2
        tight = np.maximum(plain, 0.1 / np.maximum(weight, 1e-300)) + (_FLOOR * self.psf[core]) ** 2
        weight = np.where(weight > 0, 1.0 / tight, 0.0)
        own, others = local[:, core], np.stack([*self.slopes, np.ones_like(self.psf)])[:, core]
        _, _, chi2 = host_op("linear_fits", linear_fits)(own, others, stars.stamps[:, core] - own, weight)
        return chi2 / np.maximum((weight > 0).sum(axis=1) - 4, 1)  # type: ignore[no-any-return]


def templates_of(psf: np.ndarray, fwhm: float) -> Templates:
    """Return the templates of a PSF of odd side, from its spectrum."""
    pad = 8
    frame = np.pad(psf, pad)
    spectrum = np.fft.rfft2(frame)
    factors = 2j * np.pi * np.fft.fftfreq(frame.shape[0])[:, None], 2j * np.pi * np.fft.rfftfreq(frame.shape[1])[None]
    py, px = (np.fft.irfft2(spectrum * f, frame.shape)[pad:-pad, pad:-pad] for f in factors)
    half = psf.shape[0] // 2
    y, x = np.meshgrid(*(np.arange(-half, half + 1.0),) * 2, indexing="ij")
    shapes = np.stack([-(2 * psf + y * py + x * px), -(x * px - y * py), -(x * py + y * px)])
    cut = max(half - int(np.ceil(_REACH * fwhm)) - 1, 0)
    inner = (slice(cut, psf.shape[0] - cut),) * 2
    small, core = np.stack([psf, py, px, *shapes])[:, *inner], np.hypot(y, x)[inner] < _CORE * fwhm
    rim = max(small.shape[1] // 2 - int(_CORE * fwhm) - 1, 0)
    tight = (slice(rim, small.shape[1] - rim),) * 2
    return Templates(small[0], small[1:3], small[3:], core, tight, inner, shapes)


def fit_amplitudes(
    basis: np.ndarray, values: np.ndarray, errors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fit amplitudes (m, t) of shapes over the field; return coefficients (t, n) and the weights of stars (t, m)."""
    fit = host_op("fit_polynomial", fit_polynomial)
    found = [fit(basis, value, error)[:2] for value, error in zip(values.T, errors.T, strict=True)]
    return np.stack([c for c, _ in found]), np.stack([w for _, w in found])


def local_stamps(basis: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """Return the polynomial of stamps (n, k, k) at places, (m, k, k)."""
    return (basis @ terms.reshape(len(terms), -1)).reshape(-1, *terms.shape[1:])  # type: ignore[no-any-return]


def _fits(
    own: np.ndarray | None, shared: np.ndarray, values: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit columns to stars, all of them stamps; see `linear_fits`."""
    flat = [None if a is None else a.reshape(len(a), -1) for a in (own, shared, values, weight)]
    return host_op("linear_fits", linear_fits)(*flat)  # type: ignore[no-any-return]

