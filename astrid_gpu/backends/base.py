"""What a backend is: an array namespace, FFTs, and a small table of fused operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import numpy as np

__all__ = ["Backend", "BackendSpec", "BackendStatus"]


@runtime_checkable
class Backend(Protocol):
    """The protocol every backend follows.

    Attributes
    ----------
    name : str
        Name in the registry.
    xp : module
        Array namespace, NumPy-like.
    is_gpu : bool
        Whether arrays live on a device.
    float_dtype : numpy.dtype
        Type used for inputs that are not float32 already.
    ops : mapping of str to callable
        Fused operations. A missing name falls back to the reference of the same name in `astrid_gpu.ops`.
    """

    name: str
    xp: ModuleType
    is_gpu: bool
    float_dtype: np.dtype
    ops: Mapping[str, Callable[..., Any]]

    def asarray(self, array: Any, dtype: Any = None) -> Any:
        """Return `array` as a native array, copied only if the type or the device differs."""

    def to_host(self, array: Any) -> np.ndarray:
        """Return `array` as a NumPy array."""

    def rfft2(self, array: Any) -> Any:
        """Forward real FFT over the last two axes, unnormalised."""

    def irfft2(self, spectrum: Any, shape: tuple[int, int]) -> Any:
        """Inverse of `rfft2` to real arrays of `shape`, divided by the number of pixels. May destroy its input."""

    def next_fast_len(self, n: int) -> int:
        """Return the smallest length >= `n` that transforms fast."""

    def free_memory(self) -> int:
        """Return the bytes free for arrays."""

    def synchronize(self) -> None:
        """Wait until all work handed out is done."""


@dataclass(frozen=True)
class BackendStatus:
    """Whether a backend can run here, and what was found."""

    available: bool
    reason: str
    details: Mapping[str, str]


@dataclass(frozen=True)
class BackendSpec:
    """A registered backend: a cheap probe and a lazy loader.

    `probe` imports nothing heavier than it must and never raises; `load` returns the backend or raises
    `BackendUnavailableError`.
    """

    name: str
    priority: int
    probe: Callable[[], BackendStatus]
    load: Callable[[], Backend]
