"""find_stars and match_stars: positions, shapes, and telling stars from what only looks like one."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu.errors import InputError, ShapeMismatchError
from astrid_gpu.image import PSF, Image
from astrid_gpu.ops.psf_stamps import fwhm_of
from astrid_gpu.simulate.profiles import PsfModel
from astrid_gpu.simulate.render import draw_stars
from astrid_gpu.stars import STAR_DTYPE, StarFlag, find_stars, match_stars
from tests.star_fields import star_field, true_psf, unit_snr_flux


def nearest(stars: np.ndarray, y: float, x: float) -> np.void:
    return stars[np.argmin(np.hypot(stars["y"] - y, stars["x"] - x))]


def least_centre_error(model, flux, field):
    profile = true_psf(model)
    slope = flux * np.gradient(profile, axis=1)
    return 1 / np.sqrt((slope**2 / (field.sigma**2 + flux * profile / field.image.gain)).sum())


@pytest.mark.parametrize("fwhm", [2.0, 3.0, 5.0, 8.0])
def test_every_star_is_found_and_centred(rng, fwhm):
    grid = np.arange(40.0, 260, 44)
    y, x = (a.ravel() for a in np.meshgrid(grid, grid, indexing="ij"))
    y, x = y + rng.uniform(-0.5, 0.5, y.size), x + rng.uniform(-0.5, 0.5, x.size)
    model = PsfModel("moffat", fwhm, 3.0)
    flux = np.full(y.size, 150.0 * unit_snr_flux(model, np.sqrt(106.25)))
    field = star_field(rng, shape=(300, 300), n=y.size, fwhm=fwhm, places=(y, x), flux=flux)
    stars = find_stars(field.subtracted(), background_rms=field.sigma)
    found = [nearest(stars, *place) for place in zip(y, x, strict=True)]
    error = np.array([(s["y"] - a, s["x"] - b) for s, a, b in zip(found, y, x, strict=True)])
    # The least error per axis is 1 / sqrt(sum (f dP/dx)² / V); a Gaussian window on a Moffat profile is a little
    # worse. 98 errors: the rms has a relative error of 1 / sqrt(196). The phase in the pixel adds 0.005 px at 2 px.
    least = least_centre_error(model, flux[0], field)
    assert np.sqrt(np.mean(error**2)) < 1.3 * least * (1 + 3 / np.sqrt(196)) + 0.005
    assert np.abs(error).max() < 5 * 1.3 * least + 0.005
    assert np.mean([s["flags"] == 0 for s in found]) >= 0.9
    assert np.std([s["fwhm"] for s in found]) < 0.05 * fwhm
    # The best Gaussian of a Moffat profile is wider than its half maximum, by 5 to 15 % depending on beta.
    assert 1.0 < np.median([s["fwhm"] for s in found]) / fwhm_of(true_psf(model)) < 1.15


def test_bright_stars_are_centred_to_a_fiftieth_of_a_pixel(rng):
    field = star_field(rng, n=25, snr=(300, 1000), shape=(400, 400), fwhm=4.0)
    stars = find_stars(field.subtracted(), background_rms=field.sigma)
    clean = stars[(stars["flags"] == 0) & stars["isolated"] & (stars["snr"] > 250)]
    assert len(clean) >= 15
    error = [np.hypot(field.y - s["y"], field.x - s["x"]).min() for s in clean]
    assert np.median(error) < 0.02


def test_what_is_no_star_is_told_apart(rng):
    field = star_field(rng, n=30, shape=(400, 400), snr=(60, 200), fwhm=4.0)
    data = field.subtracted().data.copy()
    free = [(30.0, 200.0), (200.0, 30.0), (370.0, 200.0)]  # cleared below, then given a galaxy, a hot pixel, a ray
    for y, x in free:
        window = np.s_[int(y) - 25 : int(y) + 26, int(x) - 25 : int(x) + 26]
        data[window] = field.sigma * rng.normal(size=(51, 51))
    draw_stars(data, [200.0], [30.0], [100 * 25 * field.sigma], PsfModel("moffat", 9.0, 3.0))
    data[200, 30] += 800 * field.sigma
    for k in range(4):
        data[370 + k, 200 + k] += 60 * field.sigma
    stars = find_stars(field.subtracted().with_(data=data), background_rms=field.sigma)
    assert nearest(stars, 30, 200)["flags"] & StarFlag.EXTENDED
    assert nearest(stars, 200, 30)["flags"] & StarFlag.SHARP
    assert nearest(stars, 371.5, 201.5)["flags"] & (StarFlag.SHARP | StarFlag.EXTENDED)


def test_saturated_stars_and_bad_pixels_are_flagged():
    rng = np.random.default_rng(2)
    places = np.array([60.0, 60.0, 140.0, 140.0]), np.array([60.0, 140.0, 60.0, 140.0])
    flux = np.array([4e5, 2e4, 2e4, 2e4])
    field = star_field(rng, shape=(200, 200), n=4, places=places, flux=flux, fwhm=4.0)
    data = np.minimum(field.image.data, 9000.0)
    mask = np.zeros(data.shape, np.uint8)
    mask[141, 61] = 1
    image = field.image.with_(data=data - 200.0, background_level=200.0, saturation=9000.0, mask=mask)
    stars = find_stars(image, background_rms=field.sigma)
    top = nearest(stars, 60, 60)
    assert top["saturated"]
    assert top["flags"] & StarFlag.SATURATED
    assert nearest(stars, 140, 60)["flags"] & StarFlag.BAD_PIXEL
    assert nearest(stars, 140, 140)["flags"] == 0
    assert not nearest(stars, 140, 140)["saturated"]


def test_neighbours_end_isolation(rng):
    places = np.array([60.0, 60.0, 140.0]), np.array([60.0, 68.0, 140.0])
    field = star_field(rng, shape=(200, 200), n=3, places=places, flux=np.array([4e4, 8e3, 2e4]), fwhm=4.0)
    stars = find_stars(field.subtracted(), background_rms=field.sigma, psf_fwhm=4.0)
    assert not nearest(stars, 60, 68)["isolated"]
    assert nearest(stars, 140, 140)["isolated"]


def test_edges_are_flagged(rng):
    places = np.array([2.0, 60.0]), np.array([60.0, 60.0])
    field = star_field(rng, shape=(120, 120), n=2, places=places, flux=np.array([2e4, 2e4]), fwhm=4.0)
    stars = find_stars(field.subtracted(), background_rms=field.sigma)
    assert nearest(stars, 2, 60)["flags"] & StarFlag.EDGE
    assert not nearest(stars, 60, 60)["flags"] & StarFlag.EDGE


def test_noise_gives_no_stars_and_keeps_the_columns(rng):
    stars = find_stars(Image(rng.normal(size=(100, 100))), background_rms=1.0, threshold=6.0)
    assert stars.dtype == STAR_DTYPE
    # 10^4 pixels, 6 sigma: 1e-5 expected.
    assert len(stars) == 0


def test_max_stars_keeps_the_most_significant(rng):
    field = star_field(rng, n=30)
    every = find_stars(field.subtracted(), background_rms=field.sigma, max_stars=None)
    few = find_stars(field.subtracted(), background_rms=field.sigma, max_stars=5)
    assert len(few) == 5
    np.testing.assert_array_equal(few["snr"], every["snr"][:5])
    assert np.all(np.diff(every["snr"]) <= 0)


def test_given_psf_sets_the_width_where_few_sources_speak(rng):
    places = np.array([40.0]), np.array([40.0])
    field = star_field(rng, shape=(80, 80), n=1, places=places, flux=np.array([3e4]), fwhm=3.0)
    wide = field.subtracted().with_(psf=PSF(np.ones((3, 3)) / 9, fwhm=6.0))
    alone = find_stars(field.subtracted(), background_rms=field.sigma)
    hinted = find_stars(wide, background_rms=field.sigma)
    assert nearest(alone, 40, 40)["flags"] == 0
    assert nearest(hinted, 40, 40)["flags"] & StarFlag.SHARP


def test_noise_must_fit_and_be_positive(rng):
    image = Image(rng.normal(size=(40, 50)))
    with pytest.raises(ShapeMismatchError, match="background_rms must be a number or an array of shape"):
        find_stars(image, background_rms=np.ones((4, 4)))
    with pytest.raises(InputError, match="background_rms must be positive"):
        find_stars(image, background_rms=0.0)


def make_list(y, x):
    stars = np.zeros(len(y), STAR_DTYPE)
    stars["y"], stars["x"] = y, x
    return stars


def test_match_is_mutual_and_within_the_radius():
    a = make_list([10.0, 20.0, 20.5], [10.0, 20.0, 20.0])
    b = make_list([20.1, 50.0, 10.2], [20.0, 50.0, 10.0])
    ia, ib = match_stars(a, b, radius=1.0)
    assert sorted(zip(ia.tolist(), ib.tolist(), strict=True)) == [(0, 2), (1, 0)]


def test_match_of_nothing_is_empty():
    a, nothing = make_list([1.0], [1.0]), make_list([], [])
    for pair in ((a, nothing), (nothing, a)):
        ia, ib = match_stars(*pair, radius=1.0)
        assert ia.size == ib.size == 0
    with pytest.raises(InputError, match="radius must be a positive number"):
        match_stars(a, a, radius=0.0)
