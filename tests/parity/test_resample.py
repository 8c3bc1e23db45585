"""Resampling: the reference against scipy, the fused operations against the reference, the public function's edges."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from astrid_gpu import _scipy_resample
from astrid_gpu.backends import get_backend
from astrid_gpu.engine.resample import resample
from astrid_gpu.errors import InputError, ShapeMismatchError
from astrid_gpu.ops import resample as ops

numba = pytest.importorskip("numba")
OPS = get_backend("numba").ops
SHAPES = [(1, 5), (7, 6), (40, 53)]


def places(rng, shape, size=(30, 31)):
    """Positions in and round a frame, some on pixel centres, one undefined."""
    y, x = rng.uniform(-2, shape[0] + 1, size), rng.uniform(-2, shape[1] + 1, size)
    y[0, 0] = np.nan
    y[1], x[2] = np.rint(y[1]), np.rint(x[2])
    return y, x


@pytest.mark.parametrize(("kernel", "order"), [("bilinear", 1), ("cubic", 3), ("quintic", 5)])
def test_reference_is_scipys_spline(rng, kernel, order):
    image = rng.normal(size=(40, 53))
    y, x = places(rng, image.shape)
    got = ops.resample(image[None], y, x, kernel)[0]
    wanted = ndimage.map_coordinates(image, [np.nan_to_num(y), x], order=order, mode="mirror")
    inside = (y >= -0.5) & (y <= 39.5) & (x >= -0.5) & (x <= 52.5)
    np.testing.assert_allclose(got[inside], wanted[inside], atol=1e-11)
    assert np.isnan(got[~inside]).all()
    if order > 1:
        wanted = ndimage.spline_filter(image, order, mode="mirror")
        np.testing.assert_allclose(ops.spline_coefficients(image[None], order)[0], wanted, atol=1e-11)


def test_lanczos_is_the_windowed_sinc_of_sum_one():
    taps = dict(ops.tap_weights("lanczos3", np.array(0.3)))
    raw = {k: np.sinc(0.3 - k) * np.sinc((0.3 - k) / 3) for k in range(-2, 4)}
    assert sum(taps.values()) == pytest.approx(1.0)
    assert taps[2] / taps[-1] == pytest.approx(raw[2] / raw[-1])


@pytest.mark.parametrize("fused", [OPS["resample"], _scipy_resample.resample], ids=["numba", "scipy"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kernel", list(ops.KERNELS))
def test_fused_equals_reference(rng, kernel, shape, dtype, fused):
    images = rng.normal(size=(2, *shape)).astype(dtype)
    y, x = places(rng, shape)
    bad = rng.random(images.shape) < 0.02
    # The inverse of the quintic's filter grows rounding some fifty-fold.
    tolerance = 2e-5 if dtype == np.float32 else 1e-10
    for mask in (None, bad):
        for beyond in (0.5, 1.5):
            got = fused(images, y, x, kernel, mask, beyond)
            wanted = ops.resample(images.astype(float), y, x, kernel, mask, beyond)
            assert got.dtype == dtype
            np.testing.assert_allclose(got, wanted, atol=tolerance)


@pytest.mark.parametrize(
    ("fused", "read"),
    [(OPS["spline_coefficients"], OPS["resample"]), (_scipy_resample.spline_coefficients, _scipy_resample.resample)],
    ids=["numba", "scipy"],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("degree", [3, 5])
def test_fused_coefficients(rng, degree, dtype, fused, read):
    images = rng.normal(size=(2, 33, 70)).astype(dtype)
    got = fused(images, degree)
    wanted = ops.spline_coefficients(images.astype(float), degree)
    np.testing.assert_allclose(got, wanted, atol=1e-4 if dtype == np.float32 else 1e-11)
    y, x = places(rng, (33, 70))
    ready = read(got, y, x, "quintic" if degree == 5 else "cubic", None, 0.5, True)
    np.testing.assert_array_equal(ready, read(images, y, x, "quintic" if degree == 5 else "cubic"))


def test_fused_areas(rng):
    y, x = np.mgrid[:50, :41].astype(float)
    y, x = 1.2 * y - 0.1 * x + 0.002 * y * x - 3, 0.9 * x + 0.05 * y - 2
    y[3, 4] = np.nan
    for shape in ((30, 40), (60, 20)):
        got, wanted = OPS["map_area"](y, x, shape, 6.0), ops.map_area(y, x, shape, 6.0)
        np.testing.assert_allclose(got[0], wanted[0], rtol=1e-12)
        np.testing.assert_array_equal(got[1], wanted[1])


@pytest.mark.parametrize("kernel", list(ops.KERNELS))
def test_bad_pixels_give_nan_where_they_are_felt_and_ring_nowhere(backend, kernel):
    y, x = np.mgrid[:60, :60].astype(float)
    image = (100 + 0.5 * y - 0.2 * x).astype(np.float32)
    image[30, 20] = np.nan
    out = backend.to_host(resample(image, y + 0.3, x - 0.4, kernel=kernel, backend=backend))
    half = {"nearest": 0, "bilinear": 0, "cubic": 1}.get(kernel, 2)
    lost = np.argwhere(np.isnan(out[3:-3, 3:-3])) + 3
    size = 1 if kernel == "nearest" else 2 * half + 2
    assert len(lost) == size**2
    inner = np.s_[8:-8, 8:-8]
    wanted = 100 + 0.5 * (y + 0.3) - 0.2 * (x - 0.4)
    error = np.abs(out - wanted)[inner]
    assert np.nanmax(error) < (0.4 if kernel == "nearest" else 0.02)  # Lanczos ripples on a slope by 1 %


def test_stacks_and_words(rng):
    images = rng.normal(size=(3, 20, 30))
    y, x = np.mgrid[:5, :6] + 3.25
    together = resample(images, y, x, kernel="quintic", backend="numpy")
    alone = [resample(image, y, x, kernel="quintic", backend="numpy") for image in images]
    np.testing.assert_array_equal(together, alone)
    with pytest.raises(InputError, match="kernel must be one of nearest, bilinear"):
        resample(images, y, x, kernel="sinc")
    with pytest.raises(ShapeMismatchError, match="two-dimensional and of one shape"):
        resample(images, y, x[:2])
