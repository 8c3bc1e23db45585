"""Fink: objects by name, position, class and date; classes, light curves and stamps. No credentials needed.

API of https://api.ztf.fink-portal.org. Its columns are ``i:`` what ZTF sent, ``d:`` and ``v:`` what Fink added.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu.acquire.brokers.objects import arcseconds, label_table, object_table, records, stamps_by
from astrid_gpu.acquire.client import Client, default_client
from astrid_gpu.acquire.light_curves import light_curve as curve_of
from astrid_gpu.acquire.packets import STAMPS, Alert, number
from astrid_gpu.errors import AcquisitionError, InputError

__all__ = ["SERVER", "alert", "labels", "light_curve", "search"]

SERVER = "https://api.ztf.fink-portal.org"

_NAME = "Fink"
_MJD = 2400000.5
_KINDS = dict(zip(STAMPS, ("Science", "Template", "Difference"), strict=True))
_SCORES = {
    "d:snn_sn_vs_all": ("SuperNNova", "SN"),
    "d:snn_snia_vs_nonia": ("SuperNNova", "SN Ia"),
    "d:rf_snia_vs_nonia": ("early SN Ia", "SN Ia"),
    "d:rf_kn_vs_nonkn": ("kilonova", "KN"),
    "d:mulens": ("microlensing", "microlensing"),
}


def search(
    *,
    object_id: str | None = None,
    position: Any = None,
    radius: Any = None,
    class_name: str | None = None,
    mjd: tuple[float, float] | None = None,
    limit: int = 100,
    client: Client | None = None,
) -> Any:
    """Look for objects.

    Parameters
    ----------
    object_id : str, optional
        That one.
    position, radius : optional
        Given together; a number is degrees.
    class_name : str, optional
        Fink's class ("Early SN Ia candidate", "Unknown", ...): its latest alerts, within `mjd` if given.
    mjd : (first, last), optional
    limit : int
    client : Client, optional

    Returns
    -------
    QTable
        `objects.OBJECT_COLUMNS`, of each object its latest alert.

    Raises
    ------
    AcquisitionError
    InputError
        Nothing was asked for.
    """
    from astropy.time import Time

    client = client or default_client()
    dates = {} if mjd is None else {
        key: Time(day, format="mjd").utc.iso for key, day in zip(("startdate", "stopdate"), mjd, strict=True)
    }  # fmt: skip
    if object_id is not None:
        rows = _ask(client, "objects", {"objectId": object_id})
    elif position is not None or radius is not None:
        place, reach = arcseconds(position, radius)
        asked = {"ra": place.ra.deg, "dec": place.dec.deg, "radius": reach, "n": limit}
        rows = _ask(client, "conesearch", asked | dates)
    elif class_name is not None:
        rows = _ask(client, "latests", {"class": class_name, "n": limit} | dates)
    else:
        msg = "Fink is asked by object_id, by position and radius, or by class_name; give one of them"
        raise InputError(msg)
    latest: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda r: number(r.get("i:jd"))):
        latest[str(row.get("i:objectId"))] = row
    return object_table([_object(row) for row in list(latest.values())[:limit]], "fink")


def labels(object_id: str, *, client: Client | None = None) -> Any:
    """Return what Fink says of an object's latest alert: a QTable of classifier, class_name, probability.

    Cross-matches and Fink's own class are certain or nothing: probability NaN.
    """
    rows = _alerts(client or default_client(), object_id)
    row = rows[-1]
    found = [(*name, number(row.get(key))) for key, name in _SCORES.items() if number(row.get(key)) >= 0]
    for key, name in (("v:classification", "Fink"), ("d:cdsxmatch", "SIMBAD"), ("d:tns", "TNS")):
        if str(row.get(key) or "").strip() not in ("", "nan", "Unknown"):
            found.append((name, str(row[key]), float("nan")))
    return label_table(found, "fink")


def light_curve(object_id: str, *, client: Client | None = None) -> np.ndarray:
    """Return the light curve of an object, as `light_curves.light_curve` does."""
    return curve_of(_as_alert(row) for row in _alerts(client or default_client(), object_id))


def alert(object_id: str, candid: int | None = None, *, client: Client | None = None) -> Alert:
    """Return an alert with its stamps: the one named, else the latest.

    Raises
    ------
    AcquisitionError
        There is no such alert, or no stamp of it could be had.
    """
    client = client or default_client()
    rows = _alerts(client, object_id)
    chosen = next((r for r in reversed(rows) if candid is None or int(r["i:candid"]) == candid), None)
    if chosen is None:
        msg = f"Fink has no alert {candid} of {object_id}; it has {len(rows)}"
        raise AcquisitionError(msg)

    def get(word: str) -> bytes:
        asked = {"objectId": object_id, "candid": str(chosen["i:candid"]), "kind": word, "output-format": "FITS"}
        return client.get(f"{SERVER}/api/v1/cutouts", wanted="fits", service=_NAME, method="POST", json=asked)

    stamps, notes = stamps_by(_KINDS, get, _NAME, f"{object_id} {chosen['i:candid']}")
    one = _as_alert(chosen)
    previous = [_candidate(row) for row in rows if row is not chosen]
    return Alert(
        one.object_id, one.candid, "ZTF", one.schema, one.candidate, previous, [], stamps, f"Fink {object_id}",
        notes,
    )  # fmt: skip


def _ask(client: Client, verb: str, asked: dict[str, Any]) -> list[dict[str, Any]]:
    url = f"{SERVER}/api/v1/{verb}"
    answer = client.json(url, service=_NAME, method="POST", json={**asked, "output-format": "json"})
    return records(answer, url, _NAME)


def _alerts(client: Client, object_id: str) -> list[dict[str, Any]]:
    """Return all alerts of an object, by time."""
    rows = _ask(client, "objects", {"objectId": object_id})
    if not rows:
        msg = f"Fink knows no object {object_id!r}"
        raise AcquisitionError(msg)
    return sorted(rows, key=lambda row: number(row.get("i:jd")))


def _candidate(row: dict[str, Any]) -> dict[str, Any]:
    """Return what ZTF sent, under the packet's own names."""
    return {key[2:]: value for key, value in row.items() if key.startswith("i:")}


def _as_alert(row: dict[str, Any]) -> Alert:
    c = _candidate(row)
    return Alert(str(c.get("objectId")), int(c.get("candid") or 0), "ZTF", str(c.get("schemavsn") or ""), c)


def _object(row: dict[str, Any]) -> dict[str, Any]:
    """Return Fink's alert in our columns of an object."""
    distance = row.get("v:separation_degree")
    return {
        "object_id": row.get("i:objectId"),
        "ra": row.get("i:ra"),
        "dec": row.get("i:dec"),
        "distance": None if distance is None else 3600 * number(distance),
        "first_mjd": number(row.get("i:jdstarthist")) - _MJD,
        "last_mjd": number(row.get("i:jd")) - _MJD,
        "n_detections": row.get("i:ndethist"),
        "mag": row.get("i:magpsf"),
        "class_name": row.get("v:classification"),
        "classifier": "Fink" if row.get("v:classification") else "",
        "candid": row.get("i:candid"),
    }
