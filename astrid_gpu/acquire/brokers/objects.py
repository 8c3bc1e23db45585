"""What all brokers have in common: the table of objects, points of light curves, and objects into a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from astrid_gpu.acquire.light_curves import LIGHT_CURVE_COLUMNS
from astrid_gpu.acquire.packets import Alert
from astrid_gpu.acquire.regions import radius_degrees, resolve
from astrid_gpu.errors import AcquisitionError, FitsError, InputError
from astrid_gpu.io.stamps import read_stamp

__all__ = [
    "BROKERS",
    "OBJECT_COLUMNS",
    "arcseconds",
    "fetch",
    "label_table",
    "not_offered",
    "object_table",
    "points",
    "records",
    "stamps_by",
]

BROKERS = ("alerce", "fink", "lasair", "boom", "kowalski")
"""Modules of this package."""

OBJECT_COLUMNS: dict[str, tuple[str, str, str]] = {
    "object_id": ("str", "", "the survey's name of the object"),
    "ra": ("float", "deg", "mean right ascension, ICRS"),
    "dec": ("float", "deg", "mean declination"),
    "distance": ("float", "arcsec", "from the position asked for"),
    "first_mjd": ("float", "d", "first detection"),
    "last_mjd": ("float", "d", "last detection"),
    "n_detections": ("int", "", "alerts; 0 if the broker does not say"),
    "mag": ("float", "mag", "latest PSF magnitude of the difference"),
    "class_name": ("str", "", "the broker's most probable class"),
    "probability": ("float", "", "its probability"),
    "classifier": ("str", "", "which of the broker's classifiers says so"),
    "candid": ("int", "", "latest alert; 0 if the broker does not say"),
    "broker": ("str", "", "who says all this"),
}
"""Column -> type, unit, meaning of a table of objects. What a broker does not say is NaN, 0 or empty."""

_OFFERS = {
    "stamps": "alerce, fink, boom and kowalski",
    "classes": "alerce and fink",
    "light curves": "alerce, fink, lasair, boom and kowalski",
}


def object_table(rows: Iterable[Mapping[str, Any]], broker: str, **meta: Any) -> Any:
    """Return objects as a QTable with `OBJECT_COLUMNS`.

    Raises
    ------
    AcquisitionError
        A value is no number where one is needed: the broker's answer is not what was promised.
    """
    from astropy import units as u
    from astropy.table import QTable

    found = [dict(row, broker=broker) for row in rows]
    table = QTable(meta={"broker": broker, **meta})
    for name, (kind, unit, told) in OBJECT_COLUMNS.items():
        values = [_value(row.get(name), kind, name, broker) for row in found]
        array: Any = np.array(values, dtype={"str": str, "float": float, "int": np.int64}[kind])
        table[name] = array * u.Unit(unit) if unit else array
        table[name].info.description = told
    return table


def _value(value: Any, kind: str, name: str, broker: str) -> Any:
    """Return a value in its column's type; None is "not known"."""
    if value is None or value == "":
        return {"str": "", "float": math.nan, "int": 0}[kind]
    try:
        return {"str": str, "float": float, "int": int}[kind](value)
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"{broker} sent {name} = {str(value)[:60]!r}, which is no number"
        raise AcquisitionError(msg) from error


def label_table(rows: Iterable[tuple[str, str, float]], broker: str) -> Any:
    """Return classes as a QTable: classifier, class_name, probability, the most probable of each classifier first."""
    from astropy.table import QTable

    found = sorted(rows, key=lambda row: (row[0], -row[2]))
    names = ("classifier", "class_name", "probability")
    return QTable(rows=found or None, names=names, dtype=(str, str, float), meta={"broker": broker})


def points(rows: Iterable[tuple[Any, ...]]) -> np.ndarray:
    """Return points of light curves as `light_curve` gives them: sorted, each once."""
    unique = {(row[0], round(row[1], 6), row[2], row[3]): row for row in rows}
    ordered = sorted(unique.values(), key=lambda r: (r[0], r[1], r[3], r[2]))
    return np.array(ordered, dtype=list(LIGHT_CURVE_COLUMNS))


def records(answer: Any, url: str, broker: str) -> list[dict[str, Any]]:
    """Return an answer that must be a list of JSON objects.

    Raises
    ------
    AcquisitionError
        It is something else: its words are in the message.
    """
    if isinstance(answer, list) and all(isinstance(row, dict) for row in answer):
        return answer
    msg = f"{broker} at {url} sent no list of records but: {str(answer)[:200]}"
    raise AcquisitionError(msg, url=url)


def arcseconds(position: Any, radius: Any) -> tuple[Any, float]:
    """Return a position as SkyCoord and a radius in arcseconds.

    Raises
    ------
    InputError
        One of them is missing or impossible.
    """
    if position is None or radius is None:
        msg = "give position and radius together: the radius is degrees, a Quantity, or text such as '5 arcsec'"
        raise InputError(msg)
    return resolve(position), 3600 * radius_degrees(radius)


def stamps_by(
    kinds: Mapping[str, str], get: Callable[[str], bytes], broker: str, alert: str
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the stamps that `get` gives by the broker's word for each kind, and why others are missing.

    Raises
    ------
    AcquisitionError
        None could be had.
    """
    stamps, notes = {}, []
    for kind, word in kinds.items():
        try:
            stamps[kind] = read_stamp(get(word), f"{alert} {word}")[0]
        except (AcquisitionError, FitsError) as error:
            notes.append(str(error))
    if not stamps:
        msg = f"{broker} has no stamp of {alert}: {notes[0]}"
        raise AcquisitionError(msg)
    return stamps, tuple(notes)


def not_offered(broker: str, what: str) -> InputError:
    """Return the error about something that a broker does not have."""
    return InputError(f"{broker} has no {what} for everyone; {_OFFERS.get(what, 'others')} may have: brokers.NAME")


def fetch(rows: Any, run: Any, *, size: int = 63, client: Any = None) -> list[Path]:
    """Fetch the latest alert of each object, with stamps, and write them into a run as `alerts.fetch` does.

    Parameters
    ----------
    rows : QTable
        Objects, of any broker's `search`; several brokers may be stacked.
    run : RunDirectory or path
    size : int
        Odd side of the triplets.
    client : Client, optional

    Returns
    -------
    list of Path
        Candidates, triplets, light curves.

    Raises
    ------
    AcquisitionError
        No object could be had, or some could not: `failures` names each, `paths` has the files of the others.
    """
    from astrid_gpu.acquire.alerts import write_alerts

    found: list[Alert] = []
    failed: list[tuple[str, str]] = []
    for row in rows:
        name, broker = str(row["object_id"]), str(row["broker"])
        try:
            found.append(import_module(f"astrid_gpu.acquire.brokers.{broker}").alert(name, client=client))
        except (AcquisitionError, InputError) as error:
            failed.append((name, str(error)))
    paths = write_alerts(found, run, size=size) if found else []
    if failed:
        lines = "".join(f"\n  {name}: {reason}" for name, reason in failed)
        msg = f"{len(failed)} of {len(failed) + len(found)} objects could not be had:{lines}"
        raise AcquisitionError(msg, failures=tuple(failed), paths=tuple(paths))
    return paths
