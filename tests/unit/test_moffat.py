"""The Moffat profile and its fit: derivatives, the truth found again, bounds, and pixels left out."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu._moffat import _Fit, fit_moffat, fit_moffat_stars
from astrid_gpu.ops.moffat import Moffat as M
from astrid_gpu.ops.moffat import moffat_profile, profile_planes
from astrid_gpu.ops.psf_stamps import moffat_stamp


@pytest.mark.parametrize("fwhm", [1.2, 2.0, 3.5, 8.0])
def test_profile_is_the_integral_over_pixels(fwhm):
    m = M(1.0, 0.0, 0.0, 0.0, 0.5 * fwhm / np.sqrt(2 ** (1 / 3.0) - 1), 0.0, 0.0, 3.0)
    exact = moffat_stamp(fwhm, 3.0, 41)
    found = moffat_profile(m, (41, 41))
    np.testing.assert_allclose(found / found.sum(), exact, rtol=0, atol=8e-4 * exact.max())
    r = np.hypot(*np.meshgrid(np.arange(-20, 21), np.arange(-20, 21)))
    wing = r > 3.5 * fwhm
    np.testing.assert_allclose((found / found.sum())[wing], exact[wing], rtol=0.01)


@pytest.mark.parametrize("alpha", [0.9, 2.3, 5.0])
def test_derivatives(alpha):
    base, shape = M(1.0, 0.0, 0.21, -0.13, alpha, 0.17, -0.08, 2.9), (13, 11)
    found = profile_planes(base, shape, slopes=True)
    step = 1e-6
    names = ("alpha", "e1", "e2", "beta", "y0", "x0")
    for plane, name in zip(found[1:], names, strict=True):
        unit = getattr(base, name) if name in ("alpha", "beta") else 1.0  # by their logarithms
        up, down = (base._replace(**{name: getattr(base, name) + s * step * unit}) for s in (1, -1))
        slope = (moffat_profile(up, shape) - moffat_profile(down, shape)) / (2 * step)
        np.testing.assert_allclose(plane, slope, rtol=0, atol=1e-8)


def test_gradient_of_chi_squared(rng):
    stamps, variance = rng.normal(3, 1, (2, 15, 15)), rng.uniform(1, 2, (2, 15, 15))
    stamps += 50 * moffat_profile(M(1.0, 0, 0.2, 0.1, 2.0, 0.1, 0, 3.0), (15, 15))
    fit, p = _Fit(stamps, variance), np.array([0.5, 0.2, -0.3, 1.1, 0.1, -0.2, 0.3, 0.0])
    gradient = fit.at(p).gradient
    numeric = [(fit.at(p + d).cost - fit.at(p - d).cost) / 2e-5 for d in 1e-5 * np.eye(8)]
    np.testing.assert_allclose(2 * gradient, numeric, rtol=1e-5, atol=1e-4 * np.abs(gradient).max())


def test_stars_of_one_shape(rng):
    truth = M(1.0, 0.0, 0.0, 0.0, 2.6, 0.12, -0.07, 3.3)
    places, flux = np.array([[0.3, 0.1], [-0.4, 0.2], [0.0, -0.3]]), np.array([500.0, 200.0, 900.0])
    moved = [moffat_profile(truth._replace(y0=y, x0=x), (31, 31)) for y, x in places]
    stamps = flux[:, None, None] * np.stack(moved)
    stamps += 7.0 + rng.normal(size=stamps.shape)
    variance = np.ones(stamps.shape)
    stamps[1, 3:6, 4] = 1e5
    variance[1, 3:6, 4] = 0.0  # left out
    moffat, found, chi2 = fit_moffat_stars(stamps, variance, np.zeros((3, 2)), 2.0)
    assert moffat.fwhm == pytest.approx(truth.fwhm, rel=0.01)
    assert (moffat.e1, moffat.e2) == pytest.approx((truth.e1, truth.e2), abs=0.02)
    assert (moffat.y0, moffat.x0) == pytest.approx(places[0], abs=0.02)
    assert moffat.constant == pytest.approx(7.0, abs=0.15)
    sums = flux * moffat_profile(truth, (31, 31)).sum()
    np.testing.assert_allclose(found, sums, rtol=0.02)
    np.testing.assert_allclose(chi2, 1.0, atol=0.2)
    again = fit_moffat_stars(stamps, variance, places, 2.0, start=moffat)[0]
    assert again.beta == pytest.approx(moffat.beta, rel=1e-3)


def test_a_stamp_of_noise_and_a_single_pixel_stay_within_bounds(rng):
    noise = fit_moffat(rng.normal(size=(11, 11)), np.ones((11, 11)), 3.0)
    spike = np.zeros((11, 11))
    spike[5, 5] = 1.0
    narrow = fit_moffat(spike, np.full((11, 11), 0.01), 2.0)
    for found in (noise, narrow):
        assert np.all(np.isfinite(found))
        assert 0.29 < found.alpha < 201
        assert 1.39 < found.beta < 15.1
    assert narrow.fwhm < 1.0
