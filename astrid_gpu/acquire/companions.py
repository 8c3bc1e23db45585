"""Which file goes with which image: masks, weights, noise planes and PSFs, told by the surveys' ways of naming."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["companions_of", "is_fits_name", "not_an_image"]

_FITS = re.compile(r"\.(fits|fit|fts|fz)(\.(gz|bz2|fz))?$", re.IGNORECASE)

# What a companion's name has where its image's has something else; the patterns of the surveys we know.
_COMPANIONS: tuple[tuple[str, str, str], ...] = (
    ("mask", r"(?<=_)ood(?=_)", "ooi"),  # NOAO Community Pipeline, DECam
    ("weight", r"(?<=_)oow(?=_)", "ooi"),
    ("mask", r"mskimg", "sciimg"),  # ZTF
    ("psf", r"sciimgdaopsfcent", "sciimg"),
    ("psf", r"(?:sciimg)?daopsf(?:cent)?", "sciimg"),
    ("error", r"\.noise(?=\.|$)", ""),
    ("weight", r"[._-](?:weight|wht|wt|ivar|invvar)(?=\.|$|[._-])", ""),
    ("mask", r"[._-](?:mask|msk|flag|flags|dq|bpm)(?=\.|$|[._-])", ""),
    ("variance", r"[._-](?:var|variance)(?=\.|$|[._-])", ""),
    ("error", r"[._-](?:err|error|rms|sigma)(?=\.|$|[._-])", ""),
)
_NO_IMAGE = re.compile(r"psfex|kernel|(?<![a-z])psf(?![a-z])|catalog|sexcat|psfcat", re.IGNORECASE)
_PSFEX = re.compile(r"[.-]?psfex$|[._-]psf$", re.IGNORECASE)


def is_fits_name(name: str) -> bool:
    """Whether a file's name ends as that of a FITS file, compressed or not."""
    return _FITS.search(name) is not None


def not_an_image(path: Path, names: set[Path]) -> str:
    """Return what `path` is if it is no image of its own: a plane of another file, a PSF, a kernel; "" if it is."""
    for kind, pattern, image in _COMPANIONS:
        there = path.with_name(re.sub(pattern, image, path.name, count=1, flags=re.IGNORECASE))
        if there != path and there in names:
            return f"the {kind} of {there.name}"
        if there != path and re.search(r"mskimg|ood_|oow_|daopsf", path.name):
            return f"a {kind}, its image {there.name} is not there"
    found = _NO_IMAGE.search(path.stem)
    return f"its name says that it is no image ({found[0]})" if found else ""


def companions_of(path: Path, names: set[Path]) -> dict[str, Path]:
    """Return the files that go with an image."""
    found: dict[str, Path] = {}
    for other in sorted(names):
        if other.parent != path.parent or other == path:
            continue
        for kind, pattern, image in _COMPANIONS:
            if re.sub(pattern, image, other.name, count=1, flags=re.IGNORECASE) == path.name:
                found.setdefault(kind, other)
                break
        stem = re.sub(_PSFEX, "", _bare(other.name))
        if stem != _bare(other.name) and re.sub(r"[.-]", "", stem) == re.sub(r"[.-]", "", _bare(path.name)):
            found.setdefault("psf", other)
    return found


def _bare(name: str) -> str:
    return re.sub(_FITS, "", name)
