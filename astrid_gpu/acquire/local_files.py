"""FITS files on disk of any origin: found by folder, glob or manifest, and sorted into science and reference images."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from astrid_gpu.acquire.companions import companions_of, is_fits_name, not_an_image
from astrid_gpu.acquire.describe import describe
from astrid_gpu.acquire.footprint import separation_deg
from astrid_gpu.acquire.record import ROLES, Observation
from astrid_gpu.errors import AcquisitionError, AstridGpuError, InputError

__all__ = ["LocalFile", "Skipped", "find"]

_MANIFEST = {"file", "path", "filename"}


@dataclass(frozen=True)
class LocalFile:
    """An image on disk: what its header says, and the files that go with it."""

    path: Path
    observation: Observation
    companions: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Skipped:
    """A file that was not taken, and why."""

    path: Path
    reason: str


def find(
    where: str | Path | Iterable[str | Path], *, role: str | None = None, split_mjd: float | None = None
) -> tuple[list[LocalFile], list[Skipped]]:
    """Look for FITS images and say which are science and which reference images.

    Parameters
    ----------
    where : path, glob, list of them, or a manifest
        A folder is searched with its sub-folders. A manifest is a ``.csv`` or ``.json`` table with a column ``file``
        (relative to the manifest) and, if wanted, ``role``, ``mask``, ``weight``, ``variance``, ``error``, ``psf`` and
        any field of `Observation`.
    role : {"science", "reference"}, optional
        All of them are that. Otherwise a manifest or a folder named so decides, then the date.
    split_mjd : float, optional
        What was taken before it is a reference image. Default: of each band, sky position apart, the earliest image
        is the reference and the others are science images.

    Returns
    -------
    (files, skipped)
        In order of path. A file that cannot be used is skipped with the reason and stops nothing.

    Raises
    ------
    AcquisitionError
        There is nothing there, or a manifest cannot be read.
    InputError
        No such role.
    """
    if role is not None and role not in ROLES:
        msg = f"role must be one of {', '.join(ROLES)} or None; got {role!r}"
        raise InputError(msg)
    rows = _rows(where)
    names = {Path(row["file"]) for row in rows}
    files: list[LocalFile] = []
    skipped: list[Skipped] = []
    for row in rows:
        path = Path(row["file"])
        reason = "" if row.get("listed") else not_an_image(path, names)
        if reason:
            skipped.append(Skipped(path, reason))
            continue
        try:
            files.append(_local(path, row, names, role))
        except (AstridGpuError, OSError) as error:
            skipped.append(Skipped(path, str(error)))
    decided = {f.path for f, row in zip(files, _kept(rows, files), strict=True) if role or _told_role(f.path, row)}
    return _by_date(_named_apart(files), decided, split_mjd), skipped


def _rows(where: Any) -> list[dict[str, Any]]:
    """Return a row {"file": path, ...} for every file that is meant."""
    if isinstance(where, (str, Path)):
        path = Path(where).expanduser()
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.is_file() and is_fits_name(p.name))
            return _not_empty([{"file": p, "folder": path} for p in found], where)
        if path.suffix.lower() in (".csv", ".json") and path.is_file():
            return _not_empty(_manifest(path), where)
        if path.is_file():
            return [{"file": path, "listed": True}]
        if any(c in str(where) for c in "*?["):
            parent = Path(path.anchor) if path.is_absolute() else Path()
            pattern = str(path.relative_to(path.anchor)) if path.is_absolute() else str(path)
            found = sorted(p for p in parent.glob(pattern) if p.is_file())
            return _not_empty([{"file": p} for p in found], where)
        msg = f"{where}: no such file or folder (here is {Path.cwd()})"
        raise AcquisitionError(msg)
    return [row for one in where for row in _rows(one)]


def _not_empty(rows: list[dict[str, Any]], where: Any) -> list[dict[str, Any]]:
    if not rows:
        msg = f"{where} holds no FITS file (.fits, .fit, .fts or .fz, perhaps with .gz or .bz2)"
        raise AcquisitionError(msg)
    return rows


def _manifest(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a manifest, files made absolute."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = json.loads(text) if path.suffix.lower() == ".json" else list(csv.DictReader(text.splitlines()))
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        msg = f"the manifest {path} cannot be read: {error}"
        raise AcquisitionError(msg) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        msg = f"the manifest {path} must be a list of rows, each with a column 'file'"
        raise AcquisitionError(msg)
    out = []
    for number, row in enumerate(rows, 1):
        key = next((k for k in row if str(k).strip().lower() in _MANIFEST), None)
        if key is None or not str(row[key] or "").strip():
            msg = f"the manifest {path}, row {number}: no file; it needs a column 'file'"
            raise AcquisitionError(msg)
        rest = {str(k).strip(): v for k, v in row.items() if k not in (key, None) and v not in ("", None)}
        out.append({**rest, "file": path.parent / str(row[key]).strip(), "listed": True, "base": path.parent})
    return out


def _local(path: Path, row: dict[str, Any], names: set[Path], role: str | None) -> LocalFile:
    """Return a file with what its header and its row say."""
    planes = ("mask", "weight", "variance", "error", "psf")
    base = row.get("base", path.parent)
    companions = companions_of(path, names) | {kind: base / str(row[kind]) for kind in planes if kind in row}
    for kind, file in companions.items():
        if not file.is_file():
            msg = f"{path}: its {kind} {file} is not there"
            raise AcquisitionError(msg)
    known = {
        key: _number(value)
        for key, value in row.items()
        if key not in (*planes, "file", "role", "listed", "base", "folder")
    }
    told = role or _told_role(path, row) or "science"
    return LocalFile(path, describe(path, told, **known), companions)


def _number(value: Any) -> Any:
    """Return a number where a table's text is one."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _told_role(path: Path, row: dict[str, Any]) -> str | None:
    """Return the role that a manifest or the folders' names give a file."""
    told = str(row.get("role", "")).strip().lower()
    if told:
        if told not in ROLES:
            msg = f"{path}: role must be one of {', '.join(ROLES)}, the manifest says {told!r}"
            raise InputError(msg)
        return told
    inside = path.relative_to(row["folder"]).parts[:-1] if "folder" in row else ()
    return next((part.lower() for part in reversed(inside) if part.lower() in ROLES), None)


def _kept(rows: list[dict[str, Any]], files: list[LocalFile]) -> list[dict[str, Any]]:
    """Return the rows of the files that were taken."""
    paths = {f.path for f in files}
    return [row for row in rows if Path(row["file"]) in paths]


def _named_apart(files: list[LocalFile]) -> list[LocalFile]:
    """Put the folder's name before an id that several files have."""
    ids = [f.observation.observation_id for f in files]
    return [
        replace(f, observation=replace(f.observation, observation_id=f"{f.path.resolve().parent.name}_{name}"))
        if ids.count(name) > 1
        else f
        for f, name in zip(files, ids, strict=True)
    ]


def _by_date(files: list[LocalFile], decided: set[Path], split: float | None) -> list[LocalFile]:
    """Give a role to the files that nothing else decides: by date, within a band and a piece of sky."""
    groups: list[list[LocalFile]] = []
    for file in files:
        group = next((g for g in groups if _together(g[0].observation, file.observation)), None)
        groups.append([file]) if group is None else group.append(file)
    first: set[Path] = set()
    for group in groups:
        dated = [f for f in group if f.observation.mjd is not None]
        times = sorted(f.observation.mjd or 0.0 for f in dated)
        if len(times) > 1 and times[0] < times[1]:  # of several at the first moment none is the reference
            first |= {f.path for f in dated if f.observation.mjd == times[0]}
    out = []
    for file in files:
        o = file.observation
        if file.path not in decided and o.mjd is not None:
            older = o.mjd < split if split is not None else file.path in first
            file = replace(file, observation=replace(o, role="reference" if older else "science"))
        out.append(file)
    return out


def _together(a: Observation, b: Observation) -> bool:
    """Whether two images are of one survey, band and field; without a place on the sky, of one shape."""
    if (a.survey, a.band) != (b.survey, b.band):
        return False
    if a.ra is None or a.dec is None or b.ra is None or b.dec is None:
        return a.ra == b.ra and a.shape == b.shape
    return bool(separation_deg(a.ra, a.dec, b.ra, b.dec) < (a.radius or 0.0) + (b.radius or 0.0))
