"""One page about a subtraction: the images, the difference, its significance, the candidates, the numbers."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from astrid_gpu._host_ops import both
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
    SkyFrame,
    add_compass,
    add_rings,
    extent,
    finite_part,
    hatch,
    host,
    invalid_pixels,
    new_figure,
    save,
    shrink,
    sky_frame,
    sky_scale,
    write_png,
)
from astrid_gpu.results import Candidates, Difference

__all__ = [
    "Blank",
    "Maps",
    "Page",
    "Panel",
    "blank_page",
    "draw_page",
    "rehearse",
    "summary_figure",
    "summary_maps",
    "summary_page",
]

SCORE_LIMIT = 10.0
_STEP = 0.25  # of the histogram
_TITLES = (
    "Science",
    "Reference, in science units",
    "Difference",
    "Significance  S$_{corr}$",
    "S$_{corr}$ against the unit Gaussian",
    "",
)
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")  # matplotlib's own powers take longer than all images


class Panel(NamedTuple):
    """An image as small as it will be drawn, and which of its pixels to hatch."""

    image: np.ndarray
    invalid: np.ndarray


class Maps(NamedTuple):
    """The part of a `Page` that does not wait for candidates; fields as there."""

    shape: tuple[int, ...]
    grey: tuple[Panel | None, Panel | None]
    signed: tuple[Panel | None, Panel | None]
    scale: Scale
    limit: float
    counts: tuple[np.ndarray, np.ndarray] | None
    width: str


@dataclass(frozen=True)
class Page:
    """All that a summary shows, in small: no WCS, no frame; another process can draw it.

    Parameters
    ----------
    shape : (int, int)
        Of the frames that were reduced.
    name, said : str
        Heading.
    grey : (Panel or None, Panel or None)
        Science and reference, less the level of `scale`.
    signed : (Panel or None, Panel or None)
        Difference and S_corr.
    scale : Scale
    limit : float
        End of the difference's colours.
    frame : SkyFrame or None
    table : structured array or None
        The candidates.
    threshold : float
        NaN without candidates.
    counts : (array, array) or None
        Histogram of S_corr, of all valid pixels and of clean ones.
    width : str
        Median and width of S_corr in words, empty without a clean pixel.
    facts : list of (str, str)
    """

    shape: tuple[int, ...]
    name: str
    said: str
    grey: tuple[Panel | None, Panel | None]
    signed: tuple[Panel | None, Panel | None]
    scale: Scale
    limit: float
    frame: SkyFrame | None
    table: np.ndarray | None
    threshold: float
    counts: tuple[np.ndarray, np.ndarray] | None
    width: str
    facts: list[tuple[str, str]]


def summary_figure(
    diff: Difference, candidates: Candidates | None, path: str | Path, *, title: str | None = None, dpi: int = 100
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
    return draw_page(summary_page(diff, candidates, title=title), path, dpi=dpi)


def summary_page(
    diff: Difference, candidates: Candidates | None, *, title: str | None = None, maps: Maps | None = None
) -> Page:
    """Gather what `summary_figure` shows; cheap beside drawing it. `maps` are those of `summary_maps`, if made already.

    Raises
    ------
    InputError
        A stack of differences.
    """
    maps = maps or summary_maps(diff)
    count = 0 if candidates is None else len(candidates)
    threshold = "" if candidates is None else f" beyond {candidates.threshold:g} σ"
    return Page(
        **maps._asdict(),
        name=title or f"{diff.meta.get('science', 'science')}  −  {diff.meta.get('reference', 'reference')}",
        said=f"{diff.method} on {diff.backend}     {count} candidate{'' if count == 1 else 's'}{threshold}",
        frame=sky_frame(diff.wcs, maps.shape),
        table=None if candidates is None else candidates.data,
        threshold=float("nan") if candidates is None else float(candidates.threshold),
        facts=_facts(diff, _host_mask(diff)),
    )


def summary_maps(diff: Difference) -> Maps:
    """Reduce the images and maps of a difference to what a page shows of them, on two threads.

    Raises
    ------
    InputError
        A stack of differences.
    """
    if len(diff.shape) != 2:
        msg = f"a summary shows one pair, this difference is a stack of shape {diff.shape}; draw them one by one"
        raise InputError(msg)
    score, mask, difference = host(diff.score_corr), _host_mask(diff), np.asarray(host(diff.difference))

    def images() -> tuple[Scale, tuple[Panel | None, Panel | None]]:
        science, reference, ratio = host(diff.science), host(diff.reference), _science_units(diff)
        scale = sky_scale(science, None if reference is None else finite_part(reference) * ratio)
        return scale, (_less(science, scale.level), _less(reference, scale.level, ratio))

    def signed() -> tuple[tuple[Panel, Panel | None], Any]:
        panel = None if score is None else Panel(shrink(score, extreme=True), invalid_pixels(score, mask))
        return (Panel(shrink(difference), invalid_pixels(difference, mask)), panel), _distribution(score, mask)

    (scale, grey), (panels, (counts, width)) = both(images, signed)
    values = finite_part(difference)
    sigma = float(np.diff(np.percentile(values, [15.865, 84.135]))[0]) / 2 if values.size else 1.0
    return Maps(difference.shape, grey, panels, scale, 6.0 * (sigma or 1.0), counts, width)


def _host_mask(diff: Difference) -> np.ndarray | None:
    mask = diff.mask
    return None if mask is None else np.asarray(mask.get() if hasattr(mask, "get") else mask)


def _less(image: np.ndarray | None, level: float, ratio: float = 1.0) -> Panel | None:
    if image is None:
        return None
    kind = image.dtype.type
    return Panel(shrink(image) * kind(ratio) - kind(level), invalid_pixels(image, None))


def _distribution(score: np.ndarray | None, mask: np.ndarray | None) -> tuple[Any, str]:
    """Return the histograms of all valid and of the clean pixels of S_corr, and what the latter's width is."""
    if score is None:
        return None, ""
    bins = round(2 * SCORE_LIMIT / _STEP)
    counts = np.zeros((2, bins), np.int64)
    step = max(1, score.size // 1_000_000)  # the width from every so manieth row
    sample = []
    for first in range(0, len(score), 64):  # some rows at a time, while they are in cache
        rows, flags = score[first : first + 64], None if mask is None else mask[first : first + 64]
        valid = np.isfinite(rows)
        clean = valid if flags is None else valid & (flags == 0)
        place = np.clip((np.where(valid, rows, 0) + SCORE_LIMIT) * (1 / _STEP), 0, bins - 1).astype(np.uint8)
        counts += [np.bincount(place[chosen], minlength=bins) for chosen in (valid, clean)]
        every = slice(-first % step, None, step)
        sample.append(rows[every][clean[every]])
    values = np.concatenate(sample)
    if not values.size:
        return (counts[0], counts[1]), ""
    low, middle, high = np.percentile(values, [15.865, 50, 84.135])
    return (counts[0], counts[1]), f"median {middle:+.3f}\nwidth {(high - low) / 2:.3f}"


class Blank(NamedTuple):
    """A page before there is anything to show: its axes, and the signed maps with their colour bars."""

    figure: Any
    axes: list[Any]
    maps: tuple[tuple[Any, Any], ...]


def draw_page(page: Page, path: str | Path, *, dpi: int = 100, blank: Blank | None = None) -> Path:
    """Draw a page, on a blank one if there is one already, and write it."""
    blank = blank or blank_page()
    figure, axes = blank.figure, blank.axes
    name = page.name
    figure.text(0.04, 0.957, name, fontsize=min(17.0, 17.0 * 95 / len(name)), fontweight="bold", color=INK)
    figure.text(0.04, 0.929, page.said, fontsize=11.5, color=SOFT)
    _images(blank, page)
    _histogram(axes[4], page)
    _numbers(axes[5], page)
    return save(figure, path, dpi)


def blank_page() -> Blank:
    """Make what is the same on every page."""
    figure = new_figure(16.0, 10.9)
    grid = figure.add_gridspec(2, 3, left=0.04, right=0.99, bottom=0.055, top=0.885, wspace=0.14, hspace=0.17)
    axes = [figure.add_subplot(grid[i // 3, i % 3]) for i in range(6)]
    _legend(figure)
    for axis, title in zip(axes, _TITLES, strict=True):
        axis.set_title(title, fontsize=12.5, color=INK, loc="left", pad=5, fontweight="bold", y=1.0)
        axis.tick_params(labelsize=8, colors=SOFT, length=3, width=0.6)
        axis.set_anchor("W")
        for spine in axis.spines.values():
            spine.set(color=SOFT, linewidth=0.7)
    for axis in axes[:4]:
        _limits(axis, (2000, 2000))
        axis.locator_params(nbins=5)
    _prepare_histogram(axes[4])
    axes[5].set_axis_off()
    axes[5].set(xlim=(0, 1), ylim=(0, 1))
    maps = tuple(_prepare_map(axis, unit) for axis, unit in zip(axes[2:4], ("", "σ"), strict=True))
    return Blank(figure, axes, maps)


def rehearse(blank: Blank) -> None:
    """Draw a blank page to nowhere: what matplotlib loads and keeps for text and ticks is there when it counts."""
    picture = blank.axes[0].imshow([[0.0, 1.0]], cmap=MAP, norm=Scale(0.0, 1.0, 10.0).norm(), interpolation="nearest")
    write_png(blank.figure, BytesIO(), 100)
    picture.remove()


def _legend(figure: Any) -> None:
    """Write what the colours mean."""
    from matplotlib.legend_handler import HandlerPatch
    from matplotlib.lines import Line2D
    from matplotlib.patches import Circle, Patch

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


def _images(blank: Blank, page: Page) -> None:
    """Draw the four maps."""
    axes = blank.axes[:4]
    for axis, panel in zip(axes[:2], page.grey, strict=True):
        _grey(axis, panel, page)
    for axis, panel, made, limit in zip(axes[2:], page.signed, blank.maps, (page.limit, SCORE_LIMIT), strict=True):
        _diverging(axis, panel, page.shape, limit, made)
    add_compass(axes[0], page.frame, page.shape)
    for axis, numbers in zip(axes, (0, 0, 12, 12), strict=True):
        add_rings(axis, page.table, page.shape, numbers=numbers)


def _science_units(diff: Difference) -> float:
    """Return F_n / F_r, by which the reference is multiplied so that one scale serves both images."""
    ratio = diff.metrics.get("flux_ratio", 1.0)
    return float(ratio) if np.ndim(ratio) == 0 else 1.0


def _limits(axis: Any, shape: tuple[int, ...]) -> None:
    """Bring the whole frame in view."""
    axis.set_xlim(-0.5, shape[1] - 0.5)
    axis.set_ylim(-0.5, shape[0] - 0.5)


def _grey(axis: Any, panel: Panel | None, page: Page) -> None:
    """Draw an image in grey, or say that it was not kept."""
    _limits(axis, page.shape)
    if panel is None:
        axis.set_aspect("equal")
        axis.text(0.5, 0.5, "not kept in this result", transform=axis.transAxes, ha="center", color=SOFT)
        return
    style: dict[str, Any] = {"cmap": MAP, "norm": page.scale.norm(), "interpolation": "nearest"}
    axis.imshow(panel.image, origin="lower", extent=extent(page.shape), **style)
    hatch(axis, panel.invalid, page.shape)


def _prepare_map(axis: Any, unit: str) -> tuple[Any, Any]:
    """Make a signed map of nothing, and its colour bar."""
    style: dict[str, Any] = {"cmap": DIVERGING, "vmin": -SCORE_LIMIT, "vmax": SCORE_LIMIT, "interpolation": "nearest"}
    picture = axis.imshow([[0.0]], origin="lower", **style)
    inset = axis.inset_axes((1.015, 0.0, 0.022, 1.0))
    bar = axis.figure.colorbar(picture, cax=inset, extend="both", extendfrac=0.02)
    bar.ax.tick_params(labelsize=8, colors=SOFT, length=2, width=0.6)
    bar.outline.set(color=SOFT, linewidth=0.6)
    bar.ax.set_title(unit, fontsize=9, color=SOFT, pad=6)
    return picture, bar


def _diverging(axis: Any, panel: Panel | None, shape: tuple[int, ...], limit: float, made: tuple[Any, Any]) -> None:
    """Draw a signed map between the ends of its colour bar, or say that there is none."""
    picture, bar = made
    if panel is None:
        bar.remove()
        picture.remove()
        axis.set_aspect("auto")
        _limits(axis, (1, 1))
        axis.text(0.5, 0.5, "not computed", transform=axis.transAxes, ha="center", color=SOFT)
        return
    _limits(axis, shape)
    picture.set_data(panel.image)
    picture.set_extent(extent(shape))
    picture.set_clim(-limit, limit)
    hatch(axis, panel.invalid, shape)


def _prepare_histogram(axis: Any) -> None:
    """Make the axes of the histogram."""
    axis.set_box_aspect(1)
    axis.set(xlim=(-SCORE_LIMIT, SCORE_LIMIT), ylim=(0.5, 1e7), yscale="log")
    axis.yaxis.set_major_formatter(lambda value, _: "10" + str(round(np.log10(value))).translate(_SUPERSCRIPTS))
    axis.minorticks_off()
    axis.set_xlabel("S$_{corr}$  [σ]", fontsize=10, color=SOFT)
    axis.set_ylabel("pixels", fontsize=10, color=SOFT)
    axis.grid(color=FAINT, lw=0.5, alpha=0.7)
    axis.set_axisbelow(True)


def _histogram(axis: Any, page: Page) -> None:
    """Draw the distribution of S_corr on valid pixels against the unit Gaussian it should be."""
    if page.counts is None:
        axis.text(0.5, 0.5, "not computed", transform=axis.transAxes, ha="center", color=SOFT)
        axis.set_axis_off()
        return
    counts, limit = page.counts, SCORE_LIMIT
    edges = np.linspace(-limit, limit, counts[0].size + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    axis.set_ylim(0.5, max(float(counts[0].max(initial=1)), 2.0) * 2.5)
    axis.stairs(counts[0], edges, fill=True, color="#dfe6ee", label="all valid pixels")
    axis.stairs(counts[1], edges, color=INK, lw=1.4, label="clean pixels")
    expected = counts[1].sum() * _STEP / np.sqrt(2 * np.pi) * np.exp(-0.5 * centres**2)
    axis.plot(centres, expected, color="#d97706", lw=1.8, ls="--", label="unit Gaussian")
    if np.isfinite(page.threshold):
        for sign in (-1, 1):
            axis.axvline(sign * page.threshold, color=SOFT, lw=0.9, ls=":")
    axis.legend(fontsize=9, frameon=False, loc="upper left", labelcolor=INK)
    if page.width:
        axis.text(0.97, 0.96, page.width, transform=axis.transAxes, ha="right", va="top", fontsize=9.5, color=INK)


def _numbers(axis: Any, page: Page) -> None:
    """Write the estimates and the strongest candidates."""
    axis.text(0, 1.025, "Numbers", fontsize=12.5, color=INK, fontweight="bold", va="center")
    y = 0.965
    for name, value in page.facts:
        axis.text(0.0, y, name, fontsize=10, color=SOFT, va="center")
        axis.text(0.40, y, value, fontsize=10, color=INK, va="center")
        y -= 0.052
    y -= 0.025
    axis.text(0, y, "Strongest candidates", fontsize=12.5, color=INK, fontweight="bold", va="center")
    y -= 0.055
    table = page.table
    if table is None or not len(table):
        axis.text(0, y, "none", fontsize=10, color=SOFT, va="center")
        return
    columns = ((0.055, "id", "right"), (0.19, "x", "right"), (0.32, "y", "right"), (0.46, "S$_{corr}$", "right"),
               (0.60, "mag" if _has_magnitudes(table) else "flux", "right"), (0.64, "flags", "left"))  # fmt: skip
    for x, name, side in columns:
        axis.text(x, y, name, fontsize=9, color=SOFT, ha=side, va="center")
    axis.plot([0, 1], [y - 0.024, y - 0.024], color=FAINT, lw=0.8)
    order = np.argsort(-np.abs(table["score"]))
    room = int((y - 0.03) / 0.047)
    for row in table[order[:room]]:
        y -= 0.047
        colour = POSITIVE if row["polarity"] >= 0 else NEGATIVE
        for (x, _, side), text in zip(columns, _cells(row, magnitudes=_has_magnitudes(table)), strict=True):
            axis.text(x, y, text, fontsize=9.2, color=colour if x < 0.06 else INK, ha=side, va="center")
    if len(order) > room:
        axis.text(0.0, y - 0.047, f"and {len(order) - room} more", fontsize=9, color=SOFT, va="center")


def _has_magnitudes(table: np.ndarray) -> bool:
    """Whether any candidate has a magnitude."""
    return "mag" in (table.dtype.names or ()) and bool(np.isfinite(table["mag"]).any())


def _cells(row: Any, *, magnitudes: bool) -> list[str]:
    """Return one candidate's line of the table."""
    strength = f"{row['mag']:.2f}" if magnitudes else _short(float(row["flux"]))
    names = [name.lower().replace("_", " ") for name in decode(row["flags"])]
    flags = ", ".join(names[:2]) + (" …" if len(names) > 2 else "")
    cells = [str(row["id"]), f"{row['x']:.1f}", f"{row['y']:.1f}", f"{row['score']:+.1f}", strength]
    return [*(cell.replace("-", "−") for cell in cells), flags]


def _facts(diff: Difference, mask: np.ndarray | None) -> list[tuple[str, str]]:
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
    if mask is not None:
        invalid = np.count_nonzero(mask.astype(np.uint8, copy=False) & np.uint8(INVALID)) / mask.size
        facts.append(("Invalid pixels", f"{100 * invalid:.2f} %"))
    return facts


def _short(flux: float) -> str:
    """Return a flux in the width of a column: whole numbers up to a million, else four digits or an exponent."""
    return f"{flux:+.0f}" if 1e3 <= abs(flux) < 1e6 else f"{flux:+.3g}" if abs(flux) >= 1e6 else f"{flux:+.4g}"
