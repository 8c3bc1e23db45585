"""SkyView: cutouts of any size and pixel scale from DSS2, SDSS, GALEX, 2MASS, WISE and the other surveys it holds.

Through astroquery.skyview. SkyView resamples each survey to the grid that is asked for; the FITS files hold survey
values (only its own pictures are display-scaled) and are taken as they come. Resampling correlates the noise and, but
for the sampler "Clip", does not conserve flux: good for references and context, less good as a science image.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from astrid_gpu.acquire._skyview_form import SERVICE, SURVEYS, make_cutout, skyview_of, survey_names
from astrid_gpu.acquire.client import Client, default_client
from astrid_gpu.acquire.observations import checked_rows, observation_table
from astrid_gpu.acquire.placing import raise_failures, target_path
from astrid_gpu.acquire.progress import ProgressCallback
from astrid_gpu.acquire.recording import recorded
from astrid_gpu.acquire.regions import radius_degrees, resolve
from astrid_gpu.acquire.transfer import Item, download
from astrid_gpu.errors import AcquisitionError, InputError

__all__ = ["LIBRARY", "SURVEYS", "fetch", "library", "search", "surveys"]

LIBRARY = ("DSS2 Red", "SDSSg", "SDSSr", "GALEX Near UV", "2MASS-J", "WISE 3.4")
"""Surveys of a reference library unless others are named."""

SAMPLERS = ("NN", "LI", "Lanczos3", "Spline", "Clip")
_log = logging.getLogger("astrid_gpu.acquire")
_LARGEST = 4000


def surveys(*, client: Client | None = None) -> list[str]:
    """Return the names of all surveys that SkyView holds now.

    Raises
    ------
    AcquisitionError
        SkyView failed.
    """
    return survey_names(skyview_of(client or default_client()))


def search(
    position: Any,
    radius: Any = 0.0333,
    *,
    surveys: str | Sequence[str] = LIBRARY,
    pixels: int | None = None,
    pixel_scale: float | None = None,
    sampler: str = "NN",
    client: Client | None = None,
) -> Any:
    """Let SkyView make cutouts and return what it made.

    Parameters
    ----------
    position : SkyCoord, (ra, dec) or str
        Centre.
    radius : float or Quantity
        Half the side; a number is degrees. Without effect if `pixels` and `pixel_scale` are both given.
    surveys : str or sequence of str
        Keys of `SURVEYS`, or any name that SkyView knows.
    pixels : int, optional
        Pixels a side, 4000 at most.
    pixel_scale : float, optional
        Arcseconds. Default: the survey's own.
    sampler : str
        How SkyView resamples: NN (nearest neighbour, its default), LI, Lanczos3, Spline, or Clip (conserves flux).
    client : Client, optional

    Returns
    -------
    QTable
        Observation table, one row a survey, kind "reference". SkyView keeps the files for about a day.

    Raises
    ------
    InputError
        Size, scale, sampler or survey is impossible.
    AcquisitionError
        No cutout was made. If only some surveys fail, ``meta["failures"]`` of the table names each with its reason.
    """
    client = client or default_client()
    place = resolve(position)
    names = [surveys] if isinstance(surveys, str) else list(surveys)
    if not names or sampler not in SAMPLERS:
        msg = f"surveys={names!r}, sampler={sampler!r}: at least one survey, and one of {', '.join(SAMPLERS)}"
        raise InputError(msg)
    service = skyview_of(client)
    known = set(survey_names(service))
    strange = [name for name in names if name not in known]
    if strange:
        some = ", ".join(list(SURVEYS)[:6])
        msg = f"SkyView has no survey {strange[0]!r}; skyview.surveys() lists them, e.g. {some}"
        raise InputError(msg)
    rows, failed = [], []
    for name in dict.fromkeys(names):
        count, scale = _grid(name, radius, pixels, pixel_scale)
        try:
            rows.append(
                _row(name, place, count, scale, sampler, make_cutout(service, name, place, count, scale, sampler))
            )
        except AcquisitionError as error:
            failed.append((name, str(error)))
    if not rows:
        lines = "".join(f"\n  {name}: {reason}" for name, reason in failed)
        msg = f"SkyView made no cutout:{lines}"
        raise AcquisitionError(msg, url=service.URL, failures=tuple(failed))
    for _, reason in failed:
        _log.warning("%s", reason)
    where = f"{place.ra.deg:.6f} {place.dec.deg:+.6f}"
    return observation_table(rows, source="skyview", position=where, failures=failed)


@recorded
def fetch(
    rows: Any, run: str | Path, *, client: Client | None = None, progress: ProgressCallback | None = None
) -> list[Path]:
    """Fetch cutouts that `search` had made; ones that SkyView has thrown away meanwhile are made again.

    Parameters
    ----------
    rows : QTable or Row
        Of `search`.
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
        A cutout could not be had or holds no data: SkyView answers an empty picture where a survey does not cover the
        position. `failures` names each, `paths` has those that arrived.
    """
    client = client or default_client()
    outcomes: list[tuple[str, Path | AcquisitionError]] = []
    for row in checked_rows(rows):
        try:
            outcomes.append((row["filename"], _fetch_row(row, run, client, progress)))
        except AcquisitionError as error:
            outcomes.append((row["filename"], error))
    return raise_failures(outcomes)


def library(
    position: Any,
    radius: Any = 0.0333,
    *,
    run: str | Path,
    surveys: str | Sequence[str] = LIBRARY,
    client: Client | None = None,
    progress: ProgressCallback | None = None,
    **options: Any,
) -> dict[str, Path]:
    """Fetch a reference library: one cutout of each survey on the same centre.

    Parameters
    ----------
    position, radius, surveys, client, progress
        As for `search` and `fetch`.
    run : str or Path
        A folder or a run directory.
    **options
        Also for `search`: pixels, pixel_scale, sampler. Give both of pixels and pixel_scale for one common grid.

    Returns
    -------
    dict
        SkyView's name of the survey -> file, of the surveys that cover the position.

    Raises
    ------
    AcquisitionError
        No survey at all could be had: `failures` names each. Surveys that fail beside others are logged as warnings.
    """
    client, found = client or default_client(), {}
    table = search(position, radius, surveys=surveys, client=client, **options)
    failed = list(table.meta["failures"])
    for row in table:
        name = str(row["service_id"]).split("|")[0]
        try:
            (found[name],) = fetch(row, run, client=client, progress=progress)
        except AcquisitionError as error:
            failed.append((name, str(error)))
            _log.warning("%s", error)
    if not found:
        lines = "".join(f"\n  {name}: {reason}" for name, reason in failed)
        msg = f"no survey of SkyView could be had at {position!r}:{lines}"
        raise AcquisitionError(msg, failures=tuple(failed))
    return found


def _grid(name: str, radius: Any, pixels: int | None, scale: float | None) -> tuple[int, float]:
    """Return pixels a side and arcseconds a pixel."""
    side = 2 * 3600 * radius_degrees(radius)
    if pixels is not None and (not isinstance(pixels, int) or isinstance(pixels, bool) or not 1 <= pixels <= _LARGEST):
        msg = f"pixels={pixels!r}: must be a whole number from 1 to {_LARGEST}"
        raise InputError(msg)
    if scale is not None and not 0 < float(scale) < 3600:
        msg = f"pixel_scale={scale!r}: must be above 0 and below 3600 arcsec"
        raise InputError(msg)
    if scale is None:
        native = SURVEYS.get(name, ("", "", 1.0))[2]
        scale = native if pixels is None else side / pixels
    count = pixels if pixels is not None else max(1, round(side / scale))
    if count > _LARGEST:
        msg = f"{name}: {count} pixels of {scale:g} arcsec, {_LARGEST} at most: take a smaller radius or larger pixels"
        raise InputError(msg)
    return count, float(scale)


def _row(name: str, place: Any, count: int, scale: float, sampler: str, url: str) -> dict[str, Any]:
    """Return the observation of one cutout."""
    survey, band, _ = SURVEYS.get(name, (name, "", 0.0))
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")
    identity = f"skyview_{plain}_{place.ra.deg:.5f}{place.dec.deg:+.5f}_{count}x{scale:g}_{sampler}"
    return {
        "id": identity,
        "ra": place.ra.deg,
        "dec": place.dec.deg,
        "survey": survey,
        "filter": band,
        "kind": "reference",
        "distance": 0.0,
        "pixel_scale": scale,
        "width": count,
        "height": count,
        "size": 4 * count * count + 8640,
        "filename": f"{identity}.fits",
        "url": url,
        "access": "public",
        "service_id": f"{name}|{count}|{scale!r}|{sampler}",
    }


def _fetch_row(row: dict[str, Any], run: str | Path, client: Client, progress: ProgressCallback | None) -> Path:
    """Fetch one cutout; make it again if it is gone; refuse one without data."""
    from astrid_gpu.io import check_has_data

    name, count, scale, sampler = row["service_id"].split("|")
    path = target_path(row, run)
    # The address changes from call to call, what is behind it does not: the cache goes by the latter.
    item = Item(row["url"], path, key=f"skyview {row['id']}", service=SERVICE)
    try:
        download(item, client=client, progress=progress)
    except AcquisitionError as error:
        if error.status not in (404, 410):
            raise
        url = make_cutout(skyview_of(client), name, resolve((row["ra"], row["dec"])), int(count), float(scale), sampler)
        download(Item(url, path, key=item.key, service=SERVICE), client=client, progress=progress)
    wrong = check_has_data(path)
    if wrong:
        path.unlink(missing_ok=True)
        msg = f"SkyView: {name} has no data at ra {row['ra']:.5f}, dec {row['dec']:+.5f} ({wrong}) [{row['url']}]"
        raise AcquisitionError(msg, url=row["url"])
    return path
