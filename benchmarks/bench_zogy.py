"""ZOGY: one pair, a stack against a shared reference, threads, FFT providers, and the two fused spectral operations.

The whole subtraction is measured with all that it can be told (variance maps, flux scales, registration noise) and all
that it gives (D, S_corr, flux, flux error), turn about with `benchmarks.yardstick`. The error is the largest
abs(dS_corr) against float64, in sigma. Peers are measured where they are installed.
"""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.backends.fft import fft_status
from astrid_gpu.backends.threads import cpu_threads
from astrid_gpu.ops import zogy
from astrid_gpu.run.scenes import subtraction_scene
from benchmarks import peers
from benchmarks.harness import Work
from benchmarks.yardstick import yardstick

pytest.importorskip("pytest_benchmark")

SHAPES = [(1024, 1024), (2048, 2048), (4096, 2048), (3080, 3072), (4096, 4096)]
QUICK = (512, 512)
STACK = 16
SMALL = {"shape": [256, 256]}
TOLERANCE = 1e-3  # sigma of S_corr
BYTES = 4 * 4 + 4 * 4 + 1  # two images and variances in; four maps and the flags out


def size(shape):
    return f"{shape[0]} x {shape[1]}"


@pytest.fixture(params=SHAPES, ids=size)
def shape(request, bench):
    """Sides of a frame; one small one in a quick run."""
    if bench.quick and request.param != SHAPES[0]:
        pytest.skip("quick run")
    return QUICK if bench.quick else request.param


@cache
def scene(shape, n=1):
    return subtraction_scene(shape, n)


@cache
def exact(shape):
    """S_corr of the first image of a scene in float64 by the reference."""
    args, keywords = scene(shape).zogy_arguments(0)
    return ag.zogy(*args, **keywords, backend="numpy", dtype="float64").score_corr


def make_zogy(backend, shape, n=1, fresh=False):
    """The engine on a pair (n = 1, two-dimensional) or on a stack, arrays where the backend has them.

    `fresh`: the PSFs differ from call to call by parts in 10^12, so that nothing found out about them serves again.
    """
    b = ag.get_backend(backend)
    args, keywords = scene(tuple(shape), n).zogy_arguments(0 if n == 1 else slice(None))
    args = (*map(b.asarray, args[:2]), *args[2:])
    keywords |= {k: b.asarray(v) for k, v in keywords.items() if k.startswith("variance")}

    step = 1e-12 if fresh else 0.0
    calls = itertools.count()

    def run():
        psf = args[2].copy()
        psf[0, 0] += step * psf.max() * next(calls)
        out = ag.zogy(*args[:2], psf, *args[3:], **keywords, backend=b)
        b.synchronize()
        return out

    return run


@cache
def correlated():
    """Autocorrelation of noise that was resampled half a pixel in x and y."""
    line = np.array([0.5, 1.0, 0.5])
    return np.pad(np.outer(line, line), 11)


@cache
def exact_coloured(shape):
    """The same as `exact`, both images' noise being `correlated`."""
    args, keywords = scene(shape).zogy_arguments(0)
    noise = {"noise_spectrum_science": correlated(), "noise_spectrum_reference": correlated()}
    return ag.zogy(*args, **keywords, **noise, backend="numpy", dtype="float64").score_corr


def make_coloured(backend, shape):
    """The engine on a pair whose noise is correlated."""
    b = ag.get_backend(backend)
    args, keywords = scene(tuple(shape)).zogy_arguments(0)
    args = (*map(b.asarray, args[:2]), *args[2:])
    keywords |= {k: b.asarray(v) for k, v in keywords.items() if k.startswith("variance")}
    keywords |= {"noise_spectrum_science": correlated(), "noise_spectrum_reference": correlated()}

    def run():
        out = ag.zogy(*args, **keywords, backend=b)
        b.synchronize()
        return out

    return run


def make_yardstick(shape):
    """The yardstick on the same pair."""
    s = scene(tuple(shape))
    (science, reference, *rest), _ = s.zogy_arguments(0)
    return lambda: yardstick(
        science, reference, *rest, *s.flux, s.variance_science[0], s.variance_reference, s.astrometric_error
    )


def off(b, shape):
    """The error of a result: of its first image."""

    def error(result):
        got = b.to_host(result.score_corr)
        return np.abs((got if got.ndim == 2 else got[0]) - exact(shape)).max()

    return error


def common(shape):
    return {"size": size(shape), "pixels": shape[0] * shape[1], "moved": 1e-6 * BYTES * shape[0] * shape[1],
            "tolerance": TOLERANCE, "error_of": "S_corr, sigma"}  # fmt: skip


def test_yardstick(bench, shape):
    """The measure itself; its edges are zeros and the engine's are filled, so the inside is compared."""
    inner = (slice(32, -32),) * 2
    bench.row("zogy pair", "yardstick", work=Work(make_yardstick, {"shape": shape}, SMALL), **common(shape),
              error=lambda out: np.abs(out[1] - exact(shape))[inner].max())  # fmt: skip


@pytest.mark.parametrize("variant", ["", "new PSFs"])
def test_pair(bench, backend, shape, variant):
    """One pair alone, its PSFs those of the call before (kernels made of them are kept) or new ones."""
    if backend.name == "numpy" and (max(shape) > 2048 or variant):
        pytest.skip("the reference is here to be right")
    work = Work(make_zogy, {"backend": backend.name, "shape": shape, "fresh": bool(variant)}, SMALL)
    bench.row("zogy pair", backend.name, work=work, **common(shape), variant=variant, error=off(backend, shape),
              rivals={"yardstick": make_yardstick(shape)})  # fmt: skip


def test_coloured(bench, backend, shape):
    """One pair with correlated noise, beside the same taken for white."""
    if backend.name == "numpy" and max(shape) > 1024:
        pytest.skip("the reference is here to be right")
    work = Work(make_coloured, {"backend": backend.name, "shape": shape}, SMALL)
    bench.row("zogy pair", backend.name, work=work, **common(shape), variant="coloured noise",
              error=lambda out: np.abs(backend.to_host(out.score_corr) - exact_coloured(shape)).max(),
              rivals={"white": make_zogy(backend.name, shape)})  # fmt: skip


def test_stack(bench, backend, shape):
    """Sixteen images against one reference, per image, beside the lone pair; memory must not grow with their number."""
    if backend.name == "numpy":
        pytest.skip("the reference is here to be right")
    if shape[0] * shape[1] > 10_000_000:
        pytest.skip("the maps of sixteen would take a small machine's memory")
    work = Work(make_zogy, {"backend": backend.name, "shape": shape, "n": STACK}, SMALL)
    rivals = {"lone pair": make_zogy(backend.name, shape), "yardstick": make_yardstick(shape)}
    bench.row("zogy stack", backend.name, work=work, images=STACK, **common(shape), error=off(backend, shape),
              rivals=rivals)  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2, 4, 8, 16])
def test_threads(bench, threads, tmp_path):
    """One pair with so many threads, each number in a process of its own, beside one thread."""
    shape = QUICK if bench.quick else (2048, 2048)
    if threads > cpu_threads() or "numba" not in ag.available_backends():
        pytest.skip("not so many cores here")
    work = Work(make_zogy, {"backend": "numba", "shape": shape}, SMALL)
    with work.child({"ASTRID_GPU_THREADS": "1"}) as one, work.child({"ASTRID_GPU_THREADS": str(threads)}) as many:
        got = many.result(tmp_path / "score.npy")
        variant = "1 thread" if threads == 1 else f"{threads} threads"
        bench.row("zogy pair", "numba", work=many.run, **common(shape), variant=variant,
                  error=lambda _: np.abs(got - exact(shape)).max(),
                  rivals={"1 thread": one.run} if threads > 1 else {}, settle=threads > 1)  # fmt: skip


@pytest.mark.parametrize("by", ["numba", "numpy"])
@pytest.mark.parametrize("provider", ["scipy", "mkl", "pyfftw"])
def test_fft_provider(bench, provider, by, tmp_path):
    """One pair with each FFT library, in a process of its own; it matters where whole frames are transformed."""
    shape = QUICK if bench.quick else (2048, 2048)
    if fft_status()[provider] or by not in ag.available_backends():
        pytest.skip(f"{provider}: {fft_status()[provider]}")
    work = Work(make_zogy, {"backend": by, "shape": shape}, SMALL)
    with work.child({"ASTRID_GPU_FFT": provider}) as child:
        got = child.result(tmp_path / "score.npy")
        bench.row("zogy pair", by, work=child.run, **common(shape), variant=f"fft {provider}",
                  error=lambda _: np.abs(got - exact(shape)).max(), rounds=None if by == "numba" else 3,
                  rivals={"yardstick": make_yardstick(shape)})  # fmt: skip


@pytest.mark.parametrize("peer", sorted(peers.SUBTRACTION))
def test_peer(bench, peer):
    """Other software, on its own terms: it makes no S_corr of these units, so no error stands beside its time."""
    prepare = peers.SUBTRACTION[peer]
    pytest.importorskip(peer)
    shape = QUICK if bench.quick else (1024, 1024)
    s = scene(shape)
    rivals = {"yardstick": make_yardstick(shape), "numba": make_zogy("numba", shape)}
    bench.row("zogy pair", peer, work=prepare(s), **common(shape) | {"error_of": "pixels not finite, share"},
              rounds=3, rivals=rivals, error=lambda d: 1 - np.isfinite(d).mean())  # fmt: skip


@pytest.mark.parametrize("name", ["zogy_spectra", "zogy_finish"])
def test_fused(bench, backend, name):
    """D, S_N and S_R from four half spectra; four maps from S_N, S_R and the variance."""
    side = QUICK[0] if bench.quick else 1024
    rng = np.random.default_rng(1)
    if name == "zogy_spectra":
        parts = rng.standard_normal((2, 4, 1, side, side // 2 + 1), dtype=np.float32)
        arrays = list((parts[0] + 1j * parts[1]).astype(np.complex64))
        rest = (zogy.make_params(1.0, 1.2, 1.0, 0.9),)
        moved = 7 * arrays[0].nbytes
    else:
        arrays = [rng.standard_normal((1, side, side), dtype=np.float32) for _ in range(2)]
        arrays.append(rng.uniform(1, 2, (1, side, side)).astype(np.float32))
        rest = (np.array([[1.0, 2.0, 0.01]]), np.array([[0.1, 0.2, 0.01]]), (side - 30, side - 30))
        rest = (*rest, {"score", "score_corr", "flux", "flux_error"})
        moved = 7 * arrays[0].nbytes
    reference = getattr(zogy, name)
    wide = [a.astype(complex if np.iscomplexobj(a) else float) for a in arrays]
    wanted = reference(*wide, *rest)
    given, fused = [backend.asarray(a) for a in arrays], backend.ops.get(name)

    def run():
        out = fused(*given, *rest) if fused else reference(*given, *rest, xp=backend.xp)
        backend.synchronize()
        return out

    def error(got):
        pairs = [(got[k], wanted[k]) for k in wanted] if isinstance(wanted, dict) else zip(got, wanted, strict=True)
        return max(np.nanmax(np.abs(backend.to_host(g) - w)) / np.nanmax(np.abs(w)) for g, w in pairs)

    bench.row(name, backend.name, f"{side} x {side}", run, error=error, tolerance=1e-5,
              error_of="largest value", moved=1e-6 * moved)  # fmt: skip
