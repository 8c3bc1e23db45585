"""Is a run complete, whole and consistent? Every file, every record, and what they say of each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from astrid_gpu.acquire.companions import is_fits_name
from astrid_gpu.acquire.directory import FOLDERS, RunDirectory
from astrid_gpu.acquire.footprint import overlap_fraction, separation_deg
from astrid_gpu.acquire.record import Observation
from astrid_gpu.acquire.record_schema import validate_record
from astrid_gpu.errors import DatasetError
from astrid_gpu.io.inspection import FitsInspection, inspect_fits

__all__ = ["CheckReport", "Finding", "check_run"]

_FIRST_MJD = 15020.0  # 1900
_EMPTY = 0.5  # part of the pixels that may be missing before it is worth a word
_DAY = 1.0 / 86400
_NEEDED = ("ra", "dec", "mjd", "filter", "survey", "instrument", "exposure", "pixel_scale", "zero_point")
_MADE = {"aligned": ("aligned",), "normalized": ("normalized",)}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong ("error") or worth a look ("warning"), with the file or record it is about."""

    severity: str
    kind: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.message}"


@dataclass(frozen=True)
class CheckReport:
    """What `check_run` found.

    Parameters
    ----------
    root : str
    n_observations, n_files : int
        Records, and FITS files that were opened.
    findings : list of Finding
    """

    root: str
    n_observations: int
    n_files: int
    findings: list[Finding] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        """What is wrong."""
        return [f for f in self.findings if f.severity == "error"]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; warnings may remain."""
        return not self.errors

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON has it."""
        return {**asdict(self), "ok": self.ok, "n_errors": len(self.errors)}

    def __str__(self) -> str:
        n_warnings = len(self.findings) - len(self.errors)
        head = f"{self.root}: {self.n_observations} observations, {self.n_files} FITS files"
        tail = f"{len(self.errors)} errors, {n_warnings} warnings" if self.findings else "nothing wrong"
        return "\n".join([*(str(f) for f in self.findings), f"{head}: {tail}"])


def check_run(run: RunDirectory | str | Path, *, pixels: bool = True) -> CheckReport:
    """Check a run directory.

    Of every FITS file: that it opens whole, that its checksums fit, pixels that are not finite, a sane WCS. Of every
    record: the schema, what is missing, that the file has the shape and bytes it says. Between them: positions,
    times, references and differences that lead somewhere, files that no record knows, writes that were cut off.

    Parameters
    ----------
    run : RunDirectory or path
    pixels : bool
        Read every pixel. Without, headers alone: fast, and blind to damage inside.

    Returns
    -------
    CheckReport

    Raises
    ------
    InputError
        There is no run.

    Notes
    -----
    Cost: reading every file twice.
    """
    directory = run if isinstance(run, RunDirectory) else RunDirectory(run, create=False)
    findings: list[Finding] = []
    observations = _records(directory, findings)
    inspected = {path: inspect_fits(path, pixels=pixels) for path in _fits_files(directory)}
    for path, inspection in inspected.items():
        findings += _of_file(directory.relative(path), inspection, pixels)
    for observation in observations:
        findings += _of_observation(directory, observation, inspected, pixels)
        findings += _of_references(directory, observation, {o.observation_id: o for o in observations})
    findings += _strays(directory, observations, inspected)
    return CheckReport(str(directory.root), len(observations), len(inspected), findings)


def _fits_files(run: RunDirectory) -> list[Path]:
    found = (p for name in FOLDERS for p in run.folder(name).rglob("*") if p.is_file() and is_fits_name(p.name))
    return sorted(p.resolve() for p in found if not p.name.startswith("."))


def _records(run: RunDirectory, findings: list[Finding]) -> list[Observation]:
    """Read every record, telling of those that cannot be."""
    kept = []
    for path in sorted((run.root / "metadata").glob("*.json")):
        name = run.relative(path)
        try:
            observation = Observation.read(path)
            validate_record(json.loads(path.read_text(encoding="utf-8")), name)
        except DatasetError as error:
            findings.append(Finding("error", "record", name, str(error)))
            continue
        if run.record_path(observation.observation_id).name != path.name:
            text = f"holds the observation {observation.observation_id!r}, whose record has another name"
            findings.append(Finding("error", "record", name, text))
            continue
        kept.append(observation)
    return kept


def _of_file(name: str, found: FitsInspection, pixels: bool) -> Iterator[Finding]:
    """Tell what is wrong with a file by itself."""
    if found.error is not None:
        yield Finding("error", "integrity", name, found.error)
        return
    for problem in found.problems:
        yield Finding("warning", "checksum", name, problem)
    for problem in found.wcs.problems if found.wcs else ():
        yield Finding("error", "wcs", name, problem)
    if found.shape is None or not pixels:
        return
    lost, size = found.n_nan + found.n_inf, found.shape[0] * found.shape[1]
    if lost == size:
        yield Finding("error", "pixels", name, f"all {size} pixels are NaN or infinite")
    elif lost > _EMPTY * size:
        yield Finding("warning", "pixels", name, f"{100 * lost / size:.0f} % of the pixels are NaN or infinite")
    if found.n_inf:
        yield Finding("warning", "pixels", name, f"{found.n_inf} pixels are infinite")
    if found.constant and "source_fits" in name and "mask" not in name and "ood" not in name:
        yield Finding("warning", "pixels", name, "all pixels have the same value")


def _of_observation(
    run: RunDirectory, o: Observation, inspected: dict[Path, FitsInspection], pixels: bool
) -> Iterator[Finding]:
    """Tell what is wrong with a record: what it lacks, and where its files say otherwise."""
    name = run.relative(run.record_path(o.observation_id))
    missing = [key for key in _NEEDED if getattr(o, key) is None]
    if missing:
        yield Finding("warning", "metadata", name, f"not known: {', '.join(missing)}")
    for kind, relative in o.paths.items():
        if not _is_there(run, relative):
            yield Finding("error", "missing file", name, f"its {kind} {relative} is not there")
    for stage, kinds in _MADE.items():
        lost = [kind for kind in kinds if o.done(stage) and kind not in o.paths]
        if lost:
            yield Finding("error", "status", name, f"is {stage}, but its record names no file for it")
    if o.done("subtracted") and not o.differences:
        yield Finding("error", "status", name, "is subtracted, but no difference is named")
    yield from _of_time(name, o)
    source = o.paths.get("source")
    if source is None:
        yield Finding("error", "metadata", name, "names no source file")
        return
    found = inspected.get((run.root / source).resolve())
    if found is not None and found.error is None:
        yield from _against_file(name, o, found, pixels)


def _is_there(run: RunDirectory, relative: str) -> bool:
    """Whether a record's path leads to a file within the run."""
    try:
        return bool(relative) and run.path(relative).is_file()
    except DatasetError:
        return False


def _of_time(name: str, o: Observation) -> Iterator[Finding]:
    """Tell about times that cannot be."""
    if o.mjd is None:
        return
    now = (datetime.now(UTC) - datetime(1858, 11, 17, tzinfo=UTC)).total_seconds() * _DAY
    if not _FIRST_MJD < o.mjd < now + 1:
        yield Finding("error", "time", name, f"MJD {o.mjd:.5f} is not between 1900 and today")
    if o.date:
        try:
            stamp = datetime.fromisoformat(o.date[:26])
        except ValueError:
            yield Finding("warning", "time", name, f"its date {o.date!r} is not ISO 8601")
            return
        stamp = stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)
        mjd = (stamp - datetime(1858, 11, 17, tzinfo=UTC)).total_seconds() * _DAY
        exposure = (o.exposure or 0.0) * _DAY
        if abs(mjd - o.mjd) > 1.0 + exposure:
            yield Finding(
                "error", "time", name, f"its date {o.date} is {abs(mjd - o.mjd):.3g} days from its MJD {o.mjd:.5f}"
            )


def _against_file(name: str, o: Observation, found: FitsInspection, pixels: bool) -> Iterator[Finding]:
    """Tell where the record and the source file disagree."""
    if o.shape is not None and found.shape is not None and tuple(o.shape) != found.shape:
        yield Finding("error", "dimensions", name, f"says {tuple(o.shape)} pixels, its source has {found.shape}")
    digest = o.source.get("sha256")
    if pixels and digest and digest != found.sha256:
        yield Finding("error", "integrity", name, "its source file is not the one that was acquired: other bytes")
    if found.wcs is None or o.ra is None or o.dec is None:
        return
    apart = float(separation_deg(o.ra, o.dec, found.wcs.ra, found.wcs.dec))
    if not apart < max(found.wcs.radius, 1 / 3600):
        text = f"says {o.ra:.5f} {o.dec:+.5f}, its source lies {3600 * apart:.4g} arcsec away and does not reach there"
        yield Finding("error", "coordinates", name, text)


def _of_references(run: RunDirectory, o: Observation, known: dict[str, Observation]) -> Iterator[Finding]:
    """Tell about references and differences that lead nowhere, or to another piece of sky."""
    name = run.relative(run.record_path(o.observation_id))
    for other_id in o.references:
        other = known.get(other_id)
        if other is None:
            yield Finding("error", "cross-reference", name, f"its reference {other_id} has no record")
        elif len(o.corners) > 2 and len(other.corners) > 2 and not overlap_fraction(o.corners, other.corners):
            yield Finding("error", "coordinates", name, f"does not overlap its reference {other_id} on the sky")
    for entry in o.differences:
        ids = entry.get("science"), entry.get("reference")
        path = str(entry.get("path", ""))
        if not _is_there(run, path):
            yield Finding("error", "missing file", name, f"its difference {path or '(no path)'} is not there")
        if o.observation_id not in ids:
            yield Finding("error", "cross-reference", name, f"its difference {path} is of {ids[0]} and {ids[1]}")
        for other_id in map(str, ids):
            other = known.get(other_id)
            if other is None:
                yield Finding("error", "cross-reference", name, f"{other_id}, of its difference {path}, has no record")
            elif entry not in other.differences:
                yield Finding("error", "cross-reference", name, f"{other_id} does not know of their difference {path}")


def _strays(
    run: RunDirectory, observations: list[Observation], inspected: dict[Path, FitsInspection]
) -> Iterator[Finding]:
    """Tell about files that no record names, and about what an interrupted write has left."""
    named = {(run.root / relative).resolve() for o in observations for relative in o.paths.values()}
    for path in inspected:
        name = run.relative(path)
        if name.startswith(("source_fits/", "processed/")) and path not in named:
            yield Finding("warning", "stray file", name, "no record names it")
    for path in sorted(run.root.rglob(".*.part*")):
        yield Finding("warning", "left over", run.relative(path), "an interrupted write left it; it can be removed")
