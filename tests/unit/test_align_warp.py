"""Resampling: flux, noise, masks and edges."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu._pixel_map import PixelMap, Polynomial, grid_map
from astrid_gpu._warp import KERNELS, shift_image, warp_image, warp_stamp
from astrid_gpu.flags import PixelFlag
from tests.unit.align_fields import scene


def linear(scale=1.0, rotation=0.0, centre=(80.0, 80.0), target_centre=(80.0, 80.0)):
    c, s = np.cos(rotation) * scale, np.sin(rotation) * scale

    def base(y, x):
        v, u = y - target_centre[0], x - target_centre[1]
        return centre[0] + c * v + s * u, centre[1] - s * v + c * u

    return PixelMap(base)


def warp(image, pixel_map, shape, mask=None, variance=None, kernel="spline5"):
    mask = np.zeros(image.shape, np.uint8) if mask is None else mask
    return warp_image((image, variance, mask), grid_map(pixel_map, shape), kernel=kernel)


# Largest error over the peak for a half-pixel shift in both axes; the docstring of _warp quotes these.
@pytest.mark.parametrize(
    ("kernel", "fwhm", "worst"),
    [("spline5", 2.0, 0.0042), ("spline5", 2.5, 0.0028), ("spline5", 3.5, 0.0005), ("spline3", 3.5, 0.0042)],
)
def test_half_pixel_shift_of_a_star(kernel, fwhm, worst):
    sigma = fwhm / 2.3548
    image = scene((65, 65), 32, 32, 1.0, sigma=sigma)
    truth = scene((65, 65), 31.5, 31.5, 1.0, sigma=sigma)
    out = warp(image, PixelMap(lambda y, x: (y + 0.5, x + 0.5)), (65, 65), kernel=kernel)
    assert np.nanmax(np.abs(out.data - truth)) < worst * truth.max()


@pytest.mark.parametrize(("scale", "rotation"), [(1.0, 0.3), (0.4, 0.1), (1.4, 0.0), (2.5, 0.2), (3.7, 1.0)])
def test_flux_and_position_are_kept(scale, rotation):
    size = int(161 / scale) | 1
    # Wide enough that its centroid does not depend on where it falls in a target pixel.
    image = scene((161, 161), 80.3, 80.2, 1e4, sigma=max(1.2, 0.8 * scale))
    out = warp(image, linear(scale, rotation, target_centre=(size // 2, size // 2)), (size, size))
    data = np.nan_to_num(out.data)
    assert out.area == pytest.approx(scale**2, rel=1e-9)
    assert data.sum() == pytest.approx(1e4, rel=1e-5)
    y, x = np.indices(data.shape)
    got = np.array([(data * y).sum(), (data * x).sum()]) / data.sum() - size // 2
    c, s = np.cos(rotation) * scale, np.sin(rotation) * scale
    wanted = np.linalg.solve(np.array([[c, s], [-s, c]]), [0.3, 0.2])
    np.testing.assert_allclose(got, wanted, atol=2e-3)


def test_distorted_map_conserves_flux_locally():
    """Where the map stretches, the sum over a star stays: A follows the local Jacobian."""
    polynomial = Polynomial(np.array([[80.0, 80, 0, 6, 2, 0], [80.0, 0, 80, 0, 3, 5]]), 2, (80.0, 80.0), 80.0)
    for y, x in ((40.0, 50.0), (110.0, 100.0)):
        image = scene((161, 161), y, x, 1e4, sigma=1.6)
        out = warp(image, PixelMap(None, polynomial), (161, 161))
        assert np.nansum(out.data) == pytest.approx(1e4, rel=1e-4)


@pytest.mark.parametrize(
    ("scale", "shift"), [(1.0, (0.5, 0.5)), (1.0, (0.1, 0.3)), (2.5, (0.2, 0.0)), (0.6, (0.0, 0.0))]
)
def test_variance_is_that_of_sums_and_the_factor_that_of_pixels(rng, scale, shift):
    n = 400
    size = int(n / scale)
    pixel_map = PixelMap(lambda y, x: (scale * y + shift[0], scale * x + shift[1]))
    out = warp(rng.normal(0, 3.0, (n, n)), pixel_map, (size, size), variance=np.full((n, n), 9.0))
    inner = slice(12, -12)
    data, variance = out.data[inner, inner], out.variance[inner, inner]
    # Neighbours correlate over about 3 x 3 target pixels (more when oversampled), which lowers the sample size.
    effective = data.size / (9 / min(scale, 1.0) ** 2)
    assert np.var(data) / np.mean(variance) == pytest.approx(out.noise_factor, rel=5 * np.sqrt(2 / effective))
    block = 16
    count = data.shape[0] // block
    trimmed = data[: count * block, : count * block].reshape(count, block, count, block)
    sums = trimmed.sum(axis=(1, 3))
    # A sum over 16 pixels a side still loses a kernel's width of power at its rim, some 4 %.
    assert np.var(sums) / (block**2 * np.mean(variance)) == pytest.approx(1, rel=5 * np.sqrt(2 / sums.size) + 0.04)


def test_masked_pixels_do_not_ring(rng):
    image = scene((80, 80), [20.2, 50.7], [30.1, 44.4], [3e4, 5e4], sky=100.0)
    damaged, mask = image.copy(), np.zeros(image.shape, np.uint8)
    damaged[60, 15], mask[60, 15] = 1e8, 4
    damaged[10, 60] = np.nan
    damaged[48:54, 42:47], mask[48:54, 42:47] = 1e9, 8
    shift = PixelMap(lambda y, x: (y + 0.4, x - 0.3))
    clean, out = warp(image, shift, (80, 80)), warp(damaged, shift, (80, 80), mask)
    good = out.footprint & (out.mask == 0)
    assert np.isfinite(out.data[good]).all()
    assert np.isnan(out.data[~good]).all()
    # Around the lone defects the fill is as good as the sky is flat.
    far = good & (np.hypot(*(np.indices(image.shape) - np.array([50, 44])[:, None, None])) > 12)
    np.testing.assert_allclose(out.data[far], clean.data[far], atol=1.0)
    # The fill of the saturated core is wrong by up to its height; a noise-free sky asks to mask all it touches.
    assert np.max(np.abs(out.data[good] - clean.data[good])) < 0.005 * image.max()
    assert out.mask[60, 15] == 4
    assert out.mask[50, 44] == 8
    assert out.mask[10, 60] == PixelFlag.BAD_SCIENCE
    assert (out.mask[55:66, 10:21] == 4).sum() <= 36


def test_isolated_bad_pixel_loses_only_itself_when_nothing_moves():
    mask = np.zeros((40, 40), np.uint8)
    mask[20, 20] = 1
    out = warp(np.ones((40, 40)), PixelMap(lambda y, x: (y, x)), (40, 40), mask)
    assert np.argwhere((out.mask != 0) & out.footprint).tolist() == [[20, 20]]


@pytest.mark.parametrize(("flux", "lost"), [(0.0, 0), (1e5, 1)])
def test_downsampling_masks_what_a_guess_could_spoil(rng, flux, lost):
    """One bad pixel of sixteen on blank sky is a good guess; on a star it is not."""
    image = scene((80, 80), 40, 42, flux, sigma=2.0, noise=3.0, rng=rng)
    mask = np.zeros((80, 80), np.uint8)
    mask[40, 41] = 1
    out = warp(image, PixelMap(lambda y, x: (4 * y + 1.5, 4 * x + 1.5)), (20, 20), mask)
    assert (out.mask[10, 10] == 1) == bool(lost)
    assert np.any((out.mask != 0) & out.footprint) == bool(lost)


def test_bad_pixels_on_sky_cost_little_and_on_stars_what_they_must(rng):
    """Whatever a masked pixel held, no pixel that is left may be off by more than a sigma or so because of it."""
    y, x = np.meshgrid(np.arange(20.0, 190, 28), np.arange(20.0, 190, 28))
    image = scene((200, 200), y.ravel() + 0.3, x.ravel() - 0.2, 3e4, sky=50.0, noise=4.0, rng=rng)
    mask = (rng.random(image.shape) < 0.02).astype(np.uint8)
    for j, i in zip(y.ravel()[::3].astype(int), x.ravel()[::3].astype(int), strict=True):
        mask[j, i] = 1
    shift = PixelMap(lambda v, u: (v + 0.45, u - 0.3))
    clean, out = warp(image, shift, image.shape), warp(np.where(mask, 1e7, image), shift, image.shape, mask)
    good = out.footprint & (out.mask == 0)
    # The bound is 1 sigma by the estimate of what a guess may be wrong; half again for the estimate itself.
    assert np.max(np.abs(out.data - clean.data)[good]) < 1.5 * 4.0 + 2.0
    assert 1 <= (out.footprint & ~good).sum() / mask.sum() < 8


@pytest.mark.parametrize("shift", [(0.5, 0.5), (-0.5, 0.25), (7.3, -4.6)])
def test_footprint_is_honest(shift):
    out = warp(np.ones((60, 50)), PixelMap(lambda y, x: (y + shift[0], x + shift[1])), (60, 50))
    y, x = np.indices((60, 50))
    inside = (y + shift[0] >= -0.5) & (y + shift[0] <= 59.5) & (x + shift[1] >= -0.5) & (x + shift[1] <= 49.5)
    assert not (out.footprint & ~inside).any()
    deep = (y + shift[0] >= 3) & (y + shift[0] <= 56) & (x + shift[1] >= 3) & (x + shift[1] <= 46)
    assert out.footprint[deep].all()
    assert (out.mask[~out.footprint] == PixelFlag.NO_DATA).all()
    np.testing.assert_allclose(out.data[out.footprint], 1.0, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept(dtype):
    image = np.ones((30, 30), dtype)
    out = warp(image, PixelMap(lambda y, x: (y + 0.5, x)), (30, 30), variance=image)
    assert out.data.dtype == out.variance.dtype == dtype


@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_inputs_are_not_modified(kernel, rng):
    image, mask = rng.normal(size=(30, 30)), np.zeros((30, 30), np.uint8)
    mask[3, 3] = 1
    before = image.copy(), mask.copy()
    warp(image, PixelMap(lambda y, x: (y + 0.5, x)), (30, 30), mask, kernel=kernel)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(mask, before[1])


@pytest.mark.parametrize("shift", [(0, 0), (3, -2), (-5, 7), (40, 0)])
@pytest.mark.parametrize("shape", [(20, 30), (25, 18)])
def test_whole_pixel_shift_is_exact(rng, shift, shape):
    data, mask = rng.normal(size=(20, 30)), rng.integers(0, 2, (20, 30)).astype(np.uint8)
    out = shift_image((data, data**2, mask), shape, shift)
    for y in range(shape[0]):
        for x in range(shape[1]):
            sy, sx = y + shift[0], x + shift[1]
            if 0 <= sy < 20 and 0 <= sx < 30:
                assert out.data[y, x] == data[sy, sx]
                assert out.variance[y, x] == data[sy, sx] ** 2
                assert out.mask[y, x] == mask[sy, sx]
                assert out.footprint[y, x]
            else:
                assert np.isnan(out.data[y, x])
                assert out.mask[y, x] == PixelFlag.NO_DATA
                assert not out.footprint[y, x]


# From 1.5 source pixels a target pixel on, the mean over sub-pixels widens the PSF as the data.
@pytest.mark.parametrize(("scale", "widened"), [(0.8, 0.0), (1.2, 0.0), (1.25, (1 - 1 / 4) / 12)])
def test_psf_stamp_follows_the_map(scale, widened):
    sigma, rotation = 2.0, 0.7
    stamp = scene((25, 25), 12, 12, 1.0, sigma=sigma)
    c, s = np.cos(rotation) * scale, np.sin(rotation) * scale
    out = warp_stamp(stamp, np.array([[c, s], [-s, c]]))
    assert out.shape[0] % 2 == out.shape[1] % 2 == 1
    assert out.sum() == pytest.approx(1)
    centre = out.shape[0] // 2
    y, x = np.indices(out.shape) - centre
    np.testing.assert_allclose([(out * y).sum(), (out * x).sum()], 0, atol=1e-3)
    # The stamp holds the pixel of the source already: variance sigma^2 + 1/12 in source pixels.
    second = 0.5 * (out * (y**2 + x**2)).sum()
    assert second == pytest.approx((sigma**2 + 1 / 12) / scale**2 + widened, rel=0.002)


def test_grid_map_equals_evaluation_everywhere():
    polynomial = Polynomial(np.array([[100.0, 100, 1, 3, 0, 2], [100.0, 0, 100, -2, 4, 0]]), 2, (100.0, 100.0), 100.0)
    calls = []

    def base(y, x):
        calls.append(np.size(y))
        return y + 0.5 * np.sin(x / 40), x + 0.2 * np.cos(y / 30)

    pixel_map = PixelMap(base, polynomial)
    y_map, x_map = grid_map(pixel_map, (211, 203))
    assert sum(calls) < 0.5 * y_map.size
    truth = pixel_map(*np.indices((211, 203)).astype(float))
    assert max(np.abs(y_map - truth[0]).max(), np.abs(x_map - truth[1]).max()) < 2e-3


def test_grid_map_keeps_undefined_places_undefined():
    def base(y, x):
        return np.where(x > 150, np.nan, y), np.where(x > 150, np.nan, x)

    y_map, _ = grid_map(PixelMap(base), (200, 200))
    assert np.isnan(y_map[:, 151:]).all()
    np.testing.assert_array_equal(y_map[:, :151], np.indices((200, 151))[0])


def test_undefined_map_is_no_data():
    maps = [plane.astype(float) for plane in np.indices((40, 40))]
    maps[0][:, 30:] = np.nan
    out = warp_image((np.ones((40, 40)), np.ones((40, 40)), np.zeros((40, 40), np.uint8)), tuple(maps))
    assert not out.footprint[:, 30:].any()
    assert (out.mask[:, 30:] == PixelFlag.NO_DATA).all()
    np.testing.assert_allclose(out.data[5:35, 5:25], 1.0)
