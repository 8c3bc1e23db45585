"""The fused subtraction on a device: all maps of a stack, batch by batch. Mathematics: `astrid_gpu.ops.zogy`.

What runs is in four places: `maps_job` (arguments), `maps_plan` (which step reads and writes what, where it lies and
what it costs), `maps_runner` (launches), `stamp_grid` (what follows from the PSFs alone). Kernels: zogy.cu.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from typing import Any

import numpy as np

from astrid_gpu.backends.cuda.context import Context
from astrid_gpu.backends.cuda.maps_job import Job, job_of
from astrid_gpu.backends.cuda.maps_plan import Spec, bytes_per_image, compile_program
from astrid_gpu.backends.cuda.maps_runner import Runner, measure_fills
from astrid_gpu.backends.cuda.stamp_grid import SmallGrid, first_grid, next_grid
from astrid_gpu.errors import ConfigError, DeviceMemoryError

__all__ = ["default_chunk", "prepare", "spec_of", "zogy_maps"]

_log = logging.getLogger("astrid_gpu")
TAIL = 1e-5
"""Largest |k| at the rim of the small grid over its peak: V(S) is then right to a few parts in 100 000 beside a
large fill, whose error |k| carries far, and to rounding elsewhere."""
_LEAST_WORK = 16 << 20  # bytes of frame in a batch, below which launches take longer than the work
_MOST_CHUNK = 1024
_PLAN_SLOTS = 2  # cuFFT's work areas, in slots: one a plan and direction
CHUNK_VARIABLE, GRAPH_VARIABLE = "ASTRID_GPU_CHUNK", "ASTRID_GPU_GRAPH"


def zogy_maps(
    ctx: Context,
    problem: Any,
    flags: Any,
    wanted: Collection[str],
    *,
    chunk: int | None = None,
    graph: bool | None = None,
) -> dict[str, Any] | None:
    """Subtract a stack of pairs.

    Parameters
    ----------
    ctx : Context
    problem : engine._problem.Problem
        Checked inputs, in float32.
    flags : uint8 array, shape (1 or n, ny, nx), or None
        Bits of `PixelFlag`; INVALID ones are bad. None: no pixel is.
    wanted : subset of {"difference", "score", "score_corr", "flux"}
        "flux" gives flux and flux_error.
    chunk : int, optional
        Pairs at a time. Default: ASTRID_GPU_CHUNK, else `default_chunk`. Halved where the device is too full.
    graph : bool, optional
        Launch the transforms of a batch as one CUDA graph. Default: whether ASTRID_GPU_GRAPH is 1.

    Returns
    -------
    dict of str to array, shape (n, ny, nx), float32, or None
        In the caller's units, NaN at bad pixels. None: not float32; the general path computes it.

    Raises
    ------
    DeviceMemoryError
        Not even one pair fits.
    ConfigError
        ASTRID_GPU_CHUNK is not a positive whole number.

    Notes
    -----
    Cost: `maps_plan.traffic`. Memory: the maps, and `maps_plan.bytes_per_image` times the chunk and about half as much
    again for cuFFT. Deterministic. The host waits three times a call: for what is flagged, how large fills are, and
    whether the kernels fit their grid.
    """
    if np.dtype(problem.dtype) != np.float32:
        return None
    if graph is None:
        graph = os.environ.get(GRAPH_VARIABLE, "").strip() == "1"
    try:
        job = job_of(ctx, problem, flags, wanted)
        out = {name: ctx.xp.empty((job.n, *job.shape), np.float32) for name in sorted(job.wanted)}
    except Exception as exc:
        if not ctx.runtime.is_out_of_memory(exc):
            raise
        msg = f"the maps of {problem.n} images of {problem.shape}; give fewer images at a time"
        raise DeviceMemoryError(_no_room(ctx, msg)) from exc
    spec = spec_of(job, 1, graph=graph, follow=True)
    size = chunk or _from_environment() or default_chunk(ctx, spec, job.n)
    asked = size = min(size, job.n, ctx.memory.get((spec.padded, "most"), size))
    while not _fits(ctx, job, size, out, graph=graph):
        if size == 1:
            need = bytes_per_image(compile_program(spec))
            msg = f"the {need / 2**20:.0f} MiB that one pair of {job.shape} takes; free some, or use tiles"
            raise DeviceMemoryError(_no_room(ctx, msg))
        size //= 2
    if size < asked:
        ctx.memory[spec.padded, "most"] = size  # from now on: nobody waits for the same failure twice
        _say(problem, f"the device is full: {size} of {asked} pairs of {job.shape} at a time")
    return out


def _fits(ctx: Context, job: Job, size: int, out: dict[str, Any], *, graph: bool) -> bool:
    """Subtract `size` pairs at a time; False, with all memory given back, if there is too little of it."""
    try:
        _run(ctx, job, size, out, graph=graph)
    except Exception as exc:
        if not ctx.runtime.is_out_of_memory(exc):
            raise
    else:
        return True
    ctx.plans.clear()
    ctx.runtime.release()
    return False


def _run(ctx: Context, job: Job, size: int, out: dict[str, Any], *, graph: bool) -> None:
    grid = prepare(ctx, job, size)
    runner = Runner(ctx, job, spec_of(job, size, graph=graph), grid)
    for start in range(0, job.n, size):
        part = slice(start, min(start + size, job.n))
        runner.run(job.part(part.start, part.stop), {name: values[part] for name, values in out.items()})


def _no_room(ctx: Context, what: str) -> str:
    return f"the device has no room for {what} ({ctx.runtime.free_memory() / 2**20:.0f} MiB are free)"


def _say(problem: Any, text: str) -> None:
    """Log, and note in the result where the problem takes notes."""
    _log.warning("%s", text)
    note = getattr(problem, "note", None)
    if callable(note):
        note(text)


def _from_environment() -> int:
    text = os.environ.get(CHUNK_VARIABLE, "").strip()
    if not text:
        return 0
    if not text.isdecimal() or int(text) < 1:
        msg = f"{CHUNK_VARIABLE} is a number of images, at least 1; got {text!r}"
        raise ConfigError(msg)
    return int(text)


def default_chunk(ctx: Context, spec: Spec, n: int) -> int:
    """Return how many pairs to subtract at a time.

    As many as have one frame each in the second-level cache, so that what one pass writes the next one may still find
    there; more where images are so small that launches would take longer than the work; no more than fit.
    """
    frame = 4 * spec.padded[0] * spec.padded[1]
    good = max(round(ctx.runtime.cache_bytes() / frame), -(-_LEAST_WORK // frame), 1)
    slot = 8 * spec.padded[0] * (spec.padded[1] // 2 + 1)
    need = bytes_per_image(compile_program(spec)) + _PLAN_SLOTS * slot
    return max(1, min(good, n, _MOST_CHUNK, int(0.8 * ctx.runtime.free_memory()) // need))


def spec_of(job: Job, batch: int, *, graph: bool = False, follow: bool = False) -> Spec:
    """Return what a batch of `job` has to do; `follow` the errors of fills whether or not there are any.

    Whether there are is known after `prepare`, which this asks for by reading `Side.largest`.
    """
    score = bool(job.wanted - {"difference"})
    variance = bool(job.wanted & {"score_corr", "flux_error"})
    errors = frozenset[str]()
    if variance:
        tops = [float("inf") if follow else _top(side.largest) for side in job.sides]  # measured by `prepare`
        errors = frozenset(name for name, top in zip(("EN", "ER"), tops, strict=True) if top > job.limits[0])
    return Spec(
        shape=job.shape,
        padded=job.padded,
        batch=batch,
        difference="difference" in job.wanted,
        score=score,
        variance=variance,
        split=job.split,
        own=job.own,
        errors=errors,
        maps=frozenset(n for n, s in zip(("VN", "VR"), job.sides, strict=True) if s.variance is not None),
        flagged=job.flags is not None,
        inputs_first=graph,
        outputs=len(job.wanted),
        colour=frozenset(n for n, s in zip(("Wn", "Wr"), job.sides, strict=True) if s.white is not None),
    )


def _top(largest: Any) -> float:
    """Return the largest of numbers given as the bits of floats, which sort alike."""
    return float(_host(largest.max()).astype(np.uint32).view(np.float32)[0])


def _host(array: Any) -> np.ndarray:
    return np.atleast_1d(array.get() if hasattr(array, "get") else array)


def prepare(ctx: Context, job: Job, size: int) -> tuple[int, int]:
    """Measure the fills and fill `Job.scales`; return the small grid on which the score kernels fit."""
    if not job.wanted - {"difference"}:
        return first_grid(job.padded, 1)
    if job.wanted & {"score_corr", "flux_error"}:
        for side in job.sides:
            ctx.runtime.clear(side.largest)
        measure_fills(ctx, job)
        ctx.runtime.synchronize()  # a device's arrays wait by themselves when they are read; the tests' do not
    stamps = tuple(side.stamps for side in job.sides)
    grid = first_grid(job.padded, max(max(s.shape[1:]) for s in stamps))
    while True:
        tail = _numbers(ctx, job, size, grid)
        if tail <= TAIL or grid == job.padded:
            return grid
        grid = next_grid(grid, job.padded)


def _numbers(ctx: Context, job: Job, size: int, grid: tuple[int, int]) -> float:
    """Fill `Job.scales` from kernels on `grid` and return the largest tail."""
    many = "k" in job.own
    tails = ctx.xp.empty(job.n, np.float32)
    sides = [side.stamps.shape[1:] for side in job.sides]
    own = ("Pn" in job.own, "Pr" in job.own)
    small = SmallGrid(ctx, grid, sides, min(size, job.n) if many else 1, own)
    for start in range(0, job.n, size) if many else (0,):
        stop = min(start + size, job.n) if many else job.n
        part = job.part(start, stop)
        count = stop - start if many else 1
        small.make(tuple(side.stamps for side in part.sides), part.params64, count, [s.rest for s in part.sides])
        small.numbers(part.params64, part.gains, part.scales, tails[start:stop], stop - start, shared=not many)
    ctx.runtime.synchronize()
    return float(_host(tails.max())[0])
