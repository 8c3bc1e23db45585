"""TESS cubes, from TESScut or as target pixel files: a time series of frames, each an `Image`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from astrid_gpu.errors import FitsError
from astrid_gpu.image import Image
from astrid_gpu.io.files import describe_hdus, open_fits, silent
from astrid_gpu.io.headers import HeaderFacts
from astrid_gpu.io.images import celestial_wcs, plain_header

__all__ = ["is_tess_cube", "read_tess_frames"]

BAD_QUALITY = 1 | 2 | 4 | 8 | 16 | 32 | 128 | 16384
"""Bits of QUALITY that make a cadence useless for differencing (TESS data products description, table of cadence
quality flags): attitude tweak, safe mode, coarse pointing, Earth pointing, argabrightening, reaction wheel
desaturation, manual exclude, bad calibration. An "impulsive outlier" (512) may be what is looked for and stays."""

_NEEDED = ("TIME", "FLUX", "QUALITY")


def is_tess_cube(path: str | Path) -> bool:
    """Whether a FITS file holds a table of TESS frames.

    Raises
    ------
    FitsError
        It is no FITS file.
    """
    with open_fits(path) as hdus, silent():
        return _find_table(hdus) is not None


def read_tess_frames(path: str | Path, *, bad_quality: int = BAD_QUALITY) -> list[Image]:
    """Read a cube as a time series.

    Parameters
    ----------
    path : str or Path
        A cutout of TESScut or a target pixel file.
    bad_quality : int
        Cadences with any of these bits of QUALITY are left out; 0 keeps all.

    Returns
    -------
    list of Image, in order of time
        data (ny, nx) float32, electrons per second with the sky as the file has it; variance from FLUX_ERR; gain =
        seconds that were exposed, so that data * gain is electrons; wcs of the cube, left out with a note if it is
        elsewhere than RA_OBJ, DEC_OBJ. meta: mjd (UTC, middle of the cadence, at the spacecraft), mjd_bary (TDB,
        barycentre), exposure, cadence, quality, telescope, instrument, filter "TESS", sector, camera, ccd.

    Raises
    ------
    FitsError
        Not FITS, no such table, or no cadence left.
    """
    path = Path(path)
    with open_fits(path) as hdus, silent():
        table = _find_table(hdus)
        if table is None:
            msg = f"{path} holds no TESS cube (a table with {', '.join(_NEEDED)}): {describe_hdus(hdus)}"
            raise FitsError(msg)
        common = _common(hdus, table, path)
        wcs = _wcs(hdus, common["notes"])
        frames = _frames(table, common, wcs, path, bad_quality)
        total = len(table.data)
    if not frames:
        msg = f"{path}: none of {total} cadences is good (QUALITY, TIME); bad_quality=0 keeps all"
        raise FitsError(msg)
    return frames


def _find_table(hdus: Any) -> Any:
    """Return the HDU with the frames, or None."""
    for hdu in hdus:
        names = getattr(getattr(hdu, "columns", None), "names", None) or ()
        if all(name in names for name in _NEEDED) and len(hdu.data["FLUX"].shape) == 3:
            return hdu
    return None


def _common(hdus: Any, table: Any, path: Path) -> dict[str, Any]:
    """Return the part of `meta` that all frames share."""
    primary = hdus[0].header
    meta: dict[str, Any] = {
        "telescope": "TESS",
        "instrument": str(primary.get("INSTRUME", "TESS Photometer")),
        "filter": "TESS",
        "bunit": "electron/s",
        "path": str(path),
        "header": plain_header(primary),
        "notes": ["mjd is the middle of the cadence at the spacecraft"],
    }
    for key in ("SECTOR", "CAMERA", "CCD", "OBJECT"):
        value = primary.get(key)
        if value not in (None, ""):
            meta[key.lower()] = value
    frames, seconds = table.header.get("NUM_FRM"), table.header.get("INT_TIME")
    if isinstance(frames, (int, float)) and isinstance(seconds, (int, float)) and frames > 0 and seconds > 0:
        meta["exposure"] = float(frames * seconds)
    return meta


def _wcs(hdus: Any, notes: list[str]) -> Any:
    """Return the WCS of the aperture image, which is that of every frame, or None."""
    for hdu in hdus:
        if hdu.is_image and "CTYPE1" in hdu.header and "NAXIS1" in hdu.header:
            facts = HeaderFacts()
            wcs = celestial_wcs(hdu.header, hdus, facts)
            notes += facts.notes
            return None if wcs is None or _elsewhere(wcs, hdu.shape, hdus[0].header, notes) else wcs
    return None


def _elsewhere(wcs: Any, shape: tuple[int, ...], header: Any, notes: list[str]) -> bool:
    """Whether the WCS puts the cube off the position it was cut at: the first years' TESScut did, by degrees."""
    from astropy.coordinates import SkyCoord

    ra, dec = header.get("RA_OBJ"), header.get("DEC_OBJ")
    if not (isinstance(ra, (int, float)) and isinstance(dec, (int, float))):
        return False
    middle = wcs.pixel_to_world((shape[1] - 1) / 2, (shape[0] - 1) / 2)
    off = middle.separation(SkyCoord(ra, dec, unit="deg")).deg
    side = max(shape) * float(np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))))
    if off > side:
        notes.append(f"the WCS puts the cube {off:.2f} degrees from RA_OBJ, DEC_OBJ and was left out")
    return off > side


def _frames(table: Any, common: dict[str, Any], wcs: Any, path: Path, bad_quality: int) -> list[Image]:
    """Return the good cadences."""
    columns = {name: table.data[name] for name in table.columns.names}
    time = np.asarray(columns["TIME"], float)
    quality = np.asarray(columns["QUALITY"], int)
    flux = np.asarray(columns["FLUX"], np.float32)
    error = columns.get("FLUX_ERR")
    zero = float(table.header.get("BJDREFI", 2457000)) + float(table.header.get("BJDREFF", 0.0))
    correction = np.nan_to_num(np.asarray(columns["TIMECORR"], float)) if "TIMECORR" in columns else 0.0 * time
    kept = np.isfinite(time) & (quality & bad_quality == 0) & np.isfinite(flux).any(axis=(1, 2))
    order = [int(n) for n in np.flatnonzero(kept)[np.argsort(time[kept], kind="stable")]]
    utc = _utc(zero + (time - correction)[order])
    return [
        Image(
            data=flux[n].copy(),
            variance=None if error is None else np.asarray(error[n], np.float32) ** 2,
            wcs=wcs,
            gain=common.get("exposure"),
            meta={
                **common,
                "mjd": float(utc[k]),
                "mjd_bary": zero - 2400000.5 + float(time[n]),
                "cadence": int(columns["CADENCENO"][n]) if "CADENCENO" in columns else n,
                "quality": int(quality[n]),
                "observation_id": str(columns["FFI_FILE"][n]) if "FFI_FILE" in columns else f"{path.stem}-{n}",
                "notes": list(common["notes"]),
            },
            name=f"{path.name}[{n}]",
        )
        for k, n in enumerate(order)
    ]


def _utc(jd_tdb: np.ndarray) -> np.ndarray:
    """Return modified Julian dates, UTC, of Julian dates in TDB."""
    from astropy.time import Time

    if not len(jd_tdb):
        return jd_tdb
    return np.asarray(Time(jd_tdb, format="jd", scale="tdb").utc.mjd)
