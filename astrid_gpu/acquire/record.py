"""One observation's record: everything known of an exposure, in one JSON file, with flags that only move forward."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from astrid_gpu.errors import DatasetError, InputError
from astrid_gpu.io import atomic_path

__all__ = ["ROLES", "SCHEMA", "STAGES", "Observation", "file_name"]

SCHEMA = "astrid-gpu.observation/1"
"""Name and version of the record's form."""

ROLES = ("science", "reference")

STAGES = ("acquired", "aligned", "normalized", "subtracted", "detected", "exported")
"""What happens to an observation, in this order. Each flag is the time at which it was done, or null."""


@dataclass(frozen=True)
class Observation:
    """What is known of one exposure; `None` is "not known", never a guess.

    Parameters
    ----------
    observation_id : str
        Unique in a run.
    role : {"science", "reference"}
    ra, dec : float
        Of the middle of the image, degrees, ICRS.
    mjd : float
        Start of the exposure, days.
    date : str
        The same in ISO 8601.
    exposure : float
        Seconds.
    survey, telescope, instrument, filter, band : str
        `filter` as the archive has it; `band` in the one spelling of `band_of`.
    shape : (int, int)
        (ny, nx).
    n_frames : int
        Of a cube that holds a time series; None for an image.
    pixel_scale : float
        Arcseconds.
    radius : float
        Degrees from the middle to the farthest corner.
    corners : list of (ra, dec)
    zero_point, gain, read_noise, saturation : float
        AB magnitude of one unit; electrons a unit; electrons; units.
    fwhm : float
        Of the seeing, arcseconds.
    paths : dict of str to str
        Files by kind, relative to the run: source, mask, weight, psf, aligned, normalized, ...
    normalization, psf, quality : dict
        What the stages found: background, sigma, flux ratio; FWHM, stars; metrics and verdict.
    references, differences : list
        Observation ids this one is subtracted from; {"method", "science", "reference", "path"} for each difference.
    source : dict
        Where it comes from: adapter, url, retrieved, sha256, size, and the service's own row.
    status : dict of str to str or None
        `STAGES` to the time each was done.
    notes : list of str
    """

    observation_id: str
    role: str
    ra: float | None = None
    dec: float | None = None
    mjd: float | None = None
    date: str | None = None
    exposure: float | None = None
    survey: str | None = None
    telescope: str | None = None
    instrument: str | None = None
    filter: str | None = None
    band: str | None = None
    shape: tuple[int, int] | None = None
    n_frames: int | None = None
    pixel_scale: float | None = None
    radius: float | None = None
    corners: list[Any] = field(default_factory=list)
    zero_point: float | None = None
    gain: float | None = None
    read_noise: float | None = None
    saturation: float | None = None
    fwhm: float | None = None
    paths: dict[str, str] = field(default_factory=dict)
    normalization: dict[str, Any] | None = None
    psf: dict[str, Any] | None = None
    quality: dict[str, Any] | None = None
    references: list[str] = field(default_factory=list)
    differences: list[dict[str, Any]] = field(default_factory=list)
    source: dict[str, Any] = field(default_factory=dict)
    status: dict[str, str | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not str(self.observation_id).strip():
            msg = "an observation needs an observation_id: a text that is not empty, unique in its run"
            raise InputError(msg)
        if self.role not in ROLES:
            msg = f"{self.observation_id}: role must be one of {', '.join(ROLES)}; got {self.role!r}"
            raise InputError(msg)
        unknown = set(self.status) - set(STAGES)
        if unknown:
            msg = f"{self.observation_id}: no such stage: {', '.join(sorted(unknown))}; they are {', '.join(STAGES)}"
            raise InputError(msg)
        object.__setattr__(self, "status", {stage: self.status.get(stage) for stage in STAGES})

    def with_(self, **changes: Any) -> Observation:
        """Return a copy with some fields replaced; the status by `advance` alone."""
        if "status" in changes:
            msg = f"{self.observation_id}: the status moves by advance(), one stage after the other"
            raise InputError(msg)
        return replace(self, **changes)

    def advance(self, stage: str, **changes: Any) -> Observation:
        """Return a copy on which `stage` is done, with other fields changed along with it.

        Raises
        ------
        InputError
            No such stage, or one before it has not been done. A stage done twice keeps its first time.
        """
        if stage not in STAGES:
            msg = f"{self.observation_id}: no stage {stage!r}; they are {', '.join(STAGES)}"
            raise InputError(msg)
        missing = [s for s in STAGES[: STAGES.index(stage)] if self.status[s] is None]
        if missing:
            msg = f"{self.observation_id}: cannot be {stage} before it is {missing[0]}"
            raise InputError(msg)
        now = self.status[stage] or datetime.now(UTC).isoformat(timespec="seconds")
        return replace(self, **changes, status={**self.status, stage: now})

    def done(self, stage: str) -> bool:
        """Whether a stage has been done."""
        return self.status[stage] is not None

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON has it."""
        return {"schema": SCHEMA, **_plain(asdict(self))}

    @classmethod
    def from_json(cls, record: Mapping[str, Any], where: str = "record") -> Observation:
        """Return the observation of a record.

        Raises
        ------
        DatasetError
            Another schema, an unknown field or an impossible value.
        """
        if not isinstance(record, Mapping) or record.get("schema") != SCHEMA:
            found = record.get("schema") if isinstance(record, Mapping) else type(record).__name__
            msg = f"{where}: not an observation of {SCHEMA}; its schema is {found!r}"
            raise DatasetError(msg)
        known = {f.name for f in fields(cls)}
        unknown = set(record) - known - {"schema"}
        if unknown:
            msg = f"{where}: unknown fields {', '.join(sorted(unknown))}; {SCHEMA} has {', '.join(sorted(known))}"
            raise DatasetError(msg)
        values = {k: v for k, v in record.items() if k != "schema"}
        if isinstance(values.get("shape"), list):
            values["shape"] = tuple(values["shape"])
        try:
            return cls(**values)
        except (TypeError, InputError) as error:
            msg = f"{where}: {error}"
            raise DatasetError(msg) from error

    def write(self, path: str | Path) -> Path:
        """Write the record in one step; refused if the file has stages done that this copy has not.

        Raises
        ------
        InputError
            The record there has moved on: read it again, change that.
        """
        target = Path(path)
        if target.exists():
            there = Observation.read(target)
            lost = [stage for stage in STAGES if there.done(stage) and not self.done(stage)]
            if lost:
                msg = f"{target} is {lost[-1]} already and this copy of it is not; read it again and change that"
                raise InputError(msg)
        with atomic_path(target) as part:
            part.write_text(json.dumps(self.to_json(), indent=1, sort_keys=False) + "\n", encoding="utf-8")
        return target

    @classmethod
    def read(cls, path: str | Path) -> Observation:
        """Read a record.

        Raises
        ------
        DatasetError
            Missing, not JSON, or not such a record.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
            record = json.loads(text)
        except OSError as error:
            msg = f"{path} cannot be read: {error.strerror or error}"
            raise DatasetError(msg) from error
        except (ValueError, RecursionError) as error:
            msg = f"{path} is not JSON ({error}); restore it, or remove it and fetch the observation again"
            raise DatasetError(msg) from error
        return cls.from_json(record, str(path))


def file_name(observation_id: str) -> str:
    """Return a file name, without ending, for any observation id: safe on every system, different for different ids.

    >>> file_name("ztf_2020/r")
    'ztf_2020_r-9bc52c'
    """
    text = str(observation_id)
    safe = re.sub(r"[^A-Za-z0-9._+-]+", "_", text).strip("._-")[:120]
    return safe if safe == text else f"{safe or 'id'}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _plain(value: Any) -> Any:
    """Return JSON's types: tuples as lists, NumPy scalars as numbers, what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist") and not isinstance(value, (str, bytes)):
        value = value.tolist()
        if isinstance(value, list):
            return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)
