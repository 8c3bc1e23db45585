"""One operation in a process of its own: its peak memory, and its time under other settings of the environment.

``Child("benchmarks.bench_zogy:make_zogy", {...})`` starts ``python -m benchmarks.child``, which calls the maker with
the keyword arguments and obeys lines on its standard input. Makers prepare inputs and return a callable without
arguments; small inputs first, so that compilers, plans and thread pools are there when memory is counted.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent


class Child:
    """A process that holds one operation ready. Use it as a context."""

    def __init__(
        self,
        maker: str,
        keywords: dict[str, Any],
        small: dict[str, Any] | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        # Every array of its own pages, returned when freed: the peak is then the operation's alone.
        settings = {"MALLOC_MMAP_THRESHOLD_": "65536"} if env is None else env
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.child", maker, json.dumps(keywords), json.dumps(small or {})],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | settings,
        )  # fmt: skip
        self._answer()

    def run(self) -> None:
        """Run the operation once; returns when it is done."""
        self._ask("run")

    def memory(self) -> int:
        """Return the peak bytes of one run above the inputs and the outputs."""
        return int(self._ask("memory"))

    def result(self, path: Path) -> np.ndarray:
        """Run once and return the result's S_corr, by way of a file."""
        self._ask(f"save {path}")
        return np.load(path)

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("= "):
            raise RuntimeError(f"the child process ended: {line!r}, exit code {self._process.wait()}")
        return line[2:].strip()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def sizes(result: Any) -> int:
    """Return the bytes of all arrays in a result: arrays, tuples, lists, dicts, dataclasses."""
    if hasattr(result, "nbytes"):
        return int(result.nbytes)
    if dataclasses.is_dataclass(result):
        return sum(sizes(getattr(result, field.name)) for field in dataclasses.fields(result))
    if isinstance(result, dict):
        return sum(sizes(value) for value in result.values())
    return sum(map(sizes, result)) if isinstance(result, tuple | list) else 0


def status(field: str) -> int:
    """Return a field of /proc/self/status in bytes; the peak of the process where there is none (not Linux)."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def host_peak(run: Any, rounds: int = 2) -> int:
    """Return the largest resident memory of a few runs above what was resident before and the outputs.

    The kernel's own high-water mark, set back before the first run: no sampler that could miss a peak.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, outputs = status("VmRSS"), 0
    for _ in range(rounds):
        outputs = sizes(run())
    return max(0, status("VmHWM") - before - outputs)


def device_peak(run: Any, pool: Any) -> int:
    """Return what CuPy's memory pool grew by for a run, above the outputs; work areas of transforms included."""
    pool.free_all_blocks()
    before = pool.used_bytes()
    outputs = sizes(run())
    return max(0, int(pool.total_bytes() - before - outputs))


def main() -> None:
    """Serve one operation."""
    maker, keywords, small = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w")  # nothing else may speak on this channel
    os.dup2(2, 1)
    module, _, name = maker.partition(":")
    make = getattr(import_module(module), name)
    if small:
        make(**keywords | small)()
    run = make(**keywords)

    def say(word: object) -> None:
        answers.write(f"= {word}\n")
        answers.flush()

    say("ready")
    for line in sys.stdin:
        verb, _, rest = line.strip().partition(" ")
        if verb == "run":
            run()
            say("done")
        elif verb == "memory":
            say(_peak(run, keywords))
        elif verb == "save":
            np.save(rest, run().score_corr)
            say("saved")


def _peak(run: Any, keywords: dict[str, Any]) -> int:
    if keywords.get("backend") == "cupy":
        import astrid_gpu as ag

        return device_peak(run, ag.get_backend("cupy").xp.get_default_memory_pool())
    return host_peak(run)


if __name__ == "__main__":
    main()
