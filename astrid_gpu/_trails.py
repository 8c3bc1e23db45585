"""Trails of satellites and aeroplanes: straight lines across the significance map, found by votes and looked at."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from astrid_gpu.flags import INVALID, PixelFlag
from astrid_gpu.ops.noise import median_sigma
from astrid_gpu.ops.psf_stamps import fwhm_of
from astrid_gpu.results import Step

__all__ = ["Trail", "find_trails", "flag_trails", "trail_mask"]

_VOTER = 2.5  # sigma; samples beyond it vote
_MOST_VOTERS = 20_000
_VOTES = 7.0  # sigma above the parallel lines, from which a line is looked at; there are some 10^5 lines
_MOST_LINES = 12  # that are looked at, of either sign
_REACH = 10  # samples to either side of a line that are looked at
_SIDE = 6  # samples from a line where its sides begin
_BLOCK = 8  # samples along a line that make one block
_STAR = 6.0  # sigma at which samples are held, so that no star speaks for a line
_SURE = 6.0  # standard deviations of a median
_EVEN, _FLICKER = 1.35, 0.25  # of the noise, and of its own level, may a trail vary along its length
_FILLED = 0.75  # of the blocks of a trail are bright: stars in a row leave gaps
_SHORTEST = 100.0  # pixels
_ALONE = 0.3  # of the frame's diagonal: a trail with both ends inside is at least so long, spikes are not
_FADING = 1.6  # times as bright near a saturated star as further out: a spike
_UPRIGHT = (2.0, 0.75)  # pixels, samples off a row or column from end to end: a defect of the detector
_FAINT = 0.8  # of its half width in samples, at least, is the level of a trail: what is wide and faint is sky


class Trail(NamedTuple):
    """A straight trail from (x0, y0) to (x1, y1), pixels; its full `width`; median S_corr on it, signed."""

    x0: float
    y0: float
    x1: float
    y1: float
    width: float
    score: float


class _Line(NamedTuple):
    """Points x cos(angle) + y sin(angle) = rho, from `first` to `last` along (-sin, cos); lengths in samples."""

    angle: float
    rho: float
    first: float
    last: float
    half_width: float
    level: float


def find_trails(score: np.ndarray, mask: np.ndarray, fwhm: float) -> list[Trail]:
    """Find straight trails in a significance map.

    Every FWHM a pixel is sampled (the map is smooth on that scale). Samples beyond 2.5 sigma vote for the lines through
    them; lines with more votes than their parallels are looked at along their length. A trail is a line whose median
    is bright against its sides, in at least three blocks of four from end to end; that ends at the edge of the frame or
    is at least 0.3 of its diagonal long; that does not fade away from a saturated star; and that is no row or column.
    So stars in a row, spikes, and defects of the detector are none.

    Parameters
    ----------
    score : float array, shape (ny, nx)
        S_corr; NaN where masked.
    mask : integer array, shape (ny, nx)
        Bits of `PixelFlag`.
    fwhm : float
        Of P_D, pixels.

    Returns
    -------
    list of Trail, the strongest first
        Cost: a thinned copy of the map, and some 10^6 votes.
    """
    step = max(1, round(fwhm))
    grid = score[::step, ::step]
    if min(grid.shape) * step < _SHORTEST:
        return []
    known = np.isfinite(grid) & ((mask[::step, ::step] & mask.dtype.type(INVALID)) == 0)
    if np.count_nonzero(known) < 1000:
        return []
    few = slice(None, None, max(1, round(math.sqrt(grid.size / 100_000))))
    middle, width = median_sigma(grid[few, few][known[few, few]])
    z = np.where(known, (grid - grid.dtype.type(middle)) / grid.dtype.type(max(width, 0.5)), 0)
    bits = mask.dtype.type(PixelFlag.SATURATED_SCIENCE | PixelFlag.SATURATED_REFERENCE)
    saturated = cache(lambda: np.argwhere(mask & bits) / step)  # looked for if there is a line to be judged
    found = []
    for sign in (1.0, -1.0):
        for line in _of_sign(sign * z, known, saturated, step):
            c, s = math.cos(line.angle), math.sin(line.angle)
            ends = [(step * (line.rho * c - t * s), step * (line.rho * s + t * c)) for t in (line.first, line.last)]
            found.append(Trail(*ends[0], *ends[1], 2 * step * line.half_width + fwhm, sign * line.level))
    return sorted(found, key=lambda trail: -abs(trail.score))


def trail_mask(shape: tuple[int, int], trails: list[Trail]) -> np.ndarray:
    """Return a bool array of `shape`, True on the trails."""
    out = np.zeros(shape, bool)
    for trail in trails:
        steep = abs(trail.y1 - trail.y0) >= abs(trail.x1 - trail.x0)
        plane = out if steep else out.T
        (x0, y0), (x1, y1) = ((trail.x0, trail.y0), (trail.x1, trail.y1))
        if not steep:
            x0, y0, x1, y1 = y0, x0, y1, x1
        if y0 > y1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        slope = (x1 - x0) / (y1 - y0)
        across = 0.5 * trail.width * math.hypot(1, slope)
        for row in range(max(0, math.floor(y0)), min(plane.shape[0], math.ceil(y1) + 1)):
            centre = x0 + slope * (row - y0)
            first, last = math.ceil(centre - across), math.floor(centre + across)
            if last >= 0:
                plane[row, max(first, 0) : last + 1] = True
    return out


def _of_sign(z: np.ndarray, known: np.ndarray, saturated: Callable[[], np.ndarray], step: int) -> list[_Line]:
    """Return the bright lines of a map in sigma, 0 where nothing is known."""
    y, x = np.nonzero(z > _VOTER)
    if len(y) > _MOST_VOTERS:
        keep = np.linspace(0, len(y) - 1, _MOST_VOTERS).astype(np.int64)
        y, x = y[keep], x[keep]
    angles, votes, offset = _votes(y, x, z.shape)
    lines: list[_Line] = []
    for _ in range(_MOST_LINES):
        if len(y) < 10:
            break
        excess = _above_parallels(votes)
        k, bin_ = np.unravel_index(np.argmax(excess), excess.shape)
        if excess[k, bin_] < _VOTES:
            break
        line = _look(z, known, float(angles[k]), 2.0 * (float(bin_) - offset))
        here = line or _Line(float(angles[k]), 2.0 * (float(bin_) - offset), -np.inf, np.inf, 2.0, 0.0)
        if line is not None and _is_trail(z, line, saturated, step):
            lines.append(line)
            known = known & ~_near(z.shape, line)
        # Its voters have been heard; what is left may hold another line.
        near = np.abs(x * math.cos(here.angle) + y * math.sin(here.angle) - here.rho) < here.half_width + 3
        _, heard, _ = _votes(y[near], x[near], z.shape)
        votes = votes - heard
        y, x = y[~near], x[~near]
    return lines


def _near(shape: tuple[int, ...], line: _Line) -> np.ndarray:
    """Return the samples on a line or near it."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    return np.abs(x * math.cos(line.angle) + y * math.sin(line.angle) - line.rho) < line.half_width + 3


def _votes(y: np.ndarray, x: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the angles (k,), votes (k, bins) of points for lines of two samples' width, and the bin of rho = 0."""
    diagonal = math.hypot(*shape)
    count = int(np.clip(0.5 * diagonal, 90, 512))
    angles = np.pi * np.arange(count) / count
    offset = math.ceil(diagonal / 2) + 1
    bins = 2 * offset + 1
    half = 0.5 * np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    place = np.rint(half[0][:, None] * x.astype(np.float32) + half[1][:, None] * y.astype(np.float32))
    place += (np.arange(count, dtype=np.float32) * bins + offset)[:, None]
    votes = np.bincount(place.astype(np.int32).ravel(), minlength=count * bins)
    return angles, votes.reshape(count, bins).astype(np.float32), offset


def _above_parallels(votes: np.ndarray) -> np.ndarray:
    """Return by how many sigma each line has more votes than its parallels 3 to 12 bins away."""
    total = np.cumsum(np.pad(votes, ((0, 0), (13, 12))), axis=1)

    def within(reach: int) -> np.ndarray:
        n = votes.shape[1]
        return total[:, 12 + reach + 1 : 13 + reach + n] - total[:, 12 - reach : 12 - reach + n]

    around = (within(11) - within(2)) / 18
    return (votes - around) / np.sqrt(np.maximum(around, 1.0))


def _strip(z: np.ndarray, known: np.ndarray, angle: float, rho: float) -> tuple[np.ndarray, np.ndarray]:
    """Return places t along a line inside the frame, and the map there (len(t), 2 reach + 1), NaN where unknown."""
    c, s = math.cos(angle), math.sin(angle)
    ny, nx = z.shape
    t = np.arange(-math.ceil(math.hypot(ny, nx)), math.ceil(math.hypot(ny, nx)) + 1)
    inside = (rho * c - t * s >= 0) & (rho * c - t * s <= nx - 1) & (rho * s + t * c >= 0) & (rho * s + t * c <= ny - 1)
    t = t[inside]
    u = np.arange(-_REACH, _REACH + 1)
    columns = np.rint((rho + u) * c - t[:, None] * s).astype(np.int64)
    rows = np.rint((rho + u) * s + t[:, None] * c).astype(np.int64)
    there = (columns >= 0) & (columns < nx) & (rows >= 0) & (rows < ny)
    rows, columns = np.clip(rows, 0, ny - 1), np.clip(columns, 0, nx - 1)
    return t, np.where(there & known[rows, columns], z[rows, columns], np.nan)


def _look(z: np.ndarray, known: np.ndarray, angle: float, rho: float) -> _Line | None:
    """Refine a line and find where it begins and ends; None if it is not bright and whole."""
    turn = np.pi / np.clip(0.5 * math.hypot(*z.shape), 90, 512)
    best, place = -np.inf, (angle, rho)
    for a in angle + turn * np.linspace(-1, 1, 9):
        t, strip = _strip(z, known, a, rho)
        if len(t) < 3 * _BLOCK:
            continue
        counts = np.maximum(np.count_nonzero(np.isfinite(strip), axis=0), 1)
        sums = np.nansum(np.clip(strip, -_STAR / 2, _STAR), axis=0) / np.sqrt(counts)
        inner = sums[_REACH - 3 : _REACH + 4]
        if inner.max() > best:
            best, place = float(inner.max()), (a, rho + int(np.argmax(inner)) - 3)
    if best == -np.inf:
        return None
    part = _bright_part(*_strip(z, known, *place))
    if part is None:
        return None
    place = _straightened(*part, place)
    whole = _strip(z, known, *place)
    part = _bright_part(*whole)
    line = None if part is None else _measured(*part, place)
    return None if line is None else _to_the_edges(*whole, line)


def _bright_part(t: np.ndarray, strip: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the part of a strip between the ends of what is bright in its middle, less its sides."""
    sides = strip[:, np.abs(np.arange(-_REACH, _REACH + 1)) >= _SIDE]
    sides = sides[np.isfinite(sides)]
    if len(t) < 3 * _BLOCK or sides.size < _BLOCK:
        return None
    strip = strip - np.median(sides)
    core = strip[:, _REACH - 1 : _REACH + 2]
    largest = np.where(np.isfinite(core), core, -np.inf).max(axis=1)
    # The largest of three neighbours in noise is 0.85 on average (0.6 where they are correlated).
    gain = np.where(np.isfinite(largest), np.clip(largest, -_STAR / 2, _STAR) - 1.25, 0.0)
    total = np.concatenate([[0.0], np.cumsum(gain)])
    last = int(np.argmax(total - np.minimum.accumulate(total)))
    first = int(np.argmin(total[: last + 1]))
    return (t[first:last], strip[first:last]) if last - first >= 3 * _BLOCK else None


def _straightened(t: np.ndarray, strip: np.ndarray, place: tuple[float, float]) -> tuple[float, float]:
    """Return angle and rho of the line through the middles of the blocks of a strip."""
    u = np.arange(-5, 6)
    near = np.clip(np.nan_to_num(strip[:, _REACH - 5 : _REACH + 6]), 0, _STAR)
    blocks = np.array_split(np.arange(len(t)), max(3, len(t) // _BLOCK))
    profiles = np.array([near[b].mean(axis=0) for b in blocks])
    weights = np.maximum(profiles - 0.5 * profiles.max(axis=1, keepdims=True), 0)
    total = weights.sum(axis=1)
    if np.count_nonzero(total) < 3:
        return place
    middles = (weights @ u)[total > 0] / total[total > 0]
    at = np.array([t[b].mean() for b in blocks])[total > 0]
    # Theil and Sen: half of the blocks may be led astray by stars.
    i, j = np.triu_indices(len(at), max(1, len(at) // 3))
    slope = float(np.median((middles[j] - middles[i]) / (at[j] - at[i])))
    shift = float(np.median(middles - slope * at))
    if abs(slope) * (at[-1] - at[0]) > 6 or not np.isfinite(slope):
        return place
    turn = math.atan(slope)
    return place[0] - turn, (place[1] + shift) * math.cos(turn)


def _to_the_edges(t: np.ndarray, strip: np.ndarray, line: _Line) -> _Line:
    """Return a line with each end moved to the end of the strip, if what lies between is bright too."""
    first, last = line.first, line.last
    centre = np.clip(strip[:, _REACH - 1 : _REACH + 2], -_STAR / 2, _STAR)
    for before in (True, False):
        rest = centre[t < first] if before else centre[t > last]
        values = rest[np.isfinite(rest)]
        if len(rest) <= _BLOCK or (values.size and float(np.mean(values)) > 0.4 * min(line.level, 3.0)):
            first, last = (float(t[0]), last) if before else (first, float(t[-1]))
    return line._replace(first=first, last=last)


def _measured(t: np.ndarray, strip: np.ndarray, place: tuple[float, float]) -> _Line | None:
    """Return a line with its width and level, if it is bright against its surroundings from end to end."""
    n, none = len(t), np.full(2 * _REACH + 1, np.nan)
    filled = np.isfinite(strip).sum(axis=0) > n / 4
    profile = none
    if filled.any():
        profile = np.where(filled, np.nanmedian(np.where(filled, strip, 0.0), axis=0), np.nan)
    middle = profile[_REACH - 2 : _REACH + 3]
    if not np.isfinite(middle).any():
        return None
    column = _REACH - 2 + int(np.nanargmax(middle))
    level = float(profile[column])
    sides = strip[:, np.abs(np.arange(-_REACH, _REACH + 1)) >= _SIDE]
    low, high = np.nanpercentile(sides, [15.865, 84.135])
    around = max(1.0, float(high - low) / 2)  # more than 1 in a crowd
    # A median of n samples, correlated over two of them, scatters by 1.25 sigma sqrt(2 / n).
    if level < _SURE * 1.25 * around * math.sqrt(2 / n):
        return None
    # Stars in a row vary along the line from nothing to their full height.
    held = np.clip(strip[:, column], -_STAR / 2, _STAR)
    low, high = np.nanpercentile(held, [15.865, 84.135])
    if float(high - low) / 2 > _EVEN * around + _FLICKER * level:
        return None
    blocks = [b[np.isfinite(b)] for b in np.array_split(held, n // _BLOCK)]
    means = np.array([b.mean() for b in blocks if b.size >= _BLOCK // 2])
    if len(means) < 3 or np.mean(means > 0.4 * min(level, 3.0)) < _FILLED:
        return None
    left = right = column
    while left > 0 and profile[left - 1] > 0.25 * level:
        left -= 1
    while right < 2 * _REACH and profile[right + 1] > 0.25 * level:
        right += 1
    rho = place[1] + 0.5 * (left + right) - _REACH
    return _Line(place[0], rho, float(t[0]), float(t[-1]), max(0.5 * (right - left + 1), 1.0), level)


def _is_trail(z: np.ndarray, line: _Line, saturated: Callable[[], np.ndarray], step: int) -> bool:
    """Tell a trail from a column, from a spike and from what is too short."""
    ny, nx = z.shape
    length = line.last - line.first
    c, s = math.cos(line.angle), math.sin(line.angle)
    off = min(abs(c), abs(s)) * length * step
    if off < max(_UPRIGHT[0], _UPRIGHT[1] * step) or length * step < _SHORTEST or line.level < _FAINT * line.half_width:
        return False
    ends = [(line.rho * s + t * c, line.rho * c - t * s) for t in (line.first, line.last)]
    at_edge = [min(y, x, ny - 1 - y, nx - 1 - x) < 2 * _BLOCK for y, x in ends]
    if not any(at_edge) and length < _ALONE * math.hypot(ny, nx):
        return False
    return not _fades(z, line, saturated())


def _fades(z: np.ndarray, line: _Line, saturated: np.ndarray) -> bool:
    """Tell whether a line is brightest at a saturated star that it passes, as a spike is."""
    if len(saturated) == 0:
        return False
    c, s = math.cos(line.angle), math.sin(line.angle)
    distance = np.abs(saturated[:, 1] * c + saturated[:, 0] * s - line.rho)
    along = saturated[:, 0] * c - saturated[:, 1] * s
    on = (distance < line.half_width + 2) & (along > line.first - 2 * _BLOCK) & (along < line.last + 2 * _BLOCK)
    if not on.any():
        return False
    t = np.arange(line.first, line.last + 1)
    rows, columns = (np.rint(k).astype(np.int64) for k in (line.rho * s + t * c, line.rho * c - t * s))
    values = z[np.clip(rows, 0, z.shape[0] - 1), np.clip(columns, 0, z.shape[1] - 1)]
    away = np.min(np.abs(t[:, None] - along[on][None]), axis=1)
    inner = away < np.median(away)
    near, far = (values[part & (values != 0)] for part in (inner, ~inner))
    return near.size > 0 and far.size > 0 and bool(np.median(near) > _FADING * max(float(np.median(far)), 0.5))


def flag_trails(maps: dict[str, Any], psf: np.ndarray | None, metrics: dict[str, Any], *, look: bool) -> list[Step]:
    """Look for trails in "score_corr" and set their bit in "mask", both (ny, nx); the step lists them.

    Parameters
    ----------
    maps : dict
        "mask" is replaced if a trail is found.
    psf : array or None
        P_D.
    metrics : dict
        Gets "n_trails".
    look : bool
        False finds none.

    Returns
    -------
    list of Step
        Empty, or one whose value "trails" is a list of dicts: ends and width in pixels, median S_corr.
    """
    score, mask = maps["score_corr"], maps["mask"]
    found = find_trails(score, mask, 3.0 if psf is None else fwhm_of(psf)) if look and score is not None else []
    metrics["n_trails"] = len(found)
    if not found:
        return []
    on = trail_mask(score.shape, found)
    maps["mask"] = mask | np.where(on, mask.dtype.type(PixelFlag.TRAIL), mask.dtype.type(0))
    told = [f"({t.x0:.0f}, {t.y0:.0f}) to ({t.x1:.0f}, {t.y1:.0f}), {t.score:+.1f} sigma" for t in found[:3]]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    text = f"{len(found)} across the difference, {np.count_nonzero(on)} pixels flagged: {'; '.join(told)}{more}"
    listed = [{k: round(float(v), 3) for k, v in trail._asdict().items()} for trail in found]
    return [Step("trails", text, {"trails": listed})]
