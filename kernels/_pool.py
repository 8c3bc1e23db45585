"""A pool of Python threads for compiled functions that let go of the GIL.

Numba's own `parallel=True` compiles a function several times over, and its default threading layer must not be called
by two threads at once; this may be.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import count

from astrid_gpu.backends.threads import cpu_threads

__all__ = ["share"]


@lru_cache(maxsize=4)
def _helpers(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="astrid-gpu")


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=_helpers.cache_clear)


def share(task: Callable[[int], object], parts: int) -> None:
    """Call ``task(0)`` to ``task(parts - 1)``, each once, on all threads that `cpu_threads` allows.

    The caller works too, and does not wait for helpers that have not begun when it is done: calls from several
    threads, and from within a task, are safe. An exception of a task is raised here.
    """
    threads = min(cpu_threads(), parts)
    order = count()

    def work() -> None:
        while (k := next(order)) < parts:
            task(k)

    helpers = [_helpers(threads - 1).submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        begun = [helper for helper in helpers if not helper.cancel()]
        for helper in begun:
            helper.exception()
    for helper in begun:
        helper.result()
