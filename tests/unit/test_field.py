"""Polynomials over the field: on whole grids the same as place by place."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from astrid_gpu._flux_field import FluxModel
from astrid_gpu._flux_ratio import level_reference
from astrid_gpu._registration_field import RegistrationField
from astrid_gpu.image import Image
from astrid_gpu.ops.field import frame_scale, n_terms, on_grid, terms_at

SHAPE = (150, 70)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_on_grid_is_terms_at(rng, order):
    y, x, coefficients = np.arange(20.0, 41.0), np.arange(3, 60), rng.normal(size=n_terms(order))
    expected = terms_at(y[:, None], x[None, :], order, *frame_scale(SHAPE)) @ coefficients
    found = on_grid(coefficients, y, x, *frame_scale(SHAPE))
    assert found.shape == (21, 57)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_offsets_on_a_grid_are_those_at_places(rng):
    field = RegistrationField(SHAPE, 2, rng.normal(size=(2, 6)), np.zeros((2, 6, 6)), (0.0, 0.0), 30)
    y, x = np.arange(100, 120), np.arange(9)
    at = field.at(*np.meshgrid(y, x, indexing="ij")).T.reshape(2, 20, 9)
    np.testing.assert_allclose(field.on_grid(y, x), at, rtol=1e-12, atol=1e-12)


def test_a_reference_levelled_by_rows_is_levelled_whole(rng):
    model = FluxModel(np.array([0.9, 0.05, -0.02]), np.zeros((3, 3)), SHAPE)
    data, variance = rng.normal(size=(2, *SHAPE)).astype(np.float32)
    found = level_reference(Image(data, variance=variance), SimpleNamespace(model=model, beta=0.88))
    factor = model.at(np.arange(150)[:, None], np.arange(70)[None, :]) / 0.88
    assert found.data.dtype == found.variance.dtype == np.float32
    np.testing.assert_allclose(found.data, data * factor, rtol=1e-6)
    np.testing.assert_allclose(found.variance, variance * factor**2, rtol=1e-6)
