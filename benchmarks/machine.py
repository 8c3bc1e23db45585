"""What a reader of a number must know of the machine that made it, the speed of its memory included."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from astrid_gpu.backends import backend_status
from astrid_gpu.backends.fft import fft_provider
from astrid_gpu.backends.threads import cpu_threads

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("numpy", "scipy", "numba", "llvmlite", "mkl-fft", "pyfftw", "cupy-cuda12x", "cupy-cuda13x", "sep",
            "photutils", "reproject", "sfft", "properimage", "pytest-benchmark", "astrid-gpu")  # fmt: skip


def describe(command: str) -> dict[str, Any]:
    """Return machine, threads, versions, commit, date and command, all JSON."""
    return {
        "machine": {
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_gb": round(_memory() / 1e9, 1),
            "system": platform.platform(),
            "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
            "devices": {n: dict(s.details) for n, s in backend_status().items() if s.available},
        },
        "threads": cpu_threads(),
        "fft": fft_provider().name,
        "versions": {"python": platform.python_version()} | {p: v for p in PACKAGES if (v := _version(p))},
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
    }


def triad(threads: int | None = None, megabytes: int = 128, rounds: int = 7) -> dict[str, Any]:
    """Measure the memory: a = b + s * c in float32, all cores, in blocks that keep the intermediate in cache.

    Parameters
    ----------
    threads : int, optional
        Default: the threads the engine would use.
    megabytes : int
        Of each of the three arrays: far beyond any cache.
    rounds : int

    Returns
    -------
    dict
        gb_s (best round; two arrays read and one written, no write-allocate counted), threads, how.
    """
    threads = threads or cpu_threads()
    n, block = megabytes * 250_000, 1 << 15
    a, b, c = (np.full(n, v, np.float32) for v in (0, 1, 2))
    scale = np.float32(3)

    def part(k: int) -> None:
        for start in range(k * n // threads, (k + 1) * n // threads, block):
            piece = slice(start, min(start + block, (k + 1) * n // threads))
            np.multiply(c[piece], scale, out=a[piece])
            np.add(a[piece], b[piece], out=a[piece])

    times = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds):
            start = time.perf_counter()
            list(pool.map(part, range(threads)))
            times.append(time.perf_counter() - start)
    rate = 3 * a.nbytes / min(times) / 1e9
    how = "a = b + s * c, float32, best round, 12 bytes an element"
    return {"gb_s": round(rate, 2), "threads": threads, "how": how}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    found = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(found, platform.processor() or platform.machine())


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def commit() -> str:
    """Return the commit, with a + where files of the code were changed or added since."""
    try:
        run = lambda *a: subprocess.run(["git", *a], cwd=ROOT, check=True, capture_output=True, text=True).stdout  # noqa: E731
        code = ("astrid_gpu", "kernels", "benchmarks", ":(exclude)benchmarks/results")
        dirty = run("status", "--porcelain", "--untracked-files=all", "--", *code)
        return run("rev-parse", "--short=12", "HEAD").strip() + ("+" if dirty.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
