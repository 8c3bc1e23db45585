"""ZTF images at IRSA: exposures, references and differences with masks, PSFs and catalogues, whole or cut out.

Through astroquery.ipac.irsa.ibe for the metadata; addresses of files from `_ztf_products`. Public data alone: nothing
here asks for a password.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from astrid_gpu.acquire._ztf_products import (
    REFERENCE_PRODUCTS,
    SCIENCE_PRODUCTS,
    product_name,
    product_url,
    reference_id,
    science_id,
)
from astrid_gpu.acquire.client import Client, default_client
from astrid_gpu.acquire.content import words_of
from astrid_gpu.acquire.observations import checked_rows, observation_table
from astrid_gpu.acquire.placing import fetch_items, target_path
from astrid_gpu.acquire.progress import ProgressCallback
from astrid_gpu.acquire.recording import recorded
from astrid_gpu.acquire.regions import radius_degrees, resolve
from astrid_gpu.acquire.sessions import asking, guarded_session
from astrid_gpu.acquire.transfer import Item
from astrid_gpu.acquire.wire import failure
from astrid_gpu.errors import InputError

__all__ = ["PRODUCTS", "fetch", "search"]

PRODUCTS = tuple(dict.fromkeys((*SCIENCE_PRODUCTS, *REFERENCE_PRODUCTS)))
"""Kinds that can be asked for. "catalog" is that of the exposures, and of the references if those are asked for."""

UNUSABLE = 1 << 25
"""IRSA's INFOBITS at and above which an exposure is not to be used."""

_SERVICE = "IRSA"
_PIXEL = 1.012  # arcsec
_FRAME = (3080, 3072)  # (ny, nx)
_BANDS = {"g": "zg", "r": "zr", "i": "zi"}
_JD = 2400000.5
_SIZES = {"science": 38_000_000, "difference": 13_000_000, "mask": 19_000_000, "reference": 38_000_000,
          "error": 38_000_000, "psf": 17_000, "catalog": 1_000_000}  # fmt: skip


def search(
    position: Any,
    radius: Any = None,
    *,
    products: str | Sequence[str] = ("science", "mask", "psf", "reference", "error"),
    filters: str | Sequence[str] | None = None,
    since: Any = None,
    until: Any = None,
    max_seeing: float | None = None,
    usable: bool = True,
    size: Any = None,
    limit: int | None = None,
    client: Client | None = None,
) -> Any:
    """Look for ZTF images of a position.

    Parameters
    ----------
    position : SkyCoord, (ra, dec) or str
    radius : float or Quantity, optional
        Half the side of the box that images must overlap; a number is degrees. Default: images that hold the position.
    products : str or sequence of str
        Of `PRODUCTS`: what is wanted of each exposure, and of the reference of each quadrant and filter that turned up.
    filters : str or sequence of str, optional
        g, r, i.
    since, until : float, str or Time, optional
        Modified Julian date, ISO date, or astropy Time.
    max_seeing : float, optional
        Arcseconds.
    usable : bool
        Leave out exposures that IRSA marks as not to be used (INFOBITS of 2^25 and more).
    size : float or Quantity, optional
        Side of a cutout about the position; a number is arcseconds. Default: whole quadrants, 3072 x 3080 pixels.
    limit : int, optional
        Exposures, the latest ones; references are not counted.
    client : Client, optional

    Returns
    -------
    QTable
        Observation table, one row a file, exposures in order of time, then references.

    Raises
    ------
    InputError
        A product, filter, date or size that cannot be.
    AcquisitionError
        IRSA failed, or answered what cannot be understood.
    """
    client = client or default_client()
    wanted = _choice(products, PRODUCTS, "product")
    bands = [_BANDS[band] for band in _choice(filters or tuple(_BANDS), tuple(_BANDS), "filter")]
    place = resolve(position)
    cutout = None if size is None else (float(place.ra.deg), float(place.dec.deg), _arcseconds(size))
    where = [f"filtercode IN ({','.join(repr(b) for b in bands)})"] if filters else []
    conditions = [
        *where,
        *([f"obsjd>={_mjd(since) + _JD:.6f}"] if since is not None else []),
        *([f"obsjd<={_mjd(until) + _JD:.6f}"] if until is not None else []),
        *([f"seeing<={float(max_seeing):g}"] if max_seeing is not None else []),
        *([f"infobits<{UNUSABLE}"] if usable else []),
    ]
    service = _ibe(client)
    found = _query(service, "sci", place, radius, conditions)
    found.sort(key=lambda row: float(row.get("obsjd") or 0))
    found = found[-limit:] if limit is not None else found
    rows = [row for exposure in found for row in _science_rows(service.URL, exposure, wanted, cutout)]
    if {"reference", "error"} & set(wanted):
        known = {_quadrant(row) for row in found}
        references = [r for r in _query(service, "ref", place, radius, where) if _quadrant(r) in known]
        rows += [row for one in references for row in _reference_rows(service.URL, one, wanted, cutout)]
    for row in rows:
        row["distance"] = float(place.separation(_centre(row)).arcsec) if "ra" in row else math.nan
    return observation_table(rows, source="ztf", position=f"{place.ra.deg:.6f} {place.dec.deg:+.6f}")


@recorded
def fetch(
    rows: Any, run: str | Path, *, client: Client | None = None, progress: ProgressCallback | None = None
) -> list[Path]:
    """Fetch files that `search` found.

    Parameters
    ----------
    rows : QTable or Row
    run : str or Path
        A folder or a run directory.
    client : Client, optional
    progress : callable, optional

    Returns
    -------
    list of Path
        In the order of the rows.

    Raises
    ------
    AcquisitionError
        Some could not be had: `failures` names each, `paths` has those that arrived. That a difference does not exist
        is common: there was no reference yet when the exposure was processed.
    """
    items = [Item(row["url"], target_path(row, run), wanted="fits", service=_SERVICE) for row in checked_rows(rows)]
    return fetch_items(items, client=client, progress=progress)


def _choice(given: str | Sequence[str], allowed: Iterable[str], what: str) -> list[str]:
    """Return what was chosen as a list, or say which of it does not exist."""
    names = [given] if isinstance(given, str) else list(given)
    strange = [name for name in names if name not in allowed]
    if strange or not names:
        msg = f"no {what} {strange[0] if strange else ''!r} of ZTF; there are {', '.join(allowed)}"
        raise InputError(msg)
    return names


def _arcseconds(size: Any) -> float:
    """Return the side of a cutout in arcseconds."""
    from astropy import units as u

    try:
        side = float(u.Quantity(size, u.arcsec).to_value(u.arcsec))
    except (TypeError, ValueError) as error:
        msg = f"size {size!r} is not an angle: give arcseconds or a Quantity ({error})"
        raise InputError(msg) from None
    if not 2 <= side <= 7200:
        msg = f"size must be 2 to 7200 arcsec, got {side:g}: a quadrant has 3100"
        raise InputError(msg)
    return side


def _mjd(moment: Any) -> float:
    """Return a moment as a modified Julian date."""
    from astropy.time import Time

    if isinstance(moment, (int, float)):
        return float(moment)
    try:
        return float((moment if isinstance(moment, Time) else Time(str(moment))).utc.mjd)
    except ValueError as error:
        msg = f"{moment!r} is no date: give a modified Julian date, an ISO date or an astropy Time"
        raise InputError(msg) from error


def _ibe(client: Client) -> Any:
    """Return astroquery's client of IBE, made to ask through ours."""
    from astrid_gpu.io.extras import need

    need("astroquery", "acquire", "asking IRSA")
    from astroquery.ipac.irsa.ibe import IbeClass, conf

    service = IbeClass()
    service.URL = conf.server if conf.server.endswith("/") else conf.server + "/"
    service._session = guarded_session(client, _SERVICE)
    return service


def _query(service: Any, table: str, place: Any, radius: Any, conditions: list[str]) -> list[dict[str, Any]]:
    """Return rows of metadata as dictionaries."""
    width = None if radius is None else 2 * radius_degrees(radius)
    url = f"{service.URL}search/ztf/products/{table}"
    with asking(_SERVICE, url):
        found = service.query_region(
            coordinate=place,
            mission="ztf",
            dataset="products",
            table=table,
            width=f"{width}d" if width else None,
            where=" AND ".join(conditions) or None,
        )
        body = service._session.last_body
        if not any(line.startswith(b"|") for line in body.splitlines()):  # the reader takes a web page for no rows
            raise failure(url, f"sent no table but: {words_of(body)}", service=_SERVICE)
        return [{name: _plain(row[name]) for name in found.colnames} for row in found]


def _plain(value: Any) -> Any:
    """Return a cell as Python has it; None where it is masked."""
    if getattr(value, "mask", False) is True or str(value) in ("--", "null"):
        return None
    return value.item() if hasattr(value, "item") else value


def _quadrant(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("field", "filtercode", "ccdid", "qid"))


def _centre(row: dict[str, Any]) -> Any:
    from astropy.coordinates import SkyCoord

    return SkyCoord(row["ra"], row["dec"], unit="deg")


def _science_rows(
    server: str, row: dict[str, Any], wanted: list[str], cutout: tuple[float, float, float] | None
) -> Iterable[dict[str, Any]]:
    """Return the files wanted of an exposure."""
    jd = row.get("obsjd")
    shared = {
        **_shared(row, cutout),
        "id": science_id(row),
        "mjd": None if jd is None else jd - _JD,
        "mjd_end": None if jd is None else jd - _JD + (row.get("exptime") or 0) / 86400,
        "exposure": row.get("exptime"),
        "seeing": row.get("seeing"),
        "airmass": row.get("airmass"),
        "quality": f"infobits {row.get('infobits')}" + (", unusable" if (row.get("infobits") or 0) >= UNUSABLE else ""),
    }
    for kind in wanted:
        if kind in SCIENCE_PRODUCTS:
            yield {**shared, **_file(server, row, kind, SCIENCE_PRODUCTS[kind], cutout), "role": "science"}


def _reference_rows(
    server: str, row: dict[str, Any], wanted: list[str], cutout: tuple[float, float, float] | None
) -> Iterable[dict[str, Any]]:
    """Return the files wanted of a reference."""
    shared = {
        **_shared(row, cutout),
        "id": reference_id(row),
        "mjd": _day(row.get("startobsdate")),
        "mjd_end": _day(row.get("endobsdate")),
        "quality": f"{row['nframes']} frames" if row.get("nframes") else "",
    }
    for kind in wanted:
        if kind in REFERENCE_PRODUCTS:
            yield {**shared, **_file(server, row, kind, REFERENCE_PRODUCTS[kind], cutout), "role": "reference"}


def _shared(row: dict[str, Any], cutout: tuple[float, float, float] | None) -> dict[str, Any]:
    """Return the columns that exposures and references have alike."""
    corners = [(row.get(f"ra{i}"), row.get(f"dec{i}")) for i in (1, 2, 3, 4)]
    outline = "" if any(None in c for c in corners) else " ".join(f"{ra:.6f} {dec:.6f}" for ra, dec in corners)
    side = round(cutout[2] / _PIXEL) if cutout else 0
    return {
        "ra": cutout[0] if cutout else row.get("ra"),
        "dec": cutout[1] if cutout else row.get("dec"),
        "survey": "ZTF",
        "instrument": "ZTF/MOSAIC",
        "filter": str(row.get("filtercode") or "").removeprefix("z"),
        "target": f"field {row.get('field')}",
        "pixel_scale": _PIXEL,
        "width": side or _FRAME[1],
        "height": side or _FRAME[0],
        "limiting_magnitude": row.get("maglimit"),
        "footprint": "" if cutout or not outline else f"POLYGON ICRS {outline}",
        "access": "public",
        "service_id": str(row.get("pid") or row.get("rfid") or ""),
    }


def _file(
    server: str, row: dict[str, Any], kind: str, ending: str, cutout: tuple[float, float, float] | None
) -> dict[str, Any]:
    """Return the columns that tell one product from another."""
    url = product_url(server, row, ending, cutout)
    name = product_name(row, ending)
    whole = "?" not in url
    size = _SIZES[kind] if whole else round(4 * (cutout[2] / _PIXEL) ** 2) + 30_000 if cutout else -1
    return {"kind": kind, "url": url, "filename": name if whole else name.removesuffix(".fz"), "size": size}


def _day(text: Any) -> float | None:
    """Return IRSA's ``2018-04-12 06:02:51+00`` as a modified Julian date."""
    return _mjd(str(text).split("+")[0].strip()) if text else None
