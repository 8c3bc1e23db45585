"""Padding, transfer functions, half-spectrum sums and phases against full transforms done by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import fft

from astrid_gpu.ops.fourier import central_stamp, half_sum, padded_shape, shift_phase, transfer_function
from tests.oracle import place

SHAPES = [(32, 32), (31, 33), (30, 41), (45, 28)]


@pytest.mark.parametrize("shape", [(33, 33), (100, 1), (7, 512)])
@pytest.mark.parametrize("reach", [1, 25, 64])
def test_padding_leaves_room_for_a_kernel_and_is_fast(shape, reach):
    fast = lambda n: fft.next_fast_len(n, real=True)  # noqa: E731
    padded = padded_shape(shape, reach, fast)
    for side, wide in zip(shape, padded, strict=True):
        assert wide >= side + reach
        assert wide == fast(wide)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [(1, 1), (7, 7), (5, 11), (27, 3)])
def test_a_transfer_function_is_that_of_the_centred_stamp(rng, shape, side):
    """The middle pixel goes to (0, 0): a delta convolved with it is the stamp about the delta."""
    stamps = rng.normal(size=(2, *side))
    spectra = transfer_function(stamps, shape, np.fft.rfft2)
    assert spectra.shape == (2, shape[0], shape[1] // 2 + 1)
    for stamp, spectrum in zip(stamps, spectra, strict=True):
        np.testing.assert_allclose(spectrum, np.fft.rfft2(place(stamp, shape)), atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_symmetric_stamp_has_a_real_transfer_function(rng, shape):
    quarter = rng.normal(size=(9, 9))
    stamp = quarter + quarter[::-1, ::-1]
    assert np.abs(transfer_function(stamp[None], shape, np.fft.rfft2).imag).max() < 1e-12


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [(7, 7), (5, 11), (27, 3)])
def test_a_stamp_comes_back_out_of_its_frame(rng, shape, side):
    stamps = rng.normal(size=(3, *side))
    frames = np.fft.irfft2(transfer_function(stamps, shape, np.fft.rfft2), shape)
    np.testing.assert_allclose(central_stamp(frames, side), stamps, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_half_sum_is_the_sum_over_the_whole_plane(rng, shape):
    """Parseval, for even and odd widths."""
    images = rng.normal(size=(2, *shape))
    half, full = np.abs(np.fft.rfft2(images)) ** 2, np.abs(np.fft.fft2(images)) ** 2
    np.testing.assert_allclose(half_sum(half, shape[1]), full.sum(axis=(1, 2)), rtol=1e-12)
    np.testing.assert_allclose(half_sum(half, shape[1]) / images[0].size, (images**2).sum(axis=(1, 2)), rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shift", [(0, 0), (3, -2), (-5, 0)])
def test_a_whole_pixel_phase_is_a_roll(rng, shape, shift):
    image = rng.normal(size=shape)
    moved = np.fft.irfft2(np.fft.rfft2(image) * shift_phase(shape, *shift), shape)
    np.testing.assert_allclose(moved, np.roll(image, shift, (0, 1)), atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_fractional_phase_moves_a_smooth_source_by_that_much(shape):
    """A periodic Gaussian wide enough to hold nothing at Nyquist, drawn at its new place."""
    y, x = np.mgrid[: shape[0], : shape[1]]

    def drawn(cy, cx):
        total = np.zeros(shape)
        for ky in (-1, 0, 1):
            for kx in (-1, 0, 1):
                total += np.exp(-((y - cy - ky * shape[0]) ** 2 + (x - cx - kx * shape[1]) ** 2) / (2 * 2.5**2))
        return total

    dy, dx = 0.37, -1.62
    moved = np.fft.irfft2(np.fft.rfft2(drawn(14, 12)) * shift_phase(shape, dy, dx), shape)
    np.testing.assert_allclose(moved, drawn(14 + dy, 12 + dx), atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_there_and_back_again(rng, shape):
    """Up to the Nyquist terms of even sides, which cannot be moved by a fraction and stay real."""
    image = rng.normal(size=shape)
    spectrum = np.fft.rfft2(image)
    back = spectrum * shift_phase(shape, 0.3, 0.4) * shift_phase(shape, -0.3, -0.4)
    keep = np.ones(spectrum.shape, bool)
    if shape[0] % 2 == 0:
        keep[shape[0] // 2] = False
    if shape[1] % 2 == 0:
        keep[:, -1] = False
    np.testing.assert_allclose(back[keep], spectrum[keep], rtol=1e-12)
    assert np.abs(back[~keep]).sum() <= np.abs(spectrum[~keep]).sum() + 1e-9
