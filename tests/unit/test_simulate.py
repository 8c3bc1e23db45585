"""The simulator: fluxes, centres, noise and truth are what it says they are. Tolerances come from n."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu import simulate
from astrid_gpu.errors import ConfigError
from astrid_gpu.simulate.render import draw_galaxies, draw_stars

MODELS = [
    simulate.PsfModel("gaussian", 2.2),
    simulate.PsfModel("gaussian", 3.1, ellipticity=0.3, angle=40.0),
    simulate.PsfModel("moffat", 2.5, 3.5, 0.1, -20.0),
    simulate.PsfModel("moffat", 1.3, 4.5),
]


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_star_equals_direct_integration_of_its_profile(model, rng):
    """The table of sub-pixel phases is a shortcut of the same integral: 1e-6 of the peak, core and wings."""
    for _ in range(5):
        y, x = 40 + rng.uniform(-0.5, 0.5, 2)
        canvas = np.zeros((81, 81))
        draw_stars(canvas, x, y, 1e5, model, floor=1e-6)
        axis = np.arange(81)
        direct = 1e5 * model.pixels(axis - y, axis - x, order=14)
        assert np.abs(canvas - direct).max() < 1e-6 * direct.max()


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_star_keeps_its_flux_and_its_place(model):
    canvas = np.zeros((301, 301))
    y, x = 150.37, 149.81
    draw_stars(canvas, x, y, 1e6, model, floor=1e-5)
    total = canvas.sum()
    # What may be missing lies beyond the frame: for a Moffat the integral outside r = 150.
    alpha2 = 0.25 * model.fwhm**2 / (2 ** (1 / model.beta) - 1)
    outside = (1 + 140**2 / alpha2) ** (1 - model.beta) if model.kind == "moffat" else 0.0
    assert total == pytest.approx(1e6, rel=max(2 * outside, 1e-6))
    axis = np.arange(301)
    # A sum over pixels aliases: the centroid of a pixel-integrated profile p is off by at most 2 p^(1) / (2 pi) px,
    # p^(1) its transform at one cycle a pixel. 1e-4 for rounding and for wings that end on whole pixels.
    fine = np.arange(-60, 60, 0.02)
    marginal = model.density(fine[:, None], fine[None, ::5]).sum(1) * 0.02 * 0.1
    aliased = abs(marginal @ np.exp(-2j * np.pi * fine)) / np.pi
    assert canvas.sum(1) @ axis / total == pytest.approx(y, abs=aliased + 1e-4)
    assert canvas.sum(0) @ axis / total == pytest.approx(x, abs=aliased + 1e-4)


def test_field_of_stars_is_the_sum_of_its_stars(rng, monkeypatch):
    """Chunks and scatter-adding lose nothing, off-frame stars included."""
    monkeypatch.setattr(simulate.render, "_CHUNK", 50)
    n, model = 323, simulate.PsfModel("moffat", 2.4)
    x, y, flux = rng.uniform(-10, 110, n), rng.uniform(-10, 90, n), rng.uniform(10, 1e5, n)
    together, apart = np.zeros((80, 100)), np.zeros((80, 100))
    draw_stars(together, x, y, flux, model)
    for i in range(n):
        draw_stars(apart, x[i], y[i], flux[i], model)
    np.testing.assert_allclose(together, apart, rtol=1e-10, atol=1e-8)


def test_negative_and_no_stars():
    canvas = np.zeros((31, 31))
    draw_stars(canvas, np.array([]), np.array([]), np.array([]), MODELS[0])
    assert not canvas.any()
    draw_stars(canvas, 15.2, 14.9, -500.0, MODELS[0])
    assert canvas.sum() == pytest.approx(-500.0, rel=1e-6)


@pytest.mark.parametrize(("index", "within"), [(1.0, 0.02), (4.0, 0.05)])
def test_sersic_gaussians_follow_the_profile(index, within):
    """Between 0.1 and 3 (n = 1) or 6 (n = 4) half-light radii the surface brightness is that of the Sersic law."""
    from scipy.special import gammaincinv

    weights, widths = simulate.sersic_gaussians(index)
    radius = np.geomspace(0.1, 2.8 if index == 1 else 6.0, 40)
    made = (weights / (2 * np.pi * widths**2) * np.exp(-0.5 * (radius[:, None] / widths) ** 2)).sum(1)
    law = np.exp(-gammaincinv(2 * index, 0.5) * radius ** (1 / index))
    ratio = made / law
    assert np.abs(ratio / np.median(ratio) - 1).max() < within
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)


def test_galaxy_keeps_its_flux_and_place_and_moves_by_subpixels():
    galaxy = np.zeros(1, simulate.GALAXY_DTYPE)
    galaxy[0] = (64.3, 60.8, 2000.0, 3.0, 1.0, 0.5, 30.0)
    model = simulate.PsfModel("gaussian", 2.5)
    canvas = np.zeros((128, 128))
    draw_galaxies(canvas, galaxy, model)
    assert canvas.sum() == pytest.approx(2000.0, rel=1e-3)  # the PSF and the truncation of the profile
    axis = np.arange(128)
    assert canvas.sum(1) @ axis / canvas.sum() == pytest.approx(60.8, abs=0.01)
    assert canvas.sum(0) @ axis / canvas.sum() == pytest.approx(64.3, abs=0.01)
    assert canvas.min() > -1e-3 * canvas.max()  # no ringing


def test_point_like_galaxy_is_a_star():
    galaxy = np.zeros(1, simulate.GALAXY_DTYPE)
    galaxy[0] = (32.4, 31.7, 1000.0, 1e-6, 1.0, 1.0, 0.0)
    model = simulate.PsfModel("gaussian", 3.0)
    as_galaxy, as_star = np.zeros((64, 64)), np.zeros((64, 64))
    draw_galaxies(as_galaxy, galaxy, model)
    draw_stars(as_star, 32.4, 31.7, 1000.0, model)
    assert np.abs(as_galaxy - as_star).max() < 2e-3 * as_star.max()  # aliasing of the sampled PSF, FWHM 3 px


def test_noise_has_the_variance_it_claims(rng):
    """Over n pixels (d - expected)/sigma has mean 0 within 5/sqrt(n) and variance 1 within 5 sqrt(2.1/n)."""
    frame = simulate.field(seed=11, shape=(512, 512), n_stars=4000)
    good = frame.image.data < frame.image.saturation
    z = ((frame.image.data - frame.expected) / np.sqrt(frame.variance))[good]
    n = z.size
    assert abs(z.mean()) < 5 / np.sqrt(n)
    assert abs(z.var() - 1) < 5 * np.sqrt(2.1 / n)
    bright = frame.expected[good] > 2 * np.median(frame.expected)
    assert bright.sum() > 1000  # where the sources' own photons rule
    assert abs(z[bright].var() - 1) < 5 * np.sqrt(2.1 / bright.sum())


def test_deep_reference_has_the_noise_of_a_mean():
    """15 exposures averaged: 15 times the electrons per count, sqrt(15) times the read noise."""
    one = simulate.Exposure(sky=180.0)
    assert simulate.REFERENCE.sky_noise == pytest.approx(one.sky_noise / np.sqrt(15), rel=1e-12)


def test_seed_decides_everything():
    first, again, other = (ag.simulate.pair(seed=s, shape=(96, 96), n_changes=2) for s in (5, 5, 6))
    np.testing.assert_array_equal(first.science.data, again.science.data)
    np.testing.assert_array_equal(first.reference.data, again.reference.data)
    np.testing.assert_array_equal(first.truth, again.truth)
    assert not np.array_equal(first.science.data, other.science.data, equal_nan=True)


def test_pair_leaves_the_global_generator_alone():
    state = np.random.get_state()[1].copy()  # noqa: NPY002  (the point of the test)
    simulate.pair(seed=1, shape=(64, 64), n_changes=0)
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_pair_gives_what_a_user_has_and_keeps_the_truth_beside_it():
    field = simulate.pair(seed=2, shape=(200, 180), bad_columns=2)
    assert field.science.psf is None
    assert field.science.variance is None
    assert field.science.shape == (200, 180)
    assert np.isnan(field.science.data).all(axis=0).sum() == 2
    assert (field.science.bad == (field.science.mask != 0)).all()
    assert field.reference.mask is None
    science, reference = field.known()
    assert science.psf.data.sum() == pytest.approx(1.0)
    assert reference.variance.shape == (200, 180)
    assert set(field.truth["kind"]) == {"hosted", "new", "vanished", "faded", "brightened"}
    np.testing.assert_allclose(field.truth["flux"], field.truth["flux_science"] - field.truth["flux_reference"])
    np.testing.assert_array_equal(field.truth["polarity"], np.sign(field.truth["flux"]))
    assert "changed sources" in repr(field)


def test_truth_sky_positions_are_those_of_the_wcs():
    pytest.importorskip("astropy")
    field = simulate.pair(seed=2, shape=(150, 150), n_changes=4)
    x, y = field.science.wcs.world_to_pixel_values(field.truth["ra"], field.truth["dec"])
    np.testing.assert_allclose(x, field.truth["x"], atol=1e-6)
    np.testing.assert_allclose(y, field.truth["y"], atol=1e-6)


def test_changes_are_in_the_pixels():
    """Noise-free science minus the noise-free scene without changes is the changed sources' flux."""
    field = simulate.pair(seed=4, shape=(160, 160), n_changes=3, n_stars=0, n_galaxies=0)
    sky = field.exposures[0].sky
    extra = (field.frames[0].expected - sky).sum()
    assert extra == pytest.approx(field.truth["flux_science"].sum(), rel=5e-3)  # faint wings end at the floor


def test_expected_snr_is_what_the_matched_filter_gives():
    """On noise-free pixels S_corr with the true PSFs and variances is the table's S/N, to the phase of the pixel."""
    field = simulate.pair(seed=9, shape=(192, 192), n_stars=0, n_galaxies=0, n_changes=6, bad_fraction=0, bad_columns=0)
    (science, reference), (a, b) = field.frames, field.exposures
    diff = ag.zogy(
        science.expected - a.sky,
        reference.expected - b.sky,
        science.psf.data,
        reference.psf.data,
        a.sky_noise,
        b.sky_noise,
        flux_science=1.0,
        flux_reference=b.flux_scale / a.flux_scale,
        variance_science=science.variance,
        variance_reference=reference.variance,
        backend="numpy",
    )
    for row in field.truth:
        y, x = round(row["y"]), round(row["x"])
        peak = np.abs(diff.score_corr[y - 1 : y + 2, x - 1 : x + 2]).max() * row["polarity"]
        assert peak == pytest.approx(row["snr"], rel=0.12)


def test_misregistration_moves_the_reference_only():
    plain = simulate.pair(seed=3, shape=(96, 96), n_changes=0)
    moved = simulate.pair(seed=3, shape=(96, 96), n_changes=0, misregistration=(0.4, -0.2))
    np.testing.assert_array_equal(plain.frames[0].expected, moved.frames[0].expected)
    phase = np.fft.rfft2(moved.frames[1].expected - 180) / np.fft.rfft2(plain.frames[1].expected - 180)
    assert np.angle(phase[1, 0]) * 96 / (-2 * np.pi) == pytest.approx(0.4, abs=0.15)
    assert np.angle(phase[0, 1]) * 96 / (-2 * np.pi) == pytest.approx(-0.2, abs=0.15)


def test_background_gradient_and_saturation():
    bright = replace(simulate.SCIENCE, saturation=1500.0, gradient=(50.0, 0.0))
    frame = simulate.field(seed=1, shape=(256, 256), exposure=bright, n_stars=800)
    assert frame.image.data.max() == np.float32(1500.0)
    rows = np.median(frame.expected, axis=1)
    assert rows[-20:].mean() - rows[:20].mean() == pytest.approx(50 * (1 - 20 / 256), abs=4)


def test_sequence_is_the_same_in_any_order_and_shares_its_reference():
    season = simulate.sequence(4, (128, 128), seed=3, n_objects=6)
    again = simulate.sequence(4, (128, 128), seed=3, n_objects=6)
    later, earlier = season[3], season[1]
    np.testing.assert_array_equal(again[1].science.data, earlier.science.data)
    np.testing.assert_array_equal(season[-1].science.data, later.science.data)
    assert later.reference is season.reference
    assert len(list(season)) == 4
    np.testing.assert_array_equal(later.truth["id"], season.objects["id"])
    with pytest.raises(IndexError, match="epoch 4 of a sequence of 4"):
        season[4]


def test_sequence_follows_its_light_curves():
    season = simulate.sequence(5, (128, 128), seed=8, n_objects=6)
    for epoch, pair in enumerate(season):
        scale = season.exposures[epoch].flux_scale
        for row, thing in zip(pair.truth, season.objects, strict=True):
            expected = simulate.light_curve(
                thing["kind"], season.days[epoch], peak=thing["peak"], start=thing["start"], scale=thing["scale"]
            )
            assert row["flux"] == pytest.approx(scale * (expected - thing["reference"]))


def test_light_curve_shapes():
    days = np.linspace(-20, 60, 801)
    supernova = simulate.light_curve("supernova", days, peak=100.0, start=3.0, scale=20.0)
    assert days[np.argmax(supernova)] == pytest.approx(3.0, abs=0.1)
    assert supernova.max() == pytest.approx(100.0, rel=1e-3)
    flare = simulate.light_curve("flare", days, peak=10.0, start=0.0, scale=3.0)
    assert not flare[days < -1e-9].any()
    vanished = simulate.light_curve("vanished", days, peak=10.0, start=0.0, scale=1.0)
    assert vanished[0] == 10.0
    assert vanished[-1] == 0.0
    with pytest.raises(ConfigError, match="no light curve is called 'nova'"):
        simulate.light_curve("nova", days, peak=1.0, start=0.0, scale=1.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: simulate.psf("airy"), "kind is 'airy'"),
        (lambda: simulate.psf(fwhm=0.2), "fwhm is 0.2"),
        (lambda: simulate.psf(beta=1.0), "beta is 1.0"),
        (lambda: simulate.psf(ellipticity=0.95), "ellipticity is 0.95"),
        (lambda: simulate.psf(size=10), "odd number of pixels"),
        (lambda: simulate.pair(shape=(8, 8)), "at least 16x16"),
        (lambda: simulate.pair(snr=(5.0, 2.0)), "0 < low <= high"),
        (lambda: simulate.pair(shape=(90, 90), n_changes=50), "no room for 50"),
        (lambda: simulate.scene(0, faintest=10.0, brightest=5.0), "0 < faintest < brightest"),
        (lambda: simulate.sersic_gaussians(9.0), "Sersic index"),
        (lambda: simulate.sequence(0), "one epoch or more"),
        (lambda: simulate.Exposure(gain=0.0), "gain is 0.0"),
        (lambda: simulate.Exposure(sky=-1.0), "sky is -1.0"),
    ],
)
def test_impossible_requests_are_refused_in_words(call, words):
    with pytest.raises(ConfigError, match=words):
        call()
