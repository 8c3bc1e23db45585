"""The compiled registration of stars and their robust mean against the reference, and the reference's own rules."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu.ops.psf_fit import psf_at, spline_of
from astrid_gpu.ops.psf_register import mean_star, register_stars
from astrid_gpu.ops.psf_stamps import moffat_stamp

kernels = pytest.importorskip("astrid_gpu.kernels.psf_register_numba", reason="the twins need Numba")


def windows(rng, m=60):
    """Stars in windows with neighbours' light and bad pixels; one without light, one without pixels."""
    psf = moffat_stamp(2.7, 3.2, 23)
    spline, offset = spline_of(psf, 15, 4.0), rng.uniform(-0.8, 0.8, (m, 2))
    flux = np.exp(rng.uniform(6, 9, m))
    flux[3] = -200.0
    light, variance = rng.uniform(0, 2, (2, m, 31, 31))
    noise = rng.normal(size=light.shape) * np.sqrt(variance + 1)
    data = flux[:, None, None] * psf_at(spline, 15, *offset.T) + light + 1.5 + noise
    bad = rng.uniform(size=light.shape) < 0.01
    bad[5] = True
    return np.where(bad, 0.0, data), light, variance + 1, bad, psf, offset


@pytest.mark.parametrize("own", [False, True])
def test_register_stars(rng, own):
    data, light, variance, bad, psf, truth = windows(rng)
    if own:  # one PSF for each star
        psf = np.stack([moffat_stamp(w, 3.2, 23) for w in np.linspace(2.5, 2.9, len(data))])
    spline, guess = spline_of(psf, 15, 4.0), truth + 0.05
    expected = register_stars(data, light, variance, bad, spline, psf, guess, 4.0)
    found = kernels.register_stars(data, light, variance, bad, spline, psf, guess, 4.0)
    for name, value, limit in zip(expected._fields, found, (1e-7, 0, 1e-8, 0), strict=True):
        np.testing.assert_allclose(value, getattr(expected, name), rtol=1e-6, atol=limit, err_msg=name)
    assert np.isinf(expected.chi2[[3, 5]]).all()
    assert np.all(expected.weight[[3, 5]] == 0)
    good = np.setdiff1d(np.arange(len(data)), [3, 5])
    # 45 pixels a star, a median of 58 stars: 0.21 * 1.25 / sqrt(58); the errors granted to the model take some off.
    assert own or np.median(expected.chi2[good]) == pytest.approx(0.9, abs=0.15)
    assert np.abs(expected.offset - truth)[good].max() < 0.3


@pytest.mark.parametrize("m", [1, 4, 5, 6, 40, 79])
def test_mean_star(rng, m):
    """Odd and even numbers of stars, pixels without weight, equal values, and a star far off."""
    stamps, weight = rng.normal(size=(m, 9, 9)), rng.uniform(0.5, 2, (m, 9, 9))
    stamps[0] += 5000.0
    weight[:, 2, 3] = 0.0
    stamps[:, 4, 4] = 1.25
    stamps[m // 2 :, 5, 5] = 0.5
    for found, expected in zip(kernels.mean_star(stamps, weight), mean_star(stamps, weight), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_one_star_far_off_hardly_moves_the_mean(rng):
    stamps, weight = rng.normal(size=(50, 5, 5)), np.ones((50, 5, 5))
    stamps[7] = 1e4
    mean, total, scatter = mean_star(stamps, weight)
    assert np.abs(mean).max() < 5 / np.sqrt(50)
    assert total.max() < 50
    # Huber's weights cut a little of the Gaussian's own scatter.
    assert np.sqrt(scatter).mean() == pytest.approx(1 / np.sqrt(50), rel=0.15)
