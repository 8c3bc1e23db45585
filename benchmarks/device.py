"""Time of every fused operation and of whole subtractions on one backend, beside the floor that memory sets.

``python -m benchmarks.device [--backend cupy] [--images 8] [--side 2048] [--json FILE]`` needs numpy and scipy, and
cupy or numba for those backends. Each row has the median and least time, the bytes that must move (each input read
once, each output written once), the share of the measured copy speed this is, and the largest error against the
float64 reference relative to the largest value. ``--once OPERATION`` runs one operation a few times, for a profiler.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import astrid_gpu as ag
from astrid_gpu.ops import background, convolve, fill, zogy

# operation -> module of astrid_gpu.ops that holds its reference
REFERENCES = {
    "zogy_spectra": "zogy",
    "zogy_finish": "zogy",
    "fill_masked": "fill",
    "mesh_statistics": "background",
    "mesh_interpolate": "background",
    "convolve": "convolve",
    "find_peaks": "peaks",
    "measure_moments": "moments",
    "gather_stamps": "stamps",
}


@dataclass(frozen=True)
class Row:
    """One measurement; times in milliseconds, rates in GB/s."""

    name: str
    images: int
    side: int
    median_ms: float
    min_ms: float
    megabytes: float
    rate: float
    share_of_copy: float
    error: float | None


@dataclass(frozen=True)
class Problem:
    """Arguments of an operation (host), which of them go to the device, and the bytes that must move."""

    args: tuple[Any, ...]
    on_device: tuple[int, ...]
    megabytes: float


def problems(n: int, side: int) -> dict[str, Callable[[], Problem]]:
    """Return makers of realistic arguments for every operation: float32, sky of unit noise, shared PSFs."""
    rng = np.random.default_rng(7)
    half, pixels = side * (side // 2 + 1), side * side
    mega = 1e-6

    def images() -> np.ndarray:
        return rng.standard_normal((n, side, side), dtype=np.float32)

    def spectra(m: int) -> np.ndarray:
        parts = rng.standard_normal((2, m, side, side // 2 + 1), dtype=np.float32)
        return (parts[0] + 1j * parts[1]).astype(np.complex64)

    def zogy_spectra() -> Problem:
        args = (spectra(n), spectra(1), spectra(1), spectra(1), zogy.make_params(np.ones(n), 1.2, 1.0, 0.9))
        return Problem(args, (0, 1, 2, 3), 8 * half * (4 * n + 3) * mega)

    def zogy_finish() -> Problem:
        scales = np.repeat([[1.0, 2.0, 0.01]], n, axis=0)
        errors = np.repeat([[0.1, 0.2, 0.01]], n, axis=0)
        variance = np.abs(images()) + 1
        outputs = {"score", "score_corr", "flux", "flux_error"}
        args = (images(), images(), variance, scales, errors, (side - 30, side - 30), outputs)
        return Problem(args, (0, 1, 2), 4 * pixels * 7 * n * mega)

    def fill_masked() -> Problem:
        bad = (rng.random((1, side, side)) < 1e-3).astype(np.uint8)
        bad[:, -30:] = bad[:, :, -30:] = 1
        args = (images(), bad, fill.fill_profiles([1.7], (side, side)))
        return Problem(args, (0, 1), pixels * (8 * n + 1) * mega)

    def mesh_statistics() -> Problem:
        return Problem((images(), None, 64, 3.0, "sextractor"), (0,), 4 * pixels * n * mega)

    def mesh_interpolate() -> Problem:
        nodes = max(1, side // 64)
        axis = background.spline_axis(side, nodes)
        return Problem((rng.standard_normal((n, nodes, nodes)), axis, axis, np.float32), (0,), 4 * pixels * n * mega)

    def convolution() -> Problem:
        index = convolve.border_index(side, 9, "reflect")
        return Problem((images(), rng.random((1, 9, 9)), index, index), (0,), 8 * pixels * n * mega)

    def find_peaks() -> Problem:
        return Problem((images(), np.full(n, 4.0), None, False), (0,), 4 * pixels * n * mega)

    def windows() -> tuple[np.ndarray, ...]:
        m = 1000 * n
        return rng.integers(0, n, m), *(rng.uniform(20, side - 20, (2, m)))

    def measure_moments() -> Problem:
        image, y, x = windows()
        return Problem((images(), image, y, x, np.full(len(y), 2.0), 7), (0,), 4 * len(y) * 225 * mega)

    def gather_stamps() -> Problem:
        image, y, x = windows()
        args = (images(), image, y.astype(np.int64), x.astype(np.int64), 63, 0.0)
        return Problem(args, (0,), 8 * len(y) * 63 * 63 * mega)

    return {
        "zogy_spectra": zogy_spectra,
        "zogy_finish": zogy_finish,
        "fill_masked": fill_masked,
        "mesh_statistics": mesh_statistics,
        "mesh_interpolate": mesh_interpolate,
        "convolve": convolution,
        "find_peaks": find_peaks,
        "measure_moments": measure_moments,
        "gather_stamps": gather_stamps,
    }


def operation(backend: Any, name: str) -> Callable[..., Any]:
    """Return the backend's operation, or the reference on its namespace."""
    found = backend.ops.get(name)
    if found is not None:
        return found
    reference = getattr(import_module(f"astrid_gpu.ops.{REFERENCES[name]}"), name)
    return lambda *args: reference(*args, xp=backend.xp)


def bind(backend: Any, name: str, problem: Problem) -> Callable[[], Any]:
    """Return a call of an operation with its images already on the device."""
    args = [backend.asarray(a) if i in problem.on_device else a for i, a in enumerate(problem.args)]
    function = operation(backend, name)
    return lambda: function(*args)


def leaves(name: str, result: Any) -> list[Any]:
    """Return the arrays of a result in a fixed order; peaks come in no particular one."""
    if isinstance(result, dict):
        return [result[key] for key in sorted(result)]
    if name == "find_peaks":
        order = np.lexsort(result[2::-1])
        return [column[order] for column in result]
    return list(result) if isinstance(result, tuple) else [result]


def error_of(backend: Any, name: str, side: int = 256) -> float:
    """Return the largest error of an operation on two small images, relative to the largest value."""
    problem = problems(2, side)[name]()
    got = leaves(name, bind(backend, name, problem)())
    wide = {np.dtype(np.float32): np.float64, np.dtype(np.complex64): np.complex128}
    args = [a.astype(wide[a.dtype]) if isinstance(a, np.ndarray) and a.dtype in wide else a for a in problem.args]
    wanted = leaves(name, getattr(import_module(f"astrid_gpu.ops.{REFERENCES[name]}"), name)(*args))
    errors = [_relative_error(backend.to_host(g), w) for g, w in zip(got, wanted, strict=True)]
    return max(errors)


def _relative_error(got: np.ndarray, wanted: np.ndarray) -> float:
    if got.shape != wanted.shape:
        return float("inf")
    if wanted.dtype.kind not in "fc":
        return float(np.any(got != wanted))
    scale = np.nanmax(np.abs(wanted), initial=0) or 1.0
    return float(np.nanmax(np.abs(got - wanted), initial=0) / scale)


def times_of(backend: Any, call: Callable[[], Any], seconds: float) -> np.ndarray:
    """Return times in milliseconds: CUDA events on a device, the clock elsewhere. Two warm-up calls."""
    for _ in range(2):
        call()
    backend.synchronize()
    found: list[float] = []
    stop = time.perf_counter() + seconds
    while len(found) < 3 or (time.perf_counter() < stop and len(found) < 100):
        found.append(_one_time(backend, call))
    return np.array(found)


def _one_time(backend: Any, call: Callable[[], Any]) -> float:
    if backend.name == "cupy":
        cuda = backend.xp.cuda
        first, last = cuda.Event(), cuda.Event()
        first.record()
        call()
        last.record()
        last.synchronize()
        return float(cuda.get_elapsed_time(first, last))
    start = time.perf_counter()
    call()
    backend.synchronize()
    return 1e3 * (time.perf_counter() - start)


def copy_rate(backend: Any, megabytes: int, seconds: float) -> float:
    """Return the speed of a large copy in GB/s, bytes read plus bytes written: the ceiling of every row."""
    source = backend.asarray(np.random.default_rng(1).random(megabytes * 125_000))
    target = backend.xp.empty_like(source)

    def copy() -> None:
        target[...] = source

    return 2 * megabytes / float(np.median(times_of(backend, copy, seconds)))


def psf(sigma: float) -> np.ndarray:
    """Return a Gaussian stamp."""
    grid = np.arange(-12, 13)
    stamp = np.exp(-(grid[:, None] ** 2 + grid**2) / (2 * sigma**2))
    return stamp / stamp.sum()


def subtraction(backend: Any, n: int, side: int, outputs: tuple[str, ...]) -> Callable[[], Any]:
    """Return a call of the whole of zogy(): n science images already on the device, one shared reference."""
    rng = np.random.default_rng(8)
    science = backend.asarray(5 * rng.standard_normal((n, side, side), dtype=np.float32))
    reference = backend.asarray(2 * rng.standard_normal((1, side, side), dtype=np.float32))
    return lambda: ag.zogy(science, reference, psf(2.0), psf(1.6), 5.0, 2.0, outputs=outputs, backend=backend)


def transforms(backend: Any, n: int, side: int) -> dict[str, Callable[[], Any]]:
    """Return calls of the forward and inverse transform."""
    image = backend.asarray(np.random.default_rng(9).standard_normal((n, side, side), dtype=np.float32))
    spectrum = backend.rfft2(image)
    return {"rfft2": lambda: backend.rfft2(image), "irfft2": lambda: backend.irfft2(spectrum, (side, side))}


def measure(backend: Any, n: int, side: int, seconds: float) -> list[Row]:
    """Measure everything; prints rows as they come."""
    ceiling = copy_rate(backend, 4 * n * side * side // 1_000_000 + 1, seconds)
    print(f"copy: {ceiling:.0f} GB/s, read and write")
    print(f"{'':24}{'images':>7}{'median ms':>11}{'min ms':>9}{'GB/s':>8}{'of copy':>9}{'error':>9}")
    rows: list[Row] = []

    def add(name: str, count: int, call: Callable[[], Any], megabytes: float, error: float | None) -> None:
        t = times_of(backend, call, seconds)
        rate = megabytes / float(np.median(t))
        row = Row(name, count, side, float(np.median(t)), float(t.min()), megabytes, rate, rate / ceiling, error)
        rows.append(row)
        shown = f"{row.median_ms:11.3f}{row.min_ms:9.3f}{rate:8.0f}{rate / ceiling:9.0%}"
        print(f"{name:24}{count:7}{shown}" + (f"{error:9.1e}" if error is not None else ""), flush=True)

    for name, make in problems(n, side).items():
        problem = make()
        add(name, n, bind(backend, name, problem), problem.megabytes, error_of(backend, name))
    for name, call in transforms(backend, n, side).items():
        add(name, n, call, 16e-6 * n * side * side, None)  # two passes, each reads and writes the frame
    for count in sorted({1, max(1, n // 2), n, 2 * n}):
        for outputs in (("difference",), ("difference", "score"), ("difference", "score_corr", "flux")):
            name = "zogy: " + {1: "D", 2: "D + S", 3: "D + S_corr + flux"}[len(outputs)]
            least = 4e-6 * side * side * (count * (1 + len(outputs)) + 1)
            add(name, count, subtraction(backend, count, side, outputs), least, None)
    return rows


def machine(backend: Any) -> dict[str, Any]:
    """Return what a number needs beside it: device, versions, commit, date."""
    head = Path(__file__).resolve().parent.parent / ".git" / "HEAD"
    commit = head.read_text().strip() if head.is_file() else "unknown"
    reference = head.parent / commit.removeprefix("ref: ")
    return {
        "backend": backend.name,
        "details": dict(ag.backends.backend_status()[backend.name].details),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "commit": reference.read_text().strip() if reference.is_file() else commit,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="cupy")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--seconds", type=float, default=0.5, help="time spent on each row")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--once", choices=sorted(REFERENCES), help="run one operation three times and stop")
    given = parser.parse_args()
    backend = ag.get_backend(given.backend)
    if given.once:
        call = bind(backend, given.once, problems(given.images, given.side)[given.once]())
        for _ in range(3):
            call()
        backend.synchronize()
        return
    rows = measure(backend, given.images, given.side, given.seconds)
    if given.json:
        record = {"machine": machine(backend), "arguments": vars(given) | {"json": str(given.json)}}
        record["rows"] = [asdict(row) for row in rows]
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
