"""Gaussian-weighted moments of 10000 windows on a 2048 x 2048 float32 frame: time beside error, and the peer.

Run: ``python -m pytest benchmarks/bench_moments.py``. Sigma 1.3 px, windows of 13 x 13 px (`detect` at FWHM 3 px);
`error` is the largest difference from the reference over the largest sum. sep.winpos does a related job: it iterates
such a weighted centroid and gives no second moments.
"""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.engine.peaks import measure
from astrid_gpu.ops.moments import measure_moments

pytest.importorskip("pytest_benchmark")

SIDE, WINDOWS, SIGMA, RADIUS = 2048, 10_000, 1.3, 6
_rows: list[str] = []


@pytest.fixture(scope="module")
def field():
    """The frame and the places of the windows."""
    rng = np.random.default_rng(5)
    image = rng.standard_normal((1, SIDE, SIDE)).astype(np.float32)
    y, x = rng.uniform(0, SIDE - 1, (2, WINDOWS))
    return image, (np.zeros(WINDOWS, np.int64), y, x, np.full(WINDOWS, SIGMA))


@pytest.fixture(scope="module", autouse=True)
def table(request):
    """Print all rows when the module is done."""
    yield
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n\nmoments in {WINDOWS} windows of {2 * RADIUS + 1} x {2 * RADIUS + 1} px, float32")
        print(f"{'':24}{'median ms':>10}{'min ms':>9}{'error':>10}")
        print("\n".join(_rows))


@pytest.mark.parametrize("name", ["numpy", "numba", "cupy"])
def test_measure_moments(benchmark, field, name):
    """Frame where the backend lives, sums on the host."""
    if name not in ag.available_backends():
        pytest.skip(f"{name} is not available here")
    image, where = field
    b = ag.get_backend(name)
    given = b.asarray(image)
    got = benchmark.pedantic(lambda: measure(b, given, *where, RADIUS), warmup_rounds=1, rounds=10)
    want = measure_moments(image.astype(np.float64), *where, RADIUS)
    error = np.abs(got - want).max() / np.abs(want).max()
    assert error < 1e-12
    times = benchmark.stats.stats
    _rows.append(f"measure_moments {name:8}{1e3 * times.median:>10.2f}{1e3 * times.min:>9.2f}{error:>10.1e}")


def test_sep_winpos(benchmark, field):
    """The peer: windowed positions, iterated, one thread."""
    sep = pytest.importorskip("sep")
    image, (_, y, x, sigma) = field
    benchmark.pedantic(lambda: sep.winpos(image[0], x, y, sigma), warmup_rounds=1, rounds=5)
    times = benchmark.stats.stats
    _rows.append(f"{'sep.winpos (positions)':24}{1e3 * times.median:>10.2f}{1e3 * times.min:>9.2f}{'':>10}")
