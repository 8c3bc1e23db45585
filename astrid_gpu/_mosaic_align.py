"""Registration of frames too large to look at whole: star lists gathered window by window, one map, windows warped."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from astrid_gpu._pixel_map import Coordinates, GridMap, PixelMap
from astrid_gpu._register import Options, Registration, Target, by_sky, by_stars, stars_of
from astrid_gpu._sky_map import check_wcs
from astrid_gpu._star_find import Stars
from astrid_gpu.align import Aligned, align_options, apply_map, declared, looked_at, whole_shift
from astrid_gpu.config import SubtractConfig
from astrid_gpu.image import Image
from astrid_gpu.results import Step

__all__ = ["Placement", "gather_stars", "locate"]

_FEW = 5
_MARGIN = 24  # px of the reference beyond what a window's map covers: the reach of the kernel and then some
_LEAST = 256  # px; a narrower window of the reference would not show its sky


@dataclass(frozen=True)
class Placement:
    """Where the reference lies under the science frame: the map, and what is done about it everywhere alike.

    `registration` is None where both are on one grid by declaration; `resampled` tells whether pixels are interpolated,
    else they are moved by `shift` whole ones, if at all.
    """

    registration: Registration | None
    options: Options
    resampled: bool
    shift: tuple[int, int]
    residual: tuple[float, float]
    matrix: np.ndarray
    steps: list[Step]

    def window(self, rows: slice, columns: slice, shape: tuple[int, int]) -> tuple[slice, slice] | None:
        """Return the slices of the reference, of `shape`, that a science window asks for; None if it lies elsewhere."""
        if self.registration is None:
            return rows, columns
        y, x = (np.linspace(part.start, part.stop - 1, 17) for part in (rows, columns))
        places = self.registration.pixel_map(*np.meshgrid(y, x, indexing="ij"))
        found = []
        for place, n in zip(places, shape, strict=True):
            if not np.isfinite(place).any():
                return None
            low = int(np.floor(np.nanmin(place))) - _MARGIN
            high = int(np.ceil(np.nanmax(place))) + 1 + _MARGIN
            if high <= 0 or low >= n:
                return None
            low, high = max(low, 0), min(high, n)
            if high - low < _LEAST:  # at the rim: enough of it to know its sky
                low, high = max(0, min(low, n - _LEAST)), min(n, max(high, _LEAST))
            found.append(slice(low, high))
        return found[0], found[1]

    def place(self, reference: Image, at: tuple[slice, slice], science: Image, corner: tuple[int, int]) -> Aligned:
        """Bring a window of the reference, cut out `at`, to the science window whose first pixel is `corner`."""
        target = Target(science, None, science.shape, science.name)
        if self.registration is None:
            return declared(reference, target, "on the same grid")
        first = (at[0].start, at[1].start)
        moved = PixelMap(_Moved(self.registration.pixel_map, corner, first))
        limit = -1.0 if self.resampled else np.inf
        registration = Registration(moved, "stars", limit, scale=self.registration.scale)
        return apply_map(reference, target, registration, replace(self.options, min_overlap=0.0))


@dataclass(frozen=True)
class _Moved:
    """A map between windows: `corner` of the target's and `first` of the source's are their first pixels."""

    base: Callable[[np.ndarray, np.ndarray], Coordinates]
    corner: tuple[int, int]
    first: tuple[int, int]

    def __call__(self, y: np.ndarray, x: np.ndarray) -> Coordinates:
        there = self.base(y + self.corner[0], x + self.corner[1])
        return there[0] - self.first[0], there[1] - self.first[1]


def gather_stars(
    windows: Iterable[tuple[Image, tuple[int, int], tuple[slice, slice]]], options: Options, most: int
) -> Stars:
    """Return the `most` brightest stars of a frame given as windows: (image, first pixel, interior within it)."""
    parts = []
    for image, (first_y, first_x), (rows, columns) in windows:
        if image.bad.all():
            continue
        found = stars_of(image, options)
        keep = (found.y >= rows.start - 0.5) & (found.y < rows.stop - 0.5)
        keep &= (found.x >= columns.start - 0.5) & (found.x < columns.stop - 0.5)
        place = found.y[keep] + first_y, found.x[keep] + first_x
        parts.append((*place, found.flux[keep], found.error[keep], found.fwhm))
    if not parts:
        empty = np.zeros(0)
        return Stars(empty, empty, empty, empty, float("nan"))
    y, x, flux, error = (np.concatenate([part[k] for part in parts]) for k in range(4))
    order = np.argsort(-flux, kind="stable")[:most]
    width = float(np.nanmedian([part[4] for part in parts]))
    return Stars(y[order], x[order], flux[order], error[order], width)


def locate(
    science: Image, reference: Image, config: SubtractConfig, find: Callable[[Image, Options], Stars]
) -> Placement:
    """Measure how the reference lies to the science frame, as `align` does, from star lists that `find` makes."""
    options = align_options(config.align, "auto", 200, 0.1, config.kernel, config.min_overlap, config.backend)
    target = Target(science, check_wcs(science.wcs, science.name), science.shape, science.name)
    wcs, method = check_wcs(reference.wcs, reference.name), config.align
    if method == "none":
        return _on_one_grid(reference, target, options, "taken to be on the same grid, as asked")
    if method == "wcs" or (method == "auto" and wcs is not None and target.wcs is not None):
        registration = by_sky(
            reference, target, options, refine=method == "auto", find=lambda image: find(image, options)
        )
    else:
        found = find(reference, options), find(science, options)
        few = min(stars.y.size for stars in found) < _FEW
        if method == "auto" and few and target.shape == reference.shape and wcs is None and target.wcs is None:
            text = f"no WCS and only {found[0].y.size} and {found[1].y.size} stars: taken to be on the same grid"
            return _on_one_grid(reference, target, options, text)
        registration = by_stars(reference, target, found, options)
    grid = GridMap(registration.pixel_map, target.shape)
    rows, columns, sample, inside = looked_at(reference, target, grid)
    moves = (sample[0] - rows[:, None])[inside], (sample[1] - columns)[inside]
    shift, residual = whole_shift(reference, target, registration, moves)
    middle = (float(np.median(rows)), float(np.median(columns)))
    steps = [*registration.steps, _told(reference, target, registration, shift)]
    matrix = registration.pixel_map.jacobian(*middle)
    return Placement(registration, options, shift is None, shift or (0, 0), residual, matrix, steps)


def _on_one_grid(reference: Image, target: Target, options: Options, text: str) -> Placement:
    step = declared(reference, target, text).steps[0]
    return Placement(None, options, False, (0, 0), (0.0, 0.0), np.eye(2), [step])


def _told(reference: Image, target: Target, registration: Registration, shift: tuple[int, int] | None) -> Step:
    """Say how the map was found and what is done about it."""
    how = "resampled" if shift is None else "not resampled" if shift == (0, 0) else f"moved by {shift} whole pixels"
    values: dict[str, Any] = {"method": registration.method, "resampled": shift is None}
    text = f"{reference.name} placed on {target.name} by {registration.method}, {how}"
    if registration.fit is not None:
        values |= {"model": registration.fit.model, "n_matched": int(registration.fit.keep.sum())}
        text += f": {values['n_matched']} of {registration.fit.keep.size} stars matched ({registration.fit.model})"
    return Step("alignment", text, values)
