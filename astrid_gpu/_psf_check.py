"""Whether a PSF that was given fits the stars of its image: what the fluxes fitted with it will be off by."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from astrid_gpu._psf_crowd import Crowd, Cuts
from astrid_gpu.image import PSF, Image, PSFModel
from astrid_gpu.ops.flux import tukey
from astrid_gpu.ops.psf_fit import FURTHEST, MODEL_ERROR, fit_stars, psf_at, spline_of
from astrid_gpu.ops.star_moments import moment_limits, shapes_of, star_moments
from astrid_gpu.results import Step

__all__ = ["STAGE", "PsfFit", "StackWarnings", "check_psf", "fit_of", "psf_metrics", "warn_of_psfs"]

_log = logging.getLogger("astrid_gpu")

STAGE = "psf check"

_MOST = 40  # stars
_LEAST_SNR, _LEAST_TOGETHER = 20.0, 100.0  # of a star, and of all in quadrature
_APERTURE, _SKY = 2.5, (3.5, 5.0)  # FWHM of the stars: radius of the aperture, and of the ring that its sky is from
_FLOOR, _BEYOND = 0.008, 0.06  # of the flux, and of the bias: what the light beyond the aperture leaves unknown
_ALONE, _UNSEEN = 0.035, 5.0  # what a blend or galaxy may be off by, and the S/N of a neighbour that no search finds
_BELIEF = 8  # stars that have to agree better, or worse, than that before their own scatter counts for as much
_SURE, _TAIL = 3.0, 0.00135  # standard errors, and a Gaussian's chance of more to one side


class PsfFit(NamedTuple):
    """How a given PSF fits n stars of its image.

    `flux_bias` is the mean over the stars of the flux by its matched filter (on white noise) over that in an aperture
    of 2.5 FWHM, which the PSF's own light beyond corrects, less 1; bright stars count for more, for a neighbour that is
    not seen is little to them. `error` holds chance, the light beyond and that sources may be no stars: as much as is
    assumed where there are few, as their scatter shows where there are many, with Student's t. `fwhm` and
    `fwhm_stars` are of the best Gaussians of both; `chi2` is the median reduced chi-squared of the stars' cores, 2 % of
    error granted to the PSF.
    """

    n: int
    flux_bias: float
    error: float
    fwhm: float
    fwhm_stars: float
    chi2: float

    @property
    def matters(self) -> bool:
        """Whether the bias is more than its error allows, which is never less than 2.4 %."""
        return abs(self.flux_bias) > _SURE * self.error


def check_psf(role: str, image: Image, stars: np.ndarray, psf: PSF | PSFModel) -> Step:
    """Compare a given PSF with the image's stars; say what was found, and if it matters what to do about it.

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
        With the numbers; that of an image with too few stars says that nothing was checked.
    """
    found = fit_of(image, stars, psf)
    if isinstance(found, str):
        return Step(
            STAGE, f"{role}: the given PSF not checked against stars: {found}", {"role": role, "checked": False}
        )
    text = (
        f"{role}: fluxes of {found.n} star{'s' * (found.n > 1)} fitted with the given PSF are "
        f"{100 * found.flux_bias:+.1f} +- {100 * found.error:.1f} % off those in apertures; its width is "
        f"{found.fwhm / found.fwhm_stars:.2f} of theirs, chi-squared of the cores {found.chi2:.3g}"
    )
    if found.matters:
        text += f": {_advice(role, found)}"
    return Step(STAGE, text, {"role": role, "checked": True, "matters": found.matters, **found._asdict()})


def _advice(role: str, found: PsfFit) -> str:
    """Tell what a PSF that does not fit does, and what to do about it."""
    what = "fluxes" if role == "science" else "fluxes of what faded"
    size, side = 100 * abs(found.flux_bias), "low" if found.flux_bias < 0 else "high"
    return (
        f"{what} will come out about {size:.0f} % {side} and stars leave residuals; leave psf_{role} (and the psf of "
        "the image) out to have it measured, or give one made with measure_psf"
    )


def warn_of_psfs(steps: Iterable[Step], name: str = "") -> None:
    """Say aloud which given PSFs do not fit; `name` is that of the science image."""
    for step in _misfits(steps):
        _log.warning("%s", step.text)


def _misfits(steps: Iterable[Step]) -> list[Step]:
    return [step for step in steps if step.stage == STAGE and step.values.get("matters")]


class StackWarnings:
    """Warnings of the PSFs given for a stack of exposures: of the reference's once, of the others one that sums up.

    A context: `add` takes the place of `warn_of_psfs` in it, at its end comes the one of the science images.
    """

    def __init__(self) -> None:
        self._of_reference = False
        self._checked = self._misfits = 0
        self._worst = (0.0, "", "")  # bias, name of the exposure, text

    def __enter__(self) -> StackWarnings:
        return self

    def __exit__(self, *error: object) -> None:
        if self._misfits:
            _, name, text = self._worst
            seen = f"{self._misfits} of {self._checked} exposures' given PSFs do not fit their stars; worst, {name}: "
            _log.warning("%s%s", seen if self._checked > 1 else "", text)

    def add(self, steps: Iterable[Step], name: str) -> None:
        """Take the steps of an exposure; warn of the reference's PSF where it is the first time."""
        steps = list(steps)
        self._checked += any(
            step.stage == STAGE and step.values.get("role") == "science" and step.values["checked"] for step in steps
        )
        for step in _misfits(steps):
            if step.values["role"] == "science":
                self._misfits += 1
                mine = (abs(float(step.values["flux_bias"])), name, step.text)
                self._worst = mine if mine[0] > self._worst[0] else self._worst
            elif not self._of_reference:
                self._of_reference = True
                _log.warning("%s", step.text)


def fit_of(image: Image, stars: np.ndarray, psf: PSF | PSFModel) -> PsfFit | str:
    """Return how a PSF fits the stars, or in words why that cannot be told."""
    clean = (stars["flags"] == 0) & stars["isolated"] & (stars["snr"] >= _LEAST_SNR)
    chosen = np.flatnonzero(clean)
    chosen = chosen[np.argsort(-stars["snr"][chosen])][:_MOST]
    together = float(np.sqrt((stars["snr"][chosen] ** 2).sum()))
    if together < _LEAST_TOGETHER:
        seen = f"{len(chosen)} clean, isolated stars of S/N {_LEAST_SNR:g} or more"
        return seen + (f", of S/N {together:.0f} together; {_LEAST_TOGETHER:g} is needed" if len(chosen) else "")
    doubt = _ALONE**2 + (_UNSEEN / stars["snr"][chosen]) ** 2
    width = _weighted_median(stars["fwhm"][chosen], 1.0 / doubt)
    windows = _Windows(image, stars, chosen, psf, width)
    bias, variance, good = windows.bias()
    if not good.any():
        return "too many bad pixels in and round them"
    mean, chance = _mean_of(bias[good], variance[good], doubt[good])
    error = float(np.linalg.norm([chance, _FLOOR, _BEYOND * mean]))
    return PsfFit(int(good.sum()), mean, error, windows.own_width(), width, float(np.median(windows.chi2()[good])))


def _mean_of(bias: np.ndarray, variance: np.ndarray, doubt: np.ndarray) -> tuple[float, float]:
    """Return the Tukey-weighted mean of stars and its error, of which `_SURE` are as rare as those of a Gaussian.

    `doubt` is the variance that sources have for being no stars. It is scaled to the scatter beyond `variance`, as if
    `_BELIEF` more stars had exactly that; Student's t has as many degrees of freedom.
    """
    from scipy.special import stdtrit

    share = (doubt / (variance + doubt)) ** 2  # of a star's scatter, what tells of the doubt
    scale, mean = 1.0, _weighted_median(bias, 1.0 / (variance + doubt))
    for _ in range(30):
        total = variance + scale * doubt
        kept = tukey((bias - mean) / np.sqrt(total))
        weight = kept / total
        before, mean = mean, float((weight * bias).sum() / weight.sum())
        beyond = float((kept * share * ((bias - mean) ** 2 - variance) / doubt).sum())
        scale = (_BELIEF + max(beyond, 0.0)) / (_BELIEF + max(float((kept * share).sum()) - 1.0, 0.0))
        if abs(mean - before) < 1e-6:
            break
    students = -float(stdtrit(_BELIEF + len(bias) - 1, _TAIL)) / _SURE
    return mean, students / float(np.sqrt(weight.sum()))


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    """Return the value at which half of the weight is reached."""
    order = np.argsort(values)
    share = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(share, 0.5 * share[-1])])


class _Windows:
    """Stars in their windows, neighbours and sky taken off, and the given PSF at their centres; (m, s, s)."""

    def __init__(self, image: Image, stars: np.ndarray, chosen: np.ndarray, psf: PSF | PSFModel, width: float) -> None:
        self.width, self.half = width, int(np.ceil(_SKY[1] * width)) + 1
        self.middle = _square((psf if isinstance(psf, PSF) else psf.at()).data)
        cuts = Cuts(image, None, stars[chosen], self.half)
        light = Crowd(image, stars, chosen, cuts, self.middle.shape[0] // 2).light(self.middle)
        self.variance, self.bad = cuts.variance + (0.1 * light) ** 2, cuts.bad
        self.data = cuts.data - light
        offset = np.stack([stars["y"][chosen] - cuts.y, stars["x"][chosen] - cuts.x], axis=1)
        spline = spline_of(self.middle, self.half, FURTHEST + 1.5)
        offset, flux, _ = fit_stars(self.data, self.variance, self.bad, spline, offset)
        if isinstance(psf, PSF):
            self.psf = psf_at(spline, self.half, offset[:, 0], offset[:, 1])
        else:
            stamps = psf.stamps(cuts.y + offset[:, 0], cuts.x + offset[:, 1])
            splines = [spline_of(_square(stamp), self.half, FURTHEST + 1.5) for stamp in stamps]
            placed = [psf_at(one, self.half, *off[:, None]) for one, off in zip(splines, offset, strict=True)]
            self.psf = np.concatenate(placed)
        grid = np.arange(-self.half, self.half + 1)
        self.radius = np.hypot(
            grid[None, :, None] - offset[:, 0, None, None], grid[None, None, :] - offset[:, 1, None, None]
        )
        ring = (self.radius > _SKY[0] * width) & (self.radius < _SKY[1] * width) & ~self.bad
        rest = np.where(ring, self.data - flux[:, None, None] * self.psf, np.nan)
        sky = np.array([np.nanmedian(one) if np.isfinite(one).any() else 0.0 for one in rest])
        self.data -= sky[:, None, None]
        self.n_sky = ring.sum((1, 2))

    def bias(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return filtered over aperture flux - 1 of each star, its variance, and which stars have both."""
        seen = np.where(self.bad, 0.0, self.psf)
        inside = self.radius < _APERTURE * self.width
        own = self.own_width()  # stars of the given PSF's shape and their own width have as much light beyond as it has
        light = (self.psf * (self.radius < _APERTURE * (own if np.isfinite(own) else self.width))).sum((1, 2))
        norm = (seen**2).sum((1, 2))
        ok = ~(self.bad & inside).any((1, 2)) & (light > 0.5) & (norm > 0) & (self.n_sky > 20)
        light, norm = np.where(ok, light, 1.0), np.where(ok, norm, 1.0)
        aperture = inside / light[:, None, None]
        total, fitted = (self.data * aperture).sum((1, 2)), (self.data * seen).sum((1, 2)) / norm
        ok &= (total > 0) & (fitted > 0)
        total = np.where(ok, total, 1.0)
        kernel = seen / norm[:, None, None] - aperture
        sky = 1.57 * np.median(self.variance, axis=(1, 2)) / np.maximum(self.n_sky, 1) * kernel.sum((1, 2)) ** 2
        return fitted / total - 1, ((self.variance * kernel**2).sum((1, 2)) + sky) / total**2, ok

    def own_width(self) -> float:
        """Return the median FWHM of the given PSF at the stars' centres, measured as theirs was."""
        m, side = self.psf.shape[:2]
        y, x = np.arange(m) * side + self.half, np.full(m, self.half)
        tall = self.psf.reshape(m * side, side)  # window below window
        moments = star_moments(tall, np.zeros(tall.shape, bool), y, x, moment_limits(self.width))
        found = shapes_of(y, x, moments)
        return float(np.median(found.fwhm[found.converged])) if found.converged.any() else float("nan")

    def chi2(self) -> np.ndarray:
        """Return the reduced chi-squared of each core, the flux fitted to it."""
        core = (self.radius < 1.2 * self.width) & ~self.bad
        peak = (self.data * self.psf * core).sum((1, 2)) / np.maximum((self.psf**2 * core).sum((1, 2)), 1e-300)
        weight = np.where(core, 1.0 / (self.variance + (MODEL_ERROR * peak[:, None, None] * self.psf) ** 2), 0.0)
        flux = (weight * self.data * self.psf).sum((1, 2)) / np.maximum((weight * self.psf**2).sum((1, 2)), 1e-300)
        rest = self.data - flux[:, None, None] * self.psf
        return (weight * rest**2).sum((1, 2)) / np.maximum(core.sum((1, 2)) - 4, 1)  # type: ignore[no-any-return]


def _square(stamp: np.ndarray) -> np.ndarray:
    """Return a stamp with zeros along its shorter side."""
    side = max(stamp.shape)
    return np.pad(stamp, [((side - n) // 2,) * 2 for n in stamp.shape])


def psf_metrics(steps: Iterable[Step]) -> dict[str, Any]:
    """Return the numbers of PSFs that were checked, by image."""
    metrics: dict[str, Any] = {}
    for step in steps:
        if step.stage == STAGE and step.values.get("checked"):
            role, v = step.values["role"], step.values
            metrics |= {
                f"psf_flux_bias_{role}": v["flux_bias"],
                f"psf_flux_bias_error_{role}": v["error"],
                f"psf_width_ratio_{role}": v["fwhm"] / v["fwhm_stars"],
                f"psf_chi2_{role}": v["chi2"],
                f"psf_check_stars_{role}": v["n"],
            }
    return metrics
