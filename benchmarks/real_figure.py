"""The figure of docs/real-data.md: completeness by placement and method, and purity by threshold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["FIGURE", "draw"]

FIGURE = "figures/real-completeness.png"
# Okabe and Ito's colours, which the colour-blind tell apart; markers and dashes say the same again.
_STYLES = (
    ("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "^", "-."), ("#CC79A7", "D", ":"),
    ("#E69F00", "v", "-"), ("#56B4E9", "P", "--"), ("#000000", "X", "-."),
)  # fmt: skip
_TITLES = {"uniform": "anywhere", "galaxy": "on galaxies", "bright star": "near bright stars"}


def draw(completeness: dict[tuple[str, str], list[list[float]]], injections: list[dict[str, Any]], path: Path) -> Path:
    """Draw the curves of every method.

    Parameters
    ----------
    completeness : dict
        (placement, method) -> rows of low, high, number, recovered.
    injections : list of dict
        Rows of `benchmarks.real_inject`, for the purity.
    path : Path

    Returns
    -------
    Path
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(method for _, method in completeness))
    places = [p for p in _TITLES if any(place == p for place, _ in completeness)]
    figure, axes = plt.subplots(1, len(places) + 1, figsize=(3.6 * (len(places) + 1), 3.9), layout="constrained")
    for axis, place in zip(axes, places, strict=False):
        for name, style in zip(names, _STYLES, strict=False):
            if (place, name) in completeness:
                _curve(axis, completeness[place, name], name, style)
        axis.axhline(50, color="0.7", lw=0.8, zorder=0)
        axis.set(xscale="log", xlabel="S/N on blank sky", title=_TITLES[place], ylim=(-3, 103), xlim=(3.9, 52))
        axis.set_xticks([4, 6, 10, 20, 50], ["4", "6", "10", "20", "50"])
        axis.minorticks_off()
    axes[0].set_ylabel("recovered at 5 sigma, %")
    for name, style in zip(names, _STYLES, strict=False):
        _purity(axes[-1], [row for row in injections if row["ok"] and row["method"] == name], name, style)
    axes[-1].set(xscale="log", xlabel="threshold, sigma", ylabel="candidates that were injected, %", ylim=(-3, 103))
    axes[-1].set_title("purity (thin: unflagged)")
    axes[-1].set_xticks([4, 5, 7, 10, 20], ["4", "5", "7", "10", "20"])
    axes[-1].minorticks_off()
    for axis in axes:
        axis.grid(alpha=0.25)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=max(1, len(names)), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
    return path


def _curve(axis: Any, rows: list[list[float]], name: str, style: tuple[str, str, str]) -> None:
    """Draw shares with binomial errors at the middle of their bins."""
    used = np.array([row for row in rows if row[2] > 0], float)
    colour, marker, line = style
    p, n = used[:, 3] / used[:, 2], used[:, 2]
    centre = (p + 1 / (2 * n)) / (1 + 1 / n)  # Wilson's interval, which stays within 0 and 1
    half = np.sqrt(p * (1 - p) / n + 1 / (4 * n**2)) / (1 + 1 / n)
    errors = 100 * np.clip([p - centre + half, centre + half - p], 0, None)
    axis.errorbar(np.sqrt(used[:, 0] * used[:, 1]), 100 * p, errors, color=colour, marker=marker, ls=line, ms=5, lw=1.4,
                  capsize=2, label=name)  # fmt: skip


def _purity(axis: Any, rows: list[dict[str, Any]], name: str, style: tuple[str, str, str]) -> None:
    """Draw the share of true candidates at each threshold, all fields together: all, and unflagged ones."""
    if not rows:
        return
    table = np.sum([[line[1:] for line in row["purity"]] for row in rows], axis=0).astype(float)
    thresholds = [line[0] for line in rows[0]["purity"]]
    colour, marker, line = style
    for column, width in ((0, 1.4), (1, 0.7)):
        true, false = table[:, column], table[:, column + 2]
        total = np.where(true + false > 0, true + false, np.nan)
        axis.plot(
            thresholds, 100 * true / total, color=colour, marker=marker, ls=line, ms=5 if column == 0 else 3, lw=width
        )
