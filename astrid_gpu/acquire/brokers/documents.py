"""Alerts as documents of a data base, as Kowalski and BOOM keep them, into our alerts and objects."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Any

from astrid_gpu.acquire.packets import STAMPS, Alert, number
from astrid_gpu.errors import AcquisitionError, FitsError
from astrid_gpu.io.stamps import read_stamp

__all__ = ["alert_of", "labels_of", "objects_of"]

_MJD = 2400000.5
_MODELS = {"acai_": "ACAI", "bts": "BTSbot", "braai": "braai", "drb": "real-bogus"}


def alert_of(document: dict[str, Any], aux: dict[str, Any] | None, broker: str) -> Alert:
    """Return the alert of a document; `aux` is the object's history, `stamps` what could be decoded.

    Raises
    ------
    AcquisitionError
        It is no alert.
    """
    candidate = document.get("candidate")
    name = document.get("objectId") or document.get("object_id")
    if not isinstance(candidate, dict) or not name:
        msg = f"{broker} sent a document that is no alert: it has {', '.join(list(document)[:8])}"
        raise AcquisitionError(msg)
    stamps, notes = {}, []
    for kind in STAMPS:
        content = _bytes(document.get(kind))
        if content is None:
            notes.append(f"{kind} is missing")
            continue
        try:
            stamps[kind] = read_stamp(content, f"{name}: {kind}")[0]
        except FitsError as error:
            notes.append(str(error))
    history = aux or {}
    candid = document.get("candid") or candidate.get("candid") or document.get("_id")
    candidate = {**candidate, "isdiffpos": _letter(candidate.get("isdiffpos"))}
    previous = [{**p, "isdiffpos": _letter(p.get("isdiffpos"))} for p in _dicts(history.get("prv_candidates"))]
    return Alert(
        str(name),
        int(number(candid, nothing=False)) if not isinstance(candid, int) else candid,
        "ZTF",
        str(document.get("schemavsn") or ""),
        candidate,
        previous,
        _dicts(history.get("fp_hists")),
        stamps,
        f"{broker} {name}",
        tuple(notes),
    )


def _letter(value: Any) -> str:
    """Return the polarity as the packets have it; data bases keep true and false, or 1 and -1."""
    if isinstance(value, bool):
        return "t" if value else "f"
    return "t" if str(value).strip().lower() in ("t", "1", "true") else "f"


def _dicts(rows: Any) -> list[dict[str, Any]]:
    return [row for row in rows or () if isinstance(row, dict)]


def _bytes(value: Any) -> bytes | None:
    """Return the bytes of a stamp: plain, base64, or in the wrappings of MongoDB's JSON."""
    while isinstance(value, dict):
        value = next((value[key] for key in ("stampData", "$binary", "base64") if key in value), None)
    if isinstance(value, list) and all(isinstance(b, int) and 0 <= b < 256 for b in value):
        return bytes(value)
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return None
    return value if isinstance(value, bytes) else None


def objects_of(documents: Iterable[dict[str, Any]], place: Any = None) -> list[dict[str, Any]]:
    """Return the objects that documents of alerts belong to, each by its latest alert, nearest or latest first."""
    from astropy.coordinates import SkyCoord

    latest: dict[str, dict[str, Any]] = {}
    for document in documents:
        c = document.get("candidate") or {}
        name = str(document.get("objectId") or document.get("object_id") or "")
        if name and number(c.get("jd")) >= number(latest.get(name, {}).get("jd", 0.0), nothing=False):
            best = max(labels_of(document), key=lambda row: row[2], default=("", "", None))
            latest[name] = {**c, "best": best, "candid": document.get("candid") or document.get("_id")}
    rows = []
    for name, c in latest.items():
        row = {
            "object_id": name,
            "ra": c.get("ra"),
            "dec": c.get("dec"),
            "first_mjd": number(c.get("jdstarthist")) - _MJD,
            "last_mjd": number(c.get("jd")) - _MJD,
            "n_detections": c.get("ndethist"),
            "mag": c.get("magpsf"),
            "classifier": c["best"][0],
            "class_name": c["best"][1],
            "probability": c["best"][2],
            "candid": c["candid"],
        }
        if place is not None and row["ra"] is not None:
            row["distance"] = place.separation(SkyCoord(row["ra"], row["dec"], unit="deg")).arcsec
        rows.append(row)
    return sorted(rows, key=lambda r: (r.get("distance", 0.0), -number(r["last_mjd"])))


def labels_of(document: dict[str, Any]) -> list[tuple[str, str, float]]:
    """Return (classifier, class, probability) of a document's machine-learning scores."""
    scores = document.get("classifications")
    if not isinstance(scores, dict):
        return []
    found = []
    for key, value in scores.items():
        probability = number(value)
        if key.endswith("_version") or not 0 <= probability <= 1:
            continue
        prefix = next((p for p in _MODELS if key.startswith(p)), "")
        found.append((_MODELS.get(prefix, "classifications"), key.removeprefix("acai_"), probability))
    return found
