"""Star fields with exact pixel-integrated Gaussian stars, for the registration tests."""

from __future__ import annotations

import numpy as np
from scipy.special import erf


def profile(n, centre, sigma):
    """Gaussian integrated over each of n pixels, one row per centre."""
    edges = np.arange(n + 1) - 0.5
    steps = 0.5 * erf((edges - np.asarray(centre, float)[:, None]) / (sigma * np.sqrt(2)))
    return np.diff(steps, axis=1)


def scene(shape, y, x, flux, *, sigma=1.3, sky=0.0, noise=0.0, rng=None):
    """Image of stars at (y, x) with total counts `flux`, a flat sky and white noise."""
    rows, columns = profile(shape[0], np.atleast_1d(y), sigma), profile(shape[1], np.atleast_1d(x), sigma)
    image = np.einsum("k,ki,kj->ij", np.atleast_1d(np.asarray(flux, float)), rows, columns) + sky
    if noise:
        image = image + rng.normal(0, noise, shape)
    return image


def catalogue(rng, n, shape, *, border=0, faint=2e3, bright=1e5, apart=8.0):
    """n stars not closer than `apart`, brightest first: y, x, flux, uniform in log flux."""
    y, x = np.zeros(0), np.zeros(0)
    while y.size < n:
        new = rng.uniform(border, shape[0] - 1 - border), rng.uniform(border, shape[1] - 1 - border)
        if y.size == 0 or np.min(np.hypot(y - new[0], x - new[1])) > apart:
            y, x = np.append(y, new[0]), np.append(x, new[1])
    return y, x, np.sort(np.exp(rng.uniform(np.log(faint), np.log(bright), n)))[::-1]


def tan_wcs(shape, *, ra=150.0, dec=2.0, scale=1.0, rotation=0.0, crpix=None, flip=False):
    """A gnomonic WCS of `scale` arcsec a pixel, its reference pixel in the middle unless given (0-based y, x)."""
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    middle = ((shape[0] - 1) / 2, (shape[1] - 1) / 2) if crpix is None else crpix
    c, s = np.cos(rotation) * scale / 3600, np.sin(rotation) * scale / 3600
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [middle[1] + 1, middle[0] + 1]
    wcs.wcs.cd = [[c if flip else -c, s], [-s if flip else s, c]]
    wcs.array_shape = shape
    return wcs
