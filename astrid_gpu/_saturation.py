"""`saturation_mask`: pixels beyond the detector's or the file's range."""

from __future__ import annotations

import numpy as np

from astrid_gpu._bleed import bleed_trails
from astrid_gpu._host_ops import host_op
from astrid_gpu.image import Image
from astrid_gpu.ops.mask import connected, dilate
from astrid_gpu.ops.noise import median_sigma
from astrid_gpu.results import Step

__all__ = ["saturation_level", "saturation_mask"]

_LARGEST_SATURATION = (255, 1023, 4095, 16383, 32767, 65535)
_SAMPLE = 250_000  # pixels that tell where the sky is and how wide; a plateau is looked for in all of them


def saturation_mask(image: Image) -> tuple[np.ndarray, Step]:
    """Return saturated pixels: at the level of the header, at an integer type's ceiling, or piled up at the top.

    Seeds at the level are grown over connected pixels above 90 % of it (non-linear rims), along columns and rows as
    far as charge has bled (see `_bleed`), and by one pixel. Pixels that are NaN or infinite count as saturated,
    because detectors' pipelines write them there.

    Parameters
    ----------
    image : Image
        As read, or background-subtracted: `background_level` is added back.

    Returns
    -------
    (mask, step) : bool array (ny, nx), Step
    """
    finite = np.isfinite(image.data)
    whole = bool(finite.all())
    raw = image.data if whole else np.where(finite, image.data, -np.inf)
    if image.background_level:
        raw = raw + image.background_level
    level, origin = _saturation_level(image, raw if whole else raw[finite])
    mask, n_bled = ~finite, 0
    if level is not None:
        seeds = raw >= level
        floor = image.background_level + 0.9 * (level - image.background_level)
        if seeds.any():
            cores = connected(seeds, raw >= floor)
            charge = bleed_trails(raw, cores, *_sky_of(raw, finite))
            n_bled = int(np.count_nonzero(charge))
            mask |= host_op("dilate", dilate)(cores | charge, 1)
    n = int(np.count_nonzero(mask & finite))
    at = f"at {level:.6g} ({origin})" if level is not None else "(no level in the header, no pile-up at the top)"
    at += f", {n_bled} more with charge that bled" if n_bled else ""
    text = f"{image.name}: {n} saturated pixels {at}, {finite.size - np.count_nonzero(finite)} not finite"
    return mask, Step("saturation", text, {"level": level, "origin": origin, "n_saturated": n, "n_bled": n_bled})


def saturation_level(image: Image) -> tuple[float | None, str]:
    """Return the saturation level of an image in raw units and where it comes from; its planes may lie on a device."""
    raw = image.data[~image.bad]
    return _saturation_level(image, raw + image.background_level if image.background_level else raw)


def _saturation_level(image: Image, values: np.ndarray) -> tuple[float | None, str]:
    """Return the saturation level in raw units and where it comes from.

    A plateau in the pixels wins over a level from a header that it does not reach: keywords are often those of the
    converter, while the detector saturates before.
    """
    given = image.saturation
    known = given is not None and np.isfinite(given) and given > 0
    level, origin = _pile_up(values)
    if known and (level is None or level >= float(given)):  # type: ignore[arg-type]
        return float(given), "given"  # type: ignore[arg-type]
    return level, origin


def _pile_up(values: np.ndarray) -> tuple[float | None, str]:
    """Return the level of a plateau at the top of the pixel values, if there is one."""
    if values.size == 0:
        return None, "none"
    top = float(values.max())
    for ceiling in _LARGEST_SATURATION:
        if abs(top - ceiling) <= 0.5 and np.count_nonzero(np.abs(values - ceiling) <= 0.5) >= 2:
            return float(ceiling) - 0.5, "ceiling of the integer type"
    middle, sigma = median_sigma(np.ravel(values)[:: max(1, values.size // _SAMPLE)])
    reach = top - middle
    if not reach > 50 * sigma:
        return None, "none"
    upper = values[values >= middle + 0.90 * reach]
    at_top = np.count_nonzero(upper >= middle + 0.98 * reach)
    below = upper.size - at_top
    # A star's profile has a quarter as many pixels in its top 2 % as in the next 8 %; a plateau has more.
    if at_top >= 5 and at_top > below:
        return middle + 0.98 * reach, "pixels piled up at the top"
    return None, "none"


def _sky_of(raw: np.ndarray, finite: np.ndarray) -> tuple[float, float]:
    """Return level and noise of the sky from a part of the pixels."""
    step = max(1, int(np.sqrt(raw.size / _SAMPLE)))
    return median_sigma(raw[::step, ::step][finite[::step, ::step]])
