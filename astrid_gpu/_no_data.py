"""Pixels without data: values that stand for none, as in borders filled with zeros, and numbers that no pixel has."""

from __future__ import annotations

import numpy as np

from astrid_gpu._host_ops import host_op
from astrid_gpu.ops.mask import connected, dilate
from astrid_gpu.ops.noise import median_sigma

__all__ = ["no_data", "quantum"]

_SAMPLE = 20_000  # pixels that tell sky, noise and quantum
_ABSURD = 1e9  # sigma from the sky: no detector has such a range
_FAR = 10.0  # sigma below the sky, from where a value is no noise
_ABOVE = 5.0  # sigma above the sky, from where one value is a plateau of light
_FINE = 4.0  # quanta that the noise must span for equal neighbours to be rare: then a pixel in ten at most is equal
_LEAST = 25  # pixels of a value among those of the sky
_COUNTS = 0.2  # of the frame: so many pixels of a value, most in no block, are what a sky of few photons has
_SENTINELS = 20  # pixels of one negative value far below the sky, wherever they are
_HITS = 50_000  # runs of three equal pixels that are looked at
_VALUES = 8  # that are looked at, the most frequent
_ONE_SIDED = 0.005  # pixels beside a region that lie below its value
_TURNS = 0.25  # of three pixels on the sky in a row have the middle one highest or lowest: white noise 2/3, wings 0.1
_BAND = 1 << 17  # pixels that stay in cache


def no_data(data: np.ndarray, bad: np.ndarray) -> tuple[np.ndarray | None, list[tuple[float, int]]]:
    """Find pixels that hold a fill value.

    These are connected regions of exactly one value, in which at least 3 x 3 pixels are equal, on the sky or below it,
    whose surroundings have noise that spans many quanta: equal neighbours of a coarsely quantised sky are none, nor is
    a noise-free sky under the wings of its stars. Further all pixels of such a value far below the sky, of negative
    ones even without a region, and values 10^9 sigma from the sky.

    Parameters
    ----------
    data : array, shape (ny, nx)
    bad : bool array, shape (ny, nx)
        Pixels that are known to be bad, not finite ones among them.

    Returns
    -------
    mask : bool array, shape (ny, nx), or None for none
    values : list of (value, pixels)
        Most frequent first.

    Notes
    -----
    Cost: one look at each pixel and a second at every third row; some passes more for each value found.
    """
    step = max(1, int(np.sqrt(data.size / _SAMPLE)))
    sample = data[::step, ::step][~bad[::step, ::step]].astype(np.float64)
    if sample.size < _LEAST or min(data.shape) < 3:
        return None, []
    grain = quantum(sample)
    rest = _without_commonest(sample)
    sky, sigma = median_sigma(rest)
    # On a sky of few values equal neighbours are the rule: there only what lies far below it is looked at.
    highest = sky + _ABOVE * sigma if sigma >= _FINE * grain else sky - _FAR * grain
    sigma = max(sigma, grain)
    mask = np.zeros(data.shape, bool)
    found = _absurd_and_sentinels(data, bad, mask, sky, sigma)
    for value in _block_values(data, bad | mask if found else bad, highest):
        rest = sample[sample != value]
        if rest.size == 0:
            break
        n = _add_region(data, bad, mask, value, rest, grain, sample.size)
        if n:
            found.append((value, n))
            sample = rest
    return (mask, sorted(found, key=lambda each: -each[1])) if found else (None, [])


def quantum(sample: np.ndarray) -> float:
    """Return the smallest distance of two values: the unit of integers, next to nothing for real numbers."""
    values = np.unique(sample)
    return float(np.diff(values).min()) if values.size > 1 else 0.0


def _without_commonest(sample: np.ndarray) -> np.ndarray:
    """Return the values but for one that a fifth of them have."""
    values, counts = np.unique(sample, return_counts=True)
    k = int(np.argmax(counts))
    return sample[sample != values[k]] if 0.2 * sample.size < counts[k] < sample.size else sample


def _absurd_and_sentinels(
    data: np.ndarray, bad: np.ndarray, mask: np.ndarray, sky: float, sigma: float
) -> list[tuple[float, int]]:
    """Mark values that no pixel has, and negative ones far below the sky that are repeated; return them."""
    if not sigma > 0:
        return []
    low, high = sky - 2 * _FAR * sigma, sky + _ABSURD * sigma
    rows = max(1, _BAND // data.shape[1])
    hits, values = [], []
    for top in range(0, len(data), rows):
        band = data[top : top + rows]
        odd = (band < low) | (band > high)
        if odd.any():
            odd &= ~bad[top : top + rows]
            hits.append(np.flatnonzero(odd) + top * data.shape[1])
            values.append(band[odd])
    if not hits:
        return []
    at, value = np.concatenate(hits), np.concatenate(values).astype(np.float64)
    kinds, inverse, counts = np.unique(value, return_inverse=True, return_counts=True)
    absurd = np.abs(kinds - sky) > _ABSURD * sigma
    wanted = absurd | ((kinds < min(low, 0)) & (counts >= _SENTINELS))
    mask.ravel()[at[wanted[inverse]]] = True
    return [(float(k), int(n)) for k, n in zip(kinds[wanted], counts[wanted], strict=True)]


def _block_values(data: np.ndarray, bad: np.ndarray, highest: float) -> list[float]:
    """Return values of which 3 x 3 good pixels are equal, the most frequent first."""
    rows = data[::3]
    same = rows[:, 1:] == rows[:, :-1]
    runs = same[:, 1:] & same[:, :-1]
    if np.count_nonzero(runs) > _HITS:
        runs &= rows[:, 1:-1] <= highest
    hits = np.flatnonzero(runs)
    if hits.size == 0:
        return []
    y, x = np.divmod(hits[:: 1 + hits.size // _HITS], data.shape[1] - 2)
    y, value = 3 * y, data[3 * y, x]
    whole = np.zeros(y.size, bool)
    for up in (0, 1, 2):
        equal = (y >= up) & (y - up + 2 < len(data))
        for j in range(3):
            row = np.clip(y - up + j, 0, len(data) - 1)
            for i in range(3):
                equal &= (data[row, x + i] == value) & ~bad[row, x + i]
        whole |= equal
    values, counts = np.unique(value[(value <= highest) & whole], return_counts=True)
    return [float(v) for v in values[np.argsort(-counts, kind="stable")[:_VALUES]]]


def _add_region(
    data: np.ndarray, bad: np.ndarray, mask: np.ndarray, value: float, rest: np.ndarray, grain: float, n_sample: int
) -> int:
    """Mark the pixels of a value if it is a fill, and what mixes it with the sky beside them; return how many."""
    sky, noise = median_sigma(rest)
    sigma = max(noise, grain)
    far = sky - value > _FAR * sigma
    if value > sky + _ABOVE * sigma or not (far or (noise >= _FINE * grain and rest.size >= 0.1 * n_sample)):
        return 0
    grown = host_op("dilate", dilate)
    same = (data == value) & ~bad
    blocks = same & grown(_middles(same), 3)
    scattered = int(np.count_nonzero(same & ~blocks))
    if scattered > max(_COUNTS * data.size, int(np.count_nonzero(blocks))):
        return 0
    region = same if far else blocks
    if not far:  # and its corners, too sharp for blocks
        rest_of_it = same & ~region
        region |= connected(region & grown(rest_of_it, 1), rest_of_it)
    beside = grown(region, 2) & ~(same | bad | mask)
    off = data[beside].astype(np.float64) - value
    n = int(np.count_nonzero(region & ~mask))
    if (n < _LEAST and not far) or not _noisy(off, grain, far=far):
        return 0
    if not far and np.mean(off < 0) < _ONE_SIDED and not _alternates(data, bad | same, sky, sigma):
        return 0
    mask |= region
    if far:  # interpolated with its fill, the rim of an image is neither
        y, x = np.nonzero(beside)
        mixed = off < (sky - value) - _FAR * sigma
        mask[y[mixed], x[mixed]] = True
    return n


def _middles(same: np.ndarray) -> np.ndarray:
    """Return the middles of blocks of 3 x 3 True pixels."""
    rows = same[:-2] & same[1:-1] & same[2:]
    middles = np.zeros(same.shape, bool)
    middles[1:-1, 1:-1] = rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:]
    return middles


def _noisy(off: np.ndarray, grain: float, *, far: bool) -> bool:
    """Tell whether what surrounds a region differs from its value as noise on a sky does, not as the wings of stars."""
    if off.size == 0:
        return far
    size = np.abs(off)
    middle = float(np.median(size))
    below, near = np.mean(off < 0), np.mean(size < 0.05 * middle)
    return middle >= _FINE * grain and not (below < _ONE_SIDED < near)


def _alternates(data: np.ndarray, out: np.ndarray, sky: float, sigma: float) -> bool:
    """Tell whether the pixels on the sky go up and down from one to the next, as noise does and models do not."""
    step = max(1, data.size // 1_000_000)
    rows = data[::step].astype(np.float64)
    usable = ~out[::step] & (np.abs(rows - sky) < 3 * sigma)
    rise = np.diff(rows, axis=1)
    turns = rise[:, 1:] * rise[:, :-1] < 0
    three = usable[:, 2:] & usable[:, 1:-1] & usable[:, :-2]
    return bool(np.count_nonzero(turns & three) > _TURNS * np.count_nonzero(three))
