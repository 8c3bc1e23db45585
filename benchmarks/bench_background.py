"""Background of one 2048 x 2048 float32 frame with 2500 stars: time and error of every backend, and of sep.

Run: ``python -m pytest benchmarks/bench_background.py``. The table at the end has the error against the truth beside
the time; a faster row with a larger error is no gain.
"""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag

pytest.importorskip("pytest_benchmark")

SIDE, BOX, SIGMA, STARS = 2048, 64, 10.0, 2500
_rows: list[str] = []


@pytest.fixture(scope="module")
def field():
    """The frame and its true sky."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:SIDE, :SIDE]
    sky = 300 + 0.02 * x + 0.01 * y + 10 * np.sin(x / 500) * np.cos(y / 700)
    image = sky + SIGMA * rng.standard_normal((SIDE, SIDE))
    fluxes = np.minimum(500 * (rng.pareto(0.8, STARS) + 1), 3e6)
    for flux, cy, cx in zip(fluxes, *rng.uniform(40, SIDE - 40, (2, STARS)), strict=True):
        j, i = slice(int(cy) - 30, int(cy) + 30), slice(int(cx) - 30, int(cx) + 30)
        r2 = ((y[j, i] - cy) ** 2 + (x[j, i] - cx) ** 2) / 2.2**2
        image[j, i] += flux * 1.5 / (np.pi * 2.2**2) * (1 + r2) ** -2.5
    return image.astype(np.float32), sky


@pytest.fixture(scope="module", autouse=True)
def table(request):
    """Print all rows when the module is done."""
    yield
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n\nbackground of {SIDE} x {SIDE} float32, {BOX} px boxes, {STARS} stars; errors in units of the noise")
        print(f"{'':24}{'median ms':>10}{'min ms':>9}{'level rms':>11}{'level bias':>12}{'rms - 1':>10}")
        print("\n".join(_rows))


def record(name, benchmark, level, rms, sky):
    """Note a row: times from the benchmark, errors against the truth."""
    off = (level - sky) / SIGMA
    error = {"level_rms": off.std(), "level_bias": off.mean(), "rms_bias": rms.mean() / SIGMA - 1}
    benchmark.extra_info.update({k: float(v) for k, v in error.items()})
    times = [1e3 * benchmark.stats.stats.median, 1e3 * benchmark.stats.stats.min]
    numbers = [*times, *error.values()]
    widths = ("10.1f", "9.1f", "11.4f", "12.4f", "10.4f")
    _rows.append(f"{name:24}" + "".join(f"{v:>{w}}" for v, w in zip(numbers, widths, strict=True)))


@pytest.mark.parametrize("name", ["numpy", "numba", "cupy"])
def test_estimate_background(benchmark, field, name):
    """Level and rms maps, input and output where the backend lives."""
    if name not in ag.available_backends():
        pytest.skip(f"{name} is not available here")
    backend, (image, sky) = ag.get_backend(name), field
    given = backend.asarray(image)

    def run():
        found = ag.estimate_background(given, box=BOX, backend=backend)
        backend.synchronize()
        return found

    found = benchmark.pedantic(run, warmup_rounds=1, rounds=3 if name == "numpy" else 15)
    record(name, benchmark, backend.to_host(found.level), backend.to_host(found.rms), sky)


def test_sep(benchmark, field):
    """The peer: sep.Background with back() and rms() maps, one thread (it has no more)."""
    sep = pytest.importorskip("sep")
    image, sky = field

    def run():
        found = sep.Background(image, bw=BOX, bh=BOX, fw=3, fh=3)
        return found.back(), found.rms()

    level, rms = benchmark.pedantic(run, warmup_rounds=1, rounds=15)
    record(f"sep {sep.__version__}", benchmark, level, rms, sky)
