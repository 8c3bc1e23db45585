"""The yardstick: ZOGY as one would write it in an afternoon with SciPy, in float32 on all cores, nothing cached.

All that the engine gives is made here too: D, S_corr with variance maps and registration noise, flux and its error. It
pads with zeros so that edges do not wrap; it fills no holes, knows no stacks and checks nothing.
"""

from __future__ import annotations

import numpy as np
from scipy import fft

CORES = -1


def spectrum(frame, shape):
    """Real transform of a frame padded with zeros."""
    return fft.rfft2(frame, s=shape, workers=CORES)


def psf_spectrum(psf, shape):
    """Transform of an odd stamp with its middle at (0, 0)."""
    frame = np.zeros(shape, np.float32)
    frame[: psf.shape[0], : psf.shape[1]] = psf / psf.sum()
    return spectrum(np.roll(frame, (-(psf.shape[0] // 2), -(psf.shape[1] // 2)), (0, 1)), shape)


def slopes(image):
    """Squares of the central differences along y and x."""
    return [((np.roll(image, -1, axis) - np.roll(image, 1, axis)) / 2) ** 2 for axis in (0, 1)]


def yardstick(science, reference, psf_n, psf_r, sigma_n, sigma_r, flux_n, flux_r, var_n, var_r, registration):
    """Return D / F_D, S_corr, flux and flux_error of one pair of float32 images (ny, nx)."""
    ny, nx = science.shape
    reach = max(*psf_n.shape, *psf_r.shape)
    shape = tuple(fft.next_fast_len(side + reach, real=True) for side in (ny, nx))

    def image(spectrum):
        return fft.irfft2(spectrum, s=shape, workers=CORES)

    N, R = spectrum(science, shape), spectrum(reference, shape)
    Pn, Pr = psf_spectrum(psf_n, shape), psf_spectrum(psf_r, shape)
    pn2, pr2 = np.abs(Pn) ** 2, np.abs(Pr) ** 2
    sn, sr, fn, fr = (np.float32(a) for a in (sigma_n, sigma_r, flux_n, flux_r))
    den = sn**2 * fr**2 * pr2 + sr**2 * fn**2 * pn2
    den = np.maximum(den, np.float32(1e-12) * den[0, 0])
    flux_d = fr * fn / np.sqrt(sn**2 * fr**2 + sr**2 * fn**2)
    difference = image((fr * Pr * N - fn * Pn * R) / np.sqrt(den)) / flux_d
    kn, kr = fn * fr**2 * Pn.conj() * pr2 / den, fr * fn**2 * Pr.conj() * pn2 / den
    s_n, s_r = image(kn * N), image(kr * R)
    variance = image(
        spectrum(var_n, shape) * spectrum(image(kn) ** 2, shape)
        + spectrum(var_r, shape) * spectrum(image(kr) ** 2, shape)
    )
    variance = np.maximum(variance, 1e-6 * variance.max())
    noise = variance.copy()
    for sigma, a, b in zip(registration, slopes(s_n), slopes(s_r), strict=True):
        noise += np.float32(sigma) ** 2 * (a + b)
    terms = fn**2 * fr**2 * pn2 * pr2 / den
    norm = (2 * terms.sum() - terms[:, 0].sum() - (terms[:, -1].sum() if shape[1] % 2 == 0 else 0)) / np.prod(shape)
    score = s_n - s_r
    crop = (slice(ny), slice(nx))
    maps = difference, score / np.sqrt(noise), score / norm, np.sqrt(variance) / norm
    return [m[crop] for m in maps]
