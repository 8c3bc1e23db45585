"""The compiled fits of a PSF to stars against their reference, and the reference against its own equations."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu.ops.psf_fit import crowd_light, crowd_sums, fit_stars, psf_at, spline_of, step_scale
from astrid_gpu.ops.psf_register import fourier_shift
from astrid_gpu.ops.psf_stamps import moffat_stamp
from astrid_gpu.ops.stamps import gather_stamps

kernels = pytest.importorskip("astrid_gpu.kernels.psf_fit_numba", reason="the twins need Numba")


@pytest.fixture
def windows(rng):
    """Twelve stars in windows wider than the PSF's stamp, with bad pixels; one without light, one without pixels."""
    spline = spline_of(moffat_stamp(2.7, 3.2, 21), 15, 4.0)
    offset = rng.uniform(-0.8, 0.8, (12, 2))
    flux = np.exp(rng.uniform(5, 9, 12))
    flux[3] = -200.0
    variance = np.full((12, 31, 31), 4.0) + rng.uniform(size=(12, 31, 31))
    clean = (
        flux[:, None, None] * psf_at(spline, 15, *offset.T) + 1.5 + rng.normal(size=variance.shape) * np.sqrt(variance)
    )
    bad = rng.uniform(size=clean.shape) < 0.02
    bad[5] = True
    return np.where(bad, 0.0, clean), variance, bad, spline, offset, flux


@pytest.mark.parametrize("half", [6, 10, 17])
def test_psf_at(rng, half):
    spline = spline_of(moffat_stamp(2.2, 3.0, 21), half, 3.0)
    offset = rng.uniform(-3, 3, (2, 9))
    offset[:, 0] = 0.0
    np.testing.assert_allclose(kernels.psf_at(spline, half, *offset), psf_at(spline, half, *offset), rtol=0, atol=1e-15)


def test_fit_stars(windows):
    clean, variance, bad, spline, truth, flux = windows
    guess = truth + 0.3
    expected, found = (f(clean, variance, bad, spline, guess) for f in (fit_stars, kernels.fit_stars))
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-9)
    np.testing.assert_allclose(found[2], expected[2], rtol=0, atol=1e-8)
    assert np.array_equal(guess, truth + 0.3)
    bright = (flux > 500) & (np.arange(12) != 5)
    assert np.abs(found[0] - truth)[bright].max() < 0.05
    np.testing.assert_allclose(found[1][bright], flux[bright], rtol=0.15)
    assert found[1][3] < 0
    assert found[1][5] == 0  # nothing to fit


def test_crowd(rng):
    spline = spline_of(moffat_stamp(2.7, 3.2, 15), 7, 0.5)
    bad = rng.uniform(size=(60, 70)) < 0.05
    data = np.where(bad, np.nan, rng.normal(10, 3, bad.shape)).astype(np.float32)
    y, x = np.array([0, 59, 30, 31, 12]), np.array([69, 0, 35, 37, 20])
    models = psf_at(spline, 7, *rng.uniform(-0.5, 0.5, (2, 5)))
    pixels = gather_stamps(data[None], np.zeros(5, int), y, x, 15, np.nan)
    expected, found = (f(pixels, models) for f in (crowd_sums, kernels.crowd_sums))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    assert np.all(found[0] > 0)
    window, source = np.array([0, 0, 1, 1, 1]), np.array([3, 4, 0, 1, 2])
    dy, dx = np.array([1, -18, 15, -20, 30]), np.array([2, -15, 3, 0, 0])
    planes = []
    for function in (crowd_light, kernels.crowd_light):
        light = np.zeros((2, 31, 31))
        function(light, models, np.arange(1.0, 6.0), window, source, dy, dx)
        planes.append(light)
    np.testing.assert_allclose(planes[1], planes[0], rtol=0, atol=1e-15)
    assert planes[0][0, 16, 17] > 0.3  # the fourth source, beside the middle
    assert 0 < planes[0][1].sum() < 3  # one that lies half in the window, one at its border, one outside


def test_fourier_shift_is_the_phase(rng):
    stamps, offset = rng.normal(size=(4, 25, 25)), rng.uniform(-2, 2, (4, 2))
    offset[0] = 0.0
    offset[1] = 1.0, -2.0
    fy, fx = np.fft.fftfreq(25)[:, None], np.fft.rfftfreq(25)[None, :]
    phase = np.exp(-2j * np.pi * (fy * offset[:, 0, None, None] + fx * offset[:, 1, None, None]))
    expected = np.fft.irfft2(np.fft.rfft2(stamps) * phase, (25, 25))
    np.testing.assert_allclose(fourier_shift(stamps, offset), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(fourier_shift(stamps, offset, 4), expected[:, 4:-4, 4:-4], rtol=0, atol=1e-12)


def test_step_scale():
    """Differences of pixels understate a narrow PSF's slopes, hence overstate shifts; of a wide one they hardly do."""
    found = []
    for width in (1.6, 3.0, 6.0):
        spline = spline_of(moffat_stamp(width, 3.0, 25), 15, 4.0)
        down, across = step_scale(spline, 15)
        np.testing.assert_allclose(kernels.step_scale(spline[0], spline[1], 31), (down, across), rtol=1e-12)
        assert down == pytest.approx(across)
        found.append(down)
    assert found[0] > found[1] > found[2] > 1
    # sin(k) / k = 1 - k² / 6 is what differences leave of a slope; k² is about 3 / (2 sigma²) of a Gaussian's.
    assert found[2] == pytest.approx(1 + 0.25 / (6.0 / 2.355) ** 2, abs=0.03)
