"""A runtime that records: streams, events, graphs, pinned memory and a pool of limited size, without a device.

Work given to a stream is a queue of closures. With ``lazy=True`` a stream runs nothing before somebody waits for it, or
for an event behind it, which is as late as a device may be; otherwise everything runs at once, which is as early. What
is right gives the same answer under both: pinned memory written before its copy is done, or read too early, shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.fft

from astrid_gpu.backends.cuda.plans import PlanCache
from tests.cuda_host import device

__all__ = ["Event", "FakeOutOfMemoryError", "Pool", "RecordingRuntime", "Stream"]


class FakeOutOfMemoryError(Exception):
    """What the pool raises."""


@dataclass
class Event:
    """Reached once its stream has run everything queued before it."""

    stream: Stream
    position: int

    @property
    def done(self) -> bool:
        return self.stream.ran >= self.position

    def synchronize(self) -> None:
        self.stream.run_until(self.position)


class Stream:
    """A queue of closures."""

    def __init__(self, runtime: RecordingRuntime, name: str) -> None:
        self.runtime, self.name = runtime, name
        self.queue: list[Callable[[], None]] = []
        self.ran = 0

    def __enter__(self) -> Stream:
        self.runtime.current.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        self.runtime.current.pop()

    def add(self, work: Callable[[], None]) -> None:
        self.queue.append(work)
        if not self.runtime.lazy:
            self.synchronize()

    def run_until(self, position: int) -> None:
        while self.ran < position:
            work, self.ran = self.queue[self.ran], self.ran + 1
            work()

    def record(self, event: Event | None = None) -> Event:
        if event is None:
            event = Event(self, 0)
        event.stream, event.position = self, len(self.queue)
        self.runtime.note("record", self.name)
        return event

    def wait_event(self, event: Event) -> None:
        stream, position = event.stream, event.position  # as recorded now, not when it runs
        self.runtime.note("wait", self.name, stream.name)
        self.add(lambda: stream.run_until(position))

    def synchronize(self) -> None:
        self.run_until(len(self.queue))


class Pool:
    """Counts what is allocated through it and refuses beyond `limit` bytes; nothing is given back by itself."""

    def __init__(self, limit: float = float("inf")) -> None:
        self.limit, self.used = limit, 0

    def take(self, size: int) -> None:
        if self.used + size > self.limit:
            msg = f"{size} bytes on top of {self.used}, of {self.limit}"
            raise FakeOutOfMemoryError(msg)
        self.used += size


@dataclass
class RecordingRuntime:
    """The `Runtime` of the emulator."""

    lazy: bool = False
    l2: int = 1 << 20
    pool: Pool = field(default_factory=Pool)
    log: list[tuple[Any, ...]] = field(default_factory=list)
    current: list[Stream] = field(default_factory=list)
    capturing: list[Callable[[], None]] | None = None
    graphs: int = 0
    compute: bool = True

    def where(self) -> str:
        """Return the name of the current stream."""
        return self.current[-1].name if self.current else "default"

    def note(self, *what: Any) -> None:
        self.log.append(what)

    def submit(self, name: str, work: Callable[[], None]) -> None:
        """Run now, on the current stream, or into the graph that is being captured."""
        self.note("run", self.where(), name)
        if self.capturing is not None:
            self.capturing.append(work)
        elif self.current:
            self.current[-1].add(work)
        elif self.compute:
            work()

    def allocate(self, size: int) -> None:
        assert self.capturing is None, "allocated while a graph is captured"
        self.pool.take(size)

    def stream(self) -> Stream:
        return Stream(self, f"stream {sum(1 for entry in self.log if entry[0] == 'stream')}") if self._new() else None

    def _new(self) -> bool:
        self.note("stream")
        return True

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        assert self.capturing is None
        return np.zeros(shape, dtype)

    def upload(self, target: Any, source: np.ndarray) -> None:
        assert isinstance(source, np.ndarray)
        memory = device.unwrap(target)
        assert memory.shape == source.shape
        assert memory.dtype == source.dtype
        self.submit("upload", lambda: np.copyto(memory, source))

    def download(self, target: np.ndarray, source: Any) -> None:
        memory = device.unwrap(source)
        assert memory.shape == target.shape
        assert memory.dtype == target.dtype
        self.submit("download", lambda: np.copyto(target, memory))

    def clear(self, array: Any) -> None:
        memory = device.unwrap(array)
        self.submit("clear", lambda: memory.fill(0))

    def copy(self, target: Any, source: Any) -> None:
        to, from_ = device.unwrap(target), device.unwrap(source)
        assert to.shape == from_.shape
        assert to.dtype == from_.dtype
        self.submit("copy", lambda: np.copyto(to, from_))

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        assert self.capturing is None
        self.capturing = recorded = []
        self.note("capture")
        try:
            work()
        finally:
            self.capturing = None
        self.graphs += 1

        def replay() -> None:
            for each in recorded:
                each()

        return lambda: self.submit("graph", replay)

    def synchronize(self) -> None:
        self.note("synchronize")
        if self.current:
            self.current[-1].synchronize()

    def free_memory(self) -> int:
        return 1 << 33 if self.pool.limit == float("inf") else int(self.pool.limit - self.pool.used)

    def cache_bytes(self) -> int:
        return self.l2

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, FakeOutOfMemoryError)

    def release(self) -> None:
        self.pool.used = 0

    def plans(self) -> PlanCache:
        """Return a cache of plans that transform on the host."""
        return PlanCache(
            lambda *key: HostPlan(self, *key),
            limit=lambda: 1 << 33,
            place=self.where,
        )


class HostPlan:
    """A transform with the manners of a cuFFT plan: fixed shape and batch, unnormalised, ruins what C2R reads."""

    def __init__(self, runtime: RecordingRuntime, shape: tuple[int, int], batch: int, kind: str) -> None:
        self._runtime, self._kind = runtime, kind
        real, half = (batch, *shape), (batch, shape[0], shape[1] // 2 + 1)
        single = kind in ("R2C", "C2R")
        types = (np.float32, np.complex64) if single else (np.float64, np.complex128)
        ends = [(real, types[0]), (half, types[1])]
        self._source, self._target = ends if kind in ("R2C", "D2Z") else ends[::-1]
        self._shape, self._pixels = shape, shape[0] * shape[1]
        self.work_bytes = int(np.prod(half)) * np.dtype(types[1]).itemsize
        runtime.allocate(self.work_bytes)
        runtime.note("plan", shape, batch, kind)
        self._where = runtime.where()

    def __call__(self, source: Any, target: Any) -> None:
        a, b = device.unwrap(source), device.unwrap(target)
        for array, (shape, dtype) in ((a, self._source), (b, self._target)):
            assert array.shape == shape, f"{self._kind} plan of {shape} was given {array.shape}"
            assert array.dtype == dtype
            assert array.flags.c_contiguous
        assert not np.may_share_memory(a, b), "in-place transforms are not supported"
        assert self._runtime.where() == self._where, "a plan runs on the stream it was made for: it has one work area"
        self._runtime.submit(self._kind, lambda: self._run(a, b))

    def _run(self, a: np.ndarray, b: np.ndarray) -> None:
        if self._kind in ("R2C", "D2Z"):
            b[...] = scipy.fft.rfft2(a)
        else:
            b[...] = scipy.fft.irfft2(a, self._shape, norm="forward")
            a[...] = np.nan


def sizes_of(args: Sequence[Any]) -> list[int]:
    """Return the bytes of each argument of a launch that is an array."""
    return [a.nbytes if isinstance(a, np.ndarray) else 0 for a in args]
