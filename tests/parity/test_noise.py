"""The fused smoothing, variance and dilation of the CPU against ops/noise.py and ops/mask.py."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu.backends import get_backend
from astrid_gpu.ops import mask as mask_ops
from astrid_gpu.ops import noise as noise_ops

numba = pytest.importorskip("numba")
OPS = get_backend("numba").ops
# Sums of up to 41 x 41 positive weights in float32, and a fourth power: a few dozen roundings.
ROUNDING = {np.dtype(np.float32): 64 * 6e-8, np.dtype(np.float64): 64 * 1.2e-16}


def scene(rng, shape, dtype):
    image = rng.normal(0, 3, shape)
    image[shape[0] // 2, shape[1] // 2] = 4e4
    bad = rng.random(shape) < 0.05
    bad[:, shape[1] // 3] = True
    image[bad] = np.nan
    return image.astype(dtype), bad


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "width"), [((1, 1), 0.8), ((5, 4), 3.0), ((61, 67), 1.7), ((300, 41), 5.0)])
def test_smooth_good(rng, shape, width, dtype):
    image, bad = scene(rng, shape, dtype)
    got = OPS["smooth_good"](image, bad, width, 0.1)
    wanted = noise_ops.smooth_good(image.astype(float), bad, width, 0.1)
    assert got.dtype == image.dtype
    largest = np.nanmax(np.abs(image), initial=1.0)
    np.testing.assert_allclose(got, wanted, atol=ROUNDING[image.dtype] * largest, rtol=0)


@pytest.mark.parametrize("rows", [[], [0], [299], [127, 128], [20, 150, 151]])
def test_rows_without_bad_pixels(rng, rows):
    """They go a shorter way, up to and from the rows in whose reach a bad pixel is."""
    image = rng.normal(0, 3, (300, 41)).astype(np.float32)
    bad = np.zeros(image.shape, bool)
    bad[rows, 17] = True
    image[bad] = np.nan
    largest = np.nanmax(np.abs(image))
    got, wanted = (f(image, bad, 2.1, 0.1) for f in (OPS["smooth_good"], noise_ops.smooth_good))
    np.testing.assert_allclose(got, wanted, atol=ROUNDING[image.dtype] * largest, rtol=0)
    got, wanted = (f(image, 3.0, 1.6, bad) for f in (OPS["source_variance"], noise_ops.source_variance))
    np.testing.assert_allclose(got, wanted, rtol=8 * ROUNDING[image.dtype])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1), (61, 67), (300, 41)])
def test_source_variance(rng, shape, dtype):
    image, bad = scene(rng, shape, dtype)
    sigma = np.linspace(2.0, 4.0, image.size).reshape(shape).astype(dtype)
    for noise in (3.0, sigma):
        got = OPS["source_variance"](image, noise, 1.6, bad)
        wanted = noise_ops.source_variance(image, noise, 1.6, bad)
        assert got.dtype == image.dtype
        np.testing.assert_allclose(got, wanted, rtol=8 * ROUNDING[image.dtype])


@pytest.mark.parametrize("radius", [0, 1, 2, 5, 8, 64, 400])
@pytest.mark.parametrize("shape", [(1, 1), (7, 9), (300, 65)])
def test_dilate(rng, shape, radius):
    for share in (0.0, 0.003, 0.3):
        mask = rng.random(shape) < share
        grown = OPS["dilate"](mask, radius)
        assert grown.dtype == bool
        np.testing.assert_array_equal(grown, mask_ops.dilate(mask, radius))
