"""Images from FITS files, with the planes that go with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from astrid_gpu.errors import FitsError
from astrid_gpu.image import Image
from astrid_gpu.io.files import (
    COMPANIONS,
    Extension,
    ImageHdu,
    find_hdu,
    open_fits,
    pixels_of,
    readable_cards,
    silent,
    split_spec,
)
from astrid_gpu.io.frames import DiskFrame, in_memory
from astrid_gpu.io.headers import HeaderFacts, read_facts
from astrid_gpu.io.planes import Planes, read_plane
from astrid_gpu.io.ps1 import asinh_terms, linear_flux

__all__ = ["LARGE", "celestial_wcs", "image_from_hdus", "open_image", "plain_header", "read_image", "whole_image"]

LARGE = 20_000_000
"""Pixels from which on a file is not read before it is known how much of it is wanted."""

_STRUCTURE = ("SIMPLE", "XTENSION", "BITPIX", "EXTEND", "PCOUNT", "GCOUNT", "BZERO", "BSCALE", "BLANK", "CHECKSUM",
              "DATASUM", "COMMENT", "HISTORY", "CONTINUE", "TFIELDS", "END", "")  # fmt: skip


def read_image(
    path: str | Path,
    *,
    extension: Extension | None = None,
    mask: Any = None,
    variance: Any = None,
    error: Any = None,
    weight: Any = None,
    psf: Any = None,
) -> Image:
    """Read one image and everything its file says about it.

    Parameters
    ----------
    path : str or Path
        A FITS file, plain, ``.gz``, ``.bz2`` or tile-compressed (``.fz``); ``FILE[SCI]``, ``FILE[2]`` and
        ``FILE[SCI,1]`` name an extension. By default the image is the primary or the first 2-D image extension.
    extension : int, str or (str, int), optional
        The same as a separate argument.
    mask, variance, error, weight : path or array (ny, nx), optional
        Planes that go with the image; they take the place of those found in the file. Nonzero mask = bad; `error`
        is 1 sigma; `weight` is an inverse variance, where 0 or less means no data. Give at most one of the three.
    psf : anything `read_psf_model` takes, optional

    Returns
    -------
    Image
        data float32 (float64 if the file's is), native byte order; variance NaN and mask set where the noise plane
        holds no positive number. ``meta["notes"]`` is a list of sentences on what was found, converted or wrong.

    Raises
    ------
    FitsError
        The file is missing, damaged, not FITS, or holds no such image.
    ShapeMismatchError
        A plane has another shape than the image.
    """
    file, named = split_spec(path)
    if named is not None and extension is not None and named != extension:
        msg = f"{path} names extension {named!r} and extension={extension!r} was given too; give one of them"
        raise FitsError(msg)
    with open_fits(file) as hdus:
        noise_given = any(plane is not None for plane in (variance, error, weight))
        skip = (("mask",) if mask is not None else ()) + (("noise",) if noise_given else ())
        image = image_from_hdus(hdus, file, extension if extension is not None else named, skip=skip)
    given = Planes(mask=mask, variance=variance, error=error, weight=weight)
    image = given.apply(image, file) if given else image
    if psf is not None:
        from astrid_gpu.io.psf_files import read_psf_model

        image = image.with_(psf=read_psf_model(psf, shape=image.shape))
    return image


def image_from_hdus(
    hdus: Any,
    name: str | Path,
    extension: Extension | None = None,
    *,
    skip: tuple[str, ...] = (),
    pixels: Callable[[str | Path, Any], Any] = pixels_of,
) -> Image:
    """Return the image of an open HDUList; `name` is for messages, `skip` names planes ("mask", "noise") to leave.

    `pixels` takes the pixels of the HDU.
    """
    found = find_hdu(name, hdus, extension)
    data = pixels(name, found.hdu)
    header = _merged_header(hdus, found.hdu)
    facts = read_facts(header)
    _note_choice(hdus, found, extension, facts)
    _linearise_ps1(header, data, facts)
    saturation = facts.saturation
    if saturation is None and _is_unsigned_16(found.hdu):
        saturation = 65535.0
        facts.notes.append("no saturation keyword: 65535, where a 16-bit converter ends, is taken")
    image = Image(
        data=data,
        wcs=celestial_wcs(header, hdus, facts),
        zero_point=facts.zero_point,
        gain=facts.gain,
        read_noise=facts.read_noise,
        saturation=saturation,
        background_level=facts.background_level,
        meta={
            **facts.meta,
            "path": str(name),
            "extension": found.label,
            "header": plain_header(header),
            "notes": facts.notes,
        },
        name=Path(name).name + (f"[{found.label}]" if found.place else ""),
    )
    companions = _find_companions(hdus, found, name, skip)
    return companions.apply(image, name) if companions else image


def open_image(path: str | Path, **planes: Any) -> Image:
    """Read an image as `read_image` does, but leave the pixels of a large plain file where they are.

    They stay on disk if the file is uncompressed, the pixels are floating-point numbers that need no scaling, no plane
    goes with them and there are `LARGE` of them or more: then `data` is a `DiskFrame`, read by windows.
    """
    file, named = split_spec(path)
    if any(planes.get(kind) is not None for kind in ("mask", "variance", "error", "weight")):
        return read_image(path, **planes)
    with open_fits(file) as hdus:
        found = find_hdu(file, hdus, named)
        if not _stays_on_disk(file, hdus, found.hdu):
            return read_image(path, **planes)
        image = image_from_hdus(hdus, file, named, pixels=_on_disk)
    if planes.get("psf") is not None:
        from astrid_gpu.io.psf_files import read_psf

        image = image.with_(psf=read_psf(planes["psf"], shape=image.shape))
    return image


def whole_image(image: Image) -> Image:
    """Return an image with its pixels in memory."""
    return image.with_(data=in_memory(image.data)) if isinstance(image.data, DiskFrame) else image


def _stays_on_disk(file: Path, hdus: Any, hdu: Any) -> bool:
    """Whether the pixels of an HDU can be read by windows as they lie in the file."""
    header = hdu.header
    plain = type(hdu).__name__ in {"PrimaryHDU", "ImageHDU"} and file.suffix.lower() not in {".gz", ".bz2", ".fz"}
    number = header.get("BITPIX") in (-32, -64) and header.get("BSCALE", 1) == 1 and header.get("BZERO", 0) == 0
    reserved = {name for names in COMPANIONS.values() for name in names}
    alone = not any(other.name.upper() in reserved for other in hdus if other is not hdu)
    size = int(np.prod(hdu.shape)) if len(hdu.shape) == 2 else 0
    return plain and number and alone and "BSOFTEN" not in header and size >= LARGE


def _on_disk(path: str | Path, hdu: Any) -> Any:
    """Return the pixels of an HDU as a frame on disk."""
    stored = ">f4" if hdu.header["BITPIX"] == -32 else ">f8"
    return DiskFrame(Path(path), hdu.shape, stored, hdu.fileinfo()["datLoc"])


def _merged_header(hdus: Any, hdu: Any) -> Any:
    """Return the extension's header followed by the primary's keywords that it lacks."""
    header = hdu.header.copy()
    if hdu is not hdus[0]:
        with silent():
            for card in hdus[0].header.cards:
                key = card.keyword
                if key not in _STRUCTURE and not key.startswith("NAXIS") and key not in header:
                    header.append(card, end=True)
    return header


def plain_header(header: Any) -> dict[str, Any]:
    """Return keyword -> value of the cards that say something about the exposure."""
    with silent():
        return {
            keyword: value
            for keyword, value, _ in readable_cards(header)
            if keyword not in _STRUCTURE and isinstance(value, (str, int, float, bool))
        }


def _note_choice(hdus: Any, found: ImageHdu, extension: Extension | None, facts: HeaderFacts) -> None:
    """Note that a file held more than one image and which was taken."""
    reserved = {name for names in COMPANIONS.values() for name in names}
    images = [
        index
        for index, hdu in enumerate(hdus)
        if hdu.is_image and len(getattr(hdu, "shape", ())) == 2 and (index == 0 or hdu.name.upper() not in reserved)
    ]
    if extension is None and len(images) > 1:
        facts.notes.append(
            f"the file holds {len(images)} images; the first, [{found.label}], was taken and FILE[EXT] names another"
        )


def _is_unsigned_16(hdu: Any) -> bool:
    """Whether the pixels are stored as raw unsigned 16-bit counts."""
    header = hdu.header
    bitpix = header.get("ZBITPIX", header.get("BITPIX"))
    original = getattr(hdu, "_orig_bitpix", bitpix)
    bzero = getattr(hdu, "_orig_bzero", header.get("BZERO"))
    return original == 16 and bzero == 32768


def _linearise_ps1(header: Any, data: np.ndarray, facts: HeaderFacts) -> None:
    """Undo the asinh scaling of Pan-STARRS stacks, in place."""
    terms = asinh_terms(header)
    if terms is not None:
        data[...] = linear_flux(data, *terms)
        facts.notes.append("the asinh scaling of Pan-STARRS (BSOFTEN, BOFFSET) was undone; pixels are counts")


def celestial_wcs(header: Any, hdus: Any, facts: HeaderFacts) -> Any:
    """Return the celestial WCS, or None: absent ones silently, broken ones with a note."""
    if not any(key.startswith("CTYPE") for key in header):
        return None  # no axis is said to be of the sky
    from astropy.wcs import WCS

    with silent():
        try:
            tables = hdus if any(key in header for key in ("CPDIS1", "D2IMDIS1", "CPDIS2")) else None
            wcs = WCS(header, fobj=tables)
            if not wcs.has_celestial:
                return None
            wcs = wcs.celestial
            x, y = ((n - 1) / 2 for n in (header["NAXIS1"], header["NAXIS2"]))
            middle = wcs.all_pix2world([[x, y]], 0)
            scale = float(np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))))
        except Exception as error:
            said = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = said[-1] if said else type(error).__name__
            facts.notes.append(f"the WCS of the header is broken and was left out: {reason}")
            return None
    # Without CD, PC or CDELT a pixel is one degree by the standard's default: no scale was meant at all.
    if not (np.all(np.isfinite(middle)) and 1e-9 < scale < 0.9):
        facts.notes.append("the WCS of the header maps its own pixels to no sensible sky and was left out")
        return None
    return wcs


def _find_companions(hdus: Any, found: ImageHdu, name: str | Path, skip: tuple[str, ...]) -> Planes:
    """Return the planes of the same shape (and version) that lie in the image's own file."""
    planes: dict[str, Any] = {}
    notes: list[str] = []
    version = getattr(found.hdu, "ver", 1)
    for hdu in hdus:
        kind = next((k for k, names in COMPANIONS.items() if hdu.name.upper() in names), None)
        if kind is None or hdu is found.hdu or not hdu.is_image or not getattr(hdu, "shape", ()):
            continue
        if getattr(hdu, "ver", 1) != version or hdu.shape[-2:] != found.hdu.shape[-2:]:
            continue
        kind = _companion_kind(kind, hdu, hdus)
        if kind in planes or (kind if kind == "mask" else "noise") in skip:
            continue
        planes[kind] = read_plane(name, hdu, kind)
        notes.append(f"{kind.replace('_', ' ')} from extension [{hdu.name}]")
    for spare in ("error", "variance"):  # the best of several noise planes; the others only repeat it
        if spare in planes:
            for other in ("variance", "weight"):
                if other != spare and other in planes:
                    del planes[other]
                    notes = [note for note in notes if not note.startswith(other)]
            break
    return Planes(**planes, notes=tuple(notes))


def _companion_kind(kind: str, hdu: Any, hdus: Any) -> str:
    """Correct what a name promises by what the header says."""
    if kind == "error":
        return {"VarianceUncertainty": "variance", "InverseVariance": "weight"}.get(hdu.header.get("UTYPE", ""), kind)
    if kind == "weight" and hdu.name.upper() == "WHT":
        told = " ".join(str(hdus[0].header.get(key, "")) for key in ("TELESCOP", "D001OUWE", "D001WTSC", "WHT_TYPE"))
        # drizzled images of HST and JWST: exposure-time maps unless said to be inverse variances
        if ("HST" in told or "JWST" in told) and "IVM" not in told.upper():
            return "coverage"
    return kind
