"""Simulated images as FITS files with the keywords real ones have, and truth tables as CSV."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from astrid_gpu.image import Image
from astrid_gpu.io import atomic_path

__all__ = ["write_fits", "write_truth"]


def write_fits(image: Image, path: str | Path) -> Path:
    """Write an image as a single-HDU FITS file, float32, bad pixels NaN.

    The header has the WCS, MAGZP, GAIN, RDNOISE, SATURATE and what `image.meta` holds, as `read_image` looks for them.

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
    cards |= {key: (value, "") for key, value in image.meta.items()}
    for key, card in cards.items():
        if card[0] is not None:
            header[key] = card
    header["ORIGIN"] = ("astrid_gpu.simulate", "not a real image")
    data = np.where(image.bad, np.nan, image.data).astype(np.float32)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        fits.PrimaryHDU(data, header).writeto(temporary, overwrite=True)
    return path


def write_truth(truth: np.ndarray, path: str | Path) -> Path:
    """Write a structured array as CSV, one row a source; floats keep all their digits."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, Path(temporary).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(truth.dtype.names or ())
        writer.writerows(row.tolist() for row in truth)
    return path
