"""One file to fetch: what is here of it, whether an answer fits to that, and whether all of it is right."""

from __future__ import annotations

import errno
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astrid_gpu.acquire.cache import Entry, digest_of
from astrid_gpu.acquire.content import CONTENTS
from astrid_gpu.acquire.secrets import redact
from astrid_gpu.acquire.wire import Fault, failure
from astrid_gpu.errors import AcquisitionError, ConfigError

__all__ = [
    "Item",
    "check_length",
    "check_room",
    "disk_error",
    "resumable",
    "said_of",
    "size_of",
    "span",
    "what_is_wrong",
]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Item:
    """One file to fetch.

    Parameters
    ----------
    url : str
    path : Path
        Its final name.
    wanted : str
        What it must hold, one of `content.CONTENTS`.
    size : int
        Bytes that it must have; -1 if unknown.
    checksum : str
        ``"md5:..."``, ``"sha256:..."``; empty if unknown.
    key : str
        Name in the cache instead of the address, for services whose addresses differ from call to call.
    service : str
        For messages.
    auth : object, optional
        What `requests` takes; never stored.
    """

    url: str
    path: Path
    wanted: str = "fits"
    size: int = -1
    checksum: str = ""
    key: str = ""
    service: str = ""
    auth: Any = None

    def __post_init__(self) -> None:
        if self.wanted not in CONTENTS:
            msg = f"wanted={self.wanted!r}: must be one of {', '.join(CONTENTS)}"
            raise ConfigError(msg)


def size_of(path: Path) -> int:
    """Return the size of a file, 0 if it is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def resumable(item: Item, entry: Entry) -> tuple[int, dict[str, Any]]:
    """Return how many bytes of `item` are here already, and what the server said of them."""
    note = entry.note(entry.part)
    try:
        have = entry.part.stat().st_size
    except OSError:
        return 0, {}
    total = note.get("total", -1)
    complete = isinstance(total, int) and 0 <= total <= have
    if not note or not isinstance(total, int) or complete or 0 <= item.size <= have:
        entry.remove(entry.part)
        return 0, {}
    return have, note


def span(answer: Any, have: int, note: dict[str, Any]) -> tuple[int | None, int]:
    """Return (first byte, total length) of an answer: (None, -1) if it does not fit to what is here."""
    if answer.status_code != 206:
        length = answer.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() and not answer.headers.get("Content-Encoding") else -1
    found = re.match(r"bytes (\d+)-(\d+)/(\d+|\*)$", answer.headers.get("Content-Range", "").strip())
    if not found or int(found[1]) != have:
        return None, -1
    total = int(found[3]) if found[3] != "*" else -1
    etag = _strong(answer)
    if (note.get("etag") and etag and etag != note["etag"]) or note.get("total", -1) not in (-1, total):
        return None, -1
    return have, total


def _strong(answer: Any) -> str:
    """Return the ETag of an answer if it speaks of bytes (a weak one does not)."""
    etag = answer.headers.get("ETag", "").strip()
    return "" if etag.startswith("W/") else etag


def said_of(answer: Any, item: Item, total: int) -> dict[str, Any]:
    """Return the note on an answer."""
    modified = answer.headers.get("Last-Modified", "")
    return {"url": redact(item.url), "etag": _strong(answer), "modified": modified, "total": total}


def check_length(item: Item, size: int, total: int) -> None:
    """Raise if another number of bytes came than the server promised."""
    if size < total:
        msg = "the connection ended early"
        raise Fault(msg)
    if 0 <= total < size:
        raise failure(item.url, f"{size} bytes came of a file of {total}", service=item.service)


def what_is_wrong(item: Item, path: Path) -> str | None:
    """Return None if size and checksum are those promised, else what is wrong."""
    size = path.stat().st_size
    if item.size >= 0 and size != item.size:
        return f"sent {size} bytes, its catalogue says {item.size} bytes"
    if item.checksum:
        algorithm, _, promised = item.checksum.partition(":")
        found = digest_of(path, algorithm)
        if found != promised.lower():
            return f"sent a file with {algorithm} checksum {found}, its catalogue says {promised}"
    return None


def check_room(item: Item, entry: Entry, needed: int) -> None:
    """Raise before the transfer if the disk cannot hold the file."""
    try:
        free = shutil.disk_usage(entry.part.parent).free
    except OSError:
        return
    if needed > free:
        msg = f"{needed / 1e6:.1f} MB to come, {free / 1e6:.1f} MB free"
        raise _full(item, msg, entry.part.parent)


def disk_error(item: Item, error: OSError, folder: Path, entry: Entry) -> AcquisitionError:
    """Return the error about a disk that took no more. A full disk is freed of the part."""
    if error.errno in _FULL:
        entry.remove(entry.part)
        return _full(item, f"{error.strerror}; the part that had come was removed", folder)
    return failure(item.url, f"{folder} cannot be written: {error.strerror or error}", service=item.service)


def _full(item: Item, reason: str, folder: Path) -> AcquisitionError:
    """Return the error about a full disk."""
    words = f"no room on the disk under {folder} ({reason}). Free some, or name another folder with ASTRID_GPU_CACHE"
    return failure(item.url, words, service=item.service)
