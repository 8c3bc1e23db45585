"""Correlated noise, known or measured: unit S_corr, white D, unbiased fluxes, and nothing done where it is white.

Noise is white noise convolved with a kernel, as resampling leaves it. Tolerances: S_corr is correlated over a PSF, so
that a frame of n pixels has n / 25 independent ones at most; its standard deviation is known to sqrt(25 / 2 n).
"""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu._noise_spectrum import noise_spectra
from tests.oracle import place
from tests.scenes import blurred, gaussian_psf, moffat_psf, noisy_pair

SIDE = 512
LANCZOS = np.sinc(np.arange(-2, 4) - 0.4) * np.sinc((np.arange(-2, 4) - 0.4) / 3)
KERNELS = {
    "bilinear": np.outer([0, 0.65, 0.35], [0, 0.5, 0.5]),
    "lanczos": np.outer(np.append(LANCZOS, 0), np.append(LANCZOS, 0)),
    "smoothed": gaussian_psf(0.8, 9),
    "along x": np.array([[0.0] * 7, [0.05, 0.1, 0.2, 1.0, 0.2, 0.1, 0.05], [0.0] * 7]),
}
PSFS = moffat_psf(3.4), moffat_psf(2.9)


def coloured(rng, kernel, shape=(SIDE, SIDE)):
    """Noise of unit variance and its autocorrelation, 25 x 25."""
    transfer = np.fft.fft2(place(kernel / np.sqrt((kernel**2).sum()), shape))
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=shape)) * transfer).real
    lags = np.arange(-12, 13)
    return noise, np.fft.ifft2(abs(transfer) ** 2).real[np.ix_(lags, lags)]


def subtract(science, reference, stamps, backend="auto", **more):
    return ag.zogy(
        science, reference, *PSFS, 5.0, 2.0, flux_science=1.0, flux_reference=0.6, noise_spectrum_science=stamps[0],
        noise_spectrum_reference=stamps[1], backend=backend, **more,
    )  # fmt: skip


def power(image):
    """Power of the middle of an image, under a smooth window, in units of that of white noise of unit variance."""
    inner = image[30:-30, 30:-30]
    window = np.outer(*(np.hanning(n) for n in inner.shape))
    return abs(np.fft.fft2(inner * window)) ** 2 / (window**2).sum()


@pytest.mark.parametrize("name", KERNELS)
def test_blank_sky_has_unit_noise_and_a_white_difference(rng, name):
    science, one = coloured(rng, KERNELS[name])
    reference, two = coloured(rng, KERNELS["bilinear"])
    diff = subtract(5 * science, 2 * reference, (one, two))
    score = diff.score_corr[30:-30, 30:-30]
    assert score.std() == pytest.approx(1.0, abs=3 * np.sqrt(25 / 2 / score.size))  # 0.024
    assert abs(score.mean()) < 5 * np.sqrt(25 / score.size)
    assert (abs(score) > 4).sum() < 4 * 6.3e-5 * score.size  # of Gaussian pixels 6.3e-5; they come in clumps
    found, shape = power(diff.difference * diff.flux_scale), (SIDE - 60, SIDE - 60)
    strong = [(p := np.fft.fft2(place(a, shape)).real) > 0.3 * p.max() for a in (one, two)]
    both = strong[0] & strong[1]  # where the filters' floor of a twentieth is far
    assert found[both].mean() == pytest.approx(0.97, abs=0.03 + 4 / np.sqrt(both.sum() / 4))
    assert found.mean() < 1.02
    plain = subtract(5 * science, 2 * reference, (None, None))
    assert np.std(plain.score_corr[30:-30, 30:-30]) > 1.2


def test_a_step_of_the_variance_is_followed(rng):
    """V(S) convolves the variance map with the right kernel: unit noise on both sides of a step of four."""
    science, one = coloured(rng, KERNELS["smoothed"])
    reference, two = coloured(rng, KERNELS["bilinear"])
    step = np.where(np.arange(SIDE) < SIDE // 2, 1.0, 4.0) * np.ones((SIDE, 1))
    diff = subtract(5 * np.sqrt(step) * science, 2 * reference, (one, two), variance_science=25 * step)
    for part in (np.s_[30:-30, 30:230], np.s_[30:-30, -230:-30]):
        score = diff.score_corr[part]
        assert score.std() == pytest.approx(1.0, abs=3.5 * np.sqrt(25 / 2 / score.size))


def test_fluxes_of_injected_sources_are_unbiased(rng):
    science, one = coloured(rng, KERNELS["bilinear"])
    reference, two = coloured(rng, KERNELS["smoothed"])
    places = np.stack(np.meshgrid(*[np.arange(30, 490, 23)] * 2), -1).reshape(-1, 2)
    flux = 1400.0
    sources = blurred([(y, x, flux) for y, x in places], (SIDE, SIDE), PSFS[0])
    diff = subtract(5 * science + sources, 2 * reference, (one, two))
    at = places[:, 0], places[:, 1]
    pulls = (diff.flux[at] - flux) / diff.flux_error[at]
    assert np.median(flux / diff.flux_error[at]) > 15
    assert abs(pulls.mean()) < 4 / np.sqrt(len(pulls))
    assert pulls.std() == pytest.approx(1.0, abs=4 / np.sqrt(2 * len(pulls)))


def test_knowing_the_spectrum_gains_signal_to_noise(rng):
    """The matched filter for the noise there is beats the one for white noise, both in units of their own width."""
    science, one = coloured(rng, KERNELS["along x"])
    reference, two = coloured(rng, KERNELS["along x"])
    source = blurred([(256, 256, 1000.0)], (SIDE, SIDE), PSFS[0])
    gains = []
    for stamps in ((one, two), (None, None)):
        with_, without = (subtract(5 * science + f * source, 2 * reference, stamps).score_corr for f in (1, 0))
        gains.append((with_ - without)[256, 256] / without[30:-30, 30:-30].std())
    assert gains[0] > 1.02 * gains[1]


def field(rng, kernels, density=8e-3):
    """A pair with faint static sources, most of them below any threshold, its noise coloured, or white for None."""
    shape = (SIDE, SIDE)
    n = int(density * SIDE**2)
    sources = [*zip(*rng.integers(0, SIDE, (2, n)), 60 * (1 + rng.pareto(1.5, n)), strict=True)]
    images, stamps = [], []
    for psf, kernel, sigma, flux in zip(PSFS, kernels, (5.0, 2.0), (1.0, 0.6), strict=True):
        noise, stamp = coloured(rng, np.ones((1, 1)) if kernel is None else KERNELS[kernel])
        images.append(flux * blurred(sources, shape, psf) + sigma * noise)
        stamps.append(stamp)
    return images, stamps


@pytest.mark.parametrize("kernels", [("bilinear", "smoothed"), ("along x", None), (None, None)])
def test_the_autocorrelation_is_measured_among_sources(rng, kernels):
    images, stamps = field(rng, kernels)
    flat = [np.full((SIDE, SIDE), s**2) for s in (5.0, 2.0)]
    found = noise_spectra(images, flat, list(PSFS), [1.0, 0.6], np.zeros((SIDE, SIDE), bool))
    for spectrum, stamp, kernel in zip(found, stamps, kernels, strict=True):
        assert spectrum.variance == pytest.approx(1.0, abs=0.05)
        # chance, and a part of the sources that PSF and flux scale do not carry over to the last digit
        assert abs(spectrum.stamp - stamp).max() < 6 * spectrum.correlation_error + 0.02
        assert spectrum.correlation == pytest.approx((stamp[12, 13] + stamp[13, 12]) / 2, abs=0.02)
        assert spectrum.coloured == (kernel is not None)
        assert spectrum.reliable


def test_one_image_alone_counts_faint_sources_as_noise(rng):
    """Why a pair is measured together."""
    images, _ = field(rng, (None, None))
    flat = np.full((SIDE, SIDE), 4.0)
    alone = noise_spectra([images[1]], [flat], [PSFS[1]], [0.6], np.zeros((SIDE, SIDE), bool))[0]
    pair = noise_spectra(images, [25 / 4 * flat, flat], list(PSFS), [1.0, 0.6], np.zeros((SIDE, SIDE), bool))[1]
    assert alone.excess > 1.3
    assert pair.excess == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_subtract_calibrates_a_resampled_pair_by_itself(rng, backend):
    """Both images shifted by half a pixel: S_corr is right before any renormalisation, and not if taken for white."""
    if backend == "numba":
        pytest.importorskip("numba")
    stars = [(*rng.uniform(15, SIDE - 15, 2), 2e3 * (1 + rng.pareto(1.2))) for _ in range(120)]
    new = [(250.5, 300.5, 2500.0)]
    made = noisy_pair(rng, (SIDE + 1, SIDE + 1), sources=stars, new=new, flux=(1.0, 1.0))
    halves = [(a[1:, 1:] + a[:-1, 1:] + a[1:, :-1] + a[:-1, :-1]) / 4 for a in (made.science, made.reference)]
    variances = [made.kwargs[f"variance_{role}"][1:, 1:] / 4 for role in ("science", "reference")]
    images = [
        ag.Image(a.astype(np.float32), variance=v.astype(np.float32), name=name)
        for a, v, name in zip(halves, variances, ("science", "reference"), strict=True)
    ]
    diff = ag.subtract(*images, renormalise="none", align="none", backend=backend)
    assert diff.metrics["score_corr_std_raw"] == pytest.approx(1.0, abs=0.03)
    assert diff.metrics["noise_factor"] == 1.0
    assert diff.metrics["score_corr_std_white"] > 1.5
    assert diff.metrics["noise_correlation_science"] == pytest.approx(0.5, abs=0.02)
    assert any("taken for coloured" in step.text for step in diff.steps)
    found = ag.detect(diff)
    hit = np.hypot(found["y"] - 250, found["x"] - 300) < 0.5
    assert hit.sum() == 1
    assert len(found) <= 2
    if backend == "numba":
        return
    white = ag.subtract(*images, renormalise="none", align="none", backend=backend, noise="white")
    assert white.metrics["noise_factor"] > 1.4
    assert any("as asked" in step.text for step in white.steps)


def test_white_noise_is_left_white(rng):
    made = noisy_pair(
        rng, (300, 300), sources=[(*rng.uniform(15, 285, 2), 3e3 * (1 + rng.pareto(1.2))) for _ in range(60)]
    )
    images = [
        ag.Image(a.astype(np.float32), variance=made.kwargs[f"variance_{role}"].astype(np.float32), name=role)
        for a, role in ((made.science, "science"), (made.reference, "reference"))
    ]
    auto, white = (ag.subtract(*images, align="none", backend="numpy", noise=noise) for noise in ("auto", "white"))
    np.testing.assert_array_equal(auto.score_corr, white.score_corr)
    assert any("no correlation that matters" in step.text for step in auto.steps)
