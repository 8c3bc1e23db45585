"""Opening FITS files: plain, gzip, bzip2 or tile-compressed; every bad file is a `FitsError` that says what to do."""

from __future__ import annotations

import bz2
import gzip
import io
import re
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from astrid_gpu.errors import FitsError
from astrid_gpu.io.extras import need

__all__ = [
    "COMPANIONS",
    "Extension",
    "ImageHdu",
    "describe_hdus",
    "find_hdu",
    "open_fits",
    "pixels_of",
    "readable_cards",
    "silent",
    "split_spec",
    "stored_pixels",
]

Extension = int | str | tuple[str, int]

_SPEC = re.compile(r"^(?P<path>.+?)\[(?P<ext>[^\[\]]+)\]$", re.DOTALL)

COMPANIONS: dict[str, tuple[str, ...]] = {
    "error": ("ERR", "ERROR", "SIGMA", "RMS", "NOISE", "STDDEV", "UNCERT", "UNCERTAINTY", "STDEV"),
    "variance": ("VARIANCE", "VAR", "STAT"),
    "weight": ("IVM", "IVAR", "INVVAR", "WEIGHT", "WGT", "WHT", "WT"),
    "mask": ("DQ", "MASK", "MSK", "BPM", "FLAG", "FLAGS", "DATA_QUALITY", "APERTURE"),
}
"""Names by which a file calls the planes that go with its image."""


class ImageHdu(NamedTuple):
    """An image found in a file: its place, label, raw HDU."""

    place: int
    label: str
    hdu: Any


class _Silence:
    """Warnings ignored while anybody wants it.

    The filters belong to the process: of threads that overlap, the first saves them and the last puts them back; each
    by itself would bring back what another had set.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._wanted == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.simplefilter("ignore")
            self._wanted += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._wanted -= 1
            if self._wanted == 0:
                self._saved.__exit__(None, None, None)


_silence = _Silence()


@contextmanager
def silent() -> Iterator[None]:
    """Keep quiet about headers that break the letter of the standard: nearly all real ones do, harmlessly.

    Covers astropy's FITSFixedWarning (a deprecated keyword was understood), VerifyWarning (a card is not quite
    standard) and UnitsWarning. What matters is checked by us and raised or noted. Any number of threads may.
    """
    with _silence:
        yield


def split_spec(spec: str | Path) -> tuple[Path, Extension | None]:
    """Split ``FILE[EXT]`` into path and extension: a number, a name, or (name, version).

    >>> split_spec("img.fits[SCI,1]")
    (PosixPath('img.fits'), ('SCI', 1))
    """
    path = Path(spec).expanduser()
    found = _SPEC.match(str(spec))
    if found is None or path.exists():
        return path, None
    return Path(found["path"]).expanduser(), _parse_extension(found["ext"], str(spec))


def _parse_extension(text: str, spec: str) -> Extension:
    """Return the extension that ``EXT`` of ``FILE[EXT]`` stands for."""
    name, comma, version = (part.strip() for part in text.partition(","))
    if not comma:
        return int(name) if name.lstrip("-").isdigit() else name.upper()
    if not version.isdigit() or not name:
        msg = f"cannot read {spec!r}: after FILE comes [NUMBER], [NAME] or [NAME,VERSION], got [{text}]"
        raise FitsError(msg)
    return name.upper(), int(version)


@contextmanager
def open_fits(path: str | Path) -> Iterator[Any]:
    """Open a FITS file and check that all of it is there; the HDUList is valid inside the `with` block.

    Raises
    ------
    FitsError
        Missing, a folder, empty, damaged or truncated, or not FITS at all: named, with what to do.
    """
    need("astropy", "fits", "reading FITS")
    from astropy.io import fits

    path = Path(path)
    source, size = _source(path)
    try:
        with silent():
            hdus = fits.open(source, memmap=False, lazy_load_hdus=False)
    except Exception as error:  # astropy meets damage with whatever it stumbles over
        msg = f"{path}: the FITS header cannot be read ({_first_line(error)}); the file is damaged, fetch it again"
        raise FitsError(msg) from error
    with hdus:
        _check_complete(path, hdus, size)
        try:
            yield hdus
        except fits.VerifyError as error:  # a card that somebody needed
            msg = f"{path}: a header card is damaged ({_first_line(error)}); fetch the file again"
            raise FitsError(msg) from error


def _source(path: Path) -> tuple[Path | io.BytesIO, int]:
    """Return what to open and its size: the file, or its bytes decompressed; or say what the file is instead."""
    if "://" in str(path) or re.match(r"^(https?|s3|ftp):/", str(path)):
        msg = f"{path} is an address, not a file; download it first (astrid-gpu fetch ...)"
        raise FitsError(msg)
    if path.is_dir():
        msg = f"{path} is a folder; give one FITS file"
        raise FitsError(msg)
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            content = stream.read(4000)
    except FileNotFoundError as error:
        msg = f"{path}: no such file; check the path (here is {Path.cwd()})"
        raise FitsError(msg) from error
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror or error}"
        raise FitsError(msg) from error
    if not content:
        msg = f"{path} is empty (0 bytes); the download or the disk failed, fetch it again"
        raise FitsError(msg)
    unpacked = _decompress(path, content)
    if not (unpacked or content).startswith(b"SIMPLE  ="):
        raise FitsError(_what_it_is(path, unpacked or content))
    return (path, size) if unpacked is None else (io.BytesIO(unpacked), len(unpacked))


def _decompress(path: Path, head: bytes) -> bytes | None:
    """Undo gzip or bzip2, told by the first bytes and not by the name; None if there is nothing to undo."""
    kind = "gzip" if head.startswith(b"\x1f\x8b") else "bzip2" if head.startswith(b"BZh") else None
    if kind is None:
        return None
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if kind == "gzip" else bz2.decompress(content)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        msg = f"{path}: the {kind} stream is damaged or cut short ({_first_line(error)}); fetch the file again"
        raise FitsError(msg) from error


def _what_it_is(path: Path, content: bytes) -> str:
    """Return a message about a file that is not FITS."""
    head = content[:400].lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<votable")):
        title = re.search(rb"<title>(.{0,120}?)</title>", content[:4000], re.IGNORECASE | re.DOTALL)
        said = f" titled {title[1].decode(errors='replace').strip()!r}" if title else ""
        return (
            f"{path} is a web page{said}, not FITS: the archive answered with an error or a login page. "
            "Open it to see why, then fetch the image again"
        )
    if head.startswith((b"{", b"[")):
        return f"{path} is JSON, not FITS: probably the archive's error message. Open it to see why"
    known = {b"\x89png": "a PNG picture", b"\xff\xd8\xff": "a JPEG picture", b"pk\x03\x04": "a ZIP archive"}
    known |= {b"\x89hdf": "an HDF5 file", b"%pdf": "a PDF", b"\xfd7zxz": "an xz archive"}
    what = next((name for magic, name in known.items() if content[:8].lower().startswith(magic)), None)
    if what:
        return f"{path} is {what}, not FITS; give a FITS file (.fits, .fits.gz or .fits.fz)"
    return f"{path} is not FITS: it begins with {content[:16]!r}, a FITS file with 'SIMPLE  ='"


def _check_complete(path: Path, hdus: Any, size: int) -> None:
    """Raise if an HDU claims more bytes than the file has."""
    for index, hdu in enumerate(hdus):
        try:
            info = hdu.fileinfo()
            end = info["datLoc"] + _data_bytes(hdu) if info is not None else 0
        except Exception as error:
            msg = f"{path}: HDU {index} is damaged ({_first_line(error)}); fetch the file again"
            raise FitsError(msg) from error
        if end > size:
            msg = (
                f"{path} is truncated: HDU {index} ends at byte {end} but the file has {size}, "
                f"{100 * (end - size) / end:.1f} % is missing; fetch it again"
            )
            raise FitsError(msg)


def _data_bytes(hdu: Any) -> int:
    """Return the number of bytes of an HDU's data on disk, without padding."""
    # A tile-compressed image reports the size of the picture; on disk is the table that holds its tiles.
    table = getattr(hdu, "_bintable", None)
    return int((table if table is not None else hdu).size)


def _first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def readable_cards(header: Any) -> Iterator[tuple[str, Any, str]]:
    """Yield (keyword, value, comment) of the cards of a header that can be parsed; damaged ones are passed over."""
    for card in header.cards:
        try:
            yield card.keyword, card.value, str(card.comment or "")
        except Exception:  # noqa: S112  (one card that breaks the standard costs nobody the file)
            continue


def describe_hdus(hdus: Any) -> str:
    """Return one line about every HDU of a file, for messages: ``[0] PRIMARY empty, [1] SCI image 2048x4096``."""
    parts = []
    for index, hdu in enumerate(hdus):
        name = hdu.name or type(hdu).__name__.removesuffix("HDU")
        version = f",{hdu.ver}" if getattr(hdu, "ver", 1) > 1 else ""
        shape = getattr(hdu, "shape", ()) if hdu.is_image else None
        if shape is None:
            what = "table"
        elif not shape:
            what = "empty"
        else:
            what = ("image " if len(shape) == 2 else f"{len(shape)}-D ") + "x".join(str(s) for s in reversed(shape))
        parts.append(f"[{index}] {name}{version} {what}")
    listing = ", ".join(parts[:12])
    return listing + (f", and {len(parts) - 12} more" if len(parts) > 12 else "")


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Drop leading axes of length 1."""
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return shape


def find_hdu(path: str | Path, hdus: Any, extension: Extension | None, *, plane: bool = False) -> ImageHdu:
    """Return the image of a file: the one asked for, else the primary or the first two-dimensional extension.

    With `plane` any image will do (the file is a mask or a weight map); otherwise extensions whose names say mask,
    error or weight are passed over.

    Raises
    ------
    FitsError
        No such extension, no image, or a cube or spectrum: with a list of what the file holds.
    """
    if extension is not None:
        return _named_hdu(path, hdus, extension)
    reserved = set() if plane else {name for names in COMPANIONS.values() for name in names}
    images = [(i, h) for i, h in enumerate(hdus) if h.is_image and getattr(h, "shape", ())]
    flat = [(i, h) for i, h in images if len(_squeezed(h.shape)) == 2 and 0 not in h.shape]
    chosen = next(((i, h) for i, h in flat if i == 0 or h.name.upper() not in reserved), None)
    if chosen is not None:
        return _labelled(*chosen)
    if not images:
        msg = f"{path} holds no image: {describe_hdus(hdus)}"
        raise FitsError(msg)
    if flat:
        msg = f"{path} holds only planes that go with an image: {describe_hdus(hdus)}. To use one name it: FILE[EXT]"
        raise FitsError(msg)
    _refuse_shape(path, hdus, *images[0])
    raise AssertionError  # pragma: no cover  (the line above always raises)


def _named_hdu(path: str | Path, hdus: Any, extension: Extension) -> ImageHdu:
    """Return the extension asked for, checked to be a two-dimensional image."""
    try:
        index = hdus.index_of(extension)
        hdu = hdus[index]
    except (KeyError, IndexError) as error:
        msg = f"{path} has no extension {extension!r}; it holds {describe_hdus(hdus)}"
        raise FitsError(msg) from error
    if index < 0:
        index += len(hdus)
    if not hdu.is_image or not getattr(hdu, "shape", ()):
        msg = f"{path}[{extension}] is not an image; the file holds {describe_hdus(hdus)}"
        raise FitsError(msg)
    if len(_squeezed(hdu.shape)) != 2 or 0 in hdu.shape:
        _refuse_shape(path, hdus, index, hdu)
    return _labelled(index, hdu)


def _refuse_shape(path: str | Path, hdus: Any, index: int, hdu: Any) -> None:
    """Raise about an image that is not two-dimensional."""
    shape = tuple(hdu.shape)
    what = "a spectrum" if len(shape) == 1 else f"a cube of {shape[0]} planes" if len(shape) == 3 else "no picture"
    advice = (
        f"Take one plane and pass the array, e.g. astropy.io.fits.getdata(path, {index})[0]"
        if len(shape) >= 3
        else "Name a two-dimensional extension as FILE[EXT] if there is one"
    )
    msg = f"{path}[{index}] is {what}, shape {shape}, not one image (ny, nx). {advice}. The file: {describe_hdus(hdus)}"
    raise FitsError(msg)


def _labelled(index: int, hdu: Any) -> ImageHdu:
    """Return the HDU with a short name for messages."""
    return ImageHdu(index, hdu.name if index and hdu.name else str(index), hdu)


def stored_pixels(path: str | Path, hdu: Any) -> np.ndarray:
    """Return the pixels of an image HDU as astropy gives them.

    Raises
    ------
    FitsError
        They cannot be read or decompressed. The codecs have exceptions of their own, so any is taken.
    """
    try:
        with silent():
            data = hdu.data
    except Exception as error:
        msg = f"{path}: the pixels cannot be read ({_first_line(error)}); the file is damaged, fetch it again"
        raise FitsError(msg) from error
    if data is None:
        msg = f"{path}: there are no pixels where the header promises an image; the file is damaged, fetch it again"
        raise FitsError(msg)
    return np.asarray(data)


def pixels_of(path: str | Path, hdu: Any) -> np.ndarray:
    """Return the pixels of an image HDU, scaled, in native byte order, contiguous: (ny, nx).

    BZERO and BSCALE are applied, BLANK becomes NaN. float64 stays, every other type becomes float32.

    Raises
    ------
    FitsError
        The pixels cannot be read or decompressed.
    """
    blank = hdu.header.get("BLANK")
    data = stored_pixels(path, hdu)
    data = data.reshape(_squeezed(data.shape))
    dtype = np.float64 if data.dtype.kind == "f" and data.dtype.itemsize == 8 else np.float32
    pixels = np.array(data, dtype=dtype, order="C")
    if data.dtype.kind == "u" and data.dtype.itemsize > 1 and isinstance(blank, int):
        # astropy keeps unsigned integers as integers and then cannot mark blanks in them
        pixels[data == blank + (1 << (8 * data.dtype.itemsize - 1))] = np.nan
    return pixels
