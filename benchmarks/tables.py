"""Write the tables of docs/performance.md from results: nothing between its markers is typed by hand.

``python -m benchmarks.tables RESULTS.json docs/performance.md [--scale SCALE.json] [--gpu GPU.json]``

A table stands between ``<!-- table NAME -->`` and ``<!-- end NAME -->``. The page's first such marker names the files,
and tests/docs/test_performance_page.py makes the page again from them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import Row, read

# What a user waits for: frames, their shape, how many, and what others say of it.
NIGHTS = (
    ("one ZTF night, 45 000 quadrants of 3080 x 3072", "3080 x 3072", 45_000, ""),
    ("one DECam exposure, 62 CCDs of 4096 x 2048", "4096 x 2048", 62, "50 s, the published GPU pipeline, whole chain"),
    ("one Rubin visit, 189 CCDs of 4096 x 4096", "4096 x 4096", 189, "60 s, the budget of the whole chain"),
    ("one pair of 2048 x 2048", "2048 x 2048", 1, "0.40 s, SFFT on an A100, as published"),
    ("one pair of 4096 x 4096", "4096 x 4096", 1, "1.43 s, SFFT on an A100, as published"),
)
_WHOLE = {"zogy pair", "zogy stack"}
_FRESH = "new PSFs"
# Further lists of a device's results and the columns shown of each.
_GPU_PARTS = {
    "fused": ("name", "images", "side", "us_a_pair", "floor_us", "times_floor", "error"),
    "chunks": ("chunk", "graph", "us_a_pair", "floor_us", "times_floor", "share_of_schedule"),
    "steps": ("step", "us", "megabytes", "floor_us", "share"),
    "streaming": ("side", "batch", "graph", "exposures_a_second", "bus_us", "work_us", "stream_us", "busy"),
}


@dataclass(frozen=True)
class Sources:
    """The results that a page is made of."""

    results: dict[str, Any]
    scale: dict[str, Any] | None = None
    gpu: dict[str, Any] | None = None

    @property
    def rows(self) -> list[Row]:
        """Rows of the CPU run."""
        return self.results["rows"]


def machine(s: Sources) -> str:
    """Where the numbers come from."""
    doc = s.results
    versions = ", ".join(f"{k} {v}" for k, v in doc["versions"].items() if k in ("python", "numpy", "scipy", "numba"))
    there = doc["machine"]
    lines = [
        f"- {there['cpu']}, {there['cores']} cores, {there['memory_gb']:.0f} GB; load before the run {there['load']}",
        f"- {doc['threads']} threads; memory {doc['bandwidth']['gb_s']} GB/s: {doc['bandwidth']['how']}",
        f"- {versions}; FFTs of whole frames by {doc['fft']}",
        f"- commit {doc['commit']}, {doc['date'][:10]}, `{doc['command']}`",
    ]
    return "\n".join(lines)


def subtraction(s: Sources) -> str:
    """Whole subtractions, by size."""
    chosen = [r for r in s.rows if r.operation in _WHOLE and r.variant in ("", _FRESH) and not _is_peer(r)]
    order = ["yardstick", "numpy", "numba", "cupy"]
    chosen.sort(key=lambda r: (_pixels(r.size), r.operation, order.index(r.backend)))
    head = ("size", "what", "ms an image", "IQR", "speed, yardstick = 1", "largest error of S_corr, sigma",
            "B/px of memory", "share of memory speed")  # fmt: skip
    cells = []
    for r in chosen:
        against = "1" if r.backend == "yardstick" else number(r.ratios.get("yardstick"), ".2f")
        how = f"stack of {r.images}" if r.images > 1 else f"one pair, {r.variant}" if r.variant else "one pair"
        what = r.backend if r.backend == "yardstick" else f"{r.backend}, {how}"
        cells.append(
            (r.size, what, *_times(r), against, _error(r), number(r.memory, ".0f"), number(r.of_bandwidth, ".0%"))
        )
    return markdown(head, cells)


def variants(s: Sources) -> str:
    """The same pair with coloured noise, with so many threads, and with each FFT library."""
    chosen = [r for r in s.rows if r.operation in _WHOLE and r.variant not in ("", _FRESH)]
    head = ("size", "what", "ms", "IQR", "speed against", "largest error of S_corr, sigma", "B/px of memory")
    return markdown(head, [(r.size, f"{r.backend}, {r.variant}", *_times(r), _against(r), _error(r),
                            number(r.memory, ".0f")) for r in chosen])  # fmt: skip


def operations(s: Sources) -> str:
    """All other operations, and other software that subtracts."""
    chosen = [r for r in s.rows if r.operation not in _WHOLE or _is_peer(r)]
    first = [r.operation for r in chosen]
    chosen.sort(key=lambda r: first.index(r.operation))  # what belongs together, in the order of the run
    head = ("operation", "by", "size", "ms", "IQR", "speed against", "error", "of", "B/px of memory")
    rows = [(r.operation, f"{r.backend} {r.variant}".strip(), r.size, *_times(r), _against(r), _error(r), r.error_of,
             number(r.memory, ".0f")) for r in chosen]  # fmt: skip
    return markdown(head, rows)


def derived(s: Sources) -> str:
    """What the rows mean for a survey: subtraction alone, input and output in memory."""
    cpu = f"{s.results['threads']} threads of this machine"
    gpu = "a GPU" if s.gpu is None else str(s.gpu.get("machine", {}).get("details", {}).get("device", "a GPU"))
    head = ("subtraction of", f"on {cpu}", f"on {gpu}", "for comparison")
    cells = []
    for what, size, count, other in NIGHTS:
        cpu_s, gpu_s = _seconds(_cpu_pair(s.rows, size), count), _seconds(_gpu_pair(s.gpu, size), count)
        cells.append((what, cpu_s or "not measured", gpu_s or "not measured", other))
    rates = []
    for size in sorted({size for _, size, _, _ in NIGHTS}, key=_pixels):
        for stack, how in ((False, "each its own PSFs"), (True, "a stack")):
            found = [_cpu_pair(s.rows, size, stack=stack), _gpu_pair(s.gpu, size, stack=stack)]
            if any(found):
                here, there = (_rate(1e3 / ms) if ms else "not measured" for ms in found)
                rates.append((f"{size} pairs a second, {how}", here, there, ""))
    return markdown(head, rates + cells)


def scale(s: Sources) -> str:
    """The points of the figure."""
    if s.scale is None:
        return "not measured"
    doc, pixels, pairs = s.scale, [], []
    for p in doc["pixels"]:
        each = 1e6 * p["median_ms"] / p["side"] ** 2
        pixels.append((f"{p['side']} x {p['side']}", f"{p['median_ms']:.1f}", f"{each:.1f}", f"{p['error']:.1e}"))
    for p in doc["pairs"]:
        each = 1e3 * p["seconds"] / p["pairs"]
        pairs.append((str(p["pairs"]), number(p["seconds"], ".3g"), f"{each:.0f}", f"{p['peak_mb']:.0f}"))
    stream = f"stream of {doc['stream_side']} x {doc['stream_side']} pairs"
    first = markdown(("one pair", "ms", "ns a pixel", "largest error of S_corr in a corner, sigma"), pixels)
    second = markdown((stream, "s", "ms a pair", "peak MB of the process"), pairs)
    made = f"commit {doc['commit']}, {doc['date'][:10]}, `{doc['command']}`"
    return f"{first}\n\n{second}\n\n{doc['machine']['cpu']}, {doc['threads']} threads, {made}"


def gpu(s: Sources) -> str:
    """What a device measured, row by row."""
    if s.gpu is None:
        return "not measured: no CUDA device was at hand. `make bench-gpu` measures all of it in one call."
    doc = s.gpu["machine"]
    lines = []
    for r in s.gpu["rows"]:
        ms, rate = ("FAILED", "") if r.get("failed") else (f"{r['median_ms']:.3f}", f"{r['share_of_copy']:.0%}")
        lines.append((r["name"], str(r["images"]), str(r["side"]), ms, rate, number(r["error"], ".1e")))
    parts = [markdown(("operation", "images", "side", "ms a call", "share of copy speed", "error"), lines)]
    for name, columns in _GPU_PARTS.items():
        if found := s.gpu.get(name):
            cells = [tuple(_any(row.get(column)) for column in columns) for row in found]
            parts.append(markdown(tuple(c.replace("_", " ") for c in columns), cells))
    details = ", ".join(f"{k} {v}" for k, v in doc.get("details", {}).items())
    parts.append(f"{details}; commit {str(doc.get('commit', ''))[:12]}, {str(doc.get('date', ''))[:10]}")
    return "\n\n".join(parts)


TABLES: dict[str, Callable[[Sources], str]] = {
    "machine": machine, "derived": derived, "subtraction": subtraction, "variants": variants,
    "operations": operations, "scale": scale, "gpu": gpu,
}  # fmt: skip


def _is_peer(r: Row) -> bool:
    return r.backend not in ("yardstick", "numpy", "numba", "cupy")


def _pixels(size: str) -> int:
    ny, nx = (int(side) for side in size.split(" x "))
    return ny * nx


def _cpu_pair(rows: list[Row], size: str, *, stack: bool = False) -> float | None:
    """Milliseconds a pair with PSFs of its own, as a survey has it; or of an image of a stack with one reference."""
    wanted = ("zogy stack", "") if stack else ("zogy pair", _FRESH)
    found = (r.median_ms for r in rows if (r.backend, r.size, r.operation, r.variant) == ("numba", size, *wanted))
    return next(found, None)


def _gpu_pair(doc: dict[str, Any] | None, size: str, *, stack: bool = False) -> float | None:
    """Milliseconds a resident pair on a device: of a survey's frames, each its own PSFs, or of the fused rows."""
    doc, sides = doc or {}, sorted(int(side) for side in size.split(" x "))
    kind = "maps" if stack else "own"
    times = [r["us_a_pair"] / 1e3 for r in doc.get("surveys", []) if sorted(r["shape"]) == sides and not stack]
    for r in doc.get("rows", []):
        fused = r["name"].startswith("zogy: D + S_corr + flux") and r["name"].endswith(kind)
        if fused and [r["side"]] * 2 == sides and not r.get("failed"):
            times.append(r["median_ms"] / r["images"])
    return min(times, default=None)


def _seconds(ms: float | None, count: float) -> str:
    if ms is None:
        return ""
    seconds = ms * count / 1e3
    if seconds >= 600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 20 else f"{value:.2g}"


def _times(r: Row) -> tuple[str, str]:
    return ("FAILED", "") if r.failed else (number(r.median_ms, ".3g"), number(r.iqr_ms, ".2g"))


def _against(r: Row) -> str:
    return ", ".join(f"{name} {ratio:.2f}" for name, ratio in r.ratios.items())


def _error(r: Row) -> str:
    return number(r.error, ".1e")


def _any(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)


def number(value: float | None, form: str) -> str:
    if value is None:
        return ""
    text = format(value, form)
    return f"{float(text):.0f}" if "e+" in text else text


def markdown(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def fill(page: str, sources: Any, tables: Mapping[str, Callable[[Any], str]] = TABLES) -> str:
    """Return the page with every table made anew; unknown markers are an error."""
    for name in re.findall(r"<!-- table (\w+) -->", page):
        begin, end = f"<!-- table {name} -->", f"<!-- end {name} -->"
        head, _, rest = page.partition(begin)
        _, _, tail = rest.partition(end)
        page = f"{head}{begin}\n{tables[name](sources)}\n{end}{tail}"
    return page


def load(results: Path, scale: Path | None = None, gpu: Path | None = None) -> Sources:
    """Read the files."""
    extra = [None if p is None else json.loads(p.read_text(encoding="utf-8")) for p in (scale, gpu)]
    return Sources(read(results), *extra)


def name_sources(page: str, where: Path, **paths: Path | None) -> str:
    """Return the page with the line that names its files, relative to the page."""
    words = [f"{k}={os.path.relpath(v, where).replace(os.sep, '/')}" for k, v in paths.items() if v is not None]
    return re.sub(r"<!-- made of [^>]*-->", f"<!-- made of {' '.join(words)} -->", page)


def named_sources(page: str, where: Path) -> dict[str, Path]:
    """Return the files that the page says it is made of."""
    found = re.search(r"<!-- made of ([^>]*) -->", page)
    return {} if found is None else {k: where / v for k, _, v in (w.partition("=") for w in found[1].split())}


def main(arguments: list[str] | None = None) -> int:
    """Parse, read, fill, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("page", type=Path)
    parser.add_argument("--scale", type=Path, help="of python -m benchmarks.scale")
    parser.add_argument("--gpu", type=Path, help="of python -m benchmarks.device")
    given = parser.parse_args(arguments)
    page = given.page.read_text(encoding="utf-8")
    page = name_sources(page, given.page.parent, results=given.results, scale=given.scale, gpu=given.gpu)
    given.page.write_text(fill(page, load(given.results, given.scale, given.gpu)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
