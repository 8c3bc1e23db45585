"""Cutting a frame into overlapping tiles and pasting it together again, and differencing by tiles."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.errors import ConfigError, ShapeMismatchError
from astrid_gpu.flags import INVALID, PixelFlag
from astrid_gpu.tiles import Tiles
from tests.scenes import moffat_psf, noisy_pair

SHAPES = [(64, 64), (70, 50), (129, 131), (33, 400), (17, 19), (512, 100)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("side", "overlap"), [(32, 8), (48, 0), (64, 40), (500, 16), (31, 100)])
def test_cut_and_paste_is_the_frame(shape, side, overlap, rng):
    frame = rng.normal(size=shape)
    tiles = Tiles(shape, side, overlap)
    stack = tiles.cut(frame)
    assert stack.shape == (len(tiles), *tiles.tile_shape)
    assert np.array_equal(tiles.paste(stack), frame)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("side", "overlap"), [(32, 8), (64, 40), (31, 100)])
def test_interiors_cover_once_and_keep_their_distance_from_every_cut(shape, side, overlap):
    tiles = Tiles(shape, side, overlap)
    count = np.zeros(shape, int)
    for k in range(len(tiles)):
        inside, window, inner = tiles.interior(k), tiles.window(k), tiles.inner(k)
        count[inside] += 1
        for a, w, i, n in zip(inside, window, inner, shape, strict=True):
            assert a.stop - a.start == i.stop - i.start <= side
            assert a.start == w.start + i.start
            assert w.start == 0 or a.start - w.start >= overlap
            assert w.stop == n or w.stop - a.stop >= overlap
            assert 0 <= w.start < w.stop <= n
        y, x = tiles.centres[k]
        assert tiles.holding(int(y), int(x)) == k
    assert np.all(count == 1)


def test_some_tiles_go_where_they_belong(rng):
    frame = rng.normal(size=(100, 90)).astype(np.float32)
    tiles = Tiles(frame.shape, 40, 10)
    out = np.zeros_like(frame)
    for numbers in ([0, 4], [8, 1, 2], [3, 5, 6, 7]):
        tiles.paste(tiles.cut(frame, numbers), out, numbers)
    assert out.dtype == np.float32
    assert np.array_equal(out, frame)


def test_smooth_keeps_what_is_constant_fills_what_is_missing_and_rejects_what_is_wild():
    tiles = Tiles((500, 400), 100, 10)
    values = np.full(len(tiles), 3.0)
    assert np.allclose(tiles.smooth(values), 3.0)
    values[7] = np.nan
    values[13] = 100.0
    assert np.allclose(tiles.smooth(values), 3.0)
    assert np.isnan(tiles.smooth(np.full(len(tiles), np.nan))).all()
    ramp = np.add.outer(np.arange(5.0), np.zeros(4)).ravel()
    assert np.allclose(tiles.smooth(ramp), ramp)
    assert np.allclose(Tiles((50, 400), 100, 10).smooth(np.arange(4.0)), np.arange(4.0))


def test_what_makes_no_sense_is_refused():
    for side, overlap in ((8, 0), (32.5, 4), (64, -1), (True, 0)):
        with pytest.raises(ConfigError, match=r"of a tile must be a whole number of pixels"):
            Tiles((100, 100), side, overlap)
    tiles = Tiles((100, 100), 50, 8)
    with pytest.raises(ShapeMismatchError, match=r"the frame has shape \(90, 100\)"):
        tiles.cut(np.zeros((90, 100)))
    with pytest.raises(ShapeMismatchError, match=r"the tiles has shape \(50, 50\)"):
        tiles.paste(np.zeros((4, 50, 50)))
    with pytest.raises(ConfigError, match=r"tiles must be 'auto', 'never' or the side of a tile"):
        ag.subtract(np.zeros((50, 50)), np.zeros((50, 50)), tiles=12)


def known_pair(rng, shape, **more):
    """A pair of Images with everything known, and the options that leave it alone."""
    stars = [(y, x, f) for y, x, f in zip(*rng.uniform(0, shape[0], (2, 30)), rng.uniform(300, 30000, 30), strict=True)]
    scene = noisy_pair(rng, shape, sources=stars, new=[(70, 58, 900.0)], **more)
    images = []
    for name in ("science", "reference"):
        variance = scene.kwargs[f"variance_{name}"].astype(np.float32)
        data = getattr(scene, name).astype(np.float32)
        images.append(ag.Image(data, variance=variance, psf=ag.PSF(scene.kwargs[f"psf_{name}"])))
    options = {"align": "none", "registration": "none", "background": False, "flux_ratio": 1 / 0.6}
    options |= {"sigma_science": scene.kwargs["sigma_science"], "sigma_reference": scene.kwargs["sigma_reference"]}
    return images, options


def test_tiles_give_what_the_whole_frame_gives(rng, backend):
    """Up to what the kernels hold beyond the overlap: a few 1e-4 sigma, at the edge of the frame some 1e-3."""
    (science, reference), options = known_pair(rng, (100, 121))
    psfs = {"psf_science": moffat_psf(3.2, side=25), "psf_reference": moffat_psf(2.6, side=25)}
    science.data[48:54, 52:68] = np.nan  # a hole across seams
    reference.data[80, 20] = np.nan
    one = ag.subtract(science, reference, tiles="never", backend=backend, **psfs, **options)
    many = ag.subtract(science, reference, tiles=64, backend=backend, **psfs, **options)
    assert one.tiles is None
    assert len(many.tiles.tiles) == 4
    assert np.array_equal(one.mask, many.mask)
    for name in ("difference", "score", "score_corr", "flux", "flux_error"):
        a, b = getattr(one, name), getattr(many, name)
        assert a.dtype == b.dtype
        assert np.array_equal(np.isnan(a), np.isnan(b))
    quiet = (one.mask & int(INVALID | PixelFlag.NEAR_BAD | PixelFlag.EDGE)) == 0
    off = np.abs(one.score_corr - many.score_corr)
    assert off[quiet].max() < 2e-3
    assert np.nanmax(off) < 0.02  # a star cut by the edge is continued from a smaller frame
    assert np.abs(one.flux - many.flux)[quiet].max() < 3e-3 * np.nanmedian(one.flux_error)
    assert abs(one.flux_scale / many.flux_scale - 1) < 1e-3  # the noise of a tile is that of its own sky
    assert np.array_equal(many.psf, many.psf_at(50, 60))
    assert many.psf.shape == one.psf.shape
    assert np.allclose(many.psf, one.psf, atol=1e-4 * one.psf.max())


def test_the_choice_is_automatic_and_told(rng, monkeypatch):
    (science, reference), options = known_pair(rng, (530, 540))

    def told(**more):
        diff = ag.subtract(science, reference, **options, **more)
        (step,) = [s for s in diff.steps if s.stage == "tiles"]
        return diff, step

    diff, step = told()
    assert step.text == "the whole frame at once: nothing measurably varies over it"
    assert diff.tiles is None
    assert "as asked" in told(tiles="never")[1].text
    assert "pixel by pixel" in told(tiles=100, method="classic")[1].text
    monkeypatch.setattr("astrid_gpu._tiled.LARGE_SIDE", 300)
    monkeypatch.setattr("astrid_gpu._tiled.FRAME_BYTES", 1 << 40)
    diff, step = told()
    assert step.text.startswith("2 x 2 tiles of ")
    assert "because the whole frame would take" in step.text
    assert step.values["n_tiles"] == len(diff.tiles.tiles) == 4


def test_noise_that_varies_calls_for_tiles(rng):
    """Half of the science image twice as noisy: each tile gets its own sigma, without a jump between neighbours."""
    shape = (520, 1100)
    sigma = np.where(np.arange(shape[1]) < 550, 5.0, 10.0) * np.ones(shape)
    science = (sigma * rng.normal(size=shape)).astype(np.float32)
    reference = (2.0 * rng.normal(size=shape)).astype(np.float32)
    images = [
        ag.Image(data, variance=v.astype(np.float32), psf=ag.PSF(moffat_psf(fwhm)))
        for data, v, fwhm in ((science, sigma**2, 3.2), (reference, np.full(shape, 4.0), 2.6))
    ]
    options = {"align": "none", "registration": "none", "background": False, "flux_ratio": 1.0}
    diff = ag.subtract(*images, **options)
    (step,) = [s for s in diff.steps if s.stage == "tiles"]
    assert "because the science noise varies by" in step.text
    assert "reference" not in step.text
    levels = diff.tiles.sigma_science.reshape(diff.tiles.tiles.grid)
    assert np.all(np.diff(levels, axis=1) > 0)
    assert np.allclose(diff.tiles.sigma_reference, 2.0)
    assert abs(diff.metrics["score_corr_std_raw"] - 1) < 0.02


def test_a_batch_that_does_not_fit_is_halved(rng, monkeypatch):
    (science, reference), options = known_pair(rng, (150, 173))
    from astrid_gpu import _tiled

    monkeypatch.setenv("ASTRID_GPU_THREADS", "1")
    real, sizes = _tiled.zogy, []

    def short_of_memory(science, *args, **kwargs):
        sizes.append(len(science))
        if len(science) > 3:
            raise MemoryError
        return real(science, *args, **kwargs)

    expected = ag.subtract(science, reference, tiles=64, **options)
    monkeypatch.setattr(_tiled, "zogy", short_of_memory)
    diff = ag.subtract(science, reference, tiles=64, **options)
    assert sizes == [9, 4, 2, 2, 5, 2, 3]
    assert np.allclose(diff.score_corr, expected.score_corr, atol=1e-5, equal_nan=True)
    monkeypatch.setattr(_tiled, "zogy", lambda *a, **k: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(ag.errors.DeviceMemoryError, match="does not fit the memory"):
        ag.subtract(science, reference, tiles=64, **options)


def test_tiles_side_by_side_are_those_one_after_the_other(rng, monkeypatch, backend):
    """Each with a PSF of its own: in as many parts as you like, the same to rounding."""
    (science, reference), options = known_pair(rng, (150, 173))
    psf = moffat_psf(3.2, side=25)
    terms = np.array([psf / psf.sum(), *(moffat_psf(f, side=25) / moffat_psf(f, side=25).sum() for f in (4.0, 3.0))])
    terms[1:] = 0.05 * (terms[1:] - terms[0])
    options |= {"psf_science": ag.PSFModel(terms, shape=science.shape), "tiles": 64, "backend": backend}
    options |= {"psf_reference": moffat_psf(2.6, side=25)}
    science.data[48:54, 52:68] = np.nan
    found = []
    for threads in (1, 3):
        monkeypatch.setattr("astrid_gpu._tiled.cpu_threads", lambda threads=threads: threads)
        found.append(ag.subtract(science, reference, **options))
    for name in ("difference", "score", "score_corr", "flux", "flux_error", "mask"):
        one, three = (getattr(diff, name) for diff in found)
        np.testing.assert_allclose(three, one, rtol=1e-5, atol=2e-6 * np.nanmax(one))
    assert np.array_equal(found[0].tiles.flux_scale, found[1].tiles.flux_scale)


def test_a_stack_by_tiles_is_the_loop(rng):
    (science, reference), options = known_pair(rng, (150, 173))
    other = dataclasses.replace(science, data=science.data + np.float32(1))
    options.pop("sigma_science")
    options.pop("flux_ratio")
    found = list(ag.subtract_stack([science, other], reference, tiles=64, **options))
    for image, diff in zip((science, other), found, strict=True):
        alone = ag.subtract(image, reference, tiles=64, **options)
        assert len(diff.tiles.tiles) == 9
        assert np.array_equal(diff.score_corr, alone.score_corr, equal_nan=True)
