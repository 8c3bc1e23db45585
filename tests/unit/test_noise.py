"""ops.noise: widths and variances on inputs whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu.ops.noise import clipped_statistics, lower_sigma, median_sigma, pixel_sigma, source_variance


def test_nothing_gives_nan():
    nothing = np.zeros(0)
    assert np.isnan(median_sigma(nothing)).all()
    assert np.isnan(lower_sigma(nothing, 0.0))
    assert clipped_statistics(nothing)[2] == 0
    assert np.isnan(pixel_sigma(np.ones((2, 5)), np.zeros((2, 5), bool)))
    assert np.isnan(pixel_sigma(np.ones((5, 5)), np.ones((5, 5), bool)))


def test_constant_values_have_no_width():
    assert median_sigma(np.full(10, 4.0)) == (4.0, 0.0)
    assert clipped_statistics(np.full(10, 4.0)) == (4.0, 0.0, 10)


def test_outliers_on_the_bright_side_do_not_count(rng):
    values = rng.normal(0, 1, 20000)
    spoiled = np.concatenate([values, rng.uniform(5, 100, 3000)])
    assert clipped_statistics(spoiled)[1] == pytest.approx(1.0, abs=0.03)
    assert lower_sigma(spoiled, 0.0) == pytest.approx(1.0, abs=0.05)


def test_pixel_sigma_sees_neither_slopes_nor_holes(rng):
    y, x = np.mgrid[:120, :150]
    slope = 50.0 * y - 30.0 * x
    noise = rng.normal(0, 2, (120, 150))
    bad = rng.random((120, 150)) < 0.02
    spoiled = np.where(bad, np.inf, slope + noise)
    # 18000 pixels less 17 %: some 5000 independent responses, 1.65 / sqrt(2 n) = 1.7 %.
    assert pixel_sigma(np.where(bad, 0, spoiled), bad) == pytest.approx(2.0, rel=4 * 0.017)


def test_variance_is_never_below_the_background():
    image = np.full((20, 20), -50.0)
    variance = source_variance(image, 3.0, 1.0, np.zeros(image.shape, bool))
    np.testing.assert_allclose(variance, 9.0)


def test_bright_pixels_count_as_they_are():
    image = np.zeros((21, 21))
    image[10, 10] = 1e6
    variance = source_variance(image, 3.0, 2.0, np.zeros(image.shape, bool))
    assert variance[10, 10] == pytest.approx(9.0 + 5e5, rel=1e-3)


def test_bad_pixels_take_the_variance_of_their_surroundings():
    image = np.full((21, 21), 1000.0)
    bad = np.zeros(image.shape, bool)
    bad[8:11, 8:11] = True
    image[bad] = 1e9
    variance = source_variance(image, 1.0, 1.0, bad)
    assert np.all(np.isfinite(variance))
    assert variance[bad].max() < 2000


def test_noise_maps_are_allowed():
    sigma = np.linspace(1, 3, 400).reshape(20, 20)
    variance = source_variance(np.zeros((20, 20)), sigma, 1.0, np.zeros((20, 20), bool))
    np.testing.assert_allclose(variance, sigma**2)
