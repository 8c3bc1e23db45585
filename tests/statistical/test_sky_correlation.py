"""Correlated noise of the sky: how much of it a filter sees, no sources made of it, and a PSF that it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

import astrid_gpu as ag
from astrid_gpu._star_noise import filtered_noise, sky_correlation
from astrid_gpu.image import Image
from astrid_gpu.stars import find_stars
from tests.star_fields import star_field, true_psf

SIGMA = 12.0


def smoothed(rng, shape, width=1.0):
    """Noise of this rms smoothed by a Gaussian."""
    noise = gaussian_filter(rng.normal(size=shape), width, mode="wrap")
    return SIGMA * noise / noise.std()


def factor(backend, data, fwhm, rms=SIGMA):
    found = sky_correlation(backend, backend.asarray(data), backend.asarray(np.zeros(data.shape, bool)), rms)
    return filtered_noise(found, fwhm)


@pytest.mark.parametrize("fwhm", [2.0, 3.2, 6.0])
def test_white_noise_is_white_and_smoothed_noise_is_seen(backend, fwhm):
    rng = np.random.default_rng(4)
    white = rng.normal(0, SIGMA, (500, 620))
    assert factor(backend, white.astype(np.float32), fwhm) == 1.0
    noise = smoothed(rng, white.shape)
    seen = gaussian_filter(noise, fwhm / 2.3548).std() / gaussian_filter(white, fwhm / 2.3548).std()
    assert factor(backend, noise.astype(np.float32), fwhm) == pytest.approx(seen, rel=0.1)


def test_stars_sky_holes_and_whole_numbers_do_not_look_correlated(rng):
    """Crowding, a slope, bad pixels, and noise of a third of a count."""
    backend = ag.get_backend("numpy")
    made = star_field(rng, n=1500, shape=(400, 400), snr=(5, 500), fwhm=3.0)
    data = np.asarray(made.image.data - made.image.meta["sky"], float)
    assert factor(backend, data + np.linspace(-5, 5, 400) * made.sigma / 10, 3.0, made.sigma) == 1.0
    holes = rng.normal(0, SIGMA, (400, 400))
    holes[rng.uniform(size=holes.shape) < 0.2] = np.nan
    assert factor(backend, holes, 3.0) == 1.0
    assert factor(backend, np.rint(rng.normal(0, 0.33, (400, 400))), 3.0, 0.33) == 1.0


@pytest.mark.parametrize("shape", [(9, 9), (30, 200), (64, 64)])
def test_small_frames_and_none_that_is_good(shape):
    backend = ag.get_backend("numpy")
    assert factor(backend, np.zeros(shape), 3.0) == 1.0
    assert factor(backend, np.full(shape, np.nan), 3.0) == 1.0


def test_noise_is_not_taken_for_sources(rng):
    """Taken for white it would make several hundred in these 0.36 Mpix."""
    image = Image(smoothed(rng, (600, 600)))
    assert len(find_stars(image, background_rms=SIGMA, psf_fwhm=3.2)) <= 2
    drizzled = 0.5 * (image.data + shift(image.data, (0.5, 0.5), order=1, mode="wrap"))
    assert len(find_stars(image.with_(data=drizzled), background_rms=drizzled.std(), psf_fwhm=3.2)) <= 2


def test_a_psf_keeps_its_light_where_the_noise_is_correlated():
    """Noise peaks taken off as neighbours left 1.5 % too much of the light outside of 5 px; told by eight fields."""
    off = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        made = star_field(rng, n=60, shape=(420, 420), snr=(30, 400), fwhm=3.2)
        scale = made.sigma / SIGMA
        photons = rng.normal(size=made.clean.shape) * np.sqrt(np.maximum(made.variance - made.sigma**2, 0.0))
        image = Image(made.clean + scale * smoothed(rng, made.clean.shape) + photons)
        found = ag.measure_psf(image, stars=find_stars(image, background_rms=made.sigma), size=31)
        true = true_psf(made.model, 15)
        inner = np.hypot(*np.meshgrid(*(np.arange(31) - 15,) * 2)) < 5
        off.append(found.data[inner].sum() / (true[inner].sum() / true.sum()) - 1)
    mean, error = np.mean(off), np.std(off) / np.sqrt(len(off) - 1)
    assert abs(mean) < 0.004 + 2 * error
    assert error < 0.003
