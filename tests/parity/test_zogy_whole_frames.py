"""Whole frames in cache, for kernels that no tile holds, against the float64 engine on frames padded alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.backends.numpy_ import NumpyBackend
from astrid_gpu.ops.psf_stamps import moffat_stamp

pytest.importorskip("numba")

SCORE_CORR = 1e-3  # absolute: design, section 9
ALL = ("difference", "score", "score_corr", "flux")
NUMBERS = {"sigma_science": 5.0, "sigma_reference": 1.1, "flux_science": 1.3, "flux_reference": 0.4}
ERRORS = {"astrometric_error": (0.1, 0.05), "flux_ratio_error": 0.02}


class Exact(NumpyBackend):
    """The reference in float64, on frames padded as these are: kernels that never end feel how long the frame is."""

    def next_fast_len(self, n: int) -> int:
        from astrid_gpu.kernels.whole_frames_numba import padded_side

        return padded_side(n)


@pytest.fixture
def counted(monkeypatch) -> list[int]:
    """Send every image through whole frames, and count them."""
    from astrid_gpu.kernels import zogy_maps_numba
    from astrid_gpu.kernels.whole_frames_numba import WholeFrames

    monkeypatch.setattr(zogy_maps_numba._Subtraction, "halo", lambda self, i: None)
    seen, subtract = [], WholeFrames.subtract
    monkeypatch.setattr(WholeFrames, "subtract", lambda self, i, out: (seen.append(i), subtract(self, i, out))[1])
    return seen


def moffat(fwhm: float, side: int, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """Return a Moffat stamp as one measures it: with noise, whose transform never dies away."""
    y, x = np.mgrid[:side, :side] - side // 2
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / 3) - 1)
    stamp = (1 + (y**2 + x**2) / alpha**2) ** -3
    return stamp + noise * stamp.max() * np.random.default_rng(seed).standard_normal(stamp.shape)


def gaussian(sigma: float, side: int) -> np.ndarray:
    y, x = np.mgrid[:side, :side] - side // 2
    return np.exp(-0.5 * (y**2 + x**2) / sigma**2)


PSFS = {
    "noisy": (moffat(3.5, 25, 3e-3, 1), moffat(2.8, 21, 3e-3, 2)),
    "very noisy": (moffat(3.5, 31, 2e-2, 1), moffat(2.8, 31, 2e-2, 2)),
    "noise-free": (gaussian(4, 41), gaussian(4, 41)),
    "unequal": (gaussian(2.5, 21), gaussian(4, 35)),
}


def scene(rng: Any, shape: tuple[int, int], psfs: Any, n: int = 1) -> dict[str, Any]:
    """Return n science images and a reference of the same stars, some cut by the edge, with their source noise."""
    from scipy.signal import fftconvolve

    sky = np.zeros(shape)
    for _ in range(12):
        sky[rng.integers(shape[0]), rng.integers(shape[1])] += 3e3 * rng.pareto(1.5)
    models = [f * fftconvolve(sky, p / p.sum(), "same") for f, p in zip((1.3, 0.4), psfs, strict=True)]
    variances = [s**2 + np.maximum(m, 0) / g for m, s, g in zip(models, (5, 1.1), (2, 5), strict=True)]
    science = models[0] + np.sqrt(variances[0]) * rng.standard_normal((n, *shape))
    reference = models[1] + np.sqrt(variances[1]) * rng.standard_normal(shape)
    images = {"science": science, "reference": reference}
    images |= {"variance_science": variances[0], "variance_reference": variances[1]}
    return {k: v.astype(np.float32) for k, v in images.items()} | NUMBERS | ERRORS | {"outputs": ALL}


def subtract(args: dict[str, Any], psfs: Any, backend: Any) -> Any:
    exact = not isinstance(backend, str)
    typed = {k: v.astype(float) if exact and isinstance(v, np.ndarray) and v.dtype == np.float32 else v
             for k, v in args.items()}  # fmt: skip
    return ag.zogy(typed.pop("science"), typed.pop("reference"), *psfs, backend=backend, **typed)


def assert_exact(args: dict[str, Any], psfs: Any) -> Any:
    got, want = subtract(args, psfs, "numba"), subtract(args, psfs, Exact())
    for name in (*args["outputs"], "flux_error"):
        a, b = getattr(got, name), getattr(want, name)
        if a is None:
            assert b is None
            continue
        assert a.dtype == np.float32
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b), err_msg=name)
        off, size = np.nanmax(abs(a - b)), np.nanmax(abs(b))
        # D divides by |P| where it is next to nothing: rounding is white noise, far below its own of 5.2
        limit = {"score_corr": SCORE_CORR, "difference": 0.05}.get(name, 1e-4 * size)
        assert off < limit, f"{name} is off by {off:g}"
    return got


@pytest.mark.parametrize("shape", [(201, 333), (64, 64), (97, 300)])
@pytest.mark.parametrize("kind", PSFS)
def test_every_map_is_the_engines(rng, counted, kind, shape):
    """Bright stars, stars cut by the edge; frames smaller and larger than the grid of the small kernels."""
    assert_exact(scene(rng, shape, PSFS[kind]), PSFS[kind])
    assert counted == [0]


@pytest.mark.parametrize("flat", [False, True])
def test_holes(rng, counted, flat):
    args = scene(rng, (131, 149), PSFS["noisy"])
    args["science"][0, 30:36, 40:43], args["reference"][60, 148], args["science"][0, 0, 5] = np.nan, np.inf, np.nan
    args["mask"] = np.zeros((131, 149), bool)
    args["mask"][90:93, 10:30] = True
    if flat:
        del args["variance_science"], args["variance_reference"]
    got = assert_exact(args, PSFS["noisy"])
    assert np.isnan(got.score_corr).sum() == 18 + 2 + 60
    assert counted == [0]


@pytest.mark.parametrize("errors", [True, False])
@pytest.mark.parametrize(
    "wanted", [("difference",), ("score",), ("score_corr",), ("flux",), ("difference", "score"), ("score_corr", "flux")]
)
@pytest.mark.parametrize("n", [1, 2])
def test_what_is_asked_for_comes_back(rng, counted, wanted, errors, n):
    args = scene(rng, (70, 83), PSFS["noisy"], n) | {"outputs": wanted}
    if not errors:
        args |= {"astrometric_error": (0, 0), "flux_ratio_error": 0}
    assert_exact(args, PSFS["noisy"])
    assert counted == [*range(n)]


def test_blank_sky_is_as_exact_without_fill_errors(rng, counted):
    """No star reaches the edge, so no plane of fill errors; and no variance maps."""
    images = {"science": 5 * rng.standard_normal((150, 131)), "reference": 1.1 * rng.standard_normal((150, 131))}
    images["science"][70:81, 60:71] += 900 * moffat(3.5, 11)
    images = {k: v.astype(np.float32) for k, v in images.items()}
    got = assert_exact(images | NUMBERS | ERRORS | {"outputs": ALL}, PSFS["noisy"])
    assert np.nanmax(got.score_corr) > 100
    assert counted == [0]


@pytest.mark.parametrize("shared", ["all", "reference", "nothing"])
def test_a_stack_equals_its_loop(rng, counted, shared):
    psfs = PSFS["noisy"]
    args = scene(rng, (81, 120), psfs, 3)
    if shared != "all":
        args["science"][1, 20:23, 40:44] = np.nan
        args["sigma_science"] = np.array([5.0, 5.5, 4.5])
        psfs = np.stack([moffat(w, 25, 3e-3, 4) for w in (3.3, 3.5, 3.7)]), psfs[1]
    if shared == "nothing":
        args["reference"] = np.stack([args["reference"] + k for k in range(3)])
        args["variance_reference"] = np.stack([args["variance_reference"] * k for k in (1, 2, 3)])
        args["mask"] = np.zeros((3, 81, 120), bool)
        args["mask"][2, :5] = True
    stack = assert_exact(args, psfs)
    pick = lambda v, i: v[i] if isinstance(v, np.ndarray) and len(v) == 3 else v  # noqa: E731
    for i in range(3):
        one = subtract({k: pick(v, i) for k, v in args.items()}, [pick(p, i) for p in psfs], "numba")
        for name in ("difference", "score_corr", "flux", "flux_error"):
            a, b = getattr(stack, name)[i], getattr(one, name)
            np.testing.assert_allclose(a, b, atol=1e-5 * np.nanmax(abs(b)), err_msg=name)
    assert len(counted) == 6


def test_real_psfs_come_here_by_themselves(rng, monkeypatch):
    """No halo holds the kernels of a measured PSF."""
    from astrid_gpu.engine import zogy as engine

    def refused(*args: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(engine, "_whole_frames", refused)
    psfs = PSFS["very noisy"]
    got = subtract(scene(rng, (131, 149), psfs), psfs, "numba")
    assert np.isfinite(got.score_corr).all()


def test_threads_change_nothing(rng, monkeypatch):
    args = scene(rng, (170, 290), PSFS["noisy"])
    maps = []
    for threads in ("1", "3"):
        monkeypatch.setenv("ASTRID_GPU_THREADS", threads)
        maps.append(subtract(args, PSFS["noisy"], "numba"))
    for name in ("difference", "score", "score_corr", "flux", "flux_error"):
        np.testing.assert_array_equal(getattr(maps[0], name), getattr(maps[1], name))


def test_memory_does_not_grow_with_the_stack(rng, monkeypatch):
    """Above inputs and outputs less than 40 bytes a pixel of one image, masks and fills included."""
    import gc
    import tracemalloc

    from astrid_gpu.kernels.whole_frames_numba import WholeFrames, _Memory

    monkeypatch.setenv("ASTRID_GPU_THREADS", "2")
    seen = []
    original = WholeFrames.subtract
    monkeypatch.setattr(WholeFrames, "subtract", lambda self, i, out: (seen.append(i), original(self, i, out))[1])
    side, wide = 1800, moffat_stamp(14.0, 3.0, 61)
    images = rng.normal(0, 5, (4, side, side)).astype(np.float32)
    images[:, 500:540, 700:740] += 300  # under a hole: a fill that may be wrong
    mask = rng.random((3, side, side)) < 0.003
    mask[:, 515:525, 715:725] = True
    variance = np.full((3, side, side), 25, np.float32)

    def peak(n):
        _Memory._spare.clear()
        _Memory.idle.clear()
        gc.collect()
        tracemalloc.start()
        diff = ag.zogy(
            images[:n], images[3], wide, wide, 5.0, 5.0, variance_science=variance[:n], variance_reference=variance[0],
            mask=mask[:n], astrometric_error=(0.05, 0.05), outputs=ALL, backend="numba",
        )  # fmt: skip
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        maps = (diff.difference, diff.score, diff.score_corr, diff.flux, diff.flux_error, diff.mask)
        return (most - sum(m.nbytes for m in maps)) / side**2

    one, three = peak(1), peak(3)
    assert seen == [0, 0, 1, 2]
    assert one < 40
    assert three < one + 2


@pytest.mark.parametrize("radius", [0, 3])
@pytest.mark.parametrize("constant", [False, True])
def test_columns_beyond_the_image_hold_its_margins(rng, radius, constant):
    """Each window of columns of the padded frame, wherever the image ends: image, margins round it, zeros between."""
    from astrid_gpu.kernels.frame_passes_numba import _gather

    (ny, nx), (py, px), width = (21, 40), (32, 64), 32
    values = rng.normal(size=(ny + 2 * radius, nx + 2 * radius)).astype(np.float32)
    inner = slice(radius, radius + ny), slice(radius, radius + nx)
    if constant:
        values[inner] = 2.5 / 3
    wrapped = np.zeros((py, px), np.float32)
    wrapped[: ny + 2 * radius, : nx + 2 * radius] = values
    expected = 3 * np.roll(wrapped, (-radius, -radius), axis=(0, 1))
    rows, columns = np.array([4, 20]), np.array([33, 39])
    expected[rows, columns] = 30
    around = np.delete(values, np.s_[inner[0]], axis=0), np.delete(values[inner[0]], np.s_[inner[1]], axis=1)
    image = np.zeros((0, 0), np.float32) if constant else np.ascontiguousarray(values[inner])
    if not radius:
        around = (np.zeros((0, 0), np.float32),) * 2
    source = (image, *around, np.float32(2.5), np.float32(3), rows, columns, np.full(2, 10, np.float32))
    for x0 in (0, 32):
        out = np.full(py * width, np.nan, np.float32)
        _gather(source, (ny, nx), x0, width, py, px, out)
        np.testing.assert_allclose(out.reshape(py, width), expected[:, x0 : x0 + width], rtol=1e-6)
