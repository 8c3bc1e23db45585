"""Steps of the noise within a tile, as at the edge of an exposure in a mosaic: S_corr takes its width on either side.

A tile has one noise spectrum. Where the correlation of the noise changes at a line across it, that is a mean of two:
S_corr is too wide on one side, where noise passes for transients, and too narrow on the other, where they are lost.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from astrid_gpu._calibration import calibrate_score
from astrid_gpu._noise import dilated
from astrid_gpu._prepare import Pair
from astrid_gpu._quiet_sky import middle_and_width
from astrid_gpu.kernels._pool import share
from astrid_gpu.ops.two_levels import cell_means, correlated_area, two_levels
from astrid_gpu.results import Step
from astrid_gpu.tiles import Tiles

__all__ = ["calibrate", "find_steps"]

PIECE = 256
"""Side of what is looked at by itself where the frame is not cut into tiles."""

_LOUD, _SOURCE = 8.0, 5.0  # S_corr, and S_corr over its width here: beyond it are sources, left out with surroundings
_GAIN, _GAIN_A_CELL = 30.0, 0.06  # of ln likelihood; uniform noise has 15 +- 5 on 1024 cells, 4 +- 2 on 256
_RATIO = 1.15  # of the widths on both sides, below which each is right to 7 %
_CORRELATION = 0.04, 5.0  # of neighbours in D, how far the sides must differ: at least, and in errors
_WIDTH_ERROR = 0.06  # a side whose width is less certain is none
_ROUNDS = 2


class _Found(NamedTuple):
    """Widths of S_corr in a piece (ny, nx), on its two sides, and correlation of neighbouring pixels of D there."""

    widths: np.ndarray
    levels: tuple[float, float]
    correlations: tuple[float, float]


def calibrate(maps: dict[str, Any], mode: str, pair: Pair, tiles: Tiles | None, psf: Any) -> list[Step]:
    """Divide S_corr by its width, on either side of the noise's steps and then over the frame; see `calibrate_score`.

    Its raw median and width in the metrics are those before both. With mode "none" nothing is divided.
    """
    pieces = Tiles(maps["mask"].shape, PIECE, 0) if tiles is None else tiles
    found = {} if mode == "none" else find_steps(maps, pair, pieces, psf)
    raw: dict[str, Any] = {}
    steps = []
    if found:
        calibrate_score(maps, "none", raw, psf=psf)
        for k in sorted(found):
            _divide(maps, pieces.interior(k), found[k].widths)
        steps.append(_told(found, pieces, pair))
    static = _static_sources(pair) if mode == "local" and not pair.short_of_memory else None
    calibrated = calibrate_score(maps, mode, pair.metrics, psf=psf, static=static)
    if steps:
        factor = pair.metrics["renormalise_factor"]
        low, high = (pair.metrics.get(f"renormalise_{end}", factor) for end in ("min", "max"))
        pair.metrics |= {name: raw[name] for name in ("score_corr_median_raw", "score_corr_std_raw")}
        pair.metrics["renormalise_min"] = low * min(1.0, steps[0].values["lowest"])
        pair.metrics["renormalise_max"] = high * max(1.0, steps[0].values["highest"])
    return [*steps, *calibrated]


def find_steps(maps: dict[str, Any], pair: Pair, pieces: Tiles, psf: Any) -> dict[int, _Found]:
    """Return what is found in the pieces of a frame in which the noise's correlation changes at a line, by number.

    Parameters
    ----------
    maps : dict
        "score_corr", "difference" and "mask" (ny, nx).
    pair : Pair
    pieces : Tiles
    psf : array (ky, kx) or None
        P_D.

    Notes
    -----
    Looked for only where blank sky of the images says that the noise varies: what a large galaxy leaves is correlated
    too. A piece counts if two variances of S_corr are likelier than one by far more than chance makes them
    (`ops.two_levels`), their widths differ by 15 %, and D, which is white only where the spectrum is right, has another
    correlation on one side than on the other. Candidates and bright stars are left out of it. Cost: some 0.03 s a
    megapixel.
    """
    score, difference = maps["score_corr"], maps["difference"]
    if score is None or difference is None or psf is None or not (pair.noise.local and pair.noise.varies):
        return {}
    area = correlated_area(psf)
    found: dict[int, _Found] = {}

    def task(k: int) -> None:
        window = pieces.interior(k)
        clean = np.isfinite(score[window]) & np.isfinite(difference[window]) & (maps["mask"][window] == 0)
        mine = _look(np.where(clean, score[window], 0), clean, difference[window], area, pair, window)
        if mine is not None:
            found[k] = mine

    share(task, len(pieces))
    return found


def _static_sources(pair: Pair) -> np.ndarray:
    """Return the pixels whose noise is at least as much that of their source as that of the sky."""
    sky = pair.sigma_science**2 + (pair.flux_ratio * pair.sigma_reference) ** 2
    return _variance(pair, (slice(None), slice(None))) > 2 * sky


def _variance(pair: Pair, window: tuple[slice, slice]) -> np.ndarray:
    """Return the variance of the plain difference in a window."""
    return np.asarray(pair.variance_science[window] + pair.flux_ratio**2 * pair.variance_reference[window])


def _bright(variance: np.ndarray, clean: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the pixels with twice the variance of the sky on their side, of which the 30 % point stands for it."""
    found = np.zeros(clean.shape, bool)
    for side in (clean & high, clean & ~high):
        if side.any():
            found |= side & (variance > 2 * np.percentile(variance[side], 30))
    return found


def _look(
    score: np.ndarray, clean: np.ndarray, difference: np.ndarray, area: float, pair: Pair, window: tuple[slice, slice]
) -> _Found | None:
    """Return what is found in one piece: None if its noise is the same everywhere."""
    side = max(8, int(np.ceil(np.sqrt(2.5 * area))))
    level: Any = 1.0
    quiet = clean & (abs(score) < _LOUD)
    for i in range(_ROUNDS + 1):
        mean, n = cell_means(score, quiet, side)
        kappa = np.where(n > side**2 / 4, n / (2 * area), 0)
        parts = two_levels(mean, kappa)
        n_cells = np.count_nonzero(kappa)
        if parts is None or parts.gain < max(_GAIN, _GAIN_A_CELL * n_cells):
            return None
        high = _spread(parts.high, side, score.shape)
        if i == _ROUNDS:
            break
        level = np.where(high, *np.sqrt(parts.variances)[::-1])
        near = dilated(clean & (abs(score) > _SOURCE * level), max(2, round(np.sqrt(area))))
        quiet = clean & ~near & ~_bright(_variance(pair, window), clean, high)
    sides = [quiet & ~high, quiet & high]
    counts = [np.count_nonzero(part) for part in sides]
    if min(counts) < area / _WIDTH_ERROR**2:
        return None
    low, top = (middle_and_width(score[part])[1] for part in sides)
    correlations = tuple(_correlation(difference, part) for part in sides)
    least, errors = _CORRELATION
    error = np.sqrt(sum(1 / (2 * n) for n in counts))
    apart = abs(correlations[1] - correlations[0])
    if not (top > _RATIO * low > 0 and apart > max(least, errors * error)):
        return None
    return _Found(_smooth(np.where(high, top, low), side), (low, top), (correlations[0], correlations[1]))


def _spread(cells: np.ndarray, side: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return the pixels of cells."""
    return cells.repeat(side, axis=0)[: shape[0]].repeat(side, axis=1)[:, : shape[1]]


def _correlation(plane: np.ndarray, chosen: np.ndarray) -> float:
    """Return the correlation of neighbours among the chosen pixels, the mean along x and y."""
    values = np.where(chosen, plane, 0).astype(np.float64)
    sums = [(values[:, 1:] * values[:, :-1]).sum(), (values[1:] * values[:-1]).sum()]
    n = [np.count_nonzero(chosen[:, 1:] & chosen[:, :-1]), np.count_nonzero(chosen[1:] & chosen[:-1])]
    return float(sum(sums) / max(sum(n), 1) / (values**2).sum() * np.count_nonzero(chosen))


def _smooth(widths: np.ndarray, side: int) -> np.ndarray:
    """Return widths that go over into each other as their squares do within half of a cell."""
    from scipy.ndimage import uniform_filter

    return np.sqrt(uniform_filter(widths**2, side // 2, mode="nearest"))  # type: ignore[no-any-return]


def _divide(maps: dict[str, Any], window: tuple[slice, slice], widths: np.ndarray) -> None:
    """Divide S_corr by widths, and multiply flux errors, in place."""
    for name, change in (("score_corr", np.divide), ("flux_error", np.multiply)):
        if (plane := maps[name]) is not None:
            if not plane.flags.writeable:
                plane = maps[name] = plane.copy()
            plane[window] = change(plane[window], widths.astype(plane.dtype))


def _told(found: dict[int, _Found], pieces: Tiles, pair: Pair) -> Step:
    """Tell what was found, and note it in the metrics."""
    levels = np.array([f.levels for f in found.values()])
    correlations = np.array([f.correlations for f in found.values()])
    share_of = sum(f.widths.size for f in found.values()) / (pieces.shape[0] * pieces.shape[1])
    pair.metrics["noise_steps"] = share_of
    n = len(found)
    more = float(abs(np.diff(correlations)).max())
    text = (
        f"the correlation of the noise changes at a line within {n} of {len(pieces)} tiles, {100 * share_of:.1f} % of "
        f"the frame: neighbouring pixels of the difference are correlated by up to {more:.2f} more on one side; S_corr "
        f"there divided by its widths on either side, {levels[:, 0].min():.3f} to {levels[:, 1].max():.3f}"
    )
    values = {"n_tiles": n, "lowest": levels[:, 0].min(), "highest": levels[:, 1].max(), "tiles": sorted(found)}
    return Step("noise steps", text, {**values, "part": share_of})
