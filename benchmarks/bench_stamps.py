"""Windows cut out of a 2048 x 2048 float32 frame and brought to the host, as `cutouts` does five times a call.

Run: ``python -m pytest benchmarks/bench_stamps.py``. 2000 windows of 63 x 63 px, some over the edge; every backend
must give the reference's, bit by bit. `GB/s` counts what is written.
"""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.engine.peaks import gather
from astrid_gpu.ops.stamps import gather_stamps

pytest.importorskip("pytest_benchmark")

SIDE, WINDOWS, SIZE = 2048, 2000, 63
_rows: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def table(request):
    """Print all rows when the module is done."""
    yield
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n\n{WINDOWS} windows of {SIZE} x {SIZE} px from {SIDE} x {SIDE} float32; all equal the reference")
        print(f"{'':24}{'median ms':>10}{'min ms':>9}{'GB/s':>7}")
        print("\n".join(_rows))


@pytest.mark.parametrize("name", ["numpy", "numba", "cupy"])
def test_gather_stamps(benchmark, name):
    """Frame where the backend lives, windows on the host."""
    if name not in ag.available_backends():
        pytest.skip(f"{name} is not available here")
    rng = np.random.default_rng(5)
    image = rng.standard_normal((1, SIDE, SIDE)).astype(np.float32)
    where = (np.zeros(WINDOWS, np.int64), *rng.integers(0, SIDE, (2, WINDOWS)))
    b = ag.get_backend(name)
    given = b.asarray(image)
    got = benchmark.pedantic(lambda: gather(b, given, *where, SIZE, np.nan), warmup_rounds=1, rounds=15)
    np.testing.assert_array_equal(got, gather_stamps(image, *where, SIZE, np.nan))
    times = benchmark.stats.stats
    rate = got.nbytes / times.median / 1e9
    _rows.append(f"gather_stamps {name:10}{1e3 * times.median:>10.2f}{1e3 * times.min:>9.2f}{rate:>7.2f}")
