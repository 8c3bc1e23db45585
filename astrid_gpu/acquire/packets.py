"""Alert packets: Avro files, folders and tar archives of them, of every schema there has been."""

from __future__ import annotations

import io
import math
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from astrid_gpu.acquire.bands import survey_of
from astrid_gpu.errors import AcquisitionError, AstridGpuError, FitsError
from astrid_gpu.io.extras import need
from astrid_gpu.io.stamps import read_stamp

__all__ = ["STAMPS", "Alert", "number", "read_packets"]

STAMPS = ("cutoutScience", "cutoutTemplate", "cutoutDifference")
"""Names of the stamps in a packet, in the order of a triplet."""

_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_MJD = 2400000.5
_NOTHING = (-999.0, -99999.0, -9999.0, -99.0)  # how packets write "no value" where a number belongs
_LARGEST = 256 << 20  # bytes of one packet: real ones have under 0.2 MB


@dataclass(frozen=True, repr=False)
class Alert:
    """One alert: the candidate, its history, and three stamps.

    Parameters
    ----------
    object_id : str
    candid : int
    survey : str
        ZTF unless the packet says otherwise.
    schema : str
        Version of the packet's schema, "" in the oldest.
    candidate : dict
        The packet's own fields.
    previous, forced : list of dict
        `prv_candidates`: detections and upper limits; `fp_hists`: forced photometry.
    stamps : dict of str to array (ny, nx)
        By `STAMPS`; a stamp that is missing or damaged is absent and its reason in `notes`.
    name : str
        File it came from, for messages.
    notes : tuple of str
    """

    object_id: str
    candid: int
    survey: str
    schema: str
    candidate: dict[str, Any]
    previous: list[dict[str, Any]] = field(default_factory=list)
    forced: list[dict[str, Any]] = field(default_factory=list)
    stamps: dict[str, np.ndarray] = field(default_factory=dict)
    name: str = "alert"
    notes: tuple[str, ...] = ()

    @property
    def mjd(self) -> float:
        """Time of the exposure, modified Julian date, UTC."""
        return number(self.candidate.get("jd")) - _MJD

    @property
    def polarity(self) -> int:
        """+1 if the science image is the brighter one, -1 if the reference is."""
        return 1 if str(self.candidate.get("isdiffpos")).strip().lower() in ("t", "true", "1") else -1

    def __repr__(self) -> str:
        sides = {f"{s.shape[1]}x{s.shape[0]}" for s in self.stamps.values()}
        return f"<Alert {self.object_id} {self.candid} of {self.survey}, MJD {self.mjd:.5f}, {', '.join(sides)} px>"


def number(value: Any, *, nothing: bool = True) -> float:
    """Return a packet's value as a number; NaN where it holds none, or one of the values that mean "none"."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return math.nan
    return math.nan if nothing and found in _NOTHING else found


def read_packets(where: str | Path | Iterable[str | Path]) -> Iterator[Alert | AcquisitionError]:
    """Read alert packets one after the other; one that cannot be read comes as an error of its own and stops nothing.

    Parameters
    ----------
    where : path, glob, or a list of them
        ``.avro`` files (with one packet or many), folders, and tar archives, compressed or not, as the alert archive
        has one for each night.

    Yields
    ------
    Alert or AcquisitionError

    Raises
    ------
    AcquisitionError
        There is nothing of that kind at all.
    ImportError
        fastavro is missing: the extra ``acquire`` brings it.
    """
    need("fastavro", "acquire", "reading alert packets")
    files = list(_files(where))
    if not files:
        msg = f"{where}: no alert packets there (.avro, or tar archives of them; here is {Path.cwd()})"
        raise AcquisitionError(msg)
    for path in files:
        for name, source in _contents(path):
            yield from [source] if isinstance(source, AcquisitionError) else _alerts(source, name)


def _files(where: Any) -> Iterator[Path]:
    """Return the files that are meant, in order."""
    if not isinstance(where, (str, Path)):
        for one in where:
            yield from _files(one)
        return
    path = Path(where).expanduser()
    if path.is_dir():
        yield from sorted(p for p in path.rglob("*") if p.is_file() and p.name.endswith((".avro", *_TAR)))
    elif path.is_file():
        yield path
    elif any(c in str(where) for c in "*?["):
        parent = Path(path.anchor) if path.is_absolute() else Path()
        yield from sorted(parent.glob(str(path.relative_to(path.anchor)) if path.is_absolute() else str(path)))


def _contents(path: Path) -> Iterator[tuple[str, bytes | AcquisitionError]]:
    """Return the packets' bytes in a file: its own, or those of each member of an archive."""
    try:
        if not path.name.endswith(_TAR):
            yield path.name, path.read_bytes()
            return
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if not (member.isfile() and member.name.endswith(".avro")):
                    continue
                stream = archive.extractfile(member) if member.size <= _LARGEST else None
                name = f"{path.name}/{Path(member.name).name}"
                if stream is None:
                    yield name, AcquisitionError(f"{name} has {member.size} bytes: no alert is so large")
                else:
                    yield name, stream.read()
    except (OSError, EOFError, tarfile.TarError, ValueError) as error:
        msg = f"{path} cannot be read to its end: {error}; fetch it again"
        yield path.name, AcquisitionError(msg)


def _alerts(content: bytes, name: str) -> Iterator[Alert | AcquisitionError]:
    """Return the packets in the bytes of an Avro file."""
    import fastavro

    count = 0
    try:
        for record in fastavro.reader(io.BytesIO(content)):
            count += 1
            yield _alert(record, name)
    except AstridGpuError as error:
        yield AcquisitionError(str(error))
    except Exception as error:  # fastavro raises whatever the bytes happen to break
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        msg = f"{name} is no alert packet, or damaged ({said})" + (f" after {count} packets" if count else "")
        yield AcquisitionError(msg)


def _alert(record: Any, name: str) -> Alert:
    """Return the alert of a decoded packet."""
    candidate = record.get("candidate") if isinstance(record, dict) else None
    if not isinstance(candidate, dict) or "objectId" not in record:
        msg = f"{name} is Avro but no alert packet: it has no objectId or no candidate"
        raise AcquisitionError(msg)
    stamps, notes = {}, []
    for kind in STAMPS:
        content = record.get(kind)
        content = content.get("stampData") if isinstance(content, dict) else content
        if not isinstance(content, bytes):
            notes.append(f"{kind} is missing")
            continue
        try:
            stamps[kind] = read_stamp(content, f"{name}: {kind}")[0]
        except FitsError as error:
            notes.append(str(error))
    return Alert(
        object_id=str(record["objectId"]),
        candid=int(record.get("candid") or candidate.get("candid") or 0),
        survey=_survey(record, candidate),
        schema=str(record.get("schemavsn") or ""),
        candidate=candidate,
        previous=_dicts(record.get("prv_candidates")),
        forced=_dicts(record.get("fp_hists")),
        stamps=stamps,
        name=name,
        notes=tuple(notes),
    )


def _dicts(rows: Any) -> list[dict[str, Any]]:
    return [row for row in rows or () if isinstance(row, dict)]


def _survey(record: dict[str, Any], candidate: dict[str, Any]) -> str:
    """Return whose alert it is: by the publisher, else by the object's name, whose first letters name the survey."""
    told = survey_of(record.get("publisher"))
    if told:
        return told
    letters = str(record["objectId"]).rstrip("abcdefghijklmnopqrstuvwxyz").rstrip("0123456789")
    return letters or ("ZTF" if "rcid" in candidate else "unknown")
