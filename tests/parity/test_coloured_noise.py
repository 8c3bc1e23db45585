"""`zogy` with coloured noise on every backend against the complex-FFT oracle, which knows nothing of whitening."""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.engine._frames import combine_masks, fill_frames
from astrid_gpu.flags import INVALID
from astrid_gpu.ops import fill as fill_ops
from astrid_gpu.ops.fourier import padded_shape
from astrid_gpu.ops.psf_stamps import fwhm_of, prepare_psf
from tests.oracle import noise_power, place, zogy_oracle

ALL = ("difference", "score", "score_corr", "flux")
FLOAT32_SCORR = 1e-3  # design, section 9
NUMBERS = {"sigma_science": 5.0, "sigma_reference": 1.1, "flux_science": 1.3, "flux_reference": 0.4}
ERRORS = (0.1, 0.05, 0.02)


def moffat(fwhm, side, beta=3.0):
    y, x = np.mgrid[:side, :side] - side // 2
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    return (1 + (y**2 + x**2) / alpha**2) ** -beta


def autocorrelation(kernel, half=12):
    """That of white noise smoothed by `kernel`, on an odd stamp."""
    side = 2 * half + 1
    spectrum = abs(np.fft.fft2(place(kernel, (side, side)))) ** 2
    stamp = np.fft.fftshift(np.fft.ifft2(spectrum).real)
    return stamp / stamp[half, half]


BILINEAR = autocorrelation(np.outer([0, 0.7, 0.3], [0, 0.55, 0.45]))
SMOOTH = autocorrelation(np.exp(-0.5 * np.sum((np.mgrid[:7, :7] - 3) ** 2, axis=0) / np.array(0.7) ** 2))
TILTED = autocorrelation(np.array([[0.1, 0.25, 0], [0.25, 1, 0.2], [0, 0.2, 0.15]]), 5)
PSFS = moffat(3.1, 25), moffat(2.6, 21)
PAIRS = {"both": (BILINEAR, TILTED), "reference": (None, SMOOTH), "science": (TILTED, None)}
SHAPES = [(64, 64), (53, 61), (40, 97)]


def scene(rng, shape, n=1):
    """n science images and a reference of the same stars, one cut by the edge, with variance maps."""
    sky = np.zeros(shape)
    for _ in range(12):
        sky[rng.integers(shape[0]), rng.integers(shape[1])] += 2e3 * (1 + rng.pareto(1.5))
    models = []
    for psf, flux in zip(PSFS, (1.3, 0.4), strict=True):
        frame = place(psf / psf.sum(), shape)
        models.append(flux * np.fft.ifft2(np.fft.fft2(sky) * np.fft.fft2(frame)).real)
    variances = [s**2 + np.maximum(m, 0) / g for m, s, g in zip(models, (5, 1.1), (2, 5), strict=True)]
    science = models[0] + np.sqrt(variances[0]) * rng.normal(size=(n, *shape))
    return science, models[1] + np.sqrt(variances[1]) * rng.normal(size=shape), *variances


def oracle(images, variances, noise, backend, mask=None):
    """Run the oracle on the engine's own padded frames, for one pair."""
    numpy, psfs = ag.get_backend("numpy"), [prepare_psf(p, name="psf")[0] for p in PSFS]
    reach = 25 + max(0 if a is None else a.shape[0] - 1 for a in noise)
    padded = padded_shape(images[0].shape, reach, backend.next_fast_len)
    flags = combine_masks(numpy, images[0][None], images[1][None], None if mask is None else mask[None])
    invalid, sigmas = (flags & INVALID) != 0, (5.0, 1.1)
    frames = [
        fill_frames(
            numpy, image[None], variance[None], invalid, padded, unit=np.array([unit]),
            profiles=fill_ops.fill_profiles([max(fwhm_of(psf) / 2.3548, 0.7)], padded),
        )
        for image, variance, unit, psf in zip(images, variances, sigmas, psfs, strict=True)
    ]  # fmt: skip
    full = zogy_oracle(
        *(f.data[0] * s for f, s in zip(frames, sigmas, strict=True)), *(place(p, padded) for p in psfs), *sigmas,
        1.3, 0.4, *(f.variance[0] * s**2 for f, s in zip(frames, sigmas, strict=True)), *ERRORS,
        *(np.zeros(padded) if f.error is None else f.error[0] * s for f, s in zip(frames, sigmas, strict=True)),
        *(1.0 if a is None else noise_power(a, padded, floor) for floor in (0.05, 0.003) for a in noise),
    )  # fmt: skip
    ny, nx = images[0].shape
    return {k: v[:ny, :nx] if np.ndim(v) == 2 and k != "psf" else v for k, v in full.items()}, invalid[0]


def subtract(images, variances, noise, backend, **more):
    return ag.zogy(
        *images, *PSFS, **NUMBERS, variance_science=variances[0], variance_reference=variances[1],
        noise_spectrum_science=noise[0], noise_spectrum_reference=noise[1], astrometric_error=ERRORS[:2],
        flux_ratio_error=ERRORS[2], outputs=ALL, backend=backend, **more,
    )  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pair", PAIRS)
def test_reference_equals_the_oracle_to_1e_10(rng, shape, pair):
    science, reference, *variances = scene(rng, shape)
    b = ag.get_backend("numpy")
    got = subtract((science[0], reference), variances, PAIRS[pair], b)
    want, _ = oracle((science[0], reference), variances, PAIRS[pair], b)
    for name in ("difference", "score", "score_corr", "flux", "flux_error"):
        worst = abs(getattr(got, name) - want[name]).max()
        assert worst <= 1e-10 * abs(want[name]).max(), name
    assert got.flux_scale == pytest.approx(want["F_D"], rel=1e-12)
    half = got.psf.shape[0] // 2
    stamp = np.roll(want["psf"], (half, half), (0, 1))[: 2 * half + 1, : 2 * half + 1]
    assert abs(got.psf - stamp / stamp.sum()).max() <= 1e-10 * stamp.max()


@pytest.mark.parametrize("shape", [*SHAPES, (180, 301)])
@pytest.mark.parametrize("pair", PAIRS)
def test_every_backend_in_float32_equals_the_oracle(rng, backend, shape, pair):
    science, reference, *variances = scene(rng, shape)
    mask = np.zeros(shape, bool)
    mask[20:26, 30:33] = True
    science[0, 35, 10], reference[12, 50] = np.nan, np.inf
    to = lambda a: backend.asarray(a.astype(np.float32))  # noqa: E731
    images = to(science[0]), to(reference)
    got = subtract(images, [to(v) for v in variances], PAIRS[pair], backend, mask=backend.asarray(mask))
    want, invalid = oracle((science[0], reference), variances, PAIRS[pair], backend, mask)
    corr = backend.to_host(got.score_corr)
    np.testing.assert_array_equal(np.isnan(corr), invalid)
    assert abs(corr - want["score_corr"])[~invalid].max() < FLOAT32_SCORR
    for name in ("score", "flux", "flux_error"):
        off = abs(backend.to_host(getattr(got, name)) - want[name])[~invalid].max()
        assert off <= 1e-4 * abs(want[name])[~invalid].max(), name
    noise = 1 / want["F_D"]
    assert abs(backend.to_host(got.difference) - want["difference"])[~invalid].max() < 0.01 * noise


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("pair", PAIRS)
def test_tiles_and_whole_frames_on_the_cpu(rng, monkeypatch, pair, whole):
    """Both ways that the numba backend has, neither of which may fall back on the general path."""
    pytest.importorskip("numba")
    from astrid_gpu.kernels import zogy_maps_numba
    from astrid_gpu.kernels.whole_frames_numba import WholeFrames

    science, reference, *variances = scene(rng, (230, 251))
    science[0, 100:103, 120:124] = np.nan
    seen, plain = [], WholeFrames.subtract
    monkeypatch.setattr(WholeFrames, "subtract", lambda self, i, out: (seen.append(i), plain(self, i, out))[1])
    monkeypatch.setattr(zogy_maps_numba._Subtraction, "halo", lambda self, i: None if whole else 64)
    monkeypatch.setattr("astrid_gpu.engine.zogy._whole_frames", None)
    b = ag.get_backend("numba")
    images, spread = [a.astype(np.float32) for a in (science[0], reference)], [v.astype(np.float32) for v in variances]
    got = subtract(images, spread, PAIRS[pair], b)
    assert seen == ([0] if whole else [])
    want, invalid = oracle((science[0], reference), variances, PAIRS[pair], b)
    assert abs(got.score_corr - want["score_corr"])[~invalid].max() < FLOAT32_SCORR
    assert abs(got.difference - want["difference"])[~invalid].max() < 0.01 / want["F_D"]


def test_the_device_takes_it_in_its_fused_kernels(rng, monkeypatch):
    emulator = pytest.importorskip("tests.cuda_host.emu", reason="the CUDA emulator needs a C++ compiler")
    monkeypatch.setattr("astrid_gpu.engine.zogy._whole_frames", None)
    science, reference, *variances = scene(rng, (53, 61))
    b = emulator.backend()
    images, spread = [a.astype(np.float32) for a in (science[0], reference)], [v.astype(np.float32) for v in variances]
    got = subtract(images, spread, PAIRS["both"], b)
    want, _ = oracle((science[0], reference), variances, PAIRS["both"], b)
    assert abs(got.score_corr - want["score_corr"]).max() < FLOAT32_SCORR


def test_one_stamp_per_image_equals_its_loop(rng, backend):
    science, reference, *variances = scene(rng, (52, 47), n=3)
    white = np.zeros_like(BILINEAR)
    white[12, 12] = 1
    own = np.stack([BILINEAR, SMOOTH, white])
    to = lambda a: backend.asarray(a.astype(np.float32))  # noqa: E731
    spread = [to(v) for v in variances]
    stack = subtract((to(science), to(reference)), spread, (own, BILINEAR), backend)
    assert len(stack.psf) == 3
    for i in range(3):
        one = subtract((to(science[i]), to(reference)), spread, (own[i], BILINEAR), backend)
        for name in ("score", "score_corr", "flux", "flux_error", "difference"):
            a, b = (backend.to_host(getattr(d, name)) for d in (stack, one))
            np.testing.assert_allclose(a[i], b, atol=1e-4 * abs(b).max(), err_msg=name)
        assert stack.flux_scale[i] == pytest.approx(one.flux_scale, rel=1e-12)


def test_a_white_stamp_is_no_stamp(rng, backend):
    """But for the wider padding, far from the edges' own business, the same numbers."""
    science, reference, *variances = scene(rng, (70, 66))
    white = np.zeros((3, 3))
    white[1, 1] = 7.0  # only its shape matters
    dtype = np.float64 if backend.name == "numpy" else np.float32
    to = lambda a: backend.asarray(a.astype(dtype))  # noqa: E731
    images, spread = (to(science[0]), to(reference)), [to(v) for v in variances]
    got, plain = (subtract(images, spread, (a, a), backend) for a in (white, None))
    for name in ("score", "score_corr", "flux", "flux_error"):
        a, b = (backend.to_host(getattr(d, name)) for d in (got, plain))
        assert abs(a - b).max() < 2e-3 * abs(b).max(), name


def test_swapping_the_images_turns_the_sign(rng, backend):
    science, reference, *variances = scene(rng, (49, 60))
    to = lambda a: backend.asarray(a.astype(np.float32))  # noqa: E731
    images, spread = [to(science[0]), to(reference)], [to(v) for v in variances]
    one = subtract(images, spread, (BILINEAR, TILTED), backend)
    two = ag.zogy(
        *images[::-1], *PSFS[::-1], 1.1, 5.0, flux_science=0.4, flux_reference=1.3, variance_science=spread[1],
        variance_reference=spread[0], noise_spectrum_science=TILTED, noise_spectrum_reference=BILINEAR,
        astrometric_error=ERRORS[:2], flux_ratio_error=ERRORS[2], outputs=ALL, backend=backend,
    )  # fmt: skip
    for name in ("difference", "score", "score_corr"):
        a, b = (backend.to_host(getattr(d, name)) for d in (one, two))
        np.testing.assert_allclose(a, -b, atol=2e-4 * abs(a).max(), err_msg=name)
