"""What is wrong, and what is right, with a FITS file: integrity, pixels, header and world coordinates."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from astrid_gpu.errors import FitsError
from astrid_gpu.io.files import find_hdu, open_fits, pixels_of, silent, split_spec
from astrid_gpu.io.headers import HeaderFacts, read_facts
from astrid_gpu.io.images import celestial_wcs

__all__ = ["FitsInspection", "WcsInspection", "inspect_fits", "inspect_wcs", "sha256_of"]

_COARSEST = 120.0  # arcsec a pixel: coarser than any imaging survey (TESS has 21)
_FINEST = 0.002  # arcsec a pixel: finer than any
_ROUND_TRIP = 0.01  # px
_BLOCK = 1 << 20


@dataclass(frozen=True)
class WcsInspection:
    """Where an image lies on the sky.

    Parameters
    ----------
    ra, dec : float
        Of the middle pixel, degrees, ICRS.
    pixel_scale : float
        Arcseconds; the root of the pixel's area.
    radius : float
        Degrees from the middle to the farthest corner.
    corners : tuple of (ra, dec)
        Of the four corner pixels, counter-clockwise in pixels from the first.
    problems : tuple of str
        What does not hold together, in words.
    """

    ra: float
    dec: float
    pixel_scale: float
    radius: float
    corners: tuple[tuple[float, float], ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class FitsInspection:
    """What `inspect_fits` found.

    Parameters
    ----------
    path : Path
    size : int
        Bytes on disk, 0 if there is no such file.
    sha256 : str
        Of the file's bytes; "" if it cannot be read.
    error : str or None
        Why the file cannot be used; everything below is then empty.
    shape : (int, int) or None
        (ny, nx) of the image; None if the file holds none that is two-dimensional.
    dtype : str
        Of the pixels as stored, NumPy's name.
    n_hdus : int
    n_nan, n_inf : int
        Pixels of the image that are not a number, or infinite.
    constant : bool
        Every finite pixel has the same value.
    facts : HeaderFacts
    wcs : WcsInspection or None
    problems : tuple of str
        Checksums that do not fit, and the like.
    """

    path: Path
    size: int = 0
    sha256: str = ""
    error: str | None = None
    shape: tuple[int, int] | None = None
    dtype: str = ""
    n_hdus: int = 0
    n_nan: int = 0
    n_inf: int = 0
    constant: bool = False
    facts: HeaderFacts = field(default_factory=HeaderFacts)
    wcs: WcsInspection | None = None
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the file can be read and nothing is wrong with it."""
        return self.error is None and not self.problems and not (self.wcs and self.wcs.problems)


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def inspect_fits(path: str | Path, *, pixels: bool = True) -> FitsInspection:
    """Look a FITS file over, without raising: a file that cannot be used says why in `error`.

    Parameters
    ----------
    path : path, or "FILE[EXT]"
        The image is the one `read_image` would take.
    pixels : bool
        Read every pixel: count what is not finite, verify the checksums. Without, only headers are read and `sha256`
        stays empty.

    Returns
    -------
    FitsInspection

    Notes
    -----
    Cost: reading the file twice, once for its digest; headers alone take a few milliseconds.
    """
    file, extension = split_spec(path)
    try:
        size = file.stat().st_size
        digest = sha256_of(file) if pixels else ""
    except OSError as error:
        return FitsInspection(file, error=f"{file} cannot be read: {error.strerror or error}")
    try:
        with open_fits(file) as hdus:
            problems = tuple(_checksums(hdus)) if pixels else ()
            found = _image(file, hdus, extension)
            known: dict[str, Any] = {"size": size, "sha256": digest, "n_hdus": len(hdus), "problems": problems}
            if found is None:
                return FitsInspection(file, **known, facts=read_facts(hdus[0].header))
            return FitsInspection(file, **known, **_look(file, hdus, found, pixels))
    except FitsError as error:
        return FitsInspection(file, size=size, sha256=digest, error=str(error))


def _image(path: Path, hdus: Any, extension: Any) -> Any:
    """Return the HDU of the image, None where the file holds none of its own (a cube, a table, a plane)."""
    try:
        return find_hdu(path, hdus, extension).hdu
    except FitsError:
        if extension is not None:
            raise
        return None


def _checksums(hdus: Any) -> list[str]:
    """Return what CHECKSUM and DATASUM say against an HDU; most files have none."""
    wrong = []
    for index, hdu in enumerate(hdus):
        for keyword, verify in (("DATASUM", "verify_datasum"), ("CHECKSUM", "verify_checksum")):
            if keyword not in hdu.header or not hasattr(hdu, verify):
                continue
            with silent():
                try:
                    fits = getattr(hdu, verify)()
                except Exception:  # a sum that cannot even be computed does not fit
                    fits = 0
            if fits == 0:
                wrong.append(f"{keyword} of HDU {index} does not fit its bytes: they were changed or damaged")
                break
    return wrong


def _look(path: Path, hdus: Any, hdu: Any, pixels: bool) -> dict[str, Any]:
    """Return what the image's header and pixels say."""
    header = hdu.header.copy()
    with silent():
        header.extend(hdus[0].header, unique=True, strip=True)
    facts = read_facts(header)
    shape = int(hdu.shape[-2]), int(hdu.shape[-1])
    wcs = celestial_wcs(header, hdus, facts)
    found: dict[str, Any] = {"shape": shape, "dtype": _stored_type(hdu), "facts": facts}
    found["wcs"] = None if wcs is None else inspect_wcs(wcs, shape)
    if pixels:
        data = pixels_of(path, hdu)
        finite = np.isfinite(data)
        n_nan = int(np.count_nonzero(np.isnan(data)))
        found |= {"n_nan": n_nan, "n_inf": int(data.size - np.count_nonzero(finite) - n_nan)}
        good = data[finite]
        found["constant"] = bool(good.size) and bool(good.min() == good.max())
    return found


def _stored_type(hdu: Any) -> str:
    """Return NumPy's name of BITPIX, of the compressed image where there is one."""
    bitpix = int(hdu.header.get("ZBITPIX", hdu.header.get("BITPIX", 0)) or 0)
    bitpix = int(getattr(hdu, "_orig_bitpix", bitpix) or bitpix)
    names = {8: "uint8", 16: "int16", 32: "int32", 64: "int64", -32: "float32", -64: "float64"}
    return names.get(bitpix, f"BITPIX {bitpix}")


def inspect_wcs(wcs: Any, shape: tuple[int, int]) -> WcsInspection:
    """Return where an image of `shape` lies, and what is wrong with its celestial WCS."""
    ny, nx = shape
    x = np.array([(nx - 1) / 2, 0, nx - 1, nx - 1, 0])
    y = np.array([(ny - 1) / 2, 0, 0, ny - 1, ny - 1])
    with silent():
        sky = wcs.pixel_to_world(x, y).icrs
        ra, dec = np.atleast_1d(sky.ra.deg), np.atleast_1d(sky.dec.deg)
        step = wcs.pixel_to_world(x[:1] + np.array([0, 1, 0]), y[:1] + np.array([0, 0, 1])).icrs
    problems = []
    if not (np.all(np.isfinite(ra)) and np.all(np.isfinite(dec))):
        problems.append("a corner of the image has no place on the sky")
        return WcsInspection(float(ra[0]), float(dec[0]), float("nan"), float("nan"), (), tuple(problems))
    scale = _pixel_scale(step)
    if not _FINEST < scale < _COARSEST:
        problems.append(f'a pixel is {scale:.4g}", outside of {_FINEST:g}" to {_COARSEST:g}"')
    problems += _round_trip(wcs, x, y, sky)
    radius = float(sky[0].separation(sky[1:]).deg.max())
    corners = tuple((float(a), float(d)) for a, d in zip(ra[1:], dec[1:], strict=True))
    return WcsInspection(float(ra[0]), float(dec[0]), scale, radius, corners, tuple(problems))


def _pixel_scale(step: Any) -> float:
    """Return the root of a pixel's area in arcseconds, from the middle pixel and its neighbours in x and y."""
    east = (step.ra.wrap_at("180d").deg - step.ra.wrap_at("180d").deg[0] + 540) % 360 - 180
    east, north = east * np.cos(step.dec.rad[0]), step.dec.deg - step.dec.deg[0]
    return float(np.sqrt(abs(east[1] * north[2] - east[2] * north[1]))) * 3600


def _round_trip(wcs: Any, x: np.ndarray, y: np.ndarray, sky: Any) -> list[str]:
    """Return what goes wrong on the way from pixels to the sky and back."""
    try:
        with silent():
            back = np.array(wcs.world_to_pixel(sky))
    except Exception as error:  # wcslib's own errors, of which there are many
        return [f"the sky does not lead back to pixels: {str(error).strip().splitlines()[0]}"]
    off = float(np.nanmax(np.hypot(back[0] - x, back[1] - y)))
    return [f"from pixels to the sky and back is {off:.3g} px off"] if not off < _ROUND_TRIP else []
