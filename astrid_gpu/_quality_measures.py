"""The measurements behind `quality`: of the pixels, of blank sky, of static stars and of the candidates."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from astrid_gpu._psf_doubts import doubts_said
from astrid_gpu._residuals import star_residuals
from astrid_gpu.errors import InputError
from astrid_gpu.flags import INVALID, CandidateFlag, PixelFlag, describe
from astrid_gpu.ops.gaussianity import autocorrelation, expected_peaks, expected_tail, moment_scatter, moments
from astrid_gpu.ops.mask import dilate
from astrid_gpu.ops.psf_stamps import fwhm_of
from astrid_gpu.results import Candidates, Difference

__all__ = ["Tail", "of_candidates", "of_inputs", "of_pixels", "of_psfs", "of_sky", "of_stars"]

_SAMPLE = 300_000  # pixels that are looked at; of larger images a regular grid, of hardly fewer independent ones
_LEAST = 500  # with fewer pixels of blank sky than this, flagged ones and those near candidates are taken too
_BLOCKS, _BLOCK = 8, 48  # blocks of the mesh a side, at most; and pixels along a block's side, at least
_SURE = 4.0  # standard deviations of a number that chance is granted
_SURE_OF_PSF = 3.0  # as `subtract` warns from
_NOT_ARTEFACTS = CandidateFlag.EDGE | CandidateFlag.EXTENDED | CandidateFlag.NO_CENTROID
_NAN = float("nan")
_OF_STARS = (
    "flux_residual", "offset_y", "offset_x", "offset_scatter", "width_residual", "offset_leak", "width_leak",
)  # fmt: skip


class Tail(NamedTuple):
    """Pixels of blank sky beyond `sigma`, above and below; how many a Gaussian has on one side, and the scatter."""

    sigma: float
    above: int
    below: int
    expected: float
    scatter: float


def of_pixels(diff: Difference) -> dict[str, Any]:
    """Count flagged pixels, and take plain statistics of the difference."""
    mask, kind = diff.mask, diff.mask.dtype.type
    limit = np.iinfo(mask.dtype).max
    flagged = mask[mask != 0]
    counts = {f.name: int(np.count_nonzero(flagged & kind(f.bit))) for f in describe(PixelFlag) if f.bit <= limit}
    saturated = kind(PixelFlag.SATURATED_SCIENCE | PixelFlag.SATURATED_REFERENCE)
    outside = counts["NO_DATA"]
    lost = int(np.count_nonzero(flagged & kind(INVALID))) - outside
    values = _finite(_thinned(diff.difference))
    values = values if values.size else _finite(diff.difference)
    mean, std, _, _ = moments(values)
    errors = values[:0] if diff.flux_error is None else _finite(_thinned(diff.flux_error))
    return {
        "mean": mean, "std": std,
        "minimum": float(np.fmin.reduce(diff.difference, axis=None)),
        "maximum": float(np.fmax.reduce(diff.difference, axis=None)),
        "flux_error": float(np.median(errors)) if errors.size else _NAN,
        "saturation_fraction": np.count_nonzero(flagged & saturated) / mask.size,
        "masked_fraction": lost / max(mask.size - outside, 1), "overlap": 1 - outside / mask.size,
        "n_trails": int(diff.metrics.get("n_trails", 0)), "pixel_flags": {k: n for k, n in counts.items() if n},
    }  # fmt: skip


def of_sky(diff: Difference, found: Candidates) -> tuple[dict[str, Any], dict[str, float]]:
    """Measure the noise and its shape on blank sky; return values, and what chance gives them."""
    stride, psf = _stride(diff.shape), diff.psf
    rho = autocorrelation(psf, stride)
    score, blank = _thinned(diff.score_corr), _blank(diff, found)
    sky = score[blank]
    n = sky.size
    low, middle, high = (float(q) for q in np.percentile(sky, [15.865, 50, 84.135]))
    _, _, skewness, kurtosis = moments(sky)
    pixels = _thinned(diff.difference)[blank]
    low_d, high_d = np.percentile(pixels, [15.865, 84.135])
    noise = float(high_d - low_d) / 2
    tails = [
        Tail(sigma, int((sky > sigma).sum()), int((sky < -sigma).sum()), *expected_tail(sigma, rho, n))
        for sigma in (3.0, 4.0, 5.0)
    ]
    beyond = tails[0].above + tails[0].below
    mesh, mesh_chance = _mesh(score, blank, rho)
    corr, pairs = _neighbours(diff, noise)
    width = (high - low) / 2
    values = {
        "n_blank": n, "noise_level": noise, "score_median": middle, "score_std": width,
        "score_std_raw": float(diff.metrics.get("score_corr_std_raw", width)),
        "noise_factor": float(diff.metrics.get("noise_factor", 1.0)),
        "noise_steps": float(diff.metrics.get("noise_steps", 0.0)),
        "n_independent": n / max(float(rho.sum()), 1.0), "skewness": skewness, "kurtosis": kurtosis,
        "skewness_scatter": moment_scatter(rho, n, 3), "kurtosis_scatter": moment_scatter(rho, n, 4),
        "tails": tuple(tails), "asymmetry": (tails[0].above - tails[0].below) / max(beyond, 1),
        "spatial_correlation": corr, **mesh,
    }  # fmt: skip
    of_width = _SURE * 0.96 * moment_scatter(rho, n, 2) / math.sqrt(2)
    chance = {
        "score_std": of_width, "score_std_raw": of_width, "score_median": _SURE * 1.2533 * moment_scatter(rho, n, 1),
        "spatial_correlation": _SURE / math.sqrt(max(pairs, 1)), **mesh_chance,
        "skewness": _SURE * values["skewness_scatter"], "kurtosis": _SURE * values["kurtosis_scatter"],
        "asymmetry": _SURE * math.sqrt(2) * tails[0].scatter / max(beyond, 1),
    }  # fmt: skip
    for tail in tails:
        chance[f"tail_{tail.sigma:g}"] = _SURE * math.sqrt(2) * tail.scatter / max(2 * tail.expected, 1.0)
    return values, chance


def of_stars(diff: Difference) -> tuple[dict[str, Any], dict[str, float]]:
    """Measure what static stars leave in the difference; return values, and what chance gives them."""
    r = star_residuals(diff.difference, diff.science, diff.flux_error, diff.mask, diff.psf)
    if r is None:
        names = (
            "flux_residual",
            "offset_y",
            "offset_x",
            "offset_scatter",
            "width_residual",
            "offset_leak",
            "width_leak",
        )
        return {"n_stars": 0} | dict.fromkeys(names, _NAN), {}
    values = {
        "n_stars": r.n, "flux_residual": r.flux, "offset_y": r.dy, "offset_x": r.dx, "offset_scatter": r.scatter,
        "width_residual": r.width, "offset_leak": r.leak_offset, "width_leak": r.leak_width,
    }  # fmt: skip
    chance = {
        "flux_residual": _SURE * r.flux_error,
        "offset_leak": _SURE * r.offset_error * r.slope, "width_leak": _SURE * r.width_error / 2,
    }  # fmt: skip
    return values, chance


def of_psfs(diff: Difference) -> tuple[dict[str, Any], dict[str, float]]:
    """Return by how much fluxes of a given PSF are off, that of the image where it is surer; and what chance gives.

    And how many measured PSFs are in doubt, with the reasons.
    """
    doubts = doubts_said(diff.steps)
    values: dict[str, Any] = {
        "psf_doubts": len(doubts),
        "psf_doubt": ", ".join(f"{role}: {what}" for role, what in doubts.items()),
    }
    found = [
        (abs(bias) - _SURE_OF_PSF * error, role, bias, error)
        for role in ("science", "reference")
        if (bias := diff.metrics.get(f"psf_flux_bias_{role}")) is not None
        and (error := diff.metrics.get(f"psf_flux_bias_error_{role}")) is not None
    ]
    if not found:
        return values | {"psf_flux_bias": _NAN, "psf_role": ""}, {}
    _, role, bias, error = max(found)
    return values | {"psf_flux_bias": bias, "psf_role": role}, {"psf_flux_bias": _SURE_OF_PSF * error}


def of_inputs(diff: Difference) -> dict[str, Any]:
    """Return what `subtract` found of the images' own claims: sources that do not match, and the gain that is worse."""
    ratios = {
        role: float(ratio)
        for role in ("science", "reference")
        if (ratio := diff.metrics.get(f"gain_noise_ratio_{role}")) is not None
    }
    role = max(ratios, key=lambda name: abs(math.log(ratios[name])), default="")
    unmatched = float(diff.metrics.get("n_unmatched", _NAN))
    return {"n_unmatched": unmatched, "gain_noise_ratio": ratios.get(role, _NAN), "gain_role": role}


def of_candidates(diff: Difference, found: Candidates) -> dict[str, Any]:
    """Count candidates by flag, and how many noise alone would have made."""
    flags = found["flags"]
    counts = {f.name: int(np.count_nonzero(flags & np.uint32(f.bit))) for f in describe(CandidateFlag)}
    artefact = flags & ~np.uint32(_NOT_ARTEFACTS)
    usable = int(np.count_nonzero(np.isfinite(diff.score_corr)))
    return {
        "n_candidates": len(found), "n_unflagged": int(np.count_nonzero(flags == 0)),
        "artifact_count": int(np.count_nonzero(artefact)), "n_dipoles": counts["DIPOLE"],
        "expected_false": 2 * expected_peaks(float(found.threshold), diff.psf, usable),
        "flags": {k: n for k, n in counts.items() if n},
    }  # fmt: skip


def _stride(shape: tuple[int, ...]) -> int:
    return max(1, math.ceil(math.sqrt(shape[0] * shape[1] / _SAMPLE)))


def _thinned(plane: np.ndarray) -> np.ndarray:
    """Return every n-th pixel along both axes."""
    step = _stride(plane.shape)
    return plane[::step, ::step]


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _blank(diff: Difference, found: Candidates) -> np.ndarray:
    """Return blank sky on the thinned grid: no flag, not near a candidate; less strict where that leaves too little."""
    step = _stride(diff.shape)
    finite = np.isfinite(_thinned(diff.score_corr)) & np.isfinite(_thinned(diff.difference))
    clean = finite & (_thinned(diff.mask) == 0)
    near = np.zeros(finite.shape, bool)
    y, x = ((np.rint(found[axis]) // step).astype(np.int64) for axis in ("y", "x"))
    near[np.clip(y, 0, near.shape[0] - 1), np.clip(x, 0, near.shape[1] - 1)] = True
    fwhm = 3.0 if diff.psf is None else fwhm_of(diff.psf)
    near = dilate(near, math.ceil(2 * fwhm / step))
    for choice in (clean & ~near, finite & ~near, finite):
        if np.count_nonzero(choice) >= _LEAST:
            return choice
    if not finite.any():
        msg = "no pixel of the difference is usable, there is nothing to judge"
        raise InputError(msg)
    return finite


def _mesh(score: np.ndarray, blank: np.ndarray, rho: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
    """Return how width and median of the score change from block to block, beyond chance."""
    counts = [min(_BLOCKS, side // _BLOCK) for side in score.shape]
    widths, middles, sizes = [], [], []
    if min(counts) >= 1:
        for rows in np.array_split(np.arange(score.shape[0]), counts[0]):
            for columns in np.array_split(np.arange(score.shape[1]), counts[1]):
                block = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
                values = score[block][blank[block]]
                if values.size >= _LEAST:
                    low, middle, high = np.percentile(values, [15.865, 50, 84.135])
                    widths.append((high - low) / 2)
                    middles.append(middle)
                    sizes.append(values.size)
    if len(widths) < 4:
        return {"uniformity": _NAN, "sky_residual": _NAN}, {}
    each = 1 / np.mean(sizes)
    # Variances of a robust width and of a median of one block, and of the variance of those over the blocks.
    by_chance = (0.93 * max(np.sum(rho**2), 1.0) * each, 1.5708 * max(np.sum(rho), 1.0) * each)
    spread = [max(float(np.var(k, ddof=1)) - c, 0.0) for k, c in zip((widths, middles), by_chance, strict=True)]
    sure = _SURE * math.sqrt(2 / (len(widths) - 1))
    names = ("uniformity", "sky_residual")
    values = {name: math.sqrt(s) for name, s in zip(names, spread, strict=True)}
    return values, {name: math.sqrt(sure * float(c)) for name, c in zip(names, by_chance, strict=True)}


def _neighbours(diff: Difference, noise: float) -> tuple[float, int]:
    """Return the mean correlation of pixels with their neighbours along x and y on clean sky, and the number of pairs.

    Values are held at 4 sigma, so that a star's residue is one pixel among many.
    """
    step = _stride(diff.shape)
    ny, nx = diff.shape
    if min(ny, nx) < 2 or not noise > 0:
        return _NAN, 0
    corners = ((slice(0, ny - 1, step), slice(0, nx - 1, step)), (slice(0, ny - 1, step), slice(1, nx, step)),
               (slice(1, ny, step), slice(0, nx - 1, step)))  # fmt: skip
    planes = [diff.difference[c] for c in corners]
    good = np.logical_and.reduce([(diff.mask[c] == 0) & np.isfinite(p) for c, p in zip(corners, planes, strict=True)])
    n = int(np.count_nonzero(good))
    if n < _LEAST:
        return _NAN, n
    here, right, down = (np.clip(p[good], -4 * noise, 4 * noise) for p in planes)
    square = float(np.mean(here * here, dtype=np.float64))
    return float(np.mean(here * (right + down), dtype=np.float64)) / (2 * square), 2 * n
