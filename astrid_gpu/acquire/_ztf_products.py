"""Where the files of a ZTF exposure and of its reference lie at IRSA: names and addresses from a row of metadata.

After the ZTF Science Data System Explanatory Supplement, "IPAC/IRSA access". Science products lie under year, day and
fraction of the day; reference products under field, filter, readout channel. Nothing of one layout fits the other.
"""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import urlencode

from astrid_gpu.errors import AcquisitionError

__all__ = ["REFERENCE_PRODUCTS", "SCIENCE_PRODUCTS", "product_name", "product_url", "reference_id", "science_id"]

SCIENCE_PRODUCTS = {
    "science": "sciimg.fits",
    "mask": "mskimg.fits",
    "psf": "sciimgdaopsfcent.fits",
    "catalog": "psfcat.fits",
    "difference": "scimrefdiffimg.fits.fz",
}
"""Kind of file -> end of its name, for one exposure of one quadrant. A difference exists only where a reference did."""

REFERENCE_PRODUCTS = {"reference": "refimg.fits", "error": "refunc.fits", "catalog": "refpsfcat.fits"}
"""The same for a reference image; "error" is its 1-sigma map."""

_CUT = ("sciimg.fits", "mskimg.fits", "scimrefdiffimg.fits.fz", "refimg.fits", "refunc.fits")
_SCIENCE = ("filefracday", "field", "filtercode", "ccdid", "imgtypecode", "qid")
_REFERENCE = ("field", "filtercode", "ccdid", "qid")


def science_id(row: dict[str, Any]) -> str:
    """Return the name of an exposure of a quadrant, which all its products begin with.

    >>> science_id({"filefracday": 20200924431759, "field": 655, "filtercode": "zr", "ccdid": 13, "imgtypecode": "o",
    ...             "qid": 3})
    'ztf_20200924431759_000655_zr_c13_o_q3'
    """
    day, field, band, ccd, kind, quadrant = _values(row, _SCIENCE)
    return f"ztf_{day:014d}_{field:06d}_{band}_c{ccd:02d}_{kind}_q{quadrant}"


def reference_id(row: dict[str, Any]) -> str:
    """Return the name of a reference image of a quadrant.

    >>> reference_id({"field": 655, "filtercode": "zr", "ccdid": 13, "qid": 3})
    'ztf_000655_zr_c13_q3'
    """
    field, band, ccd, quadrant = _values(row, _REFERENCE)
    return f"ztf_{field:06d}_{band}_c{ccd:02d}_q{quadrant}"


def product_name(row: dict[str, Any], ending: str) -> str:
    """Return the name of a product's file."""
    name = reference_id(row) if ending.startswith("ref") else science_id(row)
    return f"{name}_{ending}"


def product_url(server: str, row: dict[str, Any], ending: str, cutout: tuple[float, float, float] | None = None) -> str:
    """Return the address of a product.

    Parameters
    ----------
    server : str
        ``https://irsa.ipac.caltech.edu/ibe/``
    row : dict
        Metadata of the exposure, or of the reference.
    ending : str
        Of `SCIENCE_PRODUCTS` or `REFERENCE_PRODUCTS`.
    cutout : (ra, dec, side), optional
        Degrees, and arcseconds: the service cuts images; what is no image comes whole.

    Raises
    ------
    AcquisitionError
        The row lacks what the address is made of.
    """
    name = product_name(row, ending)
    if ending.startswith("ref"):
        field, band, ccd, quadrant = _values(row, _REFERENCE)
        prefix = f"{field:06d}"
        folder = f"ref/{prefix[:3]}/field{prefix}/{band}/ccd{ccd:02d}/q{quadrant}"
    else:
        day = f"{_values(row, _SCIENCE)[0]:014d}"
        folder = f"sci/{day[:4]}/{day[4:8]}/{day[8:]}"
    url = f"{server.rstrip('/')}/data/ztf/products/{folder}/{name}"
    if cutout is None or ending not in _CUT:
        return url
    ra, dec, side = cutout
    query = urlencode({"center": f"{ra:.7f},{dec:.7f}", "size": f"{side:g}arcsec", "gzip": "false"}, safe=",")
    return f"{url}?{query}"


def _values(row: dict[str, Any], names: tuple[str, ...]) -> list[Any]:
    """Return columns of a row, numbers as whole numbers; or say which is missing."""
    found: list[Any] = []
    for name in names:
        value = row.get(name)
        if value is None or (isinstance(value, float) and math.isnan(value)) or str(value) in ("", "--", "null"):
            msg = f"IRSA's row for ZTF lacks {name}, without which a file has no address"
            raise AcquisitionError(msg)
        if name in ("filtercode", "imgtypecode"):
            found.append(str(value))
            continue
        try:
            found.append(int(value))
        except (TypeError, ValueError) as error:
            msg = f"IRSA's row for ZTF has {name} = {value!r}, which is no whole number"
            raise AcquisitionError(msg) from error
    return found
