"""The gain measured on stars: right within its error, with a PSF that is wrong, and end to end."""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu._photon_noise import measure_gain
from astrid_gpu.calibrate import noise_variance, subtract_background
from astrid_gpu.psf import measure_psf
from astrid_gpu.stars import find_stars
from tests.star_fields import star_field


def prepared(image):
    """Background, noise, stars and PSF as `subtract` finds them."""
    subtracted, background, _ = subtract_background(image, backend="auto")
    variance, sigma, step = noise_variance(subtracted, background)
    subtracted = subtracted.with_(variance=variance)
    stars = find_stars(subtracted, background_rms=sigma)
    return subtracted, sigma, stars, measure_psf(subtracted, stars=stars), step


def bare(field):
    """The exposure as a survey hands it out: no sky, no gain."""
    return field.image.with_(data=field.image.data - 200.0, gain=None, read_noise=None)


def test_gain_is_right_within_its_error(rng):
    pulls = []
    for gain in (0.5, 1.0, 2.0, 4.0):
        field = star_field(rng, shape=(512, 512), n=150, snr=(20, 400), gain=gain)
        image, sigma, stars, psf, step = prepared(bare(field))
        assert step.values["sources_missing"]
        found = measure_gain(image, psf.data, psf.fwhm, stars, sigma)
        assert found.relative_error < 0.25
        pulls.append((gain / found.gain - 1) / found.relative_error)
        assert found.psf_error < 0.03
    # Each is within its error; the PSF, drawn from the same stars, takes a little of their noise with it.
    assert np.max(np.abs(pulls)) < 4
    assert abs(np.mean(pulls)) < 4 / np.sqrt(len(pulls))


def test_a_wrong_psf_goes_into_its_own_error(rng):
    """A PSF some per cent too wide: epsilon tells, the gain stays."""
    from scipy.ndimage import gaussian_filter

    field = star_field(rng, shape=(512, 512), n=200, snr=(20, 400), gain=1.0)
    image, sigma, stars, psf, _ = prepared(bare(field))
    wide = gaussian_filter(psf.data, 0.5)
    right, wrong = (measure_gain(image, p, psf.fwhm, stars, sigma) for p in (psf.data, wide / wide.sum()))
    assert wrong.psf_error > right.psf_error + 0.005
    error = np.hypot(right.relative_error, wrong.relative_error)
    assert wrong.gain == pytest.approx(1.0, abs=4 * wrong.relative_error)
    assert wrong.gain == pytest.approx(right.gain, rel=4 * error)


def test_nothing_is_made_of_nothing(rng):
    few = star_field(rng, n=5)
    image, sigma, stars, psf, _ = prepared(bare(few))
    assert measure_gain(image, psf.data, psf.fwhm, stars, sigma) is None
    # So many electrons a count that the stars have no photon noise beside the sky's read noise.
    silent = star_field(rng, n=60, gain=1e5, read_noise=1e6, snr=(30, 100))
    image, sigma, stars, psf, _ = prepared(bare(silent))
    assert measure_gain(image, psf.data, psf.fwhm, stars, sigma) is None


def test_subtract_uses_it_and_says_so(rng):
    """Two sky-subtracted frames without gain: bright static stars stay below 5 sigma, which they did not."""
    fixed = np.random.default_rng(77)
    places = fixed.uniform(15, 384, 120), fixed.uniform(15, 384, 120)
    flux = np.exp(fixed.uniform(np.log(2e3), np.log(2e5), 120))
    fields = [star_field(rng, shape=(400, 400), n=120, places=places, flux=flux, gain=0.5) for _ in range(2)]
    images = [bare(field).with_(name=name) for field, name in zip(fields, ("N", "R"), strict=True)]
    diff = ag.subtract(*images, align="none", background=False)
    told = [step.text for step in diff.steps if step.stage == "noise" and "measured on the residuals" in step.text]
    assert len(told) == 2
    level = fields[0].clean / fields[0].sigma
    bright = (level > 10) & (diff.mask == 0)
    assert bright.sum() > 800
    spread = diff.score_corr[bright].std()
    assert 0.7 < spread < 1.25
    plain = ag.subtract(*(i.with_(variance=np.full(i.shape, f.sigma**2)) for i, f in zip(images, fields, strict=True)),
                        align="none", background=False, renormalise="none")  # fmt: skip
    assert any("measured on the residuals" in step.text for step in plain.steps)  # a plane of the sky alone likewise
    assert plain.score_corr[bright].std() == pytest.approx(spread, rel=0.15)
