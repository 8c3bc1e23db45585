"""Charge that bled out of saturated cores: followed along the columns, and along the rows, as far as it shows."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["bleed_trails", "occupied"]

_LEAST = 3  # saturated pixels of a core from which charge is looked for
_CONTRAST = 3.0  # times as much light as at the same distance across: elongated stars have less, spikes are crosses
_SIGMAS = 5.0  # of the sky noise, and above that
_GAP = 2  # pixels without charge that a trail may have; at its core, where the star outshines it, a radius more
_LONG = 15  # pixels that charge goes on after such a gap, three radii at least: the next star on the way is shorter


def bleed_trails(raw: np.ndarray, saturated: np.ndarray, sky: float, noise: float) -> np.ndarray:
    """Return pixels that hold charge bled out of saturated cores, beyond the saturated pixels themselves.

    Starting at the ends of a saturated core, pixels along its columns are taken as long as they are three times as
    bright as those at the same distance from its middle along the row, and by 5 sigma of the sky; then the same with
    rows and columns exchanged. Near the core the star may outshine its charge, which is taken up again beyond. Only
    light that prefers one axis passes: the halo of a star, round or elongated, and a cross of diffraction spikes stay.

    Parameters
    ----------
    raw : float array, shape (ny, nx)
        -inf where there is no value.
    saturated : bool array, shape (ny, nx)
    sky, noise : float
        Level and standard deviation of the sky, in units of `raw`.

    Returns
    -------
    bool array, shape (ny, nx)
        Cost: in proportion to the saturated pixels and the length of the trails.
    """
    from scipy.ndimage import find_objects, label

    trails = np.zeros(raw.shape, bool)
    rows, columns = (occupied(np.any(saturated, axis)) for axis in (1, 0))
    parts, _ = label(saturated[np.ix_(rows, columns)], np.ones((3, 3)))
    cores = [
        (parts[box] == n, rows[box[0].start], columns[box[1].start]) for n, box in enumerate(find_objects(parts), 1)
    ]
    cores = [core for core in cores if np.count_nonzero(core[0]) >= _LEAST]
    along = [start for core, y, x in cores for start in _starts(core, int(y), int(x))]
    across = [start for core, y, x in cores for start in _starts(core.T, int(x), int(y))]
    for image, out, starts in ((raw, trails, along), (raw.T, trails.T, across)):
        if starts:
            _follow(image, out, np.array(starts), sky, noise)
    return trails & ~saturated


def occupied(lines: Any) -> np.ndarray:
    """Return the numbers of lines that hold something, with one empty line after each run: neighbours stay such."""
    kept = lines.copy()
    kept[1:] |= lines[:-1]
    return np.flatnonzero(kept)


def _starts(core: np.ndarray, y0: int, x0: int) -> list[tuple[int, ...]]:
    """Return (y, x, direction, middle y, middle x, radius) for both ends of each column of a core at (y0, x0)."""
    across = core.sum(axis=1)
    widest = np.flatnonzero(across == across.max())
    row = int(widest[len(widest) // 2])
    middle_y, middle_x = y0 + row, x0 + int(np.median(np.flatnonzero(core[row])))
    columns = np.flatnonzero(core.any(axis=0))
    # Charge leaves from the core proper: beside a trail that is saturated itself may be anything.
    radius = min(across.max(), core.sum(axis=0).max()) // 2 + 1
    columns = columns[np.abs(x0 + columns - middle_x) <= radius]
    top, bottom = core.argmax(axis=0), core.shape[0] - 1 - core[::-1].argmax(axis=0)
    return [
        (y0 + int(end[x]), x0 + int(x), step, middle_y, middle_x, int(radius))
        for x in columns
        for end, step in ((top, -1), (bottom, 1))
    ]


def _follow(image: np.ndarray, out: np.ndarray, starts: np.ndarray, sky: float, noise: float) -> None:
    """Walk all trails at once, a pixel a step, and mark what holds charge."""
    ny = image.shape[0]
    y, x, step, middle_y, middle_x, radius = starts.T
    allowed = radius.copy()
    first, last, missed, number = y.copy(), y.copy(), np.zeros(len(y), np.int64), np.arange(len(y))
    again = np.zeros(len(y), np.int64)  # pixels from the core at which charge is taken up again
    while len(y):
        y = y + step
        inside = (y >= 0) & (y < ny)
        y, x, step, middle_y, middle_x, missed, number = (
            a[inside] for a in (y, x, step, middle_y, middle_x, missed, number)
        )
        distance, aside = np.abs(y - middle_y), x - middle_x
        brightest = _across(image, middle_y + aside, middle_x, distance)
        across, known = np.maximum(brightest - sky, 0.0), np.isfinite(brightest)
        here = image[y, x] - sky
        charge = known & (here > _CONTRAST * across + _SIGMAS * noise)
        fresh = charge & (missed > _GAP)
        again[number[fresh]] = np.abs(y - first[number])[fresh]
        last[number[charge]] = y[charge]
        allowed[number[charge]] = 0
        missed = np.where(charge, 0, missed + 1)
        going = missed <= _GAP + allowed[number]
        y, x, step, middle_y, middle_x, missed, number = (
            a[going] for a in (y, x, step, middle_y, middle_x, missed, number)
        )
    long = np.abs(last - first) - again >= np.maximum(_LONG, 3 * radius)
    taken = (again == 0) | long
    for begin, end, column in zip(first[taken], last[taken], starts[taken, 1], strict=True):
        out[min(begin, end) : max(begin, end) + 1, column] = True


def _across(image: np.ndarray, row: np.ndarray, middle: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Return the brightest pixel a quarter turn about the middle, either way, and a pixel closer in; -inf for none.

    The middle is known to a pixel.
    """
    ny, nx = image.shape
    row, brightest = np.clip(row, 0, ny - 1), np.full(len(row), -np.inf)
    for closer in (0, 1):
        for column in (middle - distance + closer, middle + distance - closer):
            there = (column >= 0) & (column < nx)
            brightest = np.where(there, np.maximum(brightest, image[row, np.clip(column, 0, nx - 1)]), brightest)
    return brightest
