"""Small FITS images held in memory, as alert packets and brokers send them."""

from __future__ import annotations

import gzip
import io
import zlib
from typing import Any

import numpy as np

from astrid_gpu.errors import FitsError
from astrid_gpu.io.extras import need
from astrid_gpu.io.files import find_hdu, pixels_of, silent

__all__ = ["read_stamp"]

_LARGEST = 64 << 20  # bytes when unpacked: a stamp has a few thousand pixels


def read_stamp(content: bytes, name: str = "stamp") -> tuple[np.ndarray, dict[str, Any]]:
    """Return the pixels of a FITS image in memory, gzipped or not, and its header's cards.

    Parameters
    ----------
    content : bytes
    name : str
        For messages.

    Returns
    -------
    (pixels, header) : array (ny, nx) float32 or float64, dict

    Raises
    ------
    FitsError
        It is not FITS, damaged, or no two-dimensional image.
    """
    need("astropy", "fits", "reading FITS")
    from astropy.io import fits

    try:
        unpacked = _unpack(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, zlib.error) as error:
        msg = f"{name}: the gzip stream is damaged or cut short ({error})"
        raise FitsError(msg) from error
    if not unpacked.startswith(b"SIMPLE"):
        msg = f"{name} is not FITS: it begins with {unpacked[:16]!r}"
        raise FitsError(msg)
    try:
        with silent(), fits.open(io.BytesIO(unpacked), lazy_load_hdus=False) as hdus:
            hdu = find_hdu(name, hdus, None).hdu
            return pixels_of(name, hdu), {card.keyword: card.value for card in hdu.header.cards if card.keyword}
    except FitsError:
        raise
    except Exception as error:  # astropy has no one error for bytes that are nearly FITS
        msg = f"{name} is damaged: {(str(error).strip().splitlines() or [type(error).__name__])[0]}"
        raise FitsError(msg) from error


def _unpack(content: bytes) -> bytes:
    """Undo gzip, up to a size that no stamp has."""
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
        unpacked = stream.read(_LARGEST + 1)
    if len(unpacked) > _LARGEST:
        msg = f"unpacks to more than {_LARGEST >> 20} MiB"
        raise OSError(msg)
    return unpacked
