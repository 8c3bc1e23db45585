"""Real FFTs of whole frames on the CPU by the library of choice: SciPy, MKL or FFTW, one small interface.

``ASTRID_GPU_FFT`` names one: scipy, mkl or pyfftw. The default, auto, takes mkl where it is installed, else scipy.
FFTW has to be asked for: it is about as fast as SciPy, and only after seconds of planning for each shape.
"""

from __future__ import annotations

import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module, util
from typing import Any, ClassVar

import numpy as np

from astrid_gpu.backends.threads import cpu_threads
from astrid_gpu.errors import BackendUnavailableError, ConfigError

__all__ = ["FftProvider", "fast_length", "fft_provider", "fft_status"]

_log = logging.getLogger("astrid_gpu")
_SMOOTH = (2, 3, 5, 7, 11)


@cache
def fast_length(n: int) -> int:
    """Return the smallest length >= `n` that transforms fast: no prime factor above 11, and a multiple of 4.

    (Of 2 below 64.) Odd lengths cost MKL and FFTW up to twice the time, and SciPy a third more. All providers share
    the rule, so that a result does not depend on which is installed.
    """
    step = 4 if n > 64 else 2
    size = max(step, -(-n // step) * step)
    while True:
        rest = size
        for factor in _SMOOTH:
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += step


class FftProvider(ABC):
    """A library of real two-dimensional FFTs, over the last two axes.

    float32 gives complex64 and back; every other type is computed in float64. Safe to call from several threads, each
    call with `threads` of its own.
    """

    name: ClassVar[str] = ""
    modules: ClassVar[tuple[str, ...]] = ()
    install: ClassVar[str] = ""

    @property
    def threads(self) -> int:
        """Threads a call uses unless told otherwise."""
        return cpu_threads()

    def next_fast_len(self, n: int) -> int:
        """Return the smallest length >= `n` that transforms fast."""
        return fast_length(n)

    def rfft2(self, array: Any, *, threads: int | None = None) -> np.ndarray:
        """Forward transform, unnormalised.

        Parameters
        ----------
        array : array (..., ny, nx)
            Real; not altered.
        threads : int, optional
            Default: `threads` of the provider.

        Returns
        -------
        array (..., ny, nx // 2 + 1)
            Complex.
        """
        images = np.asarray(array)
        images = images.astype(np.float32 if images.dtype == np.float32 else np.float64, copy=False)
        shape = (*images.shape[:-1], images.shape[-1] // 2 + 1)
        return self._forward(images, shape, threads or self.threads)

    def irfft2(
        self, spectrum: Any, shape: tuple[int, int], *, threads: int | None = None, overwrite: bool = False
    ) -> np.ndarray:
        """Inverse transform, divided by the number of pixels.

        Parameters
        ----------
        spectrum : array (..., ny, nx // 2 + 1)
            Complex.
        shape : (ny, nx)
            Of the result: nx may be even or odd.
        threads : int, optional
            Default: `threads` of the provider.
        overwrite : bool
            `spectrum` is of no use afterwards: the transform may work in its memory.

        Returns
        -------
        array (..., ny, nx)
            Real.
        """
        given = np.asarray(spectrum)
        kept = given.dtype if given.dtype in (np.complex64, np.complex128) else np.dtype(np.complex128)
        if given.shape[-2:] != (shape[0], shape[1] // 2 + 1):
            msg = f"a spectrum of shape {given.shape} is not that of images of {tuple(shape)}"
            raise ValueError(msg)
        usable = overwrite and given.flags.writeable and given.dtype == kept
        own = given if usable else given.astype(kept)
        return self._inverse(own, int(shape[1]), threads or self.threads)

    @abstractmethod
    def _forward(self, images: np.ndarray, shape: tuple[int, ...], threads: int) -> np.ndarray:
        """Return spectra of images, which are not altered."""

    @abstractmethod
    def _inverse(self, spectra: np.ndarray, nx: int, threads: int) -> np.ndarray:
        """Return images from spectra that may be destroyed."""


class _Scipy(FftProvider):
    """scipy.fft (pocketfft): always there."""

    name = "scipy"
    modules = ("scipy",)
    install = "pip install scipy"

    def _forward(self, images: np.ndarray, shape: tuple[int, ...], threads: int) -> np.ndarray:
        from scipy import fft

        return fft.rfft2(images, workers=threads)

    def _inverse(self, spectra: np.ndarray, nx: int, threads: int) -> np.ndarray:
        # Axis by axis: irfft2 would copy the spectrum first, which takes a third of its time.
        from scipy import fft

        columns = fft.ifft(spectra, axis=-2, workers=threads, overwrite_x=True)
        return fft.irfft(columns, nx, axis=-1, workers=threads)


class _Mkl(FftProvider):
    """Intel's MKL by mkl_fft, image by image: its batched transforms of large images are three times slower."""

    name = "mkl"
    modules = ("mkl_fft", "mkl")
    install = "pip install 'astrid-gpu[mkl]'"

    def __init__(self) -> None:
        # MKL's threads spin for 0.2 s after each transform, on the cores that the next step needs.
        with _environment("KMP_BLOCKTIME", "0"):
            self._mkl = import_module("mkl")
            self._mkl.get_max_threads()
        self._fft = import_module("mkl_fft")

    @contextmanager
    def _limited(self, threads: int) -> Iterator[None]:
        previous = self._mkl.set_num_threads_local(threads)
        try:
            yield
        finally:
            self._mkl.set_num_threads_local(previous)

    def _forward(self, images: np.ndarray, shape: tuple[int, ...], threads: int) -> np.ndarray:
        out = np.empty(shape, np.result_type(images, np.complex64))
        with self._limited(threads):
            for i in np.ndindex(*shape[:-2]):
                self._fft.rfft2(images[i], out=out[i])
        return out

    def _inverse(self, spectra: np.ndarray, nx: int, threads: int) -> np.ndarray:
        out = np.empty((*spectra.shape[:-1], nx), spectra.real.dtype)
        with self._limited(threads):
            for i in np.ndindex(*spectra.shape[:-2]):
                columns = self._fft.ifft(spectra[i], axis=0, out=spectra[i])
                self._fft.irfft(columns, n=nx, axis=1, out=out[i])
        return out


class _Fftw(FftProvider):
    """FFTW by pyfftw, planned by measuring: the first transform of a shape takes seconds, the later ones use wisdom.

    Where MKL is loaded in the same process its FFTW interface answers instead, and plans at once.
    """

    name = "pyfftw"
    modules = ("pyfftw",)
    install = "pip install 'astrid-gpu[fftw]'"
    _planning = threading.Lock()

    def __init__(self) -> None:
        self._fftw = import_module("pyfftw")

    def _plan(self, source: np.ndarray, target: np.ndarray, threads: int, direction: str) -> Any:
        """Plan for these arrays; planning by measurement overwrites, so it is done on others first."""
        flags = ("FFTW_MEASURE",) if direction == "FFTW_FORWARD" else ("FFTW_MEASURE", "FFTW_DESTROY_INPUT")
        options = {"axes": (0, 1), "threads": threads, "direction": direction}
        with self._planning:
            try:
                return self._fftw.FFTW(source, target, flags=(*flags, "FFTW_WISDOM_ONLY"), **options)
            except RuntimeError:  # no wisdom yet
                scratch = (self._empty(source.shape, source.dtype), self._empty(target.shape, target.dtype))
                self._fftw.FFTW(*scratch, flags=flags, **options)
                return self._fftw.FFTW(source, target, flags=(*flags, "FFTW_WISDOM_ONLY"), **options)

    def _empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return self._fftw.empty_aligned(shape, dtype, n=16)

    def _aligned(self, array: np.ndarray) -> np.ndarray:
        """Return `array`, or a copy that FFTW's vector code can read."""
        if array.flags.c_contiguous and array.ctypes.data % 16 == 0:
            return array
        copy = self._empty(array.shape, array.dtype)
        copy[...] = array
        return copy

    def _each(
        self, sources: np.ndarray, shape: tuple[int, ...], dtype: Any, threads: int, direction: str
    ) -> np.ndarray:
        out = self._empty(shape, dtype)
        for i in np.ndindex(*shape[:-2]):
            whole = out[i].ctypes.data % 16 == 0
            target = out[i] if whole else self._empty(shape[-2:], dtype)
            self._plan(self._aligned(sources[i]), target, threads, direction)()
            if not whole:
                out[i] = target
        return out

    def _forward(self, images: np.ndarray, shape: tuple[int, ...], threads: int) -> np.ndarray:
        return self._each(images, shape, np.result_type(images, np.complex64), threads, "FFTW_FORWARD")

    def _inverse(self, spectra: np.ndarray, nx: int, threads: int) -> np.ndarray:
        shape = (*spectra.shape[:-1], nx)
        return self._each(spectra, shape, spectra.real.dtype, threads, "FFTW_BACKWARD")


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable that the user has not set, for as long as a library reads it."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


_PROVIDERS: dict[str, type[FftProvider]] = {p.name: p for p in (_Mkl, _Fftw, _Scipy)}
_AUTO = ("mkl", "scipy")


def fft_status() -> dict[str, str]:
    """Return each provider's name with "" if it is installed, or else how to install it. Imports none of them."""
    return {
        name: "" if all(util.find_spec(m) is not None for m in p.modules) else p.install
        for name, p in _PROVIDERS.items()
    }


def fft_provider(name: str | None = None) -> FftProvider:
    """Return the FFT library to use.

    Parameters
    ----------
    name : {"auto", "scipy", "mkl", "pyfftw"}, optional
        Default: ``ASTRID_GPU_FFT``, else auto.

    Raises
    ------
    ConfigError
        There is no provider of that name.
    BackendUnavailableError
        It is not installed or does not load; the message has the install line.
    """
    wanted = (name or os.environ.get("ASTRID_GPU_FFT", "")).strip() or "auto"
    if wanted not in ("auto", *_PROVIDERS):
        msg = f"ASTRID_GPU_FFT must be one of auto, {', '.join(sorted(_PROVIDERS))}; got {wanted!r}"
        raise ConfigError(msg)
    return _automatic() if wanted == "auto" else _named(wanted)


@cache
def _named(name: str) -> FftProvider:
    provider = _PROVIDERS[name]
    missing = fft_status()[name]
    if missing:
        msg = f"the FFT library {name} is not installed; {missing}, or unset ASTRID_GPU_FFT"
        raise BackendUnavailableError(msg)
    try:
        return provider()
    except Exception as exc:  # a broken installation fails in many ways
        msg = f"the FFT library {name} is installed but does not load ({exc}); {provider.install}"
        raise BackendUnavailableError(msg) from exc


@cache
def _automatic() -> FftProvider:
    """Return the fastest provider that loads; one that is installed and broken is told."""
    for name in _AUTO:
        if fft_status()[name]:
            continue
        try:
            return _named(name)
        except BackendUnavailableError as exc:
            _log.warning("%s; going on without it", exc)
    return _named("scipy")
