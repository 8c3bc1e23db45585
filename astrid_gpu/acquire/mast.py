"""MAST: HST, JWST, PS1, GALEX and the other missions of the archive, and TESS through TESScut.

Through astroquery.mast for the questions; files come through our own core. ``mast:`` URIs become
``https://mast.stsci.edu/api/v0.1/Download/file?uri=...``. Proprietary data need ``MAST_API_TOKEN`` in the environment.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from astrid_gpu.acquire._mast_portal import (
    SERVICE,
    ask_portal,
    filename_of,
    lines_of,
    observation_of,
    resolve_uri,
    server,
)
from astrid_gpu.acquire._mast_products import best_products, calibrated_products
from astrid_gpu.acquire.client import Client, default_client
from astrid_gpu.acquire.observations import as_rows, checked_rows, observation_table
from astrid_gpu.acquire.placing import fetch_items, target_path, try_each
from astrid_gpu.acquire.progress import ProgressCallback
from astrid_gpu.acquire.recording import recorded
from astrid_gpu.acquire.regions import radius_degrees, resolve
from astrid_gpu.acquire.secrets import authorization
from astrid_gpu.acquire.transfer import Item
from astrid_gpu.errors import AcquisitionError, InputError

__all__ = ["MISSIONS", "fetch", "products", "resolve_uri", "search"]

MISSIONS = ("PS1", "HST", "JWST", "TESS", "HLA", "GALEX", "SWIFT", "KEPLER", "K2", "HLSP")
"""Collections that can be asked for. TESS means cutouts of its full frames (TESScut)."""


def search(
    position: Any,
    radius: Any = 0.05,
    *,
    missions: str | Sequence[str] = ("PS1", "HST", "JWST"),
    filters: str | Sequence[str] | None = None,
    instruments: str | Sequence[str] | None = None,
    since: float | None = None,
    until: float | None = None,
    calibration: Sequence[int] = (2, 3, 4),
    limit: int | None = None,
    client: Client | None = None,
) -> Any:
    """Return the calibrated imaging observations around a position.

    Parameters
    ----------
    position : SkyCoord, (ra, dec) or str
        Centre of the cone.
    radius : float or Quantity
        A number is degrees.
    missions : str or sequence of str
        Among `MISSIONS`.
    filters, instruments : str or sequence of str, optional
        As MAST names them (F814W, ACS/WFC); ``*`` stands for anything.
    since, until : float, optional
        Modified Julian dates (UTC) between which an exposure must begin.
    calibration : sequence of int
        Levels: 1 raw, 2 calibrated, 3 combined, 4 made by the community.
    limit : int, optional
        No more rows than this, the nearest ones.
    client : Client, optional

    Returns
    -------
    QTable
        Observation table, one row an observation, nearest first; `url` is its main product where MAST tells one.
        `products` gives a row for every calibrated image instead. TESS: one row a sector, kind "cube".

    Raises
    ------
    InputError
        A parameter is impossible.
    AcquisitionError
        MAST failed, in its words.
    """
    client = client or default_client()
    place, degrees = resolve(position), radius_degrees(radius)
    wanted = _missions(missions)
    rows: list[dict[str, Any]] = []
    archive = [mission for mission in wanted if mission != "TESS"]
    if archive:
        criteria: dict[str, Any] = {
            "obs_collection": archive, "dataproduct_type": "image", "intentType": "science",
            "calib_level": [int(level) for level in calibration],
        }  # fmt: skip
        if filters is not None:
            criteria["filters"] = [filters] if isinstance(filters, str) else list(filters)
        if instruments is not None:
            criteria["instrument_name"] = [instruments] if isinstance(instruments, str) else list(instruments)
        if since is not None or until is not None:
            criteria["t_min"] = [0.0 if since is None else since, 99999.0 if until is None else until]
        table = ask_portal(client, "query_criteria", coordinates=place, radius=f"{degrees} deg", **criteria)
        rows = [observation_of(line) for line in lines_of(table)]
        rows = [row for row in rows if row["survey"] in archive]
    if "TESS" in wanted:
        from astrid_gpu.acquire import tesscut

        rows += as_rows(tesscut.search(place, client=client))
    rows.sort(key=lambda row: row["distance"] if row["distance"] == row["distance"] else math.inf)
    where = f"{place.ra.deg:.6f} {place.dec.deg:+.6f}"
    return observation_table(rows[:limit], source="mast", position=where, radius=degrees)


def products(rows: Any, *, which: str | Sequence[str] = "calibrated", client: Client | None = None) -> Any:
    """Return the calibrated images of observations: one row a file.

    Parameters
    ----------
    rows : QTable or Row
        Of `search`.
    which : str or sequence of str
        "calibrated" for all, "best" for the finest of each observation (drizzled before single exposures), or the
        archive's kinds: "DRZ", "FLC", "I2D", "CAL", ...
    client : Client, optional

    Returns
    -------
    QTable
        Observation table; times, filters and the like are those of the observation, `quality` is the kind of product,
        `id` the file's name where an observation has several.

    Raises
    ------
    AcquisitionError
        MAST failed.
    """
    client = client or default_client()
    found: list[dict[str, Any]] = []
    for row in checked_rows(rows):
        if row["kind"] == "cube" or not row["service_id"]:
            found.append(row)
            continue
        lines = lines_of(ask_portal(client, "get_product_list", observations=[row["service_id"]]))
        chosen = calibrated_products(lines, row["survey"], row["filter"])
        if which == "best":
            chosen = best_products(chosen, row["survey"])
        elif which != "calibrated":
            kinds = {which.upper()} if isinstance(which, str) else {str(kind).upper() for kind in which}
            chosen = [line for line in chosen if str(line.get("productSubGroupDescription")).upper() in kinds]
        for line in chosen:
            uri = str(line["dataURI"])
            name = filename_of(uri)
            found.append({
                **row, "filename": name, "url": resolve_uri(uri), "size": line.get("size") or -1,
                "id": row["id"] if len(chosen) == 1 else name.split(".fits")[0],
                "quality": str(line.get("productSubGroupDescription") or ""),
            })  # fmt: skip
    return observation_table(found, source="mast")


def fetch(
    rows: Any, run: str | Path, *, client: Client | None = None, progress: ProgressCallback | None = None
) -> list[Path]:
    """Fetch observations or products; TESS cubes are cut out and unpacked.

    Parameters
    ----------
    rows : QTable or Row
        Of `search` (the best product of each observation is fetched) or of `products` (every row is).
    run : str or Path
        A folder or a run directory.
    client : Client, optional
    progress : callable, optional

    Returns
    -------
    list of Path
        Archive files in the order of the rows, then TESS cubes. PS1 stacks are brought to linear counts.

    Raises
    ------
    AcquisitionError
        Some failed, or have no calibrated image: `failures` names each, `paths` has those that arrived.
    """
    client = client or default_client()
    told, failed = _with_files(checked_rows(rows), client)
    files = [row for row in told if row["kind"] != "cube"]
    cubes = [row for row in told if row["kind"] == "cube"]
    work: list[tuple[str, Callable[[], list[Path]]]] = []
    if files:
        table = observation_table(files, source="mast")
        work.append(("archive files", lambda: _fetch_files(table, run, client=client, progress=progress)))
    if cubes:
        from astrid_gpu.acquire import tesscut

        sectors = observation_table(cubes, source="tesscut")
        work.append(("TESScut", lambda: tesscut.fetch(sectors, run, client=client, progress=progress)))
    return try_each([*work, *((name, partial(_raise, error)) for name, error in failed)])


def _raise(error: AcquisitionError) -> list[Path]:
    """Raise an error where a list of paths was hoped for."""
    raise error


def _with_files(
    rows: list[dict[str, Any]], client: Client
) -> tuple[list[dict[str, Any]], list[tuple[str, AcquisitionError]]]:
    """Return rows with, for observations whose file MAST did not name, their best products; and what failed at it."""
    found: list[dict[str, Any]] = []
    failed: list[tuple[str, AcquisitionError]] = []
    for row in rows:
        if row["url"]:
            found.append(row)
            continue
        try:
            best = as_rows(products(observation_table([row], source="mast"), which="best", client=client))
        except AcquisitionError as error:
            failed.append((row["id"], error))
            continue
        found += best
        if not best:
            msg = f"MAST: observation {row['id']} ({row['survey']}) has no calibrated FITS image"
            failed.append((row["id"], AcquisitionError(msg)))
    return found, failed


@recorded
def _fetch_files(rows: Any, run: str | Path, *, client: Client, progress: ProgressCallback | None) -> list[Path]:
    """Fetch the files of rows; asinh-scaled ones of PS1 become linear."""
    from astrid_gpu.io import linearise_ps1_file

    token = authorization("MAST_API_TOKEN", "token")
    host = urlsplit(server()).netloc
    items = []
    for row in as_rows(rows):  # the token goes to MAST alone
        auth = token if urlsplit(row["url"]).netloc == host else None
        items.append(Item(row["url"], target_path(row, run), service=SERVICE, auth=auth))
    try:
        paths = fetch_items(items, client=client, progress=progress)
    except AcquisitionError as error:
        for path in error.paths:
            linearise_ps1_file(path)
        raise
    for path in paths:
        linearise_ps1_file(path)
    return paths


def _missions(given: str | Sequence[str]) -> list[str]:
    """Return the missions asked for, checked."""
    import difflib

    names = [given] if isinstance(given, str) else list(given)
    for name in names:
        if str(name).upper() not in MISSIONS:
            near = difflib.get_close_matches(str(name).upper(), MISSIONS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            msg = f"missions={name!r}: must be among {', '.join(MISSIONS)}{hint}"
            raise InputError(msg)
    if not names:
        msg = f"missions is empty; name some of {', '.join(MISSIONS)}"
        raise InputError(msg)
    return [str(name).upper() for name in names]
