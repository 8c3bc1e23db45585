"""The reference backend: NumPy and an FFT library, float64 unless the input is float32."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np

from astrid_gpu.backends.base import Backend, BackendSpec, BackendStatus
from astrid_gpu.backends.fft import fast_length, fft_provider
from astrid_gpu.backends.threads import cpu_threads

__all__ = ["NumpyBackend", "cpu_threads", "spec"]


class NumpyBackend:
    """NumPy arrays, no fused operation: everything runs in the reference. Transforms by `backends.fft`."""

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
        return fft_provider().rfft2(array)

    def irfft2(self, spectrum: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Inverse real FFT over the last two axes, divided by the number of pixels. Destroys `spectrum`."""
        return fft_provider().irfft2(spectrum, shape, overwrite=True)

    def next_fast_len(self, n: int) -> int:
        """Return the next length with no prime factor above 11, a multiple of 4 where that costs little."""
        return fast_length(n)

    def free_memory(self) -> int:
        """Return the bytes of memory the operating system calls available, or a container's limit leaves."""
        return min(_available(), _left_in_container())

    def synchronize(self) -> None:
        """Return at once: the CPU is never behind."""

    def __repr__(self) -> str:
        return f"<backend {self.name}: {np.dtype(self.float_dtype).name}, {cpu_threads()} threads>"


def _available() -> int:
    """Return the bytes the operating system would hand out, 2 GiB where it does not say."""
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable"):
                    return int(line.split()[1]) * 1024
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return 2 << 30


def _left_in_container(folder: Path = Path("/sys/fs/cgroup")) -> int:
    """Return what is left of a container's memory, or more than there can be where nothing limits it."""
    try:
        limit, used = ((folder / f"memory.{name}").read_text(encoding="ascii") for name in ("max", "current"))
        cached = [line for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines() if "file" in line]
        reclaimable = sum(
            int(line.split()[1]) for line in cached if line.split()[0] in ("active_file", "inactive_file")
        )
        return max(int(limit) - int(used) + reclaimable, 0)
    except (OSError, ValueError):  # no such file, or "max": no limit
        return 1 << 62


def _probe() -> BackendStatus:
    return BackendStatus(True, "always available", {"numpy": np.__version__, "threads": str(cpu_threads())})


def _load() -> Backend:
    fft_provider()  # what ASTRID_GPU_FFT asks for and is missing is told now
    return NumpyBackend()


spec = BackendSpec(name="numpy", priority=10, probe=_probe, load=_load)
