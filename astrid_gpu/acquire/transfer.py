"""Files from the network to the disk: resumed, checked, and either whole under their final name or not there.

A file is fetched into the cache folder under its key, with what the server said of it (ETag, date, length) written
beside it. A transfer that breaks goes on from the last byte, in this run or in the next. When all bytes are there the
length, the checksum and the content are checked; only then does it get a name that anybody else reads.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from astrid_gpu.acquire.cache import Entry, cache_folder, keeps_files, locked, sha256_of
from astrid_gpu.acquire.client import Client, default_client
from astrid_gpu.acquire.content import check_bytes, check_file
from astrid_gpu.acquire.items import (
    Item,
    check_length,
    check_room,
    disk_error,
    resumable,
    said_of,
    size_of,
    span,
    what_is_wrong,
)
from astrid_gpu.acquire.progress import Progress, ProgressCallback
from astrid_gpu.acquire.wire import Fault, Stopped, failure, read_blocks
from astrid_gpu.errors import AcquisitionError
from astrid_gpu.io import atomic_path

__all__ = ["Item", "download", "download_all"]

_log = logging.getLogger("astrid_gpu.acquire")


def download(
    item: Item, *, client: Client | None = None, progress: ProgressCallback | None = None, refresh: bool = False
) -> Path:
    """Fetch one file to ``item.path`` and return that path.

    Parameters
    ----------
    item : Item
    client : Client, optional
        Default: the one that all adapters share.
    progress : callable, optional
        Called with a `Progress`; `progress_lines()` makes one that writes to standard error.
    refresh : bool
        Ask the service even if the cache has the file.

    Raises
    ------
    AcquisitionError
        With the address and the service's words. ``item.path`` is then as it was before.
    """
    client = client or default_client()
    entry = Entry(item.key or item.url, cache_folder())
    path = Path(item.path).expanduser()
    tell = progress or (lambda _: None)
    try:
        with locked(entry.lock, client.clock):
            cached = not refresh and entry.sound() and what_is_wrong(item, entry.file) is None
            if not cached:
                _fetch(item, entry, client, tell)
            _place(item, entry, path)
            size = path.stat().st_size
            if not keeps_files():
                entry.remove(entry.file)
    except (AcquisitionError, OSError) as error:
        tell(Progress(path.name, 0, -1, "failed"))
        if isinstance(error, AcquisitionError):
            raise
        raise disk_error(item, error, entry.part.parent, entry) from None
    tell(Progress(path.name, size, size, "cached" if cached else "done"))
    return path


def download_all(
    items: list[Item], *, client: Client | None = None, progress: ProgressCallback | None = None, refresh: bool = False
) -> list[Path | AcquisitionError]:
    """Fetch many files, some at a time; one that fails does not stop the others.

    Returns
    -------
    list
        For each item, in order, its path or the error that it met.
    """
    stop = threading.Event()
    client = (client or default_client()).until(stop)

    def tell(state: Progress) -> None:
        if stop.is_set():
            raise Stopped
        if progress:
            progress(state)

    def one(item: Item) -> Path | AcquisitionError:
        try:
            return download(item, client=client, progress=tell, refresh=refresh)
        except AcquisitionError as error:
            _log.warning("%s", error)
            return error

    if len(items) < 2:
        return [one(item) for item in items]
    pool = ThreadPoolExecutor(min(client.policy.workers, len(items)), thread_name_prefix="fetch")
    try:
        return list(pool.map(one, items))
    finally:  # also at Ctrl-C: what runs ends within a moment, its bytes stay for the next time
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _fetch(item: Item, entry: Entry, client: Client, tell: ProgressCallback) -> None:
    """Bring the bytes of `item` into ``entry.file``."""
    spoilt, best = 0, size_of(entry.part)
    worthwhile = client.policy.least_rate * client.policy.stall_timeout

    def attempt() -> None:
        nonlocal spoilt, best
        try:
            total = _transfer(item, entry, client, tell)
            check_length(item, size_of(entry.part), total)
        except Fault as fault:
            size = size_of(entry.part)
            progressed, best = size - best > worthwhile, max(best, size)
            reason = fault.reason + (f"; {size} {_out_of(entry)}bytes are here" if size else "")
            raise Fault(reason, status=fault.status, wait=fault.wait, progressed=progressed) from None
        wrong = what_is_wrong(item, entry.part)
        again = wrong is not None and spoilt == 0
        wrong = wrong or check_file(entry.part, item.wanted)
        if wrong is None:
            return
        entry.remove(entry.part)
        spoilt += 1
        if again:
            raise Fault(wrong)  # once more from the start: a resumed file may have been joined from two versions
        raise failure(item.url, wrong.replace(str(entry.part), "the file"), service=item.service)

    client.patiently(attempt, item.url, item.service)
    note = entry.note(entry.part)
    note |= {"url": note.get("url", ""), "size": entry.part.stat().st_size, "sha256": sha256_of(entry.part)}
    note["date"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    entry.write_note(entry.file, note)
    entry.part.replace(entry.file)
    entry.remove(entry.part)


def _out_of(entry: Entry) -> str:
    """Return "of N " where the server told the length of a file half fetched."""
    total = entry.note(entry.part).get("total", -1)
    return f"of {total} " if total > 0 else ""


def _transfer(item: Item, entry: Entry, client: Client, tell: ProgressCallback) -> int:
    """Bring as many bytes as one connection yields; return the total length, -1 if the server does not say."""
    have, note = resumable(item, entry)
    headers = {"Range": f"bytes={have}-"} if have else {}
    validator = note.get("etag") or note.get("modified")
    if have and validator:
        headers["If-Range"] = validator
    options: dict[str, Any] = {"headers": headers} | ({"auth": item.auth} if item.auth else {})
    with client.open("GET", item.url, service=item.service, accept=(416,), **options) as answer:
        if answer.status_code == 416:
            entry.remove(entry.part)
            msg = "HTTP 416: the server has no such range; from the start"
            raise Fault(msg, status=416, wait=0.0)
        start, total = span(answer, have, note)
        if start is None:
            entry.remove(entry.part)
            msg = "the server went on elsewhere than where the file broke off; from the start"
            raise Fault(msg, wait=0.0)
        check_room(item, entry, total - start)
        entry.write_note(entry.part, said_of(answer, item, total))
        return _append(answer, item, entry, client, tell, start, total)


def _append(
    answer: Any, item: Item, entry: Entry, client: Client, tell: ProgressCallback, start: int, total: int
) -> int:
    """Write the body of an answer into the part from byte `start` on."""
    size, told = start, client.clock.now()
    with entry.part.open("r+b" if start else "wb") as stream:
        stream.seek(start)
        stream.truncate()
        for block in read_blocks(answer, client.policy, client.clock):
            if not size and len(block) >= 512 and (wrong := check_bytes(block, item.wanted)):
                entry.remove(entry.part)
                raise failure(item.url, wrong, service=item.service, status=answer.status_code)
            stream.write(block)
            size += len(block)
            if client.clock.now() - told > 0.2:
                told = client.clock.now()
                tell(Progress(Path(item.path).name, size, total))
        stream.flush()
        os.fsync(stream.fileno())
    return total


def _place(item: Item, entry: Entry, path: Path) -> None:
    """Bring the finished file to its final name, in one step."""
    try:
        with atomic_path(path) as part:
            if keeps_files():
                shutil.copyfile(entry.file, part)
            else:
                shutil.move(entry.file, part)
    except OSError as error:
        raise disk_error(item, error, path.parent, entry) from None
