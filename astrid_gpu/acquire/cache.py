"""The user's cache of downloaded files, by address (or a key of the adapter's), checked by content on every use.

``ASTRID_GPU_CACHE`` names the folder; ``off`` keeps nothing but files half fetched. Default: ``$XDG_CACHE_HOME`` or
``~/.cache``, then ``astrid_gpu``. An entry is ``ab/abcd...``, the bytes, and ``ab/abcd....json``: address, size,
SHA-256, ETag, date. Files half fetched end in ``.part``.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astrid_gpu.acquire.limits import Clock
from astrid_gpu.acquire.secrets import redact

__all__ = ["Entry", "cache_folder", "digest_of", "keeps_files", "locked", "sha256_of"]


def keeps_files() -> bool:
    """Whether finished files stay in the cache."""
    return os.environ.get("ASTRID_GPU_CACHE", "").strip().lower() not in ("off", "none", "0", "no")


def cache_folder() -> Path:
    """Return the cache's folder; it need not be there yet."""
    named = os.environ.get("ASTRID_GPU_CACHE", "").strip()
    if named and keeps_files():
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "").strip()
    return (Path(base) if base else Path.home() / ".cache") / "astrid_gpu"


@dataclass(frozen=True)
class Entry:
    """One address in the cache.

    Parameters
    ----------
    key : str
        The address, or a stable name for what is behind addresses that change.
    folder : Path
        The cache's folder.
    """

    key: str
    folder: Path

    @property
    def digest(self) -> str:
        """SHA-256 of the key."""
        return hashlib.sha256(self.key.encode()).hexdigest()

    @property
    def file(self) -> Path:
        """The finished file."""
        return self.folder / self.digest[:2] / self.digest

    @property
    def part(self) -> Path:
        """The file half fetched."""
        return self.file.with_name(self.digest + ".part")

    @property
    def lock(self) -> Path:
        """The file that is locked while somebody fetches."""
        return self.file.with_name(self.digest + ".lock")

    def note(self, path: Path) -> dict[str, Any]:
        """Return what is written beside `path` (the file or its part); empty if there is nothing sensible."""
        try:
            found = json.loads(path.with_name(path.name + ".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write_note(self, path: Path, note: dict[str, Any]) -> None:
        """Write a note beside `path`, whole or not at all."""
        target = path.with_name(path.name + ".json")
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".note-", dir=target.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump({**note, "key": redact(self.key)}, stream)
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def sound(self) -> bool:
        """Whether the finished file is there with the size and the SHA-256 of its note; if not, it is removed."""
        note = self.note(self.file)
        try:
            size = self.file.stat().st_size
        except OSError:
            return False
        if note.get("size") == size and note.get("sha256") == sha256_of(self.file):
            return True
        self.remove(self.file)
        return False

    def remove(self, path: Path) -> None:
        """Remove `path` (the file or its part) and its note."""
        for victim in (path, path.with_name(path.name + ".json")):
            with suppress(OSError):
                victim.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return digest_of(path, "sha256")


def digest_of(path: Path, algorithm: str) -> str:
    """Return the checksum of a file in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


@contextmanager
def locked(path: Path, clock: Clock) -> Iterator[None]:
    """Hold `path` as a lock among processes and threads; one that dies lets go of it.

    Where the system has no locks on files (not POSIX) nothing is held: two processes then do the same work twice, and
    the rename at the end still leaves one whole file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield
        return
    with path.open("w") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                clock.sleep(0.05)
        yield
