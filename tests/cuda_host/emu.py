"""The CUDA backend without a GPU: NumPy arrays, the product's own launch code, the kernels on the CPU.

Slow (a few million threads a second), and exact about what CUDA leaves undefined. For tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from astrid_gpu.backends.cuda import cuda_ops
from astrid_gpu.backends.cupy_ import smooth_length
from astrid_gpu.backends.numpy_ import NumpyBackend
from tests.cuda_host import build as host
from tests.cuda_host import device
from tests.cuda_host.runtime import RecordingRuntime

__all__ = ["DeviceBackend", "DeviceContext", "EmulatedBackend", "EmulatedContext", "backend"]


class EmulatedContext:
    """A `Context` whose kernels run on the CPU.

    Parameters
    ----------
    seed : int
        Schedule of threads, warps and blocks; may be changed between launches.
    flags : sequence of str
        Extra compiler flags, such as ``build.UBSAN``.
    runtime : RecordingRuntime, optional
        Streams, graphs and memory; one of its own by default.
    """

    xp: ModuleType = np

    def __init__(self, seed: int = 0, flags: Sequence[str] = (), runtime: RecordingRuntime | None = None) -> None:
        self.seed = seed
        self.flags = tuple(flags)
        self.runtime = runtime or RecordingRuntime()
        self.plans = self.runtime.plans()
        self.memory: dict[Any, Any] = {}

    def kernel(self, file: str, name: str, options: tuple[str, ...] = ()) -> Callable[..., None]:
        """Return kernel `name` of ``kernels/<file>``, launched with this context's schedule."""
        function = _module(file, tuple(options), self.flags).get_function(name)

        def launch(grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], *, shared_mem: int = 0) -> None:
            given = self._arguments(args)  # checked, and its addresses taken, when it is launched

            def work() -> None:
                function(grid, block, given, shared_mem=shared_mem, seed=self.seed)

            self.runtime.submit(name, work)

        return launch

    def _arguments(self, args: Sequence[Any]) -> list[Any]:
        return list(args)


class DeviceContext(EmulatedContext):
    """A context whose arrays are `device.DeviceArray`: a host array in a launch is refused, as on a device."""

    xp: ModuleType = device.namespace

    def _arguments(self, args: Sequence[Any]) -> list[Any]:
        for position, value in enumerate(args):
            if isinstance(value, np.ndarray):
                msg = f"argument {position} of a launch is a host array of shape {value.shape}"
                raise TypeError(msg)
        return [device.unwrap(value) for value in args]


@cache
def _module(file: str, options: tuple[str, ...], flags: tuple[str, ...]) -> host.HostModule:
    return host.build(file, options, flags)


class EmulatedBackend(NumpyBackend):
    """NumPy arrays in float32, with the CUDA kernels as fused operations."""

    name = "emu"
    float_dtype = np.dtype(np.float32)

    def __init__(self, seed: int = 0, flags: Sequence[str] = ()) -> None:
        self.context = EmulatedContext(seed, flags)
        self.ops: Mapping[str, Callable[..., Any]] = cuda_ops(self.context)

    def next_fast_len(self, n: int) -> int:
        """Return the length the CuPy backend takes, so that frames are padded as they are on a device."""
        return smooth_length(n)


class DeviceBackend(EmulatedBackend):
    """The same over `device.DeviceArray`: nothing passes between host and device but by `asarray` and `to_host`."""

    is_gpu = True
    xp: ModuleType = device.namespace

    def __init__(self, seed: int = 0, flags: Sequence[str] = ()) -> None:
        self.context = DeviceContext(seed, flags)
        self.ops = cuda_ops(self.context)

    def asarray(self, array: Any, dtype: Any = None) -> Any:
        """Return a device array: of host data a copy, of device data the same memory where the dtype fits."""
        if isinstance(array, device.DeviceArray):
            return device.wrap(np.asarray(device.unwrap(array), dtype=dtype))
        return device.wrap(np.array(super().asarray(array, dtype)))

    def to_host(self, array: Any) -> np.ndarray:
        """Return a host copy."""
        return array.get() if isinstance(array, device.DeviceArray) else np.asarray(array)

    def rfft2(self, array: Any) -> Any:
        """Forward real FFT over the last two axes, unnormalised."""
        return device.wrap(super().rfft2(self._memory(array)))

    def irfft2(self, spectrum: Any, shape: tuple[int, int]) -> Any:
        """Inverse real FFT; the spectrum is destroyed, as cuFFT does."""
        memory = self._memory(spectrum)
        image = super().irfft2(memory.copy(), shape)
        if memory.flags.writeable:
            memory[...] = np.nan
        return device.wrap(image)

    @staticmethod
    def _memory(array: Any) -> np.ndarray:
        if not isinstance(array, device.DeviceArray):
            msg = f"a transform on the device was given a {type(array).__name__}"
            raise TypeError(msg)
        return device.unwrap(array)


def backend(seed: int = 0, flags: Sequence[str] = (), *, on_device: bool = False) -> EmulatedBackend:
    """Return the emulated backend, or skip the test that asked, with the reason.

    Parameters
    ----------
    seed : int
        Schedule of threads, warps and blocks.
    flags : sequence of str
        Extra compiler flags.
    on_device : bool
        Use arrays that cannot be mixed with NumPy's (`DeviceBackend`).
    """
    reason = host.why_unavailable()
    if reason:
        import pytest

        pytest.skip(reason)
    return DeviceBackend(seed, flags) if on_device else EmulatedBackend(seed, flags)
