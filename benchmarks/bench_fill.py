"""Fill of masked pixels and padding of one float32 frame: 36 px of padding and 200 holes, in bright stars."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.ops import fill
from benchmarks.harness import Work

pytest.importorskip("pytest_benchmark")

PADDING, CLUSTERS, SIGMA = 36, 200, 1.7


@cache
def case(side):
    """The frame, its bad pixels and the window."""
    rng = np.random.default_rng(side)
    frame = rng.standard_normal((1, side, side)).astype(np.float32)
    bad = np.zeros((1, side, side), np.uint8)
    bad[:, -PADDING:] = bad[:, :, -PADDING:] = 1
    for y, x in rng.integers(10, side - PADDING - 10, (CLUSTERS, 2)):
        frame[0, y - 4 : y + 5, x - 4 : x + 5] += 1000
        bad[0, y - 2 : y + 3, x - 1 : x + 2] = 1
    return frame, bad, fill.fill_profiles([SIGMA], (side, side))


def make_fill(backend, side):
    """Input and output where the backend lives."""
    b = ag.get_backend(backend)
    frame, bad, profiles = case(side)
    given, operation = (b.asarray(frame), b.asarray(bad), profiles), b.ops.get("fill_masked")

    def run():
        out = operation(*given) if operation else fill.fill_masked(*given, xp=b.xp)
        b.synchronize()
        return out

    return run


@pytest.mark.parametrize("side", [512, 2048])
def test_fill(bench, backend, side):
    """One frame; the error is a fraction of the largest pixel."""
    if bench.quick and side > 512:
        pytest.skip("quick run")
    frame, *rest = case(side)
    truth = fill.fill_masked(frame.astype(float), *rest)

    def error(got):
        return np.abs(backend.to_host(got) - truth).max() / np.abs(truth).max()

    work = Work(make_fill, {"backend": backend.name, "side": side}, {"side": 256})
    bench.row("fill", backend.name, f"{side} x {side}", work, error=error, tolerance=1e-5, error_of="largest pixel",
              pixels=side * side, moved=9e-6 * side * side)  # fmt: skip
