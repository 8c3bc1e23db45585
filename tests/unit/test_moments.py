"""Positions and shapes of sources whose position and shape are known."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu.ops import moments as m
from astrid_gpu.ops.psf_stamps import fwhm_of, gaussian_stamp, moffat_stamp
from tests.hand_made import matched, shifted


def summit_stamps(rng, psf, n=40, side=96):
    """3x3 stamps of the flux map of noiseless sources of flux 1, and their true offsets from the peak pixel."""
    stamps, offsets = [], []
    for dy, dx in rng.uniform(-0.5, 0.5, (n, 2)):
        flux = matched(shifted(psf, 40 + dy, 40 + dx, (side, side)), psf) / np.sum(psf**2)
        y, x = np.unravel_index(np.argmax(flux), flux.shape)
        stamps.append(flux[y - 1 : y + 2, x - 1 : x + 2])
        offsets.append((40 + dy - y, 40 + dx - x))
    return np.array(stamps), np.array(offsets).T


@pytest.mark.parametrize("sigma", [(1.1, 1.1), (2.0, 1.3), (5.0, 5.0)])
def test_a_gaussian_summit_is_found_exactly(rng, sigma):
    dy, dx = rng.uniform(-0.5, 0.5, (2, 50))
    y, x = np.mgrid[-1:2, -1:2]
    turned = (y - dy[:, None, None]) * (x - dx[:, None, None]) * 0.3 / (sigma[0] * sigma[1])
    exponent = ((y - dy[:, None, None]) / sigma[0]) ** 2 + ((x - dx[:, None, None]) / sigma[1]) ** 2 + turned
    got = m.refine_peaks(7.5 * np.exp(-0.5 * exponent))
    assert got.ok.all()
    np.testing.assert_allclose(got.dy, dy, atol=1e-9)
    np.testing.assert_allclose(got.dx, dx, atol=1e-9)
    np.testing.assert_allclose(got.value, 7.5, rtol=1e-9)


@pytest.mark.parametrize("psf", [gaussian_stamp(2.2), moffat_stamp(2.2, 2.5, 41), moffat_stamp(4.0, 3.0, 61)])
def test_calibrated_summits_of_any_psf(rng, psf):
    stamps, (dy, dx) = summit_stamps(rng, psf)
    plain = m.refine_peaks(stamps)
    got = m.calibrate_peaks(plain, psf)
    assert got.ok.all()
    assert np.abs(got.dy - dy).max() < 0.002
    assert np.abs(got.dx - dx).max() < 0.002
    assert np.abs(got.value - 1).max() < 0.003
    assert np.abs(got.value - 1).max() <= max(np.abs(plain.value - 1).max(), 1e-3)


def test_calibration_without_peaks():
    none = m.refine_peaks(np.full((2, 3, 3), np.nan))
    assert not none.ok.any()
    assert m.calibrate_peaks(none, gaussian_stamp(3.0)) is none


@pytest.mark.parametrize(
    "stamp",
    [
        np.full((3, 3), np.nan),
        np.zeros((3, 3)),
        -np.ones((3, 3)),
        np.ones((3, 3)),  # no summit
        [[0, 0, 0], [0, 5, 0], [0, 0, 0]],  # one pixel: the width is not determined
        [[1, 2, 4], [2, 4, 8], [4, 8, 16]],  # a slope
        [[9, 1, 9], [1, 2, 1], [9, 1, 9]],  # a saddle
        [[np.nan, np.nan, np.nan], [4, 5, 4], [np.nan, np.nan, np.nan]],
    ],
)
def test_where_there_is_no_summit_the_pixel_stays(stamp):
    got = m.refine_peaks(np.array(stamp, float)[None])
    assert not got.ok[0]
    assert (got.dy[0], got.dx[0]) == (0, 0)
    np.testing.assert_equal(got.value[0], np.array(stamp, float)[1, 1])


def test_three_missing_pixels_are_no_loss():
    y, x = np.mgrid[-1:2, -1:2]
    stamp = 3 * np.exp(-0.5 * ((y - 0.1) ** 2 + (x + 0.2) ** 2) / 1.7)
    stamp[0] = np.nan
    got = m.refine_peaks(stamp[None])
    # One row gone leaves two in y: the curvature there is lost, so nothing may be claimed.
    assert not got.ok[0]
    stamp[0] = 3 * np.exp(-0.5 * ((y[0] - 0.1) ** 2 + (x[0] + 0.2) ** 2) / 1.7)
    stamp[0, 0] = stamp[2, 0] = stamp[0, 2] = np.nan
    got = m.refine_peaks(stamp[None])
    assert got.ok[0]
    np.testing.assert_allclose([got.dy[0], got.dx[0], got.value[0]], [0.1, -0.2, 3.0], atol=1e-9)


def gaussian_source(cyy, cxx, cxy, side=61):
    v, u = np.mgrid[:side, :side] - side // 2
    inverse = np.linalg.inv([[cyy, cxy], [cxy, cxx]])
    return np.exp(-0.5 * (inverse[0, 0] * v**2 + 2 * inverse[0, 1] * v * u + inverse[1, 1] * u**2))


def shape_of(image, psf):
    window = m.psf_window(psf, fwhm_of(psf))
    middle = np.array([image.shape[0] // 2.0])
    sums = m.measure_moments(image[None], np.zeros(1, int), middle, middle, np.array([window.sigma]), window.radius)
    return window, m.shapes(sums, window)


@pytest.mark.parametrize("angle", [0.0, 30.0, 75.0, -60.0])
@pytest.mark.parametrize(("a", "b"), [(2.0, 1.5), (1.8, 1.2), (3.0, 2.9)])
def test_an_elliptical_gaussian_is_measured(a, b, angle):
    psf = gaussian_source(1.6**2, 1.6**2, 0, 31)
    psf /= psf.sum()
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    cxx, cyy, cxy = (a * c) ** 2 + (b * s) ** 2, (a * s) ** 2 + (b * c) ** 2, (a * a - b * b) * c * s
    _, got = shape_of(gaussian_source(cyy, cxx, cxy), psf)
    assert got.elongation[0] == pytest.approx(a / b, rel=0.01)
    assert np.degrees(got.theta[0]) == pytest.approx(angle, abs=0.5)


@pytest.mark.parametrize("ratio", [0.8, 1.0, 1.5, 2.5])
def test_widths_of_round_gaussians(ratio):
    psf = gaussian_source(1.6**2, 1.6**2, 0, 31)
    psf /= psf.sum()
    _, got = shape_of(gaussian_source((1.6 * ratio) ** 2, (1.6 * ratio) ** 2, 0), psf)
    assert got.width[0] == pytest.approx(ratio, rel=0.01)
    assert got.elongation[0] == pytest.approx(1, abs=1e-6)
    assert got.excess[0] == pytest.approx((ratio**2 - 1) / (ratio**2 + 1), abs=0.01)


@pytest.mark.parametrize("psf", [gaussian_stamp(2.0), gaussian_stamp(3.0), moffat_stamp(3.0, 2.5, 41)])
def test_the_psf_itself_and_a_hot_pixel(psf):
    window, star = shape_of(np.pad(psf, 20), psf)
    assert star.width[0] == pytest.approx(1, abs=1e-9)
    assert star.excess[0] == pytest.approx(0, abs=1e-9)
    assert abs(star.e1[0]) + abs(star.e2[0]) < 1e-9
    hot = np.zeros((61, 61))
    hot[30, 30] = 5.0
    pixel = shape_of(hot, psf)[1]
    assert pixel.excess[0] == -1
    assert pixel.width[0] == 0
    glow = shape_of(np.ones((61, 61)), psf)[1]
    assert glow.excess[0] > 0.8
    # Of a Gaussian the noise of the excess is 1 / (S/N); a Moffat's wings make the same S/N tell a little more.
    assert 0.85 < window.noise_excess < 1.05
    assert 0.85 < window.noise_shape < 1.05


@pytest.mark.parametrize("psf", [gaussian_stamp(2.5, 21), moffat_stamp(3.0, 3.0, 31)])
def test_the_noise_of_the_excess_is_as_stated(rng, psf):
    n, snr, side = 2000, 40.0, 41
    unit = 1 / np.sqrt(np.sum(psf**2))
    image = snr * unit * np.pad(psf, (side - psf.shape[0]) // 2) + rng.normal(size=(n, side, side))
    window = m.psf_window(psf, fwhm_of(psf))
    middle = np.full(n, side // 2.0)
    sums = m.measure_moments(image, np.arange(n), middle, middle, np.full(n, window.sigma), window.radius)
    got = m.shapes(sums, window)
    # A standard deviation from n values is known to 1 / sqrt(2n) = 1.6 %; four of these, and 1 / snr for curvature.
    room = 4 / np.sqrt(2 * n) + 1 / snr
    assert np.std(got.excess) * snr == pytest.approx(window.noise_excess, rel=room)
    assert np.std(got.e1) * snr == pytest.approx(window.noise_shape, rel=room)
    assert np.std(got.e2) * snr == pytest.approx(window.noise_shape, rel=room)
    assert abs(np.mean(got.excess)) < 4 * window.noise_excess / snr / np.sqrt(n) + 1 / snr**2


def test_a_source_that_is_not_there_has_no_shape():
    got = m.shapes(np.array([[10.0, -1.0, 0, 0, 1, 1, 0], [0.0] * 7, [np.nan] * 7]), m.psf_window(gaussian_stamp(3), 3))
    assert np.isnan(got.width).all()
    assert np.isnan(got.elongation).all()
