"""Whether a file is FITS from end to end: for what a network or a disk brought."""

from __future__ import annotations

from pathlib import Path

from astrid_gpu.errors import AstridGpuError, FitsError
from astrid_gpu.io.files import open_fits, silent

__all__ = ["check_fits"]


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
