"""Convolution of one float32 frame of unit noise: the engine's own choice and each of its ways, beside scipy.

A Moffat kernel, which is not separable, and a Gaussian, which is. Boundary zero, as scipy has it; the error is the
largest difference from float64. Where "direct" and "fft" cross is what the limits at the top of
astrid_gpu/engine/convolve.py must say.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.backends.threads import cpu_threads
from astrid_gpu.engine import convolve as engine
from astrid_gpu.ops import convolve as ops
from astrid_gpu.ops.psf_stamps import moffat_stamp
from benchmarks.harness import Work

pytest.importorskip("pytest_benchmark")

SIDES = [5, 9, 15, 25, 41]
WAYS = ["direct", "separable", "fft"]


@cache
def frame(size):
    return np.random.default_rng(size).standard_normal((1, size, size)).astype(np.float32)


def line(side):
    """A Gaussian of five sigma across, and sum 1."""
    values = np.exp(-0.5 * np.linspace(-2.5, 2.5, side) ** 2)
    return values / values.sum()


def kernel(side, kind):
    return moffat_stamp(side / 5, 3.0, side) if kind == "moffat" else np.outer(line(side), line(side))


@cache
def truth(size, side, kind):
    rows = ops.border_index(size, side, "zero")
    taps = kernel(side, kind)[None]
    return ops.convolve_fft(frame(size).astype(np.float64), taps, rows, rows, ag.get_backend("numpy"))[0]


def make_convolve(backend, size, side, kind):
    """The public function, input and output where the backend lives."""
    b = ag.get_backend(backend)
    given, taps = b.asarray(frame(size)[0]), kernel(side, kind)

    def run():
        out = ag.convolve(given, taps, boundary="zero", normalize=False, backend=b)
        b.synchronize()
        return out

    return run


def make_way(backend, size, side, way):
    """One of the engine's ways for a Gaussian."""
    b = ag.get_backend(backend)
    given, taps, row = b.asarray(frame(size)), kernel(side, "gaussian")[None], line(side)[None]

    def run():
        if way == "separable":
            out = engine._separable(b, given, row[:, :, None], row[:, None, :], "zero")
        else:
            out = (engine._by_fft if way == "fft" else engine._direct)(b, given, taps, "zero")
        b.synchronize()
        return out

    return run


def make_oaconvolve(size, side, kind):
    """scipy.signal.oaconvolve, its workers set."""
    from scipy import fft, signal

    image, taps = frame(size)[0], kernel(side, kind).astype(np.float32)

    def run():
        with fft.set_workers(cpu_threads()):
            return signal.oaconvolve(image, taps, "same")

    return run


def make_convolve1d(size, side, kind):
    """scipy.ndimage.convolve1d twice, for a separable kernel."""
    from scipy import ndimage

    image, taps = frame(size)[0], line(side)

    def run():
        return ndimage.convolve1d(ndimage.convolve1d(image, taps, 0, mode="constant"), taps, 1, mode="constant")

    return run


def row(bench, name, work, size, side, kind, to_host=np.asarray, **more):
    """One row; a sum of side² products in float32 is off by a few parts in 10^7 of the noise."""
    want = truth(size, side, kind)
    bench.row(f"convolve {side} x {side} {kind}", name, f"{size} x {size}", work, tolerance=1e-5, error_of="noise",
              error=lambda out: np.abs(to_host(out).reshape(want.shape) - want).max(), pixels=size * size,
              moved=8e-6 * size * size, **more)  # fmt: skip


@pytest.fixture
def size(bench):
    return 512 if bench.quick else 2048


@pytest.mark.parametrize("kind", ["moffat", "gaussian"])
@pytest.mark.parametrize("side", SIDES)
def test_convolve(bench, backend, size, side, kind):
    """What a user gets, beside oaconvolve."""
    if bench.quick and side != 25:
        pytest.skip("quick run")
    if backend.name == "numpy" and side != 25:
        pytest.skip("the reference is here to be right")
    keywords = {"size": size, "side": side, "kind": kind}
    work = Work(make_convolve, keywords | {"backend": backend.name}, {"size": 256})
    row(bench, backend.name, work, **keywords, to_host=backend.to_host, rivals={"scipy": make_oaconvolve(**keywords)})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("side", SIDES)
def test_way(bench, backend, size, side, way):
    """Each way of the engine, to set its limits by."""
    if bench.quick or backend.name == "numpy":
        pytest.skip("for the limits of the fast backends, in a full run")
    row(bench, backend.name, make_way(backend.name, size, side, way), size, side, "gaussian", to_host=backend.to_host,
        variant=way)  # fmt: skip


@pytest.mark.parametrize("peer", ["oaconvolve", "convolve1d"])
def test_scipy(bench, size, peer):
    """The peers themselves."""
    kind = "moffat" if peer == "oaconvolve" else "gaussian"
    keywords = {"size": size, "side": 25, "kind": kind}
    maker = make_oaconvolve if peer == "oaconvolve" else make_convolve1d
    row(bench, f"scipy {peer}", Work(maker, keywords, {"size": 256}), **keywords)
