"""ALeRCE: objects by name, position, class and date; probabilities, light curves and stamps. No credentials needed.

API of https://api.alerce.online/ztf/v1 and the stamp service https://avro.alerce.online.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from astrid_gpu.acquire.brokers.objects import arcseconds, label_table, object_table, points, records, stamps_by
from astrid_gpu.acquire.client import Client, default_client
from astrid_gpu.acquire.packets import STAMPS, Alert, number
from astrid_gpu.errors import AcquisitionError

__all__ = ["SERVER", "STAMP_SERVER", "alert", "labels", "light_curve", "search"]

SERVER = "https://api.alerce.online/ztf/v1"
STAMP_SERVER = "https://avro.alerce.online"

_NAME = "ALeRCE"
_BANDS = {1: "g", 2: "r", 3: "i"}
_UJY = 23.9
_MJD = 2400000.5
_KINDS = dict(zip(STAMPS, ("science", "template", "difference"), strict=True))


def search(
    *,
    object_id: str | None = None,
    position: Any = None,
    radius: Any = None,
    class_name: str | None = None,
    classifier: str = "lc_classifier",
    min_probability: float | None = None,
    mjd: tuple[float, float] | None = None,
    min_detections: int | None = None,
    limit: int = 100,
    client: Client | None = None,
) -> Any:
    """Look for objects.

    Parameters
    ----------
    object_id : str, optional
        That one; everything else is then without effect.
    position, radius : optional
        Given together; a number is degrees.
    class_name, classifier, min_probability : optional
        ALeRCE's class ("SNIa", "RRL", "AGN", ...), which of its classifiers, and the least probability.
    mjd : (first, last), optional
        Of the first detection.
    min_detections, limit : int
    client : Client, optional

    Returns
    -------
    QTable
        `objects.OBJECT_COLUMNS`; with a class the most probable first, else the latest.

    Raises
    ------
    AcquisitionError, InputError
    """
    client = client or default_client()
    if object_id is not None:
        url = f"{SERVER}/objects/{object_id}"
        rows = records([client.json(url, service=_NAME)], url, _NAME)
        return object_table([_object(row) for row in rows], "alerce")
    asked: dict[str, Any] = {"page": 1, "page_size": limit, "count": "false"}
    asked |= {"order_by": "probability" if class_name else "lastmjd", "order_mode": "DESC"}
    if position is not None or radius is not None:
        place, reach = arcseconds(position, radius)
        asked |= {"ra": place.ra.deg, "dec": place.dec.deg, "radius": reach}
    if class_name is not None:
        asked |= {"class": class_name, "classifier": classifier}
    if min_probability is not None:
        asked |= {"probability": min_probability}
    if mjd is not None:
        asked |= {"firstmjd": list(mjd)}
    if min_detections is not None:
        asked |= {"ndet": min_detections}
    url = f"{SERVER}/objects"
    answer = client.json(url, service=_NAME, params=asked)
    items = answer.get("items") if isinstance(answer, dict) else answer
    rows = [_object(row) for row in records(items, url, _NAME)]
    if position is not None:
        from astropy.coordinates import SkyCoord

        for row in rows:
            row["distance"] = place.separation(SkyCoord(row["ra"], row["dec"], unit="deg")).arcsec
    return object_table(rows, "alerce")


def labels(object_id: str, *, client: Client | None = None) -> Any:
    """Return what ALeRCE's classifiers say of an object: a QTable of classifier, class_name, probability."""
    url = f"{SERVER}/objects/{object_id}/probabilities"
    rows = records((client or default_client()).json(url, service=_NAME), url, _NAME)
    named = [(str(r.get("classifier_name")), str(r.get("class_name")), number(r.get("probability"))) for r in rows]
    return label_table(named, "alerce")


def light_curve(object_id: str, *, limits: bool = False, client: Client | None = None) -> np.ndarray:
    """Return the light curve of an object, as `light_curves.light_curve` does.

    Parameters
    ----------
    object_id : str
    limits : bool
        Upper limits too: a second request.
    client : Client, optional
    """
    client = client or default_client()
    rows = [_point(object_id, row) for row in _detections(object_id, client)]
    if limits:
        url = f"{SERVER}/objects/{object_id}/non_detections"
        rows += [_limit(object_id, row) for row in records(client.json(url, service=_NAME), url, _NAME)]
    return points(rows)


def alert(object_id: str, candid: int | None = None, *, client: Client | None = None) -> Alert:
    """Return an alert with its stamps: the one named, else the latest that has stamps.

    Raises
    ------
    AcquisitionError
        There is no such alert, or no stamp of it could be had.
    """
    client = client or default_client()
    found = _detections(object_id, client)
    chosen = [r for r in found if int(r.get("candid") or 0) == candid] if candid else [r for r in found if _stamped(r)]
    if not chosen:
        what = f"alert {candid}" if candid else "alert with stamps"
        msg = f"ALeRCE has no {what} of {object_id}; it has {len(found)} detections"
        raise AcquisitionError(msg)
    row = max(chosen, key=lambda r: number(r.get("mjd")))

    def get(word: str) -> bytes:
        asked = {"oid": object_id, "candid": str(row["candid"]), "type": word, "format": "fits"}
        return client.get(f"{STAMP_SERVER}/get_stamp", wanted="fits", service=_NAME, params=asked)

    stamps, notes = stamps_by(_KINDS, get, _NAME, f"{object_id} {row['candid']}")
    previous = [_candidate(r) for r in found if r is not row]
    return Alert(
        object_id, int(row["candid"]), "ZTF", "", _candidate(row), previous, [], stamps, f"ALeRCE {object_id}",
        notes,
    )  # fmt: skip


def _detections(object_id: str, client: Client) -> list[dict[str, Any]]:
    url = f"{SERVER}/objects/{object_id}/detections"
    return records(client.json(url, service=_NAME), url, _NAME)


def _stamped(row: dict[str, Any]) -> bool:
    return bool(row.get("has_stamp", True))


def _object(row: dict[str, Any]) -> dict[str, Any]:
    """Return ALeRCE's object in our columns."""
    return {
        "object_id": row.get("oid"),
        "ra": row.get("meanra"),
        "dec": row.get("meandec"),
        "first_mjd": row.get("firstmjd"),
        "last_mjd": row.get("lastmjd"),
        "n_detections": row.get("ndet"),
        "class_name": row.get("class"),
        "classifier": row.get("classifier"),
        "probability": row.get("probability"),
    }


def _candidate(row: dict[str, Any]) -> dict[str, Any]:
    """Return a detection as a packet's candidate: the time in JD, the polarity in letters."""
    sign = "t" if number(row.get("isdiffpos")) > 0 else "f"
    return {**row, "jd": number(row.get("mjd")) + _MJD, "isdiffpos": sign, "candid": int(row.get("candid") or 0)}


def _point(object_id: str, row: dict[str, Any]) -> tuple[Any, ...]:
    """Return a point of a light curve."""
    mag, error = number(row.get("magpsf")), number(row.get("sigmapsf"))
    sign = 1 if number(row.get("isdiffpos")) > 0 else -1
    flux = sign * 10 ** (-0.4 * (mag - _UJY))
    limit, candid = number(row.get("diffmaglim")), int(row.get("candid") or 0)
    scatter = abs(flux) * error * math.log(10) / 2.5
    return object_id, number(row.get("mjd")), _band(row), "alert", flux, scatter, mag, error, limit, sign, candid


def _limit(object_id: str, row: dict[str, Any]) -> tuple[Any, ...]:
    nothing, limit = math.nan, number(row.get("diffmaglim"))
    return object_id, number(row.get("mjd")), _band(row), "limit", nothing, nothing, nothing, nothing, limit, 0, 0


def _band(row: dict[str, Any]) -> str:
    return _BANDS.get(row.get("fid"), str(row.get("fid") or ""))  # type: ignore[arg-type]
