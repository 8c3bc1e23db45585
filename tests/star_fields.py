"""Simulated star fields with known PSF, positions, fluxes and noise, drawn by the simulator's exact integrals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from astrid_gpu.image import PSF, Image
from astrid_gpu.simulate.profiles import PsfModel
from astrid_gpu.simulate.render import draw_stars

__all__ = ["Field", "field_pair", "star_field", "true_psf"]


class Field(NamedTuple):
    """One exposure: `image` with noise and sky, and the truth behind it."""

    image: Image
    clean: np.ndarray
    variance: np.ndarray
    y: np.ndarray
    x: np.ndarray
    flux: np.ndarray
    sigma: float
    model: PsfModel

    def subtracted(self) -> Image:
        """The image less its true, constant sky."""
        sky = self.image.meta["sky"]
        return self.image.with_(data=self.image.data - sky, background_level=sky)


def true_psf(model: PsfModel, half: int | None = None) -> np.ndarray:
    """The PSF on a stamp, as part of the whole flux: its sum is a little below 1."""
    half = int(np.ceil(6 * model.fwhm)) if half is None else half
    axis = np.arange(-half, half + 1, dtype=float)
    return model.pixels(axis, axis, order=10)


def unit_snr_flux(model: PsfModel, sigma: float) -> float:
    """Flux at which a star has S/N 1 in white noise of `sigma`."""
    return float(sigma / np.sqrt((true_psf(model) ** 2).sum()))


def star_field(
    rng: np.random.Generator,
    *,
    shape: tuple[int, int] = (256, 256),
    n: int = 40,
    snr: tuple[float, float] = (30.0, 300.0),
    fwhm: float = 3.0,
    beta: float = 3.0,
    ellipticity: float = 0.0,
    angle: float = 0.0,
    sky: float = 200.0,
    gain: float = 2.0,
    read_noise: float = 5.0,
    places: tuple[np.ndarray, np.ndarray] | None = None,
    flux: np.ndarray | None = None,
    margin: float = 15.0,
) -> Field:
    """Draw `n` stars, log-uniform in S/N, at random places at least `margin` from the edge, with Gaussian noise."""
    model = PsfModel("moffat", fwhm, beta, ellipticity, angle)
    sigma = float(np.sqrt(sky / gain + (read_noise / gain) ** 2))
    y, x = (rng.uniform(margin, side - 1 - margin, n) for side in shape) if places is None else places
    if flux is None:
        flux = np.exp(rng.uniform(*np.log(snr), n)) * unit_snr_flux(model, sigma)
    clean = np.zeros(shape)
    draw_stars(clean, x, y, flux, model, floor=0.01 * sigma)
    variance = sigma**2 + clean / gain
    data = sky + clean + rng.normal(size=shape) * np.sqrt(variance)
    image = Image(data, gain=gain, read_noise=read_noise, meta={"sky": sky})
    return Field(image, clean, variance, y, x, flux, sigma, model)


def field_pair(
    rng: np.random.Generator,
    *,
    beta: float = 0.7,
    n: int = 20,
    snr: tuple[float, float] = (50.0, 400.0),
    fwhm: tuple[float, float] = (3.0, 4.0),
    shape: tuple[int, int] = (256, 256),
    offset: tuple[float, float] = (0.0, 0.0),
    jitter: float = 0.0,
    changed: float = 0.0,
) -> tuple[Field, Field]:
    """Two epochs of the same stars: fluxes times `beta`, moved, a part `changed` of them 1.2 to 3 times brighter."""
    reference = star_field(rng, shape=shape, n=n, snr=snr, fwhm=fwhm[1], margin=20.0)
    flux = beta * reference.flux
    k = round(changed * n)
    flux[:k] *= rng.uniform(1.2, 3.0, k)
    places = tuple(p + d + jitter * rng.normal(size=n) for p, d in zip((reference.y, reference.x), offset, strict=True))
    return star_field(rng, shape=shape, n=n, fwhm=fwhm[0], places=places, flux=flux), reference


def stamp_psf(model: PsfModel) -> PSF:
    """The true PSF as the stages hand it on: 4 FWHM to either side, sum 1."""
    data = true_psf(model, int(np.ceil(4 * model.fwhm)))
    return PSF(data / data.sum(), fwhm=model.fwhm)
