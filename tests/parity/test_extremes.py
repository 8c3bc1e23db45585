"""One look at each pixel: finite or not, smallest, largest."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu.engine._frames import extremes
from astrid_gpu.ops import extremes as reference


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (3, 64, 50), (1, 700, 801)])
def test_equal_the_reference(backend, shape, dtype):
    images = np.random.default_rng(4).normal(size=shape).astype(dtype)
    got = extremes(backend, backend.asarray(images))
    for one, other in zip(got, reference.extremes(images), strict=True):
        np.testing.assert_array_equal(one, other)
    assert got[0].all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (20, 37), (49, 40)])
def test_one_pixel_that_is_not_finite_is_seen(backend, value, place):
    images = np.ones((2, 50, 41), np.float32)
    images[1][place] = value
    finite, _, _ = extremes(backend, backend.asarray(images))
    np.testing.assert_array_equal(finite, [True, False])
