"""Runs a `maps_plan.Program` batch after batch: every buffer and plan is made at the start, nothing afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from astrid_gpu.backends.cuda.context import NULL, Context, blocks_for
from astrid_gpu.backends.cuda.maps_job import FADE, SHRINK, Job
from astrid_gpu.backends.cuda.maps_plan import INPUT, MIDDLE, OUTPUT, Program, Spec, Step, compile_program
from astrid_gpu.backends.cuda.stamp_grid import SmallGrid, StampSpectrum, scale_spectra
from astrid_gpu.flags import INVALID

__all__ = ["PeakList", "Runner", "launch_frame", "measure_fills"]

_TILE = (32, 8)
_FRAME_TILE = 32  # rows and columns of a block of zogy_frame and zogy_variance
_MAPS = ("score", "score_corr", "flux", "flux_error")  # in the order of the kernels' parameters
_MOST_BLOCKS = 4096


@dataclass(frozen=True)
class PeakList:
    """Where zogy_detect appends the peaks of S_corr: device arrays of one capacity.

    Attributes
    ----------
    thresholds : float32 (n,)
    both : bool
        Minima too.
    count : uint64 (1,); key : int64; value : float64; tied : uint8
        As in `kernels/peaks.cu`.
    """

    thresholds: Any
    both: bool
    count: Any
    key: Any
    value: Any
    tied: Any


def launch_frame(ctx: Context, job: Job, which: int, count: int, *, frame: Any, error: Any, largest: Any) -> None:
    """Launch zogy_frame for `count` frames of one side; outputs may be NULL."""
    side = job.sides[which]
    (ny, nx), (py, px) = job.shape, job.padded
    radius = side.lines.shape[1] - 1
    images, flags = side.images, job.flags
    ctx.kernel("zogy.cu", "zogy_frame")(
        (blocks_for(px, _FRAME_TILE), blocks_for(py, _FRAME_TILE), count),
        _TILE,
        (
            images, NULL if flags is None else flags, side.scales, side.lines, side.fulls, frame, error, largest,
            *(np.int32(v) for v in (ny, nx, py, px, radius, INVALID)),
            *(np.float32(v) for v in (FADE, SHRINK, *job.limits[::-1])),
            np.int64(_stride(images, ny * nx)), np.int64(_stride(flags, ny * nx)),
            np.int32(_stride(side.scales, 1)), np.int32(_stride(side.lines, radius + 1)),
        ),
    )  # fmt: skip


def measure_fills(ctx: Context, job: Job) -> None:
    """Find the largest fill of every frame of both sides (`Side.largest`): bad pixels are filled, nothing written."""
    for which in (0, 1):
        count = job.n if which == 0 or "R" in job.own else 1
        launch_frame(ctx, job, which, count, frame=NULL, error=NULL, largest=job.sides[which].largest)


def _stride(array: Any, size: int) -> int:
    """Return the distance between the images of an array: 0 where one is shared, or there is none."""
    return size if array is not None and array.shape[0] > 1 else 0


def _stamps_of(job: Job) -> dict[str, Any]:
    """Return the stamps whose spectra are wanted, by the name of those."""
    found = {"Pn": job.sides[0].stamps, "Pr": job.sides[1].stamps}
    return found | {name: s.white for name, s in zip(("Wn", "Wr"), job.sides, strict=True) if s.white is not None}


class Runner:
    """The buffers, plans and shared spectra of one kind of batch.

    Parameters
    ----------
    ctx : Context
    job : Job
        The whole call: what its pairs share is computed from it here.
    spec : Spec
    grid : (gy, gx)
        Small grid on which the score kernels have died out at the rim.

    Attributes
    ----------
    tails : float32 array (batch,) or None
        With ``Spec.numbers``, how far they have, for each pair of the last batch.
    """

    def __init__(self, ctx: Context, job: Job, spec: Spec, grid: tuple[int, int]) -> None:
        self.ctx, self.spec = ctx, spec
        self.program: Program = compile_program(spec)
        py, px = spec.padded
        self._half = (py, px // 2 + 1)
        self._size = py * (px // 2 + 1)
        self._forward_plan = ctx.plans.get(spec.padded, spec.batch, "R2C")
        self._backward_plan = ctx.plans.get(spec.padded, spec.batch, "C2R")
        self._grid = grid
        self._small: Any = None
        self._tables: dict[str, Any] = {}
        self._views = self._shared(job)
        self._views |= self._slots()
        sides = [s.stamps.shape[1:] for s in job.sides]
        own_psfs = [name in spec.own for name in ("Pn", "Pr")]
        if "k" in spec.own and spec.variance:
            self._small = SmallGrid(ctx, grid, sides, spec.batch, (own_psfs[0], own_psfs[1]))
            for stamps in (s for side in job.sides for s in (side.rest, side.white) if s is not None):
                self._small.reserve(stamps)
        self._stamps: dict[str, Any] = {
            name: StampSpectrum(ctx, stamps.shape[1:], spec.padded, spec.batch, double=False)
            for name, stamps in _stamps_of(job).items()
            if name in spec.own
        }
        self.tails = ctx.xp.empty(spec.batch, np.float32) if spec.numbers else None
        self._replay: Any = None
        self._warm = False

    # ---- memory ------------------------------------------------------------------------------------------------------
    def _slots(self) -> dict[str, Any]:
        """Return every buffer of the program as a view of its slot."""
        xp, b = self.ctx.xp, self.spec.batch
        py, px = self.spec.padded
        memory = [xp.empty(2 * b * self._size, np.float32) for _ in range(self.program.slot_count)]
        views: dict[str, Any] = {}
        for name, slot in self.program.slots.items():
            if name.islower():
                views[name] = memory[slot][: b * py * px].reshape(b, py, px)
            else:
                views[name] = memory[slot].view(np.complex64).reshape(b, *self._half)
        return views

    def _shared(self, job: Job) -> dict[str, Any]:
        """Return the spectra, and V(S), that all pairs share, each computed once."""
        ctx, spec, xp = self.ctx, self.spec, self.ctx.xp
        plan = ctx.plans.get(spec.padded, 1, "R2C")
        frame = xp.empty((1, *spec.padded), np.float32)
        found: dict[str, Any] = {}

        def transform(name: str) -> None:
            found[name] = xp.empty((1, *self._half), np.complex64)
            plan(frame, found[name])

        if "R" not in spec.own:
            launch_frame(ctx, job, 1, 1, frame=frame, error=NULL, largest=NULL)
            transform("R")
            if "Wr" in spec.colour:
                white = self._one_spectrum(job.sides[1].white)
                scale_spectra(ctx, found["R"], white, 1)
            if "ER" in spec.errors:
                launch_frame(ctx, job, 1, 1, frame=NULL, error=frame, largest=job.sides[1].largest)
                transform("ER")
        for name, stamps in _stamps_of(job).items():
            if name not in spec.own and (name != "Wr" or "R" in spec.own):
                found[name] = self._one_spectrum(stamps)
        if spec.variance:
            self._share_variance(job, frame, transform, found)
        return found

    def _one_spectrum(self, stamps: Any) -> Any:
        """Return the spectrum of a stamp that all pairs share, (1, py, hx)."""
        out = self.ctx.xp.empty((1, *self._half), np.complex64)
        StampSpectrum(self.ctx, stamps.shape[1:], self.spec.padded, 1, double=False)(stamps, out, 1)
        return out

    def _share_variance(self, job: Job, frame: Any, transform: Any, found: dict[str, Any]) -> None:
        ctx, spec, xp = self.ctx, self.spec, self.ctx.xp
        for which, name in enumerate(("VN", "VR")):
            if name not in spec.own:
                self._launch_variance(job, which, 1, frame)
                transform(name)
        if "k" not in spec.own:
            small = SmallGrid(ctx, self._grid, [s.stamps.shape[1:] for s in job.sides], 1, (False, False))
            stamps = tuple(s.stamps for s in job.sides)
            small.make(stamps, job.params64[:1], 1, [s.rest for s in job.sides])
            for which, letter in enumerate("NR"):
                self._launch_place(small, which, 1, frame, absolute=False)
                transform(f"K{letter}")
            if spec.errors and spec.colour:
                small.make(stamps, job.params64[:1], 1, [s.white for s in job.sides])
            for which, letter in enumerate("NR"):
                if f"E{letter}" in spec.errors:
                    self._launch_place(small, which, 1, frame, absolute=True)
                    transform(f"A{letter}")
        if not spec.own_variance:
            total, found["v"] = xp.empty((1, *self._half), np.complex64), xp.empty((1, *spec.padded), np.float32)
            self._launch_weigh([found[name] for name in ("VN", "KN", "VR", "KR")], total, 1)
            ctx.plans.get(spec.padded, 1, "C2R")(total, found["v"])

    # ---- launches ----------------------------------------------------------------------------------------------------
    def _launch_variance(self, job: Job, which: int, count: int, frame: Any) -> None:
        side, (ny, nx), (py, px) = job.sides[which], job.shape, job.padded
        flags, variance = job.flags, side.variance
        self.ctx.kernel("zogy.cu", "zogy_variance")(
            (blocks_for(px, _FRAME_TILE), blocks_for(py, _FRAME_TILE), count),
            _TILE,
            (
                NULL if variance is None else variance, NULL if flags is None else flags, side.scales, side.levels,
                frame, *(np.int32(v) for v in (ny, nx, py, px, INVALID)), np.int64(_stride(variance, ny * nx)),
                np.int64(_stride(flags, ny * nx)), np.int32(_stride(side.scales, 1)),
            ),
        )  # fmt: skip

    def _launch_place(self, small: SmallGrid, which: int, count: int, frame: Any, *, absolute: bool) -> None:
        (gy, gx), (py, px) = small.grid, self.spec.padded
        self.ctx.kernel("zogy.cu", "place_kernel")(
            (blocks_for(px, _TILE[0]), blocks_for(py, _TILE[1]), count),
            _TILE,
            (small.kernels[which], frame, *(np.int32(v) for v in (gy, gx, py, px, absolute))),
        )

    def _launch_weigh(self, inputs: list[Any], out: Any, count: int) -> None:
        filled = [*inputs, NULL, NULL][:4]
        strides = [np.int64(_stride(a, self._size) if hasattr(a, "shape") and a.ndim else 0) for a in filled]
        factor = np.float32(1 / (self.spec.padded[0] * self.spec.padded[1]))
        self.ctx.kernel("zogy.cu", "zogy_weigh")(
            (blocks_for(self._size // 2, 256, _MOST_BLOCKS),),
            (256,),
            (*filled, out, factor, np.int32(count), np.int64(self._size), *strides),
        )

    # ---- one batch ---------------------------------------------------------------------------------------------------
    def run(self, part: Job, out: Mapping[str, Any], peaks: PeakList | None = None) -> None:
        """Subtract the pairs of `part`, at most a batch, into `out` (n, ny, nx): what `Job.wanted` names.

        Launched on the current stream; nothing is allocated and the host does not wait. With ``inputs_first`` the
        transforms are one CUDA graph from the third batch on: the first runs eagerly, the second is captured.
        """
        self._part, self._out, self._peaks, self._count = part, out, peaks, part.n
        if not self.spec.inputs_first:
            self._phases(INPUT, MIDDLE, OUTPUT)
            return
        self._phases(INPUT)
        self._load_tables()
        if not self._warm:
            self._middle()
            self._warm = True
        else:
            if self._replay is None:
                self._replay = self.ctx.runtime.capture(self._middle)
            self._replay()
        self._phases(OUTPUT)

    def _middle(self) -> None:
        self._count = self.spec.batch  # what a graph launches is fixed: a short batch computes its empty places too
        self._phases(MIDDLE)
        self._count = self._part.n

    def _phases(self, *phases: int) -> None:
        for step in self.program.steps:
            if step.phase in phases:
                getattr(self, f"_{step.kind}")(step)

    def _load_tables(self) -> None:
        """Bring what the transforms' part reads of this batch to addresses that stay."""
        part, b = self._part, self.spec.batch
        tables_of_pairs = ("params", "params64", "gains", "scales")
        tables = {"params": part.params, "params64": part.params64}
        tables |= {"gains": part.gains, "scales": part.scales} if self.spec.numbers else {}
        tables |= _stamps_of(part)
        tables |= {f"Q{k}": s.rest for k, s in zip("nr", part.sides, strict=True) if s.rest is not None}
        for name, values in tables.items():
            shared = name not in tables_of_pairs and name.replace("Q", "W") not in self.spec.own
            if name not in self._tables:
                rows = values.shape[0] if shared else b
                self._tables[name] = self.ctx.xp.zeros((rows, *values.shape[1:]), values.dtype)
            self.ctx.runtime.copy(self._tables[name][: values.shape[0]], values)

    def _table(self, name: str, values: Any) -> Any:
        return self._tables.get(name, values)

    def _frame(self, step: Step) -> None:
        which = int(step.about == "r")
        frame = self._views[step.about]
        launch_frame(self.ctx, self._part, which, self._count, frame=frame, error=NULL, largest=NULL)

    def _error(self, step: Step) -> None:
        which = int(step.about == "er")
        largest = self._part.sides[which].largest
        error = self._views[step.about]
        launch_frame(self.ctx, self._part, which, self._count, frame=NULL, error=error, largest=largest)

    def _variance(self, step: Step) -> None:
        self._launch_variance(self._part, int(step.about == "vr"), self._count, self._views[step.about])

    def _forward(self, step: Step) -> None:
        self._forward_plan(self._views[step.about], self._views[step.about.upper()])

    def _inverse(self, step: Step) -> None:
        self._backward_plan(self._views[step.reads[0]], self._views[step.about])

    def _spectrum(self, step: Step) -> None:
        stamps = self._table(step.about, _stamps_of(self._part)[step.about])
        self._stamps[step.about](stamps, self._views[step.about], self._count)

    def _whiten(self, step: Step) -> None:
        scale_spectra(self.ctx, self._views[step.reads[0]], self._views[step.reads[1]], self._count)

    def _kernels(self, step: Step) -> None:
        stamps = tuple(self._table(n, s.stamps) for n, s in zip(("Pn", "Pr"), self._part.sides, strict=True))
        params, count = self._table("params64", self._part.params64), self._count
        act = step.about == "act"
        behind = [
            None if s.white is None else self._table(f"{'W' if act else 'Q'}{k}", s.white if act else s.rest)
            for k, s in zip("nr", self._part.sides, strict=True)
        ]
        self._small.make(stamps, params, count, behind)
        if self.spec.numbers and not act:
            gains, scales = (self._table(name, getattr(self._part, name)) for name in ("gains", "scales"))
            self._small.numbers(params, gains, scales, self.tails, count, shared=False)

    def _place(self, step: Step) -> None:
        which, absolute = int(step.about[1] == "r"), step.about[0] == "a"
        self._launch_place(self._small, which, self._count, self._views[step.about], absolute=absolute)

    def _combine(self, step: Step) -> None:
        v, size = self._views, np.int64(self._size)
        strides = [np.int64(self._size if name in self.spec.own else 0) for name in ("R", "Pn", "Pr")]
        targets = [v[name] if name in step.writes else NULL for name in ("D", "Sn", "Sr")]
        self.ctx.kernel("zogy.cu", "zogy_combine")(
            (blocks_for(self._size // 2, 256, _MOST_BLOCKS),),
            (256,),
            (
                *(v[name] for name in step.reads), self._table("params", self._part.params), *targets,
                np.int32(self._count), size, *strides,
            ),
        )  # fmt: skip

    def _weigh(self, step: Step) -> None:
        self._launch_weigh([self._views[name] for name in step.reads], self._views[step.about], self._count)

    def _output(self, step: Step) -> None:
        part, v, out = self._part, self._views, self._out
        (ny, nx), (py, px) = part.shape, part.padded
        difference = step.about == "difference"
        frames = [v[name] if name in step.reads else NULL for name in ("d", "sn", "sr", "v", "e")]
        targets = [out["difference"] if difference else NULL]
        targets += [out.get(name, NULL) if not difference else NULL for name in _MAPS]
        args = [
            *frames, NULL if part.flags is None else part.flags, self._table("scales", part.scales), part.errors,
            *targets, *(np.int32(value) for value in (py, px, ny, nx, INVALID)),
            np.int64(py * px if self.spec.own_variance else 0), np.int64(_stride(part.flags, ny * nx)), np.int32(3),
        ]  # fmt: skip
        name, peaks = "zogy_output", self._peaks
        if peaks is not None and not difference:
            name = "zogy_detect"
            args += [
                peaks.thresholds, np.int32(peaks.both), np.int64(part.first), np.int64(peaks.key.size), peaks.count,
                peaks.key, peaks.value, peaks.tied,
            ]  # fmt: skip
        grid = (blocks_for(nx, _TILE[0]), blocks_for(ny, _TILE[1]), self._count)
        self.ctx.kernel("zogy.cu", name)(grid, _TILE, args)
