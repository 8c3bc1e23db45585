"""Fused operations of the CPU for the stages, which run on the host whatever the backend of the subtraction."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

from astrid_gpu.backends import Backend, available_backends, get_backend

_A = TypeVar("_A")
_B = TypeVar("_B")

__all__ = ["beside", "both", "host_backend", "host_op", "on_host"]

_asked: ContextVar[Backend | None] = ContextVar("astrid_gpu_host_backend", default=None)


@contextlib.contextmanager
def on_host(backend: Backend | None) -> Iterator[None]:
    """Make `host_op` ask a backend of the CPU, here and in the threads begun from here; None changes nothing."""
    token = _asked.set(backend) if backend is not None else None
    try:
        yield
    finally:
        if token is not None:
            _asked.reset(token)


def host_op(name: str, reference: Callable[..., Any]) -> Callable[..., Any]:
    """Return the fused operation of this name on the CPU, or its reference where there is none."""
    return host_backend().ops.get(name) or reference


def host_backend() -> Backend:
    """Return the backend that was asked for, or that "auto" stands for among those of the CPU."""
    if (asked := _asked.get()) is not None:
        return asked
    backend = get_backend("auto")
    if backend.is_gpu:
        backend = get_backend("numba" if "numba" in available_backends() else "numpy")
    return backend


def beside(work: Callable[[], _A]) -> Callable[[], _A]:
    """Start a function in a thread of its own; calling what is returned waits for its result, or raises its exception.

    NumPy and the kernels let go of the interpreter's lock.
    """
    result: Future[_A] = Future()
    context = copy_context()

    def run() -> None:
        try:
            result.set_result(context.run(work))
        except BaseException as exc:  # handed on to the caller, whatever it is
            result.set_exception(exc)

    thread = threading.Thread(target=run, name="astrid-gpu-beside", daemon=True)
    thread.start()

    def wait() -> _A:
        thread.join()
        return result.result()

    return wait


def both(first: Callable[[], _A], second: Callable[[], _B]) -> tuple[_A, _B]:
    """Run two functions at once, the first in this thread.

    An exception of the first comes before one of the second.
    """
    other = beside(second)
    try:
        mine = first()
    except BaseException:
        with contextlib.suppress(BaseException):
            other()
        raise
    return mine, other()
