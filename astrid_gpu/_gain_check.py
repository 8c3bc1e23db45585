"""Whether the sky of an image contradicts the gain that is stated for it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np

from astrid_gpu._noise import median_of
from astrid_gpu.image import Image
from astrid_gpu.ops.noise import pixel_sigma
from astrid_gpu.results import Background, Step

__all__ = ["checked_gain", "gain_metrics"]

_log = logging.getLogger("astrid_gpu")

_STAGE = "gain check"
_FAR = 10.0  # times the variance; nearer, coadds, flat fields and electronics can explain it
_SKY = 10.0  # sigma; of less sky than this most was subtracted, and what is left says nothing of photons
_READ_NOISE = 50.0  # electrons; that of the noisiest detectors, granted to all
_FLAT = 0.003  # of the sky; what a flat field may have left from pixel to pixel
_LEAST_EXPOSURE = 3.0  # s; of shorter ones counts and counts per second are too alike
_RATE = (0.65, 1.55)  # of the variance that a gain times the exposure predicts


def checked_gain(image: Image, background: Background, role: str, *, whole: bool) -> tuple[Image, list[Step]]:
    """Compare the gain with the sky and its noise; where they contradict each other by far, take the sky's.

    Parameters
    ----------
    image : Image
        Background-subtracted, `background_level` telling how much was taken off.
    background : Background
        Of the same image.
    role : {"science", "reference"}
    whole : bool
        Whether the pixels are whole numbers, as those of raw frames.

    Returns
    -------
    (Image, list of Step)
        The image as it is and no step, where there is no gain, little sky or no contradiction.

    Notes
    -----
    More noise than gain, sky, any read noise and flat field make can only be a wrong gain; it is looked for where the
    sky is quietest. Less noise than the sky's photons make may as well be a pedestal under the sky or a filter that
    correlated its pixels; only noise far below the read noise, or just that of counts per second, is a contradiction.
    """
    level, gain, read = image.background_level, image.gain, image.read_noise or 0.0
    if gain is None or not level > 0:
        return image, []
    bad = image.bad
    wide, quiet = median_of(background.rms, bad), _quietest(image.data, bad)
    if not (np.isfinite(quiet) and quiet > 0 and level > _SKY * wide):
        return image, []
    most = level / gain + (max(read, _READ_NOISE) / gain) ** 2 + (_FLAT * level) ** 2
    known = image.meta.get("exposure")
    exposure = float(known) if isinstance(known, (int, float)) else 0.0
    rate = _is_rate(level, gain * exposure, read, (wide, quiet)) and exposure > _LEAST_EXPOSURE and not whole
    stated = np.sqrt(level / gain + (read / gain) ** 2)
    if quiet**2 > _FAR * most:
        used, why = level / pixel_sigma(image.data, bad) ** 2, "the gain that sky and noise show"
    elif rate and level / gain > _FAR * wide**2:
        used, why = gain * exposure, f"times the exposure of {exposure:g} s, since these look like counts per second"
    elif (read / gain) ** 2 > _FAR * wide**2:
        used, why = level / wide**2, "the gain that sky and noise show"
    else:
        return image, []
    found = quiet if quiet > stated else wide
    text = (
        f"{role}: {image.name}: gain {gain:g} is contradicted by the sky of {level:.5g}, whose noise it puts at "
        f"{stated:.3g} and is {found:.3g}; {used:.4g} is used, {why}. Give the right gain (electrons per unit of the "
        "pixels), and BUNIT if these are counts per second"
    )
    _log.warning("%s", text)
    values = {
        "role": role,
        "gain": float(gain),
        "gain_used": float(used),
        "noise": found,
        "noise_stated": float(stated),
    }
    return image.with_(gain=float(used)), [Step(_STAGE, text, values)]


def _quietest(data: np.ndarray, bad: np.ndarray) -> float:
    """Return the least pixel-to-pixel noise of the blocks of a frame: that of its emptiest part."""
    cuts = [np.linspace(0, n, max(1, min(6, n // 48)) + 1).astype(int) for n in data.shape]
    found = []
    for top, bottom in zip(cuts[0], cuts[0][1:], strict=False):
        for left, right in zip(cuts[1], cuts[1][1:], strict=False):
            block = slice(top, bottom), slice(left, right)
            if np.count_nonzero(bad[block]) < 0.5 * bad[block].size:
                found.append(pixel_sigma(data[block], bad[block]))
    good = [value for value in found if np.isfinite(value)]
    return min(good) if good else float("nan")


def _is_rate(level: float, gain: float, read: float, noises: tuple[float, float]) -> bool:
    """Whether both measures of the noise are what a gain times the exposure predicts."""
    if not gain > 0:
        return False
    predicted = level / gain + (read / gain) ** 2
    return all(_RATE[0] < noise**2 / predicted < _RATE[1] for noise in noises)


def gain_metrics(steps: Iterable[Step]) -> dict[str, Any]:
    """Return by how much the noise of the sky is off that of the stated gain, by image."""
    found: dict[str, Any] = {}
    for step in steps:
        if step.stage == _STAGE:
            ratio = step.values["noise"] / step.values["noise_stated"]
            found[f"gain_noise_ratio_{step.values['role']}"] = ratio
    return found
