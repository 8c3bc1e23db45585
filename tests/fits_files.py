"""Small FITS files with the header of a real one."""

from __future__ import annotations

import numpy as np


def write_fits(path, *, seed=0, shape=(48, 64), ra=150.0, dec=2.0, data=None, **cards):
    """Write a noise image with a WCS of 1 arcsec a pixel, and return its path."""
    from astropy.io import fits
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval = ra, dec
    wcs.wcs.crpix = (shape[1] + 1) / 2, (shape[0] + 1) / 2
    wcs.wcs.cdelt = -1 / 3600, 1 / 3600
    header = wcs.to_header()
    header.update({"MJD-OBS": 59000.0, "EXPTIME": 30.0, "FILTER": "ZTF_r", "MAGZP": 26.0, "INSTRUME": "ZTF/MOSAIC"})
    header.update({("MJD-OBS" if key == "MJD" else key): value for key, value in cards.items()})
    if data is None:
        data = np.random.default_rng(seed).normal(100, 3, shape).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.PrimaryHDU(data, header).writeto(path, overwrite=True, checksum=True)
    return path
