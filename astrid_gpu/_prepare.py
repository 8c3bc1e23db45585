"""From two exposures to what ZOGY needs: masks, background, noise, one grid, PSFs, flux ratio, registration."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from astrid_gpu._exposure import Exposure, own_stages, scaled_sigma, stars_of
from astrid_gpu._flux_field import FluxModel
from astrid_gpu._flux_ratio import FluxRatio, flux_ratio, level_reference, level_step, usable_beta
from astrid_gpu._gain_check import gain_metrics
from astrid_gpu._given import Given, Models, carry_models, choose_psfs, read_given
from astrid_gpu._host_ops import both
from astrid_gpu._masks import pair_flags
from astrid_gpu._noise import median_of
from astrid_gpu._noise_model import NoiseModel, noise_model
from astrid_gpu._psf_check import psf_metrics, warn_of_psfs
from astrid_gpu._registration import LARGE_SHIFT, Registered, register_reference
from astrid_gpu._wrong_wcs import alignment_metrics
from astrid_gpu.align import Aligned, align
from astrid_gpu.backends.blas import one_blas_thread
from astrid_gpu.calibrate import residual_background
from astrid_gpu.config import SubtractConfig
from astrid_gpu.image import PSF, Image, PSFModel
from astrid_gpu.results import Step

__all__ = [
    "CORRELATED",
    "MAX_SCATTER",
    "Given",
    "Matched",
    "Pair",
    "PairPreparer",
    "noise_step",
    "ratio_steps",
    "timed",
]

MAX_SCATTER = 0.01
"""Largest scatter of the flux ratio from source to source that is counted as an error of the model: more of it means
that the sources are no stars or vary, and would hide transients on galaxies."""

CORRELATED = 1.1
"""Noise of the smoothed difference over that of the noise model from which on the variances are raised to match."""


@dataclass
class Pair:
    """A registered pair, ready for the engine. Arrays (ny, nx); the science image's unit is F_n = 1."""

    science: np.ndarray
    reference: np.ndarray
    variance_science: np.ndarray
    variance_reference: np.ndarray
    sigma_science: float
    sigma_reference: float
    psf_science: PSF
    psf_reference: PSF
    flux_ratio: float
    flux_ratio_error: float  # of beta itself
    relative_error: float  # of the flux ratio and, from star to star, of the PSFs
    astrometric_error: tuple[float, float]
    flags: np.ndarray
    wcs: Any
    zero_point: float | None
    steps: list[Step]
    metrics: dict[str, Any]
    meta: dict[str, Any]
    psf_models: tuple[PSFModel | None, PSFModel | None] = (None, None)  # PSFs that vary, None where one is constant
    flux_model: FluxModel | None = None  # beta over the field where it varies; `reference` has been levelled by it
    registered: Registered | None = None
    details: np.ndarray | None = None  # pixel flags above the engine's byte
    short_of_memory: bool = False  # prepared by blocks: its variances are frames on disk
    plan: Any = None  # how it is cut into tiles, once that is decided
    noise_spectrum_science: np.ndarray | None = None  # autocorrelation of the noise, None where it is white
    noise_spectrum_reference: np.ndarray | None = None
    noise: NoiseModel = field(default_factory=NoiseModel)


@dataclass
class Matched:
    """What matching two images gave: the flux ratio, the reference moved, what remains uncertain."""

    ratio: FluxRatio
    registered: Registered
    factor: float
    noise: NoiseModel
    steps: list[Step]
    model: FluxModel | None = None


@contextmanager
def timed(profile: dict[str, float], stage: str) -> Iterator[None]:
    """Add the seconds a block takes to `profile[stage]`."""
    start = time.perf_counter()
    try:
        yield
    finally:
        profile[stage] = profile.get(stage, 0.0) + time.perf_counter() - start


@dataclass
class PairPreparer:
    """Prepares science images against one reference, whose own stages run once.

    `warn` is told what was found of the PSFs, and of which science image.
    """

    reference: Image
    config: SubtractConfig
    given: Given = field(default_factory=Given)
    warn: Callable[[Iterable[Step], str], None] = warn_of_psfs

    def __post_init__(self) -> None:
        self._reference: Exposure | None = None

    @one_blas_thread()
    def prepare(self, science: Image) -> Pair:
        """Run every stage on one science image; the reference comes to its grid."""
        profile: dict[str, float] = {}
        given = read_given(self.given, science.shape, self.reference.shape)
        with timed(profile, "background and noise"):
            sci, ref = self._alone(science)
        here, there, given = carry_models(sci.image, ref.image, given)
        sci, ref = replace(sci, image=here), replace(ref, image=there)
        with timed(profile, "alignment"):
            sci, aligned, sigma_r, moved = _to_one_grid(sci, ref, self.config)
        steps = [*sci.steps, *ref.steps, *moved]
        with timed(profile, "stars"):
            looked = (sci.image, sci.sigma), (aligned.image, sigma_r)
            stars = list(both(lambda: stars_of(*looked[0]), lambda: stars_of(*looked[1])))
        with timed(profile, "PSFs"):
            psfs, models, psf_steps = choose_psfs(sci.image, aligned.image, stars, given, self.config)
            self.warn(psf_steps, science.name)
        with timed(profile, "flux ratio and registration"):
            sci.image, sci.sigma, aligned, sigma_r, matched = self._match(sci, aligned, sigma_r, psfs, models, stars)
        steps += [*psf_steps, *matched.steps]
        pair = self.pair(sci, aligned, sigma_r, psfs, matched, steps, profile)
        return replace(pair, psf_models=models, flux_model=matched.model)

    def _alone(self, science: Image) -> tuple[Exposure, Exposure]:
        """Run the stages that need one image only, of both at once; the reference's the first time."""

        def own(image: Image, sigma: float | None, role: str) -> Exposure:
            return own_stages(image, self.config, sigma, role)

        sigmas = self.given.sigma_science, self.given.sigma_reference
        if self._reference is not None:
            return own(science, sigmas[0], "science"), self._reference
        ref, sci = both(lambda: own(self.reference, sigmas[1], "reference"), lambda: own(science, sigmas[0], "science"))
        self._reference = ref
        return sci, ref

    def _match(
        self,
        sci: Exposure,
        aligned: Aligned,
        sigma_r: float,
        psfs: tuple[PSF, PSF],
        models: Models,
        stars: list[np.ndarray],
    ) -> tuple[Image, float, Aligned, float, Matched]:
        """Flux ratio, registration and the sky that is left; once more if the noise proves correlated."""
        science, factor, found, noise = sci.image, 1.0, 1.0, NoiseModel()
        aligned, model, levelled = self._level(science, aligned, psfs, models, stars)
        given = science.known_variance, aligned.image.known_variance
        measured: NoiseModel | None = None
        decided = settled = False
        while True:
            weights = [_raised(v, factor**2 * by) for v, by in zip(given, noise.excess, strict=True)]
            ratio = flux_ratio(science, aligned.image, *psfs, stars[0], stars[1], *weights, psf_models=models)
            registered = register_reference(aligned, ratio, psfs[1], sigma_r, self.config, self.given)
            reference = registered.reference
            if registered.moved > LARGE_SHIFT:
                there = aligned.image.with_(data=reference)
                again = flux_ratio(science, there, *psfs, stars[0], stars[1], *weights, psf_models=models)
                ratio = again.moved_from(ratio)
                if registered.field is None:
                    registered = register_reference(aligned, ratio, psfs[1], sigma_r, self.config, self.given)
                    reference = registered.reference
            beta = usable_beta(ratio, self.given.flux_ratio)
            if measured is None:
                bad = science.bad | ~np.isfinite(reference) | ~aligned.footprint
                measured = noise_model(self._noise_mode(), (science.data, reference), given, psfs, beta, bad)
            true = [_raised(v, factor**2 * scale) for v, scale in zip(given, noise.scales, strict=True)]
            level, found, how = residual_background(
                science, reference, beta, *psfs, (true[0], true[1]), aligned.footprint, self.config.box, noise.stamps
            )
            if not decided:  # by what the difference does if its noise is taken for white
                decided, noise = True, measured.tested(self.config.noise, found)
                if noise.coloured:
                    continue
            elif noise.coloured and not (noise := noise.borne_out(self.config.noise, found)).coloured:
                continue
            if settled or found < CORRELATED:
                break
            settled, factor = True, found
        sky = [_sky_step(science.name, level, how, taken=self.config.background), noise_step(factor, found)]
        if self.config.background:
            science = science.with_(data=(science.data - level).astype(science.data.dtype))
        science = science.with_(variance=true[0])
        aligned = replace(aligned, image=aligned.image.with_(variance=true[1]))
        steps = [*ratio_steps(ratio, self.given), *levelled, *registered.steps, sky[0], *noise.steps, sky[1]]
        matched = Matched(ratio, registered, factor, noise, steps, model)
        sigmas = [s * factor * np.sqrt(by) for s, by in zip((sci.sigma, sigma_r), noise.scales, strict=True)]
        return science, sigmas[0], aligned, sigmas[1], matched

    def _noise_mode(self) -> str:
        """Return how noise is to be taken: only ZOGY asks for its spectrum."""
        return self.config.noise if self.config.method == "zogy" else "unasked"

    def _level(
        self, science: Image, aligned: Aligned, psfs: tuple[PSF, PSF], models: Models, stars: list[np.ndarray]
    ) -> tuple[Aligned, FluxModel | None, list[Step]]:
        """Measure the flux ratio over the field and, where it varies, level the reference by it."""
        if self.given.flux_ratio is not None or self.config.flux_order == 0:
            return aligned, None, []
        found = flux_ratio(
            science, aligned.image, *psfs, stars[0], stars[1], psf_models=models, order=self.config.flux_order
        )
        if found.model is None:
            return aligned, None, []
        return replace(aligned, image=level_reference(aligned.image, found)), found.model, [level_step(found)]

    def pair(
        self,
        sci: Exposure,
        aligned: Aligned,
        sigma_r: float,
        psfs: tuple[PSF, PSF],
        matched: Matched,
        steps: list[Step],
        profile: dict[str, float],
        known: tuple[np.ndarray, np.ndarray | None] | None = None,
    ) -> Pair:
        """Gather what the stages found; `known` are flags and details if there are any already."""
        ratio, astrometric = matched.ratio, matched.registered.error
        beta = usable_beta(ratio, self.given.flux_ratio)
        zero_point, note = _zero_point(sci.image, aligned.image, beta)
        beta_error = 0.0 if self.given.flux_ratio else float(ratio.beta_error)
        metrics: dict[str, Any] = {
            "flux_ratio": float(beta),
            "flux_ratio_error": _with_psfs(beta_error, beta, psfs),
            **_metrics(sci, aligned, sigma_r, psfs, matched),
            **psf_metrics(steps),
            **gain_metrics(steps),
            **alignment_metrics(steps),
            "profile": profile,
        }
        flags, details = known or pair_flags(sci.image, aligned)
        return Pair(
            science=sci.image.data,
            reference=matched.registered.reference,
            variance_science=sci.image.known_variance,
            variance_reference=aligned.image.known_variance,
            sigma_science=float(sci.sigma),
            sigma_reference=float(sigma_r),
            psf_science=psfs[0],
            psf_reference=psfs[1],
            flux_ratio=float(beta),
            flux_ratio_error=metrics["flux_ratio_error"],
            relative_error=float(np.hypot(beta_error / beta, min(ratio.intrinsic, MAX_SCATTER))),
            astrometric_error=astrometric,
            registered=matched.registered,
            flags=flags,
            details=details,
            noise_spectrum_science=matched.noise.stamps[0],
            noise_spectrum_reference=matched.noise.stamps[1],
            noise=matched.noise,
            wcs=sci.image.wcs,
            zero_point=zero_point,
            steps=[*steps, *note],
            metrics=metrics,
            meta={
                "science": sci.image.name,
                "reference": self.reference.name,
                "science_meta": dict(sci.image.meta),
                "reference_meta": dict(self.reference.meta),
            },
        )


def _metrics(
    sci: Exposure, aligned: Aligned, sigma_r: float, psfs: tuple[PSF, PSF], matched: Matched
) -> dict[str, Any]:
    """Return the numbers of a matched pair."""
    ratio, astrometric = matched.ratio, matched.registered.error
    return {
        "offset": float(ratio.gamma),
        "flux_scatter": float(ratio.intrinsic),
        "flux_order": 0 if matched.model is None else matched.model.order,
        "n_flux_stars": int(ratio.n_stars),
        "shift_y": float(ratio.dy),
        "shift_x": float(ratio.dx),
        "astrometric_error_y": float(astrometric[0]),
        "astrometric_error_x": float(astrometric[1]),
        "fwhm_science": float(psfs[0].fwhm),
        "fwhm_reference": float(psfs[1].fwhm),
        "sigma_science": float(sci.sigma),
        "sigma_reference": float(sigma_r),
        "noise_factor": float(matched.factor),
        "pixel_noise_factor": float(aligned.noise_factor),
        "map_error": float(aligned.map_error),
        **matched.noise.metrics,
        "overlap": np.count_nonzero(aligned.footprint) / aligned.footprint.size,
    }


def _raised(variance: np.ndarray, factor: float) -> np.ndarray:
    """Return a variance map times a factor; the map itself for 1."""
    return variance if factor == 1 else variance * variance.dtype.type(factor)


def _sky_step(name: str, level: np.ndarray, how: str, *, taken: bool) -> Step:
    """Tell what sky was left in the difference, and whether it was taken off."""
    middle = median_of(level, np.zeros(level.shape, bool))
    text = f"{name}: {middle:+.4g} a pixel left in the difference, {'taken off' if taken else 'left, as asked'} ({how})"
    return Step("background", text, {"offset": middle})


def noise_step(factor: float, found: float) -> Step:
    """Tell how the noise of the smoothed difference on blank sky compares with the noise model."""
    text = f"blank sky of the smoothed difference varies {found:.3f} times as much as noise of the variances"
    if factor != 1.0:
        text = f"both variances raised by {factor:.3f}²; after that {text}"
    return Step("noise", text, {"factor": factor, "found": found})


def _to_one_grid(sci: Exposure, ref: Exposure, config: SubtractConfig) -> tuple[Exposure, Aligned, float, list[Step]]:
    """Bring the reference to the science grid, or the reverse; return both, the reference's sigma and the steps."""
    how: dict[str, Any] = {
        "method": config.align,
        "kernel": config.kernel,
        "min_overlap": config.min_overlap,
        "backend": config.backend,
    }
    if config.grid == "science":
        aligned = align(ref.image, sci.image, **how)
        return sci, aligned, scaled_sigma(ref, aligned), aligned.steps
    moved = align(sci.image, ref.image, **how)
    here = replace(sci, image=moved.image, sigma=scaled_sigma(sci, moved))
    aligned = align(ref.image, moved.image, method="none")
    carried = {name: getattr(moved, name) for name in ("footprint", "scatter", "map_error", "noise_factor")}
    return here, replace(aligned, **carried), ref.sigma, moved.steps


def ratio_steps(ratio: FluxRatio, given: Given) -> list[Step]:
    """Tell what the flux ratio is and where it comes from."""
    if given.flux_ratio is None:
        return [ratio.step]
    text = f"F_n / F_r = {given.flux_ratio:g} as given (measured {ratio.beta:.5g} +- {ratio.beta_error:.2g})"
    return [Step("flux ratio", text, {"beta": given.flux_ratio})]


def _with_psfs(error: float, beta: float, psfs: tuple[PSF, PSF]) -> float:
    """Return the error of a measured flux ratio with that of the PSFs, if it is measured.

    What PSFs get wrong in every star alike leaves nothing in the difference, but is in the ratio.
    """
    return float(np.sqrt(error**2 + np.nansum([(beta * psf.flux_error) ** 2 for psf in psfs]))) if error else 0.0


def _zero_point(science: Image, reference: Image, beta: float) -> tuple[float | None, list[Step]]:
    """Return the science zero point; from the reference's and the flux ratio where its own is missing."""
    if science.zero_point is not None or reference.zero_point is None or not beta > 0:
        return science.zero_point, []
    zero_point = reference.zero_point + 2.5 * float(np.log10(beta))
    text = f"science: zero point {zero_point:.3f} from the reference's {reference.zero_point:.3f} and the flux ratio"
    return zero_point, [Step("zero point", text, {"zero_point": zero_point})]
