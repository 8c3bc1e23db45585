"""Where CUDA launch code runs: the same functions launch on a device through CuPy and on the CPU in the tests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from astrid_gpu.backends.cuda.plans import PlanCache
from astrid_gpu.backends.cuda.runtime import Runtime
from astrid_gpu.backends.cuda.signature import DOUBLE

__all__ = ["NULL", "Context", "Kernel", "blocks_for", "expect_shape", "kernel_files", "kernel_source", "options_for"]

NULL = np.uintp(0)  # passed for an optional array that is absent; the kernel compares its pointer with nullptr
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([\w.]+)"[^\n]*$', re.MULTILINE)
_PACKAGE = "astrid_gpu.kernels"


class Kernel(Protocol):
    """A compiled kernel, called as CuPy's RawKernel is; the arguments are checked against its signature first."""

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], *, shared_mem: int = 0
    ) -> None:
        """Launch over `grid` blocks of `block` threads with `shared_mem` bytes of dynamic shared memory."""


class Context(Protocol):
    """What launch code needs.

    Attributes
    ----------
    xp : module
        CuPy on a device, NumPy in the emulator. Arrays made with it are what kernels take.
    plans : PlanCache
        Transforms of fixed batches.
    runtime : Runtime
        Streams, graphs, pinned memory.
    memory : dict
        What launch code learned on this device, such as how many images fit.
    """

    xp: ModuleType
    plans: PlanCache
    runtime: Runtime
    memory: dict[Any, Any]

    def kernel(self, file: str, name: str, options: tuple[str, ...] = ()) -> Kernel:
        """Return kernel `name` of ``kernels/<file>``, compiled once for each set of `options` (``-DNAME=value``)."""


@cache
def kernel_source(file: str) -> str:
    """Return the text of ``kernels/<file>`` with its own headers put in place of their ``#include "..."`` lines.

    Reading through importlib.resources and including as text makes it work from a zip file, and gives every compiler
    the same text. Each file is included once; line numbers in messages stay those of the files.
    """
    return _expand(file, set())


def _expand(file: str, seen: set[str]) -> str:
    seen.add(file)
    text = resources.files(_PACKAGE).joinpath(file).read_text(encoding="utf-8")

    def include(match: re.Match[str]) -> str:
        inner = match[1]
        if inner in seen:
            return ""
        line = text.count("\n", 0, match.start()) + 2
        return f'{_expand(inner, seen)}\n#line {line} "{file}"'

    return f'#line 1 "{file}"\n' + _INCLUDE.sub(include, text)


def kernel_files() -> list[str]:
    """Return the names of all kernel sources."""
    return sorted(path.name for path in resources.files(_PACKAGE).iterdir() if path.name.endswith(".cu"))


def blocks_for(items: int, threads: int, most: int = 65535) -> int:
    """Return how many blocks of `threads` cover `items`, at least 1 and at most `most` (the rest by striding)."""
    return max(1, min(most, -(-items // threads)))


def expect_shape(name: str, array: Any, *allowed: tuple[int, ...]) -> None:
    """Check the shape of an argument: a table too short would be read beyond its end, without a word.

    Raises
    ------
    ValueError
        The shape is none of those `allowed`.
    """
    if tuple(array.shape) not in allowed:
        msg = f"{name} has shape {tuple(array.shape)}; allowed: {' or '.join(map(str, dict.fromkeys(allowed)))}"
        raise ValueError(msg)


def options_for(dtype: np.dtype) -> tuple[str, ...]:
    """Return the options that compile kernels written with `real` for `dtype`.

    Raises
    ------
    TypeError
        Neither float32 nor float64.
    """
    if dtype == np.float32:
        return ()
    if dtype == np.float64:
        return (DOUBLE,)
    msg = f"CUDA kernels take float32 or float64, got {dtype}; convert the array first"
    raise TypeError(msg)
