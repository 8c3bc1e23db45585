"""From a FITS file to what its record says: the header's words, the WCS, the file itself."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from astrid_gpu.acquire.bands import band_of, survey_of
from astrid_gpu.acquire.record import Observation
from astrid_gpu.errors import FitsError, InputError
from astrid_gpu.io import is_tess_cube, read_tess_frames
from astrid_gpu.io.inspection import FitsInspection, inspect_fits, inspect_wcs

__all__ = ["describe", "observation_of"]

_ENDINGS = (".gz", ".fz", ".bz2", ".fits", ".fit", ".fts")


def describe(file: str | Path, role: str, **known: Any) -> Observation:
    """Return what is known of a FITS image, without its place in a run.

    Parameters
    ----------
    file : path
    role : {"science", "reference"}
    **known
        Fields of `Observation` that are known better than the header says.

    Raises
    ------
    FitsError
        The file is damaged, or holds neither a two-dimensional image nor a cube of TESS frames.
    InputError
        A field that an observation has not.
    """
    inspection = inspect_fits(file, pixels=False)
    if inspection.error is not None:
        raise FitsError(inspection.error)
    if inspection.shape is None:
        inspection, frames = _cube(inspection)
        known = {**frames, **{key: value for key, value in known.items() if value is not None}}
    return observation_of(inspection, role, **known)


def _cube(inspection: FitsInspection) -> tuple[FitsInspection, dict[str, Any]]:
    """Return what is known of a time series of frames, from its first frame and its last."""
    path = inspection.path
    if not is_tess_cube(path):
        msg = f"{path} holds no two-dimensional image, and no cube of TESS frames"
        raise FitsError(msg)
    frames = read_tess_frames(path)
    first, last = frames[0], frames[-1]
    span = f"a cube of {len(frames)} good frames, MJD {first.meta['mjd']:.5f} to {last.meta['mjd']:.5f}"
    told: dict[str, Any] = {
        name: first.meta.get(name) for name in ("mjd", "exposure", "telescope", "instrument", "filter")
    }
    told |= {"survey": "TESS", "band": "TESS", "n_frames": len(frames), "gain": first.gain, "date": None}
    told |= {"zero_point": first.zero_point, "notes": [span, *first.meta.get("notes", [])]}
    wcs = None if first.wcs is None else inspect_wcs(first.wcs, first.shape)
    return replace(inspection, shape=first.shape, wcs=wcs), told


def observation_of(inspection: FitsInspection, role: str, **known: Any) -> Observation:
    """Return the observation that an inspected file is, `known` fields in place of the header's."""
    unknown = set(known) - {f.name for f in fields(Observation)}
    if unknown:
        msg = f"an observation has no field {', '.join(sorted(unknown))}"
        raise InputError(msg)
    facts, wcs, meta = inspection.facts, inspection.wcs, inspection.facts.meta
    scale = wcs.pixel_scale if wcs else None
    survey = survey_of(*(meta.get(key) for key in ("instrument", "telescope", "filter")), inspection.path.name)
    found: dict[str, Any] = {
        "observation_id": _stem(inspection.path),
        "mjd": meta.get("mjd"),
        "date": meta.get("date"),
        "exposure": meta.get("exposure"),
        "survey": survey,
        "telescope": meta.get("telescope"),
        "instrument": meta.get("instrument"),
        "filter": meta.get("filter"),
        "band": band_of(meta.get("filter"), survey),
        "shape": inspection.shape,
        "zero_point": facts.zero_point,
        "gain": facts.gain,
        "read_noise": facts.read_noise,
        "saturation": facts.saturation,
        "fwhm": meta["fwhm"] * scale if scale and "fwhm" in meta else None,
        "notes": list(facts.notes),
    }
    if wcs is not None:
        found |= {"ra": wcs.ra % 360, "dec": wcs.dec, "pixel_scale": scale, "radius": wcs.radius}
        found["corners"] = [list(corner) for corner in wcs.corners]
        found["notes"] += list(wcs.problems)
    given = {key: value for key, value in known.items() if value is not None}
    return Observation(role=role, **(found | given))


def _stem(path: Path) -> str:
    """Return a file's name without the endings of FITS and of compression."""
    name = path.name
    while any(name.lower().endswith(ending) for ending in _ENDINGS):
        name = name[: name.rfind(".")]
    return name or path.name
