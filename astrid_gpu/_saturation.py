"""`saturation_mask`: pixels beyond the detector's or the file's range."""

from __future__ import annotations

import numpy as np

from astrid_gpu.image import Image
from astrid_gpu.ops.mask import dilate
from astrid_gpu.ops.noise import median_sigma
from astrid_gpu.results import Step

__all__ = ["saturation_mask"]

_LARGEST_SATURATION = (255, 1023, 4095, 16383, 32767, 65535)


def saturation_mask(image: Image) -> tuple[np.ndarray, Step]:
    """Return saturated pixels: at the level of the header, at an integer type's ceiling, or piled up at the top.

    Seeds at the level are grown over connected pixels above 90 % of it (bleeding, non-linear rims) and by one
    pixel. Pixels that are NaN or infinite count as saturated, because detectors' pipelines write them there.

    Parameters
    ----------
    image : Image
        As read, or background-subtracted: `background_level` is added back.

    Returns
    -------
    (mask, step) : bool array (ny, nx), Step
    """
    finite = np.isfinite(image.data)
    raw = np.where(finite, image.data.astype(np.float64), -np.inf) + image.background_level
    level, origin = _saturation_level(image, raw[finite])
    mask = ~finite
    if level is not None:
        seeds = raw >= level
        floor = image.background_level + 0.9 * (level - image.background_level)
        mask |= _connected(seeds, raw >= floor)
    n = int((mask & finite).sum())
    at = f"at {level:.6g} ({origin})" if level is not None else "(no level in the header, no pile-up at the top)"
    text = f"{image.name}: {n} saturated pixels {at}, {int((~finite).sum())} not finite"
    return mask, Step("saturation", text, {"level": level, "origin": origin, "n_saturated": n})


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
        if abs(top - ceiling) <= 0.5 and (np.abs(values - ceiling) <= 0.5).sum() >= 2:
            return float(ceiling) - 0.5, "ceiling of the integer type"
    middle, sigma = median_sigma(values)
    reach = top - middle
    if not reach > 50 * sigma:
        return None, "none"
    at_top = int((values >= middle + 0.98 * reach).sum())
    below = int(((values >= middle + 0.90 * reach) & (values < middle + 0.98 * reach)).sum())
    # A star's profile has a quarter as many pixels in its top 2 % as in the next 8 %; a plateau has more.
    if at_top >= 5 and at_top > below:
        return middle + 0.98 * reach, "pixels piled up at the top"
    return None, "none"


def _connected(seeds: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the connected parts of `high` that hold a seed, grown by one pixel."""
    if not seeds.any():
        return seeds
    from scipy.ndimage import binary_propagation

    return dilate(binary_propagation(seeds, np.ones((3, 3)), mask=high | seeds), 1)
