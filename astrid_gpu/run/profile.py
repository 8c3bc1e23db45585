"""Where the time of a run went: stage by stage, to the wall clock's total."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

__all__ = ["Line", "Profile", "process_age"]


class Line(NamedTuple):
    """One stage: its name, its seconds, and in a few words what it did."""

    stage: str
    seconds: float
    did: str


def process_age() -> float:
    """Return the seconds since this process was started, imports and all; its CPU time where the system tells no start.

    Good to a hundredth of a second.
    """
    import os

    try:
        fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return time.process_time()


class Profile:
    """A stop-watch that accounts for every moment: what no stage claims is its last line.

    Parameters
    ----------
    before : float
        Seconds that went by before this object was made, such as `process_age()`: its first line.
    """

    def __init__(self, before: float = 0.0) -> None:
        self._began = time.perf_counter() - before
        self._ended: float | None = None
        self._lines: list[Line] = [Line("start", before, "the interpreter and its imports")] if before else []

    @contextmanager
    def stage(self, name: str, did: str = "") -> Iterator[None]:
        """Time a block as a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._lines.append(Line(name, time.perf_counter() - start, did))

    def tell(self, did: str) -> None:
        """Say what the last stage did, now that it is known."""
        self._lines[-1] = self._lines[-1]._replace(did=did)

    def split(self, parts: Mapping[str, float], did: Mapping[str, str]) -> None:
        """Replace the last stage by its parts, which were timed inside of it; the rest keeps its name."""
        whole = self._lines.pop()
        self._lines += [Line(name, seconds, did.get(name, "")) for name, seconds in parts.items()]
        self._lines.append(whole._replace(seconds=max(whole.seconds - sum(parts.values()), 0.0)))

    def stop(self) -> None:
        """End the account; what no stage has claimed becomes a line of its own."""
        self._ended = time.perf_counter()
        self._lines.append(Line("between", max(self.total - sum(line.seconds for line in self._lines), 0.0), ""))

    @property
    def total(self) -> float:
        """Seconds from the start to now, or to `stop`."""
        return (self._ended or time.perf_counter()) - self._began

    @property
    def lines(self) -> list[Line]:
        """The stages in order."""
        return list(self._lines)

    def seconds(self) -> dict[str, float]:
        """Return stage -> seconds, with "total" last."""
        found: dict[str, float] = {}
        for line in self._lines:
            found[line.stage] = found.get(line.stage, 0.0) + line.seconds
        return found | {"total": self.total}

    def __str__(self) -> str:
        total = self.total
        width = max((len(line.stage) for line in self._lines), default=0)
        rows = [
            f"{line.seconds:8.3f} s {100 * line.seconds / total:5.1f} %  {line.stage:<{width}}  {line.did}".rstrip()
            for line in self._lines
        ]
        return "\n".join([*rows, f"{total:8.3f} s 100.0 %  total"])
