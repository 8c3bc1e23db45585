"""Rows and columns beside saturated stars that the read-out left darker or brighter than the rest."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from astrid_gpu._bleed import occupied
from astrid_gpu.flags import INVALID, PixelFlag
from astrid_gpu.ops.noise import row_medians
from astrid_gpu.ops.psf_stamps import fwhm_of
from astrid_gpu.results import Step

__all__ = ["flag_star_lines", "star_lines"]

_LEAST = 12  # saturated pixels of a core whose lines are looked at
_MOST = 100  # cores, the largest
_BESIDE = 2.0  # FWHM beyond the core, across and along
_LENGTHS = (48, 96, 192, 384, 768)  # pixels from the core over which a line is judged
_SURE = 6.0  # standard deviations of its median
_SHIFT = 1.0  # sigma that it moves S_corr, at least: less makes no candidates
_CONTRAST = 3.0  # times as far off as lines beside it, whatever their reason


class _Core(NamedTuple):
    """The box of a saturated core: rows `top` to `bottom`, columns `left` to `right`, both included."""

    top: int
    bottom: int
    left: int
    right: int


def star_lines(score: np.ndarray, mask: np.ndarray, fwhm: float, correlated: float, unit: float = 1.0) -> np.ndarray:
    """Find rows and columns through saturated cores whose S_corr is off on one side of the star, or on both.

    A converter or an amplifier that recovers slowly from a saturated star leaves its row dark, or bright, for some
    hundred pixels, by less than a pixel's noise; a matched filter sees many such pixels at once and makes candidates of
    them. The median of S_corr along each line is held against those of the lines above and below, over lengths from 48
    pixels up.

    Parameters
    ----------
    score : float array, shape (ny, nx)
        S_corr; NaN where masked.
    mask : integer array, shape (ny, nx)
        Bits of `PixelFlag`.
    fwhm : float
        Of P_D, pixels.
    correlated : float
        Pixels along a line that vary as one.
    unit : float
        Width of S_corr, where it is not 1.

    Returns
    -------
    bool array, shape (ny, nx)
        Cost: in proportion to the saturated stars, at most 100.
    """
    out = np.zeros(score.shape, bool)
    bits = mask.dtype.type(PixelFlag.SATURATED_SCIENCE | PixelFlag.SATURATED_REFERENCE)
    saturated = (mask & bits) != 0
    if not saturated.any():
        return out
    margin = max(2, round(_BESIDE * fwhm))
    for core in _cores(saturated):
        _look(score, mask, out, core, margin, correlated, unit)
        turned = _Core(core.left, core.right, core.top, core.bottom)
        _look(score.T, mask.T, out.T, turned, margin, correlated, unit)
    return out


def _cores(saturated: np.ndarray) -> list[_Core]:
    from scipy.ndimage import find_objects, label

    rows, columns = (occupied(np.any(saturated, axis)) for axis in (1, 0))
    parts, _ = label(saturated[np.ix_(rows, columns)], np.ones((3, 3)))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    chosen = [int(k) for k in np.argsort(-sizes, kind="stable")[:_MOST] if sizes[k] >= _LEAST]
    boxes = find_objects(parts)
    ends = ((rows[b[0]], columns[b[1]]) for b in (boxes[k - 1] for k in chosen))
    return [_Core(int(y[0]), int(y[-1]), int(x[0]), int(x[-1])) for y, x in ends]


def _look(
    score: np.ndarray, mask: np.ndarray, out: np.ndarray, core: _Core, margin: int, correlated: float, unit: float
) -> None:
    """Mark the rows of one core that are off, right of it and left of it."""
    height = core.bottom - core.top + 1 + 2 * margin
    first, last = max(0, core.top - margin - height), min(score.shape[0], core.bottom + 1 + margin + height)
    rows = np.arange(first, last)
    own = (rows >= core.top - margin) & (rows <= core.bottom + margin)
    if np.count_nonzero(~own) < height:
        return
    begin, end = core.right + 1 + margin, core.left - margin
    for part, marked in ((np.s_[first:last, begin:], 1), (np.s_[first:last, : max(end, 0)], -1)):
        good = (mask[part] & mask.dtype.type(INVALID | PixelFlag.NEAR_BAD)) == 0
        values = np.where(good, score[part], np.nan)[:, ::marked]
        odd = _odd(values, own, correlated, unit)
        out[part] |= odd[:, ::marked]


def _odd(values: np.ndarray, own: np.ndarray, correlated: float, unit: float) -> np.ndarray:
    """Return the pixels of the lines in `own` that are off, counted from the star outwards."""
    odd = np.zeros(values.shape, bool)
    for wanted in _LENGTHS:
        if values.shape[1] < _LENGTHS[0]:
            break
        length = min(wanted, values.shape[1])
        part = values[:, :length]
        middle, n = row_medians(part)
        usable = n >= length / 2
        middle[~usable] = np.nan
        if np.count_nonzero(usable & ~own) < np.count_nonzero(~own) / 2:
            continue
        beside = middle[~own & usable]
        level = float(np.median(beside))
        scatter = 1.4826 * float(np.median(np.abs(beside - level)))
        error = 1.2533 * unit * np.sqrt(correlated / np.maximum(n, 1))
        off = np.abs(np.nan_to_num(middle - level))
        odd[:, :length] |= (own & usable & (off > _SHIFT * unit) & (off > _SURE * error) & (off > _CONTRAST * scatter))[
            :, None
        ]
        if wanted >= values.shape[1]:
            break
    return odd


def flag_star_lines(maps: dict[str, Any], psf: Any, metrics: dict[str, Any], *, unit: float = 1.0) -> list[Step]:
    """Set SATURATED_LINE on the pixels of such lines and say how many there are.

    Parameters
    ----------
    maps : dict
        "score_corr" and "mask"; the mask is replaced.
    psf : array or None
        P_D.
    metrics : dict
        Gets n_line_pixels.
    unit : float
        Width of S_corr, where it is not 1 yet.
    """
    score, mask = maps.get("score_corr"), maps["mask"]
    if score is None:
        return []
    fwhm = 2.5 if psf is None else max(1.0, fwhm_of(np.asarray(psf)))
    # Noise of S_corr is that of P_D correlated with itself: along a line a Gaussian of sqrt(2) times its width.
    correlated = 1.0 if psf is None else max(1.0, 2 * math.sqrt(math.pi) * fwhm / 2.3548)
    on = star_lines(score, mask, fwhm, correlated, unit)
    n = int(np.count_nonzero(on))
    metrics["n_line_pixels"] = n
    if n == 0:
        return []
    maps["mask"] = mask | np.where(on, mask.dtype.type(PixelFlag.SATURATED_LINE), mask.dtype.type(0))
    text = (
        f"{n} pixels on rows and columns that the read-out left dark or bright beside saturated stars: SATURATED_LINE"
    )
    return [Step("star lines", text, {"n_pixels": n})]
