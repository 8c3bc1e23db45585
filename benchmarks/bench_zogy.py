"""ZOGY on every backend: the fused combination, the fused finish, and the whole subtraction of one pair and of eight.

Run: ``python -m pytest benchmarks/bench_zogy.py``. The table at the end has the largest error against float64 beside
the time, as a fraction of the largest value; of S_corr for the whole. A second table sets whole subtractions with
variance maps and registration noise beside `benchmarks.yardstick`, with the largest |dS_corr| in sigma; the file that
ASTRID_GPU_BENCH_JSON names gets it as JSON. ``python -m benchmarks.device`` sets the operations beside the speed of
memory, on a GPU.
"""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import scipy

import astrid_gpu as ag
from astrid_gpu.ops import zogy
from benchmarks.yardstick import yardstick

pytest.importorskip("pytest_benchmark")

SIDE = 1024
BACKENDS = ["numpy", "numba", "cupy"]
_rows: list[str] = []
_beside: list[dict] = []


@pytest.fixture(scope="module", autouse=True)
def table(request):
    """Print all rows when the module is done."""
    yield
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n\nZOGY of float32 frames of {SIDE} x {SIDE}; numpy computes these in float32 too")
        print(f"{'what':28}{'backend':10}{'median ms':>10}{'min ms':>9}{'error':>10}")
        print("\n".join(sorted(_rows)))
        print("\none pair with variance maps and registration noise: D, S_corr, flux, flux error")
        print(
            f"{'side':>6}  {'what':12}{'median ms':>10}{'min ms':>9}{'x yardstick':>13}{'max |dS_corr|':>15}{'rms':>9}"
        )
        for row in _beside:
            base = next((r["median_ms"] for r in _beside if (r["side"], r["what"]) == (row["side"], "yardstick")), None)
            row["times_yardstick"] = base / row["median_ms"] if base else None
            ratio = f"{row['times_yardstick']:.2f}" if base else ""
            print(f"{row['side']:>6}  {row['what']:12}{row['median_ms']:>10.1f}{row['min_ms']:>9.1f}{ratio:>13}"
                  f"{row['max_dscorr']:>15.1e}{row['rms_dscorr']:>9.0e}")  # fmt: skip
    if path := os.environ.get("ASTRID_GPU_BENCH_JSON"):
        Path(path).write_text(json.dumps({"machine": machine(), "rows": _beside}, indent=1) + "\n")


def machine():
    """Return what a reader must know of this machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return {
        "cpu": name, "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "date": datetime.now(UTC).date().isoformat(), "python": platform.python_version(),
        "numpy": np.__version__, "scipy": scipy.__version__, "astrid_gpu": ag.__version__,
    }  # fmt: skip


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


@cache
def pair(side):
    """One pair in float32 with stars, variance maps and all the numbers; and the engine's answer in float64."""
    rng = np.random.default_rng(side)
    grid = np.arange(-12, 13)
    r2 = grid[:, None] ** 2 + grid**2
    psfs = [(1 + r2 / (w / 0.9) ** 2) ** -3.5 for w in (1.6, 1.3)]
    skies = np.zeros((2, side, side))
    for y, x, flux in zip(*rng.integers(20, side - 20, (2, side)), 300 * (1 + rng.pareto(1.2, side)), strict=True):
        for sky, psf in zip(skies, psfs, strict=True):
            sky[y - 12 : y + 13, x - 12 : x + 13] += min(flux, 3e5) * psf / psf.sum()
    variances = [(s * s + sky / 5).astype(np.float32) for s, sky in zip((5.0, 2.0), skies, strict=True)]
    images = [
        (sky + np.sqrt(v) * rng.standard_normal(sky.shape)).astype(np.float32)
        for sky, v in zip(skies, variances, strict=True)
    ]
    keywords = {
        "flux_science": 1.0, "flux_reference": 1.0, "variance_science": variances[0],
        "variance_reference": variances[1], "astrometric_error": (0.05, 0.03),
        "outputs": ("difference", "score_corr", "flux"),
    }  # fmt: skip
    exact = ag.zogy(*images, *psfs, 5.0, 2.0, **keywords, backend="numpy", dtype="float64").score_corr
    return images, psfs, keywords, exact


@pytest.mark.parametrize("what", ["yardstick", *BACKENDS])
@pytest.mark.parametrize("side", [1024, 2048])
def test_beside_the_yardstick(benchmark, side, what):
    """One pair, arrays where the backend has them, result where it leaves it."""
    images, psfs, keywords, exact = pair(side)
    if what == "yardstick":
        variances = keywords["variance_science"], keywords["variance_reference"]
        to_host = np.asarray

        def run():
            return yardstick(*images, *psfs, 5.0, 2.0, 1.0, 1.0, *variances, keywords["astrometric_error"])[1]
    else:
        b = backend_of(what)
        given = [b.asarray(a) for a in images]
        there = keywords | {k: b.asarray(v) for k, v in keywords.items() if k.startswith("variance")}
        to_host = b.to_host

        def run():
            out = ag.zogy(*given, *psfs, 5.0, 2.0, **there, backend=b).score_corr
            b.synchronize()
            return out

    got = to_host(benchmark.pedantic(run, warmup_rounds=1, rounds=7))
    inner = (slice(32, -32),) * 2  # the yardstick's edges are zeros, the engine's are filled
    off = (got - exact)[inner if what == "yardstick" else ...]
    error, rms = float(np.abs(off).max()), float(off.std())
    benchmark.extra_info.update({"max_dscorr": error, "rms_dscorr": rms})
    stats = benchmark.stats.stats
    _beside.append({"side": side, "what": what, "median_ms": 1e3 * stats.median, "min_ms": 1e3 * stats.min,
                    "max_dscorr": error, "rms_dscorr": rms})  # fmt: skip
    # Single precision: the transform of a star of 10^4 sigma a pixel rounds at 1e-7 of it along its row and column.
    assert rms < 1e-4
    assert error < 5e-3
