"""One exposure before it meets another: saturation, background, variance and stars."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from astrid_gpu._cosmic_rays import cosmic_rays
from astrid_gpu._gain_check import checked_gain
from astrid_gpu._masks import COSMIC_RAY, SATURATED, dead_pixels, mask_defects
from astrid_gpu._noise import median_of
from astrid_gpu._photon_noise import with_photon_noise
from astrid_gpu.align import Aligned
from astrid_gpu.calibrate import noise_variance, subtract_background
from astrid_gpu.config import SubtractConfig
from astrid_gpu.errors import InputError
from astrid_gpu.image import Image
from astrid_gpu.results import Background, Step
from astrid_gpu.stars import find_stars

__all__ = ["Exposure", "own_stages", "scaled_sigma", "stars_of"]


@dataclass
class Exposure:
    """One image after its own stages: sky-subtracted, with variance; and its background and noise."""

    image: Image
    background: Background
    sigma: float
    steps: list[Step]


def own_stages(image: Image, config: SubtractConfig, sigma: float | None, role: str) -> Exposure:
    """Mask defects, subtract the background, build the variance: all that needs one image only."""
    finite = np.isfinite(image.data)
    if not (finite.any() if image.mask is None else (finite & (image.mask == 0)).any()):
        msg = f"{image.name}: the {role} image has no usable pixel: all are masked, NaN or infinite"
        raise InputError(msg)
    image, found = mask_defects(image, lines=config.bad_lines)
    steps = [Step(step.stage, f"{role}: {step.text}", step.values) for step in found]
    mask = image.mask
    if image.variance is not None and mask is not None:
        void = ~(np.isfinite(image.variance) & (image.variance > 0)) & (mask == 0)
        n_void = int(void.sum())
        if 0 < n_void < int((mask == 0).sum()):  # a plane without one usable value is an error, told below
            mask[void] |= 1
            text = f"{role}: {n_void} pixels without a positive, finite variance masked"
            steps.append(Step("noise", text, {"n_masked": n_void}))
    notes = image.meta.get("notes", ())
    steps += [Step("reading", f"{role}: {note}", {}) for note in notes]
    whole = _whole_numbers(image.data)
    if config.background:
        image, background, step = subtract_background(image, box=config.box)
        steps.append(Step(step.stage, f"{role}: {step.text}", step.values))
    else:
        background = _flat_background(image)
        steps.append(Step("background", f"{role}: not subtracted, as asked", {}))
    image, doubts = checked_gain(image, background, role, whole=whole)
    steps += doubts
    variance, measured, step = noise_variance(image, background)
    steps.append(Step(step.stage, f"{role}: {step.text}", step.values))
    if sigma is not None:
        steps.append(Step("noise", f"{role}: background sigma {sigma:g} as given", {"sigma": sigma}))
    sigma = float(sigma or measured)
    photons: list[Step] = []
    image = image.with_(variance=variance)
    if step.values.get("sources_missing"):
        image, photons = with_photon_noise(image, stars_of(image, sigma), sigma)
    image, dead = dead_pixels(image, sigma)
    hit, rays = cosmic_rays(image, sigma, config.cosmic_rays)
    if hit.any() and image.mask is not None:
        image = image.with_(mask=image.mask | np.where(hit, np.uint8(COSMIC_RAY), np.uint8(0)))
    steps += [Step(step.stage, f"{role}: {step.text}", step.values) for step in (*photons, *dead, *rays)]
    return Exposure(image, background, sigma, steps)


def _whole_numbers(data: np.ndarray) -> bool:
    """Whether the pixels are whole numbers, told by some rows."""
    rows = data[:: max(1, len(data) // 16)]
    rows = rows[np.isfinite(rows)]
    return bool(np.all(rows == np.rint(rows)))


def stars_of(image: Image, sigma: float) -> np.ndarray:
    """Find the stars of an image whose saturated pixels are marked."""
    saturated = np.zeros(image.shape, bool) if image.mask is None else (image.mask & SATURATED) != 0
    return find_stars(image, background_rms=sigma, saturated=saturated)


def scaled_sigma(ref: Exposure, aligned: Aligned) -> float:
    """Return an image's sigma on the new grid: it scales as its variance did, not as resampling smooths."""
    before, after = ref.image.known_variance, aligned.image.known_variance
    if before is after:
        return ref.sigma
    inside = aligned.footprint & np.isfinite(after) & (after > 0)
    if not inside.any():
        msg = f"{ref.image.name}: no usable pixel of it falls on the other image"
        raise InputError(msg)
    usable = ~ref.image.bad & np.isfinite(before)
    return float(ref.sigma * np.sqrt(median_of(after, ~inside) / median_of(before, ~usable)))


def _flat_background(image: Image) -> Background:
    """Return a background of zero with the robust width of the image, for images that are sky-subtracted already."""
    good = image.data[~image.bad]
    low, middle, high = np.percentile(good, [15.865, 50, 84.135])
    width = min(middle - low, high - middle)
    return Background(np.zeros_like(image.data), np.full_like(image.data, width), None)
