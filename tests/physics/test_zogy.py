"""Cases whose answer is known beforehand: identities of the paper, symmetries, edges, holes, registration."""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.flags import PixelFlag
from tests.scenes import blurred, gaussian_psf, moffat_psf, noisy_pair


def test_equal_psfs_give_p_d_equal_to_the_psf_and_d_the_plain_difference(rng):
    psf = gaussian_psf(1.4, 31)
    N, R = rng.normal(size=(2, 80, 80))
    diff = ag.zogy(N, R, psf, psf, 1.0, 1.0, backend="numpy")
    c = diff.psf.shape[0] // 2
    np.testing.assert_allclose(diff.psf[c - 15 : c + 16, c - 15 : c + 16], psf, atol=1e-6)
    np.testing.assert_allclose(diff.difference, N - R, atol=1e-10)


def test_equal_images_give_zero_everywhere(backend, rng):
    psf = moffat_psf(3.0)
    image = backend.asarray(rng.normal(size=(64, 70)).astype(np.float32) + 50)
    diff = ag.zogy(image, image, psf, psf, 2.0, 2.0, outputs=("difference", "score"), backend=backend)
    assert float(abs(diff.difference).max()) < 1e-4
    assert float(abs(diff.score).max()) < 1e-4


def test_delta_psfs_are_plain_subtraction(rng):
    delta = np.zeros((5, 5))
    delta[2, 2] = 1
    N, R = rng.normal(size=(2, 40, 40))
    diff = ag.zogy(N, R, delta, delta, 1.0, 2.0, flux_reference=0.5, backend="numpy")
    np.testing.assert_allclose(diff.difference, N - R / 0.5, atol=1e-10)
    np.testing.assert_allclose(diff.flux, N - R / 0.5, atol=1e-10)


def test_swapping_the_images_changes_every_sign(rng):
    scene = noisy_pair(rng, (90, 77), sources=[(40, 30, 5e3)], new=[(60, 50, 900)])
    k = scene.kwargs
    other = {f"{a}_{b}": k[f"{a}_{c}"] for a in ("psf", "sigma", "flux", "variance")
             for b, c in (("science", "reference"), ("reference", "science"))}  # fmt: skip
    outputs = ("difference", "score", "score_corr", "flux")
    one = ag.zogy(scene.science, scene.reference, **k, outputs=outputs, backend="numpy")
    two = ag.zogy(scene.reference, scene.science, **other, outputs=outputs, backend="numpy")
    for name in outputs:
        a, b = getattr(one, name), getattr(two, name)
        assert np.abs(a + b).max() < 1e-9 * np.abs(a).max(), name


@pytest.mark.parametrize("where", [(31, 44), (60.3, 20.7), (44.5, 44.5)])
def test_a_transient_peaks_where_it_is(where):
    psf = moffat_psf(3.0)
    N = blurred([(*where, 1000.0)], (96, 91), psf)
    diff = ag.zogy(
        N, np.zeros_like(N), psf, moffat_psf(2.5), 1.0, 1.0, outputs=("difference", "score"), backend="numpy"
    )
    for image in (diff.score, diff.difference):
        top = np.array(np.unravel_index(np.argmax(image), image.shape))
        assert np.all(np.abs(top - where) <= 0.5 + 1e-9)
        box = image[top[0] - 2 : top[0] + 3, top[1] - 2 : top[1] + 3].clip(0) ** 2
        y, x = np.mgrid[-2:3, -2:3]
        centre = top + np.array([(box * y).sum(), (box * x).sum()]) / box.sum()
        if all(float(w).is_integer() for w in where):
            np.testing.assert_allclose(centre, where, atol=0.02)


def test_noise_free_wide_gaussians_give_no_nan_in_either_precision(backend):
    psf = gaussian_psf(4.0, 61)
    for dtype in (np.float32, np.float64):
        N = backend.asarray(blurred([(50, 50, 1e4)], (100, 100), psf).astype(dtype))
        diff = ag.zogy(N, N * 0, psf, psf, 1.0, 1.0, outputs=("difference", "score", "score_corr", "flux"),
                       backend=backend)  # fmt: skip
        for name in ("difference", "score", "score_corr", "flux", "flux_error"):
            assert bool(backend.xp.isfinite(getattr(diff, name)).all()), (name, dtype)


def test_units_do_not_matter(rng, backend):
    """Counts, or erg/s/cm²: the significance is the same."""
    scene = noisy_pair(rng, (64, 64), new=[(30, 30, 500)])
    want = None
    for unit in (1.0, 1e-18, 1e15):
        k = scene.kwargs | {
            key: scene.kwargs[key] * unit ** (2 if "variance" in key else 1)
            for key in ("sigma_science", "sigma_reference", "variance_science", "variance_reference")
        }
        for key in ("variance_science", "variance_reference"):
            k[key] = backend.asarray(k[key])
        images = [backend.asarray(a * unit) for a in (scene.science, scene.reference)]
        # variances of 1e-36 leave float32: the caller who works in such units asks for double
        diff = ag.zogy(*images, **k, backend=backend, dtype=np.float64)
        score, flux = backend.to_host(diff.score_corr), backend.to_host(diff.flux) / unit
        if want is None:
            want = score, flux
        np.testing.assert_allclose(score, want[0], atol=2e-3)
        np.testing.assert_allclose(flux, want[1], atol=2e-3 * np.abs(want[1]).max())


@pytest.mark.parametrize("side", ["left", "top"])
def test_a_star_at_one_edge_leaves_nothing_at_the_other(rng, side):
    where = (60, 1) if side == "left" else (1, 60)
    scene = noisy_pair(rng, (120, 120), sources=[(*where, 2e6)])
    score = ag.zogy(scene.science, scene.reference, **scene.kwargs).score_corr
    far = score[:, -20:] if side == "left" else score[-20:]
    assert np.abs(far).max() < 5


def test_a_star_beyond_the_edge_raises_no_false_candidate(rng):
    """Half of its light is missing: what the engine cannot know it counts as variance."""
    for where in ((60, -2.0), (60, -0.5), (119.6, 60), (1.0, 60)):
        scene = noisy_pair(rng, (120, 120), sources=[(*where, 3e5)])
        diff = ag.zogy(scene.science, scene.reference, **scene.kwargs)
        clean = diff.score_corr[(diff.mask & int(PixelFlag.EDGE)) == 0]
        assert np.abs(clean).max() < 5.2, where


@pytest.mark.parametrize("kind", ["block of NaN", "saturated core", "column", "border star"])
def test_holes_never_leak(rng, kind):
    """No finite pixel outside the flagged footprint shows a false 5 sigma."""
    sources = [(64, 64, 4e6), (30, 100, 2e4), (100, 22, 2e4)]
    if kind == "border star":
        sources[0] = (0.4, 64, 4e6)
    scene = noisy_pair(rng, (128, 128), sources=sources)
    science, reference = scene.science.copy(), scene.reference.copy()
    mask = np.zeros(science.shape, np.uint8)
    if kind == "block of NaN":
        science[55:80, 60:75] = np.nan
    elif kind == "column":
        science[:, 63] = np.nan
    else:
        level = 2e4
        mask[science > level] |= int(PixelFlag.SATURATED_SCIENCE)
        mask[reference > level] |= int(PixelFlag.SATURATED_REFERENCE)
        science, reference = np.minimum(science, level), np.minimum(reference, level)
    diff = ag.zogy(science, reference, **scene.kwargs, mask=mask)
    assert np.isnan(diff.score_corr).any()
    assert np.isfinite(diff.score_corr).mean() > 0.8
    clean = diff.score_corr[diff.mask == 0]
    assert np.abs(clean).max() < 5.2
    assert (diff.mask == 0).mean() > 0.4


def test_a_misregistered_bright_star_is_quiet_once_its_error_is_known(rng):
    star = [(64, 64, 3e5)]
    scene = noisy_pair(rng, (128, 128), sources=star, shift=(0.2, 0.0))
    blind = ag.zogy(scene.science, scene.reference, **scene.kwargs)
    aware = ag.zogy(scene.science, scene.reference, **scene.kwargs, astrometric_error=(0.2, 0.2))
    assert np.abs(blind.score_corr).max() > 10
    assert np.abs(aware.score_corr).max() < 5


def test_limiting_flux_is_n_sigma_times_the_flux_error(rng):
    scene = noisy_pair(rng, (64, 64))
    diff = ag.zogy(scene.science, scene.reference, **scene.kwargs)
    np.testing.assert_allclose(diff.limiting_flux(5), 5 * diff.flux_error)


def test_even_sided_psfs_are_centred_like_odd_ones(rng):
    scene = noisy_pair(rng, (80, 80), new=[(40, 33, 2000)])
    even = np.zeros((26, 26))
    even[1:, 1:] = gaussian_psf(1.5, 25)  # centred on pixel 13 of 26, as FFT-minded stamps are
    kwargs = scene.kwargs | {"psf_science": gaussian_psf(1.5, 25)}
    a = ag.zogy(scene.science, scene.reference, **kwargs, backend="numpy")
    b = ag.zogy(scene.science, scene.reference, **(kwargs | {"psf_science": even}), backend="numpy")
    np.testing.assert_allclose(a.score_corr, b.score_corr, atol=1e-6)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_flux_ratio_error_hides_static_stars_and_not_what_is_new_or_gone(rng, backend, swapped):
    """5 % of a bright static star passes; a source in one image only keeps its significance, new or vanished alike."""
    scene = noisy_pair(rng, (120, 120), sources=[(40, 40, 2e5)], new=[(80, 80, 900)])
    k = scene.kwargs | {"flux_reference": scene.kwargs["flux_reference"] / 1.05}
    if swapped:
        other = {"science": "reference", "reference": "science"}
        k = {f"{key.split('_')[0]}_{other[key.split('_')[1]]}": value for key, value in k.items()}
    pair = [scene.reference, scene.science] if swapped else [scene.science, scene.reference]
    run = lambda eps: backend.to_host(  # noqa: E731
        ag.zogy(
            *(backend.asarray(a.astype(np.float32)) for a in pair),
            **{n: backend.asarray(v.astype(np.float32)) if "variance" in n else v for n, v in k.items()},
            flux_ratio_error=eps, backend=backend,
        ).score_corr
    )  # fmt: skip
    blind, aware = run(0.0), run(0.05)
    assert abs(blind[38:43, 38:43]).max() > 10
    assert abs(aware[38:43, 38:43]).max() < 3
    assert abs(aware[80, 80]) > 0.97 * abs(blind[80, 80]) > 15
