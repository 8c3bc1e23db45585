"""Simulated pairs for the tests of the engine: everything known, everything honest, nothing of the engine used."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Scene", "blurred", "gaussian_psf", "moffat_psf", "noisy_pair"]


def gaussian_psf(sigma: float, side: int = 25, ratio: float = 1.0) -> np.ndarray:
    """A Gaussian sampled at pixel centres, sum 1."""
    y, x = np.mgrid[:side, :side] - side // 2
    psf = np.exp(-0.5 * ((y / sigma) ** 2 + (x / (sigma * ratio)) ** 2))
    return psf / psf.sum()


def moffat_psf(fwhm: float, beta: float = 3.5, side: int = 35) -> np.ndarray:
    """A Moffat sampled at pixel centres, sum 1."""
    y, x = np.mgrid[:side, :side] - side // 2
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    psf = (1 + (y**2 + x**2) / alpha**2) ** -beta
    return psf / psf.sum()


def blurred(sources: list[tuple[float, float, float]], shape: tuple[int, int], psf: np.ndarray) -> np.ndarray:
    """Sources (y, x, flux), at fractions of a pixel and beyond the edges, seen through `psf`; nothing wraps.

    Sub-pixel positions are a Fourier phase on a frame with a wide margin.
    """
    margin = 2 * max(psf.shape)
    full = shape[0] + 2 * margin, shape[1] + 2 * margin
    fy, fx = np.fft.fftfreq(full[0])[:, None], np.fft.fftfreq(full[1])[None]
    frame = np.zeros(full)
    ky, kx = psf.shape
    frame[:ky, :kx] = psf
    transfer = np.fft.fft2(np.roll(frame, (-(ky // 2), -(kx // 2)), (0, 1)))
    spectrum = np.zeros(full, complex)
    dots = np.zeros(full)
    for y, x, flux in sources:
        if float(y).is_integer() and float(x).is_integer():
            dots[int(y) + margin, int(x) + margin] += flux
            continue
        spectrum += flux * np.exp(-2j * np.pi * (fy * (y + margin) + fx * (x + margin)))
    image = np.fft.ifft2((spectrum + np.fft.fft2(dots)) * transfer).real
    return image[margin : margin + shape[0], margin : margin + shape[1]]


class Scene(NamedTuple):
    """A pair and all that `ag.zogy` wants to know about it."""

    science: np.ndarray
    reference: np.ndarray
    kwargs: dict


def noisy_pair(
    rng: np.random.Generator,
    shape: tuple[int, int] = (256, 256),
    *,
    sources: list[tuple[float, float, float]] = (),
    new: list[tuple[float, float, float]] = (),
    psf_science: np.ndarray | None = None,
    psf_reference: np.ndarray | None = None,
    sigma: tuple[float, float] = (5.0, 2.0),
    flux: tuple[float, float] = (1.0, 0.6),
    gain: tuple[float, float] = (2.0, 4.0),
    shift: tuple[float, float] = (0.0, 0.0),
) -> Scene:
    """Static `sources` in both images and `new` ones in science alone; fluxes in units of F = 1."""
    pn = moffat_psf(3.2) if psf_science is None else psf_science
    pr = moffat_psf(2.6) if psf_reference is None else psf_reference
    moved = [(y + shift[0], x + shift[1], f) for y, x, f in sources]
    model_n = flux[0] * blurred([*moved, *new], shape, pn)
    model_r = flux[1] * blurred(list(sources), shape, pr)
    var_n = sigma[0] ** 2 + np.maximum(model_n, 0) / gain[0]
    var_r = sigma[1] ** 2 + np.maximum(model_r, 0) / gain[1]
    science = model_n + np.sqrt(var_n) * rng.normal(size=shape)
    reference = model_r + np.sqrt(var_r) * rng.normal(size=shape)
    return Scene(
        science,
        reference,
        {
            "psf_science": pn,
            "psf_reference": pr,
            "sigma_science": sigma[0],
            "sigma_reference": sigma[1],
            "flux_science": flux[0],
            "flux_reference": flux[1],
            "variance_science": var_n,
            "variance_reference": var_r,
        },
    )
