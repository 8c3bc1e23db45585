"""What was found against what was there: completeness, false positives, fluxes and positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from astrid_gpu.flags import INVALID, PixelFlag
from astrid_gpu.results import Candidates, Difference

__all__ = ["SNR_BINS", "Comparison", "compare", "forced_flux", "noise_peaks", "summarise"]

FLAWED = int(INVALID | PixelFlag.NEAR_BAD | PixelFlag.EDGE)
"""Flags of candidates that touch bad pixels or the edge: found, but their fluxes and positions are not counted."""

SNR_BINS = (4.0, 5.0, 7.0, 10.0, 20.0, np.inf)
"""Edges of the bins of expected S/N in which completeness is counted."""

_REAL = 2.0  # a candidate on a source of at least this expected S/N is that source, however it fluctuated


@dataclass(frozen=True, repr=False)
class Comparison:
    """Candidates of one difference matched with its truth.

    Parameters
    ----------
    truth : structured array, shape (n,)
        Rows of `simulate.TRUTH_DTYPE`, those with S/N of 2 or more and on usable pixels.
    match : int array, shape (n,)
        Row of the candidate that recovers each truth, -1 if none does.
    candidates : structured array
    false : bool array, shape (len(candidates),)
        Candidates that are no changed source.
    n_masked : int
        Changed sources that lie on invalid pixels and are counted nowhere.
    pixels : int
        Usable pixels of the difference.
    threshold : float
    noise_peaks : float
        Peaks beyond the threshold that Gaussian noise alone would make, NaN where the difference has no PSF.
    """

    truth: np.ndarray
    match: np.ndarray
    candidates: np.ndarray
    false: np.ndarray
    n_masked: int
    pixels: int
    threshold: float
    noise_peaks: float

    @property
    def found(self) -> np.ndarray:
        """Which truths were recovered."""
        return self.match >= 0

    def __repr__(self) -> str:
        bright = np.abs(self.truth["snr"]) >= self.threshold
        return (
            f"<Comparison: {np.sum(self.found & bright)} of {np.sum(bright)} sources beyond {self.threshold:g} sigma "
            f"recovered, {np.sum(self.false)} false in {self.pixels / 1e6:.2f} Mpix>"
        )


def compare(diff: Difference, candidates: Candidates, truth: np.ndarray, *, radius: float = 2.5) -> Comparison:
    """Match candidates with the truth: nearest of the same sign within `radius` pixels, brightest truth first.

    Parameters
    ----------
    diff : Difference
        For the usable pixels.
    candidates : Candidates
    truth : structured array of `simulate.TRUTH_DTYPE`
    radius : float
        Pixels.

    Returns
    -------
    Comparison
    """
    valid = np.isfinite(diff.score_corr)
    rows, columns = np.rint(truth["y"]).astype(int), np.rint(truth["x"]).astype(int)
    inside = (rows >= 0) & (rows < valid.shape[0]) & (columns >= 0) & (columns < valid.shape[1])
    usable = inside.copy()
    usable[inside] = valid[rows[inside], columns[inside]]
    real = np.abs(truth["snr"]) >= _REAL
    kept = truth[usable & real]
    data = candidates.data
    match = np.full(len(kept), -1)
    for index in np.argsort(-np.abs(kept["snr"])):
        row = kept[index]
        distance = np.hypot(data["x"] - row["x"], data["y"] - row["y"])
        distance[(data["polarity"] != row["polarity"]) | np.isin(np.arange(len(data)), match)] = np.inf
        if len(data) and distance.min() <= radius:
            match[index] = int(distance.argmin())
    false = np.ones(len(data), dtype=bool)
    false[match[match >= 0]] = False
    masked = int(np.sum(inside & ~usable & real))
    pixels, threshold = int(valid.sum()), candidates.threshold
    expected = float("nan") if diff.psf is None else pixels * noise_peaks(np.asarray(diff.psf), threshold)
    return Comparison(kept, match, data, false, masked, pixels, threshold, expected)


def noise_peaks(psf: np.ndarray, threshold: float) -> float:
    """Return the expected number of peaks beyond +-threshold per pixel of S_corr on blank sky.

    A pixel of a unit Gaussian field is a peak if it exceeds its neighbours along both axes. With the correlation rho
    of next neighbours along an axis, the chance of that at height z is

    Q(rho, z) = 1 - 2 Phi(-h z) + (1/pi) int_0^a exp(-h^2 z^2 / (2 sin^2 t)) dt,
    h = sqrt((1 - rho) / (1 + rho)), a = arcsin(sqrt((1 - rho^2) / 2)),

    and the axes are taken as independent, which they are for a Gaussian correlation [1]_. That of S is P_D correlated
    with itself.

    Parameters
    ----------
    psf : array, shape (ky, kx)
        P_D of the difference.
    threshold : float

    References
    ----------
    .. [1] Taylor, Worsley & Gosselin 2007, Biometrika 94, 1.
    """
    from scipy.special import ndtr

    z = np.linspace(threshold, threshold + 8.0, 801)
    density = np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)
    for axis in (0, 1):
        rho = float((psf * np.roll(psf, 1, axis)).sum() / (psf**2).sum())
        h = np.sqrt((1.0 - rho) / (1.0 + rho))
        end = np.arcsin(np.sqrt((1.0 - rho**2) / 2.0))
        t = end * (np.arange(400) + 0.5) / 400
        inner = np.exp(-0.5 * (h * z[:, None] / np.sin(t)) ** 2).sum(axis=1) * end / 400
        density *= 1.0 - 2.0 * ndtr(-h * z) + inner / np.pi
    return 2.0 * float((density[:-1] + density[1:]).sum() / 2 * (z[1] - z[0]))


def forced_flux(diff: Difference, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the PSF flux and its error at given sub-pixel places, NaN where the pixels around are not usable.

    The flux map is a matched-filtered image, smoother than the PSF: a cubic spline between its pixels is good to
    about one per cent of the flux at a FWHM of 2.2 pixels and better for wider ones.
    """
    from scipy.ndimage import map_coordinates

    flux, error = np.full(len(x), np.nan), np.full(len(x), np.nan)
    ny, nx = diff.flux.shape
    for i, (px, py) in enumerate(zip(x, y, strict=True)):
        iy, ix = round(float(py)), round(float(px))
        if not (5 <= iy < ny - 5 and 5 <= ix < nx - 5):
            continue
        window = np.asarray(diff.flux[iy - 5 : iy + 6, ix - 5 : ix + 6], dtype=np.float64)
        if np.isfinite(window[3:8, 3:8]).all():
            window = np.where(np.isfinite(window), window, 0.0)
            flux[i] = map_coordinates(window, [[py - iy + 5], [px - ix + 5]], order=3)[0]
            error[i] = float(diff.flux_error[iy, ix])
    return flux, error


def summarise(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Add up comparisons of many differences.

    Returns
    -------
    dict
        completeness: for each bin of `SNR_BINS` its edges, number, recovered and the number that Gaussian noise
        leads one to expect. false: count, unflagged count, both per million pixels, and the number that Gaussian
        noise leads one to expect. flux: median ratio at S/N >= 20, median and robust width of (flux - truth) /
        flux_error at S/N >= 10. position: median distance in pixels at S/N >= 20. Both leave out the sources that
        touch bad pixels or the edge; flawed is their number at S/N >= 10. masked: sources on unusable pixels.
        Medians are None without sources.
    """
    from scipy.special import ndtr

    snr = np.concatenate([np.abs(c.truth["snr"]) for c in comparisons])
    found = np.concatenate([c.found for c in comparisons])
    threshold = comparisons[0].threshold
    completeness = []
    for low, high in pairwise(SNR_BINS):
        chosen = (snr >= low) & (snr < high)
        expected = float(ndtr(snr[chosen] - threshold).sum())
        completeness.append({
            "low": low, "high": high if np.isfinite(high) else None, "number": int(chosen.sum()),
            "recovered": int(found[chosen].sum()), "expected": round(expected, 1),
        })  # fmt: skip
    false = sum(int(c.false.sum()) for c in comparisons)
    unflagged = sum(int((c.false & (c.candidates["flags"] == 0)).sum()) for c in comparisons)
    pixels = sum(c.pixels for c in comparisons)
    return {
        "completeness": completeness,
        "false": {
            "count": false, "unflagged": unflagged, "per_mpix": 1e6 * false / pixels,
            "unflagged_per_mpix": 1e6 * unflagged / pixels, "mpix": pixels / 1e6,
            "expected": sum(c.noise_peaks for c in comparisons),
        },
        **_accuracy(comparisons),
        "masked": sum(c.n_masked for c in comparisons),
    }  # fmt: skip


def _accuracy(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Flux ratio, flux pulls and position errors of the recovered sources on whole pixels."""
    truth = np.concatenate([c.truth[c.found] for c in comparisons])
    found = np.concatenate([c.candidates[c.match[c.found]] for c in comparisons])
    snr = np.abs(truth["snr"])
    whole = (found["flags"] & FLAWED) == 0
    good, bright = whole & (snr >= 10), whole & (snr >= 20)
    pull = ((found["flux"] - truth["flux"]) / found["flux_error"])[good]
    distance = np.hypot(found["x"] - truth["x"], found["y"] - truth["y"])[bright]
    ratio = (found["flux"] / truth["flux"])[bright]
    low, middle, high = np.percentile(pull, [15.87, 50, 84.13]) if len(pull) else (np.nan,) * 3
    return {
        "flux": {
            "n_bright": int(bright.sum()),
            "median_ratio": float(np.median(ratio)) if len(ratio) else None,
            "n_pull": int(good.sum()),
            "pull_median": float(middle) if len(pull) else None,
            "pull_width": float(high - low) / 2 if len(pull) else None,
        },
        "flawed": int(np.sum(~whole & (snr >= 10))),
        "position": {"n": int(bright.sum()), "median_px": float(np.median(distance)) if len(distance) else None},
    }
