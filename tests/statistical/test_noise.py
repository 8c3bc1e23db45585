"""Noise: unbiased sigma, variance that is right at bright stars and on blank sky."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu.calibrate import noise_variance, subtract_background
from astrid_gpu.image import Image
from astrid_gpu.ops.noise import clipped_statistics, lower_sigma, median_sigma, pixel_sigma
from tests.star_fields import star_field

# Relative error of a width from n Gaussian values: 1 / sqrt(2 n) for the standard deviation, 1.65 times that for a
# median absolute deviation (efficiency 37 %).


def test_widths_are_unbiased(rng):
    n = 400 * 500
    noise = rng.normal(3.0, 2.0, (400, 500))
    good = np.zeros(noise.shape, bool)
    limit = 4 * 1.65 / np.sqrt(2 * n)
    assert median_sigma(noise)[1] == pytest.approx(2.0, rel=limit)
    mean, sigma, kept = clipped_statistics(noise)
    assert sigma == pytest.approx(2.0, rel=2 * limit)  # the cut at 3 sigma is itself measured
    assert mean == pytest.approx(3.0, abs=4 * 2.0 / np.sqrt(n))
    assert kept == pytest.approx(0.9973 * n, rel=0.003)
    assert lower_sigma(noise, 3.0) == pytest.approx(2.0, rel=limit * np.sqrt(2) * 1.3)
    # Nine neighbours share a response: a third as many independent values, at the least.
    assert pixel_sigma(noise, good) == pytest.approx(2.0, rel=limit * 3)


def test_sigma_ignores_the_stars_of_a_sparse_field(rng):
    ratios = []
    for _ in range(5):
        field = star_field(rng, n=60, snr=(10, 1000))
        image, background, _ = subtract_background(field.image, backend="numpy")
        _, sigma, step = noise_variance(image, background)
        ratios.append(sigma / field.sigma)
        assert step.values["gain_origin"] == "given"
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.01)


def test_sigma_ignores_unresolved_stars_of_a_crowded_field(rng):
    field = star_field(rng, n=3000, snr=(1.0, 100.0), margin=0.0, sky=400.0)
    image, background, _ = subtract_background(field.image, backend="numpy")
    _, sigma, step = noise_variance(image, background)
    # The histogram of the sky is wider than its noise by what faint stars add; pixel to pixel it is not. The sky that
    # is subtracted includes their mean light, which does carry photon noise.
    assert np.median(background.rms) > 1.2 * field.sigma
    assert sigma == pytest.approx(field.sigma, rel=0.1)
    assert "pixel to pixel" in step.values["sigma_origin"]


def test_variance_at_a_bright_star_is_right(rng):
    places = np.array([64.0]), np.array([64.0])
    field = star_field(rng, n=1, shape=(128, 128), places=places, flux=np.array([3e5]), fwhm=3.0)
    image, background, _ = subtract_background(field.image, backend="numpy")
    variance, sigma, _ = noise_variance(image, background)
    bright = field.clean > 30 * field.sigma
    assert bright.sum() > 30
    np.testing.assert_allclose(variance[bright], field.variance[bright], rtol=0.15)
    assert variance[bright].sum() == pytest.approx(field.variance[bright].sum(), rel=0.02)
    assert variance.min() >= 0.99 * sigma**2 * 0.25


def test_variance_of_blank_sky_is_the_background_alone_and_ignores_the_noise(rng):
    field = star_field(rng, n=0, shape=(400, 400), sky=50.0, gain=1.0, read_noise=0.0)
    image, background, _ = subtract_background(field.image, backend="numpy")
    variance, sigma, _ = noise_variance(image, background)
    assert variance.mean() / sigma**2 == pytest.approx(1.0, abs=0.01)
    # A variance that follows its own noise would correlate with it: here up to 3 %.
    correlation = np.corrcoef(variance.ravel(), image.data.ravel())[0, 1]
    whole = ((image.data / np.sqrt(variance)) ** 2).mean()
    assert abs(correlation) < 0.3
    assert whole == pytest.approx(1.0, abs=0.02)


def test_shot_noise_pulls_are_gaussian(rng):
    """What the variance is for: (data - truth) / sqrt(V) has unit width on sky, faint sources and bright ones."""
    field = star_field(rng, n=80, snr=(10, 2000), shape=(400, 400))
    image, background, _ = subtract_background(field.image, backend="numpy")
    variance, _, _ = noise_variance(image, background)
    pull = (field.image.data - 200.0 - field.clean) / np.sqrt(variance)
    level = field.clean / field.sigma
    for low, high in ((0.0, 0.5), (0.5, 3.0), (3.0, 20.0), (20.0, 1e9)):
        values = pull[(level >= low) & (level < high)]
        assert values.size > 200
        assert values.std() == pytest.approx(1.0, abs=4 / np.sqrt(2 * values.size) + 0.03)


def test_gain_from_the_sky_is_about_right(rng):
    field = star_field(rng, n=20, sky=5000.0, gain=2.0, read_noise=0.0)
    bare = Image(field.image.data)
    image, background, _ = subtract_background(bare, backend="numpy")
    _, _, step = noise_variance(image, background)
    assert step.values["gain_origin"] == "sky"
    assert step.values["gain"] == pytest.approx(2.0, rel=0.05)
