"""Fill of masked pixels and padding of float32 frames: time and error of every backend.

Run: ``python -m pytest benchmarks/bench_fill.py``. The table at the end has the largest error against float64, as a
fraction of the largest pixel, beside the time.
"""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.ops import fill

pytest.importorskip("pytest_benchmark")

SIDES = [512, 2048]
PADDING, CLUSTERS, SIGMA = 36, 200, 1.7
_rows: list[str] = []
_cases: dict[int, tuple[np.ndarray, ...]] = {}


@pytest.fixture(scope="module", autouse=True)
def table(request):
    """Print all rows when the module is done."""
    yield
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n\nfill of one float32 frame, {PADDING} px of padding and {CLUSTERS} holes, window of {SIGMA} px")
        print(f"{'frame':>7}  {'backend':10}{'median ms':>10}{'min ms':>9}{'error':>10}")
        print("\n".join(sorted(_rows)))


def case(side):
    """The frame, its bad pixels, the window and the true fill; bright stars cut by holes, so that there is one."""
    if side not in _cases:
        rng = np.random.default_rng(side)
        frame = rng.standard_normal((1, side, side)).astype(np.float32)
        bad = np.zeros((1, side, side), np.uint8)
        bad[:, -PADDING:] = bad[:, :, -PADDING:] = 1
        for y, x in rng.integers(10, side - PADDING - 10, (CLUSTERS, 2)):
            frame[0, y - 4 : y + 5, x - 4 : x + 5] += 1000
            bad[0, y - 2 : y + 3, x - 1 : x + 2] = 1
        profiles = fill.fill_profiles([SIGMA], (side, side))
        _cases[side] = frame, bad, profiles, fill.fill_masked(frame.astype(float), bad, profiles)
    return _cases[side]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", ["numpy", "numba", "cupy"])
def test_fill(benchmark, name, side):
    """One backend, input and output where it lives."""
    if name not in ag.available_backends():
        pytest.skip(f"{name} is not available here")
    backend = ag.get_backend(name)
    frame, bad, profiles, truth = case(side)
    given = backend.asarray(frame), backend.asarray(bad), profiles
    operation = backend.ops.get("fill_masked")

    def run():
        out = operation(*given) if operation else fill.fill_masked(*given, xp=backend.xp)
        backend.synchronize()
        return out

    result = backend.to_host(benchmark.pedantic(run, warmup_rounds=1, rounds=3 if name == "numpy" else 15))
    error = float(np.abs(result - truth).max() / np.abs(truth).max())
    benchmark.extra_info["error"] = error
    median, least = 1e3 * benchmark.stats.stats.median, 1e3 * benchmark.stats.stats.min
    _rows.append(f"{side:>7}  {name:10}{median:>10.2f}{least:>9.2f}{error:>10.1e}")
    assert error < 1e-5
