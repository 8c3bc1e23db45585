"""ops.flux: matched samples without noise, and the robust fits on lines that are known."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu.ops.flux import cut_windows, fit_line, matched_planes, matched_samples, matched_values, robust_mean
from tests.scenes import blurred, moffat_psf

SHAPE = (120, 120)


def scene(offset=(0.0, 0.0), gamma=0.0):
    """Two noise-free images of the same stars and a blend, ratio 0.8."""
    sources = [(40.0, 40.0, 1e4), (41.5, 44.0, 6e3), (80.3, 70.2, 2e4)]
    moved = [(y + offset[0], x + offset[1], 0.8 * f) for y, x, f in sources]
    psf_n, psf_r = moffat_psf(3.0), moffat_psf(4.0)
    return blurred(moved, SHAPE, psf_n) + gamma, blurred(sources, SHAPE, psf_r), psf_n, psf_r


def sample(science, reference, psf_n, psf_r, bad=None):
    flat = np.ones(SHAPE)
    bad = np.zeros(SHAPE, bool) if bad is None else bad
    y, x = np.array([40, 80]), np.array([40, 70])
    return matched_samples(science, reference, psf_n, psf_r, 4 * flat, 9 * flat, bad, y, x)


def test_ratio_is_exact_in_blends_too():
    s = sample(*scene())
    np.testing.assert_allclose(s.science / s.reference, 0.8, rtol=1e-9)
    # The gradient kernels are cut with the stamp, where the Moffat wings are 1e-5 of the peak.
    np.testing.assert_allclose(s.dy, 0.0, atol=1e-6)
    np.testing.assert_allclose(s.dx, 0.0, atol=1e-6)


def test_an_offset_of_the_sky_adds_itself():
    plain, shifted = sample(*scene()), sample(*scene(gamma=7.0))
    np.testing.assert_allclose(shifted.science - plain.science, 7.0, rtol=1e-9)


@pytest.mark.parametrize("offset", [(0.1, 0.0), (0.0, -0.2), (0.15, 0.1)])
def test_offset_is_measured_with_its_sign(offset):
    s = sample(*scene(offset=offset))
    # Third order in the offset: some per cent of it.
    np.testing.assert_allclose(s.dy[1], offset[0], atol=0.03 * np.hypot(*offset))
    np.testing.assert_allclose(s.dx[1], offset[1], atol=0.03 * np.hypot(*offset))


def test_variance_is_that_of_the_sum(rng):
    science, reference, psf_n, psf_r = scene()
    s = sample(science, reference, psf_n, psf_r)
    np.testing.assert_allclose(s.variance_science, 4 * (psf_r**2).sum(), rtol=1e-9)
    np.testing.assert_allclose(s.variance_reference, 9 * (psf_n**2).sum(), rtol=1e-9)
    offsets = []
    for _ in range(400):
        noisy = science + rng.normal(0, 2, SHAPE), reference + rng.normal(0, 3, SHAPE)
        offsets.append(sample(*noisy, psf_n, psf_r).dx[1])
    # 400 values: 1 / sqrt(800) = 3.5 %.
    assert np.std(offsets) == pytest.approx(np.sqrt(s.dx_variance[1]), rel=4 * 0.035)


def test_lost_light_is_counted_for_holes_and_edges():
    science, reference, psf_n, psf_r = scene()
    bad = np.zeros(SHAPE, bool)
    bad[80, 70] = True
    s = sample(science, reference, psf_n, psf_r, bad)
    assert s.lost[0] == pytest.approx(0.0, abs=1e-12)
    assert s.lost[1] == pytest.approx(psf_n.max(), rel=1e-9)
    flat = np.ones(SHAPE)
    edge = matched_samples(science, reference, psf_n, psf_r, flat, flat, ~bad & bad, np.array([0]), np.array([60]))
    assert edge.lost[0] > 0.3
    values = matched_values(science, reference, psf_n, psf_r, bad, np.array([40, 80]), np.array([40, 70]))
    for one, other in zip(values, (s.science, s.reference, s.lost), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize("wide", [False, True])
def test_whole_frames_by_fft_are_the_windows(wide):
    science, reference, psf_n, psf_r = scene()
    psf_n = np.pad(psf_n, 20) if wide else psf_n  # stamps of two sides; the wide one reaches over edges
    bad = np.zeros(SHAPE, bool)
    bad[80, 70:73] = True
    science = np.where(bad, np.nan, science)
    y, x = (a.ravel() for a in np.mgrid[0 : SHAPE[0] : 7, 0 : SHAPE[1] : 5])
    planes = matched_planes(science, reference, psf_n, psf_r, bad)
    for plane, values in zip(planes, matched_values(science, reference, psf_n, psf_r, bad, y, x), strict=True):
        np.testing.assert_allclose(plane[y, x], values, rtol=1e-10, atol=1e-10 * np.abs(values).max())


def test_windows_are_filled_outside():
    image = np.arange(12.0).reshape(3, 4)
    windows = cut_windows(image, np.array([0, 1]), np.array([0, 1]), 1, fill=-1.0)
    np.testing.assert_array_equal(windows[0], [[-1, -1, -1], [-1, 0, 1], [-1, 4, 5]])
    np.testing.assert_array_equal(windows[1], image[:3, :3])


@pytest.mark.parametrize("intercept", [True, False])
def test_line_without_noise_is_exact(intercept):
    x = np.geomspace(10, 1e4, 12)
    y = 1.7 * x + (5.0 if intercept else 0.0)
    fit = fit_line(x, y, np.full(12, 0.1), np.full(12, 0.1), intercept=intercept)
    assert fit.slope == pytest.approx(1.7, rel=1e-9)
    assert fit.intercept == pytest.approx(5.0 if intercept else 0.0, abs=1e-6)
    assert fit.intrinsic == 0.0


def test_line_survives_forty_percent_of_outliers(rng):
    x = np.geomspace(100, 1e4, 30)
    y = 0.5 * x + rng.normal(0, 3, 30)
    y[rng.permutation(30)[:12]] *= 2.0
    fit = fit_line(x, y, np.full(30, 9.0), np.full(30, 9.0), intercept=False)
    assert abs(fit.slope - 0.5) < 5 * fit.slope_error
    assert (fit.weights == 0).sum() == 12


def test_intrinsic_scatter_is_found(rng):
    found = []
    for _ in range(20):
        x = np.geomspace(1e3, 1e5, 50)
        y = 2.0 * x * (1 + 0.03 * rng.normal(size=50)) + rng.normal(0, 3, 50)
        found.append(fit_line(x, y, np.full(50, 9.0), np.full(50, 9.0), intercept=False).intrinsic)
    # One of them has an error of 10 % (50 values); 20 of them 2.3 %; the biweight costs a little.
    assert np.mean(found) == pytest.approx(0.03, rel=0.12)


def test_one_place_gives_its_ratio():
    fit = fit_line(np.array([100.0]), np.array([130.0]), np.array([1.0]), np.array([1.0]), intercept=False)
    assert fit.slope == pytest.approx(1.3)
    assert fit.slope_error == pytest.approx(np.sqrt(0.967 * (1 + 1.3**2)) / 100, rel=0.05)


def test_mean_of_few_and_of_none():
    assert np.isnan(robust_mean(np.zeros(0), np.zeros(0))).all()
    assert robust_mean(np.array([2.0]), np.array([0.25])) == (2.0, 0.5, 0.0)


def test_mean_ignores_outliers_and_finds_the_scatter(rng):
    error, scatter, n = 0.02, 0.06, 200
    values = 0.3 + np.hypot(error, scatter) * rng.normal(size=n)
    values[:20] += rng.choice([-2.0, 2.0], 20)
    mean, mean_error, found = robust_mean(values, np.full(n, error**2))
    assert abs(mean - 0.3) < 4 * mean_error
    assert found == pytest.approx(scatter, rel=4 * 1.2 / np.sqrt(2 * n))


@pytest.mark.parametrize(("n", "n_far"), [(6, 0), (6, 1), (12, 1), (40, 5)])
def test_scatter_is_that_of_the_many(rng, n, n_far):
    """Offsets with errors of 0.01 to 0.1 px, scattered by 0.1 px; some are off by 1 px, blends or moved stars."""
    found = []
    for _ in range(300):
        error = 10 ** rng.uniform(-2, -1, n)
        offset = rng.normal(0, np.hypot(0.1, error))
        offset[:n_far] += 1.0
        found.append(robust_mean(offset, error**2)[2])
    rms = np.sqrt(np.mean(np.square(found)))
    # 300 scatters of n values: 1 / sqrt(2 n) of each; an outlier that stays in at times adds to a handful's.
    tolerance = 4 * 0.1 / np.sqrt(2 * n * 300) + (0.03 if n_far and n < 10 else 0.01)
    assert rms == pytest.approx(0.1, abs=tolerance)
