"""Registered stars against the PSF over the field: what changes of width and ellipticity look like, and how much of it.

A star is compared on a small stamp that holds all that its light says; its flux, centre and sky are left free.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from astrid_gpu._host_ops import host_op
from astrid_gpu.ops.field_fit import fit_polynomial, linear_fits

__all__ = ["Shaped", "Templates", "fit_shapes", "local_stamps", "templates_of"]

_REACH = 2.0  # FWHM from the middle to the border of the small stamps, and a pixel more
_CORE = 1.2  # FWHM: radius of the core
_FLOOR = 0.005  # of the PSF's own value: what stars are trusted to when orders are compared
_GRANTED = 0.02  # of it: what `register_stars` grants the model; what tells the orders apart is less


class Shaped(NamedTuple):
    """Stars of unit flux against a PSF, on small stamps.

    How much of each shape is in what they have more than the PSF (m, 3), and its error; what they have more (m, k, k),
    less what flux, centre and sky make up for; their inverse variances.
    """

    amplitudes: np.ndarray
    errors: np.ndarray
    rest: np.ndarray
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

    def shaped(self, more: np.ndarray, weight: np.ndarray) -> Shaped:
        """Return what stars have more than the PSF of their place, (m, side, side) of its own size, as shapes."""
        more, weight = more[:, *self.inner], weight[:, *self.inner]
        free, n = np.stack([self.psf, *self.slopes, np.ones_like(self.psf)]), len(self.shapes)
        columns = np.concatenate([self.shapes, free])
        flat = (a.reshape(len(a), -1) for a in (columns, more, weight))
        solution, error, _ = host_op("linear_fits", linear_fits)(None, *flat)
        return Shaped(solution[:, :n], error[:, :n], more - local_stamps(solution[:, n:], free), weight)

    def misfit(self, rest: np.ndarray, weight: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """Return reduced chi-squared (m,) over the core of stars about what is expected of them, on tight stamps.

        Both are what a star has more than the PSF; its flux, centre and sky are left free.
        """
        core, psf = self.core[self.tight], self.psf[self.tight]
        weight = weight[:, core]
        plain = 1.0 / np.maximum(weight, 1e-300) - (_GRANTED * psf[core]) ** 2
        tight = np.maximum(plain, 0.1 / np.maximum(weight, 1e-300)) + (_FLOOR * psf[core]) ** 2
        weight = np.where(weight > 0, 1.0 / tight, 0.0)
        others = np.stack([*self.slopes, np.ones_like(self.psf)])[:, *self.tight][:, core]
        own = (psf + expected)[:, core]
        _, _, chi2 = host_op("linear_fits", linear_fits)(own, others, (rest - expected)[:, core], weight)
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


def fit_shapes(basis: np.ndarray, stars: Shaped) -> np.ndarray:
    """Return coefficients (3, n) of the shapes' amplitudes over the field."""
    fit = host_op("fit_polynomial", fit_polynomial)
    return np.stack([fit(basis, *pair)[0] for pair in zip(stars.amplitudes.T, stars.errors.T, strict=True)])


def local_stamps(basis: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """Return the polynomial of stamps (n, k, k) at places, (m, k, k)."""
    return (basis @ terms.reshape(len(terms), -1)).reshape(-1, *terms.shape[1:])  # type: ignore[no-any-return]
