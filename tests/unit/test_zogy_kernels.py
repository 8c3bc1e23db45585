"""Kernels on the small grid are those of the full frame, and their tails are what lies outside."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu.ops import zogy
from astrid_gpu.ops.fourier import transfer_function
from astrid_gpu.ops.zogy_kernels import kernel_grid, zogy_kernels


def moffat(fwhm, radius=12, stretch=1.0):
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / 3.5) - 1)
    stamp = (1 + (x**2 * stretch + y**2 / stretch) / alpha**2) ** -3.5
    return (stamp / stamp.sum())[None]


@pytest.fixture(scope="module")
def case():
    psfs = moffat(2.8, stretch=1.2), moffat(2.2)
    params = zogy.make_params(1.0, 1.0, 0.8, 1.0)
    return psfs, params, zogy_kernels(*psfs, params)


def test_equal_the_kernels_of_a_full_frame(case):
    psfs, params, kernels = case
    shape = (300, 333)
    Pn, Pr = (transfer_function(p, shape, np.fft.rfft2) for p in psfs)
    large = [np.fft.irfft2(k, shape) for k in zogy.score_kernels(Pn, Pr, params)]
    index = np.arange(-100, 100)
    for ours, theirs in zip(kernels.score, large, strict=True):
        np.testing.assert_allclose(ours[:, index][:, :, index], theirs[:, index][:, :, index], atol=1e-12)
    np.testing.assert_allclose(kernels.norm, zogy.score_norm(Pn, Pr, params, shape), rtol=1e-12)
    psf = np.fft.irfft2(zogy.difference_psf(Pn, Pr, params), shape)
    np.testing.assert_allclose(kernels.psf[:, index][:, :, index], psf[:, index][:, :, index], atol=1e-12)


def test_convolving_with_the_difference_kernels_gives_the_difference(case):
    psfs, params, kernels = case
    g = kernels.psf.shape[-1]
    images = np.random.default_rng(5).normal(size=(2, 1, g, g))
    N, R = np.fft.rfft2(images)
    Pn, Pr = (transfer_function(p, (g, g), np.fft.rfft2) for p in psfs)
    wanted = zogy.zogy_spectra(N, R, Pn, Pr, params)
    dn, dr, kn, kr = (np.fft.rfft2(k) for k in (*kernels.difference, *kernels.score))
    for got, expected in zip((dn * N - dr * R, kn * N, kr * R), wanted, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-9)


def test_tails_are_what_a_square_of_that_size_leaves_out(case):
    _, _, kernels = case
    g = kernels.psf.shape[-1]
    distance = np.minimum(np.arange(g), g - np.arange(g))
    for halo in (6, 20):
        outside = np.maximum(distance[:, None], distance) > halo
        tails = kernels.tails(halo)
        noise = np.sqrt(sum((k**2).sum() for k in kernels.score))
        energy = sum((k[:, outside] ** 2).sum() for k in kernels.score)
        np.testing.assert_allclose(tails.score_rms, np.sqrt(energy) / noise, rtol=1e-9)
        peak = max(abs(k[:, outside]).max() for k in kernels.score)
        np.testing.assert_allclose(tails.score_peak, peak / noise, rtol=1e-9)
    assert kernels.tails(6).difference_rms > kernels.tails(20).difference_rms > 0


def test_the_grid_holds_three_stamps():
    assert kernel_grid(25, 31) == 256
    assert kernel_grid(101) == 512


def test_psf_stamps_have_sum_one(case):
    stamps = case[2].psf_stamps((49, 49))
    assert stamps.shape == (1, 49, 49)
    np.testing.assert_allclose(stamps.sum(), 1)
    assert np.unravel_index(stamps[0].argmax(), (49, 49)) == (24, 24)


def test_star_residuals_are_what_a_cut_kernel_leaves_of_a_star(case):
    psfs, _, kernels = case
    g, halo = kernels.psf.shape[-1], 8
    distance = np.minimum(np.arange(g), g - np.arange(g))
    outside = np.maximum(distance[:, None], distance) > halo
    got = kernels.star_residuals(halo)
    for shown, pair in zip(got, (kernels.score, kernels.difference), strict=True):
        noise = np.sqrt(sum((k**2).sum() for k in pair))
        left = 0.0
        for kernel, psf in zip(pair, psfs, strict=True):
            frame = np.zeros((g, g))
            frame[:25, :25] = psf[0]
            star = np.roll(frame, (-12, -12), (0, 1))
            cut = np.fft.irfft2(np.fft.rfft2(kernel[0] * outside) * np.fft.rfft2(star), (g, g))
            left = max(left, abs(cut).max())
        np.testing.assert_allclose(shown, left / noise, rtol=1e-9)
    tails = kernels.tails(halo)
    assert got[0] <= tails.score_peak
    assert got[1] <= tails.difference_peak
