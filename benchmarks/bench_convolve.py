"""Convolution of one float32 frame: direct, separable and by FFT on every backend, beside scipy.

Run: ``python -m pytest benchmarks/bench_convolve.py``. The table at the end has the largest error against float64
beside the time. Where "direct" and "fft" cross is what REFERENCE_TAPS, CPU_TAPS and GPU_TAPS of
astrid_gpu/engine/convolve.py must say.
"""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.engine import convolve as engine
from astrid_gpu.ops import convolve as ops

pytest.importorskip("pytest_benchmark")

SIZES = [512, 2048]
SIDES = [3, 9, 15, 21, 25, 41]
WAYS = ["direct", "separable", "fft"]
_rows: list[str] = []
_truth: dict[tuple[int, int], np.ndarray] = {}


@pytest.fixture(scope="module", autouse=True)
def table(request):
    """Print all rows when the module is done."""
    yield
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n\nconvolution of float32 frames of unit noise, boundary zero; error: largest, against float64")
        print(f"{'image':>7}{'kernel':>8}  {'way':26}{'median ms':>10}{'min ms':>9}{'error':>10}")
        print("\n".join(sorted(_rows)))


def scene(size, side):
    """The frame, a Gaussian kernel of five sigma across, and the true result."""
    image = np.random.default_rng(size).standard_normal((1, size, size)).astype(np.float32)
    line = np.exp(-0.5 * np.linspace(-2.5, 2.5, side) ** 2)
    line /= line.sum()
    kernel = np.outer(line, line)[None]
    if (size, side) not in _truth:
        rows = ops.border_index(size, side, "zero")
        _truth[size, side] = ops.convolve_fft(image.astype(np.float64), kernel, rows, rows, ag.get_backend("numpy"))
    return image, kernel, line, _truth[size, side]


def record(benchmark, size, side, way, result, truth):
    """Note a row: times from the benchmark, the error against the truth."""
    error = float(np.abs(result - truth).max())
    benchmark.extra_info.update({"error": error})
    median, least = 1e3 * benchmark.stats.stats.median, 1e3 * benchmark.stats.stats.min
    _rows.append(f"{size:>7}{f'{side} x {side}':>8}  {way:26}{median:>10.2f}{least:>9.2f}{error:>10.1e}")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["numpy", "numba", "cupy"])
def test_convolve(benchmark, name, size, side, way):
    """One way on one backend, input and output where the backend lives."""
    if name not in ag.available_backends():
        pytest.skip(f"{name} is not available here")
    if name == "numpy" and way != "fft" and side * (side if way == "direct" else 1) > 25:
        pytest.skip("the reference takes seconds for this and is never chosen")
    backend = ag.get_backend(name)
    image, kernel, line, truth = scene(size, side)
    given = backend.asarray(image)

    def run():
        if way == "fft":
            out = engine._by_fft(backend, given, kernel, "zero")
        elif way == "direct":
            out = engine._direct(backend, given, kernel, "zero")
        else:
            column = engine._direct(backend, given, line[None, :, None], "zero")
            out = engine._direct(backend, column, line[None, None, :], "zero")
        backend.synchronize()
        return out

    result = benchmark.pedantic(run, warmup_rounds=1, rounds=3 if name == "numpy" else 9)
    record(benchmark, size, side, f"{name} {way}", backend.to_host(result), truth)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("peer", ["oaconvolve", "convolve1d twice"])
def test_scipy(benchmark, peer, size, side):
    """The peers: scipy.signal.oaconvolve for any kernel, scipy.ndimage.convolve1d twice for this separable one."""
    from scipy import ndimage, signal

    image, kernel, line, truth = scene(size, side)
    taps = kernel[0].astype(np.float32)

    def run():
        if peer == "oaconvolve":
            return signal.oaconvolve(image[0], taps, "same")
        column = ndimage.convolve1d(image[0], line, axis=0, mode="constant")
        return ndimage.convolve1d(column, line, axis=1, mode="constant")

    result = benchmark.pedantic(run, warmup_rounds=1, rounds=5)
    record(benchmark, size, side, f"scipy {peer}", result[None], truth)
