"""ZOGY by tiles against the transform of whole frames in double precision: no seam, no leak, the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag

pytest.importorskip("numba")

from astrid_gpu.kernels import zogy_maps_numba
from astrid_gpu.kernels.tiling_numba import HALOS, Tiling, choose_halo, tiling

from astrid_gpu.ops import zogy as reference_ops
from astrid_gpu.ops.zogy_kernels import zogy_kernels

ALL = ("difference", "score", "score_corr", "flux")
SHAPE = (467, 610)


def moffat(fwhm, radius=12):
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / 3.5) - 1)
    stamp = (1 + (x**2 + y**2) / alpha**2) ** -3.5
    return stamp / stamp.sum()


PSFS = moffat(2.7), moffat(2.2)


@pytest.fixture(scope="module")
def scene():
    """Two images in float32 with stars up to the edge and on the seams of tiles, and their variance maps."""
    rng = np.random.default_rng(11)
    cut = tiling(SHAPE, 32, 2)
    seam_y, seam_x = cut.ty - 2 * cut.halo, cut.tx - 2 * cut.halo
    places = np.concatenate([rng.uniform(-3, 3, (200, 2)) + rng.uniform(0, 1, (200, 2)) * SHAPE, [[seam_y, seam_x]]])
    fluxes = np.append(400 * (1 + rng.pareto(1.2, 200)), 2e5)
    images, variances = [], []
    y, x = np.ogrid[: SHAPE[0], : SHAPE[1]]
    for psf_width, sigma in ((2.7, 5.0), (2.2, 2.0)):
        sky = np.zeros(SHAPE)
        alpha = psf_width / 2 / np.sqrt(2 ** (1 / 3.5) - 1)
        for (yy, xx), flux in zip(np.round(places), np.minimum(fluxes, 2e5), strict=True):
            r2 = (y - yy) ** 2 + (x - xx) ** 2
            near = (abs(y - yy) <= 12) & (abs(x - xx) <= 12)
            sky += flux * np.where(near, (1 + r2 / alpha**2) ** -3.5, 0) / ((1 + r2 / alpha**2) ** -3.5 * near).sum()
        variance = sigma**2 + sky / 4
        images.append((sky + np.sqrt(variance) * rng.standard_normal(SHAPE)).astype(np.float32))
        variances.append(variance.astype(np.float32))
    images[0][120:130, 300:310] += 90
    return images, variances


@pytest.fixture
def by_tiles(monkeypatch):
    """Note what the tiles return, so that no test passes by the transform of whole frames."""
    seen = []
    whole = zogy_maps_numba.zogy_maps

    def spy(*args):
        maps = whole(*args)
        seen.append(maps is not None)
        return maps

    monkeypatch.setattr(zogy_maps_numba, "zogy_maps", spy)
    yield seen
    assert seen
    assert all(seen)


def both(images, *, psfs=PSFS, sigmas=(5.0, 2.0), outputs=ALL, **keywords):
    """Return the result by tiles and the one in double precision by whole frames."""
    exact = {k: np.asarray(v, float) if k.startswith("variance") else v for k, v in keywords.items()}
    given = {"outputs": outputs, "backend": "numba"}
    got = ag.zogy(*images, *psfs, *sigmas, **given, **keywords)
    return got, ag.zogy(*images, *psfs, *sigmas, **given | {"backend": "numpy", "dtype": "float64"}, **exact)


def assert_same(got, exact, *, outputs=ALL):
    """Hold every map to its tolerance: S_corr to 1e-3 sigma, D to a few thousandths of its noise."""
    np.testing.assert_array_equal(got.mask, exact.mask)
    if "score_corr" in outputs:
        np.testing.assert_array_equal(np.isnan(got.score_corr), np.isnan(exact.score_corr))
        assert np.nanmax(abs(got.score_corr - exact.score_corr)) < 1e-3
    if "score" in outputs:
        noise = np.nanmedian(abs(exact.score)) / 0.6745
        assert np.nanmax(abs(got.score - exact.score)) < 2e-3 * noise
    if "flux" in outputs:
        assert np.nanmax(abs(got.flux - exact.flux) / exact.flux_error) < 1e-3
        np.testing.assert_allclose(got.flux_error, exact.flux_error, rtol=1e-4)
    if "difference" in outputs:
        noise = np.nanmedian(abs(exact.difference)) / 0.6745
        assert np.nanmax(abs(got.difference - exact.difference)) < 5e-3 * noise


def test_maps_variances_and_registration_noise(scene, by_tiles):
    images, variances = scene
    keywords = {"variance_science": variances[0], "variance_reference": variances[1]}
    assert_same(*both(images, astrometric_error=(0.1, 0.05), flux_ratio_error=0.01, **keywords))


def test_flat_variances(scene, by_tiles):
    assert_same(*both(scene[0]))


def test_one_flat_variance_and_one_map(scene, by_tiles):
    assert_same(*both(scene[0], variance_science=scene[1][0]))


def test_holes_and_what_they_may_hide(scene, by_tiles):
    images, variances = scene
    science = images[0].copy()
    science[200:206, 150:156] = np.nan
    mask = np.zeros(SHAPE, np.uint8)
    mask[:, 401] = 2
    brightest = np.unravel_index(np.argmax(images[1]), SHAPE)
    mask[brightest[0] - 2 : brightest[0] + 3, brightest[1] - 2 : brightest[1] + 3] = 1
    keywords = {"variance_science": variances[0], "variance_reference": variances[1], "mask": mask}
    got, exact = both((science, images[1]), astrometric_error=(0.1, 0.05), **keywords)
    assert np.isnan(got.difference).sum() > 36
    assert_same(got, exact)
    assert_same(*both((science, images[1]), mask=mask))


@pytest.mark.parametrize("outputs", [("difference",), ("score_corr",), ("flux",), ("score", "flux")])
def test_only_what_is_asked_for(scene, by_tiles, outputs):
    got, exact = both(scene[0], outputs=outputs)
    assert_same(got, exact, outputs=outputs)
    assert (got.difference is None) == ("difference" not in outputs)


def test_a_stack_equals_its_loop(scene, by_tiles):
    images, variances = scene
    rng = np.random.default_rng(3)
    stack = np.stack([images[0], images[0] + rng.normal(0, 5, SHAPE).astype(np.float32), images[0][::-1].copy()])
    mask = np.zeros((3, *SHAPE), bool)
    mask[1, 50:60, 90:100] = True
    psfs = np.stack([moffat(2.7), moffat(3.1), moffat(2.7)]), PSFS[1]
    sigmas = np.array([5.0, 7.0, 5.0]), np.array([2.0, 2.0, 2.5])
    keywords = {"astrometric_error": (0.1, 0.1), "outputs": ALL, "backend": "numba"}
    whole = ag.zogy(stack, images[1], *psfs, *sigmas, variance_reference=variances[1], mask=mask, **keywords)
    for i in range(3):
        one = ag.zogy(
            stack[i], images[1], psfs[0][i], psfs[1], sigmas[0][i], sigmas[1][i],
            variance_reference=variances[1], mask=mask[i], **keywords,
        )  # fmt: skip
        for name in ("difference", "score", "score_corr", "flux", "flux_error", "mask"):
            np.testing.assert_array_equal(getattr(whole, name)[i], getattr(one, name))


def test_other_tiles_and_threads_give_the_same(scene, by_tiles, monkeypatch):
    keywords = {"astrometric_error": (0.1, 0.1), "outputs": ALL, "backend": "numba"}
    first = ag.zogy(*scene[0], *PSFS, 5.0, 2.0, **keywords)
    monkeypatch.setattr(zogy_maps_numba, "tiling", lambda shape, halo, threads: Tiling(shape, halo, 160, 240))
    second = ag.zogy(*scene[0], *PSFS, 5.0, 2.0, **keywords)
    assert abs(first.score_corr - second.score_corr).max() < 1e-3
    assert abs(first.difference - second.difference).max() < 2e-3 * np.median(abs(first.difference))
    monkeypatch.setenv("ASTRID_GPU_THREADS", "1")
    alone = ag.zogy(*scene[0], *PSFS, 5.0, 2.0, **keywords)
    np.testing.assert_array_equal(alone.score_corr, second.score_corr)
    np.testing.assert_array_equal(alone.difference, second.difference)


@pytest.mark.parametrize("shape", [(40, 33), (64, 700), (129, 257)])
def test_small_and_slim_frames(by_tiles, shape):
    rng = np.random.default_rng(7)
    images = [(s * rng.standard_normal(shape)).astype(np.float32) for s in (5.0, 2.0)]
    images[0][20, 5] += 500
    assert_same(*both(images, astrometric_error=(0.2, 0.2)))


def test_tiles_cover_the_frame_once():
    for shape in ((1, 1), (300, 1000), (2048, 2048), (3080, 3072)):
        for halo in HALOS:
            cut = tiling(shape, halo, 2)
            seen = np.zeros(shape, np.uint8)
            for y, x in cut.pairs.reshape(-1, 2):
                if y < shape[0]:
                    seen[y + halo : y + cut.ty - halo, x + halo : x + cut.tx - halo] += 1
            assert np.all(seen == 1)


@pytest.mark.parametrize("halo", HALOS)
@pytest.mark.parametrize("threads", ["1", "2", "4"])
def test_memory_beside_inputs_and_outputs(rng, monkeypatch, threads, halo):
    """Under 40 bytes a pixel at 1024 x 1024, kernels and work space made anew; coloured noise asks for a wide halo."""
    import gc
    import tracemalloc

    from astrid_gpu.engine import _problem

    monkeypatch.setenv("ASTRID_GPU_THREADS", threads)
    monkeypatch.setattr(zogy_maps_numba, "choose_halo", lambda *_: halo)
    side, line = 1024, np.array([0.5, 1.0, 0.5])
    images = rng.normal(0, 5, (2, side, side)).astype(np.float32)
    variance, stamp = np.full((side, side), 25, np.float32), np.pad(np.outer(line, line), 11)
    known = {"variance_science": variance, "variance_reference": variance, "backend": "numba"}
    known |= {"noise_spectrum_science": stamp, "noise_spectrum_reference": stamp}
    ag.zogy(images[0, :256, :256], images[1, :256, :256], *PSFS, 5.0, 5.0, backend="numba")  # compiled
    zogy_maps_numba._WorkSpace._idle.clear()
    _problem._kernels.cache_clear()
    gc.collect()
    tracemalloc.start()
    diff = ag.zogy(*images, *PSFS, 5.0, 5.0, **known)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    maps = (diff.difference, diff.score_corr, diff.flux, diff.flux_error, diff.mask)
    assert (most - sum(m.nbytes for m in maps)) / side**2 < 40


def test_pairs_touched_by_a_pixel():
    cut = Tiling((500, 400), 32, 160, 192)
    rng = np.random.default_rng(2)
    for y, x in zip(rng.integers(-5, 505, 40), rng.integers(-5, 405, 40), strict=True):
        corners = cut.pairs.reshape(-1, 2, 2)
        inside = (corners <= (y, x)) & (corners + np.array([160, 192]) > (y, x))
        np.testing.assert_array_equal(cut.touching(np.array([y]), np.array([x])), inside.all(axis=2).any(axis=1))


def test_the_halo_grows_with_the_kernels_and_the_brightest_star():
    params = reference_ops.make_params(1.0, 1.0, 1.0, 1.0)
    compact = zogy_kernels(moffat(2.0)[None], moffat(1.8)[None], params)
    wide = zogy_kernels(moffat(4.5, 18)[None], moffat(3.5, 18)[None], params)
    assert choose_halo(compact, 100.0, True, True) == 16
    assert choose_halo(wide, 1e5, True, True) > 16
    noisy = [
        p + np.random.default_rng(1).normal(0, 1e-3 * p.max(), p.shape) for p in (moffat(5.0, 20), moffat(4.0, 20))
    ]
    hopeless = zogy_kernels(*(p[None] / p.sum() for p in noisy), params)
    assert choose_halo(hopeless, 1e5, True, True) is None


@pytest.mark.parametrize(("n", "shared"), [(1, True), (3, True), (3, False)])
def test_only_spectra_of_a_shared_reference_are_kept(rng, monkeypatch, n, shared):
    """Those of a lone one are made tile by tile beside the science image's, in the threads' own work space."""
    monkeypatch.setenv("ASTRID_GPU_THREADS", "2")
    made = []
    original = zogy_maps_numba.reference_pair
    monkeypatch.setattr(
        zogy_maps_numba, "reference_pair", lambda *args: (made.append(args[4].ctypes.data), original(*args))
    )
    images = rng.normal(size=(2, 3, 700, 1300)).astype(np.float32)
    reference = images[0, 0] if shared else images[0, :n]
    y, x = np.mgrid[-7:8, -7:8]
    psf = np.exp(-(x**2 + y**2) / 5.0)
    ag.zogy(images[1, :n], reference, psf, psf, 1.0, 1.0, backend="numba", variance_science=np.ones((700, 1300)))
    tiles = len(made) // (1 if shared else n)
    assert tiles > 2
    if n == 1 or not shared:
        assert len(set(made)) <= 2
    else:
        assert len(set(made)) == tiles
