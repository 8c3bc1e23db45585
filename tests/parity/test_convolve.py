"""`convolve` on every backend against scipy.ndimage and astropy, and each way of doing it against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

import astrid_gpu as ag
from astrid_gpu.engine import convolve as engine
from astrid_gpu.ops import convolve as ops

SHAPES = [(33, 40), (64, 64), (31, 5), (1, 37), (53, 97)]
SIDES = [(1, 1), (3, 3), (4, 6), (1, 9), (8, 1), (5, 8), (17, 19), (25, 23), (41, 38)]
SCIPY_MODE = {"reflect": "reflect", "zero": "constant", "wrap": "wrap"}


def tolerance(dtype, image, kernel, share=1.0):
    """Bound on the rounding of a sum: half a unit in the last place of sum |k v| for each term, doubled.

    Doubled for the rounding of the taps themselves. An FFT of N pixels stays below it: its error grows as log N.
    `share`: the kernel's weight on good pixels, which values are divided by.
    """
    terms = max(kernel.size, np.log2(image.size) * 4)
    largest = np.abs(image[np.isfinite(image)]).max() * np.abs(kernel).sum()
    return terms * np.finfo(dtype).eps * largest / share


def on(backend, array, dtype=None):
    return backend.asarray(np.asarray(array, dtype=dtype))


@pytest.mark.parametrize("boundary", SCIPY_MODE)
@pytest.mark.parametrize("sides", SIDES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_scipy(backend, rng, shape, sides, boundary):
    image, kernel = rng.normal(100, 10, shape), rng.random(sides)
    kernel[rng.random(sides) < 0.2] = 0.0
    kernel[0, 0] = 1.0
    got = backend.to_host(ag.convolve(on(backend, image), on(backend, kernel), boundary=boundary, backend=backend))
    expected = ndimage.convolve(image, kernel / kernel.sum(), mode=SCIPY_MODE[boundary])
    assert got.dtype == backend.float_dtype
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance(got.dtype, image, kernel / kernel.sum()))


@pytest.mark.filterwarnings("ignore:.*nan_treatment")  # astropy's word on the hole larger than the kernel
@pytest.mark.parametrize(("boundary", "word"), [("zero", "fill"), ("wrap", "wrap")])
@pytest.mark.parametrize("sides", [(5, 7), (21, 23)], ids=str)
@pytest.mark.parametrize("normalize", [True, False])
def test_nan_interpolation_against_astropy(backend, rng, sides, boundary, word, normalize):
    from astropy.convolution import convolve as astropy_convolve

    image, kernel = rng.normal(100, 10, (40, 51)), rng.random(sides) + 0.1
    image[5:20, 8:24] = np.nan
    image[0, 0] = image[39, 50] = np.nan
    image[rng.random(image.shape) < 0.05] = np.nan
    expected = astropy_convolve(
        image, kernel, boundary=word, nan_treatment="interpolate", normalize_kernel=normalize, preserve_nan=False
    )
    given = on(backend, image)
    out = ag.convolve(given, on(backend, kernel), boundary=boundary, normalize=normalize, backend=backend)
    got = backend.to_host(out)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    good = ndimage.convolve(np.isfinite(image) * 1.0, kernel / kernel.sum(), mode=SCIPY_MODE[boundary])
    share = good[np.isfinite(expected)].min()
    taps = kernel / kernel.sum() if normalize else kernel
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance(got.dtype, image, taps, share))


@pytest.mark.parametrize("boundary", SCIPY_MODE)
def test_nan_interpolation_is_a_ratio_of_two_convolutions(backend, rng, boundary):
    """Also for "reflect", which astropy does not have, and for infinities."""
    image, kernel = rng.normal(5, 1, (30, 41)), rng.random((5, 4))
    image[rng.random(image.shape) < 0.2] = np.inf
    good = np.isfinite(image)
    outside = 1.0 if boundary == "zero" else 0.0
    mode = SCIPY_MODE[boundary]
    weight = ndimage.convolve(good * 1.0, kernel, mode=mode, cval=outside)
    expected = ndimage.convolve(np.where(good, image, 0.0), kernel, mode=mode) / weight
    got = backend.to_host(ag.convolve(on(backend, image), on(backend, kernel), boundary=boundary, backend=backend))
    share = (weight / kernel.sum()).min()
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance(got.dtype, image, kernel / kernel.sum(), share))


@pytest.mark.parametrize("sides", [(5, 5), (27, 27)], ids=str)
def test_a_stack_is_its_images(backend, rng, sides):
    images, kernels = rng.normal(size=(3, 37, 29)), rng.random((3, *sides))
    images[1, 3, 4] = np.nan
    together = backend.to_host(ag.convolve(on(backend, images), on(backend, kernels), backend=backend))
    for k in range(3):
        alone = backend.to_host(ag.convolve(on(backend, images[k]), on(backend, kernels[k]), backend=backend))
        atol = tolerance(alone.dtype, images, kernels[k] / kernels[k].sum(), 0.5)
        np.testing.assert_allclose(together[k], alone, rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("boundary", SCIPY_MODE)
@pytest.mark.parametrize("kernels", [1, 2])
@pytest.mark.parametrize("sides", [(3, 3), (6, 1), (1, 35), (18, 33), (40, 70)], ids=str)
def test_the_direct_sum(backend, rng, dtype, boundary, kernels, sides):
    """The fused operation, in both types, with kernels beyond its tiles and the image."""
    images, kernel = rng.normal(size=(2, 35, 66)).astype(dtype), rng.normal(size=(kernels, *sides))
    rows, columns = ops.border_index(35, sides[0], boundary), ops.border_index(66, sides[1], boundary)
    expected = ops.convolve(images.astype(np.float64), kernel, rows, columns)
    op = backend.ops.get("convolve")
    arguments = (on(backend, images), kernel, rows, columns)
    got = backend.to_host(op(*arguments) if op else ops.convolve(*arguments, xp=backend.xp))
    assert got.dtype == dtype
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance(dtype, images, kernel[0]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("boundary", SCIPY_MODE)
@pytest.mark.parametrize("kernels", [1, 2])
@pytest.mark.parametrize("sides", [(3, 3), (6, 1), (1, 35), (18, 33), (40, 70)], ids=str)
def test_a_column_and_a_row(backend, rng, dtype, boundary, kernels, sides):
    images = rng.normal(size=(2, 35, 300)).astype(dtype)
    column, row = rng.normal(size=(kernels, sides[0], 1)), rng.normal(size=(kernels, 1, sides[1]))
    rows, columns = ops.border_index(35, sides[0], boundary), ops.border_index(300, sides[1], boundary)
    expected = ops.convolve_separable(images.astype(np.float64), column, row, rows, columns)
    got = backend.to_host(engine._separable(backend, on(backend, images), column, row, boundary))
    assert got.dtype == dtype
    for k in range(2):
        kernel = (column * row)[k % kernels]
        np.testing.assert_allclose(got[k], expected[k], rtol=0, atol=tolerance(dtype, images, kernel))


@pytest.mark.parametrize("boundary", SCIPY_MODE)
@pytest.mark.parametrize("kernels", [1, 2])
@pytest.mark.parametrize("shape", [(35, 66), (1, 1), (300, 129), (129, 300)], ids=str)
@pytest.mark.parametrize("sides", [(3, 3), (6, 1), (1, 35), (18, 33), (40, 70), (25, 128)], ids=str)
def test_the_fft_down_the_columns(rng, boundary, kernels, shape, sides):
    """The CPU's own: borders wider than the frame, tiles that end beyond it, a kernel per image, a level of 1000."""
    twin = pytest.importorskip("astrid_gpu.kernels.convolve_numba")
    images, kernel = rng.normal(1000, 10, (2, *shape)).astype(np.float32), rng.normal(size=(kernels, *sides))
    kernel /= np.abs(kernel).sum(axis=(1, 2), keepdims=True)
    rows, columns = ops.border_index(shape[0], sides[0], boundary), ops.border_index(shape[1], sides[1], boundary)
    expected = ops.convolve(images.astype(np.float64), kernel, rows, columns)
    got = twin.convolve_fft(images, kernel, rows, columns)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=0, atol=30 * np.finfo(np.float32).eps * 1000)
    assert twin.convolve_fft(images.astype(np.float64), kernel, rows, columns) is None


@pytest.mark.parametrize("boundary", SCIPY_MODE)
@pytest.mark.parametrize("sides", [(3, 4), (21, 16)], ids=str)
def test_three_ways_to_one_result(backend, rng, boundary, sides):
    """Direct, as a product of a column and a row, and by FFT."""
    images = rng.normal(size=(2, 40, 53)).astype(backend.float_dtype)
    column, row = rng.random((1, sides[0], 1)), rng.random((1, 1, sides[1]))
    kernel = column * row
    given = on(backend, images)
    direct, by_fft = (f(backend, given, kernel, boundary) for f in (engine._direct, engine._by_fft))
    separate = engine._direct(backend, engine._direct(backend, given, column, boundary), row, boundary)
    for other in (by_fft, separate):
        atol = 2 * tolerance(images.dtype, images, kernel)
        np.testing.assert_allclose(backend.to_host(other), backend.to_host(direct), rtol=0, atol=atol)


@pytest.mark.parametrize("boundary", SCIPY_MODE)
@pytest.mark.parametrize("sides", [(25, 23), (2, 31), (70, 1)], ids=str)
def test_the_fft_in_tiles(backend, rng, boundary, sides):
    """Frames of several tiles, the last ones not full, each image with its own kernel."""
    images = rng.normal(50, 10, (2, 531, 900)).astype(backend.float_dtype)
    kernels = rng.random((2, *sides))
    kernels /= kernels.sum(axis=(1, 2), keepdims=True)
    cut = [ops.tile_axis(n, side, backend) for n, side in zip((531, 900), sides, strict=True)]
    assert max(axis.tiles for axis in cut) >= 2
    assert all(axis.tiles * axis.step >= n for axis, n in zip(cut, (531, 900), strict=True))
    got = backend.to_host(engine._by_fft(backend, on(backend, images), kernels, boundary))
    for k in range(2):
        expected = ndimage.convolve(images[k].astype(float), kernels[k], mode=SCIPY_MODE[boundary])
        atol = tolerance(images.dtype, images, kernels[k])
        np.testing.assert_allclose(got[k], expected, rtol=0, atol=atol)


def test_the_way_that_is_chosen(backend, rng):
    gauss = np.exp(-0.5 * np.linspace(-3, 3, 31) ** 2)
    dtype = np.dtype(backend.float_dtype)
    has_op = backend.ops.get("convolve") is not None
    route = lambda kernel: engine._route(backend, kernel[None], dtype)[0]  # noqa: E731
    assert route(np.outer(gauss, gauss)) == ("separable" if has_op else "fft")
    assert route(np.outer(gauss[13:18], gauss[13:18])) == "separable"
    assert route(rng.random((3, 3))) == "direct"
    assert route(rng.random((41, 41))) == "fft"
