"""`convolve`: what the options mean, on arrays small enough to check by eye, and every refusal."""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.errors import InputError, ShapeMismatchError
from astrid_gpu.ops import convolve as ops


def convolve(*args, **kwargs):
    return ag.convolve(*args, backend="numpy", **kwargs)


def test_the_kernel_is_flipped():
    image = np.zeros((1, 7))
    image[0, 3] = 1.0
    kernel = [[0.0, 1.0, 2.0]]  # a true convolution paints the kernel as it is; a correlation would mirror it
    assert convolve(image, kernel, normalize=False).tolist() == [[0, 0, 0, 1, 2, 0, 0]]


def test_the_centre_of_an_even_kernel_is_the_pixel_after_the_middle():
    image = np.zeros((6, 6))
    image[2, 3] = 1.0
    kernel = np.arange(1.0, 9.0).reshape(2, 4)
    out = convolve(image, kernel, boundary="zero", normalize=False)
    assert out[1:3, 1:5].tolist() == kernel.tolist()  # kernel[1, 2] lands on the source
    assert out.sum() == kernel.sum()


@pytest.mark.parametrize(("boundary", "expected"), [("reflect", [1, 1, 2]), ("zero", [0, 1, 2]), ("wrap", [4, 1, 2])])
def test_what_lies_outside(boundary, expected):
    image = np.array([[1.0, 2.0, 3.0, 4.0]])
    shifted = convolve(image, [[0, 0, 1]], boundary=boundary)  # every pixel takes its left neighbour
    assert shifted[0, :3].tolist() == expected


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("side", [1, 2, 3, 8, 13])
@pytest.mark.parametrize(("boundary", "mode"), [("reflect", "symmetric"), ("wrap", "wrap"), ("zero", "constant")])
def test_border_of_any_width_is_numpy_pad(n, side, boundary, mode):
    values = np.arange(1.0, n + 1)
    where = ops.border_index(n, side, boundary)
    fetched = np.where(where >= 0, values[where], 0)
    np.testing.assert_array_equal(fetched, np.pad(values, (side - 1 - side // 2, side // 2), mode=mode))
    stack = np.arange(1.0, 3 * n + 1).reshape(1, 3, n)
    rows = ops.border_index(3, 4, boundary)
    padded = np.pad(stack[0], ((1, 2), (side - 1 - side // 2, side // 2)), mode=mode)
    np.testing.assert_array_equal(ops.border(stack, rows, where)[0], padded)


def test_normalize_divides_by_the_sum():
    image = np.full((8, 8), 3.0)
    kernel = np.ones((3, 3))
    np.testing.assert_allclose(convolve(image, kernel), 3.0, rtol=1e-14)
    np.testing.assert_allclose(convolve(image, kernel, normalize=False), 27.0, rtol=1e-14)


def test_a_delta_changes_nothing(rng):
    image = rng.normal(size=(9, 11))
    delta = np.zeros((5, 5))
    delta[2, 2] = 1.0
    np.testing.assert_array_equal(convolve(image, delta, normalize=False), image)


def test_interpolation_takes_the_weighted_mean_of_good_pixels():
    image = np.array([[1.0, np.nan, 4.0]])
    out = convolve(image, [[1.0, 1.0, 2.0]], boundary="zero")
    # middle: (1 * 4 + 2 * 1) / 3; right: (1 * 0 + 1 * 4) / 2, its left neighbour, weight 2, being bad
    np.testing.assert_allclose(out[0], [(0 * 2 + 1) / 3, (4 + 2) / 3, 4 / 2], rtol=1e-14)


def test_interpolation_keeps_the_sum_of_the_kernel():
    image = np.array([[6.0, np.nan, 6.0]])
    out = convolve(image, [[1.0, 1.0, 1.0]], boundary="wrap", normalize=False)
    np.testing.assert_allclose(out, 18.0, rtol=1e-14)


def test_deep_inside_a_hole_is_nan(rng):
    image = rng.normal(size=(40, 40))
    image[10:25, 10:25] = np.nan
    for side in (5, 25):
        assert np.isnan(convolve(image, np.ones((side, side)))[17, 17]) == (side == 5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [(3, 4), (21, 22)])
def test_propagate_marks_what_the_kernel_touches(rng, bad, side):
    image = rng.normal(size=(50, 60))
    image[20, 30] = bad
    kernel = rng.random(side)
    out = convolve(image, kernel, nan="propagate")
    delta = np.where(np.isfinite(image), 0.0, 1.0)
    touched = convolve(delta, kernel, boundary="zero", normalize=False) > 1e-12
    assert touched.sum() == side[0] * side[1]
    np.testing.assert_array_equal(np.isnan(out), touched)
    clean = convolve(np.where(np.isfinite(image), image, 0.0), kernel)
    np.testing.assert_allclose(out[~touched], clean[~touched], rtol=0, atol=1e-13)


def test_only_the_images_with_bad_pixels_change(rng):
    images = rng.normal(size=(3, 20, 20))
    kernels = rng.random((3, 3, 3))
    images[1, 4, 4] = np.nan
    out = convolve(images, kernels)
    for k in (0, 1, 2):
        np.testing.assert_allclose(out[k], convolve(images[k], kernels[k]), rtol=1e-13)


def test_masked_arrays_and_integers_and_lists():
    image = np.ma.masked_array([[1, 100, 3]], mask=[[0, 1, 0]])
    np.testing.assert_allclose(convolve(image, [[1, 1, 1]]), [[1, 2, 3]], rtol=1e-14)
    np.testing.assert_allclose(convolve([[1, 2, 6]], [[1, 1, 1]])[0, 1], 3, rtol=1e-14)


def test_the_input_is_left_alone(rng):
    image = rng.normal(size=(12, 12))
    image[3, 3] = np.nan
    before = image.copy()
    image.flags.writeable = False
    kernel = np.ones((3, 3))
    kernel.flags.writeable = False
    convolve(image, kernel)
    np.testing.assert_array_equal(image, before)


def test_types_and_shapes_out(rng):
    kernel = np.ones((3, 3))
    for given, expected in ((np.float32, np.float32), (np.float64, np.float64), (np.int16, np.float64)):
        for shape in ((6, 7), (1, 6, 7), (2, 6, 7)):
            out = convolve(np.ones(shape, given), kernel)
            assert out.dtype == expected
            assert out.shape == shape
    assert ag.convolve(np.ones((6, 7)), kernel, backend="numba").dtype == np.float32


def test_big_endian_and_strided_input(rng):
    image = rng.normal(size=(20, 30))
    kernel = rng.random((3, 5))
    expected = convolve(np.ascontiguousarray(image[::2, ::-1]), kernel)
    np.testing.assert_array_equal(convolve(image[::2, ::-1], kernel), expected)
    np.testing.assert_array_equal(convolve(image.astype(">f8")[::2, ::-1], kernel), expected)


def test_separable_kernels_are_found():
    y = np.exp(-0.5 * (np.arange(9) - 4.0) ** 2)
    column, row = ops.separate(np.outer(y, y[1:])[None], 1e-12)
    np.testing.assert_allclose(column * row, np.outer(y, y[1:])[None], rtol=4 * np.finfo(float).eps)
    assert ops.separate(np.outer(y, y).astype(np.float32)[None].astype(float), 4 * np.finfo(np.float32).eps)
    assert ops.separate(np.zeros((1, 3, 3)), 1e-12) is None
    ring = np.ones((1, 3, 3))
    ring[0, 1, 1] = 0.0
    assert ops.separate(ring, 1e-12) is None
    assert ops.separate(np.concatenate([np.ones((1, 3, 3)), ring]), 1e-12) is None


@pytest.mark.parametrize(
    ("kernel", "error", "text"),
    [
        ([[1.0, np.nan]], InputError, "1 NaN or infinite"),
        (np.ones(3), ShapeMismatchError, r"must be \(ky, kx\)"),
        (np.ones((0, 3)), ShapeMismatchError, "shape"),
        (np.ones((3, 3, 3)), ShapeMismatchError, "3 kernels for 2 image"),
        ([[1.0, -1.0]], InputError, "normalize=False"),
        (np.ones((3, 3), complex), InputError, "real numbers"),
    ],
)
def test_bad_kernels_are_refused(kernel, error, text):
    with pytest.raises(error, match=text):
        convolve(np.ones((2, 8, 8)), kernel)


def test_bad_options_and_images_are_refused():
    with pytest.raises(InputError, match="boundary must be one of reflect, zero, wrap"):
        convolve(np.ones((4, 4)), [[1.0]], boundary="mirror")
    with pytest.raises(InputError, match="nan must be one of"):
        convolve(np.ones((4, 4)), [[1.0]], nan="fill")
    with pytest.raises(ShapeMismatchError, match="images"):
        convolve(np.ones(4), [[1.0]])
    with pytest.raises(InputError, match="cannot be interpolated"):
        convolve(np.array([[1.0, np.nan, 2.0]]), [[1.0, 0.0, -1.0]], normalize=False)


def test_a_difference_kernel_works_without_bad_pixels():
    image = np.array([[1.0, 4.0, 9.0]])
    assert convolve(image, [[1.0, 0.0, -1.0]], normalize=False)[0, 1] == 9.0 - 1.0


class _DeviceArray:
    """What the registry takes for an array on a GPU."""

    __cuda_array_interface__ = None


def test_mixed_libraries_are_refused():
    with pytest.raises(TypeError, match="images is numpy, kernel is cupy"):
        convolve(np.ones((4, 4)), _DeviceArray())


def test_a_bright_pedestal_costs_no_precision_in_the_fft(rng):
    """The mean is taken out before the transform: the error scales with what varies, not with the level."""
    varying = rng.normal(size=(64, 64)).astype(np.float32)
    image = varying + np.float32(4096.0)
    kernel = rng.random((23, 23))
    kernel /= kernel.sum()
    rows, columns = (ops.border_index(64, 23, "reflect") for _ in range(2))
    got = ops.convolve_fft(image[None], kernel[None], rows, columns, ag.get_backend("numpy"))[0]
    truth = ops.convolve(image[None].astype(np.float64), kernel[None], rows, columns)[0]
    # one rounding of the level when it is put back: half a unit in the last place of 4096
    assert np.abs(got - truth).max() < 1.5 * np.spacing(np.float32(4096.0))
