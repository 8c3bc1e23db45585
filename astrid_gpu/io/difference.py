"""Difference images as FITS: one file with the maps, the PSF, the WCS, the numbers and the story."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from astrid_gpu.errors import InputError
from astrid_gpu.io.extras import need
from astrid_gpu.io.files import silent
from astrid_gpu.io.paths import atomic_path
from astrid_gpu.results import Cutouts, Difference

__all__ = ["EXTENSIONS", "check_extensions", "difference_hdulist", "write_cutout_fits", "write_difference"]

EXTENSIONS: dict[str, tuple[str, str]] = {
    "DIFFERENCE": ("difference", "D / F_D, in the unit of the science image"),
    "SCORE": ("score", "S, matched-filter statistic"),
    "SCORECORR": ("score_corr", "S_corr, significance with unit noise"),
    "FLUX": ("flux", "PSF flux of a point source on each pixel"),
    "FLUXERR": ("flux_error", "its 1-sigma error"),
    "MASK": ("mask", "bits: see the BIT keywords, 0 = good"),
    "PSF": ("psf", "PSF of the difference, sum 1"),
}
"""Extension name -> attribute of `Difference`, comment. The order is that of the file."""

LARGE = 20_000_000
"""Pixels from which on a difference is written map by map: each is copied on its way."""

_IN_FLUX = ("DIFFERENCE", "FLUX", "FLUXERR")

# keyword, key of diff.metrics, comment
_METRICS = (
    ("BETA", "flux_ratio", "F_n / F_r, flux ratio science to reference"),
    ("BETAERR", "flux_ratio_error", "1-sigma error of BETA"),
    ("GAMMA", "offset", "offset of the flux fit, science counts"),
    ("SIGN", "sigma_science", "background noise of the science image"),
    ("SIGR", "sigma_reference", "background noise of the reference"),
    ("FWHMN", "fwhm_science", "[pix] FWHM of the science PSF"),
    ("FWHMR", "fwhm_reference", "[pix] FWHM of the reference PSF"),
    ("DX", "shift_x", "[pix] registration offset removed along x"),
    ("DY", "shift_y", "[pix] registration offset removed along y"),
    ("ASTERRX", "astrometric_error_x", "[pix] 1-sigma registration error along x"),
    ("ASTERRY", "astrometric_error_y", "[pix] 1-sigma registration error along y"),
    ("SCMED", "score_corr_median", "median of S_corr on quiet sky"),
    ("SCSTD", "score_corr_std", "robust width of S_corr on quiet sky"),
    ("SCMEDRAW", "score_corr_median_raw", "SCMED before any renormalisation"),
    ("SCSTDRAW", "score_corr_std_raw", "SCSTD before any renormalisation"),
    ("RENORM", "renormalise_factor", "S_corr was divided by this or a map about it"),
    ("RENMIN", "renormalise_min", "least of the map, absent if one number"),
    ("RENMAX", "renormalise_max", "largest of the map, absent if one number"),
    ("NOISEFAC", "noise_factor", "both sigma raised by this: correlated noise"),
    ("PIXNOISE", "pixel_noise_factor", "variance of resampled pixels over VARIANCE"),
    ("MAPERR", "map_error", "[pix] largest error of the pixel map"),
    ("LIMFLUX", "limiting_flux", "median 5-sigma point-source flux"),
    ("LIMMAG", "limiting_magnitude", "[mag] the same as AB magnitude"),
    ("OVERLAP", "overlap", "fraction of the frame the reference covers"),
    ("NFSTARS", "n_flux_stars", "stars behind BETA"),
)

# keyword, key of the science image's meta, comment
_SCIENCE = (
    ("OBSID", "observation_id", "science observation"),
    ("TELESCOP", "telescope", "of the science image"),
    ("INSTRUME", "instrument", "of the science image"),
    ("FILTER", "filter", "of the science image"),
    ("OBJECT", "object", "of the science image"),
    ("EXPTIME", "exposure", "[s] of the science image"),
    ("DATE-OBS", "date", "of the science image"),
    ("MJD-OBS", "mjd", "of the science image"),
)


def difference_hdulist(diff: Difference, extensions: Iterable[str] | None = None) -> Any:
    """Return a `Difference` as an astropy HDUList, maps in float32.

    Parameters
    ----------
    diff : Difference
    extensions : names among `EXTENSIONS`, optional
        By default all that were computed.

    Raises
    ------
    InputError
        An unknown extension, or one that was not computed.
    """
    return _hdulist(diff, extensions, "=")


def _hdulist(diff: Difference, extensions: Iterable[str] | None, order: str) -> Any:
    """Return the HDUs with maps in native byte order, or ">", that of the file, which spares astropy three passes."""
    need("astropy", "fits", "writing FITS")
    from astropy.io import fits

    sky = _wcs_header(diff.wcs)
    hdus = fits.HDUList([_primary(diff, sky)])
    for name in _chosen(diff, extensions):
        hdus.append(_extension(name, diff, sky, order))
    return hdus


def _primary(diff: Difference, sky: Any) -> Any:
    """Return the primary HDU: the WCS and the story."""
    from astropy.io import fits

    primary = fits.PrimaryHDU()
    with silent():
        _provenance(primary.header, diff)
        primary.header.extend(sky, update=True)
        for step in diff.steps:
            primary.header.add_history(_ascii(str(step)))
    return primary


def check_extensions(extensions: Iterable[str] | None) -> set[str]:
    """Return the names in capitals; raise InputError if a difference has no such extension."""
    given = [extensions] if isinstance(extensions, str) else extensions or ()
    wanted = {str(name).upper() for name in given}
    unknown = sorted(wanted - set(EXTENSIONS))
    if unknown:
        msg = f"unknown extension {', '.join(unknown)}; a difference has {', '.join(EXTENSIONS)}"
        raise InputError(msg)
    return wanted


def _chosen(diff: Difference, extensions: Iterable[str] | None) -> list[str]:
    """Return the names of the extensions to write, in the order of the file."""
    present = [name for name, (attribute, _) in EXTENSIONS.items() if getattr(diff, attribute) is not None]
    if extensions is None:
        return present
    wanted = check_extensions(extensions)
    absent = sorted(wanted - set(present))
    if absent:
        msg = f"{', '.join(absent)} was not computed; ask for it with outputs=(...), present are {', '.join(present)}"
        raise InputError(msg)
    return [name for name in EXTENSIONS if name in wanted]


def _extension(name: str, diff: Difference, sky: Any, order: str = ">") -> Any:
    """Return one map as an ImageHDU with its WCS."""
    from astropy.io import fits

    attribute, comment = EXTENSIONS[name]
    values = getattr(diff, attribute)
    data = values.get() if hasattr(values, "get") else np.asarray(values)
    kind = "f4" if name != "MASK" else "u1" if data.dtype.itemsize == 1 else "u2"
    # Unsigned integers are written as signed ones less an offset, which astropy does in native order.
    data = data.astype(order + kind if kind == "f4" else kind)
    hdu = fits.ImageHDU(data, name=name)
    with silent():
        if name != "PSF":
            hdu.header.extend(sky, update=True)
        hdu.header["CONTENT"] = comment
        unit = diff.meta.get("science_meta", {}).get("bunit")
        if unit and name in _IN_FLUX:
            hdu.header["BUNIT"] = _ascii(str(unit))
        if name in _IN_FLUX and diff.zero_point is not None:
            hdu.header["MAGZP"] = (float(diff.zero_point), "[mag] AB magnitude of one unit")
        if name == "MASK":
            _describe_bits(hdu.header)
    return hdu


def _describe_bits(header: Any) -> None:
    """Write the table of mask bits into a header."""
    from astrid_gpu.flags import PixelFlag, describe

    for info in describe(PixelFlag):
        number = int(math.log2(info.bit))
        header[f"BIT{number:02d}"] = (info.name, f"{info.bit}: {info.meaning}"[:45])


def _wcs_header(wcs: Any) -> Any:
    """Return the header of a FITS WCS, empty for none and a comment for other kinds."""
    from astropy.io import fits

    if wcs is None:
        return fits.Header()
    if not hasattr(wcs, "to_header"):
        header = fits.Header()
        header["COMMENT"] = f"a WCS of type {type(wcs).__name__} has no FITS form and is not written"
        return header
    with silent():
        header = wcs.to_header(relax=True)
    for key in ("DATE-OBS", "MJD-OBS", "DATEREF", "MJDREF", "MJDREFI", "MJDREFF", "DATE-BEG", "MJD-BEG", "DATE-AVG",
                "MJD-AVG", "DATE-END", "MJD-END", "TIMESYS", "EXPTIME", "XPOSURE", "TELAPSE"):  # fmt: skip
        header.remove(key, ignore_missing=True)  # of the exposure, said once in the primary header
    return header


def _provenance(header: Any, diff: Difference) -> None:
    """Write who, what and how into the primary header; numbers that are not finite are left out."""
    import astrid_gpu

    science, reference = diff.meta.get("science_meta", {}), diff.meta.get("reference_meta", {})
    header["CREATOR"] = ("astrid_gpu", "software")
    header["VERSION"] = (astrid_gpu.__version__, "of the software")
    header["DATE"] = (datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S"), "UTC, when this file was made")
    header["METHOD"] = (diff.method, "of subtraction")
    header["BACKEND"] = (diff.backend, "that computed it")
    for key, value, comment in (
        ("SCIENCE", diff.meta.get("science"), "science image"),
        ("REFERENC", diff.meta.get("reference"), "reference image"),
        ("REFID", reference.get("observation_id"), "reference observation"),
        ("REFDATE", reference.get("date"), "date of the reference"),
        ("REFMJD", reference.get("mjd"), "[d] MJD of the reference"),
        ("REFFILT", reference.get("filter"), "filter of the reference"),
    ):
        _put(header, key, value, comment)
    for key, name, comment in _SCIENCE:
        _put(header, key, science.get(name), comment)
    beta = diff.metrics.get("flux_ratio")
    _put(header, "FN", 1.0, "F_n, flux scale of the science image")
    if isinstance(beta, (int, float)) and beta > 0:
        _put(header, "FR", 1.0 / beta, "F_r, flux scale of the reference")
    if np.ndim(diff.flux_scale) == 0:
        _put(header, "FD", diff.flux_scale, "F_D, flux scale of D; maps are D / F_D")
    _put(header, "MAGZP", diff.zero_point, "[mag] AB magnitude of one unit of flux")
    for key, name, comment in _METRICS:
        _put(header, key, diff.metrics.get(name), comment)
    if diff.mask is not None:
        mask = diff.mask.get() if hasattr(diff.mask, "get") else np.asarray(diff.mask)
        from astrid_gpu.flags import INVALID

        header["NMASK"] = (int(np.count_nonzero(mask & INVALID)), "pixels that are NaN")


def _put(header: Any, key: str, value: Any, comment: str) -> None:
    """Set a keyword if there is a value that FITS can hold."""
    if isinstance(value, (bool, np.bool_)):
        header[key] = (bool(value), comment)
    elif isinstance(value, (int, np.integer)):
        header[key] = (int(value), comment)
    elif isinstance(value, (float, np.floating)) or (isinstance(value, np.ndarray) and value.ndim == 0):
        if math.isfinite(float(value)):
            header[key] = (float(value), comment)
    elif isinstance(value, str) and value.strip():
        header[key] = (_ascii(value.strip())[:68], comment)


def _ascii(text: str) -> str:
    """Return text that a FITS header can hold: printable ASCII on one line."""
    for symbol, word in (("σ", "sigma"), ("±", "+-"), ("×", "x"), ("µ", "u"), ("→", "->"), ("°", " deg"), ("²", "^2")):
        text = text.replace(symbol, word)
    return "".join(c if " " <= c <= "~" else "?" for c in " ".join(text.split()))


def write_difference(diff: Difference, path: str | Path, extensions: Iterable[str] | None = None) -> Path:
    """Write `difference_hdulist` to `path` (``.fits``, ``.fits.gz``, or ``.fits.fz``: lossless tiles), atomically."""
    need("astropy", "fits", "writing FITS")
    from astropy.io import fits

    path = Path(path).expanduser()
    if path.suffix not in {".fz", ".gz"} and diff.difference.size >= LARGE:
        return _write_one_by_one(diff, path, extensions)
    hdus = _hdulist(diff, extensions, "=" if path.suffix == ".fz" else ">")
    if path.suffix == ".fz":
        packed = [
            fits.CompImageHDU(h.data, h.header, name=h.name, compression_type="GZIP_2", quantize_level=0.0)
            for h in hdus[1:]
        ]
        hdus = fits.HDUList([hdus[0], *packed])
    with silent(), atomic_path(path) as part:
        hdus.writeto(part, overwrite=True, checksum=True)
    return path


def _write_one_by_one(diff: Difference, path: Path, extensions: Iterable[str] | None) -> Path:
    """Write a large difference with one of its maps copied at a time."""
    from astropy.io import fits

    sky = _wcs_header(diff.wcs)
    with silent(), atomic_path(path) as part:
        fits.HDUList([_primary(diff, sky)]).writeto(part, overwrite=True, checksum=True)
        for name in _chosen(diff, extensions):
            hdu = _extension(name, diff, sky)
            fits.append(part, hdu.data, hdu.header, checksum=True, memmap=False)
            del hdu
    return path


def write_cutout_fits(
    path: str | Path, cutouts: Cutouts, index: int, *, candidate: Any = None, wcs: Any = None
) -> Path:
    """Write one triplet as a multi-extension FITS: SCIENCE, REFERENCE, DIFFERENCE, SCORE, MASK.

    Parameters
    ----------
    index : int
        Row of `cutouts`.
    candidate : row of `Candidates.data`, optional
        Its columns become keywords; x and y place the cutout on the frame.
    wcs : WCS of the whole frame, optional
        Written shifted to the cutout, if `candidate` says where that is.
    """
    from astropy.io import fits

    if not -len(cutouts) <= index < len(cutouts):
        msg = f"there are {len(cutouts)} cutouts, no number {index}"
        raise InputError(msg)
    header, sky = fits.Header(), fits.Header()
    with silent():
        header["CANDID"] = (int(cutouts.ids[index]), "candidate")
        if candidate is not None:
            names = [name for name in candidate.dtype.names if name != "id"]
            for name in names:
                _put(header, name.upper()[:8], candidate[name].item(), "of the candidate")
            corner = [round(float(candidate[axis])) - cutouts.size // 2 for axis in ("x", "y")]
            header["X0"], header["Y0"] = corner
            if wcs is not None and hasattr(wcs, "deepcopy"):
                local = wcs.deepcopy()
                local.wcs.crpix = local.wcs.crpix - np.array(corner)
                if local.sip is not None:
                    from astropy.wcs import Sip

                    sip = local.sip
                    local.sip = Sip(sip.a, sip.b, sip.ap, sip.bp, np.asarray(sip.crpix) - np.array(corner))
                sky = _wcs_header(local)
    planes = [(name.upper(), cutouts.images[index, k]) for k, name in enumerate(cutouts.channels)]
    planes += [("SCORE", cutouts.score_corr[index]), ("MASK", cutouts.mask[index])]
    hdus = fits.HDUList([fits.PrimaryHDU(header=header)])
    for name, data in planes:
        hdus.append(fits.ImageHDU(data.astype(np.uint8 if name == "MASK" else np.float32), header=sky, name=name))
    with silent():
        _describe_bits(hdus["MASK"].header)
    path = Path(path).expanduser()
    with silent(), atomic_path(path) as part:
        hdus.writeto(part, overwrite=True)
    return path
