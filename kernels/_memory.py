"""Large result arrays that are handed out again once nobody holds them any more.

The system gives a large array page by page, each cleared at its first touch, and takes it back when it is freed: for
stacks subtracted one after the other that costs as much as a tenth of the arithmetic. Arrays from here are plain NumPy
arrays; when the last view of one is gone, its memory waits for the next array of about its size.

``ASTRID_GPU_KEEP_MIB`` limits what waits, in MiB (default: an eighth of the machine's memory, at most 4 GiB); 0 gives
everything back at once.
"""

from __future__ import annotations

import os
from functools import cache
from math import prod
from threading import Lock
from typing import Any

import numpy as np

from astrid_gpu.errors import ConfigError

__all__ = ["empty", "forget"]

_SMALLEST = 4 << 20
"""Smaller arrays cost little to get anew."""

_lock = Lock()
_waiting: list[np.ndarray] = []


class _Lease:
    """Owner of a buffer that an array stands on: gives it back when the array and all its views are gone."""

    def __init__(self, buffer: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.buffer = buffer
        self.__array_interface__ = {
            "shape": shape, "typestr": dtype.str, "data": (buffer.ctypes.data, False), "version": 3,
        }  # fmt: skip

    def __del__(self) -> None:
        if Lock is not None:  # the interpreter is not on its way out
            _take_back(self.buffer)


def empty(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """Return an uninitialised C-contiguous array, on memory used before if some of its size waits."""
    kind = np.dtype(dtype)
    size = prod(shape) * kind.itemsize
    if size < _SMALLEST or not _limit():
        return np.empty(shape, kind)
    with _lock:
        fits = [k for k, buffer in enumerate(_waiting) if size <= buffer.size <= 1.25 * size]
        buffer = _waiting.pop(min(fits, key=lambda k: _waiting[k].size)) if fits else None
    return np.asarray(_Lease(np.empty(size, np.uint8) if buffer is None else buffer, shape, kind))


def forget() -> None:
    """Give back to the system whatever waits, and what the C library keeps of memory that was freed (glibc)."""
    with _lock:
        _waiting.clear()
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    """Return glibc's malloc_trim, None elsewhere."""
    import ctypes

    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None


def _take_back(buffer: np.ndarray) -> None:
    """Let a buffer wait, and let go of those that have waited longest if that is too much."""
    limit = _limit()
    with _lock:
        _waiting.append(buffer)
        while _waiting and sum(held.size for held in _waiting) > limit:
            _waiting.pop(0)


def _limit() -> int:
    """Return the bytes that may wait."""
    text = os.environ.get("ASTRID_GPU_KEEP_MIB", "").strip()
    if text and not text.isdecimal():
        msg = f"ASTRID_GPU_KEEP_MIB is a number of MiB, 0 or more; got {text!r}"
        raise ConfigError(msg)
    if text:
        return int(text) << 20
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        whole = 4 << 30
    return min(4 << 30, whole // 8)
