"""The width of S_corr on quiet sky: reported always, and divided out, over the frame or over a smooth map of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu._quiet_sky import MIN_PIXELS, MIN_SHARPEN, ROUGH, middle_and_width, part_of, quiet_sky, score_area
from astrid_gpu.errors import InputError
from astrid_gpu.ops.background import box_edges, mesh_fill, mesh_interpolate, spline_axis
from astrid_gpu.results import Step

__all__ = ["calibrate_score", "rough_width"]

_BOX_ERROR = 0.03  # relative error of the width in one box of the mesh
_CHANCE = 1e-3  # that boxes of one true width differ as much as those found: above it there is nothing to map


def calibrate_score(
    maps: dict[str, Any], mode: str, metrics: dict[str, Any], *, psf: Any = None, static: Any = None
) -> list[Step]:
    """Measure median and width of S_corr on quiet sky, divide by the width if asked, and report both.

    Quiet are the clean pixels that no source of the difference reaches (`quiet_sky`), so that neither their number nor
    their brightness tells in the errors of anything.

    Parameters
    ----------
    maps : dict
        "score_corr", "flux_error" and "mask" (ny, nx); the first two are divided and multiplied in place.
    mode : {"none", "global", "local"}
        "local" divides by a smooth map of the width, where it varies beyond chance; else as "global".
    metrics : dict
        Gets score_corr_median_raw, score_corr_std_raw; score_corr_median, score_corr_std after; renormalise_factor, and
        for a map renormalise_min and renormalise_max.
    psf : array (ky, kx), optional
        P_D: how far the noise of S_corr is correlated, hence how sure a box is. White if not given.
    static : bool array (ny, nx), optional
        Pixels of bright static sources, left out of the mesh.

    Returns
    -------
    list of Step
        Empty without a score.

    Raises
    ------
    InputError
        No pixel is usable.
    """
    score = maps["score_corr"]
    if score is None:
        return []
    clean = _clean(score, maps["mask"])
    quiet = quiet_sky(score, clean, psf)
    size = np.count_nonzero(quiet)
    middle, width = middle_and_width(part_of(score, quiet))
    metrics |= {"score_corr_median_raw": middle, "score_corr_std_raw": width, "renormalise_factor": 1.0}
    metrics |= {"score_corr_median": middle, "score_corr_std": width}
    values: dict[str, Any] = {"median": middle, "width": width}
    text = f"S_corr on {size} quiet of {np.count_nonzero(clean)} clean pixels: median {middle:+.3f}, width {width:.3f}"
    if mode == "none":
        return [Step("calibration", text, values)]
    if not (width > 0 and size >= (MIN_PIXELS if width > 1 else MIN_SHARPEN)):
        return [Step("calibration", f"{text}; too few to renormalise by", values)]
    factor: Any = score.dtype.type(width)
    if mode == "local":
        found, why, more = _width_map(score, quiet, width, psf, static)
        values |= more
        if found is not None:
            factor = found.astype(score.dtype, copy=False)
            metrics |= {"renormalise_min": more["lowest"], "renormalise_max": more["highest"]}
        text += f"; {why}"
    text += "; divided by it" if np.ndim(factor) == 0 else "; divided by the map"
    maps["score_corr"] = np.divide(score, factor, out=_own(score))
    if maps["flux_error"] is not None:
        maps["flux_error"] = np.multiply(maps["flux_error"], factor, out=_own(maps["flux_error"]))
    after = (middle / width, 1.0) if np.ndim(factor) == 0 else middle_and_width(part_of(maps["score_corr"], quiet))
    metrics |= {"score_corr_median": after[0], "score_corr_std": after[1], "renormalise_factor": width}
    return [Step("calibration", text, values)]


def _clean(score: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the unflagged pixels, or all there are where those are few."""
    finite = np.isfinite(score)
    clean = finite & (mask == 0)
    if np.count_nonzero(clean) < MIN_PIXELS:
        clean = finite
    if not clean.any():
        msg = "no pixel of the difference is usable: the masks and the footprints of the two images leave none"
        raise InputError(msg)
    return clean


def rough_width(maps: dict[str, Any]) -> float:
    """Return the width of S_corr on clean pixels to some per cent, 1 where there is no score or no width."""
    if maps["score_corr"] is None:
        return 1.0
    values = part_of(maps["score_corr"], _clean(maps["score_corr"], maps["mask"]), ROUGH)
    return middle_and_width(values)[1] or 1.0


def _own(plane: np.ndarray) -> np.ndarray | None:
    """Return where to put what a map becomes: in its place, unless it is a view of one number for many pixels."""
    return plane if plane.flags.writeable else None


def _width_map(
    score: np.ndarray, quiet: np.ndarray, width: float, psf: Any, static: Any
) -> tuple[np.ndarray | None, str, dict[str, Any]]:
    r"""Return a smooth map of the width of S_corr, or None with the reason in words; and its numbers.

    The logarithms r of the box widths over the global one have the error e that correlated Gaussian noise gives a
    width between percentiles. Their scatter beyond that, tau, is real variation, and r is drawn towards 0 by
    tau² / (tau² + e²) (empirical Bayes), so that boxes of few pixels decide nothing.
    """
    from scipy.special import chdtrc

    ny, nx = score.shape
    area = score_area(psf)
    wanted = area / _BOX_ERROR**2
    side = max(32, int(np.ceil(np.sqrt(wanted))))
    if 3 * side > min(ny, nx):
        return None, f"the frame is too small for a map of widths (boxes of {side} px)", {"box": side}
    if static is not None and np.count_nonzero(quiet & ~static) > 0.3 * np.count_nonzero(quiet):
        quiet = quiet & ~static
    ratio, error = _box_widths(score, quiet, side, width, area)
    usable = np.isfinite(error)
    if np.count_nonzero(usable) < 4:
        return None, "too few clean boxes for a map of widths", {"box": side}
    r, e2 = ratio[usable], error[usable] ** 2
    level = float(np.sum(r / e2) / np.sum(1 / e2))
    chi2 = float(np.sum((r - level) ** 2 / e2))
    values = {"box": side, "n_boxes": int(r.size), "chi2_of_boxes": chi2}
    if chdtrc(r.size - 1, chi2) > _CHANCE:
        return None, f"the width does not vary beyond chance (chi² {chi2:.0f} of {r.size} boxes of {side} px)", values
    tau2 = max(0.0, float(np.sum(((r - level) ** 2 - e2) / e2**2) / np.sum(1 / e2**2)))
    mesh = np.full(ratio.shape, level)
    mesh[usable] += tau2 / (tau2 + e2) * (r - level)
    mesh = mesh_fill(mesh[None], usable[None])
    rows, columns = (spline_axis(n, m) for n, m in zip((ny, nx), ratio.shape, strict=True))
    smooth = mesh_interpolate(mesh, rows, columns, np.float64)[0]
    low, high = float(mesh.min()), float(mesh.max())
    found = width * np.exp(np.clip(smooth, low, high))
    values |= {"lowest": width * float(np.exp(low)), "highest": width * float(np.exp(high))}
    text = f"it varies from {values['lowest']:.3f} to {values['highest']:.3f} over {r.size} boxes of {side} px"
    return found, text, values


def _box_widths(
    score: np.ndarray, quiet: np.ndarray, side: int, width: float, area: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return log(width of a box / global width) and its error, infinite for boxes of too few pixels."""
    rows, columns = (box_edges(n, side) for n in score.shape)
    ratio, error = (np.zeros((rows.size - 1, columns.size - 1)) for _ in range(2))
    error[:] = np.inf
    least = 0.25 * area / _BOX_ERROR**2
    for j in range(rows.size - 1):
        for i in range(columns.size - 1):
            box = np.s_[rows[j] : rows[j + 1], columns[i] : columns[i + 1]]
            values = score[box][quiet[box]]
            if values.size >= max(least, 100):
                here = middle_and_width(values)[1]
                if here > 0:
                    ratio[j, i], error[j, i] = np.log(here / width), np.sqrt(area / values.size)
    return ratio, error
