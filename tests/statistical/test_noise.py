"""Noise: unbiased sigma, variance that is right at bright stars and on blank sky."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu.calibrate import noise_variance, subtract_background
from astrid_gpu.image import Image
from astrid_gpu.ops.noise import clipped_statistics, lower_sigma, median_sigma, pixel_sigma, source_variance
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
    # A pixel has no say in its own variance; the rms map and the trust in bright pixels leave some thousandths.
    correlation = np.corrcoef(variance.ravel(), image.data.ravel())[0, 1]
    whole = ((image.data / np.sqrt(variance)) ** 2).mean()
    assert abs(correlation) < 4 / 400 + 0.01
    assert whole == pytest.approx(1.0, abs=0.02)


def test_variance_does_not_follow_the_noise_of_sources(rng):
    """Twelve exposures of one field: pixel by pixel, V against the noise, on sky, faint and bright parts of stars."""
    fixed = np.random.default_rng(9)
    first = star_field(fixed, n=60, shape=(150, 150), snr=(10, 1000), margin=8.0)
    clean, sigma = first.clean, first.sigma
    noise = rng.normal(size=(12, 150, 150)) * np.sqrt(first.variance)
    variance = np.array([source_variance(clean + n, sigma, first.image.gain, np.zeros(n.shape, bool)) for n in noise])
    change = variance / first.variance - 1
    level = clean / sigma
    for low, high, limit in ((0.0, 0.3, 0.01), (0.3, 3.0, 0.02)):
        here = (level >= low) & (level < high)
        v, n = (each[:, here] - each[:, here].mean(axis=0) for each in (change, noise / np.sqrt(first.variance)))
        found = np.sum(v * n) / np.sqrt(np.sum(v**2) * np.sum(n**2))
        assert abs(found) < limit + 4 / np.sqrt(11 * here.sum()), (low, high)
    # Bright pixels count themselves: V goes with the noise by 1 / (g sqrt(V)), which is some per cent.
    bright = level > 30
    slope = np.sum((change * noise)[:, bright]) / np.sum((noise**2 / np.sqrt(first.variance))[:, bright])
    assert slope == pytest.approx(np.mean(1 / (first.image.gain * np.sqrt(first.variance[bright]))), rel=0.5)
    assert slope < 0.05


def test_significance_near_sources_is_that_of_the_true_variance(rng):
    """S_corr with estimated V: mean, width and both tails as with the true one, on low sky where it matters most."""
    from astrid_gpu.engine.zogy import zogy
    from tests.unit.align_fields import catalogue, scene

    side, sky = 256, 20.0
    y, x, flux = catalogue(np.random.default_rng(4), 90, (side, side), faint=3e2, bright=1e5, apart=10)
    truth = [scene((side, side), y, x, flux, sigma=s) for s in (1.3, 1.1)]
    psfs = [scene((25, 25), 12, 12, 1.0, sigma=s) for s in (1.3, 1.1)]
    scores = {"true": [], "estimated": []}
    for _ in range(6):
        images = [rng.poisson(t + sky) - sky for t in truth]
        good = np.zeros((side, side), bool)
        estimated = [source_variance(image, np.sqrt(sky), 1.0, good) for image in images]
        for name, planes in (("true", [t + sky for t in truth]), ("estimated", estimated)):
            known = {"variance_science": planes[0], "variance_reference": planes[1]}
            sigmas = np.sqrt(sky), np.sqrt(sky)
            diff = zogy(*images, *psfs, *sigmas, **known, outputs=("score_corr",), backend="auto", dtype="float64")
            scores[name].append(diff.score_corr[15:-15, 15:-15])
    level = (truth[0] / np.sqrt(sky))[15:-15, 15:-15]
    for low, high in ((0.0, 0.3), (0.3, 3.0), (3.0, 20.0), (20.0, 1e9)):
        here = (level >= low) & (level < high)
        true, found = (np.array(scores[name])[:, here] for name in ("true", "estimated"))
        assert found.mean() == pytest.approx(true.mean(), abs=0.015), (low, high)
        # Round faint stars V is some per cent too high: the mean of neighbours brings light outwards.
        assert 0.92 < found.std() / true.std() < 1.01, (low, high)
        n = [int((side * found > 3).sum()) for side in (1, -1)]
        clump = 8  # pixels of one fluctuation beyond 3 sigma
        assert abs(n[0] - n[1]) < 4 * np.sqrt(clump * (sum(n) + clump)), (low, high)


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


def plane_pulls(rng, plane_of, **known):
    """Width of (data - truth) / sqrt(V) on bright pixels, with V from a plane; and the step."""
    field = star_field(rng, n=80, snr=(100, 2000), shape=(400, 400))
    image = field.image.with_(variance=plane_of(field), **known)
    subtracted, background, _ = subtract_background(image, backend="numpy")
    variance, _, step = noise_variance(subtracted, background)
    pull = (field.image.data - 200.0 - field.clean) / np.sqrt(variance)
    bright, dark = field.clean > 20 * field.sigma, field.clean < 0.3 * field.sigma
    assert bright.sum() > 500
    return pull[bright].std(), pull[dark].std(), step, 4 / np.sqrt(2 * bright.sum()) + 0.03


def test_a_full_plane_is_left_as_it_is(rng):
    bright, dark, step, tolerance = plane_pulls(rng, lambda field: field.variance)
    assert step.values["sources_in_plane"] == pytest.approx(1.0, abs=0.05)
    assert (bright, dark) == pytest.approx((1.0, 1.0), abs=tolerance)
    assert "added" not in step.text
    assert "scaled" not in step.text


def test_a_plane_of_the_sky_alone_gets_the_photon_noise_of_the_sources(rng):
    def sky_only(field):
        return np.full(field.image.shape, field.sigma**2)

    bright, dark, step, tolerance = plane_pulls(rng, sky_only)
    assert (bright, dark) == pytest.approx((1.0, 1.0), abs=tolerance)
    assert "their photon noise by gain" in step.text
    assert step.values["sources_in_plane"] == pytest.approx(0.0, abs=0.01)
    # Without a gain in the header the sky's noise gives one.
    bright, _, step, _ = plane_pulls(rng, sky_only, gain=None)
    assert bright == pytest.approx(1.0, abs=0.1)
    assert "(sky) added" in step.text


def test_a_plane_in_the_wrong_unit_is_scaled_to_the_noise_and_told(rng):
    """A relative weight map: 1 on the average, say, whatever the unit of the data."""
    bright, dark, step, tolerance = plane_pulls(rng, lambda field: field.variance / np.median(field.variance) * 0.05)
    assert step.values["scaled_by"] > 9
    assert "scaled by" in step.text
    # The scale is that of the clipped sky, faint wings of the stars included.
    assert (bright, dark) == pytest.approx((1.0, 1.0), abs=tolerance + 0.03)
