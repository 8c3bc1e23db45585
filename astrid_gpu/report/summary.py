"""One page about a subtraction: the images, the difference, its significance, the candidates, the numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from astrid_gpu.errors import InputError
from astrid_gpu.flags import INVALID, decode
from astrid_gpu.report.drawing import (
    DIVERGING,
    FAINT,
    INK,
    MAP,
    NEGATIVE,
    POSITIVE,
    SOFT,
    Scale,
    add_compass,
    add_rings,
    extent,
    host,
    new_figure,
    save,
    shade_invalid,
    shrink,
    sky_scale,
)
from astrid_gpu.results import Candidates, Difference

__all__ = ["summary_figure"]

SCORE_LIMIT = 10.0


def summary_figure(
    diff: Difference, candidates: Candidates | None, path: str | Path, *, title: str | None = None, dpi: int = 120
) -> Path:
    """Draw science, reference, difference and S_corr with the candidates ringed, the histogram of S_corr, the numbers.

    Science and reference share one asinh scale; difference and S_corr are red where the science image is brighter,
    blue where fainter. Invalid pixels are hatched; rings of flagged candidates are dashed.

    Parameters
    ----------
    diff : Difference
        Of one pair.
    candidates : Candidates or None
    path : str or Path
        ``.png``, ``.pdf`` or ``.svg``.
    title : str, optional
        By default the names of the images.
    dpi : int
        The page is 16 by 10.9 inches.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        A stack of differences, or another ending.
    """
    if len(diff.shape) != 2:
        msg = f"a summary shows one pair, this difference is a stack of shape {diff.shape}; draw them one by one"
        raise InputError(msg)
    figure = new_figure(16.0, 10.9)
    grid = figure.add_gridspec(2, 3, left=0.04, right=0.99, bottom=0.055, top=0.885, wspace=0.14, hspace=0.17)
    axes = [figure.add_subplot(grid[i // 3, i % 3]) for i in range(6)]
    _heading(figure, diff, candidates, title)
    _images(axes[:4], diff, candidates)
    _histogram(axes[4], diff, candidates)
    _numbers(axes[5], diff, candidates)
    return save(figure, path, dpi)


def _heading(figure: Any, diff: Difference, candidates: Candidates | None, title: str | None) -> None:
    """Write the title and what the colours mean."""
    from matplotlib.legend_handler import HandlerPatch
    from matplotlib.lines import Line2D
    from matplotlib.patches import Circle, Patch

    science, reference = diff.meta.get("science", "science"), diff.meta.get("reference", "reference")
    name = title or f"{science}  −  {reference}"
    figure.text(0.04, 0.957, name, fontsize=min(17.0, 17.0 * 95 / len(name)), fontweight="bold", color=INK)
    count = 0 if candidates is None else len(candidates)
    threshold = "" if candidates is None else f" beyond {candidates.threshold:g} σ"
    said = f"{diff.method} on {diff.backend}     {count} candidate{'' if count == 1 else 's'}{threshold}"
    figure.text(0.04, 0.929, said, fontsize=11.5, color=SOFT)
    ring: dict[str, Any] = {"marker": "o", "ls": "none", "mfc": "none", "markersize": 9, "markeredgewidth": 1.6}
    handles = [
        Line2D([], [], markeredgecolor=POSITIVE, label="brighter in science", **ring),
        Line2D([], [], markeredgecolor=NEGATIVE, label="fainter", **ring),
        Circle((0, 0), 1, fill=False, edgecolor=SOFT, ls=(0, (3, 2)), lw=1.3, label="flagged"),
        Patch(facecolor="#dee1e6", edgecolor="#9ea5b0", hatch="////", lw=0, label="invalid pixels"),
    ]
    figure.legend(
        handles=handles, loc="lower right", bbox_to_anchor=(0.99, 0.917), ncols=4, frameon=False, fontsize=10.5,
        labelcolor=SOFT, handletextpad=0.5, columnspacing=1.6, handler_map={Circle: HandlerPatch(_round)},
    )  # fmt: skip


def _round(width: float, height: float, xdescent: float, ydescent: float, **_: Any) -> Any:
    """Return a circle for the legend, where matplotlib would draw a rectangle."""
    from matplotlib.patches import Circle

    return Circle((width / 2 - xdescent, height / 2 - ydescent), 0.55 * height)


def _images(axes: list[Any], diff: Difference, candidates: Candidates | None) -> None:
    """Draw the four maps."""
    science, reference = host(diff.science), _in_science_units(diff)
    difference, score = np.asarray(host(diff.difference)), host(diff.score_corr)
    mask, shape = host(diff.mask), difference.shape
    scale = sky_scale(science, reference)
    _grey(axes[0], science, scale, "Science", diff)
    _grey(axes[1], reference, scale, "Reference, in science units", diff)
    values = difference[np.isfinite(difference)]
    sigma = float(np.diff(np.percentile(values, [15.865, 84.135]))[0]) / 2 if values.size else 1.0
    _diverging(axes[2], difference, mask, 6.0 * (sigma or 1.0), "Difference", "science units")
    _diverging(axes[3], score, mask, SCORE_LIMIT, "Significance  S$_{corr}$", "σ")
    add_compass(axes[0], diff.wcs, shape)
    for axis, numbers in zip(axes, (0, 0, 12, 12), strict=True):
        add_rings(axis, candidates, shape, numbers=numbers)


def _in_science_units(diff: Difference) -> np.ndarray | None:
    """Return the reference times F_n / F_r, so that one scale serves both images."""
    reference = host(diff.reference)
    ratio = diff.metrics.get("flux_ratio", 1.0)
    return None if reference is None else reference * float(ratio if np.ndim(ratio) == 0 else 1.0)


def _frame(axis: Any, shape: tuple[int, ...], name: str) -> None:
    """Title, quiet ticks, and the whole frame in view."""
    axis.set_title(name, fontsize=12.5, color=INK, loc="left", pad=5, fontweight="bold")
    axis.set_xlim(-0.5, shape[1] - 0.5)
    axis.set_ylim(-0.5, shape[0] - 0.5)
    axis.set_anchor("W")
    axis.tick_params(labelsize=8, colors=SOFT, length=3, width=0.6)
    for spine in axis.spines.values():
        spine.set(color=SOFT, linewidth=0.7)


def _grey(axis: Any, image: np.ndarray | None, scale: Scale, name: str, diff: Difference) -> None:
    """Draw an image in grey, or say that it was not kept."""
    _frame(axis, diff.shape, name)
    if image is None:
        axis.set_aspect("equal")
        axis.text(0.5, 0.5, "not kept in this result", transform=axis.transAxes, ha="center", color=SOFT)
        return
    shown = shrink(image) - scale.level
    axis.imshow(shown, origin="lower", extent=extent(image.shape), cmap=MAP, norm=scale.norm(), interpolation="nearest")
    shade_invalid(axis, image, None)


def _diverging(axis: Any, image: np.ndarray | None, mask: Any, limit: float, name: str, unit: str) -> None:
    """Draw a signed map with its colour bar."""
    if image is None:
        _frame(axis, (1, 1), name)
        axis.text(0.5, 0.5, "not computed", transform=axis.transAxes, ha="center", color=SOFT)
        return
    _frame(axis, image.shape, name)
    picture = axis.imshow(
        shrink(image, extreme=unit == "σ"), origin="lower", extent=extent(image.shape), cmap=DIVERGING,
        vmin=-limit, vmax=limit, interpolation="nearest",
    )  # fmt: skip
    shade_invalid(axis, image, mask)
    inset = axis.inset_axes((1.015, 0.0, 0.022, 1.0))
    bar = axis.figure.colorbar(picture, cax=inset, extend="both", extendfrac=0.02)
    bar.ax.tick_params(labelsize=8, colors=SOFT, length=2, width=0.6)
    bar.outline.set(color=SOFT, linewidth=0.6)
    bar.ax.set_title(unit if unit == "σ" else "", fontsize=9, color=SOFT, pad=6)


def _histogram(axis: Any, diff: Difference, candidates: Candidates | None) -> None:
    """Draw the distribution of S_corr on valid pixels against the unit Gaussian it should be."""
    score = host(diff.score_corr)
    name = "S$_{corr}$ against the unit Gaussian"
    axis.set_title(name, fontsize=12.5, color=INK, loc="left", pad=5, fontweight="bold")
    if score is None:
        axis.text(0.5, 0.5, "not computed", transform=axis.transAxes, ha="center", color=SOFT)
        axis.set_axis_off()
        return
    values = score[np.isfinite(score)]
    clean = np.isfinite(score)
    if diff.mask is not None:
        clean &= host(diff.mask) == 0
    step, limit = 0.25, SCORE_LIMIT
    edges = np.arange(-limit, limit + step / 2, step)
    centres = (edges[:-1] + edges[1:]) / 2
    counts = [np.histogram(np.clip(v, -limit, limit), edges)[0] for v in (values, score[clean])]
    axis.stairs(counts[0], edges, fill=True, color="#dfe6ee", label="all valid pixels")
    axis.stairs(counts[1], edges, color=INK, lw=1.4, label="clean pixels")
    expected = counts[1].sum() * step / np.sqrt(2 * np.pi) * np.exp(-0.5 * centres**2)
    axis.plot(centres, expected, color="#d97706", lw=1.8, ls="--", label="unit Gaussian")
    if candidates is not None and np.isfinite(candidates.threshold):
        for sign in (-1, 1):
            axis.axvline(sign * candidates.threshold, color=SOFT, lw=0.9, ls=":")
    axis.set_box_aspect(1)
    axis.set_anchor("W")
    axis.set_ylim(0.5, max(float(counts[0].max(initial=1)), 2.0) * 2.5)  # before the scale, which refuses no counts
    axis.set_yscale("log")
    axis.set_xlim(-limit, limit)
    axis.set_xlabel("S$_{corr}$  [σ]", fontsize=10, color=SOFT)
    axis.set_ylabel("pixels", fontsize=10, color=SOFT)
    axis.legend(fontsize=9, frameon=False, loc="upper left", labelcolor=INK)
    axis.tick_params(labelsize=8, colors=SOFT, which="both", width=0.6)
    axis.grid(color=FAINT, lw=0.5, alpha=0.7)
    axis.set_axisbelow(True)
    for spine in axis.spines.values():
        spine.set(color=SOFT, linewidth=0.7)
    if clean.any():
        low, middle, high = np.percentile(score[clean], [15.865, 50, 84.135])
        text = f"median {middle:+.3f}\nwidth {(high - low) / 2:.3f}"
        axis.text(0.97, 0.96, text, transform=axis.transAxes, ha="right", va="top", fontsize=9.5, color=INK)


def _numbers(axis: Any, diff: Difference, candidates: Candidates | None) -> None:
    """Write the estimates and the strongest candidates."""
    axis.set_axis_off()
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    axis.text(0, 1.025, "Numbers", fontsize=12.5, color=INK, fontweight="bold", va="center")
    y = 0.965
    for name, value in _facts(diff):
        axis.text(0.0, y, name, fontsize=10, color=SOFT, va="center")
        axis.text(0.40, y, value, fontsize=10, color=INK, va="center")
        y -= 0.052
    y -= 0.025
    axis.text(0, y, "Strongest candidates", fontsize=12.5, color=INK, fontweight="bold", va="center")
    y -= 0.055
    if candidates is None or not len(candidates):
        axis.text(0, y, "none", fontsize=10, color=SOFT, va="center")
        return
    columns = ((0.055, "id", "right"), (0.19, "x", "right"), (0.32, "y", "right"), (0.46, "S$_{corr}$", "right"),
               (0.60, "mag" if _has_magnitudes(candidates) else "flux", "right"), (0.64, "flags", "left"))  # fmt: skip
    for x, name, side in columns:
        axis.text(x, y, name, fontsize=9, color=SOFT, ha=side, va="center")
    axis.plot([0, 1], [y - 0.024, y - 0.024], color=FAINT, lw=0.8)
    order = np.argsort(-np.abs(candidates["score"]))
    room = int((y - 0.03) / 0.047)
    for row in candidates.data[order[:room]]:
        y -= 0.047
        colour = POSITIVE if row["polarity"] >= 0 else NEGATIVE
        for (x, _, side), text in zip(columns, _cells(row, candidates), strict=True):
            axis.text(x, y, text, fontsize=9.2, color=colour if x < 0.06 else INK, ha=side, va="center")
    if len(order) > room:
        axis.text(0.0, y - 0.047, f"and {len(order) - room} more", fontsize=9, color=SOFT, va="center")


def _has_magnitudes(candidates: Candidates) -> bool:
    """Whether any candidate has a magnitude."""
    return "mag" in (candidates.data.dtype.names or ()) and bool(np.isfinite(candidates["mag"]).any())


def _cells(row: Any, candidates: Candidates) -> list[str]:
    """Return one candidate's line of the table."""
    strength = f"{row['mag']:.2f}" if _has_magnitudes(candidates) else _short(float(row["flux"]))
    names = [name.lower().replace("_", " ") for name in decode(row["flags"])]
    flags = ", ".join(names[:2]) + (" …" if len(names) > 2 else "")
    cells = [str(row["id"]), f"{row['x']:.1f}", f"{row['y']:.1f}", f"{row['score']:+.1f}", strength]
    return [*(cell.replace("-", "−") for cell in cells), flags]


def _facts(diff: Difference) -> list[tuple[str, str]]:
    """Return the lines of numbers that this result has."""
    m = diff.metrics

    def has(*keys: str) -> bool:
        return all(isinstance(m.get(key), (int, float, np.number)) and np.isfinite(m[key]) for key in keys)

    facts: list[tuple[str, str]] = []
    if has("fwhm_science", "fwhm_reference"):
        facts.append(("PSF FWHM", f"{m['fwhm_science']:.2f} and {m['fwhm_reference']:.2f} px"))
    if has("flux_ratio"):
        error = f" ± {m['flux_ratio_error']:.2g}" if has("flux_ratio_error") and m["flux_ratio_error"] > 0 else ""
        facts.append(("Flux ratio F$_n$ / F$_r$", f"{m['flux_ratio']:.4g}{error}"))
    if has("sigma_science", "sigma_reference"):
        facts.append(("Background noise", f"{m['sigma_science']:.4g} and {m['sigma_reference']:.4g}"))
    if has("shift_x", "shift_y"):
        facts.append(("Offset x, y", f"{m['shift_x']:+.3f}, {m['shift_y']:+.3f} px"))
    if has("score_corr_std_raw"):
        facts.append(("Width of S$_{corr}$", f"{m['score_corr_std_raw']:.3f} before calibration"))
    if has("limiting_magnitude"):
        facts.append(("Limit at 5 σ", f"{m['limiting_magnitude']:.2f} mag (AB)"))
    elif has("limiting_flux"):
        facts.append(("Limit at 5 σ", f"{m['limiting_flux']:.4g} in science units"))
    if diff.mask is not None:
        invalid = float(np.mean((np.asarray(host(diff.mask)).astype(int) & INVALID) != 0))
        facts.append(("Invalid pixels", f"{100 * invalid:.2f} %"))
    return facts


def _short(flux: float) -> str:
    """Return a flux in the width of a column: whole numbers up to a million, else four digits or an exponent."""
    return f"{flux:+.0f}" if 1e3 <= abs(flux) < 1e6 else f"{flux:+.3g}" if abs(flux) >= 1e6 else f"{flux:+.4g}"
