"""Every collected pair of real exposures by every method, and what came out of it, as JSON.

``python -m benchmarks.real_data [--only TEXT ...] [--methods NAME ...] [--inject] [--merge] [--json FILE]``

Each pair runs in a process of its own, and its rows carry the commit that it ran from; a method that fails is a row
with its error, and the rest goes on. The file holds numbers only. With --inject sources are put into some of the frames
instead (`benchmarks.real_inject`).
``python -m benchmarks.real_tables`` makes docs/real-data.md and its figure from the file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, commit, describe
from benchmarks.real_inject import FIELDS
from benchmarks.real_pairs import all_pairs, data_folder
from benchmarks.real_run import METHODS

__all__ = ["SCHEMA", "elsewhere", "main"]

SCHEMA = "astrid-gpu.real-data/1"
TIMEOUT = 2400


def elsewhere(module: str, pair: str, methods: list[str], *more: str, timeout: float = TIMEOUT) -> list[dict[str, Any]]:
    """Run a module on a pair in a process of its own; return its lines of JSON, an error for each that lacks one."""
    command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.{module}", pair, *methods, *more]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, said = process.communicate(timeout=timeout)
        why = f"exit {process.returncode}: {(said.strip().splitlines() or ['nothing said'])[-1]}"
    except subprocess.TimeoutExpired:
        process.kill()
        out, why = process.communicate()[0], f"no answer within {timeout:g} s"
    rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    done = {row["method"] for row in rows}
    return rows + [{"pair": pair, "method": m, "ok": False, "error": why} for m in methods if m not in done]


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], help="pairs whose name holds one of these")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--inject", action="store_true", help="put sources into frames and count what is found")
    parser.add_argument("--merge", action="store_true", help="keep what the file has of other pairs and methods")
    parser.add_argument("--json", type=Path, default=ROOT / "out" / "real.json")
    given = parser.parse_args(arguments)
    data_folder()
    old = json.loads(given.json.read_text(encoding="utf-8")) if given.merge and given.json.is_file() else {}
    document = old | {"schema": SCHEMA, **describe("python -m benchmarks.real_data")}
    part, module = ("injections", "real_inject") if given.inject else ("runs", "real_run")
    rows = {(r["pair"], r["method"]): r for r in document.get(part, [])}
    keys = list(FIELDS) if given.inject else [pair.key for pair in all_pairs()]
    for key in keys:
        if not any(text in key for text in given.only):
            continue
        made_of = commit()
        for row in elsewhere(module, key, given.methods):
            rows[key, row["method"]] = row | {"commit": made_of}
            sys.stderr.write(_line(row) + "\n")
        names = list(METHODS)
        order = [row for k in keys for m in names if (row := rows.get((k, m))) is not None]
        document[part] = order + [row for (k, m), row in rows.items() if k not in keys or m not in names]
        write(document, given.json)
    return 0


def write(document: dict[str, Any], path: Path) -> None:
    """Write JSON, a run a line, through a temporary name."""
    lists = {k: v for k, v in document.items() if k in ("runs", "injections")}
    head = json.dumps({k: v for k, v in document.items() if k not in lists}, indent=1)[:-2]
    parts = []
    for name, rows in lists.items():
        body = ",\n".join(json.dumps(rounded(row), separators=(",", ":")) for row in rows)
        parts.append(f'"{name}": [\n{body}\n]')
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(",\n".join([head, *parts]) + "\n}\n", encoding="utf-8")
    temporary.replace(path)


def _line(row: dict[str, Any]) -> str:
    """Return one run in one line, for who waits."""
    head = f"{row['pair']:<28} {row['method']:<12}"
    if not row["ok"]:
        return f"{head} {row['error']}"
    if "injected" in row:
        return f"{head} {row['injected']} injected; {row['completeness']}"
    kinds = ", ".join(f"{n} {kind}" for kind, n in row["classes"].items() if n)
    return (f"{head} width {row['width_raw']:.2f} sky {row['width_sky']:.2f} stars {row['width_sources']:.2f} "
            f"tail {row['tail']:.0f} {row['candidates']:>4} candidates: {kinds}")  # fmt: skip


def rounded(value: Any) -> Any:
    """Return JSON with five significant digits, three decimals at least (dates): more are noise."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    if isinstance(value, float):
        if value != value or abs(value) == float("inf"):
            return None
        return float(f"{value:.5g}") if abs(value) < 1e4 else round(value, 3)
    return value


if __name__ == "__main__":
    sys.exit(main())
