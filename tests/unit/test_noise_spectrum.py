"""Autocorrelations and power spectra of noise: the reference's mathematics, and what the engine refuses."""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.errors import InputError, ShapeMismatchError
from astrid_gpu.ops import noise_spectrum as ops
from astrid_gpu.ops.fourier import transfer_function


def smoothed(sigma: float, half: int = 12) -> np.ndarray:
    """Autocorrelation of white noise smoothed by a Gaussian."""
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    return np.exp(-(y**2 + x**2) / (4 * sigma**2))


def test_power_of_white_noise_is_one():
    white = np.zeros((1, 5, 5))
    white[0, 2, 2] = 1
    np.testing.assert_allclose(ops.noise_power(white, (16, 21)), 1, rtol=1e-12)
    np.testing.assert_allclose(ops.filter_power(white, (16, 21)), 1, rtol=1e-12)


@pytest.mark.parametrize(("power", "part"), [(ops.noise_power, 0.003), (ops.filter_power, 0.05)])
def test_power_follows_the_transform_and_stops_at_the_floor(power, part):
    stamp = smoothed(1.0)[None]
    q, plain = power(stamp, (64, 64)), transfer_function(stamp, (64, 64), np.fft.rfft2).real
    floor = part * 4 * np.pi / (0.5 + np.sqrt(0.25 + part**2))  # q(0) = 4 pi sigma²
    high = plain > 10 * floor
    np.testing.assert_allclose(q[high], plain[high], rtol=0.01)
    assert q.min() > 0.999 * floor
    np.testing.assert_allclose(q[plain < 1e-6 * floor], floor, rtol=1e-5)


@pytest.mark.parametrize("sigma", [0.5, 0.8, 1.2])
def test_kernel_stamps_are_the_filters(sigma):
    stamp = smoothed(sigma)[None]
    white, rest = ops.kernel_stamps(stamp)
    filtered, q = ops.filter_power(stamp, (256, 300)), ops.noise_power(stamp, (256, 300))
    for kernel, want in ((white, 1 / np.sqrt(filtered)), (rest, np.sqrt(q / filtered))):
        assert kernel.shape[1] % 2 == kernel.shape[2] % 2 == 1
        got = transfer_function(kernel, (256, 300), np.fft.rfft2)
        assert abs(got - want).max() < 1e-5 * want.max()


def test_trimmed_keeps_all_but_a_part():
    stamps = np.zeros((2, 9, 11))
    stamps[:, 4, 5], stamps[1, 4, 8], stamps[0, 0, 0] = 1, 1e-3, 1e-9
    assert ops.trimmed(stamps, 1e-6).shape == (2, 1, 7)
    assert ops.trimmed(stamps, 1e-12).shape == (2, 9, 11)


def test_convolved_is_a_convolution(rng):
    from scipy.signal import convolve2d

    one, two = rng.normal(size=(1, 5, 3)), rng.normal(size=(2, 3, 7))
    got = ops.convolved(one, two)
    for i in range(2):
        np.testing.assert_allclose(got[i], convolve2d(one[0], two[i]), atol=1e-12)


def refused(error, match, noise, n=1):
    psf = smoothed(1.0, 4)
    images = np.ones((n, 20, 20))
    with pytest.raises(error, match=match):
        ag.zogy(images, images[0], psf, psf, 1.0, 1.0, noise_spectrum_science=noise, backend="numpy")


def test_what_is_no_autocorrelation_is_refused():
    good = smoothed(0.7, 3)
    refused(ShapeMismatchError, "noise_spectrum_science must be the noise's autocorrelation.*shape \\(7,\\)", good[0])
    refused(InputError, "odd sides up to 99. A power spectrum on a frame's grid is not taken", np.ones((20, 11)))
    refused(ShapeMismatchError, "holds 2 stamps for 3 images", np.stack([good, good]), n=3)
    refused(InputError, "finite, with a positive variance", -good)
    refused(InputError, "finite, with a positive variance", np.where(good < 0.5, np.nan, good))
    refused(InputError, "the same at opposite lags.*Is it centred", np.roll(good, 1, 0))
    ringing = np.zeros((5, 5))
    ringing[2] = [0, 0.9, 1, 0.9, 0]
    refused(InputError, "power spectrum goes down to -0.29 of its maximum", ringing)
    with pytest.raises(InputError, match="noise_spectrum_reference has sides"):
        ag.zogy(*np.ones((2, 20, 20)), good, good, 1, 1, noise_spectrum_reference=np.ones((4, 4)), backend="numpy")


def test_only_the_shape_of_the_stamp_matters(rng):
    images, psf = rng.normal(size=(2, 40, 44)), smoothed(1.2, 5)
    maps = [
        ag.zogy(*images, psf, psf, 1, 1, noise_spectrum_science=k * smoothed(0.8), backend="numpy").score_corr
        for k in (1, 36.0)
    ]
    np.testing.assert_allclose(maps[0], maps[1], rtol=1e-9, atol=1e-12)
