"""`quality`: how good a difference image is, in numbers, each with the limit it is judged by."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from astrid_gpu._quality_checks import Check, judge
from astrid_gpu._quality_measures import Tail, of_candidates, of_inputs, of_pixels, of_psfs, of_sky, of_stars
from astrid_gpu.detect import detect
from astrid_gpu.errors import InputError
from astrid_gpu.flags import PixelFlag
from astrid_gpu.results import Candidates, Difference

__all__ = ["Quality", "quality"]

_ORDER = ("bad", "usable", "good")
_INNER = (
    "offset_leak",
    "width_leak",
    "n_dipoles",
    "psf_flux_bias",
    "psf_role",
    "noise_steps",
    "n_unmatched",
    "gain_noise_ratio",
    "gain_role",
    "psf_doubts",
    "psf_doubt",
)  # judged, and told in words and in `checks`


@dataclass(frozen=True, repr=False)
class Quality:
    """How good a difference is. Lengths in pixels, fluxes in the unit of the difference, significances in sigma.

    Parameters
    ----------
    verdict : {"good", "usable", "bad"}
        The worst verdict of `checks`.
    reasons : tuple of str
        What keeps it from being good, worst first.
    checks : tuple of Check
        Every number that was judged, with its limits.
    n_blank : int
        Pixels of blank sky that were looked at.
    noise_level : float
        Robust standard deviation of a pixel of the difference on clean sky.
    score_median, score_std, score_std_raw : float
        Of S_corr on clean sky: median, robust width, and the width before any renormalisation.
    noise_factor : float
        Noise of neighbouring pixels over that of white noise, as measured by `subtract`; 1 if it was not.
    dynamic_range : float
        Largest absolute pixel of the difference over `noise_level`.
    detection_threshold, limiting_magnitude : float
        Flux of a point source at `threshold` sigma, median over the frame, and the same as magnitude.
    mean, std, minimum, maximum : float
        Of the difference over all usable pixels.
    n_independent : float
        Independent samples behind mean and widths: usable pixels over the area in which the score is correlated.
    skewness, kurtosis, skewness_scatter, kurtosis_scatter : float
        Third and fourth moments (excess) of S_corr on blank sky, and what chance gives them.
    tails : tuple of Tail
        Beyond 3, 4 and 5 sigma, surroundings of candidates left out.
    spatial_correlation : float
        Mean correlation of neighbouring pixels of the difference, which is white where the noise model holds.
    uniformity, sky_residual : float
        Scatter of the width and of the median of S_corr over a mesh of blocks, beyond chance.
    n_stars, flux_residual, offset_y, offset_x, offset_scatter, width_residual : int and float
        What static stars leave (see `_residuals.StarResiduals`); NaN without enough stars.
    saturation_fraction, masked_fraction, overlap : float
        Parts of the frame: saturated in either image; NaN within the common footprint; in the common footprint.
    n_candidates, n_unflagged, artifact_count, expected_false : int and float
        Candidates at `threshold`; those without any flag; those with one; how many noise alone would make.
    flags, pixel_flags : dict of str to int
        Candidates and pixels by flag.
    """

    verdict: str
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]
    threshold: float
    n_blank: int
    noise_level: float
    score_median: float
    score_std: float
    score_std_raw: float
    noise_factor: float
    dynamic_range: float
    detection_threshold: float
    limiting_magnitude: float
    mean: float
    std: float
    minimum: float
    maximum: float
    n_independent: float
    skewness: float
    kurtosis: float
    skewness_scatter: float
    kurtosis_scatter: float
    tails: tuple[Tail, ...]
    asymmetry: float
    spatial_correlation: float
    uniformity: float
    sky_residual: float
    n_stars: int
    flux_residual: float
    offset_y: float
    offset_x: float
    offset_scatter: float
    width_residual: float
    saturation_fraction: float
    masked_fraction: float
    overlap: float
    n_trails: int
    n_candidates: int
    n_unflagged: int
    artifact_count: int
    expected_false: float
    flags: dict[str, int] = field(default_factory=dict)
    pixel_flags: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, text, lists and dicts, ready for JSON; what is not known is None."""
        plain = asdict(self)
        plain["checks"] = [check._asdict() for check in self.checks]
        plain["tails"] = [tail._asdict() for tail in self.tails]
        return _plain(plain)

    def line(self) -> str:
        """Return the verdict with its first reasons, on one line."""
        more = f"; and {len(self.reasons) - 2} more" if len(self.reasons) > 2 else ""
        return self.verdict + (f": {'; '.join(self.reasons[:2])}{more}" if self.reasons else "")

    def __repr__(self) -> str:
        rows = [("noise", self._noise()), ("depth", self._depth()), ("Gaussian", self._shape())]
        rows += [("residuals", self._stars()), ("pixels", self._pixels()), ("candidates", self._counts())]
        lines = [f"<Quality {self.verdict}", *(f"  - {reason}" for reason in self.reasons)]
        return "\n".join([*lines, *(f"  {name:<11} {text}" for name, text in rows)]) + ">"

    def _noise(self) -> str:
        width = f"S_corr width {self.score_std:.3f} (raw {self.score_std_raw:.3f}), uniform to {self.uniformity:.3f}"
        return f"{self.noise_level:.4g} a pixel; {width}, median {self.score_median:+.3f}"

    def _depth(self) -> str:
        magnitude = f", {self.limiting_magnitude:.2f} mag" if math.isfinite(self.limiting_magnitude) else ""
        limit = f"{self.detection_threshold:.4g} at {self.threshold:g} sigma{magnitude}"
        return f"{limit}; dynamic range {self.dynamic_range:.4g}"

    def _shape(self) -> str:
        third = f"skewness {self.skewness:+.3f} +- {self.skewness_scatter:.3f}"
        fourth = f"kurtosis {self.kurtosis:+.3f} +- {self.kurtosis_scatter:.3f}"
        tails = [f"{t.above}+{t.below} beyond {t.sigma:g} ({2 * t.expected:.1f} expected)" for t in self.tails]
        return "; ".join([f"{third}, {fourth}", *tails])

    def _stars(self) -> str:
        if not self.n_stars:
            return "not measured: fewer than five bright static stars, or no PSF of the difference"
        offset = f"offset y {self.offset_y:+.3f}, x {self.offset_x:+.3f} px (scatter {self.offset_scatter:.3f})"
        rest = f"flux {self.flux_residual:+.4f}, squared width {self.width_residual:+.4f}"
        return f"{self.n_stars} static stars: {offset}, {rest}"

    def _pixels(self) -> str:
        parts = ((self.masked_fraction, "masked"), (self.saturation_fraction, "saturated"), (self.overlap, "in common"))
        return ", ".join(f"{100 * part:.2f} % {what}" for part, what in parts) + f"; {self.n_trails} trails"

    def _counts(self) -> str:
        counts = f"{self.n_candidates}: {self.n_unflagged} unflagged, {self.artifact_count} flagged as artefacts"
        return f"{counts}; {self.expected_false:.2g} by noise alone"


def quality(diff: Difference, candidates: Candidates | None = None, *, threshold: float = 5.0) -> Quality:
    """Measure how good a difference is, and judge it.

    Parameters
    ----------
    diff : Difference
        Of one image, with `score_corr`. Device arrays are copied to the host.
    candidates : Candidates, optional
        Those of `detect(diff, threshold)` if they are at hand; found here otherwise.
    threshold : float
        Sigma of S_corr for candidates and limits; that of `candidates` if they are given.

    Returns
    -------
    Quality
        With a verdict ("good", "usable", "bad"), the reasons in words, and every number behind it.

    Raises
    ------
    InputError
        No score_corr, a stack of several images, or no usable pixel.

    Notes
    -----
    Blank sky is every pixel without a flag that is further than two FWHM from any candidate. Scatters are those of
    Gaussian noise with the correlation that the matched filter gives it (`ops.gaussianity`). The limits and where they
    come from: docs/concepts.md. Of images larger than 3 10^5 pixels a regular grid is used. Cost: a few passes over
    that, a search for the bright stars, and `detect` if candidates are not given.
    """
    one = _one_image(diff)
    found = detect(one, threshold) if candidates is None else candidates
    values: dict[str, Any] = {"threshold": float(found.threshold), **of_pixels(one), **of_candidates(one, found)}
    sky, chance = of_sky(one, found)
    stars, of_chance = of_stars(one)
    psfs, of_psf = of_psfs(one)
    values |= sky | stars | psfs | of_inputs(one)
    limit = values["threshold"] * values.pop("flux_error")
    deep = one.zero_point is not None and limit > 0
    values["detection_threshold"] = limit
    values["limiting_magnitude"] = float(one.zero_point) - 2.5 * math.log10(limit) if deep else math.nan  # type: ignore[arg-type]
    extreme = max(abs(values["minimum"]), abs(values["maximum"]))
    values["dynamic_range"] = extreme / values["noise_level"] if values["noise_level"] > 0 else math.nan
    checks = judge(values, chance | of_chance | of_psf, one.score_corr.size / 1e6)
    failed = sorted((c for c in checks if c.verdict != "good"), key=lambda c: _ORDER.index(c.verdict))
    for name in _INNER:
        del values[name]
    verdict = failed[0].verdict if failed else "good"
    return Quality(verdict=verdict, reasons=tuple(c.text for c in failed), checks=tuple(checks), **values)


def _one_image(diff: Difference) -> Difference:
    """Return the difference of one image on the host, arrays (ny, nx)."""
    if diff.score_corr is None or diff.difference is None:
        msg = "the difference has no score_corr to judge; compute it with outputs=('difference', 'score_corr', ...)"
        raise InputError(msg)
    names = ("difference", "score", "score_corr", "flux", "flux_error", "mask", "science", "reference", "psf")
    host = {k: a.get() if hasattr(a, "get") else a for k in names if (a := getattr(diff, k)) is not None}
    if len(diff.shape) == 3:
        if diff.shape[0] != 1:
            msg = f"quality() judges one image, this is a stack of {diff.shape[0]}; take them one by one"
            raise InputError(msg)
        host = {k: a[0] if np.ndim(a) == 3 else a for k, a in host.items()}
    if "mask" not in host:
        host["mask"] = (~np.isfinite(host["score_corr"])).astype(np.uint8) * np.uint8(PixelFlag.NO_DATA)
    return replace(diff, **host)


def _plain(value: Any) -> Any:
    """Return plain Python values, None for numbers that are not finite."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
