"""Design section 9 on simulations: unit noise, Gaussian tails, unbiased flux and position. Tolerances come from n."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import astrid_gpu as ag
from tests.scenes import gaussian_psf, moffat_psf, noisy_pair


def effective_number(psf_n, psf_r, pixels):
    """Independent samples in a map smoothed by the matched filter: pixels over the area of its autocorrelation."""
    kernel = np.abs(np.fft.fft2(psf_n, (128, 128)) * np.fft.fft2(psf_r, (128, 128)))
    correlation = np.fft.ifft2(kernel).real
    correlation /= correlation[0, 0]
    return pixels / np.sum(correlation**2)


@pytest.fixture(scope="module")
def blank_sky():
    """Three megapixels of S_corr on blank sky, science noise and seeing unlike the reference's."""
    rng = np.random.default_rng(77)
    scores = []
    for _ in range(3):
        scene = noisy_pair(rng, (1024, 1024))
        scores.append(ag.zogy(scene.science, scene.reference, **scene.kwargs, outputs=("score_corr",)).score_corr)
    return np.stack(scores), effective_number(moffat_psf(3.2), moffat_psf(2.6), 3 * 1024**2)


def test_blank_sky_mean_is_zero_within_5_standard_errors(blank_sky):
    scores, n = blank_sky
    assert abs(scores.mean()) < 5 / np.sqrt(n)


def test_blank_sky_width_is_1_within_0_01(blank_sky):
    scores, n = blank_sky
    assert 5 / np.sqrt(2 * n) < 0.01  # the sample is large enough for the promise
    assert scores.std() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("threshold", [4.0, 5.0, -4.0, -5.0])
def test_tail_rates_are_gaussian_within_poisson(blank_sky, threshold):
    """Excursion sets: count clumps of pixels beyond the threshold, against the Gaussian pixel rate per clump size."""
    from scipy.ndimage import label

    scores, _ = blank_sky
    beyond = scores > threshold if threshold > 0 else scores < threshold
    pixels = int(beyond.sum())
    clumps = sum(label(plane)[1] for plane in beyond)
    expected = stats.norm.sf(abs(threshold)) * scores.size
    # pixels come in clumps: the scatter is that of the clumps, each of about pixels/clumps
    per_clump = max(pixels / max(clumps, 1), 1.0)
    low, high = stats.poisson.ppf([1e-4, 1 - 1e-4], expected / per_clump) * per_clump
    assert low <= pixels <= high, (pixels, expected, clumps)


def test_width_is_1_up_to_the_last_pixel_of_the_frame():
    """The padding adds no noise: S_corr is calibrated in the outermost rows and columns too."""
    rng = np.random.default_rng(5)
    edges = []
    for _ in range(40):
        scene = noisy_pair(rng, (96, 101))
        score = ag.zogy(scene.science, scene.reference, **scene.kwargs, outputs=("score_corr",)).score_corr
        edges.append(np.concatenate([score[0], score[-1], score[:, 0], score[:, -1]]))
    n = np.size(edges) / 6  # a correlation length of about 3 px on each of both sides
    assert np.std(edges) == pytest.approx(1.0, abs=5 / np.sqrt(2 * n) + 0.02)  # the fill itself carries ~2 %


def test_width_is_1_on_both_sides_of_a_step_in_the_variance(rng):
    scene = noisy_pair(rng, (512, 512))
    scale = np.where(np.arange(512) < 256, 1.0, 3.0)[None, :]
    noise = rng.normal(size=(512, 512)) * 5.0 * scale
    kwargs = scene.kwargs | {"variance_science": 25.0 * scale**2 * np.ones((512, 512))}
    score = ag.zogy(noise, scene.reference, **kwargs, outputs=("score_corr",)).score_corr
    n = effective_number(moffat_psf(3.2), moffat_psf(2.6), 512 * 200)
    for half in (score[:, :200], score[:, 312:]):
        assert half.std() == pytest.approx(1.0, abs=5 / np.sqrt(2 * n))


def injections(rng, snr, count, **options):
    """Inject `count` transients of about `snr` on a grid, at fractions of a pixel; return diff, truth."""
    side = 48
    per_row = int(np.ceil(np.sqrt(count)))
    shape = (per_row * side, per_row * side)
    blank = noisy_pair(rng, (64, 64), **options)
    error = ag.zogy(blank.science, blank.reference, **blank.kwargs, outputs=("flux",)).flux_error[32, 32]
    flux = snr * error
    grid = [(side * (i + 0.5), side * (j + 0.5)) for i in range(per_row) for j in range(per_row)][:count]
    return shape, [(round(y), round(x), flux) for y, x in grid], options


@pytest.mark.parametrize("snr", [10.0, 20.0, 60.0])
@pytest.mark.parametrize("flux", [(1.0, 0.6), (1.0, 3.0)])
def test_injected_flux_is_unbiased_and_its_error_true(rng, snr, flux):
    shape, truth, options = injections(rng, snr, 400, flux=flux)
    scene = noisy_pair(rng, shape, new=truth, **options)
    diff = ag.zogy(scene.science, scene.reference, **scene.kwargs)
    y, x, f = np.array(truth).T
    at = y.astype(int), x.astype(int)
    pulls = (diff.flux[at] - f) / diff.flux_error[at]
    n = len(f)
    assert abs(pulls.mean()) < 4.5 / np.sqrt(n)
    assert pulls.std() == pytest.approx(1.0, abs=max(0.05, 4.5 / np.sqrt(2 * n)))
    if snr >= 20:
        bias = np.mean(diff.flux[at] / f) - 1
        assert abs(bias) < 0.005 + 4.5 * np.mean(diff.flux_error[at] / f) / np.sqrt(n)


def test_flux_bias_is_below_half_a_per_cent_with_small_errors(rng):
    """At S/N 200 the mean of 400 is known to 0.025 %: the 0.5 % promise is tested, not its noise."""
    shape, truth, options = injections(rng, 200.0, 400)
    scene = noisy_pair(rng, shape, new=truth, **options)
    diff = ag.zogy(scene.science, scene.reference, **scene.kwargs)
    y, x, f = np.array(truth).T
    assert np.mean(diff.flux[y.astype(int), x.astype(int)] / f) == pytest.approx(1.0, abs=0.005)


def test_the_difference_is_white_with_the_stated_width(rng):
    """D is white unit noise (eq. 13); in flux units its width is 1 / F_D, lag-1 correlation zero."""
    scene = noisy_pair(rng, (512, 512))
    diff = ag.zogy(scene.science, scene.reference, **scene.kwargs)
    inner = (diff.difference * diff.flux_scale)[40:-40, 40:-40]
    n = inner.size
    assert inner.std() == pytest.approx(1.0, abs=5 / np.sqrt(2 * n) + 1e-3)
    for lagged in (inner[1:] * inner[:-1], inner[:, 1:] * inner[:, :-1]):
        assert abs(lagged.mean()) < 5 / np.sqrt(n)


def test_static_stars_leave_no_excess_beyond_their_noise(rng):
    """With variance maps, S_corr has unit width on the stars themselves."""
    sources = [(rng.uniform(0, 512), rng.uniform(0, 512), 300 * rng.pareto(1.2) + 300) for _ in range(400)]
    sources = [(y, x, min(f, 3e5)) for y, x, f in sources]
    scene = noisy_pair(rng, (512, 512), sources=sources, psf_science=gaussian_psf(1.6), psf_reference=gaussian_psf(1.3))
    diff = ag.zogy(scene.science, scene.reference, **scene.kwargs)
    on = np.zeros((512, 512), bool)
    for y, x, _ in sources:
        if 30 < y < 480 and 30 < x < 480:
            on[int(y) - 1 : int(y) + 3, int(x) - 1 : int(x) + 3] = True
    inside = diff.score_corr[on & (diff.mask == 0)]
    n = inside.size / 12
    assert inside.std() == pytest.approx(1.0, abs=5 / np.sqrt(2 * n))
