"""Tables of the sources injected into real frames: completeness, purity, fluxes."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.tables import markdown, number

__all__ = [
    "completeness",
    "fluxes",
    "label_of",
    "local",
    "missed",
    "pooled_completeness",
    "pooled_local",
    "purity",
    "share",
]

_FIELD = {"decam": "DECam", "decam6": "DECam", "eso085-030": "ESO085-030", "jwst": "JWST", "saao": "SAAO",
          "sfft": "DECam i", "ztf": "ZTF"}  # fmt: skip

Document = dict[str, Any]


def label_of(key: str) -> str:
    """Return what a reader calls a pair; the stars of one ZTF field share a label."""
    series, _, name = key.partition("/")
    name = name.rpartition("_star")[0] if series == "ztf" else name.replace("_", " ")
    return f"{_FIELD[series]} {name}"


def completeness(doc: Document) -> str:
    """Recovered shares of injected sources by S/N, method and placement, all fields together."""
    cells = pooled_completeness(doc)
    bins = next(iter(cells.values()), [])
    head = ("placed", "method", *(f"S/N {low:g} to {high:g}" for low, high, _, _ in bins))
    return markdown(head, [(*key, *(share(n, k) for _, _, n, k in row)) for key, row in cells.items()])


def pooled_completeness(doc: Document) -> dict[tuple[str, str], list[list[float]]]:
    """Return (placement, method) -> rows of low, high, number, recovered, all fields added."""
    out: dict[tuple[str, str], list[list[float]]] = {}
    for place in ("uniform", "galaxy", "bright star"):
        for row in doc.get("injections", []):
            if row["ok"] and place in row["completeness"]:
                here = out.setdefault((place, row["method"]), [[*b[:2], 0, 0] for b in row["completeness"][place]])
                for total, (_, _, n, k) in zip(here, row["completeness"][place], strict=True):
                    total[2] += n
                    total[3] += k
    return out


def pooled_local(doc: Document) -> dict[str, list[list[float]]]:
    """Return method -> rows of low, high, number, recovered by the S/N at the place, all fields added."""
    out: dict[str, list[list[float]]] = {}
    for row in doc.get("injections", []):
        if row["ok"] and row.get("local"):
            here = out.setdefault(row["method"], [[*b[:2], 0, 0] for b in row["local"]])
            for total, (_, _, n, k) in zip(here, row["local"], strict=True):
                total[2] += n
                total[3] += k
    return out


def local(doc: Document) -> str:
    """Recovered shares by the S/N that the bare frame leaves a source at its place."""
    cells = pooled_local(doc)
    if not cells:
        return "Not measured."
    bins = next(iter(cells.values()))
    head = ("method", *(f"S/N {low:g} to {high:g}" for low, high, _, _ in bins))
    return markdown(head, [(name, *(share(n, k) for _, _, n, k in row)) for name, row in cells.items()])


def missed(doc: Document) -> str:
    """Why sources of S/N 8 and more were missed, by method and field, with all fields of a method first."""
    rows = [r for r in doc.get("injections", []) if r["ok"] and r.get("missed")]
    if not rows:
        return "Not measured."
    names = list(rows[0]["missed"]["causes"])
    lines = []
    for method in dict.fromkeys(r["method"] for r in rows):
        here = [r for r in rows if r["method"] == method]
        lines.append((method, "all", *_lost(here, names)))
        lines += [("", label_of(r["pair"]), *_lost([r], names)) for r in here if method == "zogy"]
    return markdown(("method", "field", "S/N 8 up", "missed", *names), lines)


def _lost(rows: list[dict[str, Any]], names: list[str]) -> tuple[str, ...]:
    counts = [sum(r["missed"]["causes"][name] for r in rows) for name in names]
    return (str(sum(r["missed"]["of"] for r in rows)), str(sum(counts)), *map(str, counts))


def share(n: float, k: float) -> str:
    """Return a recovered share with its binomial error (Wilson), in per cent."""
    if not n:
        return ""
    p, z = k / n, 1.0
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return f"{100 * p:.0f} ± {100 * half:.0f} %"


def purity(doc: Document) -> str:
    """Share of candidates that are injected sources, by threshold: all, and unflagged ones."""
    rows = []
    for row in doc.get("injections", []):
        if row["ok"]:
            cells = (f"{_pure(t, f)} ({f / row['mpix']:.0f})" for _, t, _, f, _ in row["purity"])
            rows.append((label_of(row["pair"]), row["method"], f"{row['injected'] / row['mpix']:.0f}", *cells))
    thresholds = next((r["purity"] for r in doc.get("injections", []) if r["ok"]), [])
    return markdown(("field", "method", "injected a Mpix", *(f"{t[0]:g} sigma" for t in thresholds)), rows)


def _pure(true: int, false: int) -> str:
    return f"{100 * true / (true + false):.0f} %" if true + false else ""


def fluxes(doc: Document) -> str:
    """Fluxes of injected sources: found and forced at the true place."""
    head = ("field", "placed", "method", "found, S/N 20 up: number", "flux over truth", "found, S/N 10 up: number",
            "pull", "its width", "forced: flux over truth", "pull", "its width")  # fmt: skip
    rows = []
    for row in doc.get("injections", []):
        for place, both in row.get("photometry", {}).items():
            if both is None:
                continue
            a, b = both["found"], both["forced"]
            rows.append((label_of(row["pair"]), place, row["method"], str(a["n_bright"]), _with_error(a),
                         str(a["n_pull"]), number(a["pull_median"], "+.2f"), number(a["pull_width"], ".2f"),
                         _with_error(b), number(b["pull_median"], "+.2f"), number(b["pull_width"], ".2f")))  # fmt: skip
    return markdown(head, rows)


def _with_error(part: dict[str, Any]) -> str:
    if part["median_ratio"] is None or part["ratio_error"] is None:
        return ""
    return f"{part['median_ratio']:.3f} ± {part['ratio_error']:.3f}"
