"""Images to FITS, with the keywords `read_image` looks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from astrid_gpu.image import Image
from astrid_gpu.io.paths import atomic_path

__all__ = ["write_image"]


def write_image(image: Image, path: str | Path) -> Path:
    """Write an image as a single-HDU FITS file, float32, its bad pixels NaN.

    The header has the WCS, MAGZP, GAIN, RDNOISE and SATURATE where they are known, and the short keywords of
    `image.meta`. PSF and variance are not written.

    Parameters
    ----------
    image : Image
    path : str or Path
        Its folder is made if absent; a file there is replaced once the new one is whole.

    Returns
    -------
    Path
    """
    from astropy.io import fits

    header = fits.Header() if image.wcs is None else image.wcs.to_header()
    cards: dict[str, tuple[Any, str]] = {
        "MAGZP": (image.zero_point, "AB magnitude of one count"),
        "GAIN": (image.gain, "electrons per count"),
        "RDNOISE": (image.read_noise, "electrons"),
        "SATURATE": (image.saturation, "counts at which pixels clip"),
    }
    cards |= {
        key: (value, "")
        for key, value in image.meta.items()
        if len(key) <= 8 and key.isupper() and isinstance(value, (str, int, float))
    }
    for key, card in cards.items():
        if card[0] is not None:
            header[key] = card
    data = np.where(image.bad, np.nan, image.data).astype(np.float32)
    target = Path(path)
    with atomic_path(target) as temporary:
        fits.PrimaryHDU(data, header).writeto(temporary, overwrite=True)
    return target
