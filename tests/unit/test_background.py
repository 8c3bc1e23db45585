"""`estimate_background`: its parts on arrays that can be checked by eye, and every refusal."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import CubicSpline
from scipy.stats import truncnorm

import astrid_gpu as ag
from astrid_gpu.errors import InputError, ShapeMismatchError
from astrid_gpu.ops import background as ops


def estimate(images, **kwargs):
    return ag.estimate_background(images, backend="numpy", **kwargs)


# ---- boxes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [4, 63, 64, 65, 100, 127, 2049])
@pytest.mark.parametrize("box", [4, 32, 64])
def test_boxes_cover_the_axis_without_slivers(n, box):
    edges = ops.box_edges(n, box)
    sizes = np.diff(edges)
    assert edges[0] == 0
    assert edges[-1] == n
    assert sizes.max() <= box
    assert sizes.max() - sizes.min() <= 1
    assert sizes.size == -(-n // box)


def test_full_boxes_are_where_sextractor_has_them():
    assert ops.box_edges(256, 64).tolist() == [0, 64, 128, 192, 256]


# ---- statistics of one box -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "median"),
    [
        ([3.0], 3.0),
        ([1.0, 2.0], 1.5),
        ([1.0, 2.0, 3.0], 2.0),
        ([1.0, 2.0, 3.0, 9.0], 2.5),
        ([1.0, 1.0, 2.0, 2.0, 2.0, 3.0], 1.5 + 1 / 3),  # the third of six lies a third into the twos
        ([7.0, 7.0, 7.0], 7.0),
    ],
)
def test_grouped_median(values, median):
    assert ops.grouped_median(np.array(values)) == pytest.approx(median, rel=1e-15)


def test_grouped_median_sees_below_the_quantum(rng):
    """Rounded to whole counts, the median still finds a level between them; the plain one cannot."""
    level, sigma, n = 100.3, 3.0, 40_000
    counts = np.sort(np.round(rng.normal(level, sigma, n)))
    error = sigma * np.sqrt(np.pi / 2 / n)
    assert abs(ops.grouped_median(counts) - level) < 4 * error
    assert abs(np.median(counts) - level) > 4 * error


def box_of(values, clip=3.0, statistic="sextractor"):
    square = np.asarray(values, dtype=float).reshape(1, 4, -1)
    level, rms, count = ops.mesh_statistics(square, None, max(square.shape[1:]), clip, statistic)
    return float(level[0, 0, 0]), float(rms[0, 0, 0]), int(count[0, 0, 0])


def test_clipping_is_about_the_median_until_nothing_changes():
    sky = np.tile([9.0, 10.0, 11.0, 10.0], 8)
    level, rms, count = box_of([*sky, 40.0, 1e3, 1e5, 1e7])
    assert (level, count) == (10.0, 36)
    assert rms == pytest.approx(np.std(sky), rel=1e-14)


def test_statistics_by_hand():
    values = np.arange(16.0)
    values[-1] = 20.0  # median 7.5, mean 7.8125
    assert box_of(values, 9.0, "median")[0] == pytest.approx(7.5)
    assert box_of(values, 9.0, "mean")[0] == pytest.approx(values.mean(), rel=1e-15)
    assert box_of(values, 9.0, "sextractor")[0] == pytest.approx(2.5 * 7.5 - 1.5 * values.mean(), rel=1e-15)
    assert box_of(values, 9.0)[1] == pytest.approx(values.std(), rel=1e-15)


def test_a_crowded_box_gives_its_median():
    values = np.repeat([0.0, 1.0, 2.0, 10.0], [12, 10, 8, 10])
    median = ops.grouped_median(values)
    assert values.mean() - median > ops.CROWDED * values.std()
    assert box_of(values, 9.0) == pytest.approx((median, values.std(), 40))


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("far", [1e6, -1e6])
def test_one_pixel_far_from_a_constant_is_clipped(backend, far):
    """The grouped median lies between the two, and nothing near it: the constant must win, not an empty box."""
    if backend not in ag.available_backends():
        pytest.skip(f"{backend} is not available here")
    image = np.zeros((64, 64), np.float32)
    image[5, 7] = far
    background = ag.estimate_background(image, box=32, filter_size=1, backend=backend)
    assert not background.level.any()
    assert not background.rms.any()


def test_infinite_clip_clips_nothing():
    values = [*np.zeros(15), 1e6]
    assert box_of(values, np.inf, "mean")[0] == pytest.approx(1e6 / 16)
    assert box_of(np.zeros(16), np.inf) == (0.0, 0.0, 16)


@pytest.mark.parametrize("clip", [2.5, 3.0, 4.0])
def test_clipped_width(clip, rng):
    def cut(a):
        return truncnorm(-a, a).std()

    width, n, h = ops.clipped_width(clip), 400_000, 1e-4
    assert cut(clip * width) == pytest.approx(width, abs=1e-12)
    # A standard deviation is uncertain by 1 / sqrt(2 n), and every round of clipping hands part of it to the next.
    handed_on = (cut(clip * (width + h)) - cut(clip * (width - h))) / (2 * h)
    measured = box_of(rng.normal(size=n), clip, "median")[1]
    assert measured == pytest.approx(width, abs=4 / np.sqrt(2 * n) / (1 - handed_on))


def test_nothing_is_cut_off_without_clipping():
    assert ops.clipped_width(np.inf) == ops.clipped_width(100.0) == 1.0


# ---- mesh ------------------------------------------------------------------------------------------------------------


def test_unusable_boxes_take_the_mean_of_the_nearest():
    mesh = np.array([[[1.0, 2.0, 99.0], [4.0, 5.0, 6.0]]])
    usable = np.array([[[True, True, False], [False, True, True]]])
    expected = [[[1.0, 2.0, (2 + 6) / 2], [(1 + 5) / 2, 5.0, 6.0]]]
    np.testing.assert_array_equal(ops.mesh_fill(mesh, usable), expected)


def test_the_filter_drops_an_outlier_and_keeps_a_slope():
    y, x = np.mgrid[:7, :9]
    slope = (3.0 * y - 2.0 * x)[None]
    np.testing.assert_array_equal(ops.mesh_filter(slope, 3), slope)
    np.testing.assert_array_equal(ops.mesh_filter(slope, 5), slope)
    broken = slope.copy()
    broken[0, 3, 4] = 1e6
    assert np.abs(ops.mesh_filter(broken, 3) - slope).max() <= 3.0
    np.testing.assert_array_equal(ops.mesh_filter(broken, 1), broken)


def test_the_filter_is_the_median_of_the_window(rng):
    mesh = rng.normal(size=(2, 6, 5))
    filtered = ops.mesh_filter(mesh, 3)
    np.testing.assert_allclose(filtered[:, 2, 3], np.median(mesh[:, 1:4, 2:5], axis=(1, 2)), rtol=1e-15)
    np.testing.assert_allclose(filtered[:, 0, 2], np.median(mesh[:, 0, 1:4], axis=1), rtol=1e-15)
    np.testing.assert_array_equal(filtered[:, 0, 0], mesh[:, 0, 0])
    np.testing.assert_array_equal(ops.mesh_filter(mesh[:, :1, :1], 9), mesh[:, :1, :1])


def test_the_slope_within_a_box_is_no_noise():
    level = np.array([[[0.0, 12.0, 24.0], [0.0, 12.0, 24.0]]])
    noise = 5.0
    measured = np.full(level.shape, np.sqrt(noise**2 + 12.0**2 / 12))
    np.testing.assert_allclose(ops.mesh_untilt(measured, level), noise, rtol=1e-14)
    np.testing.assert_allclose(ops.mesh_untilt(np.ones((1, 2, 3)), level), 0.5, rtol=1e-14)  # never all of it
    np.testing.assert_array_equal(ops.mesh_untilt(np.ones((1, 1, 1)), np.ones((1, 1, 1))), 1.0)


# ---- spline ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "nodes"), [(64, 2), (100, 3), (1030, 17), (37, 9)])
def test_the_spline_is_scipys_natural_one(n, nodes, rng):
    edges = ops.box_edges(n, -(-n // nodes))
    centre = 0.5 * (edges[:-1] + edges[1:] - 1)
    axis = ops.spline_axis(n, centre.size)
    values = rng.normal(size=centre.size)
    spline = CubicSpline(centre, values, bc_type="natural")
    np.testing.assert_allclose(ops.spline_matrix(axis) @ values, spline(np.arange(n)), rtol=0, atol=1e-12)
    np.testing.assert_allclose(axis.curvature @ values, spline(centre, 2), rtol=0, atol=1e-12)


def test_one_box_gives_a_constant():
    out = ops.mesh_interpolate(np.full((1, 1, 1), 7.0), ops.spline_axis(5, 1), ops.spline_axis(6, 1), np.float64)
    np.testing.assert_array_equal(out, np.full((1, 5, 6), 7.0))


def test_a_plane_through_the_mesh_is_a_plane():
    rows, columns = ops.spline_axis(90, 3), ops.spline_axis(130, 5)
    y, x = np.mgrid[:90, :130]
    centre_y, centre_x = (np.diff(ops.box_edges(n, b)).cumsum() for n, b in ((90, 30), (130, 26)))
    mesh = 2.0 * (centre_y - 15.5)[:, None] - 3.0 * (centre_x - 13.5)
    out = ops.mesh_interpolate(mesh[None], rows, columns, np.float64)[0]
    np.testing.assert_allclose(out, 2.0 * y - 3.0 * x, rtol=0, atol=1e-10)


@pytest.mark.parametrize("nodes", [(1, 1), (2, 3), (5, 9)])
def test_a_spline_stays_above_its_bound(rng, nodes):
    mesh = rng.uniform(1, rng.uniform(1, 3, (50, 1, 1)), (50, *nodes))
    rows, columns = ops.spline_axis(40, nodes[0]), ops.spline_axis(77, nodes[1])
    lowest, least = ops.spline_lowest(mesh, rows, columns), ops.mesh_interpolate(mesh, rows, columns, float)
    assert np.all(lowest <= least.min(axis=(1, 2)) + 1e-12)
    assert np.all(lowest <= mesh.min(axis=(1, 2)) + 1e-12)
    assert ops.spline_lowest(np.ones((1, *nodes)), rows, columns) == pytest.approx(1.0)


# ---- the whole -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 0.1, -3.25, 1e30])
@pytest.mark.parametrize("statistic", ops.STATISTICS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_image(value, statistic, dtype):
    image = np.full((70, 90), value, dtype)
    background = estimate(image, statistic=statistic, box=32)
    np.testing.assert_allclose(background.level, image, rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(background.rms, 0.0)
    assert background.mesh.shape == (3, 3)


def test_shapes_and_types_out(rng):
    for dtype, expected in ((np.float32, np.float32), (np.float64, np.float64), (np.uint16, np.float64)):
        for shape in ((50, 70), (1, 50, 70), (2, 50, 70)):
            background = estimate(rng.normal(1000, 10, shape).astype(dtype), box=32)
            assert background.level.shape == background.rms.shape == shape
            assert background.level.dtype == background.rms.dtype == expected
            assert background.mesh.shape == (*shape[:-2], 2, 3)


def test_a_tilted_sky_is_found():
    y, x = np.mgrid[:256, :192]
    sky = 100 + 0.05 * y - 0.02 * x
    background = estimate(sky)
    np.testing.assert_allclose(background.level, sky, rtol=0, atol=1e-9)


def test_bad_pixels_change_nothing(rng):
    image = rng.normal(10, 2, (128, 128))
    bad = rng.random(image.shape) < 0.2
    clean = estimate(image, mask=bad)
    for value in (np.nan, np.inf, -np.inf, 1e30, -5.0):
        broken = np.where(bad, value, image)
        for mask in (bad, bad.astype(np.uint8) * 64, bad[None]):
            np.testing.assert_array_equal(estimate(broken, mask=mask).level, clean.level)
    np.testing.assert_array_equal(estimate(np.where(bad, np.nan, image)).rms, clean.rms)
    np.testing.assert_array_equal(estimate(np.ma.masked_array(image, mask=bad)).level, clean.level)


def test_an_image_half_masked_is_filled_from_the_other_half(rng):
    image = rng.normal(50, 3, (256, 256))
    image[:, 100:] = np.nan
    background = estimate(image)
    assert np.isfinite(background.level).all()
    assert np.isfinite(background.rms).all()
    # columns of boxes: 0-63 whole, 64-127 for 56 % good, then none: their levels are those of the second
    np.testing.assert_array_equal(background.mesh[:, 2], background.mesh[:, 3])
    assert np.abs(background.level - 50).max() < 1.0


def test_a_mask_that_is_dense_everywhere_still_works(rng):
    image = rng.normal(50, 3, (128, 128))
    image[rng.random(image.shape) < 0.9] = np.nan
    assert abs(estimate(image).level.mean() - 50) < 4 * 3 * 2.2 / np.sqrt(0.1 * image.size)


def test_a_bright_star_leaves_the_sky_alone(rng):
    image = rng.normal(100, 5, (192, 192))
    without = estimate(image).level
    y, x = np.mgrid[:192, :192]
    image += 5e5 * np.exp(-0.5 * ((y - 90) ** 2 + (x - 100) ** 2) / 2.0**2)
    assert np.abs(estimate(image).level - without).max() < 1.0


def test_it_moves_and_scales_with_the_image(rng):
    image = rng.normal(0, 1, (96, 130)) ** 3
    one, two = estimate(image, box=32), estimate(1000.0 - 7.5 * -image, box=32)
    np.testing.assert_allclose(two.level, 1000.0 + 7.5 * one.level, rtol=1e-11)
    np.testing.assert_allclose(two.rms, 7.5 * one.rms, rtol=1e-10)


def test_the_rms_is_positive_where_a_quiet_box_meets_noisy_ones(rng):
    image = rng.normal(0, 100, (320, 320))
    image[128:192, 128:192] *= 1e-4
    background = estimate(image, filter_size=1)
    assert background.rms.min() > 0


def test_the_input_is_left_alone(rng):
    image = rng.normal(size=(64, 64))
    image[0, 0] = np.nan
    before = image.copy()
    image.flags.writeable = False
    estimate(image, box=16, mask=np.zeros((64, 64), bool))
    np.testing.assert_array_equal(image, before)


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"box": 3}, "at least 4"),
        ({"box": -64}, "at least 4"),
        ({"box": 97}, "more than either side of the 96 x 80 images; give at most 96"),
        ({"box": 32.0}, "whole number"),
        ({"box": True}, "whole number"),
        ({"filter_size": 2}, "odd positive number"),
        ({"filter_size": 0}, "odd positive number"),
        ({"filter_size": 3.0}, "odd positive number"),
        ({"clip": 1.5}, "at least 2"),
        ({"clip": np.nan}, "at least 2"),
        ({"clip": "3"}, "at least 2"),
        ({"statistic": "mode"}, "one of sextractor, median, mean"),
    ],
)
def test_bad_options_are_refused(options, text):
    with pytest.raises(InputError, match=text):
        estimate(np.ones((96, 80)), **options)


def test_bad_images_and_masks_are_refused():
    with pytest.raises(ShapeMismatchError, match="images"):
        estimate(np.ones(64))
    with pytest.raises(ShapeMismatchError, match="images"):
        estimate(np.ones((0, 64, 64)))
    with pytest.raises(InputError, match="real numbers"):
        estimate(np.ones((64, 64), complex))
    with pytest.raises(ShapeMismatchError, match="mask"):
        estimate(np.ones((64, 64)), mask=np.zeros((64, 63), bool))


def test_an_image_without_good_pixels_is_refused():
    images = np.ones((3, 64, 64))
    images[1] = np.nan
    with pytest.raises(InputError, match="image 1 of the stack has no mesh box with 8 good pixels"):
        estimate(images)
    with pytest.raises(InputError, match="the image has no mesh box"):
        estimate(images[0], mask=np.ones((64, 64), bool))


class _DeviceArray:
    """What the registry takes for an array on a GPU."""

    __cuda_array_interface__ = None


def test_mixed_libraries_are_refused():
    with pytest.raises(TypeError, match="images is numpy, mask is cupy"):
        estimate(np.ones((64, 64)), mask=_DeviceArray())
