"""Stars against a PSF: what changes of its width and ellipticity look like, and how much of them a star shows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from astrid_gpu._host_ops import host_op
from astrid_gpu.ops.field_fit import fit_polynomial, linear_fits

__all__ = ["Shaped", "Templates", "fit_shapes", "local_stamps", "templates_of"]

_REACH = 2.0  # FWHM from the middle, and a pixel more: within it a star's light says all that it has to say of shapes
_CORE = 1.2  # FWHM: radius of the core
_FLOOR = 0.005  # of the PSF's own value: what stars are trusted to when orders are compared
_GRANTED = 0.02  # of it: what `register_stars` grants the model; what tells the orders apart is less


class Shaped(NamedTuple):
    """Stars of unit flux against a PSF.

    How much of each shape is in what they have more than it (m, 3), and its error; what they have more (m, k, k), less
    what flux, centre and sky make up for; their inverse variances.
    """

    amplitudes: np.ndarray
    errors: np.ndarray
    rest: np.ndarray
    weight: np.ndarray

    def of(self, which: np.ndarray) -> Shaped:
        """Return some of the stars."""
        return Shaped(*(column[which] for column in self))


class Templates(NamedTuple):
    """A PSF (k, k), its slopes along y and x (2, k, k), and how it changes with ln size and two of shear (3, k, k).

    `core` (k, k) is where its light is; `tight` cuts out that and a pixel round it, `inner` what tells of shapes.
    """

    psf: np.ndarray
    slopes: np.ndarray
    shapes: np.ndarray
    core: np.ndarray
    tight: tuple[slice, slice]
    inner: tuple[slice, slice]

    @property
    def free(self) -> np.ndarray:
        """What flux, centre and sky of a star add to it, (4, k, k)."""
        return np.stack([self.psf, *self.slopes, np.ones_like(self.psf)])

    def shaped(self, stars: np.ndarray, weight: np.ndarray) -> Shaped:
        """Return stars (m, k, k) and their inverse variances against the PSF, by one linear fit of shapes and all."""
        more, free, n = stars - self.psf, self.free, len(self.shapes)
        cut = (slice(None), *self.inner)
        columns = np.concatenate([self.shapes, free])[cut]
        flat = (a.reshape(len(a), -1) for a in (columns, more[cut], weight[cut]))
        solution, error, _ = host_op("linear_fits", linear_fits)(None, *flat)
        flux = np.maximum(1.0 + solution[:, n], 0.1)
        rest = (more - local_stamps(solution[:, n:], free)) / flux[:, None, None]
        return Shaped(solution[:, :n] / flux[:, None], error[:, :n], rest, weight)

    def misfit(self, stars: Shaped, expected: np.ndarray) -> np.ndarray:
        """Return reduced chi-squared (m,) over the core of stars about what they are expected to have more, (m, k, k).

        Both on stamps cut `tight`; flux, centre and sky are left free once more.
        """
        cut, core = (slice(None), *self.tight), self.core[self.tight]
        psf = self.psf[self.tight][core]
        weight = stars.weight[cut][:, core]
        plain = 1.0 / np.maximum(weight, 1e-300) - (_GRANTED * psf) ** 2
        tight = np.maximum(plain, 0.1 / np.maximum(weight, 1e-300)) + (_FLOOR * psf) ** 2
        weight = np.where(weight > 0, 1.0 / tight, 0.0)
        expected, others = expected[:, core], self.free[1:][cut][:, core]
        rest = stars.rest[cut][:, core] - expected
        _, _, chi2 = host_op("linear_fits", linear_fits)(psf + expected, others, rest, weight)
        return chi2 / np.maximum((weight > 0).sum(axis=1) - 4, 1)  # type: ignore[no-any-return]


def templates_of(psf: np.ndarray, fwhm: float) -> Templates:
    """Return the templates of a PSF of odd side, its slopes by its spectrum."""
    pad = 8
    frame = np.pad(psf, pad)
    spectrum = np.fft.rfft2(frame)
    factors = 2j * np.pi * np.fft.fftfreq(frame.shape[0])[:, None], 2j * np.pi * np.fft.rfftfreq(frame.shape[1])[None]
    py, px = (np.fft.irfft2(spectrum * f, frame.shape)[pad:-pad, pad:-pad] for f in factors)
    half = psf.shape[0] // 2
    y, x = np.meshgrid(*(np.arange(-half, half + 1.0),) * 2, indexing="ij")
    shapes = np.stack([-(2 * psf + y * py + x * px), -(x * px - y * py), -(x * py + y * px)])
    rims = (max(half - reach - 1, 0) for reach in (int(_CORE * fwhm), int(np.ceil(_REACH * fwhm))))
    tight, inner = ((slice(rim, psf.shape[0] - rim),) * 2 for rim in rims)
    return Templates(psf, np.stack([py, px]), shapes, np.hypot(y, x) < _CORE * fwhm, tight, inner)


def fit_shapes(basis: np.ndarray, stars: Shaped) -> np.ndarray:
    """Return coefficients (3, n) of the shapes' amplitudes over the field."""
    fit = host_op("fit_polynomial", fit_polynomial)
    return np.stack([fit(basis, *pair)[0] for pair in zip(stars.amplitudes.T, stars.errors.T, strict=True)])


def local_stamps(basis: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """Return the polynomial of stamps (n, k, k) at places, (m, k, k)."""
    return (basis @ terms.reshape(len(terms), -1)).reshape(-1, *terms.shape[1:])  # type: ignore[no-any-return]
