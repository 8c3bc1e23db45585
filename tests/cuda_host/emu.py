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

__all__ = ["EmulatedBackend", "EmulatedContext", "backend"]


class EmulatedContext:
    """A `Context` whose kernels run on the CPU.

    Parameters
    ----------
    seed : int
        Schedule of threads, warps and blocks; may be changed between launches.
    flags : sequence of str
        Extra compiler flags, such as ``build.UBSAN``.
    """

    xp: ModuleType = np

    def __init__(self, seed: int = 0, flags: Sequence[str] = ()) -> None:
        self.seed = seed
        self.flags = tuple(flags)

    def kernel(self, file: str, name: str, options: tuple[str, ...] = ()) -> Callable[..., None]:
        """Return kernel `name` of ``kernels/<file>``, launched with this context's schedule."""
        function = _module(file, tuple(options), self.flags).get_function(name)

        def launch(grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], *, shared_mem: int = 0) -> None:
            function(grid, block, args, shared_mem=shared_mem, seed=self.seed)

        return launch


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


def backend(seed: int = 0, flags: Sequence[str] = ()) -> EmulatedBackend:
    """Return the emulated backend, or skip the test that asked, with the reason."""
    reason = host.why_unavailable()
    if reason:
        import pytest

        pytest.skip(reason)
    return EmulatedBackend(seed, flags)
