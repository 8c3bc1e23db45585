"""Transforms on a device: few plans, each of a fixed batch, with bounded work areas."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import cache
from typing import Any, Protocol

__all__ = ["KINDS", "FftPlan", "PlanCache", "smooth_length"]

KINDS = ("R2C", "C2R", "D2Z", "Z2D")


class FftPlan(Protocol):
    """A two-dimensional real transform of a fixed frame and batch.

    Attributes
    ----------
    work_bytes : int
        Device memory the plan holds beside its input and output.
    """

    work_bytes: int

    def __call__(self, source: Any, target: Any) -> None:
        """Transform, unnormalised, on the current stream; nothing is allocated. Real output destroys `source`."""


class PlanCache:
    """Plans by (shape, batch, kind), the least recently used dropped first; in place of CuPy's own cache.

    CuPy keeps 16 plans a thread, each with a work area as large as the batch, and makes one more for every last batch
    that is short. Here a run pads its last batch, so a shape has at most two plans, and what all plans hold together
    is bounded. A plan must not run on two streams at once (they would share its work area), so each stream has its own:
    the one that is current when a plan is asked for.

    Parameters
    ----------
    make : callable
        ``make(shape, batch, kind) -> FftPlan``.
    capacity : int
        Most plans held.
    limit : callable
        Returns the most bytes that the work areas may hold together; one plan is always allowed.
    place : callable
        Returns what names the current device and stream.
    """

    def __init__(
        self,
        make: Callable[[tuple[int, int], int, str], FftPlan],
        *,
        capacity: int = 16,
        limit: Callable[[], int],
        place: Callable[[], Hashable] = lambda: None,
    ) -> None:
        self._make = make
        self._place = place
        self._capacity = capacity
        self._limit = limit
        self._plans: OrderedDict[tuple[Any, ...], FftPlan] = OrderedDict()
        self._constants: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, shape: tuple[int, int], batch: int, kind: str) -> FftPlan:
        """Return the plan for frames of `shape`, `batch` at a time; made on first use.

        Raises
        ------
        ValueError
            `kind` is none of `KINDS`.
        """
        if kind not in KINDS:
            msg = f"kind must be one of {', '.join(KINDS)}, got {kind!r}"
            raise ValueError(msg)
        key = (shape, batch, kind, self._place())
        if key not in self._plans:
            self._plans[key] = self._make(shape, batch, kind)
        self._plans.move_to_end(key)
        limit = self._limit()
        while len(self._plans) > 1 and (len(self._plans) > self._capacity or self.work_bytes > limit):
            self._plans.popitem(last=False)
        return self._plans[key]

    def constant(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return a small device array that depends on `key` alone, such as a table of phases; 32 are kept."""
        key = (key, self._place())
        if key not in self._constants:
            self._constants[key] = make()
        self._constants.move_to_end(key)
        while len(self._constants) > 32:
            self._constants.popitem(last=False)
        return self._constants[key]

    def clear(self) -> None:
        """Drop all plans and constants; their memory is free once no run holds them."""
        self._plans.clear()
        self._constants.clear()

    @property
    def work_bytes(self) -> int:
        """Bytes that the work areas hold together."""
        return sum(plan.work_bytes for plan in self._plans.values())

    def __len__(self) -> int:
        return len(self._plans)


@cache
def smooth_length(n: int) -> int:
    """Return the smallest even number >= `n` of the form 2^a 3^b 5^c 7^d.

    cuFFT has fast kernels for these factors only, and its real transforms want an even row. (A factor of 11 or a
    prime costs several times more, and prime sizes have given wrong results in past releases.)
    """
    size = max(2, n + n % 2)
    while True:
        rest = size
        for factor in (2, 3, 5, 7):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 2
