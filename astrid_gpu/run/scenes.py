"""Frames to measure on: what `astrid_gpu.run.bench` and the benchmarks of the source tree time and check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from astrid_gpu.ops.psf_stamps import moffat_stamp

__all__ = ["SubtractionScene", "star_field", "subtraction_scene"]

_FWHM, _BETA, _STAMP = (2.6, 2.0), 3.5, 25
_SKY, _READ_NOISE, _FLUX = (300.0, 400.0), (8.0, 6.0), (1.0, 1.3)
_STARS, _FAINTEST, _BRIGHTEST = 1000, 150.0, 6e5  # per Mpix; electrons


@dataclass(frozen=True)
class SubtractionScene:
    """Science images and a reference of one field, with all that `zogy` can be told of them.

    Attributes
    ----------
    science, variance_science : array, shape (n, ny, nx), float32
    reference, variance_reference : array, shape (ny, nx), float32
    psfs : tuple of two arrays (25, 25)
    sigma, flux, astrometric_error : tuple of two floats
    """

    science: np.ndarray
    reference: np.ndarray
    variance_science: np.ndarray
    variance_reference: np.ndarray
    psfs: tuple[np.ndarray, np.ndarray]
    sigma: tuple[float, float]
    flux: tuple[float, float] = _FLUX
    astrometric_error: tuple[float, float] = (0.05, 0.03)

    def zogy_arguments(self, first: Any = slice(None)) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of `zogy` for the science images chosen by `first`: an index or a slice."""
        return (self.science[first], self.reference, *self.psfs, *self.sigma), {
            "flux_science": self.flux[0],
            "flux_reference": self.flux[1],
            "variance_science": self.variance_science[first],
            "variance_reference": self.variance_reference,
            "astrometric_error": self.astrometric_error,
            "outputs": ("difference", "score_corr", "flux"),
        }


def subtraction_scene(shape: tuple[int, int], n: int = 1, seed: int = 1) -> SubtractionScene:
    """Draw a field in electrons: 1000 stars a megapixel up to 6e4 in a pixel, sky subtracted, Poisson-like noise.

    Parameters
    ----------
    shape : (int, int)
        Sides, at least 64.
    n : int
        Science images; stars and variances are the same, the noise is not.
    seed : int

    Returns
    -------
    SubtractionScene
    """
    rng = np.random.default_rng(seed)
    psfs = tuple(moffat_stamp(fwhm, _BETA, _STAMP) for fwhm in _FWHM)
    skies = np.zeros((2, *shape), np.float32)
    half = _STAMP // 2
    count = max(20, int(_STARS * shape[0] * shape[1] / 1e6))
    y, x = (rng.integers(half, side - half, count) for side in shape)
    brightness = np.minimum(_FAINTEST * rng.random(count) ** (-1 / 0.8), _BRIGHTEST)
    for j, i, flux in zip(y - half, x - half, brightness, strict=True):
        for sky, psf, scale in zip(skies, psfs, _FLUX, strict=True):
            sky[j : j + _STAMP, i : i + _STAMP] += (scale * flux * psf).astype(np.float32)
    variances = [v + np.float32(s + r * r) for v, s, r in zip(skies, _SKY, _READ_NOISE, strict=True)]

    def expose(sky: np.ndarray, variance: np.ndarray) -> np.ndarray:
        noise = rng.standard_normal(shape, dtype=np.float32)
        noise *= np.sqrt(variance)
        noise += sky
        return noise

    reference = expose(skies[1], variances[1])  # first, so that neither it nor the first image depends on n
    science = np.stack([expose(skies[0], variances[0]) for _ in range(n)])
    return SubtractionScene(
        science=science,
        reference=reference,
        variance_science=np.repeat(variances[0][None], n, axis=0),
        variance_reference=variances[1],
        psfs=psfs,  # type: ignore[arg-type]
        sigma=tuple(float(np.sqrt(s + r * r)) for s, r in zip(_SKY, _READ_NOISE, strict=True)),  # type: ignore[arg-type]
    )


def star_field(shape: tuple[int, int], seed: int = 5) -> tuple[np.ndarray, np.ndarray, float]:
    """Draw a frame with a sky to find: a gradient, a wave and 600 stars a megapixel of steep brightness.

    Parameters
    ----------
    shape : (int, int)
        Sides, at least 96.
    seed : int

    Returns
    -------
    frame : array, shape (ny, nx), float32
    sky : array, shape (ny, nx), float64
        The truth.
    sigma : float
        Noise of the sky.
    """
    rng = np.random.default_rng(seed)
    sigma, width = 10.0, 2.2
    y, x = np.mgrid[: shape[0], : shape[1]]
    sky = 300 + 0.02 * x + 0.01 * y + 10 * np.sin(x / 500) * np.cos(y / 700)
    image = sky + sigma * rng.standard_normal(shape)
    count = max(5, int(600 * shape[0] * shape[1] / 1e6))
    fluxes = np.minimum(500 * (rng.pareto(0.8, count) + 1), 3e6)
    places = rng.uniform(40, np.array(shape)[:, None] - 40, (2, count))
    for flux, cy, cx in zip(fluxes, *places, strict=True):
        j, i = slice(int(cy) - 30, int(cy) + 30), slice(int(cx) - 30, int(cx) + 30)
        r2 = ((y[j, i] - cy) ** 2 + (x[j, i] - cx) ** 2) / width**2
        image[j, i] += flux * 1.5 / (np.pi * width**2) * (1 + r2) ** -2.5
    return image.astype(np.float32), sky, sigma
