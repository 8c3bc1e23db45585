r"""Local maxima above a threshold: one peak for each hill, whatever ties, masks, NaN and edges do to it.

A peak is a *regional maximum*: an 8-connected set of equal pixels above the threshold whose neighbours are all
lower. Nearly always the set is a single pixel; for a plateau its first pixel in raster order stands for it.
Masked, NaN and infinite pixels are lower than everything and never peaks, as are the pixels beyond the frame.

It is found in three steps, of which only the first looks at every pixel (and has fast twins):

1. `find_peaks`: pixels c above the threshold with c > o for the four neighbours o that come earlier in raster
   order and c >= o for the four later ones. A plateau gives at least one such pixel, a bent one may give several,
   and so may a plateau that is not a maximum at all; those pixels are marked as tied.
2. `resolve_plateaus`: a flood from the tied pixels decides exactly. It costs nothing where no two neighbours are
   equal.
3. `suppress`: of two peaks of the same sign within `min_separation` pixels the stronger stays, strongest first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from astrid_gpu.ops.groups import linked_groups

__all__ = ["NEIGHBOURS", "Maxima", "find_peaks", "resolve_plateaus", "select_peaks", "suppress"]

NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
"""Offsets (y, x) in raster order: the first four come before the pixel, the last four after it."""


class Maxima(NamedTuple):
    """Local maxima as host arrays of one length: `image`, `y`, `x` int64; `value` float64; `tied` bool."""

    image: np.ndarray
    y: np.ndarray
    x: np.ndarray
    value: np.ndarray
    tied: np.ndarray

    def take(self, rows: np.ndarray) -> Maxima:
        """Return some of the rows."""
        return Maxima(*(column[rows] for column in self))


def find_peaks(images: Any, threshold: Any, mask: Any, both: bool, *, xp: Any = np) -> tuple[np.ndarray, ...]:
    """Find the pixels that pass the strict/loose test: step 1, which every backend does its own way.

    Parameters
    ----------
    images : real array, shape (n, ny, nx), float32 or float64
    threshold : array, shape (n,)
        Peaks are strictly above it, after rounding to the type of `images`.
    mask : bool or uint8 array, shape (1 or n, ny, nx), or None
        Nonzero = not a peak, and lower than its neighbours.
    both : bool
        Also find minima below -threshold; then threshold must not be negative.

    Returns
    -------
    (image, y, x, value, tied) : NumPy arrays (m,); int64, float64 and bool
        The fields of `Maxima`, in no particular order, for `select_peaks`. On the host wherever `images` are: a
        table, as long as there are peaks.
    """
    level = xp.asarray(threshold).astype(images.dtype)[:, None, None]
    signs = (1, -1) if both else (1,)
    parts = [_maxima_of_sign(images, level, mask, sign, xp) for sign in signs]
    return tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))


def _maxima_of_sign(images: Any, level: Any, mask: Any, sign: int, xp: Any) -> Maxima:
    above = (sign * images > level) & xp.isfinite(images)
    if mask is not None:
        above &= mask == 0
    i, y, x = xp.nonzero(above)
    centre = sign * images[i, y, x]
    keep, tied = xp.ones(centre.shape, bool), xp.zeros(centre.shape, bool)
    for number, (dy, dx) in enumerate(NEIGHBOURS):
        other = sign * _value_at(images, mask, i, y + dy, x + dx, sign, xp)
        keep &= (centre > other) if number < 4 else (centre >= other)
        tied |= centre == other
    value = _host(sign * centre[keep]).astype(np.float64)
    return Maxima(_host(i[keep]), _host(y[keep]), _host(x[keep]), value, _host(tied[keep]))


def _value_at(images: Any, mask: Any, i: Any, y: Any, x: Any, sign: int, xp: Any) -> Any:
    """Return pixels, with those that are masked, not finite or beyond the frame lower (for `sign`) than all."""
    _, ny, nx = images.shape
    inside = (y >= 0) & (y < ny) & (x >= 0) & (x < nx)
    yc, xc = xp.clip(y, 0, ny - 1), xp.clip(x, 0, nx - 1)
    value = images[i, yc, xc]
    usable = inside & xp.isfinite(value)
    if mask is not None:
        usable &= mask[i % mask.shape[0], yc, xc] == 0
    return xp.where(usable, value, xp.asarray(-sign * np.inf, images.dtype))


def select_peaks(
    images: Any, mask: Any, found: Maxima, min_separation: float, both: bool, *, xp: Any = np
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Do steps 2 and 3: shared by every backend, so that all give the same peaks in the same order.

    Parameters
    ----------
    images, mask, both
        As in `find_peaks`.
    found : Maxima
        What `find_peaks` returned.
    min_separation : float
        Pixels. Peaks are never neighbours, so 1 suppresses nothing.

    Returns
    -------
    (image, y, x, value) : NumPy arrays (m,), sorted by (image, y, x)
    """
    found = found.take(np.lexsort((found.x, found.y, found.image)))
    if found.tied.any():
        found = found.take(resolve_plateaus(images, mask, found, both, xp=xp))
    if min_separation > 1:
        found = found.take(suppress(found, min_separation, both))
    return found.image, found.y, found.x, found.value


def resolve_plateaus(images: Any, mask: Any, found: Maxima, both: bool, *, xp: Any = np) -> np.ndarray:
    """Return which maxima (sorted in raster order) stand for a plateau that is a regional maximum.

    All tied pixels of one image flood their plateaus together. Where two floods meet they are one plateau, and
    the earliest pixel keeps it; where a flood touches a higher pixel its plateau is no maximum. Pixels are looked
    up where the image lies; only the tied ones are known to the host.
    """
    keep = np.ones(len(found.image), bool)
    for image in np.unique(found.image[found.tied]):
        rows = np.flatnonzero(found.tied & (found.image == image))
        plane = None if mask is None else mask[int(image) % mask.shape[0]]
        sign = np.where(both & (found.value[rows] < 0), -1, 1)
        keep[rows] = _flood(images[int(image)], plane, found.take(rows), sign, xp)
    return keep


def _flood(image: Any, mask: Any, seeds: Maxima, signs: np.ndarray, xp: Any) -> np.ndarray:
    """Return for each seed whether it is the first of the seeds of a regional maximum."""
    ny, nx = image.shape
    flat = image.reshape(-1)
    usable = xp.isfinite(flat) if mask is None else xp.isfinite(flat) & (mask.reshape(-1) == 0)
    level, sign = xp.asarray(seeds.value).astype(image.dtype), xp.asarray(signs).astype(image.dtype)
    owner = xp.full(flat.size, -1, np.int32)
    where = xp.asarray(seeds.y * nx + seeds.x)
    label = xp.arange(where.size, dtype=np.int32)
    owner[where] = label
    higher = xp.zeros(where.size, bool)
    meetings: list[np.ndarray] = []
    while where.size:
        new_where, new_label = [], []
        for dy, dx in NEIGHBOURS:
            y, x = where // nx + dy, where % nx + dx
            inside = (y >= 0) & (y < ny) & (x >= 0) & (x < nx)
            there, mine = (y * nx + x)[inside], label[inside]
            there, mine = there[usable[there]], mine[usable[there]]
            step = sign[mine] * flat[there] - sign[mine] * level[mine]
            higher[mine[step > 0]] = True
            same = step == 0
            there, mine = there[same], mine[same]
            theirs = owner[there]
            met = (theirs >= 0) & (theirs != mine)
            meetings.append(_host(xp.stack([mine[met], theirs[met]])))
            fresh = theirs < 0  # each pixel once: one offset takes different pixels to different pixels
            owner[there[fresh]] = mine[fresh]
            new_where.append(there[fresh])
            new_label.append(mine[fresh])
        where, label = xp.concatenate(new_where), xp.concatenate(new_label)
        alive = ~higher[label]
        where, label = where[alive], label[alive]
    return _first_of_each(np.concatenate(meetings, axis=1), _host(higher))


def _first_of_each(meetings: np.ndarray, higher: np.ndarray) -> np.ndarray:
    """Join seeds that met; keep the first seed of each plateau that touches nothing higher."""
    m = higher.size
    plateau = linked_groups(meetings.T, m)
    spoiled = np.zeros(m, bool)
    np.logical_or.at(spoiled, plateau, higher)
    first = np.zeros(m, bool)
    first[np.unique(plateau, return_index=True)[1]] = True
    return first & ~spoiled[plateau]


def suppress(found: Maxima, min_separation: float, both: bool) -> np.ndarray:
    """Return which peaks stay when, strongest first, each removes the weaker ones of its sign within a radius.

    The radius counts as within. Equal strength: the earlier in raster order is the stronger. A peak that is itself
    removed removes nothing. The rounds below give the same answer as the loop over all peaks by strength: in each,
    a peak that is stronger than all its undecided neighbours stays, and its neighbours go.
    """
    from scipy.spatial import cKDTree

    far = 4.0 * min_separation + float(max(found.y.max(initial=0), found.x.max(initial=0)))
    negative = both & (found.value < 0)
    group = 2 * found.image + negative
    places = np.stack([group * far, found.y, found.x], axis=1).astype(np.float64)
    keep = np.ones(len(places), bool)
    if len(places) < 2:
        return keep
    pairs = cKDTree(places).query_pairs(min_separation * (1 + 1e-12), output_type="ndarray")
    rank = np.empty(len(places), np.int64)
    strength = np.where(negative, -found.value, found.value)
    rank[np.lexsort((np.arange(len(places)), -strength))] = np.arange(len(places))
    while len(pairs):
        best = rank.copy()
        np.minimum.at(best, pairs[:, 0], rank[pairs[:, 1]])
        np.minimum.at(best, pairs[:, 1], rank[pairs[:, 0]])
        stays = best == rank
        goes = np.concatenate([pairs[stays[pairs[:, 0]], 1], pairs[stays[pairs[:, 1]], 0]])
        keep[goes] = False
        pairs = pairs[keep[pairs[:, 0]] & keep[pairs[:, 1]]]
    return keep


def _host(array: Any) -> np.ndarray:
    return array.get() if hasattr(array, "get") else np.asarray(array)
