"""Streams, events, graphs, pinned memory and the end of memory: what a run needs beside kernels and plans.

`CupyRuntime` is the device's; the tests have one that records and delays (tests/cuda_host/runtime.py).
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol

import numpy as np

__all__ = ["CupyRuntime", "Runtime", "Stream"]

_FULL = ("cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY", "CUFFT_ALLOC_FAILED")
_PLAN_SHARE = 4  # the work areas of all plans may take one part in this of the device


class Stream(Protocol):
    """A queue of device work. ``with stream:`` makes it the current one."""

    def __enter__(self) -> Any: ...
    def __exit__(self, *error: object) -> Any: ...

    def record(self, event: Any = None) -> Any:
        """Return `event`, or a new one, that is reached when all work queued so far is done."""

    def wait_event(self, event: Any) -> None:
        """Let later work of this stream start only after `event`."""

    def synchronize(self) -> None:
        """Wait on the host until all is done."""


class Runtime(Protocol):
    """Everything that is not a kernel, a transform or an array."""

    def stream(self) -> Any:
        """Return a new `Stream` that does not wait for the default one."""

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return page-locked host memory: copies from and to it run beside the kernels."""

    def upload(self, target: Any, source: np.ndarray) -> None:
        """Copy pinned host memory to the device, on the current stream, without waiting."""

    def download(self, target: np.ndarray, source: Any) -> None:
        """Copy to pinned host memory, on the current stream, without waiting."""

    def clear(self, array: Any) -> None:
        """Set a device array to 0 on the current stream."""

    def copy(self, target: Any, source: Any) -> None:
        """Copy between device arrays of one shape on the current stream."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record the launches of `work` as a graph; what is returned launches them again on the current stream."""

    def synchronize(self) -> None:
        """Wait on the host for the current stream."""

    def free_memory(self) -> int:
        """Return the bytes that can be allocated."""

    def cache_bytes(self) -> int:
        """Return the size of the device's second-level cache."""

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Return whether `error` says that the device is full."""

    def release(self) -> None:
        """Give unused pooled memory back."""


class CupyRuntime:
    """A `Runtime` on the current CUDA device."""

    def __init__(self, cupy: ModuleType) -> None:
        self._cupy = cupy
        self._cache_bytes = 0

    def stream(self) -> Any:
        """Return a new non-blocking stream."""
        return self._cupy.cuda.Stream(non_blocking=True)

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return page-locked host memory."""
        dtype = np.dtype(dtype)
        count = int(np.prod(shape))
        memory = self._cupy.cuda.alloc_pinned_memory(max(1, count * dtype.itemsize))
        return np.frombuffer(memory, dtype, count).reshape(shape)

    def upload(self, target: Any, source: np.ndarray) -> None:
        """Copy to the device on the current stream."""
        target.set(source, stream=self._cupy.cuda.get_current_stream())

    def download(self, target: np.ndarray, source: Any) -> None:
        """Copy to the host on the current stream."""
        source.get(stream=self._cupy.cuda.get_current_stream(), out=target, blocking=False)

    def clear(self, array: Any) -> None:
        """Set to 0 on the current stream."""
        array.data.memset_async(0, array.nbytes)

    def copy(self, target: Any, source: Any) -> None:
        """Copy between device arrays on the current stream."""
        target.data.copy_from_device_async(source.data, source.nbytes)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record `work` as a CUDA graph on a stream of its own.

        `work` must have run before, so that plans, kernels and buffers exist: nothing may be allocated while a
        capture is under way, or the graph would write to memory that the pool hands out again.
        """
        cuda = self._cupy.cuda
        stream = cuda.Stream(non_blocking=True)
        with stream:
            stream.begin_capture()
            try:
                work()
            finally:
                graph = stream.end_capture()
        return lambda: graph.launch(stream=cuda.get_current_stream())

    def synchronize(self) -> None:
        """Wait for the current stream."""
        self._cupy.cuda.get_current_stream().synchronize()

    def free_memory(self) -> int:
        """Return the driver's count and what CuPy's pool holds unused, within the pool's limit."""
        pool = self._cupy.get_default_memory_pool()
        free = int(self._cupy.cuda.runtime.memGetInfo()[0]) + int(pool.free_bytes())
        limit = int(pool.get_limit())
        return min(free, limit - int(pool.used_bytes())) if limit else free

    def cache_bytes(self) -> int:
        """Return the size of the L2 cache."""
        if not self._cache_bytes:
            runtime = self._cupy.cuda.runtime
            attribute = getattr(runtime, "cudaDevAttrL2CacheSize", 38)
            self._cache_bytes = int(runtime.deviceGetAttribute(attribute, runtime.getDevice()))
        return self._cache_bytes

    def place(self) -> tuple[int, int]:
        """Return what names the current device and stream."""
        return int(self._cupy.cuda.Device().id), int(self._cupy.cuda.get_current_stream().ptr)

    def plan_limit(self) -> int:
        """Return the most bytes that plans may hold: a quarter of the device."""
        return int(self._cupy.cuda.runtime.memGetInfo()[1]) // _PLAN_SHARE

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Return whether CuPy, CUDA or cuFFT ran out of memory."""
        if isinstance(error, self._cupy.cuda.memory.OutOfMemoryError):
            return True
        text = str(error)
        return any(
            word in text for word in ("cudaErrorMemoryAllocation", "CUFFT_ALLOC_FAILED", "CUDA_ERROR_OUT_OF_MEMORY")
        )

    def release(self) -> None:
        """Give unused pooled memory back to the driver."""
        self._cupy.get_default_memory_pool().free_all_blocks()
