"""Lasair: objects by name and position, light curves and Sherlock's context class. It has no stamps to give.

API of https://lasair-ztf.lsst.ac.uk. Credentials: ``LASAIR_TOKEN``; free, from the page of one's account there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu.acquire.brokers.objects import arcseconds, label_table, not_offered, object_table, points, records
from astrid_gpu.acquire.client import Client, default_client
from astrid_gpu.acquire.light_curves import light_curve as curve_of
from astrid_gpu.acquire.packets import Alert, number
from astrid_gpu.acquire.secrets import authorization
from astrid_gpu.errors import AcquisitionError, InputError

__all__ = ["SERVER", "alert", "labels", "light_curve", "search"]

SERVER = "https://lasair-ztf.lsst.ac.uk"

_NAME = "Lasair"
_MJD = 2400000.5


def search(
    *,
    object_id: str | None = None,
    position: Any = None,
    radius: Any = None,
    class_name: str | None = None,
    magnitude: tuple[float, float] | None = None,
    mjd: tuple[float, float] | None = None,
    limit: int = 100,
    client: Client | None = None,
) -> Any:
    """Look for objects: by name, by position, or by what they are like.

    Parameters
    ----------
    object_id : str, optional
    position, radius : optional
        Given together; a number is degrees. The answer has names and distances alone.
    class_name : str, optional
        Sherlock's: SN, NT, AGN, VS, CV, BS, ORPHAN.
    magnitude, mjd : (low, high), optional
        Latest magnitude in g or r; time of the latest detection.
    limit : int
    client : Client, optional

    Returns
    -------
    QTable
        `objects.OBJECT_COLUMNS`, nearest or latest first.

    Raises
    ------
    AcquisitionError, InputError
    """
    client = client or default_client()
    if object_id is not None:
        return object_table([_object(object_id, _about(client, object_id))], "lasair")
    if position is not None or radius is not None:
        place, reach = arcseconds(position, radius)
        form = {"ra": float(place.ra.deg), "dec": float(place.dec.deg), "radius": reach, "requestType": "all"}
        found = records(_ask(client, "cone", form), f"{SERVER}/api/cone/", _NAME)
        rows = [{"object_id": row.get("object"), "distance": row.get("separation")} for row in found]
        return object_table(sorted(rows, key=lambda row: number(row["distance"]))[:limit], "lasair")
    conditions = _conditions(class_name, magnitude, mjd)
    if not conditions:
        msg = "Lasair is asked by object_id, position and radius, class_name, magnitude or mjd; give one of them"
        raise InputError(msg)
    selected = (
        "objects.objectId, objects.ramean, objects.decmean, objects.jdmin, objects.jdmax, objects.ncand, "
        "objects.rmag, sherlock_classifications.classification"
    )
    form = {
        "selected": selected,
        "tables": "objects,sherlock_classifications",
        "conditions": f"{' AND '.join(conditions)} ORDER BY objects.jdmax DESC",
        "limit": limit,
        "offset": 0,
    }
    rows = records(_ask(client, "query", form), f"{SERVER}/api/query/", _NAME)
    return object_table([_row(row) for row in rows], "lasair")


def labels(object_id: str, *, client: Client | None = None) -> Any:
    """Return Sherlock's class of an object, and that of the Transient Name Server; certain or nothing, so NaN."""
    about = _about(client or default_client(), object_id)
    found = []
    for key, field, name in (("sherlock", "classification", "Sherlock"), ("TNS", "type", "TNS")):
        told = about.get(key)
        if isinstance(told, dict) and told.get(field):
            found.append((name, str(told[field]), float("nan")))
    return label_table(found, "lasair")


def light_curve(object_id: str, *, client: Client | None = None) -> np.ndarray:
    """Return the light curve of an object, as `light_curves.light_curve` does."""
    candidates = _about(client or default_client(), object_id).get("candidates")
    rows = records(candidates if candidates is not None else [], f"{SERVER}/api/object/", _NAME)
    curves = [curve_of(Alert(object_id, int(row.get("candid") or 0), "ZTF", "", _candidate(row))) for row in rows]
    return points(tuple(point.item()) for curve in curves for point in curve)


def alert(object_id: str, candid: int | None = None, *, client: Client | None = None) -> Alert:
    """Say that Lasair gives no stamps, and who does.

    Raises
    ------
    InputError
        Always.
    """
    raise not_offered(_NAME, "stamps")


def _conditions(
    class_name: str | None, magnitude: tuple[float, float] | None, mjd: tuple[float, float] | None
) -> list[str]:
    """Return the conditions of Lasair's query, an SQL of its own."""
    found = []
    if class_name is not None:
        if not class_name.isalnum():
            msg = f"a class of Sherlock is letters alone (SN, NT, AGN, VS, CV, BS, ORPHAN); got {class_name!r}"
            raise InputError(msg)
        found += ["objects.objectId = sherlock_classifications.objectId"]
        found += [f'sherlock_classifications.classification = "{class_name}"']
    if magnitude is not None:
        low, high = (float(m) for m in magnitude)
        found.append(f"(objects.rmag BETWEEN {low} AND {high} OR objects.gmag BETWEEN {low} AND {high})")
    if mjd is not None:
        found.append(f"objects.jdmax BETWEEN {float(mjd[0]) + _MJD} AND {float(mjd[1]) + _MJD}")
    return found


def _ask(client: Client, verb: str, form: dict[str, Any]) -> Any:
    url = f"{SERVER}/api/{verb}/"
    auth = authorization("LASAIR_TOKEN", "Token")
    return client.json(url, service=_NAME, method="POST", data=form, **({"auth": auth} if auth else {}))


def _about(client: Client, object_id: str) -> dict[str, Any]:
    answer = _ask(client, "object", {"objectId": object_id, "lite": "false", "lasair_added": "true"})
    if not isinstance(answer, dict) or "objectId" not in answer:
        msg = f"Lasair knows no object {object_id!r}: {str(answer)[:200]}"
        raise AcquisitionError(msg, url=f"{SERVER}/api/object/")
    return answer


def _candidate(row: dict[str, Any]) -> dict[str, Any]:
    """Return a detection as a packet's candidate; Lasair has MJD beside JD or alone."""
    jd = row.get("jd") or (number(row.get("mjd")) + _MJD)
    return {**row, "jd": jd}


def _object(object_id: str, about: dict[str, Any]) -> dict[str, Any]:
    data = about.get("objectData") or {}
    sherlock = about.get("sherlock") or {}
    return {
        **_row({**data, "classification": sherlock.get("classification")}),
        "object_id": object_id,
    }


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of Lasair's objects in our columns."""
    return {
        "object_id": row.get("objectId"),
        "ra": row.get("ramean"),
        "dec": row.get("decmean"),
        "first_mjd": number(row.get("jdmin")) - _MJD,
        "last_mjd": number(row.get("jdmax")) - _MJD,
        "n_detections": row.get("ncand"),
        "mag": row.get("rmag"),
        "class_name": row.get("classification"),
        "classifier": "Sherlock" if row.get("classification") else "",
    }
