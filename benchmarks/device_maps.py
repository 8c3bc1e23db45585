"""The fused subtraction on a device, measured against the bytes it must move: batches, steps, streams, surveys.

Used by `benchmarks.device`. Needs a backend with a CUDA context: cupy, or the emulator of the tests for a dry run.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

import astrid_gpu as ag
from astrid_gpu.backends.cuda.maps_job import job_of
from astrid_gpu.backends.cuda.maps_plan import traffic
from astrid_gpu.backends.cuda.maps_runner import Runner
from astrid_gpu.backends.cuda.stream import Exposure, SubtractionStream
from astrid_gpu.backends.cuda.zogy_maps import prepare, spec_of, zogy_maps
from astrid_gpu.engine._frames import combine_masks
from astrid_gpu.engine._problem import check
from astrid_gpu.engine.zogy import zogy

__all__ = [
    "MODELS",
    "SURVEYS",
    "chunk_scan",
    "error_of_maps",
    "noise",
    "psf",
    "resident",
    "steps",
    "streaming",
    "surveys",
]

WANTED = ("difference", "score_corr", "flux")
# Frames that the plain design moves a pair, to which the goal of twice the floor refers; its us on an H200 at 2048^2.
MODELS = {"flat": (39.5, 154.0), "maps": (51.5, 201.0), "own": (51.5, 201.0)}
# What is subtracted: how many frames of what shape.
SURVEYS = {
    "ZTF night": (45_000, (3080, 3072)),
    "DECam exposure": (62, (2048, 4096)),
    "Rubin visit": (189, (4096, 4096)),
}
TOLERANCE = 1e-3  # of S_corr, absolute


def psf(sigma: float) -> np.ndarray:
    """Return a Gaussian stamp."""
    grid = np.arange(-12, 13)
    stamp = np.exp(-(grid[:, None] ** 2 + grid**2) / (2 * sigma**2))
    return stamp / stamp.sum()


@cache
def _noise() -> np.ndarray:
    return np.random.default_rng(7).standard_normal((1 << 22) + 12_345, dtype=np.float32)


def noise(*shape: int, skip: int = 0) -> np.ndarray:
    """Return Gaussian noise, the same four million numbers over and over: making more takes longer than measuring."""
    return np.resize(_noise()[skip:], shape)


def arguments(kind: str, n: int, shape: tuple[int, int]) -> dict[str, Any]:
    """Return arguments of `zogy`: sky of n images and one reference; flat noise, variance maps, or nothing shared."""
    own = n if kind == "own" else 1
    args: dict[str, Any] = {
        "science": 5 * noise(n, *shape),
        "reference": 2 * noise(own, *shape, skip=7001),
        "psf_science": psf(2.0), "psf_reference": psf(1.6), "sigma_science": 5.0, "sigma_reference": 2.0,
        "outputs": WANTED,
    }  # fmt: skip
    if kind != "flat":
        args["variance_science"] = 25 + np.abs(noise(n, *shape))
        args["variance_reference"] = 4 + np.abs(noise(own, *shape, skip=9001))
        args["astrometric_error"] = (0.05, 0.05)
    if kind == "own":
        args["psf_science"] = np.stack([psf(s) for s in np.linspace(1.8, 2.2, n)])
        args["sigma_science"] = np.linspace(4.5, 5.5, n)
    return args


def problem(backend: Any, args: dict[str, Any]) -> tuple[Any, Any]:
    """Return the engine's checked problem and its flags, everything on the device."""
    full = {name: p.default for name, p in inspect.signature(zogy).parameters.items()}
    images = ("science", "reference", "variance_science", "variance_reference")
    moved = {k: backend.asarray(v) if k in images else v for k, v in args.items()}
    checked = check(full | {"backend": backend} | moved)
    return checked, combine_masks(backend, checked.science, checked.reference, None)


def resident(
    backend: Any, kind: str, shape: tuple[int, int], n: int, chunk: int, *, graph: bool
) -> tuple[Callable[[], None], Runner]:
    """Return a call that subtracts n resident pairs, `chunk` at a time, and the runner it uses."""
    ctx = backend.context
    job = job_of(ctx, *problem(backend, arguments(kind, n, shape)), WANTED)
    runner = Runner(ctx, job, spec_of(job, chunk, graph=graph), prepare(ctx, job, chunk))
    out = {name: backend.xp.empty((n, *shape), np.float32) for name in job.wanted}
    parts = [(start, min(start + chunk, n)) for start in range(0, n, chunk)]
    batches = [(job.part(a, b), {k: v[a:b] for k, v in out.items()}) for a, b in parts]

    def call() -> None:
        for part, maps in batches:
            runner.run(part, maps)

    return call, runner


def error_of_maps(backend: Any, kind: str, side: int) -> float:
    """Return the largest error of S_corr against the reference in float64, in sigma."""
    args = arguments(kind, 3, (side, side))
    got = zogy_maps(backend.context, *problem(backend, args), {"score_corr"}, chunk=2)["score_corr"]
    wide = {k: v.astype(np.float64) if isinstance(v, np.ndarray) else v for k, v in args.items()}
    exact = ag.zogy(**wide, backend="numpy").score_corr
    return float(np.nanmax(np.abs(backend.to_host(got) - exact)))


def result(ms: float, n: int, runner: Runner, kind: str, copy_rate: float) -> dict[str, float]:
    """Return a measurement beside its floors: the model's bytes and the schedule's, at the measured copy speed."""
    each = 1e3 * ms / n
    frame = 4 * runner.spec.shape[0] * runner.spec.shape[1]
    model = MODELS[kind][0] * frame / copy_rate / 1e3  # bytes over GB/s is ns
    schedule = sum(traffic(runner.program).values()) / copy_rate / 1e3
    return {
        "us_a_pair": each, "pairs_a_second": 1e6 / each, "floor_us": model, "times_floor": each / model,
        "schedule_us": schedule, "share_of_schedule": schedule / each,
    }  # fmt: skip


def chunk_scan(
    backend: Any, times: Callable[..., np.ndarray], side: int, n: int, copy_rate: float, seconds: float
) -> list[dict[str, Any]]:
    """Measure batches of 1 to 16 pairs, launched one by one and as a graph: does what one pass writes stay in cache?"""
    rows = []
    for chunk in (c for c in (1, 2, 4, 8, 16) if c <= n):
        for graph in (False, True):
            call, runner = resident(backend, "maps", (side, side), n, chunk, graph=graph)
            t = times(backend, call, seconds)
            row = {"chunk": chunk, "graph": graph, "side": side, "images": n}
            rows.append(row | result(float(np.median(t)), n, runner, "maps", copy_rate))
            print(f"  chunk {chunk:3} graph {graph!s:6}{rows[-1]['us_a_pair']:9.1f} us a pair"
                  f"{rows[-1]['times_floor']:7.2f} x the floor", flush=True)  # fmt: skip
            del call, runner
            backend.context.plans.clear()
            backend.context.runtime.release()
    return rows


def steps(
    backend: Any, times: Callable[..., np.ndarray], side: int, chunk: int, copy_rate: float, seconds: float
) -> list[dict[str, Any]]:
    """Measure every step of a batch alone: which one is away from its bytes."""
    call, runner = resident(backend, "maps", (side, side), chunk, chunk, graph=False)
    call()
    rows = []
    for step, (name, size) in zip(runner.program.steps, traffic(runner.program).items(), strict=True):
        launch = getattr(runner, f"_{step.kind}")
        t = times(backend, lambda launch=launch, step=step: launch(step), seconds)
        us, floor = 1e3 * float(np.median(t)) / chunk, size / copy_rate / 1e3
        rows.append({"step": name, "us": us, "megabytes": size / 1e6, "floor_us": floor, "share": floor / us})
        print(f"  {name:24}{us:9.2f} us{floor:9.2f} by bytes{floor / us:8.0%}", flush=True)
    return rows


def streaming(backend: Any, side: int, count: int, batch: int, *, graph: bool) -> dict[str, Any]:
    """Measure exposures streamed from host memory beside the bus and the arithmetic alone.

    `busy` is the time that the slower of the two takes alone over the time of the stream: 1 is complete overlap.
    """
    rng = np.random.default_rng(3)
    ctx = backend.context
    args = arguments("flat", 1, (side, side))
    stream = SubtractionStream(
        ctx, *problem(backend, args), batch=batch, threshold=5.0, stamps=64, side=31, graph=graph
    )
    frames = [rng.poisson(1000, (side, side)).astype(np.uint16) for _ in range(4)]
    many = [Exposure(frames[i % 4], 1.0, -1000.0, 31.6, 1.0) for i in range(count)]
    list(stream.run(many[: 3 * batch]))
    backend.synchronize()
    start = time.perf_counter()
    found = sum(len(f.y) for f in stream.run(many))
    total = time.perf_counter() - start
    slot = stream._slots[0]
    batches = -(-count // batch)
    copy = _seconds(backend, stream._up, lambda: ctx.runtime.upload(slot.device["raw"], slot.host["raw"]), 10)
    work = _seconds(backend, stream._compute, lambda: (stream._decode(slot), stream._subtract(slot)), 10)
    fill_start = time.perf_counter()
    stream._copy([e.pixels for e in many[:batch]], slot.host["raw"])
    fill = time.perf_counter() - fill_start
    size = slot.host["raw"].nbytes
    return {
        "side": side, "exposures": count, "batch": batch, "graph": graph, "candidates": found, "seconds": total,
        "exposures_a_second": count / total, "bus_gb_s": size / copy / 1e9, "bus_us": 1e6 * copy / batch,
        "work_us": 1e6 * work / batch, "host_copy_us": 1e6 * fill / batch, "stream_us": 1e6 * total / count,
        "busy": max(copy, work) * batches / total,
    }  # fmt: skip


def _seconds(backend: Any, stream: Any, work: Callable[[], Any], rounds: int) -> float:
    """Return the median seconds of queued work, waited for."""
    found = []
    for _ in range(rounds):
        backend.synchronize()
        start = time.perf_counter()
        with stream:
            work()
        stream.synchronize()
        found.append(time.perf_counter() - start)
    return float(np.median(found))


def surveys(
    backend: Any, times: Callable[..., np.ndarray], chunk_of: Callable[[tuple[int, int]], int], copy_rate: float,
    seconds: float, shrink: int = 1,
) -> list[dict[str, Any]]:  # fmt: skip
    """Measure the frames of surveys, variance maps and one reference a frame shape, and multiply by their number."""
    rows = []
    for name, (count, shape) in SURVEYS.items():
        size = shape[0] // shrink, shape[1] // shrink
        chunk = chunk_of(size)
        call, runner = resident(backend, "own", size, 2 * chunk, chunk, graph=False)
        t = float(np.median(times(backend, call, seconds)))
        row = {"survey": name, "frames": count, "shape": size, "chunk": chunk}
        row |= result(t, 2 * chunk, runner, "own", copy_rate)
        row["seconds"] = count * row["us_a_pair"] / 1e6
        rows.append(row)
        print(f"  {name:16}{count:7} of {size}: {row['seconds']:8.2f} s, {row['us_a_pair']:.0f} us a pair", flush=True)
        del call, runner
        backend.context.plans.clear()
        backend.context.runtime.release()
    return rows
