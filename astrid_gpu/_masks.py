"""The mask of an exposure, each kind of defect a bit, and the flags of a pair made of two masks."""

from __future__ import annotations

import numpy as np

from astrid_gpu._bad_lines import bad_lines
from astrid_gpu._no_data import no_data
from astrid_gpu._saturation import saturation_mask
from astrid_gpu.align import Aligned
from astrid_gpu.flags import PixelFlag
from astrid_gpu.image import Image
from astrid_gpu.results import Step

__all__ = ["BAD", "COSMIC_RAY", "NO_DATA", "SATURATED", "dead_pixels", "mask_defects", "pair_flags"]

BAD = 1
"""Bit of Image.mask between the exposure's own stages and the flags: bad for whatever reason but the next two."""

SATURATED = 4
"""Bit of Image.mask: saturated, or bled into."""

COSMIC_RAY = 16
"""Bit of Image.mask: hit by a cosmic ray."""

NO_DATA = 32
"""Bit of Image.mask: holds a value that stands for none."""

_DEAD = 8.0  # sigma below the sky and below all neighbours: noise does that once in 10^15 pixels


def mask_defects(image: Image, *, lines: bool = True) -> tuple[Image, list[Step]]:
    """Return the image with a mask of bits: what it brings or is not finite, fill values, saturation, bad lines.

    Parameters
    ----------
    image : Image
        Its mask may be anything; nonzero is bad.
    lines : bool
        Look for bad columns and rows.
    """
    finite = np.isfinite(image.data)
    mask = (image.mask != 0).astype(np.uint8) if image.mask is not None else np.zeros(image.shape, np.uint8)
    mask[~finite] |= BAD
    steps: list[Step] = []
    empty, values = no_data(image.data, mask != 0)
    if empty is not None:
        mask[empty] |= NO_DATA
        steps.append(_no_data_step(image.name, empty, values))
        kind = image.data.dtype if image.data.dtype.kind == "f" else np.dtype(np.float64)
        image = image.with_(data=np.where(empty, kind.type(np.nan), image.data))
    saturated, step = saturation_mask(image.with_(mask=mask))
    mask[saturated & finite & (mask & NO_DATA == 0)] |= SATURATED
    steps.append(step)
    if lines:
        lost, found = bad_lines(image.data, mask != 0)
        mask[lost] |= BAD
        if found:
            names = [f"{kind} {number} ({first} to {last})" for kind, number, first, last in found]
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            text = f"{image.name}: {len(found)} bad parts of columns and rows masked: {', '.join(names[:5])}{more}"
            steps.append(Step("bad lines", text, {"lines": found}))
    return image.with_(mask=mask), steps


def _no_data_step(name: str, empty: np.ndarray, values: list[tuple[float, int]]) -> Step:
    """Tell how many pixels of which value hold no data."""
    n, mixed = int(np.count_nonzero(empty)), int(np.count_nonzero(empty)) - sum(count for _, count in values)
    parts = [f"{count} of {value:.6g}" for value, count in values[:5]]
    parts += [f"{len(values) - 5} more values"] if len(values) > 5 else []
    parts += [f"{mixed} beside them that mix them with the sky"] if mixed > 0 else []
    text = f"{name}: {n} pixels hold no data and are masked: {', '.join(parts)}"
    return Step("no data", text, {"n_pixels": n, "values": values})


def dead_pixels(image: Image, sigma: float) -> tuple[Image, list[Step]]:
    """Mask single pixels far below the sky and all of their neighbours; `image` is background-subtracted."""
    y, x = np.nonzero(image.data < -_DEAD * sigma)
    if y.size == 0 or y.size > 0.01 * image.data.size:  # so many are no defects but a wrong background
        return image, []
    ny, nx = image.shape
    values = image.data[y, x]
    lowest = np.full(y.size, np.inf)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            inside = (y + dy >= 0) & (y + dy < ny) & (x + dx >= 0) & (x + dx < nx) & ((dy != 0) | (dx != 0))
            near = np.where(inside, image.data[np.clip(y + dy, 0, ny - 1), np.clip(x + dx, 0, nx - 1)], np.inf)
            lowest = np.fmin(lowest, near)
    mask = np.zeros(image.shape, np.uint8) if image.mask is None else image.mask.copy()
    dead = (lowest - values > _DEAD * sigma) & (mask[y, x] == 0)
    n = int(np.count_nonzero(dead))
    if n == 0:
        return image, []
    mask[y[dead], x[dead]] |= BAD
    text = f"{image.name}: {n} dead pixels masked, more than {_DEAD:g} sigma below the sky and their neighbours"
    return image.with_(mask=mask), [Step("dead pixels", text, {"n_pixels": n})]


def pair_flags(science: Image, aligned: Aligned) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the flags of a pair: what is bad, saturated, hit or missing in which image.

    Returns
    -------
    flags : uint8 array, shape (ny, nx)
        The engine's byte.
    details : uint16 array or None
        The bits above it; None if there are none.
    """
    flags, details = np.zeros(science.shape, np.uint8), None
    roles = (
        (science, PixelFlag.BAD_SCIENCE, PixelFlag.SATURATED_SCIENCE, PixelFlag.COSMIC_RAY_SCIENCE),
        (aligned.image, PixelFlag.BAD_REFERENCE, PixelFlag.SATURATED_REFERENCE, PixelFlag.BAD_REFERENCE),
    )
    for image, bad, saturated, ray in roles:
        mask = image.mask if image.mask is not None else np.zeros(image.shape, np.uint8)
        lost = (mask & ~np.uint8(SATURATED | COSMIC_RAY) != 0) | (~np.isfinite(image.data) & (mask == 0))
        lost &= aligned.footprint
        flags[mask & NO_DATA != 0] |= int(PixelFlag.NO_DATA)
        flags[lost] |= int(bad)
        flags[mask & SATURATED != 0] |= int(saturated)
        hit = mask & COSMIC_RAY != 0
        if hit.any():
            flags[hit] |= int(ray)
            if image is aligned.image:
                details = np.where(hit, np.uint16(PixelFlag.COSMIC_RAY_REFERENCE), np.uint16(0))
    flags[~aligned.footprint] |= int(PixelFlag.NO_DATA)
    return flags, details
