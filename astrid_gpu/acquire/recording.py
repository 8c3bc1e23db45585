"""Records for what was fetched: the archive's row and the file's own header, one record an observation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any

from astrid_gpu.acquire.bands import band_of
from astrid_gpu.acquire.directory import RunDirectory
from astrid_gpu.acquire.observations import as_rows
from astrid_gpu.acquire.placing import is_run_directory, role_of
from astrid_gpu.acquire.record import Observation
from astrid_gpu.acquire.secrets import redact
from astrid_gpu.errors import AcquisitionError, AstridGpuError

__all__ = ["companions_in", "record_fetched", "recorded"]

IMAGES = ("science", "reference", "cube")
"""Kinds of file that are observations of their own; every other kind goes with one."""

# column of an observation table -> field of a record, where the file's own header says nothing
_FALLBACK = {"ra": "ra", "dec": "dec", "mjd": "mjd", "exposure": "exposure", "filter": "filter", "survey": "survey",
             "instrument": "instrument", "pixel_scale": "pixel_scale", "zero_point": "zero_point",
             "seeing": "fwhm"}  # fmt: skip


def record_fetched(rows: Any, paths: Iterable[str | Path], run: str | Path | RunDirectory) -> list[Observation]:
    """Write the records of files that were fetched into a run; nothing happens for a plain folder.

    Parameters
    ----------
    rows : QTable
        The observation table, or rows of it.
    paths : iterable of path
        Where the files lie now; those of rows that failed may be missing.
    run : RunDirectory or path

    Returns
    -------
    list of Observation
        One for each science or reference image. Masks, weights, PSFs, catalogues and previews of the same observation
        are named in its `paths`. A file that cannot be recorded has no record, and `astrid-gpu check` tells of it.
    """
    if not isinstance(run, RunDirectory) and not is_run_directory(run):
        return []
    directory = run if isinstance(run, RunDirectory) else RunDirectory(run)
    table, there = _meet(as_rows(rows), [Path(path) for path in paths])
    found = []
    for row in table:
        if row["kind"] not in IMAGES:
            continue
        companions = companions_in(table, row, there)
        try:
            found.append(_record(directory, row, there[row["filename"]], companions))
        except AstridGpuError:
            continue  # the file is where it is, and the check says what is wrong with it
    return found


def _meet(table: list[dict[str, Any]], paths: list[Path]) -> tuple[list[dict[str, Any]], dict[str, Path]]:
    """Return the rows whose file is there, under the file's name, and the files by name.

    An adapter may choose a row's file only when it fetches, under a name that the row did not have; then the order
    tells which is whose.
    """
    there = {path.name: path for path in paths}
    if len(paths) == len(table):
        table = [
            row if row["filename"] in there else {**row, "filename": path.name}
            for row, path in zip(table, paths, strict=True)
        ]
    return [row for row in table if row["filename"] in there], there


def recorded(fetch: Callable[..., list[Path]]) -> Callable[..., list[Path]]:
    """Let an adapter's `fetch` write the records of what it fetched into a run, also where some files failed."""

    @wraps(fetch)
    def fetch_and_record(rows: Any, run: str | Path | RunDirectory, **options: Any) -> list[Path]:
        try:
            paths = fetch(rows, run, **options)
        except AcquisitionError as error:
            record_fetched(rows, error.paths, run)
            raise
        record_fetched(rows, paths, run)
        return paths

    return fetch_and_record


def companions_in(
    table: Sequence[dict[str, Any]], image: dict[str, Any], there: dict[str, Path]
) -> dict[str, str | Path]:
    """Return the files of a table that go with an image: same observation, band and source."""
    key = ("id", "source", "survey")
    return {
        row["kind"]: there[row["filename"]]
        for row in table
        if row["kind"] not in IMAGES
        and all(row[k] == image[k] for k in key)
        and (not row["filter"] or row["filter"] == image["filter"])
    }


def _record(run: RunDirectory, row: dict[str, Any], path: Path, companions: dict[str, str | Path]) -> Observation:
    """Write the record of one image: its header first, then what the archive says where that is silent."""
    source = {
        "adapter": row["source"],
        "url": redact(row["url"]),
        "retrieved": datetime.now(UTC).isoformat(timespec="seconds"),
        "row": {k: v for k, v in row.items() if v not in ("", None) and not (isinstance(v, float) and math.isnan(v))},
    }
    source["row"] = {k: redact(v) if k.endswith("url") else v for k, v in source["row"].items()}
    otherwise = {field: row[column] for column, field in _FALLBACK.items() if _is_known(row[column])}
    band = band_of(row["filter"], row["survey"])
    known = {"observation_id": row["id"], "survey": row["survey"], "band": band}
    return run.add(path, role_of(row), companions=companions, source=source, otherwise=otherwise, **known)


def _is_known(value: Any) -> bool:
    return value not in ("", None) and not (isinstance(value, float) and not math.isfinite(value))
