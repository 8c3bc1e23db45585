"""The limits that a difference is judged by, and the words for what lies beyond them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

__all__ = ["Check", "judge"]

_LEFT = (0.03, 0.10)
"""Parts of a static star's light that may stay: 1 to 4 % is what real pairs leave of bright stars, and a star of S/N 50
that leaves a tenth raises a 5-sigma candidate."""


class Check(NamedTuple):
    """A number, the limits up to which it is good and usable, the verdict, and a sentence for people.

    `good` and `usable` hold what chance allows: the limit that matters and some standard deviations of the number.
    """

    name: str
    value: float
    good: float
    usable: float
    verdict: str
    text: str


def judge(values: Mapping[str, Any], chance: Mapping[str, float], megapixels: float) -> list[Check]:
    """Return the checks of all numbers that are known.

    Parameters
    ----------
    values : mapping
        The fields of `Quality`.
    chance : mapping
        Standard deviations by chance, by name of the check.
    megapixels : float
        Of the frame, for densities.
    """
    found = []
    for name, value, (good, usable), text in (
        *_noise(values),
        *_stars(values),
        *_psfs(values),
        *_inputs(values),
        *_frame(values, megapixels),
    ):
        if not math.isfinite(value):
            continue
        room = chance.get(name, 0.0)
        good, usable = good + room, usable + room
        verdict = "good" if value <= good else "usable" if value <= usable else "bad"
        found.append(Check(name, value, good, usable, verdict, text))
    return found


_Row = tuple[str, float, tuple[float, float], str]


def _noise(v: Mapping[str, Any]) -> Iterator[_Row]:
    """Yield the checks of the noise: width, level, whiteness, shape."""
    raw = v["score_std_raw"]
    yield "score_std_raw", abs(raw - 1), (0.1, 0.5), f"S_corr varied by {raw:.3f} before renormalisation, not 1"
    std = v["score_std"]
    yield "score_std", abs(std - 1), (0.05, 0.2), f"S_corr varies by {std:.3f} on blank sky, not 1"
    factor = v["noise_factor"]
    text = f"noise of neighbouring pixels is correlated: {factor:.2f} times white noise"
    yield "noise_factor", factor, (1.1, 2.0), text
    part = v["noise_steps"]
    text = f"the noise's correlation changes within tiles on {100 * part:.1f} % of the frame: divided by local widths"
    yield "noise_steps", part, (0.0, 1.0), text
    corr = v["spatial_correlation"]
    text = f"neighbouring pixels of the difference are correlated: {corr:+.3f}"
    yield "spatial_correlation", abs(corr), (0.1, 0.5), text
    median = v["score_median"]
    text = f"the sky of S_corr is {median:+.3f} sigma off zero: background or offset"
    yield "score_median", abs(median), (0.2, 1.0), text
    text = f"the width of S_corr changes over the frame by {v['uniformity']:.3f}"
    yield "uniformity", v["uniformity"], (0.05, 0.2), text
    text = f"the level of S_corr changes over the frame by {v['sky_residual']:.3f} sigma: background"
    yield "sky_residual", v["sky_residual"], (0.2, 1.0), text
    yield "skewness", abs(v["skewness"]), (0.1, 0.5), f"the noise is skewed: {v['skewness']:+.3f}"
    yield "kurtosis", abs(v["kurtosis"]), (0.3, 2.0), f"the noise has other tails than a Gaussian: {v['kurtosis']:+.3f}"
    for tail, limits in zip(v["tails"], ((0.5, 4.0), (2.0, 19.0)), strict=False):
        n, want = tail.above + tail.below, 2 * tail.expected
        text = f"{n} pixels of blank sky beyond {tail.sigma:g} sigma, {want:.1f} expected"
        yield f"tail_{tail.sigma:g}", (n - want) / max(want, 1.0), limits, text
    yield "asymmetry", abs(v["asymmetry"]), (0.2, 0.7), f"one sign prevails beyond 3 sigma: {v['asymmetry']:+.2f}"


def _stars(v: Mapping[str, Any]) -> Iterator[_Row]:
    """Yield the checks of what static stars leave."""
    n, flux = v["n_stars"], v["flux_residual"]
    text = f"{n} static stars keep {100 * flux:+.1f} % of their light: flux ratio"
    yield "flux_residual", abs(flux), _LEFT, text
    offset = math.hypot(v["offset_y"], v["offset_x"])
    text = (
        f"{n} static stars are {offset:.3f} px off (y {v['offset_y']:+.3f}, x {v['offset_x']:+.3f}), "
        f"which leaves dipoles of {100 * v['offset_leak']:.1f} %: registration"
    )
    yield "offset_leak", v["offset_leak"], _LEFT, text
    text = (
        f"{n} static stars are {100 * v['width_residual']:+.1f} % wider (squared) than the PSFs say, "
        f"which leaves rings of {100 * v['width_leak']:.1f} %: PSF"
    )
    yield "width_leak", v["width_leak"], _LEFT, text


def _psfs(v: Mapping[str, Any]) -> Iterator[_Row]:
    """Yield the checks of PSFs that were given, and that were measured."""
    bias = v["psf_flux_bias"]
    text = f"fluxes by the PSF given for the {v['psf_role']} are {100 * bias:+.1f} % off those of its stars: PSF"
    yield "psf_flux_bias", abs(bias), (0.0, 0.10), text
    yield "psf_doubts", v["psf_doubts"], (0, 2), f"measured PSF in doubt: {v['psf_doubt']}"


def _inputs(v: Mapping[str, Any]) -> Iterator[_Row]:
    """Yield the checks of what the images claim: their world coordinates and gains."""
    n = v["n_unmatched"]
    yield (
        "n_unmatched",
        n,
        (7, 40),
        f"none of {n:.0f} or more sources in common sky match: a WCS is wrong, or the field",
    )
    ratio = v["gain_noise_ratio"]
    text = f"the sky of the {v['gain_role']} varies {ratio:.3g} times as much as its gain says: gain"
    yield "gain_noise", abs(math.log10(ratio)), (0.3, math.inf), text


def _frame(v: Mapping[str, Any], megapixels: float) -> Iterator[_Row]:
    """Yield the checks of masks, artefacts and candidates."""
    lost = v["masked_fraction"]
    yield "masked_fraction", lost, (0.1, 0.5), f"{100 * lost:.1f} % of the common footprint is masked"
    saturated = v["saturation_fraction"]
    yield "saturation_fraction", saturated, (0.02, 0.2), f"{100 * saturated:.1f} % of the frame is saturated"
    missing = 1 - v["overlap"]
    yield "missing", missing, (0.5, 0.9), f"{100 * missing:.1f} % of the frame is not covered by both images"
    n = v["n_blank"]
    yield "few_pixels", 1 / n, (1 / 500, 1.0), f"only {n} pixels of blank sky to judge by"
    n = v["n_trails"]
    text = f"{n} {'trail crosses' if n == 1 else 'trails cross'} the frame"
    yield "n_trails", n, (0, 100), text
    for name, limits, what in (
        ("n_dipoles", (50, 1000), "dipoles"),
        ("n_unflagged", (100, 1000), "candidates without a flag"),
        ("artifact_count", (200, 4000), "candidates flagged as artefacts"),
    ):
        good, usable = (max(least, most * megapixels) for least, most in zip((15, 150), limits, strict=True))
        yield name, v[name], (good, usable), f"{v[name]} {what} on {megapixels:.2g} megapixels"
