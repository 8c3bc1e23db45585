"""From two exposures to what ZOGY needs: masks, background, noise, one grid, PSFs, flux ratio, registration."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from astrid_gpu._flux_ratio import FluxRatio, flux_ratio
from astrid_gpu._host_ops import both
from astrid_gpu._noise import median_of
from astrid_gpu.align import Aligned, align
from astrid_gpu.backends import get_backend
from astrid_gpu.calibrate import noise_variance, residual_background, saturation_mask, subtract_background
from astrid_gpu.config import SubtractConfig
from astrid_gpu.errors import FitsError, InputError, PsfError
from astrid_gpu.flags import PixelFlag
from astrid_gpu.image import PSF, Image
from astrid_gpu.io import read_psf
from astrid_gpu.ops.fill import fill_masked, fill_profiles
from astrid_gpu.ops.fourier import padded_shape, shift_phase
from astrid_gpu.psf import measure_psf, measure_psf_pair
from astrid_gpu.results import Background, Step
from astrid_gpu.stars import find_stars

__all__ = ["Given", "Pair", "PairPreparer", "timed"]

_SATURATED = 4  # bit of Image.mask between here and the flags; everything else nonzero is "bad"
MIN_SHIFT = 0.005
"""Registration offsets below this many pixels are left alone and counted as noise."""

MAX_SCATTER = 0.01
"""Largest scatter of the flux ratio from source to source that is counted as an error of the model: more of it means
that the sources are no stars or vary, and would hide transients on galaxies."""

PSF_CENTRE = 0.02
"""What the centres of two measured PSFs are good for, pixels: added to the registration noise."""

CORRELATED = 1.1
"""Noise of the smoothed difference over that of white noise from which on the variances are raised to match."""


@dataclass(frozen=True)
class Given:
    """What the caller knows already; None is estimated."""

    psf_science: Any = None
    psf_reference: Any = None
    sigma_science: float | None = None
    sigma_reference: float | None = None
    flux_ratio: float | None = None
    astrometric_error: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("sigma_science", "sigma_reference", "flux_ratio"):
            value = getattr(self, name)
            if value is None:
                continue
            number = np.asarray(value)
            if number.ndim or number.dtype.kind not in "iuf" or not (np.isfinite(number) and number > 0):
                msg = f"{name} must be one positive number, or None to have it estimated; got {value!r}"
                raise InputError(msg)
            object.__setattr__(self, name, float(number))
        if self.astrometric_error is not None:
            error = np.asarray(self.astrometric_error)
            if error.shape != (2,) or error.dtype.kind not in "iuf" or not np.all(np.isfinite(error) & (error >= 0)):
                msg = (
                    "astrometric_error must be two numbers (y, x) in pixels, none negative, or None to have it "
                    f"estimated; got {self.astrometric_error!r}"
                )
                raise InputError(msg)
            object.__setattr__(self, "astrometric_error", (float(error[0]), float(error[1])))


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


@dataclass
class _Exposure:
    """One image after its own stages: sky-subtracted, with variance; and its background and noise."""

    image: Image
    background: Background
    sigma: float
    steps: list[Step]


@dataclass
class _Matched:
    """What matching two images gave: the flux ratio, the reference moved, what remains uncertain."""

    ratio: FluxRatio
    reference: np.ndarray
    astrometric: tuple[float, float]
    factor: float
    steps: list[Step]


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
    """Prepares science images against one reference, whose own stages run once."""

    reference: Image
    config: SubtractConfig
    given: Given = field(default_factory=Given)

    def __post_init__(self) -> None:
        self._reference: _Exposure | None = None

    def prepare(self, science: Image) -> Pair:
        """Run every stage on one science image; the reference comes to its grid."""
        profile: dict[str, float] = {}
        given = _read_given(self.given, science.shape)
        with timed(profile, "background and noise"):
            sci, ref = self._alone(science)
        with timed(profile, "alignment"):
            sci, aligned, sigma_r, moved = _to_one_grid(sci, ref, self.config)
        steps = [*sci.steps, *ref.steps, *moved]
        with timed(profile, "stars"):
            here, there = (sci.image, sci.sigma), (aligned.image, sigma_r)
            stars = list(both(lambda: _stars(*here), lambda: _stars(*there)))
        with timed(profile, "PSFs"):
            psfs, psf_steps = _psfs(sci.image, aligned.image, stars, given, self.config)
        with timed(profile, "flux ratio and registration"):
            sci.image, sci.sigma, aligned, sigma_r, matched = self._match(sci, aligned, sigma_r, psfs, stars)
        steps += [*psf_steps, *matched.steps]
        return self._pair(sci, aligned, sigma_r, psfs, matched, steps, profile)

    def _alone(self, science: Image) -> tuple[_Exposure, _Exposure]:
        """Run the stages that need one image only, of both at once; the reference's the first time."""

        def own(image: Image, sigma: float | None, role: str) -> _Exposure:
            return _own_stages(image, self.config, sigma, role)

        sigmas = self.given.sigma_science, self.given.sigma_reference
        if self._reference is not None:
            return own(science, sigmas[0], "science"), self._reference
        ref, sci = both(lambda: own(self.reference, sigmas[1], "reference"), lambda: own(science, sigmas[0], "science"))
        self._reference = ref
        return sci, ref

    def _match(
        self, sci: _Exposure, aligned: Aligned, sigma_r: float, psfs: tuple[PSF, PSF], stars: list[np.ndarray]
    ) -> tuple[Image, float, Aligned, float, _Matched]:
        """Flux ratio, registration and the sky that is left; once more if the noise proves correlated."""
        science, factor, found = sci.image, 1.0, 1.0
        for attempt in range(2):
            weights = (science.known_variance * factor**2, aligned.image.known_variance * factor**2)
            ratio = flux_ratio(science, aligned.image, *psfs, stars[0], stars[1], *weights)
            reference, astrometric, moved = _register(aligned, ratio, psfs[1], sigma_r, self.config, self.given)
            beta = self.given.flux_ratio or ratio.beta
            level, found, how = residual_background(
                science, reference, beta, *psfs, weights, aligned.footprint, self.config.box
            )
            if attempt == 1 or found < CORRELATED:
                break
            factor = found
        sky = [_sky_step(science.name, level, how, taken=self.config.background), _noise_step(factor, found)]
        if self.config.background:
            science = science.with_(data=(science.data - level).astype(science.data.dtype))
        if factor != 1.0:
            science = science.with_(variance=weights[0])
            aligned = replace(aligned, image=aligned.image.with_(variance=weights[1]))
        steps = [*_ratio_steps(ratio, self.given), *moved, *sky]
        matched = _Matched(ratio, reference, astrometric, factor, steps)
        return science, sci.sigma * factor, aligned, sigma_r * factor, matched

    def _pair(
        self,
        sci: _Exposure,
        aligned: Aligned,
        sigma_r: float,
        psfs: tuple[PSF, PSF],
        matched: _Matched,
        steps: list[Step],
        profile: dict[str, float],
    ) -> Pair:
        ratio, astrometric = matched.ratio, matched.astrometric
        beta = self.given.flux_ratio or ratio.beta
        zero_point, note = _zero_point(sci.image, aligned.image, beta)
        beta_error = 0.0 if self.given.flux_ratio else float(ratio.beta_error)
        metrics: dict[str, Any] = {
            "flux_ratio": float(beta),
            "flux_ratio_error": beta_error,
            "offset": float(ratio.gamma),
            "flux_scatter": float(ratio.intrinsic),
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
            "overlap": np.count_nonzero(aligned.footprint) / aligned.footprint.size,
            "profile": profile,
        }
        return Pair(
            science=sci.image.data,
            reference=matched.reference,
            variance_science=sci.image.known_variance,
            variance_reference=aligned.image.known_variance,
            sigma_science=float(sci.sigma),
            sigma_reference=float(sigma_r),
            psf_science=psfs[0],
            psf_reference=psfs[1],
            flux_ratio=float(beta),
            flux_ratio_error=beta_error,
            relative_error=float(np.hypot(beta_error / beta, min(ratio.intrinsic, MAX_SCATTER))),
            astrometric_error=astrometric,
            flags=_flags(sci.image, aligned),
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


def _stars(image: Image, sigma: float) -> np.ndarray:
    """Find the stars of an image whose saturated pixels are marked."""
    saturated = np.zeros(image.shape, bool) if image.mask is None else (image.mask & _SATURATED) != 0
    return find_stars(image, background_rms=sigma, saturated=saturated)


def _own_stages(image: Image, config: SubtractConfig, sigma: float | None, role: str) -> _Exposure:
    """Mask saturation, subtract the background, build the variance: all that needs one image only."""
    finite = np.isfinite(image.data)
    if not (finite.any() if image.mask is None else (finite & (image.mask == 0)).any()):
        msg = f"{image.name}: the {role} image has no usable pixel: all are masked, NaN or infinite"
        raise InputError(msg)
    saturated, step = saturation_mask(image)
    mask = (image.mask != 0).astype(np.uint8) if image.mask is not None else np.zeros(image.shape, np.uint8)
    mask[saturated & finite] |= _SATURATED
    mask[~finite] |= 1
    image = image.with_(mask=mask)
    steps = [Step(step.stage, f"{role}: {step.text}", step.values)]
    if image.variance is not None:
        void = ~(np.isfinite(image.variance) & (image.variance > 0)) & (mask == 0)
        n_void = int(void.sum())
        if 0 < n_void < int((mask == 0).sum()):  # a plane without one usable value is an error, told below
            mask[void] |= 1
            text = f"{role}: {n_void} pixels without a positive, finite variance masked"
            steps.append(Step("noise", text, {"n_masked": n_void}))
    notes = image.meta.get("notes", ())
    steps += [Step("reading", f"{role}: {note}", {}) for note in notes]
    if config.background:
        image, background, step = subtract_background(image, box=config.box)
        steps.append(Step(step.stage, f"{role}: {step.text}", step.values))
    else:
        background = _flat_background(image)
        steps.append(Step("background", f"{role}: not subtracted, as asked", {}))
    variance, measured, step = noise_variance(image, background)
    steps.append(Step(step.stage, f"{role}: {step.text}", step.values))
    if sigma is not None:
        steps.append(Step("noise", f"{role}: background sigma {sigma:g} as given", {"sigma": sigma}))
    return _Exposure(image.with_(variance=variance), background, float(sigma or measured), steps)


def _sky_step(name: str, level: np.ndarray, how: str, *, taken: bool) -> Step:
    """Tell what sky was left in the difference, and whether it was taken off."""
    middle = median_of(level, np.zeros(level.shape, bool))
    text = f"{name}: {middle:+.4g} a pixel left in the difference, {'taken off' if taken else 'left, as asked'} ({how})"
    return Step("background", text, {"offset": middle})


def _noise_step(factor: float, found: float) -> Step:
    """Tell how the noise of the smoothed difference on blank sky compares with white noise."""
    text = f"blank sky of the smoothed difference varies {found:.3f} times as much as white noise of the variances"
    if factor != 1.0:
        text = f"neighbouring pixels are correlated: both variances raised by {factor:.3f}²; after that {text}"
    return Step("noise", text, {"factor": factor, "found": found})


def _to_one_grid(
    sci: _Exposure, ref: _Exposure, config: SubtractConfig
) -> tuple[_Exposure, Aligned, float, list[Step]]:
    """Bring the reference to the science grid, or the reverse; return both, the reference's sigma and the steps."""
    if config.grid == "science":
        aligned = align(ref.image, sci.image, method=config.align)
        return sci, aligned, _scaled_sigma(ref, aligned), aligned.steps
    moved = align(sci.image, ref.image, method=config.align)
    here = replace(sci, image=moved.image, sigma=_scaled_sigma(sci, moved))
    aligned = align(ref.image, moved.image, method="none")
    return here, replace(aligned, footprint=moved.footprint, scatter=moved.scatter), ref.sigma, moved.steps


def _flat_background(image: Image) -> Background:
    """Return a background of zero with the robust width of the image, for images that are sky-subtracted already."""
    good = image.data[~image.bad]
    low, middle, high = np.percentile(good, [15.865, 50, 84.135])
    width = min(middle - low, high - middle)
    return Background(np.zeros_like(image.data), np.full_like(image.data, width), None)


def _scaled_sigma(ref: _Exposure, aligned: Aligned) -> float:
    """Return an image's sigma on the new grid: it scales as its variance did, not as resampling smooths."""
    before, after = ref.image.known_variance, aligned.image.known_variance
    if before is after:
        return ref.sigma
    inside = aligned.footprint & np.isfinite(after) & (after > 0)
    if not inside.any():
        msg = f"{ref.image.name}: no usable pixel of it falls on the other image"
        raise InputError(msg)
    usable = ~ref.image.bad & np.isfinite(before)
    return float(ref.sigma * np.sqrt(median_of(after, ~inside) / median_of(before, ~usable)))


def _psfs(
    science: Image, reference: Image, stars: list[np.ndarray], given: Given, config: SubtractConfig
) -> tuple[tuple[PSF, PSF], list[Step]]:
    """Both PSFs: given with the call, carried by the image, or measured on its stars."""
    asked = {"science": given.psf_science, "reference": given.psf_reference}
    images = {"science": science, "reference": reference}
    fixed: dict[str, PSF] = {}
    for role, spec in asked.items():
        if spec is not None:
            fixed[role] = spec
        elif images[role].psf is not None:
            fixed[role] = _read_psf(images[role].psf, f"the PSF of the {role} image", images[role].shape)
    measured: dict[str, PSF] = {}
    size = config.psf_size or _stamp_side(stars)
    if not fixed:
        pair = measure_psf_pair(science, reference, *stars, size=size)
        measured = dict(zip(asked, pair, strict=True))
    for role, catalogue in zip(asked, stars, strict=True):
        if role not in fixed | measured:
            measured[role] = measure_psf(images[role], stars=catalogue, size=size)
    both = fixed | measured
    steps = []
    for role in asked:
        psf = both[role]
        how = f"measured on {psf.n_stars} stars ({psf.origin})" if role in measured else f"given ({psf.origin})"
        text = f"{role}: PSF {how}, FWHM {psf.fwhm:.2f} px"
        steps.append(Step("psf", text, {"fwhm": psf.fwhm, "n_stars": psf.n_stars, "residual": psf.residual}))
    return (both["science"], both["reference"]), steps


def _read_psf(spec: Any, name: str, shape: tuple[int, int]) -> PSF:
    """Read a PSF, in the middle of the frame if it varies; errors say whose it is."""
    try:
        return read_psf(spec, shape=shape)
    except (FitsError, PsfError) as exc:
        msg = f"{name}: {exc}"
        raise type(exc)(msg) from exc


def _read_given(given: Given, shape: tuple[int, int]) -> Given:
    """Read the PSFs that were given with the call, before any work is done."""
    read: dict[str, Any] = {
        name: _read_psf(spec, name, shape)
        for name in ("psf_science", "psf_reference")
        if (spec := getattr(given, name)) is not None
    }
    return replace(given, **read)


def _stamp_side(stars: list[np.ndarray]) -> int:
    """Choose one side for both PSFs, 12 times the wider FWHM.

    What a stamp cuts off of one PSF and not of the other would go into the flux ratio, and the rest of every star
    into the sky.
    """
    widths = [np.nanmedian(s["fwhm"][good]) for s in stars if (good := (s["snr"] > 10) & np.isfinite(s["fwhm"])).any()]
    return 2 * int(np.ceil(6 * max(widths, default=3.0))) + 1


def _ratio_steps(ratio: FluxRatio, given: Given) -> list[Step]:
    """Tell what the flux ratio is and where it comes from."""
    if given.flux_ratio is None:
        return [ratio.step]
    text = f"F_n / F_r = {given.flux_ratio:g} as given (measured {ratio.beta:.5g} +- {ratio.beta_error:.2g})"
    return [Step("flux ratio", text, {"beta": given.flux_ratio})]


def _register(
    aligned: Aligned, ratio: FluxRatio, psf: PSF, noise: float, config: SubtractConfig, given: Given
) -> tuple[np.ndarray, tuple[float, float], list[Step]]:
    """Remove the mean registration offset as a Fourier phase; what scatter remains is astrometric noise."""
    data = aligned.image.data
    scatter = (ratio.scatter_y, ratio.scatter_x)
    if not np.all(np.isfinite(scatter)):
        scatter = aligned.scatter or (0.0, 0.0)
    if given.astrometric_error is not None:
        text = f"astrometric error {given.astrometric_error[0]:g}, {given.astrometric_error[1]:g} px (y, x) as given"
        return data, given.astrometric_error, [Step("registration", text, {})]
    if config.registration == "none":
        return data, (0.0, 0.0), [Step("registration", "offset and scatter ignored, as asked", {})]
    dy, dx = ratio.dy, ratio.dx
    known = np.isfinite(dy) and np.isfinite(dx)
    error = (float(np.hypot(scatter[0], PSF_CENTRE)), float(np.hypot(scatter[1], PSF_CENTRE)))
    if config.registration == "noise" or not known or max(abs(dy), abs(dx)) < MIN_SHIFT:
        if known:
            error = (float(np.hypot(error[0], dy)), float(np.hypot(error[1], dx)))
        text = f"offset y {dy:+.3f}, x {dx:+.3f} px left in place; astrometric error {error[0]:.3f}, {error[1]:.3f} px"
        return data, error, [Step("registration", text, {"dy": dy, "dx": dx})]
    text = (
        f"reference moved by y {dy:+.3f}, x {dx:+.3f} px (Fourier phase); "
        f"astrometric error {error[0]:.3f}, {error[1]:.3f} px from the scatter of {ratio.n_stars} stars"
    )
    return _shifted(aligned.image, dy, dx, psf, noise), error, [Step("registration", text, {"dy": dy, "dx": dx})]


def _shifted(image: Image, dy: float, dx: float, psf: PSF, noise: float) -> np.ndarray:
    """Move an image by a fraction of a pixel: holes and edges filled, a phase in Fourier space, holes put back."""
    from scipy import fft

    ny, nx = image.shape
    padded = padded_shape(image.shape, psf.data.shape[0], lambda n: fft.next_fast_len(n))
    bad = np.ones((1, *padded), np.uint8)
    bad[0, :ny, :nx] = image.bad
    frame = np.zeros((1, *padded), image.data.dtype)
    frame[0, :ny, :nx] = np.where(image.bad, 0, image.data)
    profiles = fill_profiles([max(psf.fwhm / 2.3548, 0.7)], padded)
    backend = get_backend("auto")
    fill = None if backend.is_gpu else backend.ops.get("fill_masked")
    filled = (fill or fill_masked)(frame / noise, bad, profiles) * noise
    moved = fft.irfft2(fft.rfft2(filled[0]) * shift_phase(padded, dy, dx), s=padded)[:ny, :nx]
    return np.where(image.bad, np.nan, moved).astype(image.data.dtype)


def _flags(science: Image, aligned: Aligned) -> np.ndarray:
    """Pixel flags of the pair: what is bad, saturated or missing in which image."""
    flags = np.zeros(science.shape, np.uint8)
    reference = aligned.image
    for image, bad, saturated in (
        (science, PixelFlag.BAD_SCIENCE, PixelFlag.SATURATED_SCIENCE),
        (reference, PixelFlag.BAD_REFERENCE, PixelFlag.SATURATED_REFERENCE),
    ):
        mask = image.mask if image.mask is not None else np.zeros(image.shape, np.uint8)
        lost = (mask & ~np.uint8(_SATURATED) != 0) | (~np.isfinite(image.data) & (mask == 0))
        lost &= aligned.footprint
        flags[lost] |= int(bad)
        flags[mask & _SATURATED != 0] |= int(saturated)
    flags[~aligned.footprint] |= int(PixelFlag.NO_DATA)
    return flags


def _zero_point(science: Image, reference: Image, beta: float) -> tuple[float | None, list[Step]]:
    """Return the science zero point; from the reference's and the flux ratio where its own is missing."""
    if science.zero_point is not None or reference.zero_point is None or not beta > 0:
        return science.zero_point, []
    zero_point = reference.zero_point + 2.5 * float(np.log10(beta))
    text = f"science: zero point {zero_point:.3f} from the reference's {reference.zero_point:.3f} and the flux ratio"
    return zero_point, [Step("zero point", text, {"zero_point": zero_point})]
