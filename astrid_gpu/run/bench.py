"""Throughput on this machine, in short: a few operations on every backend, each with its error beside its time."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import scipy

import astrid_gpu
from astrid_gpu.backends import Backend, available_backends, backend_status, get_backend
from astrid_gpu.backends.threads import cpu_threads
from astrid_gpu.engine.background import estimate_background
from astrid_gpu.engine.convolve import convolve
from astrid_gpu.engine.peaks import find_peaks
from astrid_gpu.engine.zogy import zogy
from astrid_gpu.errors import InputError
from astrid_gpu.ops.psf_stamps import moffat_stamp
from astrid_gpu.run.scenes import star_field, subtraction_scene

__all__ = ["describe_machine", "format_table", "run_bench"]

_STACK = 8
_QUICK_SIDE = 512
_LEAST_SIDE = 128


@dataclass(frozen=True)
class _Task:
    """What is timed, in float32, and how far its result is from float64."""

    operation: str
    backend: str
    images: int
    run: Callable[[], Any]
    error: Callable[[Any], float]
    error_of: str
    tolerance: float


def run_bench(
    sizes: Sequence[int] = (1024, 2048),
    backend: str = "all",
    quick: bool = False,
    progress: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Time background, convolution, peaks, and the subtraction of one pair and of a stack against one reference.

    Parameters
    ----------
    sizes : sequence of int
        Sides of the square float32 frames, pixels; at least 128.
    backend : str
        "all" for every backend that runs here, "auto", or a name.
    quick : bool
        One side of 512 pixels and few rounds.
    progress : callable, optional
        Told in words what comes next.

    Returns
    -------
    list of dict
        JSON-ready rows: operation, backend, size, images, median_ms and iqr_ms (an image; None where failed),
        error, error_of, tolerance, failed.

    Raises
    ------
    BackendUnavailableError, ConfigError
        As `get_backend`.
    InputError
        A side is too small.
    """
    sides = [_QUICK_SIDE] if quick else [int(side) for side in sizes]
    if not sides or min(sides) < _LEAST_SIDE:
        msg = f"sizes must be sides of at least {_LEAST_SIDE} pixels, got {list(sizes)}"
        raise InputError(msg)
    names = available_backends() if backend == "all" else [get_backend(backend).name]
    rows = []
    for side in sides:
        for name in names:
            for task in _tasks(get_backend(name), side):
                if progress is not None:
                    progress(f"{task.operation}, {name}, {side} x {side}")
                rows.append(_row(task, side, rounds=3 if quick else 7))
        _exact.cache_clear()
    return rows


def _row(task: _Task, side: int, rounds: int) -> dict[str, Any]:
    """Run once to load and compile and to see the error, then time."""
    error = float(task.error(task.run()))
    failed = not error <= task.tolerance
    times = np.zeros(rounds)
    for i in range(0 if failed else rounds):
        start = time.perf_counter()
        task.run()
        times[i] = 1e3 * (time.perf_counter() - start) / task.images
    low, middle, high = np.percentile(times, [25, 50, 75])
    return {
        "operation": task.operation,
        "backend": task.backend,
        "size": f"{side} x {side}",
        "images": task.images,
        "median_ms": None if failed else round(float(middle), 3),
        "iqr_ms": None if failed else round(float(high - low), 3),
        "error": float(f"{error:.2g}"),
        "error_of": task.error_of,
        "tolerance": task.tolerance,
        "failed": failed,
    }


def _tasks(b: Backend, side: int) -> Iterator[_Task]:
    """Yield the operations, prepared on a backend: arrays where it has them."""
    exact = _exact(side)
    frame, psf, scene = exact["frame"], exact["psf"], exact["scene"]
    given = b.asarray(frame)

    def done(call: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            result = call()
            b.synchronize()
            return result

        return run

    def largest(result: Any, name: str, unit: float = 1.0) -> float:
        return float(np.abs(b.to_host(result) - exact[name]).max()) / unit

    sky = done(lambda: estimate_background(given, backend=b).level)
    yield _Task("background", b.name, 1, sky, lambda r: largest(r, "background", exact["sigma"]), "level, sigma", 1e-3)
    smooth = done(lambda: convolve(given, psf, backend=b))
    top = float(np.abs(exact["convolve"]).max())
    yield _Task("convolve 25 x 25", b.name, 1, smooth, lambda r: largest(r, "convolve", top), "largest pixel", 1e-5)
    significance = b.asarray(exact["significance"])
    peaks = done(lambda: find_peaks(significance, 5.0, polarity="both", min_separation=3, backend=b))
    yield _Task("find_peaks", b.name, 1, peaks, lambda r: float(not np.array_equal(r, exact["peaks"])),
                "peaks that differ", 0.0)  # fmt: skip
    for n in (1,) if b.name == "numpy" else (1, _STACK):
        args, keywords = scene.zogy_arguments(0 if n == 1 else slice(None))
        args = (*map(b.asarray, args[:2]), *args[2:])
        keywords |= {k: b.asarray(v) for k, v in keywords.items() if k.startswith("variance")}
        subtract = done(partial(_score, b, args, keywords))
        yield _Task(f"zogy {'pair' if n == 1 else 'stack'}", b.name, n, subtract,
                    lambda r: largest(r if r.ndim == 2 else r[0], "zogy"), "S_corr, sigma", 1e-3)  # fmt: skip


def _score(b: Backend, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    return zogy(*args, **keywords, backend=b).score_corr


@lru_cache(maxsize=1)
def _exact(side: int) -> dict[str, Any]:
    """Return the frames of a side, and what the reference makes of them in float64."""
    frame, _, sigma = star_field((side, side))
    scene = subtraction_scene((side, side), _STACK)
    psf = moffat_stamp(3.0, 3.5, 25)
    args, keywords = scene.zogy_arguments(0)
    score = zogy(*args, **keywords, backend="numpy", dtype="float64").score_corr
    significance = score.astype(np.float32)
    return {
        "frame": frame, "psf": psf, "scene": scene, "sigma": sigma, "zogy": score, "significance": significance,
        "background": estimate_background(frame.astype(np.float64), backend="numpy").level,
        "convolve": convolve(frame.astype(np.float64), psf, backend="numpy"),
        "peaks": find_peaks(significance, 5.0, polarity="both", min_separation=3, backend="numpy"),
    }  # fmt: skip


def describe_machine() -> dict[str, Any]:
    """Return what belongs beside the numbers: processor, devices, threads, versions.

    Returns
    -------
    dict
        JSON-ready.
    """
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": cpu_threads(),
        "backends": {name: dict(s.details) for name, s in backend_status().items() if s.available},
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "astrid_gpu": astrid_gpu.__version__,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def format_table(rows: list[dict[str, Any]]) -> str:
    """Return rows of `run_bench` as text for a terminal, with a line about the machine.

    Parameters
    ----------
    rows : list of dict

    Returns
    -------
    str
        A row whose error exceeds its tolerance says FAILED and has no time.
    """
    m = describe_machine()
    lines = [
        f"astrid_gpu {m['astrid_gpu']}, {m['cpu']}, {m['threads']} threads, Python {m['python']}, NumPy {m['numpy']}",
        "milliseconds an image, median and interquartile range; error against the reference in float64",
        "",
        f"{'operation':18}{'backend':9}{'size':13}{'n':>3}{'ms':>10}{'IQR':>8}{'images/s':>10}{'x numpy':>9}  error",
    ]
    base = {(r["operation"], r["size"]): r["median_ms"] for r in rows if r["backend"] == "numpy"}
    for r in rows:
        head = f"{r['operation']:18}{r['backend']:9}{r['size']:13}{r['images']:>3}"
        error = f"{r['error']:.1e} ({r['error_of']})"
        if r["failed"]:
            lines.append(f"{head}{'FAILED':>10}{'':27}  {error}, allowed {r['tolerance']:.0e}")
            continue
        slow = base.get((r["operation"].replace("stack", "pair"), r["size"]))
        ratio = f"{slow / r['median_ms']:.1f}" if slow else ""
        times = f"{r['median_ms']:>10.2f}{r['iqr_ms']:>8.2f}{1e3 / r['median_ms']:>10.1f}{ratio:>9}"
        lines.append(f"{head}{times}  {error}")
    return "\n".join(lines)
