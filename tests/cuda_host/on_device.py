"""Run operations once on the real device: ``python -m tests.cuda_host.on_device [OPERATION ...]``.

What compute-sanitizer is pointed at by benchmarks/run_gpu.sh. Memory is taken from the driver for each array, without
CuPy's pool: inside a pool an access beyond an array hits another array, and no tool can tell.
"""

from __future__ import annotations

import sys

import numpy as np

import astrid_gpu as ag
from tests.cuda_host.cases import CASES, ON_DEVICE, leaves
from tests.cuda_host.problems import launch_the_rest


def main(names: list[str]) -> None:
    """Run the named operations, or all, in both precisions."""
    backend = ag.get_backend("cupy")
    backend.xp.cuda.set_allocator(None)
    for name in [n for n in names or list(CASES) if n in CASES]:
        for real in (np.float32, np.float64):
            args = CASES[name](np.random.default_rng(1), real)
            moved = [backend.asarray(a) if i in ON_DEVICE[name] else a for i, a in enumerate(args)]
            for result in leaves(name, backend.ops[name](*moved)):
                backend.to_host(result)
        print(name, flush=True)
    if not names or "zogy_maps" in names:
        launch_the_rest(backend, np.random.default_rng(2))
        print("zogy_maps", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
