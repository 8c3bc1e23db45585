"""How far a download is: what a callback is told, and one that writes lines on standard error."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

__all__ = ["Progress", "ProgressCallback", "progress_lines"]


@dataclass(frozen=True)
class Progress:
    """State of one file.

    Parameters
    ----------
    name : str
        Of the file.
    received, total : int
        Bytes that are here, and of the whole file; -1 if the service does not say.
    state : str
        "running", "done", "cached" or "failed".
    """

    name: str
    received: int
    total: int = -1
    state: str = "running"


ProgressCallback = Callable[[Progress], None]
"""Called from the downloading threads, some times a second for each file and once at its end."""


def progress_lines(stream: TextIO | None = None, *, now: Callable[[], float] = time.monotonic) -> ProgressCallback:
    """Return a callback that writes ``name  12.3 of 40.1 MB  31 %  4.2 MB/s``.

    On a terminal the line is rewritten in place, elsewhere each file gets one line when it ends.
    """
    out = stream or sys.stderr
    lock, began, width = threading.Lock(), {}, [0]  # type: ignore[var-annotated]
    terminal = bool(getattr(out, "isatty", lambda: False)())

    def show(progress: Progress) -> None:
        with lock:
            start, first = began.setdefault(progress.name, (now(), progress.received))
            ended = progress.state != "running"
            if not (ended or terminal):
                return
            line = _line(progress, now() - start, progress.received - first)
            if terminal:
                out.write("\r" + line.ljust(width[0]) + ("\n" if ended else ""))
                width[0] = 0 if ended else len(line)
            else:
                out.write(line + "\n")
            out.flush()
            if ended:
                began.pop(progress.name, None)

    return show


def _line(progress: Progress, seconds: float, gained: int) -> str:
    """Return the text of one line."""
    received, total = progress.received, progress.total
    parts = [progress.name]
    if total > 0 and progress.state == "running":
        parts += [f"{received / 1e6:.1f} of {total / 1e6:.1f} MB", f"{100 * received / total:3.0f} %"]
    else:
        parts.append(f"{received / 1e6:.1f} MB")
    if progress.state in ("cached", "failed"):
        parts.append({"cached": "from the cache", "failed": "failed"}[progress.state])
    elif seconds > 0.5 and gained > 0:
        parts.append(f"{gained / 1e6 / seconds:.1f} MB/s")
    return "  ".join(parts)
