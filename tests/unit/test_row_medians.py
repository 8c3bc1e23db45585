"""Medians of rows against NumPy's."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu.ops.noise import row_medians


@pytest.mark.parametrize("length", [1, 2, 7, 100])
def test_medians_are_those_of_numpy(rng, length):
    lines = rng.normal(size=(50, length))
    lines[rng.random(lines.shape) < 0.4] = np.nan
    lines[0] = np.nan
    lines[1, 0] = 1.0
    middle, n = row_medians(lines)
    np.testing.assert_array_equal(n, np.isfinite(lines).sum(axis=1))
    np.testing.assert_array_equal(middle[1:][n[1:] > 0], np.nanmedian(lines[1:][n[1:] > 0], axis=1))
    assert np.isnan(middle[n == 0]).all()
