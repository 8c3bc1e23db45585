"""The in-cache transforms against NumPy's."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba")

from astrid_gpu.kernels.fft_numba import factorize, fft_columns, is_smooth, plan_fft


@pytest.mark.parametrize("n", [16, 48, 80, 128, 240, 256, 288, 320, 400, 432, 512, 576, 640, 720])
def test_forward_and_back(n):
    rng = np.random.default_rng(n)
    wide = rng.standard_normal((2, n, 40), dtype=np.float32)
    radices, w = plan_fft(n)
    out, one, two = (np.zeros((2, n * 16), np.float32) for _ in range(3))
    columns = wide[:, :, 5:21]
    exact = np.fft.fft(columns[0] + 1j * columns[1], axis=0)
    flat = wide.reshape(2, -1)
    fft_columns(flat[0][5:], flat[1][5:], 40, out[0], out[1], 16, one, two, n, radices, w, np.float32(1))
    got = (out[0] + 1j * out[1]).reshape(n, 16)
    assert abs(got - exact).max() < 4e-7 * abs(exact).max()
    fft_columns(out[0], out[1], 16, out[0], out[1], 16, one, two, n, radices, w, np.float32(-1))
    np.testing.assert_allclose(out.reshape(2, n, 16) / n, columns, atol=3e-6)


def test_only_what_is_asked_for_is_written():
    n = 48
    radices, w = plan_fft(n)
    source, one, two = (np.ones((2, n * 16), np.float32) for _ in range(3))
    target = np.full((2, n * 20), np.float32(7))
    fft_columns(source[0], source[1], 16, target[0], target[1], 20, one, two, n, radices, w, np.float32(1))
    assert np.all(target.reshape(2, n, 20)[:, :, 16:] == 7)
    assert np.all(source == 1)


def test_lengths():
    assert is_smooth(400)
    assert not is_smooth(16 * 7)
    assert not is_smooth(24)
    for n in (16, 32, 96, 128, 256, 512, 1024, 400, 2880):
        assert np.prod(factorize(n)) == n
    with pytest.raises(ValueError, match="length 112: multiples of 16 with prime factors 2, 3 and 5"):
        plan_fft(112)
