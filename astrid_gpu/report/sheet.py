"""A contact sheet: the strongest candidates as triplets with their significance beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from astrid_gpu.errors import InputError
from astrid_gpu.flags import decode
from astrid_gpu.report.drawing import (
    DIVERGING,
    FAINT,
    INK,
    MAP,
    NEGATIVE,
    POSITIVE,
    SOFT,
    new_figure,
    save,
    shade_invalid,
    sky_scale,
)
from astrid_gpu.results import Candidates, Cutouts

__all__ = ["candidate_sheet"]

_COLUMNS = 3
_NAMES = ("science", "reference", "difference", "S$_{corr}$")


def candidate_sheet(
    cutouts: Cutouts,
    candidates: Candidates,
    path: str | Path,
    *,
    top: int = 30,
    title: str | None = None,
    dpi: int = 110,
) -> Path:
    """Draw the `top` strongest candidates, three to a line: science, reference, difference, S_corr.

    Science and reference of a candidate share one scale; the difference goes to 6 of its own sigma, S_corr to 10.

    Parameters
    ----------
    cutouts : Cutouts
    candidates : Candidates
        With the ids of the cutouts.
    path : str or Path
        ``.png``, ``.pdf`` or ``.svg``.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        A cutout whose candidate is missing, or another ending.
    """
    rows = _strongest(cutouts, candidates, top)
    lines = max(1, -(-len(rows) // _COLUMNS))
    height = 1.0 + 1.62 * lines
    figure = new_figure(16.0, height)
    count = f"{len(rows)} of {len(cutouts)} candidates, strongest first"
    figure.text(0.012, 1 - 0.36 / height, title or "Candidates", fontsize=16, fontweight="bold", color=INK)
    figure.text(0.012, 1 - 0.66 / height, count, fontsize=10.5, color=SOFT)
    if not rows:
        figure.text(0.5, 0.35, "no candidates", fontsize=13, color=SOFT, ha="center")
    width = 1.0 / _COLUMNS
    for place, (index, row) in enumerate(rows):
        line, column = divmod(place, _COLUMNS)
        bottom = height - 0.95 - 1.62 * (line + 1) + 0.1
        _triplet(figure, cutouts, index, row, (column * width + 0.012, bottom / height, 1.22 / 16.0, 1.22 / height))
    return save(figure, path, dpi)


def _strongest(cutouts: Cutouts, candidates: Candidates, top: int) -> list[tuple[int, Any]]:
    """Return (index of the cutout, row of the candidate), strongest first."""
    place = {int(number): i for i, number in enumerate(candidates["id"])}
    absent = [int(number) for number in cutouts.ids if int(number) not in place]
    if absent:
        msg = f"cutout {absent[0]} has no candidate; pass the candidates that the cutouts were made of"
        raise InputError(msg)
    pairs = [(i, candidates.data[place[int(number)]]) for i, number in enumerate(cutouts.ids)]
    return sorted(pairs, key=lambda pair: -abs(float(pair[1]["score"])))[:top]


def _triplet(figure: Any, cutouts: Cutouts, index: int, row: Any, box: tuple[float, float, float, float]) -> None:
    """Draw one candidate: four stamps and a line of words."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2.5, foreground="white")]
    left, bottom, width, height = box
    colour = POSITIVE if row["polarity"] >= 0 else NEGATIVE
    figure.text(left, bottom + height * 1.07, f"{row['id']}", fontsize=10.5, fontweight="bold", color=colour)
    words = f"S/N {row['score']:+.1f}   x {row['x']:.1f}  y {row['y']:.1f}"
    if "mag" in row.dtype.names and np.isfinite(row["mag"]):
        words += f"   {row['mag']:.2f} mag"
    figure.text(left + 0.026, bottom + height * 1.07, words, fontsize=9.2, color=INK)
    flags = ", ".join(name.lower().replace("_", " ") for name in decode(row["flags"])[:2])
    figure.text(left + 4.16 * width, bottom + height * 1.07, flags, fontsize=8.5, color=SOFT, ha="right")
    science, reference, difference = cutouts.images[index].astype(float)
    scale = sky_scale(science, reference)
    values = difference[np.isfinite(difference)]
    sigma = float(np.diff(np.percentile(values, [15.865, 84.135]))[0]) / 2 if values.size else 1.0
    panels: tuple[tuple[np.ndarray, dict[str, Any]], ...] = (
        (science - scale.level, {"cmap": MAP, "norm": scale.norm()}),
        (reference - scale.level, {"cmap": MAP, "norm": scale.norm()}),
        (difference, {"cmap": DIVERGING, "vmin": -6 * (sigma or 1), "vmax": 6 * (sigma or 1)}),
        (cutouts.score_corr[index].astype(float), {"cmap": DIVERGING, "vmin": -10, "vmax": 10}),
    )
    for k, ((image, style), name) in enumerate(zip(panels, _NAMES, strict=True)):
        axis = figure.add_axes((left + 1.04 * k * width, bottom, width, height))
        axis.imshow(image, origin="lower", interpolation="nearest", **style)
        shade_invalid(axis, image, None if k < 2 else cutouts.mask[index])
        _cross(axis, image.shape[0], colour)
        axis.set(xticks=[], yticks=[], xlim=(-0.5, image.shape[1] - 0.5), ylim=(-0.5, image.shape[0] - 0.5))
        for spine in axis.spines.values():
            spine.set(color=FAINT, linewidth=0.8)
        axis.text(0.035, 0.035, name, transform=axis.transAxes, fontsize=7, color=INK, zorder=5, path_effects=halo)


def _cross(axis: Any, size: int, colour: str) -> None:
    """Mark the middle with four ticks that leave the source free."""
    middle, inner, outer = (size - 1) / 2, 0.11 * size, 0.2 * size
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        axis.plot(
            [middle + dx * inner, middle + dx * outer], [middle + dy * inner, middle + dy * outer],
            color=colour, lw=1.1, solid_capstyle="butt", zorder=4,
        )  # fmt: skip
