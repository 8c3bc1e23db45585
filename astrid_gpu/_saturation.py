"""`saturation_mask`: pixels beyond the detector's or the file's range."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu._bleed import bleed_trails, occupied
from astrid_gpu._host_ops import host_op
from astrid_gpu._no_data import quantum
from astrid_gpu._plateaus import BRIGHT, PileUp, flat_tops, pile_ups, side_by_side
from astrid_gpu.image import Image
from astrid_gpu.ops.mask import connected, dilate
from astrid_gpu.ops.noise import median_sigma
from astrid_gpu.results import Step

__all__ = ["saturation_level", "saturation_mask"]

_LARGEST_SATURATION = (255, 1023, 4095, 16383, 32767, 65535)
_SAMPLE = 250_000  # pixels that tell where the sky is and how wide; a plateau is looked for in all of them
_PILE = 0.98  # of the height of a pile-up, from which pixels belong to it
_RIM = 0.9  # of a level: non-linear rims
_SURE = 20  # pixels piled up below others whose places are not looked at
_DIP = 50  # pixels enclosed by a core
_LIT = 5.0  # sigma above the sky: what surrounds masked pixels that are the core of a star


def saturation_mask(image: Image) -> tuple[np.ndarray, Step]:
    """Return saturated pixels: at the level of the header, at an integer type's ceiling, piled up, or on flat cores.

    Seeds at the level are grown over connected pixels above 90 % of it (non-linear rims), along columns and rows as
    far as charge has bled (see `_bleed`), and by one pixel. Cores that are flat at a level of their own, as behind
    another amplifier or after a flat field, are found by their shape (see `_plateaus`). Masked pixels tell no level,
    and count only as cores of stars. Pixels that are NaN or infinite count as saturated, because detectors' pipelines
    write them there.

    Parameters
    ----------
    image : Image
        As read, or background-subtracted: `background_level` is added back.

    Returns
    -------
    (mask, step) : bool array (ny, nx), Step
    """
    finite, bad = np.isfinite(image.data), image.bad
    raw = np.where(bad, -np.inf, image.data) if bad.any() else image.data
    if image.background_level:
        raw = raw + image.background_level
    sky, noise = _sky_of(raw, ~bad)
    places = np.flatnonzero(raw > sky + BRIGHT * noise)
    heights = raw.ravel()[places].astype(np.float64) - sky
    piles = [p for p in pile_ups(heights) if p.above == 0 or _touch(p, heights, places, raw.shape[1])]
    level, origin = _chosen(image, piles, heights, sky)
    cores = _at_level(image, raw, level, sky, noise)
    n_at = np.count_nonzero(cores)
    others = [p for p in piles if level is None or sky + p.height < level or p.above > p.n / 4]
    _add_other_levels(cores, raw, places, heights, others, sky)
    n_other, n_bled, mask = int(np.count_nonzero(cores) - n_at), 0, ~finite
    _fill_dips(cores)
    if cores.any():
        charge = bleed_trails(raw, cores, sky, noise)
        n_bled = int(np.count_nonzero(charge))
        mask |= host_op("dilate", dilate)(cores | charge, 1)
    n, n_lost = int(np.count_nonzero(mask & finite)), finite.size - np.count_nonzero(finite)
    at = f"at {level:.6g} ({origin})" if level is not None else "(no level in the header, no pile-up at the top)"
    at += f", {n_other} on flat cores at other levels" if n_other else ""
    at += f", {n_bled} more with charge that bled" if n_bled else ""
    text = f"{image.name}: {n} saturated pixels {at}, {n_lost} not finite"
    values = {"level": level, "origin": origin, "n_saturated": n, "n_other": n_other, "n_bled": n_bled}
    return mask, Step("saturation", text, values)


def saturation_level(image: Image) -> tuple[float | None, str]:
    """Return the saturation level of an image in raw units and where it comes from; its planes may lie on a device."""
    values = image.data[~image.bad]
    if values.size == 0:
        return _chosen(image, [], np.zeros(0), 0.0)
    if image.background_level:
        values = values + image.background_level
    sky, noise = _level_and_noise(values[:: max(1, values.size // _SAMPLE)])
    heights = values[values > sky + BRIGHT * noise]
    heights = np.asarray(heights.get() if hasattr(heights, "get") else heights, np.float64) - sky
    return _chosen(image, [p for p in pile_ups(heights) if p.above == 0 or p.n >= _SURE], heights, sky)


def _chosen(image: Image, piles: list[PileUp], heights: np.ndarray, sky: float) -> tuple[float | None, str]:
    """Return the level that holds for the whole image, in raw units, and where it comes from.

    A plateau in the pixels wins over a level from a header that it does not reach: keywords are often those of the
    converter, while the detector saturates before. Some pixels may lie above a plateau, hot ones or hit by a cosmic
    ray, but no stars.
    """
    given, level, origin, end = image.saturation, None, "none", 0.0
    whole = [p for p in piles if p.above <= p.n / 4]
    if whole:
        end = sky + whole[0].height
        level, origin = sky + _PILE * whole[0].height, "pixels piled up at the top"
    top = sky + float(heights.max(initial=0.0))
    for ceiling in _LARGEST_SATURATION:
        if abs(top - ceiling) <= 0.5 and np.count_nonzero(np.abs(heights + sky - ceiling) <= 0.5) >= 2:
            level, end, origin = ceiling - 0.5, top, "ceiling of the integer type"
    header = float("nan") if given is None or not np.isfinite(given) else float(given)
    if header > 0 and (level is None or header <= level or end < header <= top):
        return header, "given"
    return level, origin


def _touch(pile: PileUp, heights: np.ndarray, places: np.ndarray, width: int) -> bool:
    """Tell whether most pixels of a pile lie side by side: stars as bright as each other have one at the top each."""
    return bool(side_by_side(places[_of_pile(pile, heights)], width).mean() > 0.5)


def _of_pile(pile: PileUp, heights: np.ndarray) -> np.ndarray:
    return (heights >= _PILE * pile.height) & (heights <= pile.height)


def _at_level(image: Image, raw: np.ndarray, level: float | None, sky: float, noise: float) -> np.ndarray:
    """Return the pixels at the level, masked ones on stars included, with their rims."""
    if level is None:
        return np.zeros(raw.shape, bool)
    seeds = raw >= level
    if image.mask is not None and image.mask.any():
        seeds |= _masked_cores(image, level, sky, noise)
    if not seeds.any():
        return seeds
    return connected(seeds, raw >= image.background_level + _RIM * (level - image.background_level))


def _masked_cores(image: Image, level: float, sky: float, noise: float) -> np.ndarray:
    """Return masked pixels at the level that stand amid light, as in a star; garbage stands amid sky."""
    from scipy.ndimage import label, median

    value = image.data + image.background_level if image.background_level else image.data
    full = (image.mask != 0) & (value >= level) & np.isfinite(value)
    if not full.any():
        return full
    rows, columns = (occupied(full.any(axis)) for axis in (1, 0))
    parts, n = label(full[np.ix_(rows, columns)], np.ones((3, 3)))
    j, i = np.nonzero(parts)
    number, y, x = parts[j, i], rows[j], columns[i]
    rims, owners = [], []
    for up, left in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        a, b = np.clip(y + up, 0, full.shape[0] - 1), np.clip(x + left, 0, full.shape[1] - 1)
        rim = ~full[a, b] & np.isfinite(value[a, b])
        rims.append(value[a[rim], b[rim]])
        owners.append(number[rim])
    height = np.asarray(median(np.concatenate(rims), np.concatenate(owners), np.arange(1, n + 1))) - sky
    full[y, x] = (height > _LIT * noise)[number - 1]
    return full


def _add_other_levels(
    cores: np.ndarray, raw: np.ndarray, places: np.ndarray, heights: np.ndarray, piles: list[PileUp], sky: float
) -> None:
    """Add cores that are flat at whatever level, and what is piled up side by side below the highest level."""
    for top in flat_tops(raw, places, heights, sky):
        cores.ravel()[top.pixels] = True
    for pile in piles:
        own = places[_of_pile(pile, heights)]
        seeds = np.zeros(raw.shape, bool)
        seeds.ravel()[own[side_by_side(own, raw.shape[1])]] = True
        cores |= connected(seeds, raw >= sky + _RIM * pile.height)


def _fill_dips(cores: np.ndarray) -> None:
    """Fill the middles of cores that are darker than their rims."""
    from scipy.ndimage import label

    if not cores.any():
        return
    cut = np.ix_(*(occupied(cores.any(axis)) for axis in (1, 0)))
    open_, n = label(np.pad(~cores[cut], 1, constant_values=True))
    sizes = np.bincount(open_.ravel(), minlength=n + 1)
    dips = (sizes <= _DIP) & (np.arange(n + 1) > 0)
    dips[open_[0, 0]] = False
    cores[cut] |= dips[open_][1:-1, 1:-1]


def _sky_of(raw: np.ndarray, good: np.ndarray) -> tuple[float, float]:
    """Return level and noise of the sky from a part of the pixels."""
    step = max(1, int(np.sqrt(raw.size / _SAMPLE)))
    return _level_and_noise(raw[::step, ::step][good[::step, ::step]])


def _level_and_noise(sample: Any) -> tuple[float, float]:
    """Return median and robust width; of quantised values one quantum at least, which is all that a width of 0 says."""
    sky, noise = median_sigma(sample)
    return sky, noise if noise > 0 or not sample.size else quantum(sample)
