"""Differences made by hand: white noise and point sources of a known PSF, with the exact score, flux and errors."""

from __future__ import annotations

import numpy as np

from astrid_gpu.flags import INVALID
from astrid_gpu.results import Difference


def shifted(psf, dy, dx, shape):
    """The PSF with its middle pixel moved to (dy, dx) of a periodic frame, by a Fourier phase."""
    ky, kx = psf.shape
    frame = np.zeros(shape)
    frame[:ky, :kx] = psf
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
    phase = np.exp(-2j * np.pi * (fy * (dy - ky // 2) + fx * (dx - kx // 2)))
    return np.fft.irfft2(np.fft.rfft2(frame) * phase, s=shape)


def add_source(pixels, psf, y, x, flux):
    """Add a point source to a periodic frame; the shift by a fraction of a pixel is made in a window of its own."""
    ky, kx = psf.shape
    side = (ky + 8, kx + 8)
    iy, ix = int(np.rint(y)), int(np.rint(x))
    stamp = shifted(psf, side[0] // 2 + y - iy, side[1] // 2 + x - ix, side)
    rows = (iy - side[0] // 2 + np.arange(side[0])) % pixels.shape[0]
    columns = (ix - side[1] // 2 + np.arange(side[1])) % pixels.shape[1]
    pixels[np.ix_(rows, columns)] += flux * stamp


def matched(difference, psf):
    """S = D correlated with P_D, on a periodic frame."""
    kernel = np.fft.rfft2(shifted(psf, 0, 0, difference.shape))
    return np.fft.irfft2(np.fft.rfft2(difference) * kernel.conj(), s=difference.shape)


def hand_made(rng, psf, sources=(), *, shape=(128, 128), sigma=1.0, extra=None, mask=None, dtype=np.float64, **fields):
    """A Difference of one image.

    `sources` are (y, x, S/N signed); `sigma` is the pixel noise (0 for none at all, with flux_error as for 1);
    `extra` is added to the pixels.
    """
    norm = np.sqrt(np.sum(psf**2))
    unit = (sigma or 1.0) / norm  # flux of S/N 1
    pixels = sigma * rng.normal(size=shape)
    for y, x, snr in sources:
        add_source(pixels, psf, y, x, snr * unit)
    if extra is not None:
        pixels = pixels + extra
    score = matched(pixels, psf)
    flux, error = score / norm**2, np.full(shape, unit)
    maps = {"difference": pixels, "score": score, "score_corr": flux / error, "flux": flux, "flux_error": error}
    bits = np.zeros(shape, np.uint8) if mask is None else mask
    for values in maps.values():
        values[(bits & INVALID) != 0] = np.nan
    maps = {k: v.astype(dtype) for k, v in maps.items()}
    return Difference(**maps, psf=psf, mask=bits, science=maps["difference"] + 1, reference=maps["difference"] * 0 + 1,
                      **fields)  # fmt: skip


def stacked(diffs, **fields):
    """One Difference of several."""
    names = ("difference", "score", "score_corr", "flux", "flux_error", "mask", "science", "reference")
    return Difference(**{k: np.stack([getattr(d, k) for d in diffs]) for k in names}, **{"psf": diffs[0].psf, **fields})
