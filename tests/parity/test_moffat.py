"""The compiled equations of a Moffat profile's fit against the reference."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu.ops.moffat import Moffat, moffat_equations, moffat_profile

kernels = pytest.importorskip("astrid_gpu.kernels.moffat_numba", reason="the twins need Numba")


@pytest.mark.parametrize("alpha", [0.8, 1.6, 4.0])
def test_moffat_equations(rng, alpha):
    """Four, three and two points a side, an oblong stamp, pixels left out, a centre off the middle."""
    m = Moffat(1.0, 0.0, 0.3, -0.2, alpha, 0.12, -0.07, 3.1)
    stamp = 500 * moffat_profile(m._replace(alpha=1.1 * alpha), (21, 17)) + rng.normal(size=(21, 17)) + 3
    weight = rng.uniform(0.5, 1.5, stamp.shape)
    weight[4, 5:9] = 0.0
    expected, found = moffat_equations(m, stamp, weight), kernels.moffat_equations(m, stamp, weight)
    for name, value in zip(expected._fields, found, strict=True):
        reference = getattr(expected, name)
        np.testing.assert_allclose(value, reference, rtol=1e-9, atol=1e-9 * np.abs(reference).max(), err_msg=name)


def test_no_weight_at_all():
    """Nothing is known, and nothing is infinite."""
    m, nothing = Moffat(1.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 3.0), np.zeros((9, 9))
    for equations in (moffat_equations, kernels.moffat_equations):
        linear, matrix, gradient, cost = equations(m, nothing + 1, nothing)
        assert cost == 0
        assert np.all(np.isfinite(linear))
        assert np.all(matrix == 0)
        assert np.all(gradient == 0)
