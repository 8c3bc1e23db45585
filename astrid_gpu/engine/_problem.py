"""The arguments of `zogy`, checked and gathered, and the numbers that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from astrid_gpu.backends import Backend, resolve_backend
from astrid_gpu.engine import _checks
from astrid_gpu.engine._frames import FILL_UNCERTAINTY, NEGLIGIBLE, extremes
from astrid_gpu.engine._noise_spectrum import Colour, check_noise_spectrum
from astrid_gpu.errors import InputError, ShapeMismatchError
from astrid_gpu.flags import INVALID
from astrid_gpu.ops import zogy as reference_ops
from astrid_gpu.ops.fill import fill_profiles
from astrid_gpu.ops.fourier import central_stamp, padded_shape
from astrid_gpu.ops.psf_stamps import fwhm_of, prepare_psf
from astrid_gpu.ops.zogy_kernels import ZogyKernels, kernel_grid, zogy_kernels

__all__ = ["Problem", "check"]


@dataclass
class Problem:
    """Checked inputs of one call, and the numbers derived from them."""

    backend: Backend
    single: bool
    dtype: np.dtype
    science: Any
    reference: Any
    variance_science: Any
    variance_reference: Any
    psf_science: np.ndarray
    psf_reference: np.ndarray
    sigma: tuple[np.ndarray, np.ndarray]
    flux: tuple[np.ndarray, np.ndarray]
    mask: Any
    errors: np.ndarray
    noise: tuple[np.ndarray | None, np.ndarray | None] = (None, None)

    def __post_init__(self) -> None:
        # Each image in units of its own noise, flux scales of order one, whatever the caller's unit is: float32
        # would not hold |F|^4 of erg/s/cm^2. D and S_corr do not depend on them, and an image's result does not
        # depend on which others are in the stack.
        self.unit = self.sigma
        flux = self.flux[0] / self.unit[0], self.flux[1] / self.unit[1]
        self.gain = np.maximum(*flux)
        self.params = reference_ops.make_params(1.0, 1.0, flux[0] / self.gain, flux[1] / self.gain)
        self.n = self.science.shape[0]
        self.shape: tuple[int, int] = tuple(self.science.shape[1:])
        sides = np.array([self.psf_science.shape[1:], self.psf_reference.shape[1:]])
        self.side = tuple(int(s) for s in sides.sum(axis=0) - 1)  # odd: P_D spans both PSFs
        self.colour = Colour(self.noise[0], self.psf_science), Colour(self.noise[1], self.psf_reference)
        reach = int(sides.max()) + max(c.reach for c in self.colour)
        self.padded = padded_shape(self.shape, reach, self.backend.next_fast_len)
        counts = [len(part) for part in (self.psf_science, self.psf_reference, *self.colour)]
        shared = max(counts) == 1 and np.all(self.params == self.params[:1])
        self.kernel_params = self.params[:1] if shared else self.params
        self.small_grid = self.dtype == np.float32 and "zogy_maps" in self.backend.ops
        self._last: tuple[int, ZogyKernels] | None = None
        self._stamps: dict[int, np.ndarray] = {}
        self.notes: list[str] = []

    def psf_spectra(self, shape: tuple[int, int] | None = None) -> tuple[Any, Any]:
        """P̂_n and P̂_r in double precision, (1 or n, py, hx), on the padded frame (kept) or on one of `shape`.

        Where noise is coloured they are those of the images made white: P̂ / sqrt(q_f).
        """
        if shape in (None, self.padded):
            if not hasattr(self, "_spectra"):
                self._spectra = self._transfer(self.padded)
            return self._spectra
        return self._transfer(shape)

    def _transfer(self, shape: tuple[int, int]) -> tuple[Any, Any]:
        n, r = (colour.psf_spectrum(self.backend, shape) for colour in self.colour)
        return n, r

    @cached_property
    def whiteners(self) -> tuple[Any, Any]:
        """1 / sqrt(q_f) of science and reference on the padded frame; None where the noise is white."""
        n, r = (colour.whitener(self.backend, self.padded) for colour in self.colour)
        return n, r

    @property
    def remainders(self) -> tuple[Any, Any]:
        """sqrt(q / q_f), likewise."""
        n, r = (colour.remainder(self.backend, self.padded) for colour in self.colour)
        return n, r

    @cached_property
    def flux_scales(self) -> np.ndarray:
        """F_D (n,), eq. 15, in units of `gain`."""
        return reference_ops.flux_scale(self.params, (self.colour[0].at_zero, self.colour[1].at_zero))

    def note(self, text: str) -> None:
        """Keep what the caller should know of how it was done, once."""
        if text not in self.notes:
            self.notes.append(text)

    def kernels(self, i: int) -> ZogyKernels:
        """Return the kernels of image i on a small grid; the last ones are kept."""
        i = i if len(self.kernel_params) > 1 else 0
        if self._last is None or self._last[0] != i:
            stamps = (self.psf_science, self.psf_reference, *self.noise)
            held = tuple(None if p is None else (p[i % len(p)].tobytes(), p.shape[1:]) for p in stamps)
            self._last = i, _kernels(held, self.kernel_params[i].tobytes())
            self._stamps[i] = self._last[1].psf_stamps(self._stamp_shape())[0]
        return self._last[1]

    def score_scales(self, i: int) -> tuple[float, float]:
        """Return the factors from S of image i to the caller's score, and to flux (eq. 41)."""
        return float(self.gain[i]), 1 / float(self.kernels(i).norm[0] * self.gain[i])

    def difference_scale(self, i: int) -> float:
        """Return what divides D of image i to give the caller's units."""
        return float(self.flux_scales[i] * self.gain[i])

    def _stamp_shape(self) -> tuple[int, int]:
        """Sides of P_D: both PSFs', or what the padded frame holds."""
        ky, kx = (min(s, p - 1 + p % 2) for s, p in zip(self.side, self.padded, strict=True))
        return ky, kx

    def difference_psf(self) -> tuple[np.ndarray, np.ndarray]:
        """P_D as odd stamps (1 or n, ky, kx) of sum 1 on the host, and F_D (n,) in the caller's units."""
        if hasattr(self, "_difference_psf"):
            return self._difference_psf
        b = self.backend
        if self.small_grid and not b.is_gpu:
            for i in range(len(self.kernel_params)):
                if i not in self._stamps:
                    self.kernels(i)
            stamps = np.stack([self._stamps[i] for i in range(len(self.kernel_params))])
        else:
            side = kernel_grid(*self.psf_science.shape[1:], *self.psf_reference.shape[1:])
            shape = (side, side) if self.small_grid else self.padded
            Pn, Pr = self.psf_spectra(shape)
            frames = b.irfft2(reference_ops.difference_psf(Pn, Pr, self.kernel_params, xp=b.xp), shape)
            stamps = b.to_host(central_stamp(frames, self._stamp_shape(), xp=b.xp)).astype(np.float64)
            stamps = stamps / stamps.sum(axis=(1, 2), keepdims=True)
        self._difference_psf: tuple[np.ndarray, np.ndarray] = stamps, self.flux_scales * self.gain
        return self._difference_psf

    @property
    def fill_limits(self) -> tuple[float, float]:
        """Fills whose error is not followed, in sigma, and the error of the others as a fraction of them."""
        return NEGLIGIBLE, FILL_UNCERTAINTY

    @cached_property
    def fill_profiles(self) -> tuple[np.ndarray, np.ndarray]:
        """Windows that fill holes in science and reference, (1 or n, radius + 1) each, as wide as their PSFs."""
        stamps = self.psf_science, self.psf_reference
        n, r = ([max(_width(stamp.tobytes(), stamp.shape) / 2.3548, 0.7) for stamp in psf] for psf in stamps)
        return fill_profiles(n, self.padded), fill_profiles(r, self.padded)

    @cached_property
    def brightest(self) -> tuple[np.ndarray, np.ndarray]:
        """Largest absolute values of science and reference, (n or 1,) each; not to be relied on if not finite."""
        return tuple(np.maximum(abs(low), abs(high)) for _, low, high in self._extremes)  # type: ignore[return-value]

    @property
    def finite(self) -> tuple[bool, bool]:
        """Whether all pixels of science, and of reference, are finite."""
        n, r = (bool(found[0].all()) for found in self._extremes)
        return n, r

    @cached_property
    def _extremes(self) -> list[Any]:
        return [extremes(self.backend, images) for images in (self.science, self.reference)]

    def reach(self) -> list[int]:
        """Distance (1 or n) in pixels at which a pixel still matters: P_D holds all but 1e-4 of its energy within."""
        return [_reach(stamp.tobytes(), stamp.shape) for stamp in self.difference_psf()[0]]


# The same PSFs come again and again when images are subtracted one by one: what follows from them is kept, by value.


@lru_cache(maxsize=32)
def _prepared(data: bytes, shape: tuple[int, ...], dtype: str, name: str) -> np.ndarray:
    """Return `prepare_psf` of the array with these bytes."""
    stamps = prepare_psf(np.frombuffer(data, dtype).reshape(shape), name=name)
    stamps.setflags(write=False)
    return stamps


@lru_cache(maxsize=64)
def _width(data: bytes, shape: tuple[int, int]) -> float:
    """Return the FWHM of the stamp with these bytes."""
    return fwhm_of(np.frombuffer(data).reshape(shape))


@lru_cache(maxsize=64)
def _reach(data: bytes, shape: tuple[int, int]) -> int:
    """Return the radius in pixels that holds all but 1e-4 of the energy of the stamp with these bytes."""
    cy, cx = shape[0] // 2, shape[1] // 2
    distance = np.hypot(*np.ogrid[-cy : shape[0] - cy, -cx : shape[1] - cx]).ravel()
    order = np.argsort(distance)
    energy = np.cumsum(np.frombuffer(data)[order] ** 2)
    return int(np.ceil(distance[order][np.searchsorted(energy, (1 - 1e-4) * energy[-1])]))


@lru_cache(maxsize=2)
def _kernels(stamps: tuple[tuple[bytes, tuple[int, int]] | None, ...], params: bytes) -> ZogyKernels:
    """Return the kernels of the PSFs, noise autocorrelations and parameters with these bytes."""
    found: list[Any] = [None if held is None else np.frombuffer(held[0]).reshape(1, *held[1]) for held in stamps]
    n, r, *noise = found
    return zogy_kernels(n, r, np.frombuffer(params)[None], noise=(noise[0], noise[1]))


def check(given: dict[str, Any]) -> Problem:
    """Check every argument of `zogy` and gather them into a `Problem`."""
    names = ("science", "reference", "psf_science", "psf_reference", "variance_science", "variance_reference", "mask")
    arrays = {name: given[name] for name in names}
    backend = resolve_backend(given["backend"], {k: v for k, v in arrays.items() if not k.startswith("psf")})
    dtype = _checks.float_type(backend, [given["science"], given["reference"]], given["dtype"])
    science = _checks.as_stack(backend, given["science"], "science", dtype)
    reference = _checks.as_stack(backend, given["reference"], "reference", dtype)
    n, shape = science.shape[0], tuple(science.shape[1:])
    if tuple(reference.shape[1:]) != shape or reference.shape[0] not in (1, n):
        msg = (
            f"science has shape {np.shape(given['science'])} and reference {np.shape(given['reference'])}; "
            "they must agree, or the reference be one image for the whole stack. Use align() first if they do not "
            "share a pixel grid"
        )
        raise ShapeMismatchError(msg)
    mask = None
    if given["mask"] is not None:
        mask = _checks.as_plane(backend, given["mask"], "mask", n, shape)
        if mask.dtype.kind not in "bui":
            msg = f"mask must be boolean or hold flag bits (uint8), got dtype {mask.dtype}"
            raise InputError(msg)
    sigma_n, sigma_r = (_checks.positive(given[f"sigma_{k}"], f"sigma_{k}", n) for k in ("science", "reference"))
    flux_n, flux_r = (_checks.positive(given[f"flux_{k}"], f"flux_{k}", n) for k in ("science", "reference"))
    return Problem(
        backend=backend,
        single=np.ndim(given["science"]) == 2,
        dtype=dtype,
        science=science,
        reference=reference,
        variance_science=_check_variance(backend, given, "science", sigma_n, n, shape, dtype),
        variance_reference=_check_variance(backend, given, "reference", sigma_r, n, shape, dtype),
        psf_science=_check_psf(backend, given, "science", n),
        psf_reference=_check_psf(backend, given, "reference", n),
        sigma=(sigma_n, sigma_r),
        flux=(flux_n, flux_r),
        mask=mask,
        errors=_check_errors(given["astrometric_error"], given["flux_ratio_error"], n),
        noise=(
            check_noise_spectrum(backend, given["noise_spectrum_science"], "noise_spectrum_science", n),
            check_noise_spectrum(backend, given["noise_spectrum_reference"], "noise_spectrum_reference", n),
        ),
    )


def _check_psf(backend: Backend, given: dict[str, Any], which: str, n: int) -> np.ndarray:
    """Return odd, centred stamps of sum 1, (1 or n, ky, kx) float64 on the host."""
    name = f"psf_{which}"
    psf = given[name]
    psf = getattr(psf, "data", psf) if not hasattr(psf, "shape") else psf  # an image.PSF brings its stamp
    host = np.ascontiguousarray(backend.to_host(psf))
    stamps = (
        prepare_psf(host, name=name)
        if host.dtype.hasobject
        else _prepared(host.tobytes(), host.shape, host.dtype.str, name)
    )
    if len(stamps) not in (1, n):
        msg = f"{name} holds {len(stamps)} stamps for {n} images; give one, or one per image"
        raise ShapeMismatchError(msg)
    return stamps


def _check_variance(
    backend: Backend, given: dict[str, Any], which: str, sigma: np.ndarray, n: int, shape: tuple[int, int], dtype: Any
) -> Any:
    """Return a variance map (1 or n, ny, nx), or one float for a flat one."""
    name = f"variance_{which}"
    value = given[name]
    if value is None:
        if np.all(sigma == sigma[0]):
            return float(sigma[0] ** 2)
        ones = backend.xp.ones((1, *shape), dtype=dtype)
        return ones * backend.asarray(sigma**2, dtype)[:, None, None]
    if np.ndim(value) == 0:
        return float(_checks.positive(value, name, 1)[0])
    plane = _checks.as_plane(backend, value, name, n, shape).astype(dtype, copy=False)
    finite, least, _ = extremes(backend, plane)
    if finite.all() and least.min() > 0:
        return plane
    usable = backend.xp.isfinite(plane) & (plane > 0)
    if not bool(usable.all()):
        image = given[which]
        lost = ~usable & backend.xp.isfinite(
            backend.asarray(image) if np.ndim(image) == 3 else backend.asarray(image)[None]
        )
        if given["mask"] is not None:
            held = _checks.as_plane(backend, given["mask"], "mask", n, shape)
            lost = lost & ~((held & INVALID) != 0 if held.dtype != bool else held)
        if bool(lost.any()):
            msg = (
                f"{name} is zero, negative or not finite at {int(lost.sum())} unmasked pixels; variances must be "
                "positive. Mask those pixels, or give 1/weight only where the weight is positive"
            )
            raise InputError(msg)
        plane = backend.xp.where(usable, plane, backend.xp.ones((), plane.dtype))
    return plane


def _check_errors(value: Any, ratio: Any, n: int) -> np.ndarray:
    """Return the registration noise in y and x and the relative error of the flux ratio as (n, 3)."""
    pairs = np.asarray(value, dtype=float)
    if pairs.shape not in ((2,), (n, 2)) or not np.all(np.isfinite(pairs)) or np.any(pairs < 0):
        msg = f"astrometric_error must be two numbers (y, x) in pixels, none negative, or one pair an image: {value!r}"
        raise InputError(msg)
    scale = _checks.per_image(ratio, "flux_ratio_error", n)
    if np.any(scale < 0):
        msg = f"flux_ratio_error is a relative error, 0 or more; got {float(scale.min()):g}"
        raise InputError(msg)
    return np.concatenate([np.broadcast_to(pairs, (n, 2)), scale[:, None]], axis=1)
