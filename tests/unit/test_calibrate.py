"""Background, noise, saturation and flux ratio: the rules at their edges, and the words of their errors."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu._flux_ratio import usable_beta
from astrid_gpu.calibrate import flux_ratio, noise_variance, saturation_mask, subtract_background
from astrid_gpu.errors import AlignmentError, InputError, ShapeMismatchError
from astrid_gpu.image import Image
from astrid_gpu.results import Background
from astrid_gpu.stars import STAR_DTYPE, find_stars
from tests.star_fields import field_pair, stamp_psf, star_field

NO_STARS = np.zeros(0, STAR_DTYPE)


def test_a_constant_image_is_refused_in_words():
    with pytest.raises(InputError, match=r"flat\.fits: every good pixel has the value 7; an exposure has noise"):
        subtract_background(Image(np.full((64, 64), 7.0), name="flat.fits"))


def test_an_image_without_good_pixels_is_refused():
    with pytest.raises(InputError, match="all 4096 pixels are masked or not finite"):
        subtract_background(Image(np.full((64, 64), np.nan)))
    mask = np.ones((64, 64), np.uint8)
    mask[0, :3] = 0
    with pytest.raises(InputError, match="only 3 of 4096 pixels are good"):
        subtract_background(Image(np.arange(4096.0).reshape(64, 64), mask=mask))


def test_box_is_checked(rng):
    with pytest.raises(InputError, match="box must be at least 4 pixels, got 2"):
        subtract_background(Image(rng.normal(size=(64, 64))), box=2)


@pytest.mark.parametrize("shape", [(40, 50), (72, 72), (100, 101), (256, 256), (130, 400)])
def test_level_is_found_at_every_size(rng, shape):
    field = star_field(rng, shape=shape, n=3, snr=(30, 100), sky=500.0)
    image, background, step = subtract_background(field.image, backend="numpy")
    n = shape[0] * shape[1]
    # The error of a clipped mean is sigma / sqrt(n) and some; light of wings below the threshold adds up to 5 %.
    assert np.median(background.level) == pytest.approx(500.0, abs=field.sigma * (5 / np.sqrt(n) + 0.05))
    assert image.background_level == pytest.approx(500.0, abs=1.0)
    np.testing.assert_allclose(image.data, field.image.data - background.level)
    assert step.stage == "background"
    assert background.rms.shape == shape
    assert np.median(background.rms) == pytest.approx(field.sigma, rel=0.06)


def test_a_gradient_is_followed(rng):
    y, x = np.mgrid[:300, :300]
    sky = 200 + 0.1 * x - 0.06 * y
    field = star_field(rng, shape=(300, 300), n=30)
    _, background, _ = subtract_background(field.image.with_(data=field.image.data + sky - 200), backend="numpy")
    rest = (background.level - sky)[60:-60, 60:-60]
    # 5 sigma over the field. 2.5 median - 1.5 mean of n values has the error 2.14 sigma / sqrt(n) (variances 1.57 and
    # 1, covariance 1): 0.036 sigma for a box of 60 px; 4 of those. The median filter flattens the outermost boxes.
    assert np.abs(rest).max() < 4 * 2.14 / 60 * field.sigma


def test_mostly_masked_images_get_one_level(rng):
    field = star_field(rng, n=0, shape=(256, 256))
    mask = np.ones((256, 256), np.uint8)
    mask[100:140] = 0
    image, background, step = subtract_background(field.image.with_(mask=mask), backend="numpy")
    assert "one level" in step.text
    assert np.ptp(background.level) == 0
    assert np.isfinite(image.data).all()
    assert background.level[0, 0] == pytest.approx(200.0, abs=5 * field.sigma / np.sqrt(40 * 256) + 0.05 * field.sigma)


def test_float32_stays_float32(rng):
    field = star_field(rng, n=5)
    image, _, _ = subtract_background(field.image.with_(data=field.image.data.astype(np.float32)), backend="numpy")
    assert image.data.dtype == np.float32


def test_sky_that_was_taken_off_before_is_remembered(rng):
    field = star_field(rng, n=5)
    image, _, _ = subtract_background(field.image.with_(background_level=1000.0), backend="numpy")
    assert image.background_level == pytest.approx(1200.0, abs=1.0)


def flat(image, sigma):
    return Background(np.zeros(image.shape), np.full(image.shape, sigma), np.zeros((1, 1)))


def test_given_variance_is_taken_and_compared(rng):
    data = rng.normal(0, 2, (100, 100))
    variance = np.full((100, 100), 9.0)
    variance[0, 0], variance[0, 1] = 0.0, np.inf
    plane, sigma, step = noise_variance(Image(data, variance=variance), flat(data, 2.0))
    assert sigma == pytest.approx(3.0)
    assert plane[0, 0] == plane[0, 1] == pytest.approx(9.0)
    assert step.values["measured_over_given"] == pytest.approx(2 / 3, rel=4 * 1.65 / np.sqrt(2e4))
    assert step.values["n_unusable"] == 2
    assert "2 pixels without a usable variance" in step.text


def test_useless_variance_is_refused(rng):
    data = rng.normal(0, 2, (30, 30))
    with pytest.raises(InputError, match="no good pixel has a positive, finite variance"):
        noise_variance(Image(data, variance=np.zeros((30, 30))), flat(data, 2.0))


def test_without_gain_and_sky_source_noise_is_left_out_and_said(rng):
    field = star_field(rng, n=10)
    data = field.image.data - 200.0
    variance, sigma, step = noise_variance(Image(data), flat(data, field.sigma))
    assert step.values["gain"] is None
    assert "source photon noise left out" in step.text
    np.testing.assert_allclose(variance, sigma**2, rtol=1e-6)


def test_saturation_from_the_header_and_its_bleed(rng):
    data = rng.normal(100, 3, (60, 60))
    data[30, 30] = 5000
    data[20:40, 30] = np.maximum(data[20:40, 30], 4700)
    data[10, 10] = 4700
    data[50, 50] = np.nan
    mask, step = saturation_mask(Image(data, saturation=5000.0))
    assert mask[20:40, 30].all()  # connected, above 90 % of the level
    assert mask[30, 31]  # grown by one
    assert not mask[10, 10]  # high but nowhere near a saturated pixel
    assert mask[50, 50]
    assert step.values["origin"] == "given"


def test_saturation_counts_the_sky_that_was_taken_off(rng):
    data = rng.normal(0, 3, (60, 60))
    data[30, 30] = 4500.0
    level = {"saturation": 5000.0}
    assert not saturation_mask(Image(data, **level))[0].any()
    assert saturation_mask(Image(data, background_level=600.0, **level))[0][30, 30]


@pytest.mark.parametrize("ceiling", [65535, 4095])
def test_saturation_at_the_ceiling_of_the_type(rng, ceiling):
    data = rng.normal(200, 10, (60, 60)).round()
    data[30:32, 30:32] = ceiling
    mask, step = saturation_mask(Image(data))
    assert mask[30:32, 30:32].all()
    assert mask.sum() == 16
    assert "ceiling" in step.values["origin"]


def test_a_plateau_is_saturated_and_a_bright_star_is_not(rng):
    places = np.array([64.0]), np.array([64.0])
    field = star_field(rng, n=1, shape=(128, 128), places=places, flux=np.array([1e6]), fwhm=6.0)
    assert not saturation_mask(field.image)[0].any()
    cut = field.image.with_(data=np.minimum(field.image.data, 8000.0 + rng.normal(0, 10, (128, 128))))
    mask, step = saturation_mask(cut)
    assert "piled up" in step.values["origin"]
    assert mask[64, 64]
    assert mask[field.image.data > 9000].all()


def ratio_inputs(rng, **options):
    science, reference = field_pair(rng, **options)
    images = science.subtracted(), reference.subtracted()
    stars = [find_stars(i, background_rms=f.sigma) for i, f in zip(images, (science, reference), strict=True)]
    return [*images, stamp_psf(science.model), stamp_psf(reference.model), *stars]


def test_shapes_are_checked(rng):
    arguments = ratio_inputs(rng, n=5)
    small = arguments[1].with_(data=arguments[1].data[:-1])
    with pytest.raises(ShapeMismatchError, match="register them to one grid first"):
        flux_ratio(arguments[0], small, *arguments[2:])
    with pytest.raises(ShapeMismatchError, match="mask has shape"):
        flux_ratio(*arguments, mask=np.zeros((3, 3), bool))


def test_ratio_of_bright_pixels_where_no_star_is_common(rng):
    arguments = ratio_inputs(rng, n=20)
    found = flux_ratio(*arguments[:4], NO_STARS, arguments[5])
    assert found.method == "pixels"
    assert found.n_stars == 0
    assert found.beta == pytest.approx(0.7, rel=0.02)
    assert "not matched stars" in found.step.text


def test_ratio_of_blank_images_comes_from_the_headers_or_is_a_guess(rng):
    blank = Image(rng.normal(size=(100, 100)), zero_point=25.0, meta={"EXPTIME": 60.0})
    other = Image(rng.normal(size=(100, 100)), zero_point=24.0, meta={"EXPTIME": 20.0})
    psf = stamp_psf(star_field(rng, n=0).model)
    found = flux_ratio(blank, other, psf, psf, NO_STARS, NO_STARS)
    assert found.method == "zero points"
    assert found.beta == pytest.approx(10**0.4)
    assert found.beta_error > 0
    by_time = flux_ratio(blank.with_(zero_point=None), other, psf, psf, NO_STARS, NO_STARS)
    assert by_time.method == "exposure times"
    assert by_time.beta == pytest.approx(3.0)
    nothing = flux_ratio(blank.with_(zero_point=None, meta={}), other, psf, psf, NO_STARS, NO_STARS)
    assert nothing.method == "assumed"
    assert (nothing.beta, nothing.beta_error) == (1.0, 0.5)
    assert "no source common to both" in nothing.step.text


def test_one_common_star_is_used_with_an_error_that_says_so(rng):
    arguments = ratio_inputs(rng, n=1, snr=(300, 301))
    found = flux_ratio(*arguments)
    assert found.method == "stars"
    assert found.n_stars == 1
    assert found.beta == pytest.approx(0.7, rel=0.03)
    assert found.beta_error >= 0.1 * found.beta  # it may be a variable


def test_masked_stars_do_not_count(rng):
    science, reference = field_pair(rng, n=20, changed=0.4)
    images = science.subtracted(), reference.subtracted()
    stars = [find_stars(i, background_rms=f.sigma) for i, f in zip(images, (science, reference), strict=True)]
    mask = np.zeros(images[0].shape, bool)
    for y, x in zip(science.y[:8], science.x[:8], strict=True):
        mask[round(y) - 3 : round(y) + 4, round(x) - 3 : round(x) + 4] = True
    found = flux_ratio(*images, stamp_psf(science.model), stamp_psf(reference.model), *stars, mask=mask)
    assert found.beta == pytest.approx(0.7, rel=0.01)
    assert found.n_stars <= 12


@pytest.mark.parametrize("known", [{}, {"zero_point": 25.0}])
def test_a_ratio_that_sources_cannot_have_is_named_and_not_used(rng, caplog, known):
    """One source in both, whose light is negative under the other's mask of PSFs: what a wrong alignment gives."""
    science, reference = field_pair(rng, beta=1.0)
    psf = stamp_psf(science.model)
    stars = find_stars(science.image.with_(data=science.image.data - 200.0), background_rms=science.sigma)
    turned = reference.image.with_(data=200.0 - reference.image.data, **known)
    straight = science.image.with_(data=science.image.data - 200.0, **known)
    found = flux_ratio(straight, turned, psf, stamp_psf(reference.model), stars, stars)
    assert found.beta > 0
    assert "is impossible, so they do not show the same sources" in found.step.text
    if known:
        assert found.method == "zero points"
        assert found.step.text in caplog.text
        assert usable_beta(found, None) == 1.0
        return
    assert found.method == "impossible"
    assert usable_beta(found, 0.7) == 0.7
    with pytest.raises(AlignmentError, match=r"common sources.*check that they show one field"):
        usable_beta(found, None)
