"""Compile every kernel for every architecture without a GPU and report registers, shared memory and spills.

``python -m tests.cuda_host.registers`` prints the table and ends with 1 if a kernel spills. The compiler is CuPy's
NVRTC, which is what runs on a device, or nvcc where CuPy is not installed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from astrid_gpu.backends.cuda.context import kernel_files, kernel_source
from astrid_gpu.backends.cuda.signature import DOUBLE

__all__ = ["ARCHITECTURES", "Usage", "compiler", "usage", "variants"]

ARCHITECTURES = (75, 80, 90, 100)
_FLAGS = ("-std=c++17", "-lineinfo", "-ftz=true")  # the last is what CuPy adds to every kernel
# (registers of an SM, threads of an SM, bytes of shared memory of an SM, blocks of an SM)
_LIMITS = {75: (65536, 1024, 64 << 10, 16), 80: (65536, 2048, 164 << 10, 32)}
_LIMITS |= {90: (65536, 2048, 228 << 10, 32), 100: (65536, 2048, 228 << 10, 32)}


@dataclass(frozen=True)
class Usage:
    """What one kernel takes on one architecture."""

    kernel: str
    architecture: int
    registers: int
    shared_bytes: int
    spill_bytes: int
    stack_bytes: int

    def occupancy(self, threads: int) -> float:
        """Return the threads resident on an SM as a fraction of what it could hold, for blocks of `threads`."""
        registers, most, shared, blocks = _LIMITS[self.architecture]
        a_warp = -(-self.registers * 32 // 256) * 256  # registers are handed out in lots of 256 to a warp
        by_registers = registers // (a_warp * (threads // 32))
        by_shared = shared // (self.shared_bytes + 1024) if self.shared_bytes else blocks
        return min(blocks, most // threads, by_registers, by_shared) * threads / most


def variants(file: str) -> list[tuple[str, ...]]:
    """Return the sets of options a file is compiled with: as it is, and for double if it uses `real`."""
    body = kernel_source(file).rsplit(f'"{file}"\n', 1)[-1]  # what follows the inlined headers
    return [(), (DOUBLE,)] if re.search(r"\breal2?\b", body) else [()]


def compiler() -> tuple[str, Callable[[str, int, Sequence[str]], str]] | None:
    """Return the name of a compiler and a function from source, architecture and options to the log of ptxas."""
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
    except Exception:  # not installed, or without its library
        return ("nvcc", _nvcc) if shutil.which("nvcc") else None
    return "NVRTC", _nvrtc


def _nvrtc(source: str, architecture: int, options: Sequence[str]) -> str:
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram(source, "kernel.cu", (), ())
    flags = (f"-arch=sm_{architecture}", "--ptxas-options=-v", *_FLAGS, *options)
    try:
        nvrtc.compileProgram(program, flags)
        return nvrtc.getProgramLog(program)
    except nvrtc.NVRTCError as exc:
        raise RuntimeError(nvrtc.getProgramLog(program)) from exc
    finally:
        nvrtc.destroyProgram(program)


def _nvcc(source: str, architecture: int, options: Sequence[str]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cu")
        path.write_text(source, encoding="utf-8")
        command = ["nvcc", f"-arch=sm_{architecture}", "-Xptxas", "-v", "-cubin", *_FLAGS, *options]
        done = subprocess.run([*command, "-o", "kernel.cubin", path.name], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return done.stderr


def usage(file: str, architecture: int, options: Sequence[str] = ()) -> list[Usage]:
    """Compile ``kernels/<file>`` and return what each of its kernels takes.

    Raises
    ------
    RuntimeError
        There is no compiler, or it refuses the source; the message is its log.
    """
    found = compiler()
    if found is None:
        msg = "no CUDA compiler: install cupy-cuda13x and nvidia-cuda-nvrtc, or put nvcc on PATH"
        raise RuntimeError(msg)
    log = found[1](kernel_source(file), architecture, options)
    parts = re.split(r"Compiling entry function '(\w+)'", log)[1:]
    return [_parse(name, architecture, text) for name, text in zip(parts[::2], parts[1::2], strict=True)]


def _parse(name: str, architecture: int, text: str) -> Usage:
    def number(pattern: str) -> int:
        match = re.search(pattern, text)
        return int(match[1]) if match else 0

    spills = number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads")
    registers, shared = number(r"Used (\d+) registers"), number(r"(\d+) bytes smem")
    return Usage(name, architecture, registers, shared, spills, number(r"(\d+) bytes stack frame"))


def main() -> int:
    """Print the table; return 1 if a kernel spills."""
    found = compiler()
    print(f"compiler: {found[0] if found else 'none'}")
    print(f"{'kernel':24}{'real':>8}{'sm':>5}{'registers':>11}{'shared':>8}{'spills':>8}{'stack':>7}{'occupancy':>11}")
    spills = 0
    for file in kernel_files():
        launch = re.findall(r"__launch_bounds__\((\d+)[^)]*\)\s+(\w+)", kernel_source(file))
        threads = {name: int(count) for count, name in launch}
        for options in variants(file):
            for architecture in ARCHITECTURES:
                for u in usage(file, architecture, options):
                    real = "double" if options else "float"
                    share = u.occupancy(threads.get(u.kernel, 256))
                    numbers = f"{u.registers:11}{u.shared_bytes:8}{u.spill_bytes:8}{u.stack_bytes:7}{share:11.0%}"
                    print(f"{u.kernel:24}{real:>8}{architecture:5}{numbers}", flush=True)
                    spills += u.spill_bytes > 0
    return int(spills > 0)


if __name__ == "__main__":
    sys.exit(main())
