"""The common part of all benchmarks: one row an operation, backend and size, with its error beside its time.

`Bench.row` times an operation with pytest-benchmark, rivals and the operation turn about (A, B, A, B ...), so that what
else the machine does meets both; it sets the error beside the time, and a row whose error exceeds its tolerance has no
time at all. `table` prints the rows, `document` makes the JSON.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.child import Child
from benchmarks.machine import describe, triad

SCHEMA = "astrid-gpu.benchmarks/1"
BACKENDS = ("numpy", "numba", "cupy")


@dataclass
class Row:
    """One measurement.

    Times are milliseconds an image (a call divided by `images`); they are None where the error exceeds the tolerance.
    `ratios` are speeds relative to rivals measured turn about: 2 is twice as fast. `memory` is the peak above inputs
    and outputs in bytes per pixel of one image; `moved` the megabytes that must move at least (inputs read once,
    outputs written once, an image), `of_bandwidth` those over the time, as a share of the triad's rate.
    """

    operation: str
    backend: str
    size: str
    images: int = 1
    variant: str = ""
    rounds: int = 0
    median_ms: float | None = None
    iqr_ms: float | None = None
    min_ms: float | None = None
    error: float | None = None
    error_of: str = ""
    tolerance: float | None = None
    failed: bool = False
    memory: float | None = None
    moved: float | None = None
    of_bandwidth: float | None = None
    ratios: dict[str, float] = field(default_factory=dict)
    notes: dict[str, float] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str, int, str]:
        """What makes this row the same as one of another run."""
        return self.operation, self.backend, self.size, self.images, self.variant


@dataclass(frozen=True)
class Work:
    """An operation as a maker and its arguments, so that a process of its own can make it too.

    `maker` is a function at the top of a module of this folder: it prepares inputs of `keywords` (JSON) and returns
    what is timed. `small` are the keywords that make it small, to load and compile before memory is counted.
    """

    maker: Callable[..., Callable[[], Any]]
    keywords: Mapping[str, Any]
    small: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Where the maker is."""
        return f"{self.maker.__module__}:{self.maker.__name__}"

    def make(self) -> Callable[[], Any]:
        """Prepare it in this process."""
        return self.maker(**self.keywords)

    def child(self, env: dict[str, str] | None = None) -> Child:
        """Prepare it in a process of its own."""
        return Child(self.name, dict(self.keywords), dict(self.small), env)


class Session:
    """The rows of one run and what they share."""

    def __init__(self, *, quick: bool = False) -> None:
        self.quick = quick
        self.rows: list[Row] = []
        self._bandwidth: dict[str, Any] | None = None

    @property
    def rounds(self) -> int:
        """Rounds after the warm-up."""
        return 3 if self.quick else 9

    @property
    def bandwidth(self) -> dict[str, Any]:
        """The speed of memory, measured once, in this run."""
        if self._bandwidth is None:
            self._bandwidth = triad(megabytes=64 if self.quick else 256)
        return self._bandwidth

    def document(self, command: str) -> dict[str, Any]:
        """Return everything as JSON."""
        rows = [asdict(row) for row in self.rows]
        return {"schema": SCHEMA, **describe(command), "quick": self.quick, "bandwidth": self.bandwidth, "rows": rows}


class Bench:
    """What the fixture `bench` gives a benchmark: `row`, and the session's settings."""

    def __init__(self, benchmark: Any, session: Session) -> None:
        self._benchmark, self.session = benchmark, session
        self.quick = session.quick

    def row(
        self,
        operation: str,
        backend: str,
        size: str,
        work: Work | Callable[[], Any],
        *,
        error: Callable[[Any], float],
        tolerance: float,
        error_of: str,
        rivals: Mapping[str, Callable[[], Any]] | None = None,
        images: int = 1,
        variant: str = "",
        pixels: int = 0,
        moved: float | None = None,
        rounds: int | None = None,
        settle: bool = False,
        notes: Callable[[Any], dict[str, float]] | None = None,
    ) -> Any:
        """Time an operation and note its row.

        Parameters
        ----------
        operation, backend, size, images, variant : str
            What the row is called.
        work : Work or callable
            What is timed; of a Work, the memory is measured too, in a process of its own (not in a quick run).
        error : callable
            Takes the result, returns its error against the reference.
        tolerance : float
            Above it (or where the error is not a number), the row is FAILED and has no times.
        error_of : str
            What the error is of, and in which unit.
        rivals : mapping of str to callable, optional
            Timed once before each round, one image a call; the row gets the median of the ratios.
        pixels : int
            Of one image, for the memory.
        moved : float, optional
            Megabytes an image that must move.
        settle : bool
            Run once untimed between the rivals and each timed round, as a stream of images would: for a row that needs
            more cores than its rivals. Here the first call on two cores after one of them had idled for 60 ms took 3 to
            20 ms longer than those that followed (33).
        notes : callable, optional
            Takes the result, returns more numbers for the JSON.

        Returns
        -------
        The result of the last round.

        Raises
        ------
        AssertionError
            The error exceeds the tolerance; the row is in the table.
        """
        # Silence about time until the error is known: the row is made only once.
        run = work.make() if isinstance(work, Work) else work
        rivals = dict(rivals or {})
        theirs: dict[str, list[float]] = {name: [] for name in rivals}

        def others() -> None:
            for name, rival in rivals.items():
                theirs[name].append(clock(rival))
            if settle:
                run()

        rounds = rounds or self.session.rounds
        result = self._benchmark.pedantic(run, setup=others, rounds=rounds, warmup_rounds=1)
        off = float(error(result))
        made = Row(operation, backend, size, images, variant, rounds, error=off, error_of=error_of, tolerance=tolerance)
        made.failed = not off <= tolerance
        made.notes = {} if notes is None else {k: float(v) for k, v in notes(result).items()}
        if not made.failed and self._benchmark.stats is not None:
            self._add_times(made, np.array(self._benchmark.stats.stats.data), theirs, moved)
            if isinstance(work, Work) and pixels and not self.quick:
                with work.child() as child:
                    made.memory = rounded(child.memory() / pixels)
        self.session.rows.append(made)
        self._benchmark.extra_info.update(error=off, ratios=made.ratios)
        assert not made.failed, f"error {off:.2e} of {error_of} exceeds {tolerance:.0e}"
        return result

    def _add_times(self, row: Row, times: np.ndarray, theirs: dict[str, list[float]], moved: float | None) -> None:
        ms = 1e3 * times / row.images
        low, middle, high = np.percentile(ms, [25, 50, 75])
        row.median_ms, row.iqr_ms, row.min_ms = rounded(middle), rounded(high - low), rounded(ms.min())
        row.ratios = {name: rounded(np.median(1e3 * np.array(t[-len(ms) :]) / ms)) for name, t in theirs.items()}
        if moved is not None and row.backend != "cupy":
            row.moved = rounded(moved)
            row.of_bandwidth = rounded(moved / middle / self.session.bandwidth["gb_s"])


def installed(*packages: str) -> bool:
    """Whether packages are there to be measured beside."""
    return all(util.find_spec(name) is not None for name in packages)


def clock(call: Callable[[], Any]) -> float:
    """Return the seconds a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def rounded(value: Any) -> float:
    """Return four significant digits: more are noise."""
    return float(f"{float(value):.4g}")


_COLUMNS = (
    ("operation", 25, "<"), ("backend", 24, "<"), ("size", 12, "<"), ("n", 4, ">"), ("ms/image", 10, ">"),
    ("IQR", 8, ">"), ("error", 9, ">"), ("B/px", 7, ">"), ("of memory", 10, ">"), ("speed against", 14, "<"),
)  # fmt: skip


def table(rows: list[Row]) -> str:
    """Return the rows as text, one a line; a failed one says so and has no speed."""
    lines = ["  ".join(f"{name:{align}{width}}" for name, width, align in _COLUMNS).rstrip()]
    for row in rows:
        cells = [
            row.operation, f"{row.backend} {row.variant}".strip(), row.size, str(row.images), *_time_cells(row),
            "" if row.error is None else f"{row.error:.1e}", _cell(row.memory, ".1f"), _cell(row.of_bandwidth, ".0%"),
            _ratios(row),
        ]  # fmt: skip
        parts = (f"{text:{align}{width}}" for text, (_, width, align) in zip(cells, _COLUMNS, strict=True))
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def _time_cells(row: Row) -> tuple[str, str]:
    if row.failed:
        return "FAILED", ""
    return _cell(row.median_ms, ".2f"), _cell(row.iqr_ms, ".2f")


def _ratios(row: Row) -> str:
    if row.failed:
        return f"error of {row.error_of} exceeds {row.tolerance:.0e}"
    return ", ".join(f"{name} {ratio:.2f}x" for name, ratio in row.ratios.items())


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def read(path: Path) -> dict[str, Any]:
    """Return the document of a file that this harness wrote, its rows as `Row`."""
    document = json.loads(Path(path).read_text(encoding="utf-8"))
    if document.get("schema") != SCHEMA:
        raise ValueError(f"{path} is not a result of these benchmarks (schema {SCHEMA})")
    return document | {"rows": [Row(**row) for row in document["rows"]]}
