"""A given PSF against the image's stars: silent where it is right, the flux it costs told where it is not."""

from __future__ import annotations

import logging

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu import _given
from astrid_gpu._psf_check import _ALONE, _UNSEEN, PsfFit, _mean_of, fit_of
from astrid_gpu.calibrate import noise_variance, subtract_background
from astrid_gpu.image import PSF, PSFModel
from astrid_gpu.ops.psf_stamps import moffat_stamp
from astrid_gpu.results import Step
from astrid_gpu.simulate.profiles import PsfModel
from astrid_gpu.simulate.render import draw_stars
from astrid_gpu.stars import find_stars
from tests.star_fields import star_field, true_psf

pytest.importorskip("astropy", reason="the simulated WCS needs astropy")


def fitted(rng, given, **field):
    """How a PSF, of the field's model and half side, fits a field of stars; and the field's true PSF there."""
    made = star_field(rng, beta=3.0, shape=(300, 300), **field)
    image, background, _ = subtract_background(made.image, backend="numpy")
    variance, _, _ = noise_variance(image, background)
    stars = find_stars(image, background_rms=background.rms)
    truth = true_psf(made.model, 24)
    return fit_of(image.with_(variance=variance), stars, given), truth / truth.sum()


def psf(fwhm, beta=3.0, half=24):
    stamp = moffat_stamp(fwhm, beta, 2 * half + 1)
    return PSF(stamp / stamp.sum(), fwhm)


@pytest.mark.parametrize("fwhm", [1.6, 2.5, 4.0])
def test_the_right_psf_passes(rng, fwhm):
    found = [fitted(rng, psf(fwhm), n=40, fwhm=fwhm)[0] for _ in range(10)]
    assert not any(one.matters for one in found)
    bias, error = (np.array([getattr(one, name) for one in found]) for name in ("flux_bias", "error"))
    assert np.abs(bias / error).max() < 2.5  # 3 is where it warns; ten fields
    assert np.abs(bias.mean()) < 0.005
    assert np.mean([one.fwhm / one.fwhm_stars for one in found]) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("fwhm", [2.2, 3.0, 4.5])
@pytest.mark.parametrize("wrong", [0.8, 1.15])
def test_the_bias_of_a_wrong_width_is_the_true_one(rng, fwhm, wrong):
    given = psf(wrong * fwhm)
    found, truth = fitted(rng, given, n=40, fwhm=fwhm)
    true_bias = (truth * given.data).sum() / (given.data**2).sum() - 1
    assert found.matters
    assert found.flux_bias == pytest.approx(true_bias, abs=2 * found.error)
    assert found.error < 0.03
    assert found.fwhm / found.fwhm_stars == pytest.approx(wrong, rel=0.03)
    assert found.chi2 > 1.3


def test_few_and_faint_stars_do_not_cry_wolf(rng):
    """Ten stars of S/N 20 to 60 know the flux to 3 % only."""
    found = [fitted(rng, psf(3.0), n=10, fwhm=3.0, snr=(20.0, 60.0))[0] for _ in range(20)]
    sure = [one for one in found if isinstance(one, PsfFit)]
    assert len(sure) > 10
    assert not any(one.matters for one in sure)
    pull = np.array([one.flux_bias / one.error for one in sure])
    assert 0.3 < pull.std() < 1.5


def sparse_field(rng, n, doubtful):
    """n sources of S/N 25 to 1000, a share of them with a neighbour of S/N 3 to 6 beside them or 3 to 6 % too wide."""
    right, wide = PsfModel("moffat", 3.0, 3.0), PsfModel("moffat", 3.0 * rng.uniform(1.03, 1.06), 3.0)
    unit = star_field(rng, beta=3.0, n=0, shape=(32, 32)).sigma / np.sqrt((true_psf(right) ** 2).sum())
    side = 190
    cell = np.stack(np.divmod(rng.permutation(9)[:n], 3), axis=1)  # far from each other: all are isolated
    y, x = (35 + 60 * cell + rng.uniform(-8, 8, (n, 2))).T
    snr = np.exp(rng.uniform(np.log(25), np.log(1000), n))
    kind = np.where(rng.uniform(size=n) < doubtful, rng.integers(1, 3, n), 0)
    made = star_field(rng, beta=3.0, shape=(side, side), places=(y[kind < 2], x[kind < 2]), flux=snr[kind < 2] * unit)
    more, angle = np.zeros((side, side)), rng.uniform(0, 2 * np.pi, n)
    away = rng.uniform(0.7, 2.2, n) * 3.0
    beside = kind == 1
    flux = rng.uniform(3, 6, n) * unit
    draw_stars(more, (x + away * np.cos(angle))[beside], (y + away * np.sin(angle))[beside], flux[beside], right)
    draw_stars(more, x[kind == 2], y[kind == 2], snr[kind == 2] * unit, wide)
    more += rng.normal(size=more.shape) * np.sqrt(more / 2.0)
    return made.image.with_(data=made.image.data + more)


def fit_in(image, given):
    image, background, _ = subtract_background(image, backend="numpy")
    variance, _, _ = noise_variance(image, background)
    return fit_of(image.with_(variance=variance), find_stars(image, background_rms=background.rms), given)


def test_few_sources_of_which_some_are_no_stars_do_not_cry_wolf():
    """Three to eight, each a blend or slightly extended with a chance of one half."""
    found = []
    for seed in range(150):
        rng = np.random.default_rng([seed, 31])
        found.append(fit_in(sparse_field(rng, int(rng.integers(3, 9)), 0.5), psf(3.0)))
    sure = [one for one in found if isinstance(one, PsfFit) and 3 <= one.n <= 8]
    assert len(sure) > 100
    assert np.mean([one.matters for one in sure]) < 0.02


@pytest.mark.parametrize("wrong", [0.89, 1.105])
def test_ten_good_stars_tell_of_a_tenth_of_the_flux(wrong):
    given = psf(wrong * 3.0)
    truth = psf(3.0).data
    assert abs((truth * given.data).sum() / (given.data**2).sum() - 1) == pytest.approx(0.1, abs=0.01)
    found = [fitted(np.random.default_rng([seed, 32]), given, n=14, fwhm=3.0)[0] for seed in range(20)]
    enough = [one for one in found if one.n >= 10]
    assert len(enough) > 10
    assert all(one.matters for one in enough)


def test_a_bright_star_is_not_outvoted_by_faint_sources():
    """As on a cutout of the DECam: +0.8 % of the star, -5 to -17 % of three that are a tenth as bright and less."""
    snr = np.array([1303.0, 166.0, 115.0, 37.0])
    chance = np.array([0.002, 0.017, 0.025, 0.071])
    doubt = _ALONE**2 + (_UNSEEN / snr) ** 2
    mean, error = _mean_of(np.array([0.008, -0.052, -0.048, -0.168]), chance**2, doubt)
    assert -0.025 < mean < 0.0
    assert 0.02 < error < 0.04
    assert _mean_of(np.array([-0.22]), chance[:1] ** 2, doubt[:1])[1] < 0.22 / 3  # one alone has to be far off


def test_a_psf_that_varies_is_taken_where_the_stars_are(rng):
    """Right at every place: silent. The mean of the field at every place would be as well; the wrong end is not."""
    terms = np.stack([psf(3.0).data, np.zeros_like(psf(3.0).data), psf(3.3).data - psf(3.0).data])
    assert not fitted(rng, PSFModel(terms, (300, 300)), n=60, fwhm=3.0)[0].matters
    terms[0] = psf(2.4).data
    assert fitted(rng, PSFModel(terms, (300, 300)), n=60, fwhm=3.0)[0].flux_bias < -0.1


@pytest.fixture(scope="module")
def pair():
    """Thirty bright changes on blank sky and stars."""
    return ag.simulate.pair(seed=4, shape=(400, 400), n_changes=30, snr=(40.0, 90.0), n_galaxies=0, n_stars=150)


def check_of(diff, role):
    return next(step for step in diff.steps if step.stage == "psf check" and step.values["role"] == role)


def test_subtract_says_nothing_aloud_about_right_psfs(caplog):
    for seed in range(3):
        field = ag.simulate.pair(seed=seed, shape=(300, 300))
        with caplog.at_level(logging.WARNING, "astrid_gpu"):
            diff = ag.subtract(*field.known())
        assert not caplog.records
        for role in ("science", "reference"):
            assert check_of(diff, role).values["checked"]
            assert abs(diff.metrics[f"psf_flux_bias_{role}"]) < 3 * diff.metrics[f"psf_flux_bias_error_{role}"]


def test_subtract_warns_of_fluxes_that_will_be_off_by_what_it_says(pair, caplog):
    narrow = f"moffat:{0.8 * pair.frames[0].psf.fwhm},3.5"
    with caplog.at_level(logging.WARNING, "astrid_gpu"):
        diff = ag.subtract(*pair.known(), psf_science=narrow)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert "fluxes will come out about" in said[0]
    assert (
        "leave psf_science (and the psf of the image) out to have it measured, or give one made with measure_psf"
        in said[0]
    )
    assert said[0] == check_of(diff, "science").text
    assert not check_of(diff, "reference").values["matters"]
    bias, error = diff.metrics["psf_flux_bias_science"], diff.metrics["psf_flux_bias_error_science"]
    new = pair.truth[np.isin(pair.truth["kind"], ["new"])]
    y, x = (np.rint(np.asarray(new[axis])).astype(int) for axis in "yx")
    true = np.asarray(new["flux_science"])
    exact = ag.subtract(*pair.known())
    # The flux at the pixel of a source is that of its peak nearly; what falls between pixels cancels in the ratio.
    ratio = np.median(diff.flux[y, x] / exact.flux[y, x]) - 1
    assert len(true) >= 5
    assert ratio == pytest.approx(bias, abs=2 * error + 0.02)
    assert any("fluxes by the PSF given for the science" in reason for reason in ag.quality(diff).reasons)


def test_the_psf_that_an_image_carries_is_checked_too(pair, caplog):
    """Though the search for stars begins with its width."""
    science, reference = pair.known()
    true = pair.frames[0].psf
    for wrong, low in ((0.8, True), (1.25, False)):
        with caplog.at_level(logging.WARNING, "astrid_gpu"):
            diff = ag.subtract(science.with_(psf=psf(wrong * true.fwhm, 3.5)), reference)
        assert ("% low and stars" in caplog.text) is low
        assert ("% high and stars" in caplog.text) is not low
        assert diff.metrics["psf_check_stars_science"] > 20
        caplog.clear()


def test_the_check_changes_nothing(pair, monkeypatch):
    checked = ag.subtract(*pair.known())
    monkeypatch.setattr(_given, "check_psf", lambda role, *_: Step("psf check", role, {}))
    plain = ag.subtract(*pair.known())
    for name in ("difference", "score_corr", "flux"):
        np.testing.assert_array_equal(getattr(checked, name), getattr(plain, name))
    assert "psf_flux_bias_science" not in plain.metrics


def test_too_few_stars_are_no_check(rng):
    frames = rng.normal(100, 5, (2, 96, 85)).astype(np.float32)
    diff = ag.subtract(*frames, psf_science="gaussian:2.6", psf_reference="gaussian:2.1")
    step = check_of(diff, "science")
    assert step.text.startswith("science: the given PSF not checked against stars: 0 clean, isolated stars of S/N 20")
    assert not step.values["checked"]
    assert "psf_flux_bias_science" not in diff.metrics
    assert not any("PSF given" in reason for reason in ag.quality(diff).reasons)


def test_measured_psfs_are_not_checked_against_themselves(pair):
    diff = ag.subtract(pair.science, pair.reference)
    assert not [step for step in diff.steps if step.stage == "psf check"]
