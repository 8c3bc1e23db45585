"""What the figures share: scales, hatched masks, rings, a compass; the palette."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from astrid_gpu.errors import InputError
from astrid_gpu.flags import INVALID
from astrid_gpu.io.extras import need
from astrid_gpu.io.paths import atomic_path

__all__ = [
    "Scale",
    "SkyFrame",
    "add_compass",
    "add_rings",
    "extent",
    "finite_part",
    "hatch",
    "host",
    "invalid_pixels",
    "new_figure",
    "save",
    "shade_invalid",
    "shrink",
    "sky_frame",
    "sky_scale",
    "write_png",
]

INK, SOFT, FAINT = "#1c2128", "#59636e", "#d0d7de"
POSITIVE, NEGATIVE = "#c8102e", "#0b5fb0"
"""Brighter in the science image, and fainter: the ends of the diverging map."""
MAP, DIVERGING = "gray_r", "RdBu_r"
MAX_PIXELS = 900
"""Images are reduced to about this side before they are drawn: no more fits into a panel."""


SkyFrame = tuple[np.ndarray, np.ndarray, float]
"""Unit vectors (x, y) to north and east, and the pixel scale in arcseconds."""


class Scale:
    """How pixel values become grey: asinh about the sky, linear within about 3 sigma of it.

    Parameters
    ----------
    level, sigma : float
        Sky and its noise.
    top : float
        Drawn black, above the sky.
    """

    def __init__(self, level: float, sigma: float, top: float) -> None:
        self.level, self.sigma, self.top = level, sigma, top

    def norm(self) -> Any:
        """Return a fresh matplotlib norm for values minus `level`."""
        from matplotlib.colors import AsinhNorm

        return AsinhNorm(linear_width=3.0 * self.sigma, vmin=-3.0 * self.sigma, vmax=self.top)


def host(array: Any) -> np.ndarray | None:
    """Return an array on the host as reals, None for None."""
    if array is None:
        return None
    values = np.asarray(array.get() if hasattr(array, "get") else array)
    return values if values.dtype.kind == "f" else values.astype(float)


_AT_ONCE = 2_000_000  # pixels


def sky_scale(*images: np.ndarray | None) -> Scale:
    """Return one scale for several images in the same unit: sky and noise of the first that has pixels."""
    values = [finite_part(image) for image in images if image is not None]
    values = [v for v in values if v.size]
    if not values:
        return Scale(0.0, 1.0, 10.0)
    low, level = np.percentile(values[0], [15.865, 50.0])
    sigma = float(level - low) or float(values[0].std()) or 1.0
    top = max(float(np.percentile(v, 99.7)) - float(level) for v in values)
    return Scale(float(level), sigma, max(top, 10.0 * sigma))


def finite_part(image: np.ndarray, most: int = 500_000) -> np.ndarray:
    """Return the finite pixels, of a large image those of every n-th row: plenty for percentiles."""
    rows = image[:: max(1, image.size // most)]
    values = rows[np.isfinite(rows)]
    return values if values.size else image[np.isfinite(image)]


def shrink(image: np.ndarray, *, extreme: bool = False) -> np.ndarray:
    """Reduce an image to at most about `MAX_PIXELS` a side by block means, or by the value furthest from 0.

    The second keeps single significant pixels visible, which a mean would hide. NaN only where a block has nothing.
    """
    factor = _factor(image.shape)
    if factor == 1:
        return image
    rows = factor * max(1, _AT_ONCE // (factor * image.shape[1]))  # what is marked and copied on the way stays small
    bands = [_shrunk(image[first : first + rows], factor, extreme=extreme) for first in range(0, len(image), rows)]
    return np.concatenate(bands)


def _shrunk(image: np.ndarray, factor: int, *, extreme: bool) -> np.ndarray:
    """Reduce an image by a factor."""
    if extreme:
        high, low = _blocks(np.fmax, image, factor), _blocks(np.fmin, image, factor)
        return np.where(high >= -low, high, low)
    known = np.isfinite(image)
    total = _blocks(np.add, np.where(known, image, image.dtype.type(0)), factor)
    count = _blocks(np.add, known.astype(np.float32), factor)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _factor(shape: tuple[int, ...]) -> int:
    return int(np.ceil(max(shape) / MAX_PIXELS))


def _blocks(function: np.ufunc, image: np.ndarray, factor: int) -> np.ndarray:
    """Reduce squares of pixels by a ufunc, incomplete ones at the end too: whole rows first, which are contiguous."""
    for axis in (0, 1):
        image = np.moveaxis(image, axis, 0)
        whole = image.shape[0] // factor * factor
        out = image[:whole:factor].copy()
        for j in range(1, factor):
            function(out, image[j:whole:factor], out=out)
        if whole < image.shape[0]:
            out = np.concatenate([out, function.reduce(image[whole:], axis=0, keepdims=True)])
        image = np.moveaxis(out, 0, axis)
    return image


def new_figure(width: float, height: float) -> Any:
    """Return a white matplotlib Figure with an Agg canvas."""
    need("matplotlib", "report", "a figure")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: str | Path, dpi: int) -> Path:
    """Write a figure as PNG, PDF or SVG by the ending, atomically; the same figure gives the same bytes."""
    path = Path(path).expanduser()
    kinds: dict[str, dict[str, None]] = {
        ".png": {},
        ".pdf": {"CreationDate": None},
        ".svg": {"Date": None},
    }
    if path.suffix.lower() not in kinds:
        msg = f"cannot tell the format of {path.name}; figures are written as .png, .pdf or .svg"
        raise InputError(msg)
    with atomic_path(path) as part:
        if path.suffix.lower() == ".png":
            write_png(figure, part, dpi)
        else:
            figure.savefig(part, dpi=dpi, metadata=kinds[path.suffix.lower()])
    return path


def write_png(figure: Any, target: Any, dpi: int) -> None:
    """Write an opaque figure as PNG, packed at the lowest level: noise hardly shrinks further at the higher ones."""
    from PIL import Image

    figure.set_dpi(dpi)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    Image.fromarray(pixels).save(target, format="png", dpi=(dpi, dpi), compress_level=1)


def extent(shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Return the edges of an image in 0-based pixels, for imshow."""
    return (-0.5, shape[1] - 0.5, -0.5, shape[0] - 0.5)


def invalid_pixels(image: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Return where an image is NaN or its mask says invalid; of a large image which blocks hold such a pixel."""
    bad = ~np.isfinite(image)
    if mask is not None:
        bad |= (mask.astype(np.uint8, copy=False) & np.uint8(INVALID)) != 0
    return _blocks(np.logical_or, bad, _factor(bad.shape)) if max(bad.shape) > 2 * MAX_PIXELS else bad


def shade_invalid(axes: Any, image: np.ndarray, mask: np.ndarray | None) -> None:
    """Lay grey hatching over pixels that are NaN or invalid."""
    hatch(axes, invalid_pixels(image, mask), image.shape)


def hatch(axes: Any, bad: np.ndarray, shape: tuple[int, ...]) -> None:
    """Hatch the pixels `bad` of an image of `shape` on which they lie, drawn into pixels so that any mask is quick."""
    if not bad.any():
        return
    zoom = max(1, round(MAX_PIXELS / max(bad.shape)))
    fine = np.kron(bad, np.ones((zoom, zoom), bool))
    period = max(6, round(max(fine.shape) / 75))
    stripes = (np.add.outer(np.arange(fine.shape[0]), np.arange(fine.shape[1])) % period) < period / 4
    overlay = np.zeros((*fine.shape, 4), np.uint8)
    overlay[fine] = (222, 224, 230, 255)
    overlay[fine & stripes] = (158, 166, 176, 255)
    axes.imshow(overlay, origin="lower", extent=extent(shape), interpolation="nearest", zorder=2)


def add_rings(axes: Any, table: np.ndarray | None, shape: tuple[int, ...], *, numbers: int = 0) -> None:
    """Ring the candidates: red brighter, blue fainter, dashed if flagged; number the `numbers` strongest.

    A number that would lie on another one is left out: in a crowd of residuals the strongest keeps its own.
    """
    from matplotlib import patheffects
    from matplotlib.collections import EllipseCollection

    if table is None or not len(table):
        return
    rows = table[np.argsort(-np.abs(table["score"]))[:400]]
    radius = max(shape) * (0.017 if len(rows) < 60 else 0.012)
    halo: list[Any] = [patheffects.withStroke(linewidth=2.6, foreground="white")]
    places, sides = np.column_stack([rows["x"], rows["y"]]), np.full(len(rows), 2 * radius)
    colours = [POSITIVE if polarity >= 0 else NEGATIVE for polarity in rows["polarity"]]
    dashes = [(0, (3, 2)) if flags else "solid" for flags in rows["flags"]]
    # Two collections for all: hundreds of rings as artists of their own take longer than the rest of the page.
    for edges, width, styles in (("white", 2.6, "solid"), (colours, 1.25, dashes)):
        rings = EllipseCollection(
            sides, sides, np.zeros(len(rows)), units="xy", offsets=places, offset_transform=axes.transData,
            facecolors="none", edgecolors=edges, linewidths=width, linestyles=styles, zorder=4,
        )  # fmt: skip
        axes.add_collection(rings, autolim=False)
    numbered: list[tuple[float, float]] = []
    for row, colour in zip(rows, colours, strict=True):
        if len(numbered) >= numbers:
            break
        if all(abs(row["x"] - x) > 0.08 * shape[1] or abs(row["y"] - y) > 0.04 * shape[0] for x, y in numbered):
            numbered.append((row["x"], row["y"]))
            side, where = (1.15, "left") if row["x"] < 0.88 * shape[1] else (-1.15, "right")
            axes.annotate(
                str(row["id"]), (row["x"] + side * radius, row["y"]), ha=where, va="center", fontsize=8.5,
                fontweight="bold", color=colour, zorder=5, path_effects=halo, annotation_clip=True,
            )  # fmt: skip


def add_compass(axes: Any, frame: SkyFrame | None, shape: tuple[int, ...]) -> None:
    """Draw north and east and a scale bar, from the sky at the middle of the frame."""
    from matplotlib import patheffects

    if frame is None:
        return
    north, east, arcsec = frame
    ny, nx = shape
    side = min(ny, nx)
    halo = [patheffects.withStroke(linewidth=3, foreground="white")]
    style = {"color": INK, "path_effects": halo, "zorder": 6, "fontsize": 9}
    length = 0.085 * side
    reach = 1.45 * length  # arrows and letters stay inside the frame whatever the rotation
    tips = np.array([[0.0, 0.0], north, east]) * reach
    origin = np.array([nx - 0.03 * nx, ny - 0.03 * ny]) - np.max(np.vstack([tips, [[0, 0]]]), axis=0)
    for direction, letter in ((north, "N"), (east, "E")):
        tip = origin + direction * length
        axes.annotate(
            "", tip, origin, zorder=6,
            arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.4, "shrinkA": 0, "shrinkB": 0, "path_effects": halo},
        )  # fmt: skip
        axes.text(*(origin + direction * length * 1.28), letter, ha="center", va="center", **style)
    bar, label = _nice_length(0.25 * nx * arcsec)
    x0, y0, dx = 0.04 * nx, 0.05 * ny, bar / arcsec
    axes.plot([x0, x0 + dx], [y0, y0], color=INK, lw=2, solid_capstyle="butt", path_effects=halo, zorder=6)
    axes.text(x0 + dx / 2, y0 + 0.015 * ny, label, ha="center", va="bottom", **style)


def sky_frame(wcs: Any, shape: tuple[int, ...]) -> SkyFrame | None:
    """Return unit vectors (x, y) to north and east, and the pixel scale in arcseconds."""
    if wcs is None or not hasattr(wcs, "pixel_to_world_values"):
        return None
    y, x = ((side - 1) / 2 for side in shape)
    try:
        ra, dec = (np.asarray(v, dtype=float) for v in wcs.pixel_to_world_values([x, x + 1, x], [y, y, y + 1]))
    except Exception:  # a WCS of any library, drawn for decoration alone: without it the figure is still right
        return None
    east_step = ((ra[1:] - ra[0] + 180) % 360 - 180) * np.cos(np.radians(dec[0]))
    jacobian = np.array([east_step, dec[1:] - dec[0]])  # (east, north) per (x, y) pixel
    if not np.all(np.isfinite(jacobian)) or abs(np.linalg.det(jacobian)) < 1e-16:
        return None
    inverse = np.linalg.inv(jacobian)
    east, north = (inverse[:, i] / np.hypot(*inverse[:, i]) for i in (0, 1))
    return north, east, float(np.sqrt(abs(np.linalg.det(jacobian))) * 3600.0)


def _nice_length(target: float) -> tuple[float, str]:
    """Return a round length in arcseconds not above `target`, and its label."""
    steps = [s * 10.0**p for p in range(-3, 2) for s in (1, 2, 5)]
    steps += [60.0 * m for m in (1, 2, 5, 10, 20, 30)] + [3600.0 * d for d in (1, 2, 5, 10)]
    length = max((s for s in steps if s <= target), default=steps[0])
    if length >= 3600:
        return length, f"{length / 3600:g}°"
    return (length, f"{length / 60:g}′") if length >= 60 else (length, f"{length:g}″")
