"""An uneven sky that the background leaves in part is no correlation of the noise, and does not hide one.

Tolerances: of n pixels the covariance at a lag is good to 1 / sqrt(n), times the power of the noise at low frequencies
for its slow part.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import astrid_gpu as ag
from astrid_gpu._noise_spectrum import noise_spectra, tapered
from astrid_gpu._slow_sky import without_slow
from tests.scenes import moffat_psf, noisy_pair

PSF = moffat_psf(3.2)
SHAPE = (512, 512)
LAGS = np.arange(-12, 13)
KERNELS = {"white": np.ones((1, 1)), "bilinear": np.full((2, 2), 0.5)}


def noise(rng, kernel, shape=SHAPE):
    """Noise of unit variance behind a kernel, and its autocorrelation (25, 25)."""
    transfer = np.fft.rfft2(kernel / np.sqrt((kernel**2).sum()), s=shape)
    stamp = np.fft.irfft2(abs(transfer) ** 2, s=shape)[np.ix_(LAGS, LAGS)]
    return np.fft.irfft2(np.fft.rfft2(rng.normal(size=shape)) * transfer, s=shape), stamp


def waves(rng, rms, scale=25.0, shape=SHAPE):
    """Sky of this rms that varies over some `scale` pixels, as a mesh of 64 pixels leaves it."""
    sky = gaussian_filter(rng.normal(size=shape), scale, mode="wrap")
    return rms * sky / sky.std()


@pytest.mark.parametrize("rms", [0.0, 0.15, 0.35])
@pytest.mark.parametrize("name", KERNELS)
def test_the_autocorrelation_is_that_of_the_noise(rng, name, rms):
    for _ in range(3):
        pixels, stamp = noise(rng, KERNELS[name])
        sky = waves(rng, rms)
        (found,) = noise_spectra([pixels + sky], [np.ones(SHAPE)], [PSF], [1.0], np.zeros(SHAPE, bool))
        assert found.variance == pytest.approx(1.0, abs=0.015)
        assert abs(found.stamp - stamp).max() < 0.012
        alone = noise_spectra([pixels], [np.ones(SHAPE)], [PSF], [1.0], np.zeros(SHAPE, bool))[0]
        assert found.excess == pytest.approx(alone.excess, rel=0.03 + 0.4 * rms**2)  # of 25 rms² + 1
        assert found.reach <= 4
        assert found.coloured == (name == "bilinear")


def test_chance_takes_nothing_off(rng):
    """Covariances of white noise lose a fraction of their own errors."""
    changes = []
    for _ in range(40):
        measured = rng.normal(0, 1e-2, (25, 25))
        measured = (measured + measured[::-1, ::-1]) / np.sqrt(2)
        measured[12, 12] = 1
        changes.append(abs(without_slow(measured, np.full((25, 25), 1e4), tapered(6.0)) - measured)[12, 12])
    assert np.median(changes) == 0
    assert np.mean(changes) < 2e-3


def exposures(rng, kernel, sky):
    """A pair of fields with an uneven sky in the science image."""
    side = 601
    stars = [(*rng.uniform(15, side - 15, 2), 2e3 * (1 + rng.pareto(1.2))) for _ in range(150)]
    made = noisy_pair(rng, (side, side), sources=stars, flux=(1.0, 1.0))
    planes = [made.science, made.reference, *(made.kwargs[f"variance_{role}"] for role in ("science", "reference"))]
    if kernel == "bilinear":  # by half a pixel
        planes = [(a[1:, 1:] + a[:-1, 1:] + a[1:, :-1] + a[:-1, :-1]) / 4 for a in planes]
        planes[2:] = [v / 4 for v in planes[2:]]
    sigma = np.sqrt(np.median(planes[2]))
    planes[0] = planes[0] + sigma * sky[: planes[0].shape[0], : planes[0].shape[1]]
    return [
        ag.Image(a.astype(np.float32), variance=v.astype(np.float32))
        for a, v in zip(planes[:2], planes[2:], strict=True)
    ]


@pytest.mark.parametrize(
    ("kernel", "mode"), [("white", "coloured"), ("white", "auto"), ("bilinear", "coloured"), ("bilinear", "auto")]
)
def test_subtract_under_an_uneven_sky(rng, kernel, mode):
    """Units of the noise: a ripple of 1.2 and a cone of 4; white noise is calibrated, coloured noise is recognised."""
    y, x = np.mgrid[:601, :601]
    sky = 1.2 * np.sin(x / 60) + 4 * np.hypot(x - 300, y - 200) / 400
    diff = ag.subtract(*exposures(rng, kernel, sky), renormalise="none", align="none", noise=mode)
    assert diff.metrics["score_corr_std_raw"] == pytest.approx(1.0, abs=0.03)
    assert diff.metrics["noise_factor"] == 1.0
    assert len(ag.detect(diff)) <= 2
    assert diff.metrics["score_corr_std_white"] == pytest.approx(1.0 if kernel == "white" else 1.88, abs=0.06)
    text = "\n".join(step.text for step in diff.steps)
    assert ("taken for coloured" in text) == (mode == "coloured" or kernel == "bilinear")
