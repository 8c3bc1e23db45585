"""Fused operations of the CPU for the stages, which run on the host whatever the backend of the subtraction."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from astrid_gpu.backends import Backend, available_backends, get_backend

_A = TypeVar("_A")
_B = TypeVar("_B")

__all__ = ["both", "host_backend", "host_op"]


def host_op(name: str, reference: Callable[..., Any]) -> Callable[..., Any]:
    """Return the fused operation of this name on the CPU, or its reference where there is none."""
    return host_backend().ops.get(name) or reference


def host_backend() -> Backend:
    """Return the backend that "auto" stands for among those of the CPU."""
    backend = get_backend("auto")
    if backend.is_gpu:
        backend = get_backend("numba" if "numba" in available_backends() else "numpy")
    return backend


def both(first: Callable[[], _A], second: Callable[[], _B]) -> tuple[_A, _B]:
    """Run two functions at once, the first in this thread; NumPy and the kernels let go of the interpreter's lock.

    An exception of the first comes before one of the second.
    """
    other: Future[_B] = Future()

    def work() -> None:
        try:
            other.set_result(second())
        except BaseException as exc:  # handed on to the caller, whatever it is
            other.set_exception(exc)

    thread = threading.Thread(target=work, name="astrid-gpu-both", daemon=True)
    thread.start()
    try:
        mine = first()
    finally:
        thread.join()
    return mine, other.result()
