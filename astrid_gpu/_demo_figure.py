"""The overview picture of the demonstration: completeness, fluxes and light curves against the truth."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from astrid_gpu.io import atomic_path
from astrid_gpu.simulate.compare import FLAWED, Comparison

__all__ = ["overview_figure"]

_BLUE, _RED, _GREY = "#2b6cb0", "#c53030", "#718096"


def overview_figure(comparisons: Sequence[Comparison], curves: np.ndarray, path: Path) -> Path:
    """Draw completeness and flux pulls against expected S/N, and four light curves; write a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 4, height_ratios=(1.15, 1))
    _completeness(figure.add_subplot(grid[0, :2]), comparisons)
    _pulls(figure.add_subplot(grid[0, 2:]), comparisons)
    for axes, number in zip([figure.add_subplot(grid[1, i]) for i in range(4)], _telling(curves), strict=False):
        _light_curve(axes, curves[curves["id"] == number])
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    return path


def _completeness(axes: Any, comparisons: Sequence[Comparison]) -> None:
    """Recovered fraction by expected S/N, with the curve that Gaussian noise gives."""
    from scipy.special import ndtr

    snr = np.concatenate([np.abs(c.truth["snr"]) for c in comparisons])
    found = np.concatenate([c.found for c in comparisons])
    grid = np.geomspace(2, 100, 200)
    axes.plot(grid, ndtr(grid - comparisons[0].threshold), color=_GREY, label="Gaussian noise")
    edges = np.array([2, 3, 4, 5, 6, 8, 12, 20, 100])
    for low, high in pairwise(edges):
        chosen = (snr >= low) & (snr < high)
        if n := int(chosen.sum()):
            part = found[chosen].mean()
            error = np.sqrt(max(part * (1 - part), 1 / (n + 2)) / n)  # binomial, with a floor at 0 and 1
            bar = [[min(error, part)], [min(error, 1 - part)]]
            axes.errorbar(np.median(snr[chosen]), part, bar, fmt="o", color=_BLUE, capsize=2)
            axes.annotate(str(n), (np.median(snr[chosen]), part), (4, -11), textcoords="offset points", fontsize=7)
    axes.set(xscale="log", xlim=(2, 100), ylim=(-0.04, 1.09), xlabel="expected S/N", ylabel="recovered fraction")
    axes.set_xticks([2, 5, 10, 20, 50, 100], ["2", "5", "10", "20", "50", "100"])
    axes.minorticks_off()
    axes.set_title("changed sources recovered", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="center right")


def _pulls(axes: Any, comparisons: Sequence[Comparison]) -> None:
    """(measured - true flux) / error of the recovered sources."""
    truth = np.concatenate([c.truth[c.found] for c in comparisons])
    found = np.concatenate([c.candidates[c.match[c.found]] for c in comparisons])
    pull = (found["flux"] - truth["flux"]) / found["flux_error"]
    axes.axhspan(-1, 1, color=_GREY, alpha=0.15, lw=0)
    axes.axhline(0, color=_GREY, lw=0.8)
    snr, flawed = np.abs(truth["snr"]), (found["flags"] & FLAWED) != 0
    for sign, colour, label in ((1, _BLUE, "brighter"), (-1, _RED, "fainter")):
        chosen = (truth["polarity"] == sign) & ~flawed
        axes.plot(snr[chosen], pull[chosen], ".", color=colour, label=label)
    if flawed.any():
        axes.plot(snr[flawed], pull[flawed], "o", mfc="none", mec=_GREY, ms=4, label="beside bad pixels or the edge")
    reach = max(4.0, float(np.abs(pull).max()) * 1.1) if len(pull) else 4.0
    axes.set(xscale="log", xlabel="expected S/N", ylabel="(flux - true flux) / error", ylim=(-reach, reach))
    axes.set_xticks([2, 5, 10, 20, 50, 100], ["2", "5", "10", "20", "50", "100"])
    axes.minorticks_off()
    axes.set_title("fluxes of the recovered sources", fontsize=10)
    axes.legend(frameon=False, fontsize=8)


def _telling(curves: np.ndarray) -> list[int]:
    """Return the brightest object of each kind, by id."""
    best: dict[str, tuple[float, int]] = {}
    for row in curves:
        peak = abs(float(row["flux_true"]))
        if peak > best.get(str(row["kind"]), (-1.0, 0))[0] and np.isfinite(row["flux"]):
            best[str(row["kind"])] = (peak, int(row["id"]))
    return [number for _, number in best.values()]


def _light_curve(axes: Any, points: np.ndarray) -> None:
    """One object: forced flux with errors, and the truth at the same epochs."""
    day = points["mjd"] - 60000
    axes.plot(day, points["flux_true"], "_", color=_GREY, ms=14, mew=2, label="truth")
    axes.errorbar(day, points["flux"], points["flux_error"], fmt=".", color=_BLUE, label="measured")
    axes.axhline(0, color=_GREY, lw=0.6)
    axes.set_title(f"{points['kind'][0]}, object {points['id'][0]}", fontsize=9)
    axes.set_xlabel("day", fontsize=8)
    axes.set_ylabel("difference flux, counts", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.legend(frameon=False, fontsize=7)
