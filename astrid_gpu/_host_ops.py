"""Fused operations of the CPU for the stages, which run on the host whatever the backend of the subtraction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from astrid_gpu.backends import available_backends, get_backend

__all__ = ["host_op"]


def host_op(name: str, reference: Callable[..., Any]) -> Callable[..., Any]:
    """Return the fused operation of this name on the CPU, or its reference where there is none."""
    backend = get_backend("auto")
    if backend.is_gpu:
        backend = get_backend("numba" if "numba" in available_backends() else "numpy")
    return backend.ops.get(name) or reference
