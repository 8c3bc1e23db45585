"""Time of every fused operation and of whole subtractions on one backend, beside the floor that memory sets.

``python -m benchmarks.device [--backend cupy] [--images 16] [--side 2048] [--json FILE]`` needs numpy and scipy, and
cupy or numba for those backends. Each row has the median and least time, the bytes that must move (each input read
once, each output written once), the share of the measured copy speed this is, the time it should take where the project
has set one, and the largest error against the float64 reference relative to the largest value (of S_corr: in sigma). A
row whose error is beyond its tolerance says FAILED, and the run ends with 1.

On a CUDA backend follow the fused subtraction with its batches of 1 to 16, its steps one by one, exposures streamed
from pinned memory, and what all this makes for a night of a survey. ``--once OPERATION`` runs one operation a few
times, for a profiler. ``--dry-run`` runs all of it on the CPU emulator with tiny frames: its times mean nothing.
"""

from __future__ import annotations

import argparse
import itertools
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
from benchmarks.device_maps import noise

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
    "resample": "resample",
    "extremes": "extremes",
}


# Microseconds an image of 2048 x 2048 may take on an H200; None: no goal was set.
GOALS = {"mesh_statistics": 12.0, "find_peaks": 8.0, "resample": 30.0}
TOLERANCES = {"find_peaks": 0.0, "gather_stamps": 0.0, "convolve": 1e-5, "mesh_statistics": 1e-5}  # others: 1e-4


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
    goal_us: float | None = None  # an image of 2048 x 2048 on an H200
    failed: bool = False


@dataclass(frozen=True)
class Problem:
    """Arguments of an operation (host), which of them go to the device, and the bytes that must move."""

    args: tuple[Any, ...]
    on_device: tuple[int, ...]
    megabytes: float


def problems(n: int, side: int) -> dict[str, Callable[[], Problem]]:
    """Return makers of realistic arguments for every operation: float32, sky of unit noise, shared PSFs."""
    rng, calls = np.random.default_rng(7), itertools.count()
    half, pixels = side * (side // 2 + 1), side * side
    mega = 1e-6

    def images() -> np.ndarray:
        return noise(n, side, side, skip=1001 * next(calls))

    def spectra(m: int) -> np.ndarray:
        parts = noise(2, m, side, side // 2 + 1, skip=1001 * next(calls))
        return (parts[0] + 1j * parts[1]).astype(np.complex64)

    def zogy_spectra() -> Problem:
        args = (spectra(n), spectra(1), spectra(1), spectra(1), zogy.make_params(np.ones(n), 1.2, 1.0, 0.9))
        return Problem(args, (0, 1, 2, 3), 8 * half * (4 * n + 3) * mega)

    def zogy_finish() -> Problem:
        scales = np.repeat([[1.0, 2.0, 0.01]], n, axis=0)
        errors = np.repeat([[0.1, 0.2, 0.01]], n, axis=0)
        variance = np.abs(images()) + 1
        outputs = {"score", "score_corr", "flux", "flux_error"}
        args = (images(), images(), variance, scales, errors, (side - min(30, side // 4),) * 2, outputs)
        return Problem(args, (0, 1, 2), 4 * pixels * 7 * n * mega)

    def fill_masked() -> Problem:
        bad = (rng.random((1, side, side)) < 1e-3).astype(np.uint8)
        bad[:, -min(30, side // 4) :] = bad[:, :, -min(30, side // 4) :] = 1
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
        m, rim = min(1000, side**2 // 64) * n, min(20, side // 4)
        return rng.integers(0, n, m), *(rng.uniform(rim, side - rim, (2, m)))

    def measure_moments() -> Problem:
        image, y, x = windows()
        return Problem((images(), image, y, x, np.full(len(y), 2.0), 7), (0,), 4 * len(y) * 225 * mega)

    def gather_stamps() -> Problem:
        image, y, x = windows()
        args = (images(), image, y.astype(np.int64), x.astype(np.int64), 63, 0.0)
        return Problem(args, (0,), 8 * len(y) * 63 * 63 * mega)

    def resample() -> Problem:
        y, x = np.mgrid[:side, :side].astype(np.float64)
        maps = 0.9998 * y - 0.002 * x + 3.3, 0.002 * y + 1.0001 * x - 2.7
        return Problem((images(), *maps, "lanczos3"), (0, 1, 2), pixels * (8 * n + 16) * mega)

    def extremes() -> Problem:
        return Problem((images(),), (0,), 4 * pixels * n * mega)

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
        "resample": resample,
        "extremes": extremes,
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
    """Return times in milliseconds, by CUDA events on a device; two warm-up calls, one if there is no time."""
    for _ in range(2 if seconds else 1):
        call()
    backend.synchronize()
    found: list[float] = []
    stop = time.perf_counter() + seconds
    while len(found) < (3 if seconds else 1) or (time.perf_counter() < stop and len(found) < 100):
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


def subtraction(backend: Any, n: int, side: int, outputs: tuple[str, ...]) -> Callable[[], Any]:
    """Return a call of the whole of zogy(): n science images already on the device, one shared reference."""
    science = backend.asarray(5 * noise(n, side, side))
    reference = backend.asarray(2 * noise(1, side, side, skip=7001))
    grid = np.arange(-12, 13)
    stamps = [np.exp(-(grid[:, None] ** 2 + grid**2) / (2 * sigma**2)) for sigma in (2.0, 1.6)]
    return lambda: ag.zogy(science, reference, *stamps, 5.0, 2.0, outputs=outputs, backend=backend)


def transforms(backend: Any, n: int, side: int) -> dict[str, Callable[[], Any]]:
    """Return calls of the forward and inverse transform."""
    image = backend.asarray(noise(n, side, side))
    spectrum = backend.rfft2(image)
    return {"rfft2": lambda: backend.rfft2(image), "irfft2": lambda: backend.irfft2(spectrum, (side, side))}


def measure(backend: Any, n: int, side: int, seconds: float) -> tuple[list[Row], float]:
    """Measure the operations and the engine; prints rows as they come. Returns them and the copy speed."""
    ceiling = copy_rate(backend, 4 * n * side * side // 1_000_000 + 1, seconds)
    print(f"copy: {ceiling:.0f} GB/s, read and write")
    print(f"{'':24}{'images':>7}{'median ms':>11}{'min ms':>9}{'GB/s':>8}{'of copy':>9}{'us an image':>13}{'error':>9}")
    rows: list[Row] = []

    def add(name: str, count: int, call: Callable[[], Any], megabytes: float, error: float | None) -> None:
        failed = error is not None and not error <= TOLERANCES.get(name, 1e-4)
        t = times_of(backend, call, seconds)
        median = float(np.median(t))
        rate, goal = megabytes / median, GOALS.get(name)
        rows.append(
            Row(name, count, side, median, float(t.min()), megabytes, rate, rate / ceiling, error, goal, failed)
        )
        each = 1e3 * median / count
        shown = f"{median:11.3f}{t.min():9.3f}{rate:8.0f}{rate / ceiling:9.0%}{each:13.1f}"
        shown = "FAILED".rjust(50) if failed else shown
        told = f"{error:9.1e}" if error is not None else "".rjust(9)
        print(f"{name:24}{count:7}{shown}{told}" + (f"  goal {goal:g} us" if goal else ""), flush=True)

    for name, make in problems(n, side).items():
        problem = make()
        add(name, n, bind(backend, name, problem), problem.megabytes, error_of(backend, name))
    for name, call in transforms(backend, n, side).items():
        add(name, n, call, 16e-6 * n * side * side, None)  # two passes, each reads and writes the frame
    for count in sorted({1, max(1, n // 2), n, 2 * n} if seconds else {n}):
        for outputs in (("difference",), ("difference", "score"), ("difference", "score_corr", "flux")):
            name = "zogy: " + {1: "D", 2: "D + S", 3: "D + S_corr + flux"}[len(outputs)]
            least = 4e-6 * side * side * (count * (1 + len(outputs)) + 1)
            add(name, count, subtraction(backend, count, side, outputs), least, None)
    return rows, ceiling


def fused(backend: Any, rows: list[Row], ceiling: float, given: Any) -> dict[str, Any]:
    """Measure the fused subtraction; its rows go to `rows`, the rest is returned for the record."""
    from benchmarks import device_maps as maps

    found: dict[str, Any] = {"copy_gb_s": ceiling, "fused": []}
    shapes = [(given.side, given.images), *(((44, 1),) if given.dry_run else ((3080, 8), (4096, 4)))]
    for kind, (per_frame, goal) in maps.MODELS.items():
        error = maps.error_of_maps(backend, kind, 40 if given.dry_run else 256)
        for side, n in shapes:
            shape = (side, side) if side != 3080 else (3080, 3072)
            call, runner = maps.resident(backend, kind, shape, n, min(n, given.chunk), graph=False)
            t = times_of(backend, call, given.seconds)
            own = maps.result(float(np.median(t)), n, runner, kind, ceiling)
            megabytes = per_frame * 4e-6 * shape[0] * shape[1] * n
            failed, rate = not error <= maps.TOLERANCE, megabytes / float(np.median(t))
            goal_us = 2 * goal * shape[0] * shape[1] / 2048**2
            name = f"zogy: D + S_corr + flux, fused, {kind}"
            rows.append(
                Row(
                    name,
                    n,
                    side,
                    float(np.median(t)),
                    float(t.min()),
                    megabytes,
                    rate,
                    rate / ceiling,
                    error,
                    goal_us,
                    failed,
                )
            )
            found["fused"].append({"kind": kind, "shape": shape, "images": n, "error": error, "failed": failed} | own)
            told = "FAILED" if failed else f"{own['us_a_pair']:.1f} us a pair, {own['times_floor']:.2f} x the floor"
            print(f"{name:38}{side:6}{told:>40}{error:9.1e}", flush=True)
            del call, runner
            backend.context.plans.clear()
            backend.context.runtime.release()
    print("batches:")
    found["chunks"] = maps.chunk_scan(backend, times_of, given.side, given.images, ceiling, given.seconds)
    print("steps of a batch:")
    found["steps"] = maps.steps(backend, times_of, given.side, min(4, given.images), ceiling, given.seconds / 4)
    found["streaming"] = [
        maps.streaming(backend, given.side, 6 if given.dry_run else 128, batch, graph=graph)
        for batch, graph in ((2, False), (4, False), (4, True))
    ]
    for row in found["streaming"]:
        print(f"stream, batch {row['batch']}, graph {row['graph']}: {row['stream_us']:.0f} us an exposure, bus "
              f"{row['bus_us']:.0f}, work {row['work_us']:.0f}, busy {row['busy']:.0%}", flush=True)  # fmt: skip
    print("surveys:")
    chunk = (
        (lambda shape: 2) if given.dry_run else (lambda shape: max(1, given.chunk * 2048**2 // (shape[0] * shape[1])))
    )
    shrink = 40 if given.dry_run else 1
    found["surveys"] = maps.surveys(backend, times_of, chunk, ceiling, given.seconds, shrink)
    return found


def machine(backend: Any) -> dict[str, Any]:
    """Return what a number needs beside it: device, versions, commit, date."""
    head = Path(__file__).resolve().parent.parent / ".git" / "HEAD"
    commit = head.read_text().strip() if head.is_file() else "unknown"
    reference = head.parent / commit.removeprefix("ref: ")
    return {
        "backend": backend.name,
        "details": dict(ag.backends.backend_status()[backend.name].details) if backend.name != "emu" else {},
        "platform": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "commit": reference.read_text().strip() if reference.is_file() else commit,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def main() -> int:
    """Parse, measure, write; 1 if a result was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="cupy")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--chunk", type=int, default=4, help="pairs of 2048 x 2048 at a time")
    parser.add_argument("--seconds", type=float, default=0.5, help="time spent on each row")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--once", choices=[*sorted(REFERENCES), "zogy_maps"], help="run one operation and stop")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU emulator, with tiny frames")
    given = parser.parse_args()
    if given.dry_run:
        given.images, given.side, given.chunk, given.seconds = 2, 40, 2, 0.0
    backend = _emulator() if given.dry_run else ag.get_backend(given.backend)
    if given.once:
        _once(backend, given)
        return 0
    rows, ceiling = measure(backend, given.images, given.side, given.seconds)
    extra = fused(backend, rows, ceiling, given) if hasattr(backend, "context") else {}
    record = {"machine": machine(backend), "arguments": vars(given) | {"json": str(given.json)}}
    record |= {"rows": [asdict(row) for row in rows], **extra}
    if given.json:
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    wrong = [row.name for row in rows if row.failed]
    print(f"FAILED: {', '.join(wrong)}" if wrong else f"{len(rows)} rows, no error beyond its tolerance")
    return int(bool(wrong))


def _emulator() -> Any:
    """Return the tests' emulator: CUDA kernels on the CPU."""
    from tests.cuda_host import emu

    return emu.EmulatedBackend()


def _once(backend: Any, given: Any) -> None:
    """Run one operation three times."""
    if given.once == "zogy_maps":
        from benchmarks import device_maps

        side, chunk = given.side, given.chunk
        call, _ = device_maps.resident(backend, "maps", (side, side), chunk, chunk, graph=False)
    else:
        call = bind(backend, given.once, problems(given.images, given.side)[given.once]())
    for _ in range(3):
        call()
    backend.synchronize()


if __name__ == "__main__":
    raise SystemExit(main())
