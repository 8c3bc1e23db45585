"""zogy.cu against the float64 reference, under several schedules, and through the engine.

Tolerances: each output is a sum of a handful of terms, each a product of a handful of single-precision factors, so it
differs from the reference by a small multiple of eps times the size of its terms (not of the result, which may cancel).
"""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu.ops import zogy as reference
from tests.cuda_host import emu

SCHEDULES = [0, 1, 2, 3]
OUTPUTS = ("score", "score_corr", "flux", "flux_error")
REALS = [np.float32, np.float64]


def complex_of(real) -> type:
    return np.complex64 if real is np.float32 else np.complex128


def spectra(rng, n: int, shape: tuple[int, int]) -> np.ndarray:
    return rng.standard_normal((n, *shape)) + 1j * rng.standard_normal((n, *shape))


def problem(rng, n: int, shared: tuple[bool, bool, bool], shape=(33, 21)) -> tuple[np.ndarray, ...]:
    """Spectra whose PSFs vanish over part of the plane, and unequal noise and flux scales."""
    N = spectra(rng, n, shape)
    R, Pn, Pr = (spectra(rng, 1 if one else n, shape) for one in shared)
    Pn[:, 5:12], Pr[:, 5:9] = Pn[:, 5:12] * 1e-9, Pr[:, 5:9] * 1e-9
    params = reference.make_params(
        rng.uniform(0.5, 2, n), rng.uniform(0.5, 2, n), rng.uniform(0.5, 2, n), rng.uniform(0.5, 2, n)
    )
    return N, R, Pn, Pr, params


def close(got: np.ndarray, wanted: np.ndarray, terms: float) -> None:
    eps = np.finfo(got.dtype).eps
    np.testing.assert_allclose(got, wanted, rtol=16 * eps, atol=16 * eps * terms)


@pytest.mark.parametrize("seed", SCHEDULES)
@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("shared", [(False, False, False), (True, True, True), (False, True, False)])
def test_spectra(seed, real, shared, rng):
    N, R, Pn, Pr, params = problem(rng, 3, shared)
    inputs = [a.astype(complex_of(real)) for a in (N, R, Pn, Pr)]
    got = emu.backend(seed).ops["zogy_spectra"](*inputs, params)
    wanted = reference.zogy_spectra(*(a.astype(complex) for a in inputs), params)
    for name, g, w in zip(("D", "Sn", "Sr"), got, wanted, strict=True):
        assert g.dtype == complex_of(real), name
        assert g.shape == N.shape, name
        close(g, w, abs(w).max())
    assert (got[1][:, 5:9] == 0).all(), "no information where both PSFs vanish"
    assert (got[1][:, 13:] != 0).all()


@pytest.mark.parametrize("real", REALS)
def test_spectra_where_one_psf_vanishes(real, rng):
    """den is far below its peak but above the floor: the quotient must not lose the small PSF's terms."""
    N, R, Pn, Pr, params = problem(rng, 1, (False, False, False))
    Pn[:], Pr[:] = 1e-4 * Pn, 1e-5 * Pr
    inputs = [a.astype(complex_of(real)) for a in (N, R, Pn, Pr)]
    got = emu.backend().ops["zogy_spectra"](*inputs, params)
    wanted = reference.zogy_spectra(*(a.astype(complex) for a in inputs), params)
    for g, w in zip(got, wanted, strict=True):
        close(g, w, abs(w).max())


@pytest.mark.parametrize("seed", SCHEDULES)
@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize(("v_n", "flat"), [(2, False), (1, False), (1, True), (2, True)])
def test_finish(seed, real, v_n, flat, rng):
    Sn, Sr = rng.standard_normal((2, 2, 19, 37)).astype(real)
    variance = rng.uniform(-0.1, 2, (v_n, 1, 1) if flat else (v_n, 19, 37)).astype(real)
    scales = np.stack([rng.uniform(0.5, 2, 2), rng.uniform(0.5, 2, 2), np.full(2, 0.2)], axis=1)
    astrometric = np.array([[0.0, 0.0, 0.0], [0.3, 0.7, 0.1]])
    got = emu.backend(seed).ops["zogy_finish"](Sn, Sr, variance, scales, astrometric, (19, 33), OUTPUTS)
    wide = [a.astype(float) for a in (Sn, Sr, variance)]
    wanted = reference.zogy_finish(*wide, scales, astrometric, (19, 33), OUTPUTS)
    assert set(got) == set(OUTPUTS)
    for name, w in wanted.items():
        assert got[name].dtype == real
        assert got[name].shape == (2, 19, 33)
        close(got[name], w, abs(w).max())


@pytest.mark.parametrize("outputs", [(), ("score",), ("flux_error", "flux"), ("score_corr",)])
def test_finish_returns_what_was_asked(outputs, rng):
    Sn, Sr, variance = rng.uniform(1, 2, (3, 1, 8, 10)).astype(np.float32)
    got = emu.backend().ops["zogy_finish"](Sn, Sr, variance, np.ones((1, 3)), np.zeros((1, 3)), (7, 9), set(outputs))
    assert set(got) == set(outputs)
    wanted = reference.zogy_finish(Sn, Sr, variance, np.ones((1, 3)), np.zeros((1, 3)), (7, 9), set(outputs))
    for name, w in wanted.items():
        close(got[name], w, 2.0)


def test_finish_keeps_nan_of_the_variance(rng):
    Sn, Sr, variance = rng.uniform(1, 2, (3, 1, 8, 8)).astype(np.float32)
    variance[0, 2, 3] = np.nan
    got = emu.backend().ops["zogy_finish"](Sn, Sr, variance, np.ones((1, 3)), np.zeros((1, 3)), (8, 8), OUTPUTS)
    where = np.argwhere(np.isnan(got["score_corr"]))
    assert where.tolist() == [[0, 2, 3]]
    assert np.isfinite(got["score"]).all()


@pytest.mark.parametrize(
    ("position", "shape", "message"),
    [
        (1, (2, 33, 21), r"R has shape \(2, 33, 21\); allowed: \(3, 33, 21\) or \(1, 33, 21\)"),
        (3, (1, 33, 20), "Pr has shape"),
        (4, (3, 4), r"params has shape \(3, 4\); allowed: \(3, 5\)"),
    ],
)
def test_spectra_of_the_wrong_shape_are_refused(position, shape, message, rng):
    args = list(problem(rng, 3, (False, False, False)))
    args[position] = np.ones(shape, args[position].dtype)
    with pytest.raises(ValueError, match=message):
        emu.backend().ops["zogy_spectra"](*args)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (1, np.ones((1, 8, 8), np.float32), "Sr has shape"),
        (2, np.ones((2, 8, 9), np.float32), "variance has shape"),
        (3, np.ones((2, 2)), "scales has shape"),
        (4, np.ones((2, 2)), "errors has shape"),
        (5, (9, 8), r"shape \(9, 8\) does not fit the frame \(8, 8\)"),
    ],
)
def test_maps_of_the_wrong_shape_are_refused(position, value, message):
    Sn = np.ones((2, 8, 8), np.float32)
    args = [Sn, Sn, Sn, np.ones((2, 3)), np.ones((2, 3)), (8, 8), OUTPUTS]
    args[position] = value
    with pytest.raises(ValueError, match=message):
        emu.backend().ops["zogy_finish"](*args)


def test_engine_agrees_with_its_reference(rng):
    """The whole of zogy() on the emulated device: S_corr to 1e-3 absolute (design, section 9), mask holes included."""
    import astrid_gpu as ag

    grid = np.arange(-9, 10)
    r2 = grid[:, None] ** 2 + grid**2
    psfs = [np.exp(-r2 / (2 * s * s)) for s in (2.0, 1.5)]
    science, reference_image = 5 * rng.standard_normal((2, 61, 70)), 3 * rng.standard_normal((1, 61, 70))
    science[:, 30:35, 40:44] = np.nan
    science[0, 20, 20] += 2000
    outputs = ("difference", "score", "score_corr", "flux")
    given = {"astrometric_error": (0.1, 0.2), "outputs": outputs}

    def run(backend, dtype):
        return ag.zogy(science.astype(dtype), reference_image.astype(dtype), *psfs, 5.0, 3.0, backend=backend, **given)

    exact, fast = run("numpy", np.float64), run(emu.backend(2), np.float32)
    assert fast.backend == "emu"
    np.testing.assert_array_equal(np.isnan(fast.score_corr), np.isnan(exact.score_corr))
    np.testing.assert_array_equal(fast.mask, exact.mask)
    np.testing.assert_allclose(fast.score_corr, exact.score_corr, atol=1e-3)
    np.testing.assert_allclose(fast.flux, exact.flux, atol=1e-3 * np.nanmedian(exact.flux_error))
