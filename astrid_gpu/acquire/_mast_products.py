"""Which of an observation's files are calibrated images, and which is the best of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["CALIBRATED", "best_products", "calibrated_products"]

CALIBRATED: dict[str, tuple[str, ...]] = {
    "HST": ("DRC", "DRZ", "FLC", "FLT", "C0M", "C0F", "MOS"),
    "HLA": ("DRC", "DRZ", "MOS"),
    "JWST": ("I2D", "CAL"),
}
"""The archive's kinds of calibrated images by mission, best first: drizzled or resampled ones before single
exposures, those corrected for charge transfer before the others. C0M and C0F are WFPC2's calibrated exposures."""

_PARTS = {
    "GALEX": ("-int.fits", "-intbgsub.fits"),
    "PS1": (".unconv.fits", ".wrp."),
    "SWIFT": ("_sk.img",),
}
_NOT_IMAGES = (
    "-rr.",
    "-wt.",
    "-exp.",
    "-cnt.",
    ".mask.",
    ".wt.",
    ".num.",
    ".exp.",
    ".expwt.",
    "_spt.",
    "_ima.",
    "_ctx.",
    "_wht.",
)


def calibrated_products(lines: Iterable[dict[str, Any]], survey: str, band: str = "") -> list[dict[str, Any]]:
    """Return the products (rows of MAST's list, as dictionaries) that are calibrated FITS images, best first.

    GALEX observed both its bands at once, and an observation of one may list files of the other: `band` chooses.
    """
    found, seen = [], set()
    other = {"NUV": "-fd-", "FUV": "-nd-"}.get(band.upper(), "") if survey == "GALEX" else ""
    for line in lines:
        uri = str(line.get("dataURI") or "")
        name = str(line.get("productFilename") or uri).lower()
        if uri in seen or not uri.startswith(("mast:", "http")) or not _is_fits(name):
            continue
        if (
            str(line.get("productType") or "SCIENCE") != "SCIENCE"
            or str(line.get("dataproduct_type") or "image") != "image"
        ):
            continue
        if any(part in name for part in _NOT_IMAGES) or not _is_calibrated(line, name, survey):
            continue
        if other and other in name:
            continue
        seen.add(uri)
        found.append(line)
    return sorted(found, key=lambda line: (_rank(line, survey), str(line.get("dataURI"))))


def best_products(lines: list[dict[str, Any]], survey: str) -> list[dict[str, Any]]:
    """Return those of the best kind among calibrated products, several where an observation has several parts."""
    if not lines:
        return []
    best = min(_rank(line, survey) for line in lines)
    return [line for line in lines if _rank(line, survey) == best]


def _is_fits(name: str) -> bool:
    """Whether a name is that of a FITS file."""
    return name.endswith((".fits", ".fits.gz", ".fits.fz", ".fit", ".fit.gz", ".img.gz", ".img"))


def _is_calibrated(line: dict[str, Any], name: str, survey: str) -> bool:
    """Whether a product is calibrated: by its kind, its name, else by the level that the archive gives it."""
    kind = str(line.get("productSubGroupDescription") or "").upper()
    if survey in CALIBRATED:
        return kind in CALIBRATED[survey] or (not kind and (line.get("calib_level") or 0) >= 2)
    if survey in _PARTS:
        return any(part in name for part in _PARTS[survey])
    level = line.get("calib_level")
    return level is None or level >= 2


def _rank(line: dict[str, Any], survey: str) -> int:
    """Return the place of a product's kind among the calibrated ones."""
    kinds = CALIBRATED.get(survey, ())
    kind = str(line.get("productSubGroupDescription") or "").upper()
    return kinds.index(kind) if kind in kinds else len(kinds)
