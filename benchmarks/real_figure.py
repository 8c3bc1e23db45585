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
_TITLES = {
    "uniform": "anywhere",
    "galaxy": "on galaxies",
    "bright star": "near bright stars",
    "local": "all, by the noise there",
}


def draw(completeness: dict[tuple[str, str], list[list[float]]], injections: list[dict[str, Any]], path: Path) -> Path:
    """Draw the curves of every method.

    Parameters
    ----------
    completeness : dict
        (placement, method) -> rows of low, high, number, recovered; placement "local": by the S/N at the place.
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
    columns = min(3, len(places) + 2)
    figure, grid = plt.subplots(
        -(-(len(places) + 2) // columns), columns, figsize=(4.4 * columns, 7.6), layout="constrained", squeeze=False
    )
    axes = grid.ravel()
    for axis, place in zip(axes, places, strict=False):
        for k, (name, style) in enumerate(zip(names, _STYLES, strict=False)):
            if (place, name) in completeness:
                # Side by side, so that error bars of curves that agree can be told apart.
                _curve(axis, completeness[place, name], name, style, 1.012 ** (k - len(names) / 2))
        axis.axhline(50, color="0.7", lw=0.8, zorder=0)
        where = "S/N at the place" if place == "local" else "S/N on blank sky"
        axis.set(xscale="log", xlabel=where, ylabel="recovered at 5 sigma, %", title=_TITLES[place])
        axis.set(ylim=(-3, 103), xlim=(3.9, 52))
        axis.set_xticks([4, 6, 10, 20, 50], ["4", "6", "10", "20", "50"])
        axis.minorticks_off()
    last = axes[len(places)]
    for name, style in zip(names, _STYLES, strict=False):
        _purity(last, [row for row in injections if row["ok"] and row["method"] == name], name, style)
    last.set(xscale="log", xlabel="threshold, sigma", ylabel="candidates that were injected, %", ylim=(-3, 103))
    last.set_title("purity (thin: unflagged)")
    last.set_xticks([4, 5, 7, 10, 20], ["4", "5", "7", "10", "20"])
    last.minorticks_off()
    for axis in axes[: len(places) + 1]:
        axis.grid(alpha=0.25)
    for axis in axes[len(places) + 1 :]:
        axis.axis("off")
    handles, labels = axes[0].get_legend_handles_labels()
    axes[len(places) + 1].legend(handles, labels, loc="center", frameon=False, fontsize="large")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
    return path


def _curve(axis: Any, rows: list[list[float]], name: str, style: tuple[str, str, str], aside: float = 1.0) -> None:
    """Draw shares with binomial errors at the middle of their bins."""
    used = np.array([row for row in rows if row[2] > 0 and row[0] > 0], float)
    colour, marker, line = style
    p, n = used[:, 3] / used[:, 2], used[:, 2]
    centre = (p + 1 / (2 * n)) / (1 + 1 / n)  # Wilson's interval, which stays within 0 and 1
    half = np.sqrt(p * (1 - p) / n + 1 / (4 * n**2)) / (1 + 1 / n)
    errors = 100 * np.clip([p - centre + half, centre + half - p], 0, None)
    middle = aside * np.sqrt(used[:, 0] * used[:, 1])
    axis.errorbar(middle, 100 * p, errors, color=colour, marker=marker, ls=line, ms=5, lw=1.4,
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
