"""The filter's answer to other PSFs: the same as by the kernels in real space."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu.ops.source_response import source_response
from astrid_gpu.ops.zogy import make_params
from astrid_gpu.ops.zogy_kernels import zogy_kernels


def stamp(sy, sx, dy=0.0, dx=0.0, side=21):
    y, x = np.mgrid[:side, :side] - side // 2
    values = np.exp(-0.5 * ((y - dy) ** 2 / sy**2 + (x - dx) ** 2 / sx**2)) + 0.02 * np.exp(-0.5 * (y - x) ** 2 / 9)
    return values / values.sum()


@pytest.mark.parametrize("coloured", [False, True])
def test_response_is_the_product_with_the_kernels(coloured):
    psf_n = np.array([stamp(1.4 + 0.01 * k, 1.6) for k in range(70)])  # more than are made at once
    psf_r = stamp(1.2, 1.3)[None]
    terms = np.array([stamp(1.5, 1.5, 0.4, -0.7), stamp(1.8, 1.3, -1.0, 0.2, 21)])
    noise = (stamp(0.7, 0.7)[None] / stamp(0.7, 0.7).max() if coloured else None, None)
    params = make_params(1.0, 1.0, np.linspace(0.5, 1, 70), 1.0)
    n, r = source_response((psf_n, psf_r), params, (terms, terms), noise=noise)
    assert n.shape == r.shape == (70, 2)
    for k in (0, 69):
        kernels = zogy_kernels(psf_n[k : k + 1], psf_r, params[k : k + 1], noise=noise)
        for found, kernel in zip((n, r), kernels.score, strict=True):
            here = np.arange(-10, 11)
            expected = [(kernel[0][np.ix_(-here, -here)] * term).sum() for term in terms]
            np.testing.assert_allclose(found[k], expected, rtol=1e-4)


def test_of_its_own_psf_the_filter_finds_all_and_nothing_is_made_unasked():
    psf_n, psf_r, params = stamp(1.4, 1.6)[None], stamp(1.2, 1.3)[None], make_params(1.0, 1.0, 1.0, 0.7)
    n, r = source_response((psf_n, psf_r), params, (psf_n, None))
    assert r is None
    np.testing.assert_allclose(n[0], zogy_kernels(psf_n, psf_r, params).norm, rtol=1e-5)
