"""Pan-STARRS pixels: the asinh scaling of stacks undone, in memory and in files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from astrid_gpu.io.files import open_fits, silent
from astrid_gpu.io.paths import atomic_path

__all__ = ["asinh_terms", "linear_flux", "linearise_ps1_file"]


def asinh_terms(header: Any) -> tuple[float, float] | None:
    """Return (BSOFTEN, BOFFSET) of a header whose pixels are asinh-scaled, else None."""
    soften, offset = header.get("BSOFTEN"), header.get("BOFFSET")
    if isinstance(soften, (int, float)) and isinstance(offset, (int, float)):
        return float(soften), float(offset)
    return None


def linear_flux(scaled: np.ndarray, soften: float, offset: float) -> np.ndarray:
    """Return counts of asinh-scaled pixels, float64, shape unchanged.

    x = I * 0.4 ln 10; counts = BOFFSET + BSOFTEN (e^x - e^-x) = BOFFSET + 2 BSOFTEN sinh x (Waters et al. 2020,
    section 6; the documentation of the PS1 image cutout service).
    """
    return offset + 2.0 * soften * np.sinh(np.asarray(scaled, np.float64) * (0.4 * math.log(10.0)))


def linearise_ps1_file(path: str | Path) -> bool:
    """Rewrite a FITS file in linear counts if its pixels are asinh-scaled; return whether they were.

    Whole skycells of stacks are, cutouts of the service and warps are not: the keywords tell. BSOFTEN and BOFFSET
    are then kept as HISTORY only, so that nobody undoes the scaling twice, and MAGZP is added: the AB magnitude of
    one count, FPA.ZP + 2.5 log10(EXPTIME). The file is written whole or not at all.

    Raises
    ------
    FitsError
        It is no FITS file.
    """
    from astropy.io import fits

    path = Path(path)
    with open_fits(path) as hdus, silent():
        if not any(hdu.is_image and asinh_terms(hdu.header) for hdu in hdus):
            return False
        out = fits.HDUList()
        for hdu in hdus:
            terms = asinh_terms(hdu.header) if hdu.is_image else None
            if terms is None:
                out.append(hdu.copy())
                continue
            header = hdu.header.copy()
            for key in ("BSOFTEN", "BOFFSET", "BZERO", "BSCALE", "BLANK", "CHECKSUM", "DATASUM"):
                header.remove(key, ignore_missing=True)
            header.add_history(f"asinh scaling undone by astrid_gpu: BSOFTEN={terms[0]!r} BOFFSET={terms[1]!r}")
            _add_zero_point(header)
            pixels = linear_flux(hdu.data, *terms).astype(np.float32)
            first = not out
            out.append(fits.PrimaryHDU(pixels, header) if first else fits.ImageHDU(pixels, header))
        with atomic_path(path) as part:
            out.writeto(part, overwrite=True, output_verify="silentfix")
    return True


def _add_zero_point(header: Any) -> None:
    """Add MAGZP where the header has what it follows from."""
    zero, exposure = header.get("FPA.ZP"), header.get("EXPTIME")
    known = isinstance(zero, (int, float)) and isinstance(exposure, (int, float)) and exposure > 0
    if known and math.isfinite(zero) and "MAGZP" not in header:
        header["MAGZP"] = (zero + 2.5 * math.log10(exposure), "AB magnitude of one count")
