"""Set two results of the benchmarks side by side: what became slower, what faster, what came and went.

``python -m benchmarks.compare BEFORE.json AFTER.json [--strict] [--threshold 1.1]``

Times of two runs differ with the load of the machine; the speed relative to a rival of the same run (the yardstick
above all) does not, and decides where there is one. A change counts beyond the threshold and beyond the spread of both
rows. ``--strict`` ends with 1 if something became slower, failed or is missing.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Row, read

# Rivals that decide, first to last: each the same code in both files.
STEADY = ("yardstick", "scipy", "sep", "sep.extract", "sep.winpos", "photutils")


@dataclass(frozen=True)
class Change:
    """One row of both files; factors above 1 mean that AFTER is slower."""

    row: Row
    raw: float | None
    relative: float | None
    rival: str
    spread: float
    failed: bool
    missing: bool = False

    @property
    def factor(self) -> float | None:
        """What decides: relative to a rival where there is one, else the raw times."""
        return self.raw if self.relative is None else self.relative

    def verdict(self, threshold: float) -> str:
        """Return "FAILED", "missing", "slower", "faster" or ""."""
        if self.failed or self.missing:
            return "FAILED" if self.failed else "missing"
        least = max(threshold, 1 + self.spread)
        if self.factor is None or 1 / least <= self.factor <= least:
            return ""
        return "slower" if self.factor > 1 else "faster"


def changes(before: list[Row], after: list[Row]) -> list[Change]:
    """Return a change for every row of `before`, in its order."""
    there = {row.key: row for row in after}
    return [_change(row, there.get(row.key)) for row in before]


def _change(old: Row, new: Row | None) -> Change:
    if new is None:
        return Change(old, None, None, "", 0.0, failed=False, missing=True)
    if new.failed or old.failed or not (old.median_ms and new.median_ms):
        return Change(new, None, None, "", 0.0, failed=new.failed)
    rival = next((name for name in STEADY if name in old.ratios and name in new.ratios), "")
    relative = old.ratios[rival] / new.ratios[rival] if rival else None
    spread = (old.iqr_ms or 0) / old.median_ms + (new.iqr_ms or 0) / new.median_ms
    return Change(new, new.median_ms / old.median_ms, relative, rival, spread / 2, failed=False)


def report(found: list[Change], threshold: float) -> str:
    """Return a line a row: time now, the two factors, the verdict."""
    lines = [f"{'operation':<22}  {'backend':<18}  {'size':<12}{'n':>4}{'ms now':>10}{'time x':>9}{'relative x':>12}"]
    for c in found:
        row, name = c.row, f"{c.row.backend} {c.row.variant}".strip()
        time = "" if c.raw is None else f"{row.median_ms:.2f}"
        raw = "" if c.raw is None else f"{c.raw:.2f}"
        relative = "" if c.relative is None else f"{c.relative:.2f}"
        line = f"{row.operation:<22}  {name:<18}  {row.size:<12}{row.images:>4}{time:>10}{raw:>9}{relative:>12}"
        lines.append(f"{line}  {c.verdict(threshold)}".rstrip())
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Parse, compare, print; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--strict", action="store_true", help="end with 1 if something became slower")
    parser.add_argument("--threshold", type=float, default=1.1, help="factor from which a change counts (1.1)")
    given = parser.parse_args(arguments)
    before, after = read(given.before), read(given.after)
    found = changes(before["rows"], after["rows"])
    for name, doc in (("before", before), ("after", after)):
        sys.stdout.write(f"{name}: {doc['commit']}, {doc['date']}, {doc['machine']['cpu']}, {doc['threads']} threads\n")
    if before["machine"]["cpu"] != after["machine"]["cpu"] or before["threads"] != after["threads"]:
        sys.stdout.write("different machines: times mean little, relative speeds a little more\n")
    sys.stdout.write("factors above 1: slower than before; relative: to a rival measured in the same run\n\n")
    sys.stdout.write(report(found, given.threshold) + "\n")
    new = {row.key for row in after["rows"]} - {row.key for row in before["rows"]}
    bad = [c for c in found if c.verdict(given.threshold) in ("slower", "FAILED", "missing")]
    good = sum(c.verdict(given.threshold) == "faster" for c in found)
    sys.stdout.write(f"\n{len(bad)} slower, failed or missing; {good} faster; {len(new)} new\n")
    return int(given.strict and bool(bad))


if __name__ == "__main__":
    sys.exit(main())
