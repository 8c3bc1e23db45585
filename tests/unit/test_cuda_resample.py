"""Resampling by the CUDA kernels against the reference: every kernel, small frames, mirrors, bad pixels, both types."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu.ops import resample as reference
from tests.cuda_host import build, emu


@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 5), (7, 6), (40, 53)], ids=str)
@pytest.mark.parametrize("kernel", list(reference.KERNELS))
def test_equal_the_reference(kernel, shape, real, rng):
    images = rng.normal(size=(2, *shape)).astype(real)
    y, x = rng.uniform(-2, shape[0] + 1, (30, 31)), rng.uniform(-2, shape[1] + 1, (30, 31))
    y[0, 0], y[1], x[2] = np.nan, np.rint(y[1]), np.rint(x[2])
    # The inverse of the quintic's filter grows rounding some fifty-fold.
    tolerance = 2e-5 if real is np.float32 else 1e-10
    b = emu.backend(2, build.UBSAN if shape == (7, 6) else ())
    for bad in (None, rng.random(images.shape) < 0.02):
        for beyond in (0.5, 1.5):
            got = b.ops["resample"](images, y, x, kernel, bad, beyond)
            wanted = reference.resample(images.astype(float), y, x, kernel, bad, beyond)
            assert got.dtype == real
            np.testing.assert_allclose(got, wanted, atol=tolerance)


def test_coefficients_are_taken_as_they_are(rng):
    images = rng.normal(size=(1, 20, 21))
    y, x = rng.uniform(0, 19, (2, 9, 9))
    ready = reference.spline_coefficients(images, 3)
    b = emu.backend()
    np.testing.assert_allclose(
        b.ops["resample"](ready, y, x, "cubic", None, 0.5, True), b.ops["resample"](images, y, x, "cubic"), atol=1e-12
    )


def test_shapes_that_differ_are_refused(rng):
    images, maps = np.zeros((1, 8, 8), np.float32), np.zeros((3, 4))
    resample = emu.backend().ops["resample"]
    with pytest.raises(ValueError, match="x_map has shape"):
        resample(images, maps, maps[:2], "bilinear")
    with pytest.raises(ValueError, match="bad has shape"):
        resample(images, maps, maps, "bilinear", np.zeros((1, 8, 7), bool))
