"""Write the tables of docs/real-data.md and its figure from results: no number between its markers is typed by hand.

``python -m benchmarks.real_tables RESULTS.json docs/real-data.md``

Tables stand between markers as in `benchmarks.tables`; tests/docs/test_real_data_page.py makes the page again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.real_data import SCHEMA
from benchmarks.real_figure import FIGURE, draw
from benchmarks.real_inject_tables import (
    completeness,
    fluxes,
    label_of,
    local,
    missed,
    pooled_completeness,
    pooled_local,
    purity,
)
from benchmarks.real_run import CLASSES
from benchmarks.tables import fill, markdown, name_sources, number

__all__ = ["TABLES", "load", "main"]

_SERIES = {
    "jwst": "JWST NIRCam", "saao": "SAAO 1.0 m", "eso085-030": "ESO085-030", "decam": "DECam z, g",
    "decam6": "DECam g, saturated", "sfft": "DECam i", "ztf": "ZTF stamps",
}  # fmt: skip
Document = dict[str, Any]


def methods(doc: Document) -> list[str]:
    """Return the methods in the order of the runs."""
    return list(dict.fromkeys(r["method"] for r in doc["runs"]))


def machine(doc: Document) -> str:
    """Where the numbers come from."""
    there, versions = doc["machine"], doc["versions"]
    made_of = list(dict.fromkeys(r.get("commit", "") for r in [*doc["runs"], *doc.get("injections", [])]))
    commits = f"commit {made_of[0]}" if len(made_of) == 1 else f"rows of commits {', '.join(made_of)}"
    commits += "; + is a tree with changes that were not committed" if any(c.endswith("+") for c in made_of) else ""
    used = ", ".join(f"{k} {v}" for k, v in versions.items() if k in ("python", "numpy", "scipy", "numba"))
    return "\n".join([
        f"- {there['cpu']}, {there['cores']} cores shared with other work, so CPU seconds and not the clock's",
        f"- {used}; {doc['threads']} threads",
        f"- {doc['date'][:10]}, {commits}, `{doc['command']}`",
    ])  # fmt: skip


def summary(doc: Document) -> str:
    """One row a method: everything it was run on, pooled."""
    off = "width off 1: median, largest"
    head = ("method", "runs", "failed", f"raw {off}", f"sky {off}", f"sources {off}", "candidates a Mpix", "unflagged",
            "unexplained", "known sources found", "CPU s a Mpix")  # fmt: skip
    rows = []
    for name in methods(doc):
        runs = [r for r in doc["runs"] if r["method"] == name]
        good = [r for r in runs if r["ok"]]
        mpix = sum(r["mpix"] for r in good)
        known = [k for r in good for k in r["known"] if k["expected"]]
        found = sum(k["candidate"] is not None and k["sign_right"] for k in known)
        per = lambda count: f"{count / mpix:.0f}"  # noqa: B023, E731
        rows.append((
            name, str(len(runs)), str(len(runs) - len(good)),
            *(_spread(r[key] for r in good) for key in ("width_raw", "width_sky", "width_sources")),
            per(sum(r["candidates"] for r in good)), per(sum(r["unflagged"] for r in good)),
            per(sum(r["classes"]["unexplained"] for r in good)), f"{found} of {len(known)}",
            f"{sum(r['cost']['cpu_seconds'] for r in good) / mpix:.1f}",
        ))  # fmt: skip
    return markdown(head, rows)


def _spread(widths: Any) -> str:
    off = [abs(w - 1) for w in widths if w is not None]
    return f"{np.median(off):.2f}, {max(off):.2f}" if off else ""


def pairs(doc: Document) -> str:
    """Every pair by every method; the stars of a ZTF field together."""
    head = ("pair", "method", "width, raw", "sky", "sources", "mean", "beyond 4 sigma, Gaussian = 1", "noise factor",
            "candidates", "a Mpix", "unexplained", "CPU s", "peak MB")  # fmt: skip
    rows, before = [], ""
    for name, method, runs in _rows(doc):
        label, before = ("" if name == before else name), name
        good = [r for r in runs if r["ok"]]
        if not good:
            rows.append((label, method, runs[0]["error"], *[""] * (len(head) - 3)))
            continue
        mid = lambda key: _median(r[key] for r in good)  # noqa: B023, E731
        mpix, count = sum(r["mpix"] for r in good), sum(r["candidates"] for r in good)
        rows.append((
            label, method, *(number(mid(k), ".2f") for k in ("width_raw", "width_sky", "width_sources")),
            number(mid("mean"), "+.3f"), number(mid("tail"), ".0f"),
            number(_median(r["metrics"].get("noise_factor") for r in good), ".2f"), str(count), f"{count / mpix:.0f}",
            str(sum(r["classes"]["unexplained"] for r in good)),
            f"{sum(r['cost']['cpu_seconds'] for r in good):.1f}", f"{max(r['cost']['peak_mb'] for r in good):.0f}",
        ))  # fmt: skip
    return markdown(head, rows)


def _rows(doc: Document) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """Yield (label, method, runs), pairs in order and their methods together."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in doc["runs"]:
        groups.setdefault((label_of(run["pair"]), run["method"]), []).append(run)
    names = list(dict.fromkeys(name for name, _ in groups))
    for name in names:
        for method in methods(doc):
            if (name, method) in groups:
                yield name, method, groups[name, method]


def _median(values: Any) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.median(known)) if known else None


def kinds(doc: Document) -> str:
    """What the candidates beyond 5 sigma are, by series and method."""
    rows = []
    for series, label in _SERIES.items():
        for name in methods(doc):
            runs = [r for r in doc["runs"] if r["ok"] and r["method"] == name and r["pair"].startswith(f"{series}/")]
            if runs:
                mpix = sum(r["mpix"] for r in runs)
                counts = [sum(r["classes"][kind] for r in runs) for kind in CLASSES]
                rows.append((label, name, f"{mpix:.2f}", str(sum(counts)), *map(str, counts)))
    return markdown(("series", "method", "Mpix", "candidates", *CLASSES), rows)


def known(doc: Document) -> str:
    """The known sources and defects that must be there: S_corr of the candidate, or that it was missed."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    failed = {(label_of(r["pair"]), r["method"]) for r in doc["runs"] if not r["ok"]}
    for run in doc["runs"]:
        for source in run.get("known", []):
            if source["expected"]:
                where = (label_of(run["pair"]), f"{source['what']} ({source['x']:.0f}, {source['y']:.0f})")
                cells.setdefault(where, {})[run["method"]] = _significance(source)
    empty = lambda pair, method: "failed" if (pair, method) in failed else ""  # noqa: E731
    rows = [(*at, *(found.get(m, empty(at[0], m)) for m in methods(doc))) for at, found in cells.items()]
    return markdown(("pair", "what", *methods(doc)), rows)


def _significance(source: dict[str, Any]) -> str:
    found = source["candidate"]
    if found is None:
        at = source["forced_score"]
        return "missed" if at is None else f"missed ({at:+.1f} there)"
    return f"{found['score']:+.1f}" + ("" if source["sign_right"] else ", wrong sign")


def photometry(doc: Document) -> str:
    """The light curve of the SAAO event: fluxes against the curator's apertures, on the scale of frame 007."""
    names = [m for m in methods(doc) if any(p["flux"] is not None for p in _curve(doc, m).values())]
    curves = {m: _curve(doc, m) for m in names}
    first = curves[names[0]] if names else {}
    rows = []
    for pair, point in first.items():
        fluxes = (f"{p['flux']:+.0f} ± {p['error']:.0f}" if p and p["flux"] is not None else "none"
                  for p in (curves[m].get(pair) for m in names))  # fmt: skip
        rows.append((f"{point['mjd']:.3f}", label_of(pair), f"{point['aperture']:+.0f}", *fluxes))
    rows.append(("", "flux over aperture, where beyond 10 000", "1", *(_ratio(curves[m]) for m in names)))
    return markdown(("MJD", "pair", "aperture, r = 5 px", *names), rows)


def _curve(doc: Document, method: str) -> dict[str, dict[str, Any]]:
    runs = (r for r in doc["runs"] if r["method"] == method)
    return {r["pair"]: p for r in runs for p in r.get("photometry", []) if p["source"] == "event"}


def _ratio(curve: dict[str, dict[str, Any]]) -> str:
    """Return the median ratio and its scatter."""
    found = [p["flux"] / p["aperture"] for p in curve.values() if p["flux"] is not None and abs(p["aperture"]) > 1e4]
    if not found:
        return ""
    middle = np.median(found)
    return f"{middle:.2f}, scatter {1.4826 * np.median(np.abs(found - middle)):.2f}"


def left(doc: Document) -> str:
    """The unexplained candidates of the default method, by pair: (x, y) and S_corr."""
    rows = []
    for run in doc["runs"]:
        if run["ok"] and run["method"] == "zogy" and run["left"]:
            told = "; ".join(f"({x:.0f}, {y:.0f}) {score:+.1f}" for x, y, score, _ in run["left"])
            rows.append((label_of(run["pair"]), str(run["classes"]["unexplained"]), told))
    return markdown(("pair", "unexplained", "(x, y) S_corr, strongest first, at most 20"), rows)


def failures(doc: Document) -> str:
    """Runs that gave no result, with what was said."""
    bad = [r for r in [*doc["runs"], *doc.get("injections", [])] if not r["ok"]]
    return "\n".join(f"- {r['pair']}, {r['method']}: {r['error']}" for r in bad) or "None."


TABLES: dict[str, Callable[[Document], str]] = {
    "machine": machine, "summary": summary, "pairs": pairs, "kinds": kinds, "known": known, "photometry": photometry,
    "left": left, "failures": failures, "completeness": completeness, "local": local,
    "missed": missed, "purity": purity, "fluxes": fluxes,
}  # fmt: skip


def load(path: Path) -> Document:
    """Read a file of `benchmarks.real_data`."""
    document: Document = json.loads(path.read_text(encoding="utf-8"))
    if document.get("schema") != SCHEMA:
        msg = f"{path} is not a result of benchmarks.real_data (schema {SCHEMA})"
        raise ValueError(msg)
    return document


def main(arguments: list[str] | None = None) -> int:
    """Parse, read, fill, draw, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("page", type=Path)
    given = parser.parse_args(arguments)
    document = load(given.results)
    page = name_sources(given.page.read_text(encoding="utf-8"), given.page.parent, results=given.results)
    given.page.write_text(fill(page, document, TABLES), encoding="utf-8")
    if document.get("injections"):
        curves = pooled_completeness(document) | {("local", k): rows for k, rows in pooled_local(document).items()}
        draw(curves, document["injections"], given.page.parent / FIGURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
