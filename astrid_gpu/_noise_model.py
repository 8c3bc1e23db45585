"""What the noise of a pair is taken for, white or coloured, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from astrid_gpu._noise import median_of
from astrid_gpu._noise_spectrum import (
    Blank,
    NoiseSpectrum,
    combined,
    core_of,
    depths_of,
    measure_blocks,
    noise_covariances,
    spectra_of,
)
from astrid_gpu._noise_variation import differs, sensitivity
from astrid_gpu.image import PSF
from astrid_gpu.ops.noise_spectrum import noise_power
from astrid_gpu.ops.zogy import make_params
from astrid_gpu.ops.zogy_kernels import zogy_kernels
from astrid_gpu.results import Step

__all__ = ["NoiseModel", "noise_model", "seen_by", "stack_stamps"]

WIDTH_MATTERS = 0.05
"""Error of the width of S_corr from which on correlated noise is not taken for white."""

PROOF = 0.08
"""How far the noise of the smoothed difference has to be from white before a weak correlation is believed."""

CORRELATION_MATTERS = 0.2
"""Correlation of neighbours from which on it is not, even where the width is right: D would be far from white."""

OVERSTATED = 0.9
"""Noise of the smoothed difference over that of a measured spectrum below which it is not believed: what it took for
noise does not differ between the images."""

_LEAST_IN_BLOCK = 4000  # blank pixels, to tell of a part of the frame


@dataclass(frozen=True)
class NoiseModel:
    """What a pair's noise is taken for; of the science image, and of the reference.

    Attributes
    ----------
    stamps : pair of arrays, or None for white noise
    scales : pair of float
        Variance of a pixel over the one stated.
    excess : pair of float
        Variance of the flux of a PSF over that of white noise of the variance stated.
    steps : list of Step
    metrics : dict
    local : bool
        Whether spectra of parts of the frame may be measured: there is more noise than sky on blank pixels.
    varies : str
        What of the noise varies over the frame, in words; nothing if none does by more than chance.
    """

    stamps: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
    scales: tuple[float, float] = (1.0, 1.0)
    excess: tuple[float, float] = (1.0, 1.0)
    steps: list[Step] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    local: bool = False
    varies: str = ""

    @property
    def coloured(self) -> bool:
        """Whether either noise is."""
        return any(stamp is not None for stamp in self.stamps)

    def tested(self, mode: str, found: float) -> NoiseModel:
        """Return this model or, where it explains no better how much the smoothed difference varies, white noise.

        `found` is that over what white noise of the variances stated gives. Strong correlations need no such proof, and
        nothing does if "coloured" is the mode asked for.
        """
        width = self.metrics.get("score_corr_std_white", 1.0)
        pairs = (self.metrics.get(f"noise_correlation_{role}", 0.0) for role in ("science", "reference"))
        if mode != "auto" or not self.coloured or max(map(abs, pairs)) >= CORRELATION_MATTERS:
            return self
        if abs(found - 1) > PROOF and abs(found - width) < abs(found - 1):
            return self
        return self.white(f"but the difference varies {found:.3f} times as much as white noise: taken for white")

    def borne_out(self, mode: str, found: float) -> NoiseModel:
        """Return this model, or white noise if the smoothed difference varies much less (`found`) than it says."""
        if mode != "auto" or not self.coloured or found >= OVERSTATED:
            return self
        return self.white(f"the difference has {found:.3f} of that: taken for white")

    def white(self, why: str) -> NoiseModel:
        """Return white noise of the variances stated, with what was measured and why it is not used."""
        steps = [*self.steps, Step("noise", why, {})]
        return NoiseModel(steps=steps, metrics=self.metrics, local=self.local, varies=self.varies)


def noise_model(
    mode: str,
    images: tuple[np.ndarray, np.ndarray],
    variances: tuple[np.ndarray, np.ndarray],
    psfs: tuple[PSF, PSF],
    beta: float,
    bad: np.ndarray,
) -> NoiseModel:
    """Measure the noise of a registered pair and decide what it is taken for.

    Parameters
    ----------
    mode : {"auto", "coloured", "white", "unasked"}
        "auto": coloured where that matters. "unasked" is white, without a word.
    images, variances : pairs of arrays (ny, nx)
        Science and reference, background-subtracted; or frames on disk, of which parts are read.
    psfs : pair of PSF
    beta : float
        F_n / F_r.
    bad : bool array (ny, nx)
    """
    if mode == "unasked":
        return NoiseModel()
    if mode == "white":
        return NoiseModel(steps=[Step("noise", "taken for white, as asked", {})])
    stamps = [psf.data / psf.data.sum() for psf in psfs]
    blocks = measure_blocks(list(images), list(variances), stamps, bad)
    if not blocks:
        return NoiseModel(steps=[Step("noise", "taken for white: too little blank sky to measure its spectrum", {})])
    depths = depths_of(list(variances), [1.0, 1 / beta], bad)
    sigmas = [float(np.sqrt(median_of(v, bad))) for v in variances]
    n, r = found = spectra_of(combined(blocks, [1.0] * len(blocks)), depths, stamps)
    reliable = n.reliable and r.reliable
    model = NoiseModel(
        stamps=(n.stamp, r.stamp),
        scales=(n.variance, r.variance),
        excess=(n.variance * n.excess, r.variance * r.excess),
        steps=[_spectrum_step(role, spectrum) for role, spectrum in zip(("science", "reference"), found, strict=True)],
        metrics={"noise_correlation_science": n.correlation, "noise_correlation_reference": r.correlation},
        local=reliable,
        varies=_variation(blocks, depths, stamps, sigmas, beta) if reliable else "",
    )
    width = _width_if_white(model, stamps, sigmas, beta)
    model.metrics["score_corr_std_white"] = width
    why = _why_white(found, width) if mode == "auto" else ""
    if not all(np.isfinite(spectrum.sky) for spectrum in found):
        why = "all that varies in one image is in the other"
    if why:
        return model.white(f"{why}: taken for white")
    text = f"taken for coloured; taken for white it would give S_corr a width of {width:.3f}"
    model.steps.append(Step("noise", text, {"width": width}))
    return model


def _variation(
    blocks: list[Blank], depths: list[float], psfs: list[np.ndarray], sigmas: list[float], beta: float
) -> str:
    """Return in words what of the noise varies from block to block; nothing if none does by more than chance."""
    cores = [core_of(psf)[None] for psf in psfs]
    kernels = zogy_kernels(cores[0], cores[1], make_params(sigmas[0], sigmas[1], 1.0, 1 / beta))
    frame, _ = noise_covariances(combined(blocks, [1.0] * len(blocks)), depths, psfs)
    large = [block for block in blocks if block.n > _LEAST_IN_BLOCK]
    parts = [noise_covariances(block, depths, psfs)[0] for block in large]
    return differs(parts, [block.n for block in large], sensitivity(kernels, sigmas, frame))[0]


def _spectrum_step(role: str, found: NoiseSpectrum) -> Step:
    """Tell what was measured on one image."""
    text = (
        f"{role}: neighbouring pixels of blank sky correlated by {found.correlation:.3f} +- "
        f"{found.correlation_error:.3f}, spectrum kept to {found.reach:g} px, variance "
        f"{found.variance:.3f} of the stated; a PSF sees {np.sqrt(max(found.excess, 0)):.3f} of white noise"
    )
    names = ("correlation", "correlation_error", "excess", "excess_error", "variance", "sky", "reach", "n_pixels")
    return Step("noise", text, {name: getattr(found, name) for name in names})


def _why_white(found: list[NoiseSpectrum], width: float) -> str:
    """Return why noise is as well taken for white, if it is."""
    if not all(spectrum.reliable for spectrum in found):
        return "more unresolved sources than noise"
    strongest = max(abs(spectrum.correlation) for spectrum in found)
    if not any(spectrum.coloured for spectrum in found):
        return "no correlation that matters"
    if abs(width - 1) < WIDTH_MATTERS and strongest < CORRELATION_MATTERS:
        return f"that would change the width of S_corr to {width:.3f} only"
    return ""


def _width_if_white(model: NoiseModel, psfs: list[np.ndarray], sigmas: list[float], beta: float) -> float:
    """Return the width that S_corr would have with white noise of the variances stated."""
    kernels = zogy_kernels(psfs[0][None], psfs[1][None], make_params(sigmas[0], sigmas[1], 1.0, 1 / beta))
    true = stated = 0.0
    for kernel, sigma, stamp, scale in zip(kernels.score, sigmas, model.stamps, model.scales, strict=True):
        stated += sigma**2 * float((kernel[0] ** 2).sum())
        true += sigma**2 * scale * float((_behind(kernel[0], stamp) ** 2).sum())
    return float(np.sqrt(true / stated))


def seen_by(psf: np.ndarray, stamp: np.ndarray | None) -> np.ndarray:
    """Return what a variance map is convolved with to give that of an image convolved with `psf`, (ky, kx) odd."""
    if stamp is None:
        return psf**2
    pad = [(stamp.shape[i] // 2,) * 2 for i in (0, 1)]
    wide = np.pad(psf, pad)
    middle = wide.shape[0] // 2, wide.shape[1] // 2
    return np.roll(_behind(np.roll(wide, (-middle[0], -middle[1]), (0, 1)), stamp), middle, (0, 1)) ** 2


def _behind(kernel: np.ndarray, stamp: np.ndarray | None) -> np.ndarray:
    """Return a periodic kernel (gy, gx) behind the zero-phase kernel of sqrt(q)."""
    if stamp is None:
        return kernel
    shape = kernel.shape[0], kernel.shape[1]
    root = np.sqrt(noise_power(stamp[None], shape)[0])
    return np.fft.irfft2(np.fft.rfft2(kernel) * root, s=shape)


def stack_stamps(stamps: list[np.ndarray | None]) -> np.ndarray | None:
    """Return autocorrelations of a stack of images, (1 or n, ky, kx), those of white noise among them; None if all."""
    side = next((stamp.shape for stamp in stamps if stamp is not None), None)
    if side is None:
        return None
    white = np.zeros(side)
    white[side[0] // 2, side[1] // 2] = 1
    full = [white if stamp is None else stamp for stamp in stamps]
    return full[0][None] if all(np.array_equal(stamp, full[0]) for stamp in full) else np.stack(full)
