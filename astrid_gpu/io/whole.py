"""Whether a file is FITS from end to end: for what a network or a disk brought."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from astrid_gpu.errors import AstridGpuError, FitsError
from astrid_gpu.io.files import find_hdu, open_fits, pixels_of, silent

__all__ = ["check_fits", "check_has_data"]


def check_fits(path: str | Path) -> int:
    """Open a FITS file and read every header to its end; return the number of HDUs.

    Pixels are not decoded; that all their bytes are there is checked.

    Raises
    ------
    FitsError
        Not FITS, damaged or cut short, whatever way astropy puts it.
    """
    try:
        with open_fits(path) as hdus, silent():
            for hdu in hdus:
                len(hdu.header)
                _ = hdu.name
            return len(hdus)
    except AstridGpuError:
        raise
    except ImportError:
        raise
    except Exception as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        msg = f"{path}: the FITS structure is damaged ({said}); fetch it again"
        raise FitsError(msg) from error


def check_has_data(path: str | Path) -> str | None:
    """Return None if the image in a file says anything, else why not: all pixels are the same, or none is finite.

    Raises
    ------
    FitsError
        Not FITS, or no image in it.
    """
    with open_fits(path) as hdus:
        pixels = pixels_of(path, find_hdu(path, hdus, None).hdu)
    good = pixels[np.isfinite(pixels)]
    if not good.size:
        return "no pixel is finite"
    low, high = good.min(), good.max()
    return f"all {good.size} pixels are {low:g}" if low == high else None
