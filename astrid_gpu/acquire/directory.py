"""A run's directory: where each file goes, and the records that tie them together."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from astrid_gpu.acquire.describe import describe
from astrid_gpu.acquire.record import ROLES, Observation, file_name
from astrid_gpu.errors import DatasetError, InputError
from astrid_gpu.io import atomic_path
from astrid_gpu.io.inspection import sha256_of

__all__ = ["FOLDERS", "RunDirectory"]

FOLDERS = (
    "source_fits/science",
    "source_fits/reference",
    "processed/aligned",
    "processed/normalized",
    "differences/zogy",
    "differences/classic",
    "metadata",
    "candidates",
    "dataset",
    "cutouts",
    "report",
)
"""What a run is made of."""


class RunDirectory:
    """The files of one run.

    Parameters
    ----------
    root : path
        The folder; made with its sub-folders unless `create` is false.
    create : bool

    Raises
    ------
    InputError
        `root` is a file, or there is no run and `create` is false.

    Examples
    --------
    >>> import tempfile
    >>> run = RunDirectory(tempfile.mkdtemp())
    >>> run.folder("source_fits/science").name
    'science'
    """

    def __init__(self, root: str | Path, *, create: bool = True) -> None:
        self.root = Path(root).expanduser()
        if self.root.is_file():
            msg = f"{self.root} is a file; a run is a folder"
            raise InputError(msg)
        if not create and not (self.root / "metadata").is_dir():
            msg = f"{self.root} is no run: it has no folder metadata/. astrid-gpu fetch or run makes one"
            raise InputError(msg)
        if create:
            for name in FOLDERS:
                (self.root / name).mkdir(parents=True, exist_ok=True)

    def __repr__(self) -> str:
        counts = ", ".join(f"{sum(1 for _ in self.observations(role))} {role}" for role in ROLES)
        return f"<RunDirectory {self.root}: {counts}>"

    def __fspath__(self) -> str:
        return str(self.root)

    def folder(self, name: str) -> Path:
        """Return one of `FOLDERS`.

        Raises
        ------
        InputError
            No such folder in a run.
        """
        if name not in FOLDERS:
            msg = f"a run has no folder {name!r}; it has {', '.join(FOLDERS)}"
            raise InputError(msg)
        return self.root / name

    def source_folder(self, role: str) -> Path:
        """Return where the source files of science or reference images lie."""
        return self.folder(f"source_fits/{_role(role)}")

    def relative(self, path: str | Path) -> str:
        """Return a path within the run as its records have it: relative, with forward slashes."""
        try:
            return Path(path).resolve().relative_to(self.root.resolve()).as_posix()
        except ValueError as error:
            msg = f"{path} is not in the run {self.root}; add() copies a file into it"
            raise InputError(msg) from error

    def path(self, relative: str) -> Path:
        """Return the file that a record names.

        Raises
        ------
        DatasetError
            The name leads out of the run.
        """
        found = (self.root / relative).resolve()
        if not found.is_relative_to(self.root.resolve()):
            msg = f"{relative!r} leads out of the run {self.root}"
            raise DatasetError(msg)
        return found

    def record_path(self, observation_id: str) -> Path:
        """Return where the record of an observation lies."""
        return self.root / "metadata" / f"{file_name(observation_id)}.json"

    def observation(self, observation_id: str) -> Observation:
        """Read the record of an observation; DatasetError if there is none."""
        return Observation.read(self.record_path(observation_id))

    def observations(self, role: str | None = None) -> Iterator[Observation]:
        """Read every record, by id; those of one role if asked. A damaged record raises DatasetError."""
        for path in sorted((self.root / "metadata").glob("*.json")):
            observation = Observation.read(path)
            if role is None or observation.role == role:
                yield observation

    def write(self, observation: Observation) -> Path:
        """Write a record; refused where the one on disk has moved on."""
        return observation.write(self.record_path(observation.observation_id))

    def add(
        self,
        file: str | Path,
        role: str,
        *,
        companions: dict[str, str | Path] | None = None,
        source: dict[str, Any] | None = None,
        otherwise: dict[str, Any] | None = None,
        copy: bool = True,
        **known: Any,
    ) -> Observation:
        """Take a FITS file into the run: put it in its place, look it over, write its record.

        Parameters
        ----------
        file : path
        role : {"science", "reference"}
        companions : dict of str to path, optional
            Files that go with it: mask, weight, variance, psf, catalog, ...
        source : dict, optional
            Where it comes from: adapter, url, the service's row. Size and SHA-256 are added.
        otherwise : dict, optional
            Fields of `Observation` for what neither the header nor `known` says.
        copy : bool
            Copy a file that lies outside of the run; otherwise it is moved. One that lies in it stays.
        **known
            Fields of `Observation` that are known better than the header says.

        Returns
        -------
        Observation
            Acquired. If the run has a record with this id and the same bytes, that one, as far along as it is.

        Raises
        ------
        FitsError
            The file cannot be used; nothing was taken in.
        InputError
            An observation with this id and other bytes is in the run.
        """
        found = describe(file, _role(role), **known)
        found = found.with_(**{k: v for k, v in (otherwise or {}).items() if getattr(found, k) is None})
        record = self.record_path(found.observation_id)
        digest = sha256_of(file)
        if record.exists():
            there = Observation.read(record)
            if there.source.get("sha256") == digest and there.role == role:
                return there
            msg = (
                f"{there.observation_id} is in the run already as a {there.role} image, from other bytes: "
                f"{there.paths.get('source')}. Give {file} an observation_id of its own"
            )
            raise InputError(msg)
        paths = {kind: self._place(path, role, copy) for kind, path in (companions or {}).items()}
        paths = {"source": self._place(file, role, copy), **paths}
        origin = {**(source or {}), "size": self.path(paths["source"]).stat().st_size, "sha256": digest}
        observation = found.with_(paths=paths, source=origin).advance("acquired")
        self.write(observation)
        return observation

    def link_difference(self, method: str, science_id: str, reference_id: str, path: str | Path) -> None:
        """Note in both records that a difference of the two was made.

        Raises
        ------
        DatasetError
            One of them has no record.
        """
        entry = {"method": method, "science": science_id, "reference": reference_id, "path": self.relative(path)}
        for observation_id in (science_id, reference_id):
            observation = self.observation(observation_id)
            rest = [d for d in observation.differences if d != entry]
            changes: dict[str, Any] = {"differences": [*rest, entry]}
            if observation_id == science_id and reference_id not in observation.references:
                changes["references"] = [*observation.references, reference_id]
            self.write(observation.with_(**changes))

    def _place(self, file: str | Path, role: str, copy: bool) -> str:
        """Bring a file into the run under its own name, or a free one like it; return its name there."""
        origin = Path(file).expanduser()
        if origin.resolve().is_relative_to(self.root.resolve()):
            return self.relative(origin)
        target = _free(self.source_folder(role) / origin.name, sha256_of(origin))
        if not target.exists():
            with atomic_path(target) as part:
                shutil.copyfile(origin, part)
        if not copy:
            origin.unlink()
        return self.relative(target)


def _role(role: str) -> str:
    if role not in ROLES:
        msg = f"role must be one of {', '.join(ROLES)}; got {role!r}"
        raise InputError(msg)
    return role


def _free(target: Path, digest: str) -> Path:
    """Return `target`, or with part of the digest in its name where another file has it."""
    if not target.exists() or sha256_of(target) == digest:
        return target
    stem, dot, rest = target.name.partition(".")
    return target.with_name(f"{stem}-{digest[:8]}{dot}{rest}")
