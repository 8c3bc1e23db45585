"""The fast CPU backend: NumPy arrays in float32, scipy.fft transforms, Numba kernels for the fused operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module, util
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from astrid_gpu.backends.base import Backend, BackendSpec, BackendStatus
from astrid_gpu.backends.numpy_ import NumpyBackend, cpu_threads
from astrid_gpu.errors import BackendUnavailableError

__all__ = ["NumbaBackend", "spec"]

_INSTALL = "install it with: pip install 'astrid-gpu[cpu]'"
# operation -> module of astrid_gpu.kernels that holds a function of the same name
_OPS = {
    "zogy_spectra": "zogy_numba",
    "zogy_finish": "zogy_numba",
    "fill_masked": "fill_numba",
    "mesh_statistics": "background_numba",
    "mesh_interpolate": "background_numba",
    "convolve": "convolve_numba",
    "find_peaks": "peaks_numba",
    "measure_moments": "moments_numba",
    "gather_stamps": "stamps_numba",
}


class _LazyOps(Mapping[str, Callable[..., Any]]):
    """The table of fused operations; a kernel module is imported (and Numba with it) when its operation is used."""

    def __getitem__(self, name: str) -> Callable[..., Any]:
        return getattr(import_module(f"astrid_gpu.kernels.{_OPS[name]}"), name)

    def __iter__(self) -> Iterator[str]:
        return iter(_OPS)

    def __len__(self) -> int:
        return len(_OPS)


class NumbaBackend(NumpyBackend):
    """NumPy arrays with Numba kernels; float32 unless asked otherwise."""

    name = "numba"
    float_dtype = np.dtype(np.float32)
    ops: Mapping[str, Callable[..., Any]] = _LazyOps()


def _probe() -> BackendStatus:
    if util.find_spec("numba") is None:
        return BackendStatus(False, f"Numba is not installed; {_INSTALL}", {})
    try:
        found = version("numba")
    except PackageNotFoundError:
        found = "unknown"
    return BackendStatus(True, "Numba is installed", {"numba": found, "threads": str(cpu_threads())})


def _load() -> Backend:
    try:
        import numba
    except Exception as exc:
        msg = f"Numba is installed but does not import ({exc}); {_INSTALL}"
        raise BackendUnavailableError(msg) from exc
    numba.set_num_threads(min(cpu_threads(), numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    return NumbaBackend()


spec = BackendSpec(name="numba", priority=50, probe=_probe, load=_load)
