"""The planes that go with an image: masks with their surveys' bits, variances, errors and weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from astrid_gpu.errors import InputError, ShapeMismatchError
from astrid_gpu.flags import INVALID
from astrid_gpu.image import Image
from astrid_gpu.io.files import find_hdu, open_fits, pixels_of, silent, split_spec, stored_pixels
from astrid_gpu.io.ps1 import asinh_terms, linear_flux

__all__ = ["Planes", "bad_bits", "read_plane"]

_LSST_BAD = ("BAD", "SAT", "CR", "EDGE", "NO_DATA", "SENSOR_EDGE", "UNMASKEDNAN", "SUSPECT")


def bad_bits(header: Any) -> int | None:
    """Return the bits of a survey's mask that make a pixel unusable; None if any nonzero value does.

    ZTF and PTF flag detected sources too (bits 1 and 11, which would mask every star), JWST flags every jump that
    it repaired (only bit 0, DO_NOT_USE, counts), LSST flags detections.
    """
    if header.get("BIT00") == "BAD_SCIENCE":  # one of ours: the other bits are warnings on good pixels
        return INVALID
    origin = " ".join(str(header.get(key, "")) for key in ("ORIGIN", "TELESCOP", "INSTRUME")).upper()
    if "ZWICKY" in origin or "ZTF" in origin:
        return 6141
    if "PALOMAR TRANSIENT" in origin or "PTF/MOSAIC" in origin:
        return 0xFFFF & ~(1 << 1)
    if "JWST" in origin:
        return 1
    planes = {key[3:].upper(): value for key, value in header.items() if key.startswith("MP_")}
    if planes:
        return sum(1 << int(value) for key, value in planes.items() if key in _LSST_BAD)
    return None


def read_plane(path: str | Path, hdu: Any, kind: str) -> np.ndarray:
    """Return the pixels of a plane; a mask becomes uint8 with only the bits that make a pixel unusable."""
    if kind != "mask":
        pixels, terms = pixels_of(path, hdu), asinh_terms(hdu.header)
        return pixels if terms is None else linear_flux(pixels, *terms).astype(pixels.dtype)
    with silent():
        raw = stored_pixels(path, hdu).reshape(hdu.shape[-2:])
        bits = bad_bits(hdu.header)
    return _mask_codes(raw, bits)


def _mask_codes(raw: np.ndarray, bits: int | None = None) -> np.ndarray:
    """Return a mask as uint8: its codes where they fit into a byte, else 1; 0 = good, NaN = bad."""
    if raw.dtype.kind == "f":
        raw = np.where(np.isfinite(raw), raw, 1).astype(np.int64)
    elif raw.dtype.kind not in "iub":
        msg = f"a mask must hold integers or booleans, got dtype {raw.dtype}"
        raise InputError(msg)
    values = raw.astype(np.int64)
    if bits is not None:
        values = values & bits
    if values.size and (values.max() > 255 or values.min() < 0):
        values = values != 0
    return values.astype(np.uint8)


@dataclass(frozen=True)
class Planes:
    """Planes of one image, as paths or arrays; `coverage` is a weight of unknown scale: only its zeros are used."""

    mask: Any = None
    variance: Any = None
    error: Any = None
    weight: Any = None
    coverage: Any = None
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        planes = (self.mask, self.variance, self.error, self.weight, self.coverage)
        return any(plane is not None for plane in planes)

    def apply(self, image: Image, source: str | Path) -> Image:
        """Return `image` with these planes; what they replace and what they mask is noted.

        Raises
        ------
        InputError
            More than one of variance, error and weight.
        ShapeMismatchError
            A plane has another shape than the image.
        """
        noise = [kind for kind in ("variance", "error", "weight") if getattr(self, kind) is not None]
        if len(noise) > 1:
            msg = f"{image.name}: give one of variance, error and weight, got {' and '.join(noise)}"
            raise InputError(msg)
        notes = [*image.meta.get("notes", ()), *self.notes]
        mask = image.mask
        if self.mask is not None:
            mask = self._load("mask", image, source, notes)
            notes.append(f"the mask marks {int((mask != 0).sum())} pixels bad")
        variance = image.variance
        for kind in noise:
            plane = self._load(kind, image, source, notes)
            variance, mask = _variance_from(kind, plane, image, mask, notes)
        if self.coverage is not None:
            empty = ~(self._load("coverage", image, source, notes) > 0)
            mask = _mark(mask, empty, image)
            notes.append(f"{int(empty.sum())} pixels without coverage were masked")
        if variance is not None and not np.isfinite(variance).all():
            mask = _mark(mask, ~np.isfinite(variance), image)
        return image.with_(mask=mask, variance=variance, meta={**image.meta, "notes": notes})

    def _load(self, kind: str, image: Image, source: str | Path, notes: list[str]) -> np.ndarray:
        """Return a plane as an array of the image's shape."""
        plane, where = getattr(self, kind), "the array given"
        if isinstance(plane, (str, Path)):
            where = str(plane)
            file, extension = split_spec(plane)
            with open_fits(file) as hdus:
                plane = read_plane(file, find_hdu(file, hdus, extension, plane=True).hdu, kind)
            notes.append(f"{kind} from {file.name}")
        elif hasattr(plane, "get") and hasattr(plane, "device"):
            plane = plane.get()
        array = np.asarray(plane)
        if array.ndim == 0 and kind != "mask":
            array = np.full(image.shape, float(array))
        if array.shape != image.shape:
            msg = (
                f"the {kind} ({where}) has shape {array.shape} but the image {image.name} has {image.shape} (ny, nx); "
                "they must be of the same frame"
            )
            raise ShapeMismatchError(msg)
        return _mask_codes(array) if kind == "mask" else array.astype(image.data.dtype)


def _variance_from(
    kind: str, plane: np.ndarray, image: Image, mask: np.ndarray | None, notes: list[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return (variance, mask) from a noise plane: pixels without a positive finite variance are NaN and masked."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if kind == "error":
            variance = np.where(plane > 0, plane * plane, np.nan)
        elif kind == "weight":
            variance = np.where(plane > 0, 1.0 / plane, np.nan)
        else:
            variance = plane
        variance = variance.astype(image.data.dtype)
        lost = ~(np.isfinite(variance) & (variance > 0))
    variance[lost] = np.nan
    count = int(lost.sum())
    if count:
        known = image.bad if mask is None else image.bad | (mask != 0)
        new = int((lost & ~known).sum())
        notes.append(f"{count} pixels have no positive finite {kind}; they are masked ({new} were not so already)")
        mask = _mark(mask, lost, image)
    return variance, mask


def _mark(mask: np.ndarray | None, where: np.ndarray, image: Image) -> np.ndarray:
    """Return `mask` with value 1 at the pixels `where` that it calls good."""
    marked = np.zeros(image.shape, np.uint8) if mask is None else mask.copy()
    marked[where & (marked == 0)] = 1
    return marked
