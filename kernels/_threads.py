"""Consecutive parts of a range, one a thread: for compiled functions that let go of the GIL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from astrid_gpu.kernels._pool import share

from astrid_gpu.backends.numpy_ import cpu_threads

__all__ = ["shares"]


def shares(work: Callable[[int, int], Any], n: int, *, least: int = 1) -> list[Any]:
    """Call ``work(first, last)`` for consecutive parts of range(n), one a thread, and return what they return.

    Parameters
    ----------
    work : callable
        Its parts do not write to the same place. May be called from several threads at once.
    n : int
    least : int
        No thread is woken for less than this.
    """
    parts = max(1, min(cpu_threads(), n // max(least, 1)))
    edges = [n * k // parts for k in range(parts + 1)]
    results: list[Any] = [None] * parts

    def part(k: int) -> None:
        results[k] = work(edges[k], edges[k + 1])

    share(part, parts)
    return results
