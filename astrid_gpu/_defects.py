"""Defects under resampling: bad pixels filled before the kernel sees them, and what it then must not be trusted for.

A fill is a guess with an error of its own: the range of its good neighbours, or its height above the sky if that is
more, as in the core of a saturated star. An output pixel is masked if that error could come through with more than a
sigma of noise, or if a quarter of its weight is guesses. A bad pixel on blank sky thus costs one to four pixels and one
in a star's core some forty.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from astrid_gpu._host_ops import host_op
from astrid_gpu._pixel_map import Coordinates
from astrid_gpu.flags import PixelFlag
from astrid_gpu.ops.mask import dilate
from astrid_gpu.ops.resample import resample

__all__ = ["REACH", "Slopes", "cardinal", "fill", "fill_error", "lookup", "offsets", "spoilt_bits", "touched"]

REACH = 6  # px; the cardinal quintic spline is below 0.7 % beyond

Slopes = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

_SHARE = 0.25  # largest absolute weight of guesses
_LEAK = 1.0  # sigma; largest error they may bring
_LOUD = 4.0  # sigma; guesses better than this can do harm only to the four pixels around them: |h| < 0.25 elsewhere
_LEAK_REACH = {"nearest": 1, "bilinear": 1, "lanczos3": 3}  # px; taps each way in which an error may come through
_STEPS = 32  # entries a pixel in the tables of the kernel


def offsets(splits: int) -> np.ndarray:
    """Return the places of sub-pixels within a pixel, `splits` a side."""
    return (np.arange(splits) + 0.5) / splits - 0.5


@lru_cache(maxsize=16)
def cardinal(kernel: str, *, signed: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Tables of |h(t)| (or h) of a kernel of `ops.resample` at t = 0, 1/32, ...; and the tails, h(t) + h(t + 1) + ...

    Of a spline h is the cardinal one: what a single pixel of 1 becomes.
    """
    t = np.arange(0, 2 * REACH, 1 / _STEPS)
    if kernel == "nearest":
        # Half-way between two pixels either may be it; its one tap is always within the frame.
        return np.where(t < 0.5, 1.0, np.where(t == 0.5, np.sqrt(0.5) if signed else 1.0, 0.0)), np.zeros_like(t)
    line = np.zeros((1, 1, 4 * REACH + 1))
    line[..., line.shape[2] // 2] = 1.0
    h = resample(line, np.zeros((1, t.size)), line.shape[2] // 2 + t[None], kernel)[0, 0]
    h = h if signed else np.abs(h)
    tail = np.zeros_like(h)
    for k in range(0, h.size, _STEPS):
        tail[: h.size - k] += h[k:]
    return h, tail


def lookup(table: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return table values at distances `t` in pixels."""
    index = np.minimum(np.rint(np.abs(t) * _STEPS).astype(np.int64), table.size - 1)
    return table[index]


def fill(plane: np.ndarray, bad: np.ndarray, reach: int = 3) -> np.ndarray:
    """Copy with bad pixels replaced: Gaussian mean of good neighbours, or the nearest good one.

    Parameters
    ----------
    plane : array, shape (ny, nx)
        Values; those under `bad` may be anything.
    bad : array of bool, shape (ny, nx)
        Pixels to replace.
    reach : int
        Neighbours up to this distance in either axis are used.

    Returns
    -------
    array, shape (ny, nx), of the type of `plane` if that is one of reals, else float64
        0 everywhere if there is no good pixel. Cost: (2 reach + 1)^2 operations a bad pixel.
    """
    from scipy.spatial import cKDTree

    kind = plane.dtype if plane.dtype.kind == "f" else np.dtype(np.float64)
    filled = np.where(bad, kind.type(0), plane.astype(kind, copy=False))
    rows, columns = np.nonzero(bad)
    if rows.size == 0:
        return filled
    values, good = np.pad(filled, reach), np.pad(~bad, reach)
    weight, total = np.zeros(rows.size), np.zeros(rows.size)
    for j in range(2 * reach + 1):
        for i in range(2 * reach + 1):
            w = good[rows + j, columns + i] * np.exp(-0.5 * ((j - reach) ** 2 + (i - reach) ** 2) / (0.4 * reach) ** 2)
            weight += w
            total += w * values[rows + j, columns + i]
    lonely = weight == 0
    if lonely.any() and not lonely.all():
        # The nearest good pixel of a bad one is on the rim of its hole.
        rim = np.argwhere(host_op("dilate", dilate)(bad, 1) & ~bad)
        _, nearest = cKDTree(rim).query(np.column_stack([rows[lonely], columns[lonely]]))
        total[lonely] = filled[tuple(rim[nearest].T)]
    filled[rows, columns] = total / np.where(lonely, 1.0, weight)
    return filled


def fill_error(filled: np.ndarray, bad: np.ndarray, variance: np.ndarray | None) -> np.ndarray:
    """Return how wrong each fill may be, in sigma of the noise there; 0 for good pixels.

    Parameters
    ----------
    filled : array, shape (ny, nx)
        From `fill`.
    bad : array of bool, shape (ny, nx)
        Which pixels are fills.
    variance : array, shape (ny, nx), optional
        Noise variance, all finite; measured from differences of neighbours if absent.

    Returns
    -------
    array, shape (ny, nx), float32
    """
    error = np.zeros(filled.shape, np.float32)
    rows, columns = np.nonzero(bad)
    if rows.size == 0:
        return error
    sample = filled[:: max(1, filled.shape[0] // 512)]
    sky = float(np.median(sample))
    steps = np.abs(np.diff(sample, axis=1))
    white = 1.4826 * float(np.median(steps)) / np.sqrt(2) if steps.size else 0.0
    sigma = np.full(rows.size, white) if variance is None else np.sqrt(np.maximum(variance[rows, columns], 0))
    padded = np.pad(filled, 2, mode="edge")
    low, high = np.full(rows.size, np.inf), np.full(rows.size, -np.inf)
    for j in range(5):
        for i in range(5):
            value = padded[rows + j, columns + i]
            np.minimum(low, value, out=low)
            np.maximum(high, value, out=high)
    # 25 pixels of pure noise range over 3.9 sigma by themselves; half of the range is how far a mean can be off.
    worst = np.maximum((high - low) / 2, np.abs(filled[rows, columns] - sky))
    error[rows, columns] = np.minimum(worst / np.maximum(sigma, 1e-12 * max(float(worst.max()), 1e-30)), 1e12)
    return error


def touched(
    error: np.ndarray, bad: np.ndarray, maps: Coordinates, slopes: Slopes | None, kernel: tuple[str, int]
) -> np.ndarray:
    """Return which target pixels the fills spoil.

    Parameters
    ----------
    error : array, shape (ny, nx)
        From `fill_error`.
    bad : array of bool, shape (ny, nx)
        Bad pixels of the source.
    maps : (array, array)
        Source position of every target pixel; where it lies outside of the source the answer does not matter.
    slopes : four arrays or None
        Derivatives of the maps; not asked for if there are no sub-pixels.
    kernel : (str, int)
        Its name in `ops.resample` and sub-pixels a side.

    Returns
    -------
    array of bool, shape of the maps
        Cost: 4 taps a sub-pixel near any bad pixel, 8 x 8 near those whose fill may be far off.
    """
    out = np.zeros(maps[0].shape, bool)
    if not bad.any():
        return out
    name, splits = kernel
    loud = np.where(error > _LOUD, error, 0).astype(np.float32)
    for plane, reach, limit in ((bad.astype(np.float32), 1, _SHARE), (loud, _LEAK_REACH.get(name, 5), _LEAK)):
        if not plane.any():
            continue
        border = reach + splits + 1
        candidates = _near(plane > 0, maps, reach + splits)
        candidates = tuple(index[~out[candidates]] for index in candidates)
        y, x = maps[0][candidates], maps[1][candidates]
        if slopes is None:
            yy = yx = xy = xx = np.zeros(1)
        else:
            yy, yx, xy, xx = (np.nan_to_num(slope[candidates]) for slope in slopes)
        padded, weight = np.pad(plane, border), np.zeros(y.size)
        for b in offsets(splits):
            for a in offsets(splits):
                sy = np.clip(y + b * yy + a * yx, -1, bad.shape[0]) + border
                sx = np.clip(x + b * xy + a * xx, -1, bad.shape[1]) + border
                _add_taps(weight, padded, (sy, sx), cardinal(name)[0], reach)
        out[candidates] = weight > limit * splits**2
    return out


def _near(plane: np.ndarray, maps: Coordinates, reach: int) -> tuple[np.ndarray, ...]:
    """Return indices of the target pixels in the source that have a true pixel of `plane` within `reach`."""
    near = host_op("dilate", dilate)(plane, reach).astype(np.float32)
    there = host_op("resample", resample)(near[None], *maps, "nearest")[0]
    return np.nonzero(there == 1)


def _add_taps(weight: np.ndarray, padded: np.ndarray, places: Coordinates, table: np.ndarray, reach: int) -> None:
    """Add |h(dy)| |h(dx)| times `padded` over the taps around each place to `weight`, in place."""
    y, x = places
    width = padded.shape[1]
    base_y, base_x = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    base, flat = base_y * width + base_x, padded.ravel()
    for j in range(1 - reach, reach + 1):
        for i in range(1 - reach, reach + 1):
            # Few of the taps meet a bad pixel, so only the looking is done for all.
            value = flat[base + (j * width + i)]
            hit = np.flatnonzero(value)
            dy, dx = base_y[hit] + j - y[hit], base_x[hit] + i - x[hit]
            weight[hit] += value[hit] * lookup(table, dy) * lookup(table, dx)


def spoilt_bits(
    mask: np.ndarray,
    error: np.ndarray,
    bad: np.ndarray,
    spoilt: np.ndarray,
    maps: Coordinates,
    slopes: Slopes | None,
    kernel: tuple[str, int],
) -> np.ndarray:
    """Return the bits of each spoilt target pixel: the nearest bad pixel's, and each bit that spoils it by itself.

    Parameters
    ----------
    mask : array of integers, shape (ny, nx)
        Of the source, nonzero under `bad`.
    error, bad, maps, slopes, kernel :
        As `touched` takes them.
    spoilt : array of bool, shape of the maps
        What `touched` returned for all bad pixels.

    Returns
    -------
    array, shape (n,), dtype of `mask`, for the n pixels of `spoilt`
    """
    y, x = maps[0][spoilt], maps[1][spoilt]
    bits = _nearest_flag(mask, bad, y, x, REACH + kernel[1])
    kinds = np.unique(mask[bad])
    union = int(np.bitwise_or.reduce(kinds)) if kinds.size else 0
    for bit in (1 << k for k in range(max(union, 0).bit_length())):
        # A bit that every bad pixel has is in the nearest one's already.
        if kinds.size < 2 or not union & bit or np.all(kinds & bit):
            continue
        mine = bad & (mask & bit != 0)
        there = touched(np.where(mine, error, 0), mine, maps, slopes, kernel)[spoilt]
        bits[there] |= bit
    return bits


def _nearest_flag(mask: np.ndarray, bad: np.ndarray, y: np.ndarray, x: np.ndarray, reach: int) -> np.ndarray:
    """Return the bits of the bad pixel nearest to each position, BAD_SCIENCE if it has none or none is in reach."""
    bits = np.full(y.size, PixelFlag.BAD_SCIENCE, mask.dtype)
    rows = np.clip(np.rint(y), 0, mask.shape[0] - 1).astype(np.int64)
    columns = np.clip(np.rint(x), 0, mask.shape[1] - 1).astype(np.int64)
    open_, places = np.arange(y.size), range(-reach, reach + 1)
    for j, i in sorted(((j, i) for j in places for i in places), key=lambda place: place[0] ** 2 + place[1] ** 2):
        r, c = rows[open_] + j, columns[open_] + i
        inside = (r >= 0) & (r < mask.shape[0]) & (c >= 0) & (c < mask.shape[1])
        hit = inside.copy()
        hit[inside] = bad[r[inside], c[inside]]
        found = mask[r[hit], c[hit]]
        bits[open_[hit]] = np.where(found == 0, bits[open_[hit]], found)
        open_ = open_[~hit]
        if open_.size == 0:
            break
    return bits
