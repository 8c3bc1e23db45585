"""Exposures through a device as a stream: integers up, candidates and stamps down, copies beside the arithmetic.

Three streams: one uploads, one computes, one downloads. A batch passes through one of a few slots, each with pinned
memory, device memory and events of its own; a slot takes the next batch when what it sent down has arrived. The
arithmetic is one stream's, because a transform's work area belongs to one; batches follow each other there without a
gap as long as the uploads keep up.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any

import numpy as np

from astrid_gpu.backends.cuda.context import NULL, Context, blocks_for
from astrid_gpu.backends.cuda.maps_job import Job, Side, job_of, mix_table
from astrid_gpu.backends.cuda.maps_runner import PeakList, Runner
from astrid_gpu.backends.cuda.zogy_maps import TAIL, default_chunk, prepare, spec_of
from astrid_gpu.backends.exposures import Exposure, Found
from astrid_gpu.errors import DeviceMemoryError, InputError, ShapeMismatchError
from astrid_gpu.flags import PixelFlag

__all__ = ["Exposure", "Found", "SubtractionStream", "subtraction_stream"]

_log = logging.getLogger("astrid_gpu")
_SHORT, _INT = ("decode_short", np.uint16), ("decode_int", np.uint32)
_KERNELS: dict[str, tuple[str, Any]] = {"int16": _SHORT, "uint16": _SHORT, "int32": _INT}
_FLOOR = 1e-12  # ops.zogy.DEN_FLOOR
_THREADS = 8  # that fill pinned memory
_WORTH_THREADS = 1 << 21  # bytes


@dataclass
class _Slot:
    """Memory and events of one batch under way."""

    host: dict[str, np.ndarray]
    device: dict[str, Any]
    job: Job
    uploaded: Any = None
    computed: Any = None
    downloaded: Any = None
    exposures: tuple[Exposure, ...] = ()
    first: int = 0


class SubtractionStream:
    """Subtracts one reference from exposures that stream through a device.

    Parameters
    ----------
    ctx : Context
    problem : engine._problem.Problem
        Of one science image (its pixels are not used) and the reference, in float32.
    flags : uint8 array (1, ny, nx), or None
        Bad pixels of the reference and of the detector.
    dtype : str or dtype
        int16, uint16 or int32.
    batch : int, optional
        Exposures at a time; default `default_chunk`.
    slots : int
        Batches under way: 2 or 3.
    threshold : float
    both : bool
        Minima below -threshold too.
    room : int
        Peaks a batch there is room for.
    stamps, side : int
        Peaks a batch that are cut out, 0 for none, and the side of a stamp.
    blanks : bool
        Exposures may have pixels without data (`Exposure.blank`); the reference then has a frame for each of them.
    graph : bool
        Launch the transforms of a batch as one CUDA graph.

    Raises
    ------
    InputError
        `dtype` or `slots` cannot be used.
    DeviceMemoryError
        The slots do not fit: make `batch` or `slots` smaller.
    """

    def __init__(
        self,
        ctx: Context,
        problem: Any,
        flags: Any,
        *,
        dtype: Any = np.uint16,
        batch: int | None = None,
        slots: int = 3,
        threshold: float = 5.0,
        both: bool = True,
        room: int = 8192,
        stamps: int = 0,
        side: int = 31,
        blanks: bool = False,
        graph: bool = False,
    ) -> None:
        self.ctx = ctx
        self._dtype = np.dtype(dtype)
        if self._dtype.name not in _KERNELS or slots < 1:
            msg = f"a stream takes int16, uint16 or int32 pixels and at least one slot, got {self._dtype} and {slots}"
            raise InputError(msg)
        self._both, self._room, self._stamps, self._side = both, room, stamps, side
        self._problem, self._blanks, self._warned = problem, blanks, False
        self._up, self._compute, self._down = (ctx.runtime.stream() for _ in range(3))
        ctx.runtime.synchronize()  # what the caller's stream still does to the reference
        try:
            with self._compute:  # its plans are of that stream
                self._prepare(flags, batch, slots, threshold, graph=graph)
                ctx.runtime.synchronize()
        except Exception as exc:
            if not ctx.runtime.is_out_of_memory(exc):
                raise
            msg = f"{slots} slots of a stream of images of {problem.shape} do not fit; make batch or slots smaller"
            raise DeviceMemoryError(msg) from exc

    def _prepare(self, flags: Any, batch: int | None, slots: int, threshold: float, *, graph: bool) -> None:
        """Make everything: what the exposures share, the buffers of a batch, the slots."""
        ctx = self.ctx
        base = job_of(ctx, self._problem, flags, {"score_corr"} | ({"difference"} if self._stamps else set()))
        grid = prepare(ctx, base, 1)
        self._mask = base.flags
        base = replace(base, own=base.own | {"k", "VN"} | ({"R", "VR"} if self._blanks else set()))
        # Whether a fill is large is not waited for: every batch follows the errors of its fills.
        spec = replace(spec_of(base, 1, graph=graph, follow=True), numbers=True, flagged=True)
        self.batch = batch or default_chunk(ctx, spec, 1 << 20)
        self._runner = Runner(ctx, base, replace(spec, batch=self.batch), grid)
        self._levels = ctx.xp.asarray(np.full(self.batch, threshold, np.float32))
        self._slots = [self._slot(base) for _ in range(slots)]

    # ---- memory ------------------------------------------------------------------------------------------------------
    def _slot(self, base: Job) -> _Slot:
        xp, b, (ny, nx) = self.ctx.xp, self.batch, base.shape
        kernel_type = _KERNELS[self._dtype.name][1]
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "raw": ((b, ny, nx), kernel_type), "params": ((b, 8), np.float32), "params64": ((b, 5), np.float64),
            "gains": ((b,), np.float64), "scales_n": ((b,), np.float32),
        }  # fmt: skip
        results: dict[str, tuple[tuple[int, ...], Any]] = {
            "count": ((1,), np.uint64), "key": ((self._room,), np.int64), "value": ((self._room,), np.float64),
            "tied": ((self._room,), np.uint8), "tails": ((b,), np.float32),
            "stamps": ((self._stamps, 3, self._side, self._side), np.float32),
        }  # fmt: skip
        moved = {name: kind for name, kind in (shapes | results).items() if np.prod(kind[0])}
        host = {name: self.ctx.runtime.pinned(*kind) for name, kind in moved.items()}
        device = {name: xp.zeros(*kind) for name, kind in moved.items()}
        device |= {name: xp.zeros((b, ny, nx), np.float32) for name in ("science", "variance")}
        device |= {"difference": xp.zeros((b, ny, nx), np.float32)} if self._stamps else {}
        device |= {"flags": xp.zeros((b, ny, nx), np.uint8)} if self._blanks else {}
        return _Slot(host, device, self._job(base, device))

    def _job(self, base: Job, device: dict[str, Any]) -> Job:
        """Return the job of a full batch in a slot."""
        xp, b = self.ctx.xp, self.batch
        science, reference = base.sides
        endless = xp.asarray(np.full(b, np.inf, np.float32).view(np.uint32))  # fills whose errors are always followed
        science = Side(
            images=device["science"], variance=device["variance"], scales=device["scales_n"],
            levels=xp.zeros(b, np.float32), lines=science.lines, fulls=science.fulls, stamps=science.stamps,
            largest=endless,
        )  # fmt: skip
        if self._blanks:
            reference = replace(reference, largest=endless)
        errors = np.ascontiguousarray(np.broadcast_to(self._problem.errors, (b, 3)), dtype=np.float32)
        return replace(
            base, n=b, sides=(science, reference), flags=device["flags"] if self._blanks else base.flags,
            params=device["params"], params64=device["params64"], gains=device["gains"], errors=xp.asarray(errors),
            scales=xp.zeros((b, 3), np.float32),
        )  # fmt: skip

    # ---- one batch ---------------------------------------------------------------------------------------------------
    def run(self, exposures: Iterable[Exposure]) -> Iterator[Found]:
        """Subtract them all.

        Yields
        ------
        Found
            One for each exposure, in order, a few batches after it was taken from `exposures`.

        Raises
        ------
        ShapeMismatchError, InputError
            An exposure is not as large as the reference, or of another type than the stream's.
        """
        waiting: deque[_Slot] = deque()
        source = iter(exposures)
        number = 0
        while batch := tuple(islice(source, self.batch)):
            slot = self._slots[len(waiting)] if len(waiting) < len(self._slots) else None
            if slot is None:
                slot = waiting.popleft()
                yield from self._harvest(slot)
            self._fill(slot, batch, number)
            self._submit(slot)
            waiting.append(slot)
            number += len(batch)
        while waiting:
            yield from self._harvest(waiting.popleft())

    def _fill(self, slot: _Slot, exposures: tuple[Exposure, ...], number: int) -> None:
        """Write a batch into the slot's pinned memory, once nothing of its last batch is under way."""
        if slot.uploaded is not None:
            slot.uploaded.synchronize()
        slot.exposures, slot.first = exposures, number
        problem, padded = self._problem, slot.job.padded
        for place, exposure in enumerate(exposures):
            pixels = exposure.pixels
            if pixels.shape != slot.job.shape or pixels.dtype.newbyteorder("=") != self._dtype:
                msg = f"exposure {number + place} is {pixels.dtype} {pixels.shape}; the stream takes {self._dtype} "
                msg += f"{slot.job.shape}"
                raise (ShapeMismatchError if pixels.shape != slot.job.shape else InputError)(msg)
            if exposure.blank is not None and not self._blanks:
                msg = f"exposure {number + place} has a value for missing pixels; make the stream with blanks=True"
                raise InputError(msg)
            noise = exposure.sigma, float(problem.sigma[1][0])
            f_n, f_r = exposure.flux / noise[0], float(problem.flux[1][0]) / noise[1]
            gain = max(f_n, f_r)
            f_n, f_r = f_n / gain, f_r / gain
            slot.host["params64"][place] = 1, 1, f_n, f_r, _FLOOR * (f_n**2 + f_r**2)
            slot.host["gains"][place] = gain
            slot.host["scales_n"][place] = 1 / noise[0]
        self._copy([e.pixels for e in exposures], slot.host["raw"])
        table = mix_table(slot.host["params64"][: len(exposures)], slot.host["gains"][: len(exposures)], padded)
        slot.host["params"][: len(exposures)] = table

    def _copy(self, frames: list[np.ndarray], target: np.ndarray) -> None:
        """Copy pixels to pinned memory, a band of rows a thread: one core moves less than the bus does."""
        native = [f.view(f.dtype.newbyteorder("=")).view(target.dtype) for f in frames]
        bands = max(1, _THREADS // len(frames))
        edges = np.linspace(0, target.shape[1], bands + 1).astype(int)
        jobs = [(i, slice(a, b)) for i in range(len(frames)) for a, b in pairwise(edges)]

        def copy(job: tuple[int, slice]) -> None:
            target[job[0], job[1]] = native[job[0]][job[1]]

        if target.nbytes < _WORTH_THREADS:
            for job in jobs:
                copy(job)
            return
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(copy, jobs))

    def _submit(self, slot: _Slot) -> None:
        """Queue the upload, the arithmetic and the download of a batch; the host does not wait."""
        runtime = self.ctx.runtime
        with self._up:
            if slot.computed is not None:
                self._up.wait_event(slot.computed)
            for name in ("raw", "params", "params64", "gains", "scales_n"):
                runtime.upload(slot.device[name], slot.host[name])
            slot.uploaded = self._up.record()
        with self._compute:
            self._compute.wait_event(slot.uploaded)
            if slot.downloaded is not None:
                self._compute.wait_event(slot.downloaded)
            self._decode(slot)
            self._subtract(slot)
            slot.computed = self._compute.record()
        with self._down:
            self._down.wait_event(slot.computed)
            for name in ("count", "key", "value", "tied", "tails", "stamps"):
                if name in slot.device:
                    runtime.download(slot.host[name], slot.device[name])
            slot.downloaded = self._down.record()

    def _decode(self, slot: _Slot) -> None:
        """Turn the integers of each exposure into flux, variance and flags."""
        name, _ = _KERNELS[self._dtype.name]
        kernel = self.ctx.kernel("zogy.cu", name)
        mask = NULL if self._mask is None or not self._blanks else self._mask
        total = slot.job.shape[0] * slot.job.shape[1]
        for place, e in enumerate(slot.exposures):
            d = {key: slot.device[key][place] for key in ("raw", "science", "variance")}
            flags = slot.device["flags"][place] if self._blanks else NULL
            numbers = [np.float64(v) for v in (e.scale, e.zero, e.sigma**2, e.per_count)]
            options = [*([self._dtype.kind == "i"] if name == "decode_short" else []), not e.pixels.dtype.isnative]
            options += [e.blank is not None, e.blank or 0, int(PixelFlag.BAD_SCIENCE)]
            kernel(
                (blocks_for(total, 1024, 4096),),
                (256,),
                (
                    d["raw"], mask, d["science"], d["variance"], flags, *numbers, *(np.int32(v) for v in options),
                    np.int64(total),
                ),
            )  # fmt: skip

    def _subtract(self, slot: _Slot) -> None:
        d, ctx = slot.device, self.ctx
        ctx.runtime.clear(d["count"])
        job = replace(slot.job.part(0, len(slot.exposures)), first=0)
        out = {"difference": d["difference"]} if self._stamps else {}
        peaks = PeakList(self._levels, self._both, d["count"], d["key"], d["value"], d["tied"])
        self._runner.run(job, out, peaks)
        ctx.runtime.copy(d["tails"], self._runner.tails)
        if self._stamps:
            (ny, nx), reference = job.shape, slot.job.sides[1].images
            stride = ny * nx if reference.shape[0] > 1 else 0
            images = (d["science"], reference, d["difference"], d["stamps"])
            sizes = (*(np.int32(v) for v in (ny, nx, self._side)), np.int64(0), np.int64(stride))
            ctx.kernel("zogy.cu", "gather_peaks")((self._stamps, 3), (128,), (d["key"], d["count"], *images, *sizes))

    def _harvest(self, slot: _Slot) -> Iterator[Found]:
        """Wait for a batch's results and sort them by exposure."""
        slot.downloaded.synchronize()
        count = int(slot.host["count"][0])
        kept = min(count, self._room)
        key, value, tied = (slot.host[name][:kept].copy() for name in ("key", "value", "tied"))
        stamps = slot.host["stamps"][:kept].copy() if self._stamps else None
        ny, nx = slot.job.shape
        image, pixel = key // (ny * nx), key % (ny * nx)
        self._check_tails(slot)
        truncated = count > self._room or (self._stamps > 0 and count > self._stamps)
        for place in range(len(slot.exposures)):
            own = np.nonzero(image == place)[0]
            own = own[np.lexsort((pixel[own], -np.abs(value[own])))]
            yield Found(
                slot.first + place, pixel[own] // nx, pixel[own] % nx, value[own], tied[own] != 0,
                None if stamps is None else self._own_stamps(stamps, own), truncated,
            )  # fmt: skip

    def _own_stamps(self, stamps: np.ndarray, own: np.ndarray) -> np.ndarray:
        found = np.full((len(own), 3, self._side, self._side), np.nan, np.float32)
        there = own < len(stamps)
        found[there] = stamps[own[there]]
        return found

    def _check_tails(self, slot: _Slot) -> None:
        worst = float(slot.host["tails"][: len(slot.exposures)].max())
        if worst > 10 * TAIL and not self._warned:
            self._warned = True
            _log.warning("the score kernels of exposures from %d on reach beyond their grid (%.1e)", slot.first, worst)


def subtraction_stream(ctx: Context, problem: Any, flags: Any, **options: Any) -> SubtractionStream:
    """Return the `SubtractionStream` of a problem: what `engine.stream` looks for in a backend's table."""
    return SubtractionStream(ctx, problem, flags, **options)
