"""Run operations under AddressSanitizer: ``python -m tests.cuda_host.sanitize [OPERATION ...]``.

Started by test_kernels.py in a process of its own, which must have the sanitizer's runtime preloaded
(`build.asan_environment`). Prints the name of each operation it got through; an access beyond an array ends it with
the kernel's line on standard error.
"""

from __future__ import annotations

import sys

import numpy as np

from tests.cuda_host import build as host
from tests.cuda_host import emu
from tests.cuda_host.cases import CASES
from tests.cuda_host.problems import launch_the_rest


def main(names: list[str]) -> None:
    """Run the named operations, or all."""
    ops = emu.EmulatedBackend(seed=2, flags=host.ASAN).ops
    for name in names or list(CASES):
        ops[name](*CASES[name](np.random.default_rng(1), np.float32))
        print(name, flush=True)
    if not names:
        launch_the_rest(emu.EmulatedBackend(seed=2, flags=host.ASAN), np.random.default_rng(2))
        print("zogy_maps", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
