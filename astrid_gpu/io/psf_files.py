"""PSFs from files and words: PSFEx, DAOPHOT, Piff, FITS stamps, ``gaussian:2.5``: a centred stamp or a PSFModel."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from astrid_gpu.errors import FitsError, PsfError
from astrid_gpu.image import PSF, PSFModel
from astrid_gpu.io.daophot import daophot_form, looks_like_daophot
from astrid_gpu.io.files import describe_hdus, find_hdu, open_fits, pixels_of, split_spec
from astrid_gpu.io.piff import is_piff, read_piff
from astrid_gpu.io.psfex import is_psfex, model_from_hdu
from astrid_gpu.ops.psf_stamps import centre_psf, ellipticity_of, fwhm_of, gaussian_stamp, moffat_stamp, with_fwhm

__all__ = ["psf_from_stamp", "read_psf", "read_psf_model"]

_ALLOWED = (
    "a PSF, a PSFModel, an array, a file (PSFEx, DAOPHOT, Piff or a FITS stamp), "
    "'gaussian:FWHM' or 'moffat:FWHM,BETA' in pixels"
)
_WORDS = re.compile(r"^\s*(gaussian|moffat)\s*:\s*(.*)$", re.IGNORECASE)


def read_psf(
    spec: Any,
    *,
    shape: tuple[int, int] | None = None,
    x: float | None = None,
    y: float | None = None,
) -> PSF:
    """Return a PSF, odd-sided, centred within 0.1 px and of sum 1, from whatever describes it.

    Parameters
    ----------
    spec : PSF, PSFModel, array, path, str or dict
        As for `read_psf_model`; or an object whose ``at(x=..., y=...)`` is a PSF.
    shape : (ny, nx), optional
        Shape of the image, whose middle is the default place for a model that varies over the field.
    x, y : float, optional
        0-based pixel at which a varying model is evaluated; then `shape` is not compared with the model's own.

    Raises
    ------
    PsfError
        Not finite, not positive, not centred, or not one of the above.
    FitsError
        The file is missing or damaged.
    """
    if hasattr(spec, "at") and not isinstance(spec, PSFModel):
        middle_y, middle_x = (None, None) if shape is None else ((n - 1) / 2 for n in shape)
        return spec.at(x=middle_x if x is None else x, y=middle_y if y is None else y)  # type: ignore[no-any-return]
    found = read_psf_model(spec, shape=shape if x is None and y is None else None)
    return found.at(y, x) if isinstance(found, PSFModel) else found


def read_psf_model(spec: Any, *, shape: tuple[int, int] | None = None) -> PSF | PSFModel:
    """Return what describes a PSF as a `PSF`, or as a `PSFModel` where it varies over the field.

    Parameters
    ----------
    spec : PSF, PSFModel, array, path, str or dict
        A `PSF` (centred again) or `PSFModel`; a stamp (ky, kx), even or odd; the path of a PSFEx ``.psf``, a DAOPHOT
        ``.psf``, a Piff file or a FITS stamp (``FILE[EXT]``), as ZTF's ``sciimgdaopsf.fits`` is one;
        ``"gaussian:FWHM"``, ``"moffat:FWHM,BETA"`` in pixels, FWHM as measured on the image, the pixel included; or
        ``{"kind": "moffat", "fwhm": 3, "beta": 2.5}``.
    shape : (ny, nx), optional
        Shape of the image. A model of an image of another size is an error.

    Raises
    ------
    PsfError
        Not finite, not positive, not centred, not one of the above, or of another image size.
    FitsError
        The file is missing or damaged.
    """
    if isinstance(spec, PSFModel):
        return _of_shape(spec, shape)
    if isinstance(spec, PSF):
        stamp = centre_psf(spec.data, name="psf")
        return replace(spec, data=stamp, fwhm=spec.fwhm if np.isfinite(spec.fwhm) else fwhm_of(stamp))
    if isinstance(spec, Mapping):
        return _analytic(str(spec.get("kind", "")), spec.get("fwhm"), spec.get("beta"), str(dict(spec)))
    if isinstance(spec, str) and (words := _WORDS.match(spec)):
        numbers = [part.strip() for part in words[2].split(",")]
        if not 1 <= len(numbers) <= (2 if words[1].lower() == "moffat" else 1):
            msg = f"cannot read the PSF {spec!r}: write 'gaussian:FWHM' or 'moffat:FWHM,BETA', in pixels"
            raise PsfError(msg)
        return _analytic(words[1], numbers[0], numbers[1] if len(numbers) > 1 else None, spec)
    if isinstance(spec, (str, Path)):
        spec = _read_file(spec, shape)
    if isinstance(spec, PSF):
        return spec
    if isinstance(spec, PSFModel):
        return spec if spec.order else spec.at()
    if hasattr(spec, "array") and not hasattr(spec, "dtype"):  # astropy kernels
        spec = spec.array
    if hasattr(spec, "get") and hasattr(spec, "device"):
        spec = spec.get()
    array = np.asarray(spec)
    if array.dtype.kind not in "fiub":
        msg = f"a PSF must be {_ALLOWED}; got {spec!r}"
        raise PsfError(msg)
    return psf_from_stamp(array)


def _of_shape(model: PSFModel, shape: tuple[int, int] | None) -> PSFModel:
    """Return a model that may belong to an image of this shape."""
    if shape is not None and model.shape not in (None, tuple(shape)):
        msg = (
            f"the PSF model belongs to an image of {model.shape}, this one has {tuple(shape)}; give the model of this "
            "image, or model.at(y, x) for the PSF at one place"
        )
        raise PsfError(msg)
    return model


def psf_from_stamp(stamp: Any, *, origin: str = "stamp", name: str = "psf", fwhm: float | None = None) -> PSF:
    """Return a stamp as a PSF: centred, odd, of sum 1, with its FWHM and ellipticity measured."""
    array = np.asarray(stamp)
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    data = centre_psf(array, name=name)
    return PSF(data=data, fwhm=fwhm_of(data) if fwhm is None else fwhm, ellipticity=ellipticity_of(data), origin=origin)


def _analytic(kind: str, fwhm: Any, beta: Any, said: str) -> PSF:
    """Return a Gaussian or Moffat PSF whose FWHM on the image is `fwhm`."""
    try:
        width = float(fwhm)
        power = 3.0 if beta is None else float(beta)
    except (TypeError, ValueError) as error:
        msg = f"cannot read the PSF {said!r}: write 'gaussian:FWHM' or 'moffat:FWHM,BETA', in pixels"
        raise PsfError(msg) from error
    if kind.lower() == "gaussian":
        side = 2 * max(3, int(np.ceil(5.0 * width / 2.3548))) + 1 if np.isfinite(width) and width > 0 else None
        data = with_fwhm(lambda w: gaussian_stamp(w, side), width)
    elif kind.lower() == "moffat":
        side = 2 * max(3, int(np.ceil(4.0 * width))) + 1 if np.isfinite(width) and width > 0 else None
        data = with_fwhm(lambda w: moffat_stamp(w, power, side), width)
    else:
        msg = f"unknown PSF kind {kind!r} in {said!r}; known are gaussian and moffat"
        raise PsfError(msg)
    return PSF(data=data, fwhm=fwhm_of(data), ellipticity=0.0, origin=said.strip())


def _read_file(spec: str | Path, shape: tuple[int, int] | None) -> PSF | PSFModel:
    """Return the PSF or model that a file holds, its kind told by its content."""
    path, extension = split_spec(spec)
    if path.is_file() and looks_like_daophot(path):
        return daophot_form(path).model(shape)
    if not path.exists() and not re.search(r"\.\w{2,5}$|/", str(spec)):
        msg = f"cannot make a PSF of {str(spec)!r}: there is no such file; a PSF must be {_ALLOWED}"
        raise PsfError(msg)
    with open_fits(path) as hdus:
        if extension is None:
            table = next((hdu for hdu in hdus if is_psfex(hdu)), None)
            if table is not None:
                return model_from_hdu(table, path).model(shape)
            if is_piff(hdus):
                return read_piff(path, shape=shape)
            _refuse_foreign(path, hdus)
        found = find_hdu(path, hdus, extension)
        stamp = pixels_of(path, found.hdu)
        step = _oversampling(found.hdu.header, hdus[0].header)
    if step is not None and step != 1:
        msg = (
            f"{path} is oversampled {step:g} times; bin it to the pixels of the image first "
            "(sum blocks of that many pixels about the centre)"
        )
        raise PsfError(msg)
    return psf_from_stamp(_without_pedestal(stamp, found.hdu.header), origin=f"stamp {path.name}", name=str(path))


def _refuse_foreign(path: Path, hdus: Any) -> None:
    """Name the kinds of PSF file that are not read, instead of failing on their first image."""
    cubes = [hdu for hdu in hdus if hdu.is_image and len(getattr(hdu, "shape", ())) == 3 and hdu.shape[0] > 1]
    if cubes:
        cube = cubes[0]
        msg = (
            f"{path} is a grid of {cube.shape[0]} PSFs, shape {tuple(cube.shape)}; choose one, bring it to the pixels "
            "of the image (such grids are oversampled, those of HST four times) and pass the stamp"
        )
        raise PsfError(msg)
    if not any(hdu.is_image and getattr(hdu, "shape", ()) for hdu in hdus):
        msg = f"{path} holds neither a PSFEx model nor a stamp: {describe_hdus(hdus)}"
        raise FitsError(msg)


def _oversampling(*headers: Any) -> float | None:
    """Return the oversampling that a stamp's header states, None if it says nothing."""
    for header in headers:
        for key in ("OVERSAMP", "DET_SAMP", "PSF_SAMP"):
            value = header.get(key)
            if isinstance(value, (int, float)) and value > 0:
                return 1.0 / float(value) if key == "PSF_SAMP" else float(value)
    return None


def _without_pedestal(stamp: np.ndarray, header: Any) -> np.ndarray:
    """Subtract the software bias of SDSS PSF images, 1000 in every pixel (SOFTBIAS in their headers)."""
    bias = header.get("SOFTBIAS")
    return stamp - float(bias) if isinstance(bias, (int, float)) else stamp
