"""measure_psf: what it accepts, what it refuses and in which words, and the shape of what it gives."""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu._field_fit import highest_order
from astrid_gpu._psf_crowd import conjugate_gradients
from astrid_gpu._psf_field import spread_over
from astrid_gpu.errors import InputError, PsfError
from astrid_gpu.image import Image
from astrid_gpu.ops.psf_stamps import centroid_of
from astrid_gpu.psf import measure_psf, measure_psf_pair
from astrid_gpu.stars import STAR_DTYPE, find_stars
from tests.star_fields import field_pair, star_field


def test_a_plain_array_is_enough(rng):
    field = star_field(rng, n=25)
    psf = ag.measure_psf(field.image.data)
    assert psf.origin == "stars"
    assert psf.n_stars >= 5
    ky, kx = psf.data.shape
    assert ky % 2 == kx % 2 == 1
    assert psf.data.sum() == pytest.approx(1.0, abs=1e-12)
    assert np.abs(np.array(centroid_of(psf.data)) - ky // 2).max() < 0.02
    assert ky == 2 * int(np.ceil(4.0 * 3.5)) + 1  # FWHM 3 of a Moffat: 3.5 for the best Gaussian


def test_size_is_raised_to_odd(rng):
    field = star_field(rng, n=10)
    assert measure_psf(field.image, size=20).data.shape == (21, 21)
    with pytest.raises(InputError, match="size must be at least 5 pixels, got 3"):
        measure_psf(field.image, size=3)


def test_noise_and_masked_stars_do_not_enter(rng):
    field = star_field(rng, n=12, snr=(100, 300))
    mask = np.zeros(field.image.shape, np.uint8)
    data = field.image.data.copy()
    y, x = np.rint(field.y).astype(int), np.rint(field.x).astype(int)
    data[y[:3], x[:3]] = np.nan
    mask[y[3:5] + 1, x[3:5]] = 1
    data[y[3:5] + 1, x[3:5]] = 1e6
    psf = measure_psf(field.image.with_(data=data, mask=mask))
    assert psf.data.max() < 0.12
    assert psf.n_stars <= 7


def test_a_galaxy_among_the_stars_is_dropped(rng):
    field = star_field(rng, n=12, snr=(100, 200), shape=(300, 300))
    from astrid_gpu.simulate.profiles import PsfModel
    from astrid_gpu.simulate.render import draw_stars

    plain = measure_psf(field.image)
    data = field.image.data.copy()
    draw_stars(data, [150.0], [150.0], [5 * field.flux.max()], PsfModel("moffat", 4.5, 3.0))
    mixed = measure_psf(field.image.with_(data=data))
    assert mixed.fwhm == pytest.approx(plain.fwhm, rel=0.02)


def test_no_star_says_what_was_found_and_what_to_do(rng):
    blank = Image(rng.normal(100, 3, (64, 64)), name="blank.fits")
    with pytest.raises(PsfError, match=r"blank\.fits: no PSF can be measured: \d+ sources found, .*Give a PSF stamp"):
        measure_psf(blank)


def test_too_few_stars_can_be_an_error(rng):
    field = star_field(rng, n=2, shape=(128, 128))
    assert measure_psf(field.image).origin == "moffat fit"
    with pytest.raises(PsfError, match="5 are needed for an empirical PSF"):
        measure_psf(field.image, fallback="error")
    with pytest.raises(InputError, match="fallback must be one of moffat, error"):
        measure_psf(field.image, fallback="gauss")


def test_an_empty_list_of_stars_is_refused(rng):
    field = star_field(rng, n=5)
    with pytest.raises(PsfError, match="0 sources found"):
        measure_psf(field.subtracted(), stars=np.zeros(0, STAR_DTYPE))


def test_three_dimensions_are_refused():
    with pytest.raises(InputError, match=r"an Image or an array \(ny, nx\)"):
        measure_psf(np.ones((2, 30, 30)))


def test_a_variance_without_positive_values_is_refused(rng):
    field = star_field(rng, n=5)
    stars = find_stars(field.subtracted(), background_rms=field.sigma)
    with pytest.raises(InputError, match="the variance has no positive, finite value"):
        measure_psf(field.subtracted(), stars=stars, variance=np.zeros(field.image.shape))


def test_float32_and_big_endian_pixels_are_fine(rng):
    field = star_field(rng, n=12)
    reference = measure_psf(field.image.data)
    for dtype in (np.float32, ">f4"):
        np.testing.assert_allclose(measure_psf(field.image.data.astype(dtype)).data, reference.data, atol=2e-4)


def test_a_pair_uses_the_same_stars(rng):
    science, reference = field_pair(rng, n=20, snr=(80, 300))
    images = science.subtracted(), reference.subtracted()
    stars = [find_stars(i, background_rms=f.sigma) for i, f in zip(images, (science, reference), strict=True)]
    first, second = (found.psf for found in measure_psf_pair(*images, *stars))
    assert first.fwhm < second.fwhm
    assert min(first.n_stars, second.n_stars) >= 5
    few = [s[:2] for s in stars]
    assert [p.psf.origin for p in measure_psf_pair(*images, *few)] == ["moffat fit"] * 2


def test_a_stamp_as_large_as_the_image_allows(rng):
    places = np.array([12.2]), np.array([12.9])
    field = star_field(rng, n=1, shape=(25, 25), places=places, flux=np.array([5e4]), fwhm=4.0)
    psf = measure_psf(field.image)
    assert max(psf.data.shape) <= 25
    assert psf.fwhm == pytest.approx(4.1, abs=0.3)


def test_the_order_is_checked_and_what_stars_do_not_support_is_refused(rng):
    field = star_field(rng, n=12)
    with pytest.raises(InputError, match="order must be 'auto' or one of 0, 1, 2, 3, got 4"):
        measure_psf(field.image, order=4)
    with pytest.raises(PsfError, match=r"\d+ stars as they lie support a PSF of order \d at most, not 3"):
        measure_psf(field.image, order=3)
    with pytest.raises(PsfError, match="2 stars as they lie support a PSF of order 0 at most, not 1"):
        measure_psf(star_field(rng, n=2, shape=(128, 128)).image, order=1)


def test_stars_on_one_side_of_the_frame_fix_no_gradient():
    y, x = (a.ravel() for a in np.meshgrid(np.linspace(3, 96, 9), np.linspace(3, 96, 9), indexing="ij"))
    assert highest_order(y, x, (100, 100)) == 3
    assert highest_order(y[::5], x[::5], (100, 100)) == 1  # 17 of them: order 2 has 6 terms
    assert highest_order(y, 0.2 * x, (100, 100)) == 0
    assert highest_order(y, np.full(81, 50.0), (100, 100)) == 0
    assert highest_order(y[:8], x[:8], (100, 100)) == 0


def test_stars_are_taken_from_all_over_the_frame():
    x = np.concatenate([np.linspace(0, 20, 50), [60.0, 99.0]])
    kept = spread_over(np.full(52, 10.0), x, (100, 100), 10)
    assert {50, 51} <= set(kept.tolist())
    assert len(kept) == 10
    assert kept[0] == 0


def test_an_image_on_a_device_is_no_matter_for_the_cpu():
    class OnDevice:
        __cuda_array_interface__ = {"shape": (30, 30)}  # noqa: RUF012

    with pytest.raises(TypeError, match=r"on a GPU but backend 'numpy' runs on the CPU; call \.get\(\)"):
        measure_psf(OnDevice(), backend="numpy")


def test_fluxes_of_a_crowd_solve_their_equations(rng):
    overlap = rng.uniform(0, 0.2, (60, 60)) * (rng.random((60, 60)) < 0.1)
    matrix = 0.3 * np.eye(60) + overlap @ overlap.T
    truth = rng.exponential(100.0, 60)
    first = truth * rng.normal(1, 0.3, 60)
    found = conjugate_gradients(matrix.__matmul__, matrix @ truth, first)
    # The residual is 1e-4 of the right side; the least eigenvalue is 0.3 at least.
    assert np.linalg.norm(found - truth) < 1e-4 * np.linalg.norm(matrix @ truth) / 0.3
    np.testing.assert_array_equal(conjugate_gradients(matrix.__matmul__, matrix @ truth, truth), truth)
