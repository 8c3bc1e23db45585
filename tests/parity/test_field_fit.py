"""The compiled fits over the field against their reference, and the reference against plain least squares."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu.ops.field import terms_at
from astrid_gpu.ops.field_fit import fit_pixels, fit_polynomial, left_out_pixels, linear_fits

kernels = pytest.importorskip("astrid_gpu.kernels.field_fit_numba", reason="the twins need Numba")


def basis_of(rng, m, order):
    return terms_at(*rng.uniform(-1, 1, (2, m)), order, (0.0, 0.0), (1.0, 1.0))


@pytest.mark.parametrize(("m", "order"), [(20, 0), (31, 1), (64, 2), (127, 3)])
def test_fit_pixels(rng, m, order):
    basis = basis_of(rng, m, order)
    values, weight = rng.normal(size=(m, 45)), rng.uniform(0.5, 2, (m, 45))
    values[2] += 30.0
    weight[:, 7] = 0.0
    weight[5:9] = 0.0
    expected, found = fit_pixels(basis, values, weight), kernels.fit_pixels(basis, values, weight)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-7)
    assert np.all(expected[0][:, 7] == 0)
    assert np.all(np.isinf(expected[1][:, 7]))


def test_the_error_of_a_pixel_is_that_of_its_scatter(rng):
    """Constant terms: the mean's standard error; 400 of them tell it to 1 / sqrt(2 * 60 * 400) and Huber's cut."""
    solution, error, _ = fit_pixels(np.ones((60, 1)), rng.normal(0, 3, (60, 400)), np.full((60, 400), 1 / 9))
    assert error.mean() == pytest.approx(3 / np.sqrt(60), rel=0.04)
    assert solution.std() == pytest.approx(3 / np.sqrt(60), rel=0.15)


@pytest.mark.parametrize("spread2", [None, 0.01])
@pytest.mark.parametrize(("m", "order"), [(9, 0), (40, 1), (127, 3)])
def test_fit_polynomial(rng, m, order, spread2):
    basis = basis_of(rng, m, order)
    error = rng.uniform(0.1, 0.3, m)
    values = basis @ np.arange(1.0, basis.shape[1] + 1) + error * rng.normal(size=m)
    values[1] += 20.0
    expected, found = (f(basis, values, error, spread2=spread2) for f in (fit_polynomial, kernels.fit_polynomial))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)
    assert expected[1][1] < 1e-3 * np.median(expected[1])  # the one far off has no say


@pytest.mark.parametrize("own", [False, True])
def test_linear_fits(rng, own):
    m, p = 12, 81
    shared, values, weight = rng.normal(size=(3, p)), rng.normal(size=(m, p)), rng.uniform(0.1, 2, (m, p))
    first = rng.normal(size=(m, p)) if own else None
    weight[4, 10:] = 0.0
    expected, found = linear_fits(first, shared, values, weight), kernels.linear_fits(first, shared, values, weight)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)
    columns = np.vstack([first[[0]], shared]) if own else shared
    root = np.sqrt(weight[0])
    plain = np.linalg.lstsq((columns * root).T, values[0] * root, rcond=None)[0]
    np.testing.assert_allclose(expected[0][0], plain, rtol=1e-6)


def test_left_out_pixels_are_those_of_fits_to_the_others(rng):
    """The closed form against as many fits as there are stars; a pixel without weight predicts 0."""
    m, p = 30, 7
    basis, values = basis_of(rng, m, 2), rng.normal(size=(m, p))
    weight, trust = rng.uniform(0.2, 3, (m, p)), rng.uniform(0, 1, (6, p))
    weight[:, 3] = 0.0
    found = left_out_pixels(basis, values, weight, trust)
    for i in range(m):
        others = np.arange(m) != i
        for k in range(p):
            root = np.sqrt(weight[others, k])
            fit = np.linalg.lstsq(basis[others] * root[:, None], values[others, k] * root, rcond=None)[0]
            assert found[i, k] == pytest.approx(basis[i] @ (trust[:, k] * fit), abs=1e-6)
