"""An image on a device, as the stages that work on stars see it: sky, noise and peaks there, windows here."""

from __future__ import annotations

from typing import Any

import numpy as np

from astrid_gpu._host_ops import host_op
from astrid_gpu._saturation import saturation_level
from astrid_gpu._star_noise import filtered_noise, sky_correlation
from astrid_gpu._windows import cut, cut_good
from astrid_gpu.backends import Backend, library_of, resolve_backend
from astrid_gpu.engine.background import estimate_background
from astrid_gpu.engine.convolve import convolve
from astrid_gpu.errors import InputError
from astrid_gpu.image import Image
from astrid_gpu.ops.noise import clipped_statistics
from astrid_gpu.ops.star_moments import Shapes, moment_limits, shapes_of, star_moments
from astrid_gpu.ops.star_peaks import FWHM_PER_SIGMA, filter_widths, peak_reach, star_peaks

__all__ = ["DeviceFrame", "device_of", "subtract_sky", "variance_of"]

_BOX, _SMALLEST_BOX = 64, 32
_SOURCES = 2.5  # sigmas of the smoothed image above which a pixel is no sky
_FWHM = 4.0  # of that smoothing, pixels
_PHOTONS = 0.8  # px; sigma of the Gaussian that faint light is smoothed by before its photon noise is told


def device_of(image: Image, backend: str | Backend, **others: Any) -> Backend | None:
    """Return the backend of an image on a device, None for one on the host.

    Raises
    ------
    TypeError
        The planes of the image and `others` are of different libraries.
    """
    planes = {"image": image.data, "mask": image.mask, "variance": image.variance, **others}
    arrays = {name: plane for name, plane in planes.items() if plane is not None and np.ndim(plane)}
    if all(library_of(plane) != "cupy" for plane in arrays.values()):
        return None
    return resolve_backend(backend, arrays)


class DeviceFrame:
    """Pixels on a device, bad ones among them, the rms of the background (one or a map), and what is saturated."""

    def __init__(self, image: Image, rms: Any, saturated: Any, backend: Backend) -> None:
        xp, self.backend = backend.xp, backend
        self.image = image.with_(data=_as_float(image, backend))
        bad = self.image.bad
        if not np.ndim(rms):
            rms = float(rms)
            if not (np.isfinite(rms) and rms > 0):
                msg = f"background_rms must be positive, got {rms:g}; is the image constant?"
                raise InputError(msg)
        else:
            bad = bad | ~(xp.isfinite(rms) & (rms > 0))
            self.image = self.image.with_(mask=bad.astype(np.uint8))
        self.bad, self.rms = bad, rms
        if saturated is None:
            level, _ = saturation_level(self.image)
            raw = self.image.data + self.image.data.dtype.type(image.background_level)
            saturated = ~xp.isnan(raw) & (raw >= (np.inf if level is None else level))
        self.saturated = saturated.astype(np.uint8)
        self.correlation = sky_correlation(backend, self.image.data, self.bad, self.rms)

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx)."""
        return self.image.shape

    def detect(self, fwhm: float, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return y, x, significance and flux of the sources above `threshold`, on the host."""

        def blur(plane: Any, sigma: float) -> Any:
            return _blurred(plane, sigma, self.backend)

        rms, how = self.rms * filtered_noise(self.correlation, fwhm), (filter_widths(fwhm), peak_reach(fwhm), threshold)
        found = star_peaks(self.image.data, self.bad, rms, *how, xp=self.backend.xp, blur=blur)
        y, x, snr, flux = (self.backend.to_host(column) for column in found)
        return y, x, snr.astype(np.float64), flux.astype(np.float64)

    def moments(self, y: np.ndarray, x: np.ndarray, fwhm: float) -> Shapes:
        """Return centres and shapes of the sources at pixels (y, x), from windows brought to the host."""
        limits = moment_limits(fwhm)
        half, side = limits[0], 2 * limits[0] + 1
        windows = cut_good(self.backend, self.image, y, x, half).reshape(-1, side)
        # One below the other they are a frame, of which each source takes its own.
        rows = np.arange(len(y)) * side + half
        moments = host_op("star_moments", star_moments)(windows, np.isnan(windows), rows, np.full(len(y), half), limits)
        return shapes_of(y, x, moments)

    def peaks(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the pixels at (y, x), 0 where they are bad."""
        return np.nan_to_num(cut_good(self.backend, self.image, y, x, 0)[:, 0, 0])

    def near_bad(self, y: np.ndarray, x: np.ndarray, reach: float) -> np.ndarray:
        """Return which places have a bad pixel within `reach`, the frame's edge being none."""
        return self._near(self.bad, y, x, reach)

    def near_saturated(self, y: np.ndarray, x: np.ndarray, reach: float) -> np.ndarray:
        """Return which places have a saturated pixel within `reach` and the one beside it, to which it spills."""
        return self._near(self.saturated, y, x, reach + 1)

    def _near(self, plane: Any, y: np.ndarray, x: np.ndarray, reach: float) -> np.ndarray:
        windows = cut(self.backend, plane, y, x, max(1, round(reach)), 0)
        return np.asarray(windows.any(axis=(1, 2)))


def subtract_sky(image: Image, backend: Backend) -> tuple[Image, Any]:
    """Return an image on a device less its sky, and the rms of the sky: both measured again with the sources masked.

    The mesh of `estimate_background`, boxes of 64 px; one level for images too small for three boxes of 32 px.
    """
    xp, data = backend.xp, _as_float(image, backend)
    bad = image.bad
    if bool(bad.all()):
        msg = f"{image.name}: all {bad.size} pixels are masked or not finite; there is nothing to subtract"
        raise InputError(msg)
    out, side = bad, min(_BOX, min(image.shape) // 3)
    filled = xp.where(bad, data.dtype.type(0), data)
    for _ in range(2):
        level, rms = _sky(filled, out, side, backend)
        smooth = _blurred(xp.where(bad, data.dtype.type(0), filled - level), _FWHM / FWHM_PER_SIGMA, backend)
        noise = rms * float(FWHM_PER_SIGMA / (2 * np.sqrt(np.pi) * _FWHM))
        covered = bad | (smooth > _SOURCES * noise)
        if int(covered.sum()) > 0.7 * covered.size:
            break
        out = covered
    taken = float(xp.median(level)) if np.ndim(level) else float(level)
    return image.with_(data=data - level, background_level=image.background_level + taken), rms


def _sky(data: Any, out: Any, side: int, backend: Backend) -> tuple[Any, Any]:
    """Return level and rms of the sky: maps, or numbers for a small image."""
    if side >= _SMALLEST_BOX:
        found = estimate_background(data, box=side, mask=out, backend=backend)
        return found.level, found.rms
    mean, sigma, _ = clipped_statistics(data[~out])
    return data.dtype.type(mean), data.dtype.type(sigma)


def variance_of(image: Image, rms: Any, backend: Backend) -> Any:
    """Return the variance of an image on a device: its own, or that of the sky and of the sources' photons.

    Photons by the gain, known or that of a sky well above its noise, of the light as in `ops.noise.source_variance`:
    the pixel itself where it is bright, a mean of its surroundings where it is not.
    """
    if image.variance is not None:
        return image.variance
    xp, data = backend.xp, image.data
    sigma = float(xp.median(rms)) if np.ndim(rms) else float(rms)
    gain, level = image.gain, image.background_level
    if gain is None or not (np.isfinite(gain) and gain > 0):
        gain = level / sigma**2 if level > 10 * sigma else None
    plane = xp.broadcast_to(xp.asarray(rms, dtype=data.dtype), image.shape) ** 2
    if gain is None:
        return plane
    filled = xp.where(image.bad, data.dtype.type(0), data)
    smooth = xp.maximum(_blurred(filled, _PHOTONS, backend), 0)
    bright, faint = (smooth / (10 * sigma)) ** 4, (smooth / sigma) ** 4
    trust = bright / (1 + bright)
    light = trust * filled + (1 - trust) * faint / (1 + faint) * smooth
    return plane + xp.maximum(light, 0) / data.dtype.type(gain)


def _as_float(image: Image, backend: Backend) -> Any:
    """Return the pixels on the device in float32 or float64."""
    kind = image.data.dtype if image.data.dtype in (np.dtype(np.float32), np.dtype(np.float64)) else np.dtype(float)
    return backend.asarray(image.data, kind)


def _blurred(plane: Any, sigma: float, backend: Backend) -> Any:
    """Return a plane convolved with a Gaussian of sum 1, sampled at pixels and cut off at 4 sigma; zeros outside."""
    reach = int(4.0 * sigma + 0.5)
    line = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = backend.asarray(np.outer(line, line) / line.sum() ** 2)
    return convolve(plane, kernel, boundary="zero", backend=backend)
