"""ZOGY on every backend: the fused combination, the fused finish, and the whole subtraction of one pair and of eight.

Run: ``python -m pytest benchmarks/bench_zogy.py``. The table at the end has the largest error against float64 beside
the time, as a fraction of the largest value; of S_corr for the whole. ``python -m benchmarks.device`` sets the same
beside the speed of memory, on a GPU.
"""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.ops import zogy

pytest.importorskip("pytest_benchmark")

SIDE = 1024
BACKENDS = ["numpy", "numba", "cupy"]
_rows: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def table(request):
    """Print all rows when the module is done."""
    yield
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n\nZOGY of float32 frames of {SIDE} x {SIDE}; numpy computes these in float32 too")
        print(f"{'what':28}{'backend':10}{'median ms':>10}{'min ms':>9}{'error':>10}")
        print("\n".join(sorted(_rows)))


def backend_of(name):
    """Return the backend, or skip."""
    if name not in ag.available_backends():
        pytest.skip(f"{name} is not available here")
    return ag.get_backend(name)


def record(benchmark, what, backend, got, wanted):
    """Note a row: times from the benchmark, the worst error of the arrays."""
    error = 0.0
    for g, w in zip(got, wanted, strict=True):
        error = max(error, float(np.nanmax(np.abs(backend.to_host(g) - w)) / np.nanmax(np.abs(w))))
    benchmark.extra_info["error"] = error
    median, least = 1e3 * benchmark.stats.stats.median, 1e3 * benchmark.stats.stats.min
    _rows.append(f"{what:28}{backend.name:10}{median:>10.2f}{least:>9.2f}{error:>10.1e}")
    assert error < 1e-3


def rounds_of(name):
    """Few rounds where each takes long."""
    return {"warmup_rounds": 1, "rounds": 3 if name == "numpy" else 15}


@pytest.mark.parametrize("name", BACKENDS)
def test_spectra(benchmark, name):
    """D, S_N and S_R from four half spectra."""
    b = backend_of(name)
    rng = np.random.default_rng(1)
    parts = rng.standard_normal((2, 4, 1, SIDE, SIDE // 2 + 1), dtype=np.float32)
    spectra = list((parts[0] + 1j * parts[1]).astype(np.complex64))
    params = zogy.make_params(1.0, 1.2, 1.0, 0.9)
    given = [b.asarray(a) for a in spectra]
    fused = b.ops.get("zogy_spectra")

    def run():
        out = fused(*given, params) if fused else zogy.zogy_spectra(*given, params, xp=b.xp)
        b.synchronize()
        return out

    got = benchmark.pedantic(run, **rounds_of(name))
    record(benchmark, "zogy_spectra", b, got, zogy.zogy_spectra(*(a.astype(complex) for a in spectra), params))


@pytest.mark.parametrize("name", BACKENDS)
def test_finish(benchmark, name):
    """Four maps from S_N, S_R and the variance, registration noise included."""
    b = backend_of(name)
    rng = np.random.default_rng(2)
    frames = [rng.standard_normal((1, SIDE, SIDE), dtype=np.float32) for _ in range(2)]
    frames.append(rng.uniform(1, 2, (1, SIDE, SIDE)).astype(np.float32))
    rest = (np.array([[1.0, 2.0, 0.01]]), np.array([[0.1, 0.2, 0.01]]), (SIDE - 30, SIDE - 30))
    rest = (*rest, {"score", "score_corr", "flux", "flux_error"})
    given = [b.asarray(a) for a in frames]
    fused = b.ops.get("zogy_finish")

    def run():
        out = fused(*given, *rest) if fused else zogy.zogy_finish(*given, *rest, xp=b.xp)
        b.synchronize()
        return out

    got = benchmark.pedantic(run, **rounds_of(name))
    wanted = zogy.zogy_finish(*(a.astype(float) for a in frames), *rest)
    record(benchmark, "zogy_finish", b, [got[k] for k in wanted], list(wanted.values()))


@pytest.mark.parametrize("n", [1, 8])
@pytest.mark.parametrize("name", BACKENDS)
def test_whole(benchmark, name, n):
    """D, S_corr and flux of n images against one reference, from the engine's own front door."""
    if name == "numpy" and n > 1:
        pytest.skip("n times one image, and half a minute")
    b = backend_of(name)
    rng = np.random.default_rng(3)
    grid = np.arange(-10, 11)
    r2 = grid[:, None] ** 2 + grid**2
    psfs = [np.exp(-r2 / (2 * s * s)) for s in (2.0, 1.6)]
    science = (5 * rng.standard_normal((n, SIDE, SIDE))).astype(np.float32)
    reference = (2 * rng.standard_normal((1, SIDE, SIDE))).astype(np.float32)
    given = b.asarray(science), b.asarray(reference)
    outputs = ("difference", "score_corr", "flux")

    def run():
        out = ag.zogy(*given, *psfs, 5.0, 2.0, outputs=outputs, backend=b)
        b.synchronize()
        return out

    got = benchmark.pedantic(run, **rounds_of(name))
    exact = ag.zogy(science[:1], reference, *psfs, 5.0, 2.0, outputs=outputs, backend="numpy", dtype="float64")
    record(benchmark, f"zogy(), {n} image{'s' * (n > 1)}", b, [got.score_corr[:1]], [exact.score_corr])
