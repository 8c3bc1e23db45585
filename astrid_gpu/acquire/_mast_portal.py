"""MAST's portal through astroquery, and what its rows mean."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from astrid_gpu.acquire.client import Client
from astrid_gpu.acquire.sessions import asking
from astrid_gpu.errors import InputError

__all__ = ["SERVICE", "ask_portal", "filename_of", "lines_of", "observation_of", "resolve_uri", "server"]

SERVICE = "MAST"
"""Its name in messages."""


def resolve_uri(uri: str) -> str:
    """Return the address of a MAST URI; an http address stays itself.

    >>> resolve_uri("mast:HST/product/u9o40504m_drz.fits")
    'https://mast.stsci.edu/api/v0.1/Download/file?uri=mast:HST/product/u9o40504m_drz.fits'
    """
    if uri.startswith(("http://", "https://")):
        return uri
    if not uri.startswith("mast:"):
        msg = f"{uri!r} is no MAST URI: it must begin with mast:, http:// or https://"
        raise InputError(msg)
    return f"{server()}/api/v0.1/Download/file?uri={quote(uri, safe=':/')}"


def server() -> str:
    """Return the address of MAST, as astroquery's configuration names it."""
    from astroquery.mast import conf

    return str(conf.server).rstrip("/")


def ask_portal(client: Client, question: str, **options: Any) -> Any:
    """Return astroquery's answer to one question of its Observations class, asked through our client."""
    from astrid_gpu.io.extras import need

    need("astroquery.mast", "acquire", "MAST")
    from astroquery.mast import ObservationsClass, conf

    service = ObservationsClass()
    portal = service._portal_api_connection
    service._session = portal._session = client.session(SERVICE)
    # astroquery fixes these when it is imported; here the configuration counts at the time of the call.
    portal.MAST_REQUEST_URL = f"{server()}/api/v0/invoke"
    portal.COLUMNS_CONFIG_URL = f"{server()}/portal/Mashup/Mashup.asmx/columnsconfig"
    portal.TIMEOUT, portal.PAGESIZE = conf.timeout, conf.pagesize
    with asking(SERVICE, portal.MAST_REQUEST_URL):
        return getattr(service, question)(**options)


def lines_of(table: Any) -> list[dict[str, Any]]:
    """Return the rows of an astropy table as dictionaries; masked values are None."""
    import numpy as np

    columns = {}
    for name in table.colnames:
        mask = np.ma.getmaskarray(np.ma.asarray(table[name]))
        columns[name] = [None if bad else value for value, bad in zip(table[name].tolist(), mask, strict=True)]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def observation_of(line: dict[str, Any]) -> dict[str, Any]:
    """Return the observation that a CAOM row stands for."""
    survey, uri = str(line.get("obs_collection") or ""), str(line.get("dataURL") or "")
    fits = any(f".{kind}" in uri.lower() for kind in ("fits", "fit"))
    if not fits or not uri.startswith(("mast:", "http")):
        uri = ""
    stack = survey == "PS1" and ".stk." in (uri + str(line.get("obs_id")))
    identity = re.sub(r"[^A-Za-z0-9._+=@,~-]", "_", str(line.get("obs_id") or line.get("obsid") or ""))[:190]
    picture = str(line.get("jpegURL") or "")
    return {
        "id": identity,
        "ra": (line.get("s_ra") or 0.0) % 360.0 if line.get("s_ra") is not None else None,
        "dec": line.get("s_dec"),
        "mjd": line.get("t_min"),
        "mjd_end": line.get("t_max"),
        "survey": survey,
        "instrument": line.get("instrument_name") or "",
        "filter": line.get("filters") or "",
        "exposure": line.get("t_exptime"),
        "kind": "reference" if stack else "science",
        "target": line.get("target_name") or "",
        "distance": line.get("distance"),
        "footprint": line.get("s_region") or "",
        "filename": filename_of(uri) if uri else f"{identity}.fits",
        "url": resolve_uri(uri) if uri else "",
        "preview_url": resolve_uri(picture) if picture.startswith(("mast:", "http")) else "",
        "access": _access(line.get("dataRights")),
        "service_id": str(line.get("obsid") or ""),
    }


def _access(rights: Any) -> str:
    """Return public, proprietary or nothing."""
    said = str(rights or "").upper()
    return "public" if said == "PUBLIC" else "proprietary" if said in ("EXCLUSIVE_ACCESS", "RESTRICTED") else ""


def filename_of(uri: str) -> str:
    """Return the name of the file behind a URI or an address."""
    name = uri.split("?uri=")[-1].split("?")[0].rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^A-Za-z0-9._+=@,~-]", "_", name).lstrip(".")[-200:] or "unnamed.fits"
