"""The registration that stars show: the mean offset removed as a Fourier phase, the rest counted as noise."""

from __future__ import annotations

import numpy as np

from astrid_gpu._flux_ratio import FluxRatio
from astrid_gpu._given import Given
from astrid_gpu.align import Aligned
from astrid_gpu.backends import get_backend
from astrid_gpu.config import SubtractConfig
from astrid_gpu.image import PSF, Image
from astrid_gpu.ops.fill import fill_masked, fill_profiles
from astrid_gpu.ops.fourier import padded_shape, shift_phase
from astrid_gpu.results import Step

__all__ = ["MIN_SHIFT", "PSF_CENTRE", "register_reference"]

MIN_SHIFT = 0.005
"""Registration offsets below this many pixels are left alone and counted as noise."""

PSF_CENTRE = 0.02
"""What the centres of two measured PSFs are good for, pixels: added to the registration noise."""


def register_reference(
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
