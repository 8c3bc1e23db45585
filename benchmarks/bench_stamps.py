"""Windows cut out of one float32 frame and brought to the host, as `cutouts` does five times a call.

2000 windows of 63 x 63 px, some over the edge; every backend must give the reference's, bit by bit.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.engine.peaks import gather
from astrid_gpu.ops.stamps import gather_stamps
from benchmarks.harness import Work

pytest.importorskip("pytest_benchmark")

SIDE, WINDOWS, SIZE = 2048, 2000, 63


@cache
def field(windows):
    """The frame and the middles of the windows."""
    rng = np.random.default_rng(5)
    image = rng.standard_normal((1, SIDE, SIDE)).astype(np.float32)
    return image, (np.zeros(windows, np.int64), *rng.integers(0, SIDE, (2, windows)))


def make_stamps(backend, windows):
    """Frame where the backend lives, windows on the host."""
    image, where = field(windows)
    b = ag.get_backend(backend)
    given = b.asarray(image)
    return lambda: gather(b, given, *where, SIZE, np.nan)


def test_gather_stamps(bench, backend):
    """The error is the number of pixels that differ."""
    windows = 200 if bench.quick else WINDOWS
    image, where = field(windows)
    want = gather_stamps(image, *where, SIZE, np.nan)

    def error(got):
        return float(np.sum(~((got == want) | (np.isnan(got) & np.isnan(want)))))

    work = Work(make_stamps, {"backend": backend.name, "windows": windows}, {"windows": 20})
    bench.row(f"stamps, {windows} of {SIZE} px", backend.name, f"{SIDE} x {SIDE}", work, error=error, tolerance=0,
              error_of="pixels that differ", pixels=SIDE * SIDE, moved=2e-6 * want.nbytes)  # fmt: skip
