"""Compile kernels/*.cu for the host and launch them from NumPy, with CuPy's call shape and strict argument checks."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from astrid_gpu.backends.cuda.context import kernel_source
from astrid_gpu.backends.cuda.signature import Parameter, check_arguments, check_shape, parse_signatures

__all__ = ["HostKernel", "HostModule", "asan_environment", "build", "build_source", "compiler", "why_unavailable"]

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / ".cuda_host"
# Nothing here depends on the machine: no -march, no contraction into fused multiply-adds by the compiler.
FLAGS = (
    "-std=c++20",
    "-O2",
    "-g1",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-Wall",
    "-Wno-unknown-pragmas",
    "-Wno-unused-function",
    "-Wno-unused-variable",
)
UBSAN = (
    "-O1",
    "-fsanitize=undefined",
    "-fsanitize-undefined-trap-on-error",
)  # a trap becomes a RuntimeError with the line
ASAN = ("-O1", "-fsanitize=address", "-fno-omit-frame-pointer")
_LOCK = threading.Lock()  # the scheduler keeps its state in globals


@lru_cache(maxsize=1)
def compiler() -> str | None:
    """Return a C++20 compiler: ``CXX``, else g++, else clang++; None if there is none."""
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        path = shutil.which(name) if name else None
        if path is None:
            continue
        probe = subprocess.run(
            [path, "-std=c++20", "-fsyntax-only", "-x", "c++", "-"],
            input="#include <bit>\nint x = std::popcount(3u);\n",
            capture_output=True,
            text=True,
            check=False,
        )
        if probe.returncode == 0:
            return path
    return None


def why_unavailable() -> str:
    """Return why the emulator cannot run here, or an empty string."""
    if os.name != "posix" or not Path("/proc/self").exists():
        return "the CUDA emulator needs Linux (ELF sections)"
    if compiler() is None:
        return "the CUDA emulator needs a C++20 compiler: g++ 11 or clang++ 14, or set CXX"
    return ""


def build(file: str, options: Sequence[str] = (), flags: Sequence[str] = ()) -> HostModule:
    """Compile ``kernels/<file>`` with `options` (``-DNAME=value``) and extra `flags`, or take it from the cache."""
    return build_source(kernel_source(file), Path(file).stem, options, flags)


def build_source(source: str, stem: str, options: Sequence[str] = (), flags: Sequence[str] = ()) -> HostModule:
    """Compile CUDA C text; `stem` names the files in the cache.

    Raises
    ------
    RuntimeError
        It does not compile, or gives a warning; the message is the compiler's.
    """
    signatures = parse_signatures(source, options)
    stubs = [_stub(name, parameters) for name, parameters in signatures.items()]
    text = "\n".join(["#define CUDA_SHIM 1", '#include "cuda_shim.h"', source, *stubs])
    command = [compiler() or "", *FLAGS, *flags, *options, f"-I{HERE}"]
    return HostModule(_compile(text, stem, command), signatures)


def _stub(name: str, parameters: Sequence[Parameter]) -> str:
    """Return a C function that launches kernel `name` with pointers to its arguments, as the driver does."""
    values = ", ".join(
        f"*static_cast<{p.ctype}{'*' if p.pointer else ''}*>(args[{i}])" for i, p in enumerate(parameters)
    )
    return (
        f'extern "C" __attribute__((visibility("default"))) const char* launch_{name}(const unsigned* grid, '
        f"const unsigned* block, size_t shared_bytes, uint64_t seed, void** args) {{\n"
        f"  return cuda_shim::launch(dim3(grid[0], grid[1], grid[2]), dim3(block[0], block[1], block[2]), "
        f"shared_bytes, seed, [=] {{ {name}({values}); }});\n}}"
    )


def _compile(text: str, stem: str, command: list[str]) -> Path:
    headers = b"".join(path.read_bytes() for path in sorted(HERE.glob("*.h")))
    key = hashlib.sha256(text.encode() + headers + repr(command).encode()).hexdigest()[:20]
    library = CACHE / f"{stem}_{key}.so"
    if library.exists():
        return library
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes share the cache
        if library.exists():
            return library
        source = CACHE / f"{stem}_{key}.cpp"
        source.write_text(text, encoding="utf-8")
        partial = library.with_suffix(".partial")
        # Under ASan the runtime is preloaded into this process; the compiler would crawl with it.
        env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        line = [*command, str(source), "-o", str(partial)]
        done = subprocess.run(line, capture_output=True, text=True, check=False, env=env)
        if done.returncode or done.stderr:
            msg = f"{stem} does not compile cleanly for the host:\n{done.stderr[:6000]}"
            raise RuntimeError(msg)
        partial.replace(library)
    return library


def _with_line(error: str, library: Path) -> str:
    """Put the source line in place of the offset of a crash, where addr2line is installed."""
    found = re.search(r"@(\d+)", error)
    tool = shutil.which("addr2line")
    if found is None or tool is None:
        return error
    command = [tool, "-e", str(library), hex(int(found[1]))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    place = done.stdout.strip().rsplit("/", 1)[-1]
    return error.replace(found[0], f"at {place or 'an unknown line'}")


def asan_environment() -> dict[str, str]:
    """Return the environment for a Python process that loads kernels built with `ASAN`."""
    path = subprocess.run(
        [compiler() or "", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return os.environ | {"LD_PRELOAD": path, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}


class HostModule:
    """The kernels of one source; `get_function` as in CuPy's RawModule."""

    def __init__(self, library: Path, signatures: Mapping[str, tuple[Parameter, ...]]) -> None:
        self.path = library
        self.signatures = signatures
        self._library = ctypes.CDLL(str(library))

    def get_function(self, name: str) -> HostKernel:
        """Return kernel `name`."""
        if name not in self.signatures:
            msg = f"{self.path.stem} has no kernel {name!r}; it has {', '.join(self.signatures)}"
            raise AttributeError(msg)
        return HostKernel(name, self.signatures[name], getattr(self._library, f"launch_{name}"), self.path)


class HostKernel:
    """A kernel, called as CuPy's RawKernel is: ``kernel(grid, block, args, shared_mem=0)``.

    `seed` chooses the schedule: 0 ascending, 1 descending, others shuffle blocks, warps and lanes. Results must not
    depend on it, except the order in which an atomic counter hands out places.
    """

    def __init__(self, name: str, parameters: tuple[Parameter, ...], function: Any, library: Path) -> None:
        self.name = name
        self.parameters = parameters
        self._function = function
        self._library = library
        function.restype = ctypes.c_char_p

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], *, shared_mem: int = 0, seed: int = 0
    ) -> None:
        """Launch and wait.

        Raises
        ------
        TypeError
            An argument is not of the exact type the kernel takes.
        RuntimeError
            The kernel did what CUDA leaves undefined; the message names it with file, line and block.
        """
        grid, block = check_shape(self.name, "grid", grid), check_shape(self.name, "block", block)
        check_arguments(self.name, self.parameters, args, np.ndarray)
        values = [self._value(p, a) for p, a in zip(self.parameters, args, strict=True)]
        pointers = (ctypes.c_void_p * max(1, len(values)))(*(v.ctypes.data for v in values))
        with _LOCK:
            error = self._function(
                (ctypes.c_uint * 3)(*grid),
                (ctypes.c_uint * 3)(*block),
                ctypes.c_size_t(shared_mem),
                ctypes.c_uint64(seed),
                pointers,
            )
        if error:
            msg = f"{self.name}: {_with_line(error.decode(), self._library)}"
            raise RuntimeError(msg)

    @staticmethod
    def _value(parameter: Parameter, argument: Any) -> np.ndarray:
        """Return memory that holds the argument itself: a scalar, or the address of an array."""
        if not parameter.pointer:
            return np.asarray(argument)
        address = argument.ctypes.data if isinstance(argument, np.ndarray) else 0
        return np.asarray(address, dtype=np.uintp)
