"""Levels at which pixels pile up, and cores of stars that are flat: saturation that no header tells of."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from astrid_gpu._bleed import occupied
from astrid_gpu.ops.mask import connected

__all__ = ["BRIGHT", "FlatTop", "PileUp", "flat_tops", "pile_ups", "side_by_side"]

BRIGHT = 50.0
"""Sigma above the sky from where a pixel may be saturated."""

_SPREAD = 0.02  # of the level: a pile's width
_RIM = 0.10  # of the level: where pixels on the slopes of stars are counted
_FEWEST = 5  # pixels of a pile
_OTHERS = 4  # times as many as there are above it
_LOWEST = 0.4  # of the height of the twentieth pixel from the top: what is lower is no end of a range
_AT_TOP = 20
_MOST = 3  # piles below the highest
_FLAT = 0.025  # of the height: neighbours in a flat core differ by less
_ALIKE = 0.01  # of the height: and in one of four pixels, which must be at the level of others
_KNOWN = 3  # flat cores, of which the nearest tell the level
_SAME, _SLOPE = 0.96, 0.85  # of a core's level: within its noise; and on the slope beside it
_STEEP = 1.5  # times as many pixels on the core as on the slope: a Gaussian has half as many, however wide
_BESIDE = 6  # pixels round a core that are looked at
_CORES = 2000  # that are looked at, the largest


class PileUp(NamedTuple):
    """A pile of pixels: its upper end above the sky, how many they are, and how many lie above them."""

    height: float
    n: int
    above: int


class FlatTop(NamedTuple):
    """A flat core: its level above the sky, and the flat indices of its pixels and those of its rim."""

    height: float
    pixels: np.ndarray


def pile_ups(heights: np.ndarray) -> list[PileUp]:
    """Find levels at which pixels pile up.

    A star's profile has a quarter as many pixels in its top 2 % as in the next 8 %; a plateau has more, and few above.

    Parameters
    ----------
    heights : float array, shape (n,)
        Bright pixels, above the sky.

    Returns
    -------
    list of PileUp
        Highest first. Cost: sorting the pixels near the top.
    """
    if heights.size < _FEWEST:
        return []
    h = np.sort(heights[heights >= _LOWEST * _nearly_highest(heights)])
    ends = np.arange(1, h.size + 1)
    foot, slope = (np.searchsorted(h, (1 - part) * h) for part in (_SPREAD, _RIM))
    over = np.searchsorted(h, (1 + _RIM) * h, side="right")
    n_top, n_below, n_above = ends - foot, foot - slope, over - ends
    piled = (n_top >= _FEWEST) & (n_top > n_below) & (n_top >= _OTHERS * n_above)
    found: list[PileUp] = []
    for i in np.flatnonzero(piled)[::-1]:
        if found and h[i] > (1 - 2 * _SPREAD) * found[-1].height:
            continue
        found.append(PileUp(float(h[i]), int(n_top[i]), int(h.size - np.searchsorted(h, (1 + _SPREAD) * h[i]))))
        if len(found) > _MOST:
            break
    return found


def _nearly_highest(heights: np.ndarray) -> float:
    """Return the height of the twentieth pixel from the top."""
    k = min(_AT_TOP, heights.size) - 1
    return float(-np.partition(-heights, k)[k])


def side_by_side(pixels: np.ndarray, width: int) -> np.ndarray:
    """Return which pixels, by sorted flat index, have another one of them beside, above or below them."""
    near = np.zeros(pixels.size, bool)
    for step in (1, width):
        at = np.searchsorted(pixels, pixels + step)
        hit = pixels[np.minimum(at, pixels.size - 1)] == pixels + step
        near[hit] = True
        near[at[hit]] = True
    return near


def flat_tops(raw: np.ndarray, bright: np.ndarray, heights: np.ndarray, sky: float) -> list[FlatTop]:
    """Find cores of stars that are flat or dip, whatever the level.

    Blocks of 3 x 3 pixels equal within 2.5 % are looked at: a saturated core is of one level, nothing beside it is
    higher, and its rim is so steep that there are fewer pixels on the slope than on the core. No profile does that
    by itself, however wide: a Gaussian, or the core of a galaxy, has twice as many pixels between 85 and 96 % of its
    peak as above.

    Parameters
    ----------
    raw : float array, shape (ny, nx)
        -inf where there is no value.
    bright : array of int, shape (n,)
        Flat indices of pixels that may be saturated, ascending.
    heights : float array, shape (n,)
        Of these pixels above the sky.
    sky : float
        Level of the sky.

    Returns
    -------
    list of FlatTop
        Cost: a few looks at each bright pixel, and a window for each flat core.
    """
    if bright.size == 0:
        return []
    nx, high = raw.shape[1], heights >= _LOWEST * _nearly_highest(heights)
    bright, heights = bright[high], heights[high]
    steps = [j * nx + i for j in (-1, 0, 1) for i in (-1, 0, 1)]
    tops = _cores(raw, _alike(raw, bright, steps, _FLAT, sky), sky)
    if len(tops) < _KNOWN:
        return tops
    # Blocks of 2 x 2 by chance are those of a star that stands between four pixels: at a known level they are none.
    levels = np.array([top.height for top in tops])
    known = (heights >= (1 - _RIM) * levels.min()) & (heights <= (1 + _RIM) * levels.max())
    small = _cores(raw, _alike(raw, bright[known], [0, 1, nx, nx + 1], _ALIKE, sky), sky)
    places = np.array([top.pixels[0] for top in tops])
    for top in small:
        there = np.divmod(places, nx)
        y, x = divmod(int(top.pixels[0]), nx)
        nearest = levels[np.argsort(np.hypot(there[0] - y, there[1] - x))[:_KNOWN]]
        if np.abs(np.median(nearest) / top.height - 1) <= _RIM:
            tops.append(top)
    return tops


def _alike(raw: np.ndarray, places: np.ndarray, steps: list[int], part: float, sky: float) -> np.ndarray:
    """Return the pixels of blocks round bright ones in which all heights are those of the first, but for a part."""
    ny, nx = raw.shape
    values = raw.ravel()
    y, x = np.divmod(places, nx)
    at = places[(y > 0) & (y < ny - 1) & (x > 0) & (x < nx - 1)]
    for step in sorted(steps, key=abs):
        here = values[at]
        at = at[np.abs(values[at + step] - here) <= part * (here - sky)]
    return np.unique((at[:, None] + steps).ravel())


def _cores(raw: np.ndarray, pixels: np.ndarray, sky: float) -> list[FlatTop]:
    """Return the flat cores that hold these pixels of flat blocks."""
    from scipy.ndimage import find_objects, label

    if pixels.size == 0:
        return []
    flat = np.zeros(raw.shape, bool)
    flat.ravel()[pixels] = True
    rows, columns = (occupied(flat.any(axis)) for axis in (1, 0))
    parts, n = label(flat[np.ix_(rows, columns)], np.ones((3, 3)))
    sizes, boxes = np.bincount(parts.ravel(), minlength=n + 1), find_objects(parts)
    tops = []
    for k in 1 + np.argsort(-sizes[1:], kind="stable")[:_CORES]:
        y, x = (lines[box] for lines, box in zip((rows, columns), boxes[k - 1], strict=True))
        window = tuple(
            slice(max(0, a[0] - _BESIDE), min(side, a[-1] + 1 + _BESIDE))
            for a, side in zip((y, x), raw.shape, strict=True)
        )
        seeds = np.zeros(raw[window].shape, bool)
        seeds[np.ix_(y - window[0].start, x - window[1].start)] = parts[boxes[k - 1]] == k
        top = _judged(raw[window] - sky, seeds)
        if top is not None:
            j, i = np.nonzero(top[1])
            tops.append(FlatTop(top[0], (j + window[0].start) * raw.shape[1] + i + window[1].start))
    return tops


def _judged(height: np.ndarray, seeds: np.ndarray) -> tuple[float, np.ndarray] | None:
    """Return level and pixels of a flat core, rim included; None if it is none."""
    from scipy.ndimage import binary_dilation, binary_fill_holes

    inner = height[seeds]
    level = float(np.median(inner))
    if np.mean(np.abs(inner - level) <= (1 - _SAME) * level) < 0.9:
        return None
    block = np.ones((3, 3), bool)
    core = binary_fill_holes(connected(seeds, height >= _SAME * level))
    beside = binary_dilation(core, block, iterations=2) & ~core
    n_core = np.count_nonzero(core)
    n_above = np.count_nonzero(height[core | beside] > (2 - _SAME) * level)
    n_slope = np.count_nonzero(beside & (height >= _SLOPE * level))
    if n_above > 0.1 * n_core or n_core < _STEEP * n_slope:
        return None
    return level, connected(core, height >= (1 - _RIM) * level)
