"""Coloured background noise of one call of `zogy`: the autocorrelations, checked, and what makes their noise white."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from astrid_gpu.backends import Backend
from astrid_gpu.errors import InputError, ShapeMismatchError
from astrid_gpu.ops import noise_spectrum as ops
from astrid_gpu.ops.fourier import transfer_function

__all__ = ["Colour", "check_noise_spectrum"]

_LARGEST_SIDE = 99
_ASYMMETRY = 1e-3  # of the middle pixel
_NEGATIVE = 0.2  # of the largest power
_PSF_CUT = 1e-8


class Colour:
    """The noise of one of the two images, white if `stamps` is None.

    Parameters
    ----------
    stamps : float64 array (1 or n, ky, kx), or None
        Autocorrelation, odd, symmetric, 1 in the middle.
    psf : float64 array (1 or n, ky, kx)
        The image's PSF.
    """

    def __init__(self, stamps: np.ndarray | None, psf: np.ndarray) -> None:
        self.stamps, self._psf = stamps, psf
        self.reach = 0 if stamps is None else max(stamps.shape[1:]) - 1

    def __len__(self) -> int:
        return 1 if self.stamps is None else len(self.stamps)

    @cached_property
    def at_zero(self) -> np.ndarray:
        """Noise power that the filters count on at k = 0, in units of the mean over all k, (1 or n,)."""
        return np.ones(1) if self.stamps is None else ops.filter_power(self.stamps, _smallest(self.stamps))[:, 0, 0]

    def whitener(self, b: Backend, shape: tuple[int, int]) -> Any:
        """Return 1 / sqrt(q_f) on a frame in double precision, (1 or n, py, hx); None for white noise."""
        return None if self.stamps is None else 1 / b.xp.sqrt(self._power(ops.filter_power, b, shape))

    def remainder(self, b: Backend, shape: tuple[int, int]) -> Any:
        """Return sqrt(q / q_f), likewise: what colour the noise has that was made white."""
        if self.stamps is None:
            return None
        return b.xp.sqrt(self._power(ops.noise_power, b, shape) / self._power(ops.filter_power, b, shape))

    def _power(self, kind: Any, b: Backend, shape: tuple[int, int]) -> Any:
        return kind(self.stamps, shape, b.rfft2, xp=b.xp)

    def psf_spectrum(self, b: Backend, shape: tuple[int, int]) -> Any:
        """Return P̂ / sqrt(q_f) in double precision, (1 or n, py, hx)."""
        spectrum = transfer_function(b.asarray(self._psf, np.float64), shape, b.rfft2, xp=b.xp)
        white = self.whitener(b, shape)
        return spectrum if white is None else spectrum * white

    @cached_property
    def kernels(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Kernels of 1 / sqrt(q_f) and sqrt(q / q_f), odd and centred, (1 or n, ky, kx); None for white noise."""
        if self.stamps is None:
            return None, None
        pairs = [_kernels(stamp.tobytes(), stamp.shape) for stamp in self.stamps]
        one, two = (np.concatenate(_same_side([pair[i] for pair in pairs])) for i in (0, 1))
        return one, two

    @cached_property
    def psf(self) -> np.ndarray:
        """The PSF behind the first of them, odd and centred, (1 or n, ky, kx)."""
        white = self.kernels[0]
        return self._psf if white is None else ops.trimmed(ops.convolved(self._psf, white), _PSF_CUT)


def _smallest(stamps: np.ndarray) -> tuple[int, int]:
    return stamps.shape[1], stamps.shape[2]


@lru_cache(maxsize=64)
def _kernels(data: bytes, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return `ops.noise_spectrum.kernel_stamps` of the autocorrelation with these bytes, (1, ky, kx) each."""
    one, two = ops.kernel_stamps(np.frombuffer(data).reshape(1, *shape))
    one.setflags(write=False)
    two.setflags(write=False)
    return one, two


def _same_side(stamps: list[np.ndarray]) -> list[np.ndarray]:
    """Return odd stamps (1, ky, kx) of different sides, padded with zeros to one."""
    side = np.max([stamp.shape[1:] for stamp in stamps], axis=0)
    margins = [(side - stamp.shape[1:]) // 2 for stamp in stamps]
    return [np.pad(s, ((0, 0), (y, y), (x, x))) for s, (y, x) in zip(stamps, margins, strict=True)]


def check_noise_spectrum(backend: Backend, value: Any, name: str, n: int) -> np.ndarray | None:
    """Return autocorrelation stamps (1 or n, ky, kx) float64 on the host, 1 in the middle; None as given."""
    if value is None:
        return None
    host = np.asarray(backend.to_host(value))
    stamps = host[None] if host.ndim == 2 else host
    what = (
        "the noise's autocorrelation: an odd, centred stamp (ky, kx), or one per image (n, ky, kx), such as "
        "measure_noise_spectrum() gives"
    )
    if stamps.ndim != 3 or 0 in stamps.shape or host.dtype.kind not in "fiu":
        msg = f"{name} must be {what}; got shape {host.shape}, dtype {host.dtype}"
        raise ShapeMismatchError(msg)
    if any(side % 2 == 0 for side in stamps.shape[1:]) or max(stamps.shape[1:]) > _LARGEST_SIDE:
        msg = (
            f"{name} has sides {stamps.shape[1:]}; it must be {what}, of odd sides up to {_LARGEST_SIDE}. A power "
            "spectrum on a frame's grid is not taken: transform it back and cut out the middle"
        )
        raise InputError(msg)
    if len(stamps) not in (1, n):
        msg = f"{name} holds {len(stamps)} stamps for {n} images; give one, or one per image"
        raise ShapeMismatchError(msg)
    middle = stamps[:, stamps.shape[1] // 2, stamps.shape[2] // 2].astype(float)
    if not np.all(np.isfinite(stamps)) or not np.all(middle > 0):
        msg = f"{name} must be finite, with a positive variance in the middle"
        raise InputError(msg)
    return _consistent(stamps / middle[:, None, None], name)


def _consistent(stamps: np.ndarray, name: str) -> np.ndarray:
    """Return stamps of middle 1, made symmetric to the last digit; refuse what cannot be an autocorrelation."""
    mirrored = stamps[:, ::-1, ::-1]
    worst = float(abs(stamps - mirrored).max())
    if worst > _ASYMMETRY or abs(stamps).max() > 1 + _ASYMMETRY:
        msg = (
            f"{name} is no autocorrelation: it must be the same at opposite lags (it differs by {worst:.2g} of the "
            f"middle) and largest in the middle (it reaches {float(abs(stamps).max()):.3g} of it). Is it centred?"
        )
        raise InputError(msg)
    stamps = np.ascontiguousarray((stamps + mirrored) / 2)
    side = max(64, *stamps.shape[1:])
    power = transfer_function(stamps, (side, side), np.fft.rfft2).real
    least = float((power.min(axis=(1, 2)) / power.max(axis=(1, 2))).min())
    if least < -_NEGATIVE:
        msg = (
            f"{name} is no autocorrelation: its power spectrum goes down to {least:.2f} of its maximum. Taper it "
            "towards its edges, or give what measure_noise_spectrum() makes of an image"
        )
        raise InputError(msg)
    return stamps
