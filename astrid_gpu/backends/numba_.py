"""The fast CPU backend: NumPy arrays in float32, FFTs by `backends.fft`, Numba kernels for the fused operations."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import cache, wraps
from importlib import import_module, util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from astrid_gpu.backends.base import Backend, BackendSpec, BackendStatus
from astrid_gpu.backends.fft import fft_provider
from astrid_gpu.backends.numpy_ import NumpyBackend
from astrid_gpu.backends.threads import cpu_threads
from astrid_gpu.errors import BackendUnavailableError

__all__ = ["KernelCache", "NumbaBackend", "kernel_cache", "spec"]

_log = logging.getLogger("astrid_gpu")
_turn = threading.RLock()
_INSTALL = "install it with: pip install 'astrid-gpu[cpu]'"
# operation -> module of astrid_gpu.kernels that holds a function of the same name
_OPS = {
    "zogy_maps": "zogy_maps_numba",
    "extremes": "extremes_numba",
    "zogy_spectra": "zogy_numba",
    "zogy_finish": "zogy_numba",
    "fill_masked": "fill_numba",
    "mesh_statistics": "background_numba",
    "mesh_interpolate": "background_numba",
    "convolve": "convolve_numba",
    "convolve_separable": "convolve_numba",
    "convolve_fft": "convolve_numba",
    "find_peaks": "peaks_numba",
    "measure_moments": "moments_numba",
    "gather_stamps": "stamps_numba",
    "smooth_good": "noise_numba",
    "source_variance": "noise_numba",
    "dilate": "noise_numba",
    "resample": "resample_numba",
    "spline_coefficients": "resample_numba",
    "map_area": "resample_numba",
    "star_peaks": "star_peaks_numba",
    "star_moments": "star_moments_numba",
    "psf_at": "psf_fit_numba",
    "fit_stars": "psf_fit_numba",
    "register_stars": "psf_register_numba",
    "mean_star": "psf_register_numba",
    "moffat_equations": "moffat_numba",
    "fit_polynomial": "field_fit_numba",
    "fit_pixels": "field_fit_numba",
    "linear_fits": "field_fit_numba",
    "crowd_sums": "psf_fit_numba",
    "crowd_light": "psf_fit_numba",
}


class _LazyOps(Mapping[str, Callable[..., Any]]):
    """The table of fused operations; a kernel module is imported (and Numba with it) when its operation is used."""

    def __getitem__(self, name: str) -> Callable[..., Any]:
        module = _kernels(_OPS[name])
        operation = getattr(module, name)
        return _threaded(operation) if _is_parallel(_OPS[name]) else operation

    def __iter__(self) -> Iterator[str]:
        return iter(_OPS)

    def __len__(self) -> int:
        return len(_OPS)


@cache
def _kernels(name: str) -> ModuleType:
    """Import a module of kernels; Numba looks for the folder of its compiled code while doing so.

    That is ``NUMBA_CACHE_DIR`` if set, else ``__pycache__`` beside the kernels, else, where that cannot be written, the
    user's cache folder.
    """
    try:
        module = import_module(f"astrid_gpu.kernels.{name}")
    except RuntimeError as exc:
        if "cannot cache" not in str(exc):
            raise
        msg = (
            "Numba finds no folder to keep compiled code in: neither the installed package nor the user's cache folder "
            "can be written; set NUMBA_CACHE_DIR to a folder that can"
        )
        raise BackendUnavailableError(msg) from exc
    folders = [Path(function.stats.cache_path or "") for function in _compiled(module)]
    if folders and not any(folders[0].glob(f"{name}.*.nbi")):
        _tell_to_wait(str(folders[0]))
    return module


def _compiled(module: ModuleType) -> list[Any]:
    """Return the functions of a module that Numba compiles."""
    own = (f for f in vars(module).values() if getattr(f, "__module__", "") == module.__name__)
    return [f for f in own if hasattr(f, "py_func") and hasattr(f, "stats")]


@cache
def _tell_to_wait(folder: str) -> None:
    _log.info("compiling CPU kernels into %s: a minute, once (`astrid-gpu warmup` does it ahead)", folder)


@cache
def _is_parallel(name: str) -> bool:
    """Whether a module has kernels that run on Numba's own threads, rather than on one thread or Python's."""
    return any(function.targetoptions.get("parallel") for function in _compiled(_kernels(name)))


def _threaded(operation: Callable[..., Any]) -> Callable[..., Any]:
    """Return an operation that runs on `cpu_threads()` of Numba's threads, from whichever thread it is called.

    Numba counts threads anew in every thread that calls it, and its simplest layer, workqueue, ends the process when
    two threads call at once: there they take turns.
    """

    @wraps(operation)
    def run(*args: Any, **kwargs: Any) -> Any:
        import numba

        before = numba.get_num_threads()  # starts the layer
        with _turn if numba.threading_layer() == "workqueue" else nullcontext():
            numba.set_num_threads(min(cpu_threads(), numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
            try:
                return operation(*args, **kwargs)
            finally:
                numba.set_num_threads(before)

    return run


class KernelCache(NamedTuple):
    """Functions compiled and loaded by this process so far, and the folder of their code."""

    compiled: int
    loaded: int
    folder: str


def kernel_cache() -> KernelCache:
    """Count the compiled functions of the kernels that are in use, and say where their code is kept.

    Raises
    ------
    BackendUnavailableError
        Numba finds no folder it may write to.
    """
    compiled, loaded, folder = 0, 0, ""
    for name in {*_OPS.values(), *(m.rpartition(".")[2] for m in sys.modules if m.startswith("astrid_gpu.kernels."))}:
        for function in _compiled(_kernels(name)):
            stats = function.stats
            compiled += sum(stats.cache_misses.values())
            loaded += sum(stats.cache_hits.values())
            folder = folder or str(stats.cache_path or "")
    return KernelCache(compiled, loaded, folder)


class NumbaBackend(NumpyBackend):
    """NumPy arrays with Numba kernels; float32 unless asked otherwise."""

    name = "numba"
    float_dtype = np.dtype(np.float32)
    ops: Mapping[str, Callable[..., Any]] = _LazyOps()

    def next_fast_len(self, n: int) -> int:
        """Return a length that the kernels' own FFT takes: a multiple of 16 with no prime factor above 5."""
        if n < 64:
            return super().next_fast_len(n)
        sixteens = -(-n // 16)
        while pow(30, 20, sixteens):
            sixteens += 1
        return 16 * sixteens

    def asarray(self, array: Any, dtype: Any = None) -> np.ndarray:
        """Return a NumPy array in native byte order, without a copy where none is needed.

        Of an array that cannot be written (a memory map, a frame out of a FITS file) the result is a view that says
        it can: Numba would compile every kernel once more for it. Nothing writes to its input.
        """
        native = super().asarray(array, dtype)
        if native.flags.writeable or not native.flags.c_contiguous:
            return native
        return np.asarray(_Readable(native))


class _Readable:
    """An array as the array interface describes it, less that it cannot be written."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array  # owns the memory
        interface = array.__array_interface__
        self.__array_interface__ = interface | {"data": (interface["data"][0], False)}


def _probe() -> BackendStatus:
    if util.find_spec("numba") is None:
        return BackendStatus(False, f"Numba is not installed; {_INSTALL}", {})
    return BackendStatus(True, "Numba is installed", {"numba": _version(), "threads": str(cpu_threads())})


@cache
def _version() -> str:
    try:
        return version("numba")
    except PackageNotFoundError:
        return "unknown"


def _load() -> Backend:
    try:
        import_module("numba")
    except Exception as exc:
        msg = f"Numba is installed but does not import ({exc}); {_INSTALL}"
        raise BackendUnavailableError(msg) from exc
    fft_provider()  # what ASTRID_GPU_FFT asks for and is missing is told now
    return NumbaBackend()


spec = BackendSpec(name="numba", priority=50, probe=_probe, load=_load)
