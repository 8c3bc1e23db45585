"""`zogy` on every backend against the complex-FFT oracle, and each fused operation against its reference."""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.engine._frames import combine_masks, fill_frames
from astrid_gpu.flags import INVALID
from astrid_gpu.ops import fill as fill_ops
from astrid_gpu.ops import zogy as zogy_ops
from astrid_gpu.ops.fourier import padded_shape
from astrid_gpu.ops.psf_stamps import fwhm_of, prepare_psf
from tests.oracle import place, zogy_oracle

SHAPES = [(64, 64), (33, 33), (53, 61), (40, 97), (96, 41)]
# Float32 maps: rounding of six FFTs, relative to the largest value of the map. S_corr: design section 9, absolute.
FLOAT32_SCORR = 1e-3
FLOAT64_RELATIVE = 1e-10


def gaussian(sigma_y, sigma_x, side, dtype=np.float64):
    y, x = np.mgrid[:side, :side] - side // 2
    return np.exp(-0.5 * ((y / sigma_y) ** 2 + (x / sigma_x) ** 2)).astype(dtype)


def moffat(fwhm, beta, side):
    y, x = np.mgrid[:side, :side] - side // 2
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    return (1 + (y**2 + x**2) / alpha**2) ** -beta


PSFS = {
    "moffat-gaussian": (moffat(3.1, 3.0, 25), gaussian(1.2, 1.9, 19)),
    "noise-free wide float32": (gaussian(4, 4, 41, np.float32), gaussian(4, 4, 41, np.float32)),
    "unequal wide": (gaussian(2.5, 2.0, 21), gaussian(4.0, 4.0, 35)),
}


def scene(rng, shape, psf_n, psf_r, n=1, bright=3e3):
    """n science images and one reference of the same stars, with source noise, in awkward units."""
    Fn, Fr, sn, sr = 1.3, 0.4, 5.0, 1.1
    sky = np.zeros(shape)
    for _ in range(12):
        sky[rng.integers(shape[0]), rng.integers(shape[1])] += bright * rng.pareto(1.5)
    stamp = lambda p: place(prepare_psf(p, name="psf")[0], shape)  # noqa: E731
    blur = lambda p: np.fft.ifft2(np.fft.fft2(sky) * np.fft.fft2(stamp(p))).real  # noqa: E731
    model_n, model_r = Fn * blur(psf_n), Fr * blur(psf_r)
    Vn, Vr = sn**2 + np.maximum(model_n, 0) / 2, sr**2 + np.maximum(model_r, 0) / 5
    N = model_n + np.sqrt(Vn) * rng.normal(size=(n, *shape))
    R = model_r + np.sqrt(Vr) * rng.normal(size=shape)
    numbers = {"sigma_science": sn, "sigma_reference": sr, "flux_science": Fn, "flux_reference": Fr}
    return N, R, Vn, Vr, numbers


def oracle_of(N, R, psf_n, psf_r, Vn, Vr, numbers, mask=None, ast=(0.0, 0.0, 0.0), backend=None):
    """Run the oracle on the engine's own padded frames, for one pair."""
    b = ag.get_backend("numpy")
    pn, pr = prepare_psf(psf_n, name="n")[0], prepare_psf(psf_r, name="r")[0]
    padded = padded_shape(N.shape, max(*pn.shape, *pr.shape), (backend or b).next_fast_len)
    flags = combine_masks(b, N[None], R[None], None if mask is None else mask[None])
    invalid = (flags & INVALID) != 0
    sn, sr = numbers["sigma_science"], numbers["sigma_reference"]
    frames = [
        fill_frames(
            b,
            image[None],
            var[None],
            invalid,
            padded,
            unit=np.array([unit]),
            profiles=fill_ops.fill_profiles([max(fwhm_of(psf) / 2.3548, 0.7)], padded),
        )
        for image, var, unit, psf in ((N, Vn, sn, pn), (R, Vr, sr, pr))
    ]
    full = zogy_oracle(
        frames[0].data[0] * sn, frames[1].data[0] * sr, place(pn, padded), place(pr, padded), sn, sr,
        numbers["flux_science"], numbers["flux_reference"],
        frames[0].variance[0] * sn**2, frames[1].variance[0] * sr**2, *ast,
        *(np.zeros(padded) if f.error is None else f.error[0] * unit for f, unit in zip(frames, (sn, sr), strict=True)),
    )  # fmt: skip
    crop = {k: v[: N.shape[0], : N.shape[1]] for k, v in full.items() if np.ndim(v) == 2 and k != "psf"}
    return crop | {k: full[k] for k in ("F_D", "F_S", "psf")}, invalid[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("psfs", PSFS)
def test_reference_equals_the_oracle_to_1e_10(rng, shape, psfs):
    psf_n, psf_r = PSFS[psfs]
    N, R, Vn, Vr, numbers = scene(rng, shape, psf_n, psf_r)
    ast = (0.1, 0.05, 0.02)
    diff = ag.zogy(
        N[0], R, psf_n, psf_r, **numbers, variance_science=Vn, variance_reference=Vr,
        astrometric_error=ast[:2], flux_ratio_error=ast[2],
        outputs=("difference", "score", "score_corr", "flux"), backend="numpy",
    )  # fmt: skip
    want, _ = oracle_of(N[0], R, psf_n, psf_r, Vn, Vr, numbers, ast=ast)
    for name in ("difference", "score", "score_corr", "flux", "flux_error"):
        got = getattr(diff, name)
        assert got.dtype == np.float64
        assert np.abs(got - want[name]).max() <= FLOAT64_RELATIVE * np.abs(want[name]).max(), name
    assert diff.flux_scale == pytest.approx(want["F_D"], rel=1e-12)
    cy, cx = diff.psf.shape[0] // 2, diff.psf.shape[1] // 2
    stamp = np.roll(want["psf"], (cy, cx), (0, 1))[: diff.psf.shape[0], : diff.psf.shape[1]]
    assert np.abs(diff.psf - stamp / stamp.sum()).max() <= FLOAT64_RELATIVE * stamp.max()
    assert diff.psf.sum() == pytest.approx(1, abs=1e-12)
    assert diff.psf.shape[0] % 2 == diff.psf.shape[1] % 2 == 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("psfs", PSFS)
def test_every_backend_in_float32_equals_the_oracle(rng, backend, shape, psfs):
    psf_n, psf_r = PSFS[psfs]
    N, R, Vn, Vr, numbers = scene(rng, shape, psf_n, psf_r)
    to = lambda a: backend.asarray(a.astype(np.float32))  # noqa: E731
    diff = ag.zogy(
        to(N[0]), to(R), psf_n, psf_r, **numbers, variance_science=to(Vn), variance_reference=to(Vr),
        astrometric_error=(0.1, 0.05), flux_ratio_error=0.02,
        outputs=("difference", "score", "score_corr", "flux"), backend=backend,
    )  # fmt: skip
    want, _ = oracle_of(N[0], R, psf_n, psf_r, Vn, Vr, numbers, ast=(0.1, 0.05, 0.02), backend=backend)
    assert np.abs(backend.to_host(diff.score_corr) - want["score_corr"]).max() < FLOAT32_SCORR
    for name in ("score", "flux", "flux_error"):
        got = backend.to_host(getattr(diff, name))
        assert got.dtype == np.float32
        assert np.abs(got - want[name]).max() <= 1e-4 * np.abs(want[name]).max(), name
    # D divides by |P| at frequencies where it is small: white noise of float32 rounding, far below its own noise
    noise = np.hypot(numbers["sigma_science"], numbers["sigma_reference"] / 0.4 * 1.3)
    assert np.abs(backend.to_host(diff.difference) - want["difference"]).max() < 0.05 * noise


def test_a_stack_equals_its_loop(rng, backend):
    psf_n, psf_r = PSFS["moffat-gaussian"]
    N, R, Vn, Vr, numbers = scene(rng, (48, 53), psf_n, psf_r, n=4)
    N[1, 5:9, 5:9] = np.nan
    sigmas = numbers | {"sigma_science": np.array([5.0, 5.5, 4.0, 9.0])}
    to = lambda a: backend.asarray(a.astype(np.float32))  # noqa: E731
    stack = ag.zogy(to(N), to(R), psf_n, psf_r, **sigmas, variance_science=to(Vn), variance_reference=to(Vr),
                    backend=backend)  # fmt: skip
    assert stack.shape == N.shape
    for i in range(4):
        one = ag.zogy(
            to(N[i]), to(R), psf_n, psf_r, **(sigmas | {"sigma_science": sigmas["sigma_science"][i]}),
            variance_science=to(Vn), variance_reference=to(Vr), backend=backend,
        )  # fmt: skip
        for name in ("difference", "score_corr", "flux", "flux_error", "mask"):
            a, b = backend.to_host(getattr(stack, name))[i], backend.to_host(getattr(one, name))
            np.testing.assert_allclose(a, b, atol=1e-4 * np.nanmax(np.abs(b)), err_msg=name)


def test_psf_per_image_equals_its_loop(rng, backend):
    psf = np.stack([moffat(w, 3.0, 25) for w in (2.5, 3.5)])
    N, R, Vn, Vr, numbers = scene(rng, (45, 52), psf[0], psf[1], n=2)
    to = lambda a: backend.asarray(a.astype(np.float32))  # noqa: E731
    kw = numbers | {"variance_science": to(Vn), "variance_reference": to(Vr), "backend": backend}
    stack = ag.zogy(to(N), to(R), psf, psf[0], **kw)
    assert stack.psf.shape[0] == 2
    for i in range(2):
        one = ag.zogy(to(N[i]), to(R), psf[i], psf[0], **kw)
        a, b = backend.to_host(stack.score_corr)[i], backend.to_host(one.score_corr)
        assert np.abs(a - b).max() < FLOAT32_SCORR
        np.testing.assert_allclose(stack.psf[i], one.psf, atol=1e-12)


def test_masked_pixels_equal_the_oracle_on_the_filled_frame(rng, backend):
    psf_n, psf_r = PSFS["moffat-gaussian"]
    N, R, Vn, Vr, numbers = scene(rng, (53, 61), psf_n, psf_r)
    mask = np.zeros((53, 61), bool)
    mask[20:26, 30:33] = True
    N[0, 40, 10], R[12, 50] = np.nan, np.inf
    to = lambda a: backend.asarray(a.astype(np.float32))  # noqa: E731
    diff = ag.zogy(to(N[0]), to(R), psf_n, psf_r, **numbers, variance_science=to(Vn), variance_reference=to(Vr),
                   mask=backend.asarray(mask), backend=backend)  # fmt: skip
    want, invalid = oracle_of(N[0], R, psf_n, psf_r, Vn, Vr, numbers, mask=mask, backend=backend)
    got = backend.to_host(diff.score_corr)
    np.testing.assert_array_equal(np.isnan(got), invalid)
    assert np.abs(got - want["score_corr"])[~invalid].max() < FLOAT32_SCORR


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_zogy_spectra_twin(rng, backend, n, dtype):
    op = backend.ops.get("zogy_spectra")
    if op is None:
        pytest.skip(f"{backend.name} runs the reference itself")
    if dtype == np.complex128 and backend.name != "numba":
        pytest.skip("CUDA kernels are single precision; the engine casts")
    make = lambda k: (rng.normal(size=(k, 37, 21)) + 1j * rng.normal(size=(k, 37, 21))).astype(dtype)  # noqa: E731
    N, R, Pn, Pr = make(n), make(1), make(n), make(1)
    Pn[:, 5:9] *= 1e-8
    Pr[:, 5:9] *= 1e-8
    params = zogy_ops.make_params(np.linspace(1, 2, n), 0.7, 1.1, 0.3)
    got = op(*(backend.asarray(a) for a in (N, R, Pn, Pr)), params)
    want = zogy_ops.zogy_spectra(*(a.astype(np.complex128) for a in (N, R, Pn, Pr)), params)
    rounding = 1e-6 if dtype == np.complex64 else 1e-14
    for g, w in zip(got, want, strict=True):
        assert np.abs(backend.to_host(g) - w).max() <= 4 * rounding * np.abs(w).max()


@pytest.mark.parametrize("shape", [(31, 45), (64, 64)])
@pytest.mark.parametrize("shared", [True, False])
def test_zogy_finish_twin(rng, backend, shape, shared):
    op = backend.ops.get("zogy_finish")
    if op is None:
        pytest.skip(f"{backend.name} runs the reference itself")
    n, padded = 2, (shape[0] + 9, shape[1] + 7)
    Sn, Sr = rng.normal(size=(2, n, *padded)).astype(np.float32)
    variance = rng.uniform(-1e-3, 2, size=(1 if shared else n, *padded)).astype(np.float32)
    scales, ast = np.array([[2.0, 3.0, 0.01]] * n), np.array([[0.1, 0.2, 0.05], [0.0, 0.4, 0.0]])
    outputs = {"score", "score_corr", "flux", "flux_error"}
    got = op(backend.asarray(Sn), backend.asarray(Sr), backend.asarray(variance), scales, ast, shape, outputs)
    want = zogy_ops.zogy_finish(*(a.astype(float) for a in (Sn, Sr, variance)), scales, ast, shape, outputs)
    assert set(got) == outputs
    for name, w in want.items():
        np.testing.assert_allclose(backend.to_host(got[name]), w, rtol=2e-5, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("shared", [True, False])
def test_fill_masked_twin(rng, backend, shared):
    op = backend.ops.get("fill_masked")
    if op is None:
        pytest.skip(f"{backend.name} runs the reference itself")
    images = rng.normal(size=(2, 43, 50)).astype(np.float32)
    bad = np.zeros((1 if shared else 2, 43, 50), np.uint8)
    bad[:, 35:], bad[:, :, 41:], bad[0, 10:14, 20], bad[-1, :30, :30] = 1, 1, 1, 1
    images[:, 30:] += 40  # a star's worth, so that the fill is more than nothing
    profiles = fill_ops.fill_profiles([1.7] if shared else [1.7, 1.1], images.shape[1:])
    got = backend.to_host(op(backend.asarray(images), backend.asarray(bad), profiles))
    want = fill_ops.fill_masked(images.astype(float), bad, profiles)
    assert np.abs(want[bad != 0 if not shared else np.broadcast_to(bad, want.shape) != 0]).max() > 10
    np.testing.assert_allclose(got, want, atol=4e-5)  # 40 x float32 rounding of a hundred terms
