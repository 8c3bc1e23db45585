"""The table that every adapter's `search` returns: one row a file that can be had, the same columns everywhere.

`COLUMNS` is the documentation and the check in one; ``docs/acquisition.md`` prints it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from astrid_gpu.errors import AcquisitionError, InputError

__all__ = ["COLUMNS", "KINDS", "ROLES", "Column", "as_rows", "check_observations", "checked_rows", "observation_table"]

KINDS = (
    "science",
    "reference",
    "difference",
    "mask",
    "weight",
    "variance",
    "error",
    "psf",
    "catalog",
    "cube",
    "preview",
)
"""What a file is. "cube" is a stack of frames in one file; "preview" is a picture, never for science."""

ROLES = ("", "science", "reference")
"""What a file is to be used as; empty leaves it to `kind`: references are references, all else is science."""


@dataclass(frozen=True)
class Column:
    """One column of an observation table: its type ("str", "float", "int"), unit and meaning."""

    name: str
    type: str
    unit: str
    told: str
    required: bool = False


COLUMNS: tuple[Column, ...] = (
    Column("id", "str", "", "observation id, unique in its survey", required=True),
    Column("ra", "float", "deg", "right ascension of the centre, ICRS; NaN if only stars can tell"),
    Column("dec", "float", "deg", "declination of the centre, ICRS"),
    Column("mjd", "float", "d", "start of the exposure, modified Julian date, UTC; of a stack its mean or first"),
    Column("mjd_end", "float", "d", "end of the exposure"),
    Column("survey", "str", "", "survey or mission: PS1, HST, JWST, TESS, ZTF, DSS2, SDSS, ...", required=True),
    Column("instrument", "str", "", "instrument and detector, as the archive names them"),
    Column("filter", "str", "", "band, as the survey names it: g, r, F814W, ..."),
    Column("exposure", "float", "s", "exposure time, of a stack the total"),
    Column("kind", "str", "", f"what the file is: {', '.join(KINDS)}", required=True),
    Column("role", "str", "", "science or reference; empty: by kind"),
    Column("target", "str", "", "name of target or field"),
    Column("distance", "float", "arcsec", "of the centre from the position asked for"),
    Column("pixel_scale", "float", "arcsec", "side of a pixel"),
    Column("width", "int", "", "pixels along x; 0 if unknown"),
    Column("height", "int", "", "pixels along y; 0 if unknown"),
    Column("seeing", "float", "arcsec", "FWHM of stars"),
    Column("airmass", "float", "", "airmass"),
    Column("limiting_magnitude", "float", "mag", "5-sigma depth, AB"),
    Column("zero_point", "float", "mag", "AB magnitude of one unit of flux"),
    Column("footprint", "str", "", "outline on the sky, STC-S (CIRCLE or POLYGON, ICRS degrees)"),
    Column("quality", "str", "", "the archive's word on quality; empty if it says none"),
    Column("size", "int", "", "bytes, -1 if unknown; an estimate for planning"),
    Column("checksum", "str", "", "algorithm:digits, where the archive tells one"),
    Column("filename", "str", "", "name for the file, without a folder", required=True),
    Column("url", "str", "", "where the file is; empty if the adapter has to ask for it first"),
    Column("preview_url", "str", "", "a picture of it, never for science"),
    Column("access", "str", "", "public or proprietary; empty if the archive does not say"),
    Column("source", "str", "", "adapter that found it and fetches it: mast, ps1, skyview, ztf, ...", required=True),
    Column("service_id", "str", "", "the archive's own key, for the adapter"),
)
"""All columns, in order. Numbers that are not known are NaN (float) or as said (int)."""

_UNKNOWN: dict[str, Any] = {"str": "", "float": math.nan, "int": 0}


def observation_table(rows: Iterable[Mapping[str, Any]], *, source: str, **meta: Any) -> Any:
    """Return an observation table made of dictionaries; columns that a row lacks hold "not known".

    Parameters
    ----------
    rows : iterable of mapping
        Column name -> value, plain numbers in the columns' units. A name that is no column is an error.
    source : str
        Name of the adapter.
    **meta
        Goes to the table's `meta`: what was asked.

    Returns
    -------
    astropy.table.QTable
        Checked by `check_observations`.

    Raises
    ------
    AcquisitionError
        A row has an unknown column, or a value that is no number where one is needed.
    """
    from astropy import units as u
    from astropy.table import QTable

    found = [dict(row, source=source) for row in rows]
    known = {column.name for column in COLUMNS}
    strange = sorted({name for row in found for name in row} - known)
    if strange:
        msg = f"{source}: no such column of an observation table: {', '.join(strange)}; allowed: {', '.join(known)}"
        raise InputError(msg)
    table = QTable(meta={"source": source, **meta})
    for column in COLUMNS:
        unknown = -1 if column.name == "size" else _UNKNOWN[column.type]
        values = [_value(row.get(column.name), column, unknown, source) for row in found]
        array = _array(values, column.type)
        table[column.name] = array * u.Unit(column.unit) if column.unit else array
        table[column.name].info.description = column.told
    check_observations(table)
    return table


def _array(values: list[Any], type_: str) -> Any:
    """Return values as an array of text, float64 or int64."""
    import numpy as np

    return np.array(values, dtype={"str": str, "float": float, "int": np.int64}[type_])


def _value(value: Any, column: Column, unknown: Any, source: str) -> Any:
    """Return a value in the column's type; None and masked ones become `unknown`."""
    if value is None or str(value) == "--":
        return unknown
    if column.type == "str":
        return str(value).strip()
    try:
        number = float(value)
        return number if column.type == "float" else unknown if math.isnan(number) else int(number)
    except (TypeError, ValueError, OverflowError):
        msg = f"{source}: {column.name} must be a number{f' in {column.unit}' if column.unit else ''}, got {value!r}"
        raise AcquisitionError(msg) from None


def check_observations(table: Any) -> None:
    """Raise unless a table can be fetched: all columns there, in their units, the required ones filled.

    Raises
    ------
    InputError
        Names the column, the row and what is wrong.
    """
    missing = [column.name for column in COLUMNS if column.name not in getattr(table, "colnames", ())]
    if missing:
        msg = f"not an observation table: it lacks {', '.join(missing)}; make one with search() or observation_table()"
        raise InputError(msg)
    for column in COLUMNS:
        unit = str(getattr(table[column.name], "unit", None) or "")
        if unit != column.unit:
            msg = f"column {column.name} is in {unit or 'no unit'}, must be in {column.unit or 'none'}"
            raise InputError(msg)
    for number, row in enumerate(as_rows(table)):
        _check_row(row, number)


def _check_row(row: dict[str, Any], number: int) -> None:
    """Raise about a row that cannot be used."""
    problem = ""
    for column in COLUMNS:
        value = row[column.name]
        if column.required and (value == "" or (column.type == "float" and not math.isfinite(value))):
            problem = f"{column.name} is empty"
    if row["kind"] not in KINDS:
        problem = f"kind {row['kind']!r} is not one of {', '.join(KINDS)}"
    elif row["role"] not in ROLES:
        problem = f"role {row['role']!r} is not one of science, reference or empty"
    elif problem:
        pass
    elif row["dec"] < -90 or row["dec"] > 90 or row["ra"] < 0 or row["ra"] >= 360:
        problem = f"position ({row['ra']}, {row['dec']}) is not on the sky: 0 <= ra < 360, -90 <= dec <= 90"
    elif "/" in row["filename"] or row["filename"].startswith(".") or not row["filename"].isprintable():
        problem = f"filename {row['filename']!r} must be a plain, printable name without a folder"
    elif len(row["filename"].encode()) > 200:
        problem = f"filename {row['filename'][:40]!r}... must have at most 200 bytes"
    if problem:
        msg = f"row {number} ({row['id'] or 'no id'}): {problem}"
        raise InputError(msg)


def checked_rows(table: Any) -> list[dict[str, Any]]:
    """Check a table, or one row of it, and return its rows as `as_rows` does: what every `fetch` begins with."""
    from astropy.table import Row

    if isinstance(table, Row):
        table = table.table[[table.index]]
    check_observations(table)
    return as_rows(table)


def as_rows(table: Any) -> list[dict[str, Any]]:
    """Return the rows of a table (or one row of it) as dictionaries of plain text and numbers, units dropped."""
    from astropy.table import Row

    if isinstance(table, Row):
        table = table.table[[table.index]]
    plain = {}
    for column in COLUMNS:
        values = table[column.name]
        values = getattr(values, "value", values)
        plain[column.name] = [value.item() if hasattr(value, "item") else value for value in values]
    return [dict(zip(plain, values, strict=True)) for values in zip(*plain.values(), strict=True)]
