"""Candidate tables: an astropy QTable in memory, CSV for everyone, ECSV for the units and the provenance."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from astrid_gpu.errors import InputError
from astrid_gpu.io.ecsv import EcsvColumn, write_ecsv
from astrid_gpu.io.extras import need
from astrid_gpu.io.files import silent
from astrid_gpu.io.paths import atomic_path
from astrid_gpu.results import Candidates

__all__ = ["COLUMNS", "Column", "candidates_table", "write_candidates"]


class Column(NamedTuple):
    """Unit, number format in CSV, and meaning of a column; unit "flux" is the science image's."""

    unit: str | None
    form: str
    meaning: str


COLUMNS: dict[str, Column] = {
    "id": Column(None, "d", "number of the candidate in this table"),
    "x": Column("pix", ".4f", "0-based column of the centroid on the science grid; pixel centres at integers"),
    "y": Column("pix", ".4f", "0-based row of the centroid on the science grid"),
    "ra": Column("deg", ".8f", "right ascension, ICRS; NaN without a WCS"),
    "dec": Column("deg", ".8f", "declination, ICRS; NaN without a WCS"),
    "polarity": Column(None, "d", "+1 brighter in the science image, -1 fainter"),
    "score": Column(None, ".5g", "S_corr at the peak pixel: significance in sigma, signed"),
    "flux": Column("flux", ".7g", "PSF flux of the change, signed"),
    "flux_error": Column("flux", ".5g", "its 1-sigma error"),
    "snr": Column(None, ".5g", "flux / flux_error"),
    "mag": Column("mag", ".4f", "AB magnitude of |flux|; NaN without a zero point"),
    "mag_error": Column("mag", ".4f", "its 1-sigma error"),
    "fwhm": Column("pix", ".4g", "full width at half maximum in the difference; NaN if not measured"),
    "elongation": Column(None, ".4g", "ratio of the axes, a / b"),
    "sharpness": Column(None, ".4g", "0 for a point source, 1 for a single pixel, negative for what is wide"),
    "chi2": Column(None, ".4g", "reduced chi squared of the fit of the difference PSF"),
    "flags": Column(None, "d", "bits of CandidateFlag, 0 = clean; the table of bits is in the metadata"),
    "n_bad": Column(None, "d", "invalid pixels within the PSF's reach"),
    "edge_distance": Column("pix", ".4g", "distance to the nearest edge of the frame"),
}


def candidates_table(candidates: Candidates) -> Any:
    """Return candidates as a QTable: units, descriptions, and in ``meta`` the threshold, flags and provenance."""
    need("astropy", "fits", "a table with units")
    from astropy import units as u
    from astropy.table import QTable

    table = QTable()
    flux_unit = _flux_unit(candidates)
    with silent():
        for name in candidates.data.dtype.names or ():
            known = COLUMNS.get(name)
            values = np.ascontiguousarray(candidates.data[name])
            unit = None if known is None else flux_unit if known.unit == "flux" else known.unit
            table[name] = values if unit is None else values * u.Unit(unit)
            if known is not None:
                table[name].info.description = known.meaning
    table.meta = _about(candidates)
    return table


def _about(candidates: Candidates) -> dict[str, Any]:
    """Return what a table says about itself."""
    import astrid_gpu
    from astrid_gpu.flags import describe

    return {
        "creator": f"astrid_gpu {astrid_gpu.__version__}",
        "threshold": float(candidates.threshold),
        "extractor": candidates.extractor,
        "flags": {info.name: f"{info.bit}: {info.meaning}" for info in describe()},
        **_plain(candidates.meta),
    }


def _flux_unit(candidates: Candidates) -> Any:
    """Return the unit of flux that the science header names, if astropy knows it; None = plain numbers."""
    meta = candidates.meta
    said = meta.get("flux_unit") or meta.get("bunit") or (meta.get("science_meta") or {}).get("bunit")
    if not said:
        return None
    need("astropy", "fits", "a table with units")
    from astropy import units as u

    alias = {"nanomaggy": "nmgy", "electrons": "electron", "counts": "ct", "dn": "DN", "adu": "adu"}
    with silent():
        unit = u.Unit(alias.get(str(said).strip().lower(), str(said).strip()), parse_strict="silent")
    return None if isinstance(unit, u.UnrecognizedUnit) else unit


def _plain(meta: dict[str, Any]) -> dict[str, Any]:
    """Return the part of `meta` that a text file can hold: numbers, words, and short lists of them."""
    plain: dict[str, Any] = {}
    for key, value in meta.items():
        if isinstance(value, (np.integer, np.floating, np.bool_)):
            value = value.item()
        if isinstance(value, Path):
            value = str(value)
        short = isinstance(value, (list, tuple)) and len(value) < 50
        if isinstance(value, (str, int, float, bool)):
            plain[str(key)] = value
        elif short and all(isinstance(v, (str, int, float, bool)) for v in value):
            plain[str(key)] = list(value)
    return plain


def write_candidates(candidates: Candidates, path: str | Path) -> Path:
    """Write candidates as ``.csv`` (plain numbers), ``.ecsv`` (with units and provenance) or ``.fits``, atomically.

    The same candidates give the same bytes: no file holds the time of writing.

    Raises
    ------
    InputError
        Another ending.
    """
    path = Path(path).expanduser()
    kind = path.suffix.lower()
    if kind not in (".csv", ".ecsv", ".fits"):
        msg = f"cannot tell the format of {path.name}; candidates are written as .csv, .ecsv or .fits"
        raise InputError(msg)
    with atomic_path(path) as part:
        if kind == ".csv":
            _write_csv(candidates, part)
        elif kind == ".ecsv" and all(
            candidates.data[name].dtype.kind in "iufb" for name in candidates.data.dtype.names or ()
        ):
            _write_ecsv(candidates, part)
        else:
            table = candidates_table(candidates)
            if kind == ".fits":
                table.meta = {key: value for key, value in table.meta.items() if isinstance(value, (str, int, float))}
            with silent():
                table.write(part, format="ascii.ecsv" if kind == ".ecsv" else "fits", overwrite=True)
    return path


def _write_ecsv(candidates: Candidates, path: Path) -> None:
    """Write what astropy would of `candidates_table`; its tables are slower to import than all candidates to write."""
    unit = _flux_unit(candidates)
    flux_unit = None if unit is None else unit.to_string()
    columns = {}
    for name in candidates.data.dtype.names or ():
        known = COLUMNS.get(name, Column(None, "", ""))
        unit = flux_unit if known.unit == "flux" else known.unit
        columns[name] = EcsvColumn(candidates.data[name], unit, known.meaning or None)
    write_ecsv(path, columns, _about(candidates))


def _write_csv(candidates: Candidates, path: Path) -> None:
    """Write a header line and one line a candidate, ``nan`` where there is no number."""
    names = candidates.data.dtype.names or ()
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(names)
        for row in candidates.data:
            writer.writerow([_cell(name, row[name]) for name in names])


def _cell(name: str, value: Any) -> str:
    """Return one number as text, to the digits it deserves."""
    known = COLUMNS.get(name)
    if known is not None and known.form == "d":
        return str(int(value))
    if isinstance(value, (np.floating, float)):
        return format(float(value), known.form if known is not None else ".8g")
    return str(value.decode() if isinstance(value, bytes) else value)
