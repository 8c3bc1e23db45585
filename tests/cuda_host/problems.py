"""Problems for `zogy_maps`: scenes with what makes paths differ, checked by the engine itself."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from astrid_gpu.backends.cuda.stream import Exposure
from astrid_gpu.engine._frames import combine_masks
from astrid_gpu.engine._problem import check
from astrid_gpu.engine.zogy import zogy

__all__ = ["ALL", "KINDS", "given", "launch_the_rest", "problem", "psf"]

ROLES = ("science", "reference")
ALL = ("difference", "score", "score_corr", "flux")


def psf(sigma: float, half: int = 7) -> np.ndarray:
    """Return a Gaussian stamp."""
    grid = np.arange(-half, half + 1)
    stamp = np.exp(-(grid[:, None] ** 2 + grid**2) / (2 * sigma**2))
    return stamp / stamp.sum()


def colour(sigma: float, half: int = 6) -> np.ndarray:
    """Return the autocorrelation of noise smoothed by a Gaussian."""
    grid = np.arange(-half, half + 1)
    return np.exp(-(grid[:, None] ** 2 + grid**2) / (4 * sigma**2))


def scene(rng: np.random.Generator, n: int, shape: tuple[int, int], *, stars: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return science images and one reference: noise, and static stars, one of them cut by the edge."""
    science, reference = 5 * rng.standard_normal((n, *shape)), 3 * rng.standard_normal((1, *shape))
    if stars:
        science[0, 20:35, 25:40] += 3000 * psf(2.0)
        for images, sigma in ((science, 2.0), (reference, 1.6)):
            images[:, 15:30, 9:24] += 2e4 * psf(sigma)
            images[:, -5:, 20:35] += 1e4 * psf(sigma)[:5]
    return science, reference


def given(kind: str, rng: np.random.Generator, n: int = 3, shape: tuple[int, int] = (61, 70)) -> dict[str, Any]:
    """Return arguments of `zogy` in float64, by the name of what is special about them."""
    science, reference = scene(rng, n, shape, stars=kind != "blank")
    args: dict[str, Any] = {
        "science": science, "reference": reference, "psf_science": psf(2.0), "psf_reference": psf(1.6),
        "sigma_science": 5.0, "sigma_reference": 3.0, "outputs": ALL,
    }  # fmt: skip
    if kind not in ("blank", "plain"):
        args |= {"astrometric_error": (0.1, 0.2), "flux_ratio_error": 0.02}
        science[:, 30:33, 35:39] = np.nan
    if kind in ("maps", "everything"):
        args["variance_science"] = rng.uniform(20, 40, science.shape)
        args["variance_reference"] = rng.uniform(8, 10, reference.shape)
    if kind in ("noise", "everything"):
        args |= {"sigma_science": np.linspace(4, 6, n), "flux_science": np.linspace(0.8, 1.2, n)}
    if kind in ("holes", "everything"):
        science[-1, 5:9, 30:36] = np.inf
    if kind in ("psfs", "everything"):
        args["psf_science"] = np.stack([psf(s) for s in np.linspace(1.8, 2.2, n)])
    if kind in ("coloured", "everything"):
        args |= {"noise_spectrum_science": colour(0.8), "noise_spectrum_reference": colour(0.6)}
    if kind == "everything":
        args |= {f"noise_spectrum_{k}": np.stack([colour(0.5 + 0.1 * i) for i in range(n)]) for k in ROLES}
        args["reference"] = np.repeat(reference, n, axis=0) + rng.standard_normal(science.shape)
        args["variance_reference"] = rng.uniform(9, 11, science.shape)
        args["psf_reference"] = np.stack([psf(s) for s in np.linspace(1.5, 1.7, n)])
    return args


STREAM_SHAPE = (46, 52)
KINDS = ("blank", "plain", "flat", "maps", "noise", "holes", "psfs", "coloured", "everything")


def problem(backend: Any, args: dict[str, Any], dtype: Any = np.float32) -> tuple[Any, Any]:
    """Return the engine's `Problem` and its flags, on `backend`, of arguments rounded to `dtype`."""
    known = inspect.signature(zogy).parameters
    full = {name: p.default for name, p in known.items()} | {"backend": backend, "dtype": dtype}
    images = ("science", "reference", "variance_science", "variance_reference")
    moved = {k: backend.asarray(v.astype(dtype)) if k in images and np.ndim(v) else v for k, v in args.items()}
    checked = check(full | moved)
    return checked, combine_masks(backend, checked.science, checked.reference, checked.mask)


def exposures(n: int, dtype: str = "<u2", *, blank: int | None = None) -> list[Exposure]:
    """Return frames of sky, static stars and one new star each, with noise and gain of their own."""
    rng = np.random.default_rng(5)
    found = []
    for i in range(n):
        sigma = 4.0 + 0.5 * (i % 3)
        sky = sigma * rng.standard_normal(STREAM_SHAPE)
        sky[10 : 10 + 15, 20 + i : 35 + i] += 1500 * psf(2.0)
        scale, zero = 0.5, -100.0 - i
        counts = np.rint((sky - zero) / scale)
        if blank is not None:
            counts[30:33, 5 + i : 9 + i] = blank
        found.append(Exposure(counts.astype(dtype), scale, zero, sigma, 1.0 + 0.1 * i, 0.2, blank))
    return found


def launch_the_rest(backend: Any, rng: np.random.Generator) -> None:
    """Launch the kernels that the cases of `cases.py` leave out: the fused subtraction's, decoders, large boxes."""
    from astrid_gpu.backends.cuda.maps_job import job_of
    from astrid_gpu.backends.cuda.maps_runner import PeakList, Runner
    from astrid_gpu.backends.cuda.zogy_maps import prepare, spec_of

    ctx, xp = backend.context, backend.xp
    job = job_of(ctx, *problem(backend, given("everything", rng, n=2, shape=(40, 43))), ALL)
    runner = Runner(ctx, job, spec_of(job, 2), prepare(ctx, job, 2))
    out = {name: xp.empty((2, 40, 43), np.float32) for name in job.wanted}
    room = [xp.empty(64, dtype) for dtype in (np.int64, np.float64, np.uint8)]
    thresholds = xp.asarray(np.full(2, 3, np.float32))
    for peaks in (None, PeakList(thresholds, True, xp.zeros(1, np.uint64), *room)):
        runner.run(job, out, peaks)
    for name, values in out.items():
        assert np.isfinite(backend.to_host(values)).any(), name
    counts = xp.empty(1000, np.float32)
    scale = np.float64(1), np.float64(0)
    raw = rng.integers(0, 1000, 1000)
    null = np.uintp(0)
    for name, dtype, rest in (("decode_short", np.uint16, (0, 1, 1, 3, 1)), ("decode_int", np.uint32, (1, 1, 3, 1))):
        numbers = (*scale, np.float64(0), np.float64(0), *(np.int32(v) for v in rest), np.int64(1000))
        args = (xp.asarray(raw.astype(dtype)), null, counts, null, null, *numbers)
        ctx.kernel("zogy.cu", name)((2,), (256,), args)
    images, stamps = xp.zeros((2, 40, 43), np.float32), xp.empty((4, 3, 7, 7), np.float32)
    sizes = (*(np.int32(v) for v in (40, 43, 7)), np.int64(0), np.int64(0))
    found = xp.zeros(1, np.uint64)
    ctx.kernel("zogy.cu", "gather_peaks")((4, 3), (128,), (room[0], found, images, images, images, stamps, *sizes))
    sky = xp.asarray(rng.standard_normal((1, 80, 70)).astype(np.float32))
    level, _, good = backend.ops["mesh_statistics"](sky, None, 80, 3.0, "median")
    assert abs(float(backend.to_host(level)[0, 0, 0])) < 0.2
    assert int(backend.to_host(good)[0, 0, 0]) == 5600
    y = xp.asarray(rng.uniform(0, 60, (20, 20)))
    for kernel in ("nearest", "bilinear", "lanczos3", "cubic", "quintic"):
        assert np.isfinite(backend.to_host(backend.ops["resample"](sky, y, y, kernel))).all()
