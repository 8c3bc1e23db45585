"""How many threads to use."""

from __future__ import annotations

import os
from functools import lru_cache
from math import ceil
from pathlib import Path

from astrid_gpu.errors import ConfigError

__all__ = ["cpu_threads"]


def cpu_threads() -> int:
    """Return the threads to use: ``ASTRID_GPU_THREADS``, else the cores this process may run on.

    Raises
    ------
    ConfigError
        ``ASTRID_GPU_THREADS`` is not a whole number of at least 1.
    """
    wanted = os.environ.get("ASTRID_GPU_THREADS", "").strip()
    if not wanted:
        return _cores()
    if not wanted.isdecimal() or int(wanted) < 1:
        msg = f"ASTRID_GPU_THREADS must be a whole number of at least 1, got {wanted!r}"
        raise ConfigError(msg)
    return int(wanted)


@lru_cache(maxsize=1)
def _cores() -> int:
    """Cores by affinity, or fewer where a container's quota grants less time than that."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return min(cores, max(1, ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or "max": no quota
        return cores
