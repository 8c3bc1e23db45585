"""measure_psf against known PSFs: what a subtracted star leaves, flux bias, and the honest chi-squared."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import fftconvolve

from astrid_gpu.calibrate import noise_variance, subtract_background
from astrid_gpu.ops.psf_stamps import centroid_of, fwhm_of
from astrid_gpu.psf import measure_psf
from astrid_gpu.stars import find_stars
from tests.star_fields import star_field, true_psf

SHAPES = [(3.0, 3.0, 0.0), (4.0, 2.5, 0.15), (2.3, 3.5, 0.1)]


def measured(field):
    image, background, _ = subtract_background(field.image, backend="numpy")
    variance, _, _ = noise_variance(image, background)
    stars = find_stars(image, background_rms=background.rms)
    return measure_psf(image, stars=stars, variance=variance)


def leftover(psf, model, snr=300.0):
    """What a star of S/N 300 leaves when the measured PSF is fitted to it and taken off.

    Returns the largest residual in sigmas of the matched filter, and the bias of the fitted flux, both against the
    true PSF cut to the same stamp.
    """
    truth = true_psf(model, psf.data.shape[0] // 2)
    truth /= truth.sum()
    fitted = (truth * psf.data).sum() / (psf.data**2).sum()
    rest = fftconvolve(truth - fitted * psf.data, psf.data[::-1, ::-1], mode="full")
    norm = np.sqrt((psf.data**2).sum() * (truth**2).sum())
    return snr * np.abs(rest).max() / norm, fitted - 1.0


@pytest.mark.parametrize(("fwhm", "beta", "ellipticity"), SHAPES)
def test_a_bright_star_subtracts_below_five_sigma(rng, fwhm, beta, ellipticity):
    biases = []
    for _ in range(4):
        field = star_field(rng, n=40, fwhm=fwhm, beta=beta, ellipticity=ellipticity, angle=30.0, shape=(300, 300))
        psf = measured(field)
        residual, bias = leftover(psf, field.model)
        assert residual < 2.5  # half of what would raise a false candidate
        biases.append(bias)
    assert np.abs(np.mean(biases)) < 0.005


def test_one_star_is_enough_for_a_profile(rng):
    residuals = []
    for _ in range(6):
        places = np.array([36.3]), np.array([35.6])
        field = star_field(rng, n=1, shape=(72, 72), places=places, flux=np.array([4e4]), fwhm=3.0)
        psf = measured(field)
        assert psf.origin == "moffat fit"
        assert psf.n_stars == 1
        residuals.append(leftover(psf, field.model, snr=100.0)[0])
    assert np.max(residuals) < 5


def test_crowding_is_taken_off(rng):
    field = star_field(rng, n=250, shape=(300, 300), fwhm=3.5, snr=(10, 300), margin=5.0)
    psf = measured(field)
    residual, _ = leftover(psf, field.model)
    assert psf.n_stars >= 10
    assert residual < 3


def test_chi_squared_is_one_and_the_figures_are_true(rng):
    chi2 = []
    for _ in range(3):
        field = star_field(rng, n=30, fwhm=3.0, snr=(20, 60))
        psf = measured(field)
        chi2.append(psf.residual)
        assert psf.fwhm == pytest.approx(fwhm_of(true_psf(field.model)), rel=0.02)
        assert psf.ellipticity < 0.04
        assert psf.data.sum() == pytest.approx(1.0, abs=1e-12)
        middle = psf.data.shape[0] // 2
        assert np.abs(np.array(centroid_of(psf.data)) - middle).max() < 0.02
    # Some 40 core pixels a star, median over 30 stars: the error of one value is about sqrt(2/40) 1.25 / sqrt(30).
    assert np.mean(chi2) == pytest.approx(1.0, abs=0.1)


def test_ellipticity_is_recovered(rng):
    field = star_field(rng, n=60, fwhm=4.0, ellipticity=0.3, angle=60.0, shape=(300, 300), snr=(50, 300))
    assert measured(field).ellipticity == pytest.approx(0.3, abs=0.03)
