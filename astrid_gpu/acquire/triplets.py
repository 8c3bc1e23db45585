"""The stamps of alert packets as triplets of one size, the candidate in the middle."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from astrid_gpu.acquire.packets import STAMPS, Alert, number
from astrid_gpu.errors import InputError
from astrid_gpu.flags import PixelFlag
from astrid_gpu.results import Cutouts

__all__ = ["SIDE", "to_cutouts"]

SIDE = 63
"""Pixels along a stamp of ZTF."""

_FRAME = {"ZTF": (3080, 3072)}  # (ny, nx) of a readout quadrant


def to_cutouts(alerts: Sequence[Alert], size: int = SIDE) -> Cutouts:
    """Return the stamps of alerts as triplets of one size.

    Parameters
    ----------
    alerts : sequence of Alert
    size : int
        Odd side in pixels.

    Returns
    -------
    Cutouts
        `images` (n, 3, size, size) float32: science, template, difference in counts, the candidate in the middle; the
        difference is science less template, see Notes. Beyond a stamp NaN with the NO_DATA bit; NaN in a stamp stays,
        with BAD_SCIENCE or BAD_REFERENCE. `score_corr` is NaN: packets hold no such map.

    Raises
    ------
    InputError
        An even size.

    Notes
    -----
    ZTF looks for faded sources in template less science, and the packets of those (``isdiffpos`` "f") hold that
    difference: a source is always positive in it. Here its sign is turned, so that one convention holds for all.

    Stamps cut off at the edge of a frame are shorter on that side; where the candidate lies in them follows from its
    position in the frame, so it is in the middle again.
    """
    if int(size) != size or size < 1 or size % 2 == 0:
        msg = f"size must be an odd, positive number of pixels so that a candidate has a middle pixel; got {size!r}"
        raise InputError(msg)
    images = np.full((len(alerts), 3, size, size), np.nan, np.float32)
    mask = np.full((len(alerts), size, size), int(PixelFlag.NO_DATA), np.uint8)
    bits = (PixelFlag.BAD_SCIENCE, PixelFlag.BAD_REFERENCE, PixelFlag(0))
    for i, alert in enumerate(alerts):
        for channel, (kind, bit) in enumerate(zip(STAMPS, bits, strict=True)):
            stamp = alert.stamps.get(kind)
            if stamp is None:
                mask[i] |= np.uint8(int(bit))
                continue
            there, here = _overlap(_middle(alert, stamp.shape), stamp.shape, size)
            turned = kind == STAMPS[2] and alert.survey == "ZTF" and alert.polarity < 0
            images[i, channel][there] = -stamp[here] if turned else stamp[here]
            mask[i][there] &= ~np.uint8(int(PixelFlag.NO_DATA))
            mask[i][there] |= np.where(np.isnan(stamp[here]), np.uint8(int(bit)), np.uint8(0))
    nothing = np.full((len(alerts), size, size), np.nan, np.float32)
    return Cutouts(images, nothing, mask, np.arange(1, len(alerts) + 1), {"size": size, "source": "alert packets"})


def _middle(alert: Alert, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the candidate's pixel (y, x) in its stamp."""
    frame = _FRAME.get(alert.survey)
    place = []
    for axis, (n, key) in enumerate(zip(shape, ("ypos", "xpos"), strict=True)):
        position = number(alert.candidate.get(key)) - 1
        full = max(max(stamp.shape) for stamp in alert.stamps.values())
        if n == full or frame is None or not math.isfinite(position):
            place.append(n // 2)
            continue
        below = min(full // 2, math.floor(position + 0.5))  # pixels there are before the candidate's
        above = min(full // 2, frame[axis] - 1 - math.floor(position + 0.5))
        place.append(below if below + 1 + above == n else (n - 1 - full // 2 if below < above else full // 2))
    return max(0, min(place[0], shape[0] - 1)), max(0, min(place[1], shape[1] - 1))


def _overlap(
    middle: tuple[int, int], shape: tuple[int, ...], size: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return where a stamp goes in a square with `middle` at its middle, and which part of the stamp that is."""
    there, here = [], []
    for m, n in zip(middle, shape, strict=True):
        shift = size // 2 - m
        low, high = max(0, shift), min(size, n + shift)
        there.append(slice(low, high))
        here.append(slice(low - shift, high - shift))
    return (there[0], there[1]), (here[0], here[1])
