"""Local files as an adapter: the same two verbs, for what is on disk already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from astrid_gpu.acquire.directory import RunDirectory
from astrid_gpu.acquire.footprint import separation_deg
from astrid_gpu.acquire.local_files import LocalFile, Skipped, find
from astrid_gpu.acquire.observations import as_rows, observation_table
from astrid_gpu.acquire.placing import raise_failures, role_of
from astrid_gpu.acquire.record import Observation
from astrid_gpu.acquire.recording import IMAGES
from astrid_gpu.acquire.regions import radius_degrees, resolve
from astrid_gpu.errors import AcquisitionError, AstridGpuError

__all__ = ["LocalFile", "Skipped", "fetch", "find", "search"]


def search(
    where: str | Path | Iterable[str | Path],
    *,
    position: Any = None,
    radius: Any = None,
    role: str | None = None,
    split_mjd: float | None = None,
) -> Any:
    """Look for FITS images on disk: `find` as an observation table.

    Parameters
    ----------
    where, role, split_mjd
        See `find`.
    position, radius : optional
        Keep the images whose middle lies within; those without a place on the sky are then left out.

    Returns
    -------
    astropy.table.QTable
        A row for every image and for every plane that goes with one. ``meta["skipped"]`` has the rest, with reasons.

    Raises
    ------
    AcquisitionError, InputError
        As `find`.
    """
    files, skipped = find(where, role=role, split_mjd=split_mjd)
    if position is not None:
        centre, reach = resolve(position), radius_degrees(0.1 if radius is None else radius)
        files = [f for f in files if _within(f.observation, centre, reach)]
    rows = [row for file in files for row in _table_rows(file)]
    return observation_table(rows, source="local", skipped=[f"{s.path}: {s.reason}" for s in skipped])


def fetch(rows: Any, run: str | Path | RunDirectory, **_: Any) -> list[Path]:
    """Copy files that `search` found into a run, and write their records.

    Parameters
    ----------
    rows : QTable
    run : RunDirectory or path
        A folder becomes a run.

    Returns
    -------
    list of Path
        In the order of the rows.

    Raises
    ------
    AcquisitionError
        Some could not be taken in: `failures` names each, `paths` has the others.
    """
    directory = run if isinstance(run, RunDirectory) else RunDirectory(run)
    table = as_rows(rows)
    there = {row["url"]: _path_of(row["url"]) for row in table}
    outcomes: list[tuple[str, Path | AcquisitionError]] = []
    placed: dict[str, Path] = {}
    for row in table:
        if row["kind"] not in IMAGES:
            continue
        companions: dict[str, str | Path] = {
            other["kind"]: there[other["url"]]
            for other in table
            if other["kind"] not in IMAGES and other["service_id"] == row["service_id"]
        }
        try:
            source = {"adapter": "local", "url": row["url"]}
            known = {"observation_id": row["id"], "filter": row["filter"] or None}
            taken = directory.add(there[row["url"]], role_of(row), companions=companions, source=source, **known)
        except (AstridGpuError, OSError) as error:
            outcomes.append((row["filename"], AcquisitionError(f"{row['url']}: {error}", url=row["url"])))
            continue
        files = {"source": there[row["url"]], **companions}
        placed |= {Path(files[kind]).as_uri(): directory.path(taken.paths[kind]) for kind in files}
    outcomes += [(row["filename"], placed[row["url"]]) for row in table if row["url"] in placed]
    return raise_failures(outcomes)


def _within(o: Observation, centre: Any, reach: float) -> bool:
    """Whether the middle of an image lies within `reach` degrees of a position."""
    return None not in (o.ra, o.dec) and bool(separation_deg(o.ra, o.dec, centre.ra.deg, centre.dec.deg) <= reach)


def _path_of(url: str) -> Path:
    """Return the path of a file's address."""
    return Path(unquote(urlsplit(url).path))


def _table_rows(file: LocalFile) -> Iterator[dict[str, Any]]:
    """Return the rows of an image and of its planes in an observation table."""
    o, path = file.observation, file.path.resolve()
    image = {
        "id": o.observation_id,
        "ra": o.ra,
        "dec": o.dec,
        "mjd": o.mjd,
        "survey": o.survey or "unknown",
        "instrument": o.instrument,
        "filter": o.filter,
        "exposure": o.exposure,
        "role": o.role,
        "pixel_scale": o.pixel_scale,
        "width": o.shape[1] if o.shape else 0,
        "height": o.shape[0] if o.shape else 0,
        "seeing": o.fwhm,
        "zero_point": o.zero_point,
        "service_id": str(path),
    }
    for kind, there in {"cube" if o.n_frames else o.role: path, **file.companions}.items():
        where = there.resolve()
        size = where.stat().st_size
        yield {**image, "kind": kind, "filename": where.name, "url": where.as_uri(), "size": size}
