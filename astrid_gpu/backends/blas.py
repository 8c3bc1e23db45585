"""Keeping NumPy's BLAS to one thread while many small products are made.

OpenBLAS wakes its threads for products of a few thousand numbers, and they spin beside the threads that the stages run
on: fitting PSFs over the field then took three times the processor time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock

import numpy as np

__all__ = ["one_blas_thread"]

_PREFIXES, _SUFFIXES = ("scipy_openblas", "openblas"), ("64_", "_64", "")
_lock = Lock()
_inside = 0
_before = 0


@cache
def _openblas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """Return what tells and sets the number of threads of the OpenBLAS that NumPy is linked to, None if it is not."""
    try:
        library = ctypes.CDLL(np.linalg._umath_linalg.__file__)  # type: ignore[attr-defined]
    except (AttributeError, OSError, TypeError):
        return None
    for prefix in _PREFIXES:
        for suffix in _SUFFIXES:
            names = f"{prefix}_get_num_threads{suffix}", f"{prefix}_set_num_threads{suffix}"
            if all(hasattr(library, name) for name in names):
                get, put = (getattr(library, name) for name in names)
                get.argtypes, get.restype = [], ctypes.c_int
                put.argtypes, put.restype = [ctypes.c_int], None
                return get, put
    return None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let NumPy's OpenBLAS use one thread within the block, in any thread; another BLAS is left alone.

    Blocks may lie in each other and in several threads; the number of before is back after the last.
    """
    global _inside, _before
    found = _openblas()
    if found is None:
        yield
        return
    get, put = found
    with _lock:
        if _inside == 0:
            _before = get()
            put(1)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                put(_before)
