"""The reference backend: NumPy and scipy.fft, float64 unless the input is float32."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np

from astrid_gpu.backends.base import BackendSpec, BackendStatus

__all__ = ["NumpyBackend", "cpu_threads", "spec"]


@lru_cache(maxsize=1)
def cpu_threads() -> int:
    """Return the threads to use: ``ASTRID_GPU_THREADS``, else the cores this process may run on."""
    wanted = os.environ.get("ASTRID_GPU_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


class NumpyBackend:
    """NumPy arrays, scipy.fft transforms, no fused operation: everything runs in the reference."""

    name: str = "numpy"
    is_gpu: bool = False
    xp: ModuleType = np
    float_dtype: np.dtype = np.dtype(np.float64)
    ops: Mapping[str, Callable[..., Any]] = MappingProxyType({})

    def asarray(self, array: Any, dtype: Any = None) -> np.ndarray:
        """Return a NumPy array in native byte order, without a copy where none is needed."""
        if not isinstance(array, np.ndarray) and hasattr(array, "__dlpack__"):
            array = np.from_dlpack(array)
        array = np.asarray(array, dtype=dtype)
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        return array

    def to_host(self, array: Any) -> np.ndarray:
        """Return `array` unchanged."""
        return np.asarray(array)

    def rfft2(self, array: np.ndarray) -> np.ndarray:
        """Forward real FFT over the last two axes, unnormalised."""
        from scipy import fft

        return fft.rfft2(array, workers=cpu_threads())

    def irfft2(self, spectrum: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Inverse real FFT over the last two axes, divided by the number of pixels."""
        from scipy import fft

        return fft.irfft2(spectrum, s=shape, workers=cpu_threads(), overwrite_x=True)

    def next_fast_len(self, n: int) -> int:
        """Return the next length with no prime factor above 11."""
        from scipy import fft

        return int(fft.next_fast_len(n))

    def free_memory(self) -> int:
        """Return the bytes of memory the operating system calls available."""
        try:
            with Path("/proc/meminfo").open(encoding="ascii") as lines:
                for line in lines:
                    if line.startswith("MemAvailable"):
                        return int(line.split()[1]) * 1024
            return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES"))
        except (OSError, ValueError):
            return 2 << 30

    def synchronize(self) -> None:
        """Return at once: the CPU is never behind."""

    def __repr__(self) -> str:
        return f"<backend {self.name}: {np.dtype(self.float_dtype).name}, {cpu_threads()} threads>"


def _probe() -> BackendStatus:
    return BackendStatus(True, "always available", {"numpy": np.__version__, "threads": str(cpu_threads())})


spec = BackendSpec(name="numpy", priority=10, probe=_probe, load=NumpyBackend)
