"""Windows cut on every backend equal slices of a padded stack."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu.engine.peaks import gather
from astrid_gpu.ops import stamps as stamp_ops


def sliced(images, image, y, x, size, fill):
    half = size // 2 + 50  # places up to 50 pixels beyond the frame
    padded = np.pad(images, ((0, 0), (half, half), (half, half)), constant_values=fill)
    a = half - size // 2
    corners = zip(image, y + a, x + a, strict=True)
    return np.stack([padded[i, j : j + size, k : k + size] for i, j, k in corners])


@pytest.mark.parametrize("size", [1, 3, 8, 21, 63])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.bool_])
@pytest.mark.parametrize("shape", [(40, 31), (17, 53), (64, 64)])
def test_equals_slices(rng, backend, dtype, shape, size):
    images = (rng.normal(size=(3, *shape)) * 90).astype(dtype)
    m = 40
    image = rng.integers(0, 3, m)
    y, x = rng.integers(-45, shape[0] + 45, m), rng.integers(-45, shape[1] + 45, m)
    fill = np.nan if images.dtype.kind == "f" else 1
    got = gather(backend, backend.asarray(images), image, y, x, size, fill)
    assert got.dtype == images.dtype
    np.testing.assert_array_equal(got, sliced(images, image, y, x, size, fill))


def test_many_windows(rng, backend):
    images = rng.normal(size=(2, 70, 90)).astype(np.float32)
    where = (rng.integers(0, 2, 900), rng.integers(0, 70, 900), rng.integers(0, 90, 900))
    got = gather(backend, backend.asarray(images), *where, 21, 0.5)
    np.testing.assert_array_equal(got, sliced(images, *where, 21, 0.5))


def test_nothing_to_cut(backend):
    none = np.zeros(0, np.int64)
    got = gather(backend, backend.asarray(np.zeros((2, 9, 9), np.float32)), none, none, none, 5, 0.0)
    assert got.shape == (0, 5, 5)
    assert got.dtype == np.float32


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_cuda_under_every_schedule(rng, seed):
    emulator = pytest.importorskip("tests.cuda_host.emu")
    from tests.cuda_host import build

    images = rng.normal(size=(2, 33, 41)).astype(np.float32)
    where = (rng.integers(0, 2, 9), rng.integers(0, 33, 9), rng.integers(0, 41, 9))
    got = emulator.backend(seed, build.UBSAN).ops["gather_stamps"](images, *where, 7, -1.0)
    np.testing.assert_array_equal(got, stamp_ops.gather_stamps(images, *where, 7, -1.0))
