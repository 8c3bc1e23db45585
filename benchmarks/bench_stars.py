"""Star finding and PSF measurement on one float32 exposure of 950 stars a megapixel, beside sep.extract.

Both run on the host whatever the backend. `find_stars` filters twice, finds peaks, measures centres and shapes, flags
what is no star and learns the field's FWHM on the way; sep.extract filters once, deblends and measures shapes. The
error of the list is the share of sources that it and the reference's do not have in common to 0.01 px; that of the PSF
its largest difference from the true one, over the peak.
"""

from __future__ import annotations

import os
from functools import cache

import numpy as np
import pytest

from astrid_gpu import simulate
from astrid_gpu.ops.psf_stamps import gaussian_stamp
from astrid_gpu.psf import measure_psf_pair
from astrid_gpu.stars import find_stars, match_stars
from benchmarks.harness import Work, installed

pytest.importorskip("pytest_benchmark")

PER_MEGAPIXEL = 950


@cache
def field(side):
    """Two exposures of one field less their true sky, their noise, and their true PSFs."""
    n = int(PER_MEGAPIXEL * side * side / 1e6)
    pair = simulate.pair(seed=5, shape=(side, side), n_stars=n, n_galaxies=n // 20, n_changes=0)
    images, noise = [], []
    for frame, exposure in zip(pair.frames, pair.exposures, strict=True):
        sky = exposure.sky
        images.append(frame.image.with_(data=(frame.image.data - sky).astype(np.float32), background_level=sky))
        noise.append(exposure.sky_noise)
    return images, noise, [frame.psf for frame in pair.frames]


def with_backend(name, call):
    """The call with a backend chosen as users choose it for the stages."""

    def run():
        before = os.environ.get("ASTRID_GPU_BACKEND")
        os.environ["ASTRID_GPU_BACKEND"] = name
        try:
            return call()
        finally:
            if before is None:
                del os.environ["ASTRID_GPU_BACKEND"]
            else:
                os.environ["ASTRID_GPU_BACKEND"] = before

    return run


def make_find(backend, side):
    """The stars of the science image; which pixels are saturated is known by then."""
    images, noise, _ = field(side)
    none = np.zeros((side, side), bool)
    return with_backend(backend, lambda: find_stars(images[0], background_rms=noise[0], saturated=none))


def make_psfs(backend, side):
    """Both PSFs from the stars of both images."""
    images, noise, _ = field(side)
    stars = [find_stars(image, background_rms=sigma) for image, sigma in zip(images, noise, strict=True)]
    variances = {
        f"variance_{role}": np.full((side, side), sigma**2)
        for role, sigma in zip(("science", "reference"), noise, strict=True)
    }
    return with_backend(backend, lambda: measure_psf_pair(*images, *stars, size=39, **variances))


def make_sep(side):
    """sep.extract with a matched filter."""
    import sep

    images, noise, _ = field(side)
    data = np.ascontiguousarray(np.nan_to_num(images[0].data))
    kernel = gaussian_stamp(2.7)
    return lambda: sep.extract(data, 1.5, err=noise[0], minarea=5, filter_kernel=kernel)


def missing(got, want):
    """Share of the sources of two lists that are not the same source."""
    ia, _ = match_stars(got, want, radius=0.01)
    return 1 - 2 * len(ia) / max(len(got) + len(want), 1)


def misfit(got, true):
    """Largest difference of two PSFs from the true ones, over the peak."""
    worst = 0.0
    for psf, model in zip((measured.psf for measured in got), true, strict=True):
        half = min(psf.data.shape[0], model.data.shape[0]) // 2
        a, b = (p[tuple(slice(n // 2 - half, n // 2 + half + 1) for n in p.shape)] for p in (psf.data, model.data))
        worst = max(worst, float(np.abs(a / a.sum() - b / b.sum()).max() / b.max()))
    return worst


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_find_stars(bench, backend):
    """The compiled twins and the reference, beside sep.extract."""
    if backend == "numba" and not installed("numba"):
        pytest.skip("Numba is not installed")
    side = 512 if bench.quick else 2048
    want = make_find("numpy", side)()
    rivals = {"sep.extract": make_sep(side)} if installed("sep") else {}
    work = Work(make_find, {"backend": backend, "side": side}, {"side": 256})
    bench.row("find_stars", backend, f"{side} x {side}", work, rivals=rivals, tolerance=2e-3,
              error=lambda got: missing(got, want), error_of="not the reference's", pixels=side * side,
              moved=5e-6 * side * side, notes=lambda got: {"sources": len(got)})  # fmt: skip


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_psf_pair(bench, backend):
    """Both PSFs of a pair on 80 stars."""
    if backend == "numba" and not installed("numba"):
        pytest.skip("Numba is not installed")
    side = 512 if bench.quick else 2048
    true = field(side)[2]
    work = Work(make_psfs, {"backend": backend, "side": side}, {"side": 256})
    bench.row("PSFs of a pair", backend, f"{side} x {side}", work, tolerance=0.03,
              error=lambda got: misfit(got, true), error_of="peak", pixels=2 * side * side,
              notes=lambda got: {"stars": got[0].psf.n_stars})  # fmt: skip
