"""Images from the objects astronomers already hold: arrays, NDData, pairs with a WCS, HDUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from astrid_gpu.errors import FitsError, InputError, ShapeMismatchError
from astrid_gpu.image import Image
from astrid_gpu.io.files import silent
from astrid_gpu.io.headers import HeaderFacts, read_facts
from astrid_gpu.io.images import celestial_wcs, image_from_hdus, open_image, plain_header, read_image
from astrid_gpu.io.planes import Planes

__all__ = ["as_image", "image_from_nddata"]


def as_image(obj: Any, *, name: str | None = None, lazy: bool = False) -> Image:
    """Return an `Image` made of whatever an astronomer holds.

    Parameters
    ----------
    obj : Image, array, CCDData or NDData, (data, wcs), HDU, HDUList, or path
        An array is two-dimensional numbers, a masked array included; a pair has the array first; a path is as in
        `read_image`. GPU arrays are copied to the host.
    name : str, optional
        For messages, e.g. "science".
    lazy : bool
        Leave the pixels of large plain files on disk (`open_image`).

    Raises
    ------
    InputError
        Not one of these.
    """
    if isinstance(obj, Image):
        return obj
    label = name or "image"
    if isinstance(obj, (str, Path)):
        return open_image(obj) if lazy else read_image(obj)
    if isinstance(obj, tuple):
        return _image_from_pair(obj, label)
    if _is_hdu_list(obj):
        return image_from_hdus(obj, obj.filename() or label)
    if hasattr(obj, "header") and hasattr(obj, "is_image"):
        return _image_from_hdu(obj, label)
    if hasattr(obj, "uncertainty") and hasattr(obj, "data"):
        return image_from_nddata(obj, label)
    return Image(data=_pixels(obj, label), mask=_array_mask(obj), name=label, meta={"notes": []})


def _is_hdu_list(obj: Any) -> bool:
    """Whether `obj` is an astropy HDUList (a list, so it must be told from lists of numbers)."""
    return isinstance(obj, list) and hasattr(obj, "index_of")


def _image_from_hdu(hdu: Any, label: str) -> Image:
    """Return the image of a single HDU."""
    if not hdu.is_image or not getattr(hdu, "shape", ()):
        msg = f"{label}: the HDU {hdu.name or '(no name)'} is not an image; give an image HDU or an HDUList"
        raise FitsError(msg)
    return image_from_hdus([hdu], label)


def _image_from_pair(pair: tuple[Any, ...], label: str) -> Image:
    """Return the image of a (data, wcs or header) pair."""
    if len(pair) != 2:
        msg = f"{label}: a tuple must be (data, wcs), got {len(pair)} items"
        raise InputError(msg)
    data, wcs = pair
    facts = HeaderFacts()
    plain: dict[str, Any] = {}
    if hasattr(wcs, "cards"):
        from astropy.io import fits

        header = fits.ImageHDU(np.zeros((1, 1), np.float32), header=wcs).header
        header["NAXIS2"], header["NAXIS1"] = np.shape(data)[-2:]
        facts, plain = read_facts(header), plain_header(header)
        wcs = celestial_wcs(header, None, facts)
    elif wcs is not None and not hasattr(wcs, "pixel_to_world_values"):
        msg = f"{label}: the second item must be a WCS or a FITS header, got {type(wcs).__name__}"
        raise InputError(msg)
    meta = {**facts.meta, "notes": facts.notes} | ({"header": plain} if plain else {})
    return Image(
        data=_pixels(data, label),
        mask=_array_mask(data),
        wcs=wcs,
        zero_point=facts.zero_point,
        gain=facts.gain,
        read_noise=facts.read_noise,
        saturation=facts.saturation,
        meta=meta,
        name=label,
    )


def _pixels(array: Any, label: str) -> np.ndarray:
    """Return numbers as a fresh native float array (ny, nx); float64 stays, the rest becomes float32."""
    if hasattr(array, "get") and hasattr(array, "device"):
        array = array.get()
    if hasattr(array, "unit") and hasattr(array, "value"):
        array = array.value
    data = np.asarray(array.data if isinstance(array, np.ma.MaskedArray) else array)
    if data.dtype.kind not in "fiub":
        msg = (
            f"{label} must be an image: an array of numbers, an Image, CCDData or NDData, (data, wcs), an HDU or a "
            f"path to FITS; got {type(array).__name__}"
        )
        raise InputError(msg)
    while data.ndim > 2 and data.shape[0] == 1:
        data = data[0]
    if data.ndim != 2 or 0 in data.shape:
        msg = f"{label} must be one two-dimensional image (ny, nx), got shape {np.shape(array)}"
        raise ShapeMismatchError(msg)
    dtype = np.float64 if data.dtype.kind == "f" and data.dtype.itemsize == 8 else np.float32
    return np.array(data, dtype=dtype, order="C")


def _array_mask(array: Any) -> np.ndarray | None:
    """Return the mask of a masked array as uint8."""
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        return np.ma.getmaskarray(array).reshape(array.shape[-2:]).astype(np.uint8)
    return None


def image_from_nddata(obj: Any, label: str) -> Image:
    """Return an NDData or CCDData as an Image: mask, uncertainty of any kind, WCS, unit, PSF and header."""
    data = _pixels(obj.data, label)
    facts = HeaderFacts()
    plain: dict[str, Any] = {}
    header = getattr(obj, "meta", None)
    if header:
        facts, plain = _facts_of_meta(header, obj)
    planes: dict[str, Any] = {}
    uncertainty = getattr(obj, "uncertainty", None)
    if uncertainty is not None and uncertainty.array is not None:
        kinds = {"std": "error", "var": "variance", "ivar": "weight"}
        kind = kinds.get(uncertainty.uncertainty_type)
        if kind is None:
            facts.notes.append(f"the uncertainty is of type {uncertainty.uncertainty_type!r}, which says no variance")
        else:
            planes[kind] = np.broadcast_to(np.asarray(uncertainty.array), data.shape)
    image = Image(
        data=data,
        mask=None,
        wcs=getattr(obj, "wcs", None),
        zero_point=facts.zero_point,
        gain=facts.gain,
        read_noise=facts.read_noise,
        saturation=facts.saturation,
        background_level=facts.background_level,
        meta={**facts.meta, "unit": str(obj.unit) if obj.unit else None, "header": plain, "notes": facts.notes},
        name=label,
    )
    if obj.mask is not None:
        planes["mask"] = np.broadcast_to(np.asarray(obj.mask), data.shape)
    given = Planes(**planes)
    image = given.apply(image, label) if given else image
    psf = getattr(obj, "psf", None)
    if psf is not None:
        from astrid_gpu.io.psf_files import read_psf

        image = image.with_(psf=read_psf(np.asarray(psf)))
    return image


def _facts_of_meta(meta: Any, obj: Any) -> tuple[HeaderFacts, dict[str, Any]]:
    """Return what the header or dict of an NDData says."""
    from astropy.io import fits

    header = fits.Header()
    with silent():
        if hasattr(meta, "cards"):
            header = meta.copy()
        else:
            for key, value in meta.items():
                if isinstance(value, (str, int, float, bool)) and isinstance(key, str):
                    header[f"HIERARCH {key}" if len(key) > 8 else key] = value
        if "BUNIT" not in header and getattr(obj, "unit", None):
            header["BUNIT"] = obj.unit.to_string()
    return read_facts(header), plain_header(header)
