"""Whether a PSF that was given fits the stars of its image: what the fluxes fitted with it will be off by."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from astrid_gpu._psf_crowd import Crowd, Cuts
from astrid_gpu.errors import AstridGpuError
from astrid_gpu.image import PSF, Image, PSFModel
from astrid_gpu.ops.flux import robust_mean
from astrid_gpu.ops.psf_fit import FURTHEST, MODEL_ERROR, fit_stars, psf_at, spline_of
from astrid_gpu.psf import measure_one
from astrid_gpu.results import Step

__all__ = ["PsfFit", "check_psf", "fit_of", "psf_metrics"]

_log = logging.getLogger("astrid_gpu")

_NEEDED, _MOST = 5, 40  # stars
_LEAST_SNR = 20.0
_FLOOR = 0.008  # of the flux: what the PSF measured here is itself uncertain by, in its wings
_BY_NOISE = 2.5  # over the S/N of all stars together: by the noise of its stars, as found on simulated fields
_SURE = 3.0  # standard errors
_MATTERS = 0.02  # of the flux


class PsfFit(NamedTuple):
    """How a given PSF fits n stars of its image, beside one measured on them.

    `flux_bias` is the mean of (flux by the given PSF) / (flux by the measured one) - 1 over the stars, both matched
    filters on white noise; chi2 are reduced chi-squareds of the cores, medians of the stars, 2 % of error granted to
    either PSF.
    """

    n: int
    flux_bias: float
    error: float
    fwhm: float
    fwhm_measured: float
    chi2: float
    chi2_measured: float

    @property
    def matters(self) -> bool:
        """Whether the bias is more than a few per cent and more than chance and the measured PSF's own error."""
        return abs(self.flux_bias) > max(_MATTERS, _SURE * self.error)


def check_psf(role: str, image: Image, stars: np.ndarray, psf: PSF | PSFModel) -> Step:
    """Compare a given PSF with the image's stars; say what was found, aloud if fluxes will be off by it.

    Parameters
    ----------
    role : {"science", "reference"}
    image : Image
        Background-subtracted, with its variance.
    stars : structured array of `find_stars`
    psf : PSF or PSFModel

    Returns
    -------
    Step
        With the numbers; those of an image with too few stars say that nothing was checked.
    """
    found = fit_of(image, stars, psf)
    if isinstance(found, str):
        return Step(
            "psf", f"{role}: the given PSF not checked against stars: {found}", {"role": role, "checked": False}
        )
    text = (
        f"{role}: fluxes of {found.n} stars by the given PSF are {100 * found.flux_bias:+.1f} +- "
        f"{100 * found.error:.1f} % off those by a PSF measured on them (FWHM {found.fwhm:.2f} against "
        f"{found.fwhm_measured:.2f} px, chi-squared of the cores {found.chi2:.3g} against {found.chi2_measured:.3g})"
    )
    if found.matters:
        text += f": {_advice(role, found)}"
        _log.warning("%s", text)
    return Step("psf", text, {"role": role, "checked": True, "matters": found.matters, **found._asdict()})


def _advice(role: str, found: PsfFit) -> str:
    """Tell what a PSF that does not fit does, and what to do about it."""
    narrow = found.fwhm < found.fwhm_measured
    shape = "narrower" if narrow else "wider"
    how = f"it is {shape} than the stars" if abs(found.fwhm / found.fwhm_measured - 1) > 0.01 else "it has other wings"
    size, side = 100 * abs(found.flux_bias), "low" if found.flux_bias < 0 else "high"
    what = "all fluxes will" if role == "science" else "static stars leave residuals, and what faded will"
    return (
        f"{how}, so {what} come out about {size:.0f} % {side}; leave psf_{role} out to have it measured, "
        "or give one made with measure_psf"
    )


def fit_of(image: Image, stars: np.ndarray, psf: PSF | PSFModel) -> PsfFit | str:
    """Return how a PSF fits the stars, or in words why that cannot be told."""
    clean = (stars["flags"] == 0) & stars["isolated"] & (stars["snr"] >= _LEAST_SNR)
    chosen = np.flatnonzero(clean)
    chosen = chosen[np.argsort(-stars["snr"][chosen])][:_MOST]
    if len(chosen) < _NEEDED:
        return f"{len(chosen)} clean, isolated stars of S/N {_LEAST_SNR:g} or more, {_NEEDED} are needed"
    width = float(np.median(stars["fwhm"][chosen]))
    try:
        own = measure_one(image, stars, size=2 * int(np.ceil(6 * width)) + 1, max_stars=_MOST).psf
    except AstridGpuError as reason:
        return f"no PSF can be measured on them ({reason})"
    half = own.data.shape[0] // 2
    cuts = Cuts(image, None, stars[chosen], half)
    light = Crowd(image, image.bad, stars, chosen, cuts, half).light(own.data)
    data, variance = cuts.data - light, cuts.variance + (0.05 * light) ** 2
    offset = np.stack([stars["y"][chosen] - cuts.y, stars["x"][chosen] - cuts.x], axis=1)
    spline = spline_of(own.data, half, FURTHEST + 1.5)
    offset, _, sky = fit_stars(data, variance, cuts.bad, spline, offset)
    data = data - sky[:, None, None]
    here = psf_at(spline, half, offset[:, 0], offset[:, 1])
    given = _placed(psf, cuts, half, offset)
    by = {"given": _Filtered(data, variance, cuts.bad, given), "own": _Filtered(data, variance, cuts.bad, here)}
    good = (by["own"].flux > 0) & np.isfinite(by["given"].flux)
    if good.sum() < _NEEDED:
        return f"{good.sum()} stars give a flux, {_NEEDED} are needed"
    own_flux = by["own"].flux[good]
    kernel = (by["given"].kernel - by["own"].kernel)[good]
    errors2 = (variance[good] * kernel**2).sum((1, 2)) / own_flux**2
    bias, scatter, _ = robust_mean(by["given"].flux[good] / own_flux - 1, errors2)
    noise = _BY_NOISE / float(np.sqrt((stars["snr"][chosen][good] ** 2).sum()))
    error = float(np.sqrt(scatter**2 + noise**2 + _FLOOR**2))
    middle = psf if isinstance(psf, PSF) else psf.at()
    chi2 = [float(np.median(one.chi2(half, own.fwhm)[good])) for one in by.values()]
    return PsfFit(int(good.sum()), bias, error, float(middle.fwhm), float(own.fwhm), *chi2)


def _placed(psf: PSF | PSFModel, cuts: Cuts, half: int, offset: np.ndarray) -> np.ndarray:
    """Return the PSF at the centres of the stars in their windows."""
    if isinstance(psf, PSF):
        spline = spline_of(_square(psf.data), half, FURTHEST + 1.5)
        return psf_at(spline, half, offset[:, 0], offset[:, 1])
    stamps = psf.stamps(cuts.y + offset[:, 0], cuts.x + offset[:, 1])
    splines = [spline_of(_square(stamp), half, FURTHEST + 1.5) for stamp in stamps]
    return np.concatenate([psf_at(spline, half, *off[:, None]) for spline, off in zip(splines, offset, strict=True)])


def _square(stamp: np.ndarray) -> np.ndarray:
    """Return a stamp with zeros along its shorter side."""
    side = max(stamp.shape)
    return np.pad(stamp, [((side - n) // 2,) * 2 for n in stamp.shape])


class _Filtered:
    """Fluxes (m,) of stars by the matched filter of a PSF, and the kernels (m, s, s) that give them."""

    def __init__(self, data: np.ndarray, variance: np.ndarray, bad: np.ndarray, psf: np.ndarray) -> None:
        self.data, self.variance, self.bad, self.psf = data, variance, bad, psf
        seen = np.where(bad, 0.0, psf)
        norm = (seen**2).sum((1, 2))
        self.kernel = seen / np.where(norm > 0, norm, np.inf)[:, None, None]
        self.flux = (data * self.kernel).sum((1, 2))

    def chi2(self, half: int, fwhm: float) -> np.ndarray:
        """Return the reduced chi-squared over the core, the flux fitted to it."""
        grid = np.arange(-half, half + 1)
        core = (np.hypot(*np.meshgrid(grid, grid, indexing="ij")) < 1.2 * fwhm)[None] & ~self.bad
        error2 = self.variance + (MODEL_ERROR * self.flux[:, None, None] * self.psf) ** 2
        weight = np.where(core, 1.0 / error2, 0.0)
        flux = (weight * self.data * self.psf).sum((1, 2)) / np.maximum((weight * self.psf**2).sum((1, 2)), 1e-300)
        rest = self.data - flux[:, None, None] * self.psf
        return (weight * rest**2).sum((1, 2)) / np.maximum(core.sum((1, 2)) - 4, 1)  # type: ignore[no-any-return]


def psf_metrics(steps: Iterable[Step]) -> dict[str, Any]:
    """Return the numbers of PSFs that were checked, by image."""
    metrics: dict[str, Any] = {}
    for step in steps:
        if step.stage == "psf" and step.values.get("checked"):
            role, v = step.values["role"], step.values
            metrics |= {
                f"psf_flux_bias_{role}": v["flux_bias"],
                f"psf_flux_bias_error_{role}": v["error"],
                f"psf_width_ratio_{role}": v["fwhm"] / v["fwhm_measured"],
                f"psf_chi2_{role}": v["chi2"],
                f"psf_check_stars_{role}": v["n"],
            }
    return metrics
