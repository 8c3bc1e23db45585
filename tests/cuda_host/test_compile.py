"""Every kernel compiles for every architecture we name, declares the size of its blocks, and spills no register."""

from __future__ import annotations

import re

import pytest

from astrid_gpu.backends.cuda.context import kernel_files, kernel_source
from astrid_gpu.backends.cuda.signature import parse_signatures
from tests.cuda_host import registers

needs_compiler = pytest.mark.skipif(
    registers.compiler() is None, reason="no CUDA compiler: install cupy-cuda13x and nvidia-cuda-nvrtc, or nvcc"
)
# Double precision for one architecture: `python -m tests.cuda_host.registers` does them all.
BUILDS = [
    (file, options, architecture)
    for file in kernel_files()
    for options in registers.variants(file)
    for architecture in (registers.ARCHITECTURES if not options else (90,))
]


@needs_compiler
@pytest.mark.parametrize(
    ("file", "options", "architecture"), BUILDS, ids=[f"{f}-{'double' if o else 'float'}-{a}" for f, o, a in BUILDS]
)
def test_compiles_without_spills(file, options, architecture):
    found = registers.usage(file, architecture, options)
    assert {u.kernel for u in found} == set(parse_signatures(kernel_source(file)))
    for u in found:
        print(f"{u.kernel}: {u.registers} registers, {u.shared_bytes} bytes shared, {u.spill_bytes} spilled")
        assert u.registers > 0
        assert u.spill_bytes == 0, f"{u.kernel} spills {u.spill_bytes} bytes on sm_{architecture}"
        assert u.shared_bytes <= 48 * 1024


@pytest.mark.parametrize("file", kernel_files())
def test_blocks_are_declared(file):
    """The compiler may then use all the registers such a block can have; without it, it assumes 1024 threads."""
    source = kernel_source(file)
    declared = re.findall(r"__global__ void __launch_bounds__\(\d+[^)]*\)\s+(\w+)", source)
    assert set(declared) == set(parse_signatures(source))


def test_occupancy_by_hand():
    """Turing: 64 registers x 32 lanes = 2048 a warp, 8 warps a block = 16384, so 4 blocks of 256 fill the SM's 1024."""
    assert registers.Usage("k", 75, 64, 0, 0, 0).occupancy(256) == 1.0
    assert registers.Usage("k", 90, 64, 0, 0, 0).occupancy(256) == 0.5
    assert registers.Usage("k", 90, 32, 0, 0, 0).occupancy(256) == 1.0
    assert registers.Usage("k", 90, 32, 47 * 1024, 0, 0).occupancy(256) == 4 * 256 / 2048
