"""Noise whose correlation changes over the frame: a spectrum for each tile, unit S_corr and honest fluxes everywhere.

Noise is resampled by a fraction of a pixel that depends on the place, as a distorted WCS or a mosaic of several
exposures leaves it. S_corr is correlated over a PSF, n pixels hold n / 25 independent ones: the width of a region of
200 x 200 is good to sqrt(25 / 2 n) = 0.018, that of half of the frame to 0.007. Spectra of tiles add 1 %.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu import _mosaic, _noise_spectrum, _tiled
from tests.scenes import blurred, moffat_psf

SHAPE = (600, 1000)
PSFS = moffat_psf(3.2), moffat_psf(2.8)
SIGMA = 5.0, 2.0
FLUX = 1.0, 0.6


def resampled(noise, part, power=1):
    """Noise (ny + 1, nx + 1) shifted by a fraction of a pixel in y and x; with `power` 2 what becomes of variances."""
    weights = (1 - part) ** 2, part * (1 - part), part * (1 - part), part**2
    moved = noise[1:, 1:], noise[:-1, 1:], noise[1:, :-1], noise[:-1, :-1]
    return sum(a * w**power for a, w in zip(moved, weights, strict=True))


def phase(kind):
    """Fraction of a pixel that the noise was shifted by, over the frame."""
    x = np.arange(SHAPE[1]) * np.ones(SHAPE)
    return {
        "halves": np.where(x < SHAPE[1] // 2, 0.0, 0.5),
        "smooth": 0.5 * x / SHAPE[1],
        "white": 0 * x,
        "alike": 0 * x + 0.5,
        "edge": np.where(x < 250, 0.5, 0.0),
        "corner": np.where((x < 250) & (np.arange(SHAPE[0])[:, None] < 200), 0.5, 0.0),
    }[kind]


class Made(NamedTuple):
    """A pair of images, and where new sources are and how bright."""

    images: list
    places: np.ndarray
    flux: float


def made(rng, kind, *, stated="pixels", stars=120, step=0):
    """Make a pair. `stated`: variances of the pixels as they are, or of those before they were resampled."""
    part, (ny, nx) = phase(kind), SHAPE
    static = [(rng.uniform(0, ny), rng.uniform(0, nx), 1e3 * (1 + rng.pareto(1.2))) for _ in range(stars)]
    places = np.array([(y, x) for y in range(40, ny - 30, step) for x in range(40, nx - 30, step)] if step else [])
    flux = 1300.0
    images = []
    for role, psf, sigma, scale in zip(("science", "reference"), PSFS, SIGMA, FLUX, strict=True):
        sky = scale * blurred([(y, x, min(f, 1e5)) for y, x, f in static], (ny + 1, nx + 1), psf)
        if role == "science" and step:
            sky = sky + blurred([(y + 1, x + 1, flux) for y, x in places], (ny + 1, nx + 1), psf)
        variance = sigma**2 + np.maximum(sky, 0) / 4
        data = sky[1:, 1:] + resampled(np.sqrt(variance) * rng.normal(size=sky.shape), part)
        plane = resampled(variance, part, 2) if stated == "pixels" else variance[1:, 1:]
        images.append(ag.Image(data.astype(np.float32), variance=plane.astype(np.float32), name=role))
    return Made(images, places, flux)


def difference(pair, **options):
    known = {"psf_science": PSFS[0], "psf_reference": PSFS[1], "align": "none", "registration": "none"}
    return ag.subtract(*pair.images, renormalise="none", **known | options)


def spread(values):
    """Robust width: half of the distance between the 16 % and the 84 % points."""
    low, high = np.percentile(values[np.isfinite(values)], [15.865, 84.135])
    return (high - low) / 2


def widths(diff, n=4):
    """Robust widths of S_corr in n columns of the frame, 20 px of its edges left out."""
    edges = np.linspace(20, SHAPE[1] - 20, n + 1).astype(int)
    return np.array([spread(diff.score_corr[20:-20, a:b]) for a, b in pairwise(edges)])


def told(diff):
    """What was said of the tiles' noise."""
    return [step for step in diff.steps if "n_own" in step.values]


@pytest.mark.parametrize(
    ("kind", "stated", "one"), [("halves", "pixels", 0.6), ("smooth", "pixels", 0.75), ("halves", "before", 0.965)]
)
def test_blank_sky_has_unit_noise_everywhere(rng, kind, stated, one):
    """140 000 pixels a column: 0.009 of chance, and 0.01 for the spectra. With one spectrum it is off somewhere."""
    pair = made(rng, kind, stated=stated)
    diff = difference(pair)
    np.testing.assert_allclose(widths(diff), 1, atol=0.035)
    (step,) = told(diff)
    assert "tile by tile" in step.text
    assert step.values["n_own"] == diff.tiles.noise_scale[0].size == 12
    assert step.values["scatter_own"] < step.values["scatter_one"]
    assert diff.metrics["noise_factor"] == 1.0
    assert any("because" in s.text and "noise varies by" in s.text for s in diff.steps if s.stage == "tiles")
    whole = widths(difference(pair, tiles="never"))
    assert whole.min() < one


@pytest.mark.parametrize("kind", ["white", "alike"])
def test_noise_that_is_the_same_everywhere_has_one_spectrum(rng, kind):
    """Nothing is cut for it, and where tiles are asked for they share what the frame has."""
    pair = made(rng, kind)
    diff = difference(pair)
    assert diff.tiles is None
    assert not told(diff)
    tiled = difference(pair, tiles=200)
    assert tiled.tiles.noise_scale is None
    assert all(stamp is None or stamp.ndim == 2 for stamp in tiled.tiles.noise)
    (step,) = told(tiled)
    assert "nothing varies by more than chance" in step.text
    assert spread((tiled.score_corr - diff.score_corr)[40:-40, 40:-40]) < 5e-3


def test_it_is_off_by_choice(rng):
    diff = difference(made(rng, "halves"), noise="white", tiles=256)
    assert not told(diff)
    assert diff.tiles.noise == (None, None)
    assert diff.tiles.noise_scale is None


def test_fluxes_of_new_sources_are_right_in_both_halves(rng):
    """Sources of S/N 15 and more: pulls of mean 0 and width 1 to 4 standard errors, tiles of the seam included."""
    pair = made(rng, "halves", step=30)
    diff = difference(pair)
    assert "tile by tile" in told(diff)[0].text
    y, x = pair.places.T
    pulls = (diff.flux[y, x] - pair.flux) / diff.flux_error[y, x]
    for half in (x < SHAPE[1] // 2 - 20, x > SHAPE[1] // 2 + 20):
        mine = pulls[half][np.isfinite(pulls[half])]
        n = len(mine)
        assert n > 200
        assert np.median(pair.flux / diff.flux_error[y, x][half]) > 15
        assert abs(np.median(mine)) < 4 * 1.25 / np.sqrt(n)
        assert spread(mine) == pytest.approx(1, abs=4 * 1.2 / np.sqrt(2 * n) + 0.02)


def test_no_seam_is_visible(rng):
    """S_corr within 2 px of a seam has the width and the tails of the rest; noise that changes steadily, no stars."""
    diff = difference(made(rng, "smooth", stars=0), flux_ratio=1 / 0.6)
    assert "tile by tile" in told(diff)[0].text
    near = np.zeros(SHAPE, bool)
    for axis, edges in enumerate(diff.tiles.tiles.edges):
        for edge in edges[1:-1]:
            near[(slice(None),) * axis + (slice(edge - 2, edge + 2),)] = True
    good = np.isfinite(diff.score_corr)
    good[:20] = good[-20:] = good[:, :20] = good[:, -20:] = False
    seam, rest = (diff.score_corr[where & good] for where in (near, ~near))
    assert abs(seam.std() - rest.std()) < 4 / np.sqrt(2 * seam.size / 25) + 0.01
    assert abs(seam.mean() - rest.mean()) < 4 / np.sqrt(seam.size / 25)
    expected = 2 * 1.35e-3 * seam.size
    assert abs((abs(seam) > 3).sum() - expected) < 4 * np.sqrt(25 * expected)


def test_every_backend_gives_the_same(rng, backend):
    """The tiles' spectra reach the engine whichever it is: S_corr to a thousandth of the reference's."""
    pair = made(rng, "halves", stars=30)
    part = np.s_[100:330, 230:770]
    images = [
        i.with_(data=np.ascontiguousarray(i.data[part]), variance=np.ascontiguousarray(i.variance[part]))
        for i in pair.images
    ]
    small = Made(images, pair.places, pair.flux)
    known = {"flux_ratio": 1 / 0.6, "background": False}
    exact = difference(small, backend="numpy", dtype="float64", **known)
    diff = difference(small, backend=backend, **known)
    assert diff.tiles.noise_scale is not None
    np.testing.assert_allclose(diff.score_corr, exact.score_corr, atol=2e-3)


@pytest.fixture
def by_blocks(monkeypatch):
    """Blocks of 200 px, 3 x 5 of them, the one in the middle seeing rows 100 to 500 of columns 300 to 700."""
    for module, name, value in ((_mosaic, "BLOCK", 200), (_mosaic, "MARGIN", 100), (_tiled, "BLOCK", 200)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(_tiled, "LARGE_SIDE", 500)
    return {"memory": 0.45}


def quarters(diff):
    """Robust widths of S_corr in the quarters of the frame, 20 px of its edges left out."""
    y, x = SHAPE[0] // 2, SHAPE[1] // 2
    return np.array(
        [spread(diff.score_corr[a, b]) for a in (slice(20, y), slice(y, -20)) for b in (slice(20, x), slice(x, -20))]
    )


@pytest.mark.parametrize("kind", ["halves", "edge", "corner"])
def test_frames_prepared_by_blocks(rng, by_blocks, kind):
    """A mosaic too large for the memory: seen or not from its middle, each tile has its noise, as of the frame whole.

    A quarter has 135 000 pixels, 0.01 of chance; the edge and the corner end within a tile that memory alone asks for.
    """
    pair = made(rng, kind)
    diff, whole = difference(pair, **by_blocks), difference(pair)
    assert any(step.stage == "blocks" for step in diff.steps)
    (step,) = told(diff)
    assert "tile by tile" in step.text
    np.testing.assert_allclose(quarters(diff), 1, atol=0.04)
    np.testing.assert_allclose(widths(diff), 1, atol=0.04)
    assert step.values["n_own"] == told(whole)[0].values["n_own"] == 12
    for own, other in zip(diff.tiles.noise, whole.tiles.noise, strict=True):
        np.testing.assert_allclose(own, other, atol=0.03)
    assert spread(diff.score_corr - whole.score_corr) < 0.1
    assert diff.metrics["noise_correlation_science"] == pytest.approx(
        whole.metrics["noise_correlation_science"], abs=0.01
    )


@pytest.mark.parametrize("kind", ["white", "alike"])
def test_frames_prepared_by_blocks_with_the_same_noise_everywhere(rng, by_blocks, kind):
    """One spectrum for all, that of the frame taken whole; also where the block in the middle has no blank sky."""
    pair = made(rng, kind)
    mask = np.zeros(SHAPE, bool)
    mask[100:500, 300:700] = rng.random((400, 400)) < 0.995
    for options in ({}, {"mask_science": mask}):
        diff, whole = (difference(pair, **options, **more) for more in (by_blocks, {}))
        assert any(step.stage == "blocks" for step in diff.steps)
        assert diff.tiles.noise_scale is None
        assert [stamp is None for stamp in diff.tiles.noise] == [kind == "white"] * 2
        for key in ("noise_correlation_science", "noise_correlation_reference", "score_corr_std_white"):
            assert diff.metrics[key] == pytest.approx(whole.metrics[key], abs=0.01)
        np.testing.assert_allclose(quarters(diff), 1, atol=0.04)


def test_more_of_a_very_large_frame_is_looked_at():
    """A block for each square of 1536 px, spread over rows and columns; twelve, nearly, of any smaller one."""
    for side, n in ((4096, 12), (10_000, 42)):
        y, x = np.array([[part[0].start, part[1].start] for part in _noise_spectrum._blocks((side, side))]).T
        assert n <= len(y) < 1.4 * n
        assert max(np.diff(np.unique(y))) < 0.15 * side
        assert len({*(4 * x // side)}) == len({*(4 * y // side)}) == 4


def test_a_tile_without_blank_sky_has_its_neighbours_spectrum(rng):
    """Most of one tile is masked: what is left is too little, and the step counts it."""
    pair = made(rng, "halves")
    mask = np.zeros(SHAPE, bool)
    mask[:200, :200] = rng.random((200, 200)) < 0.99
    diff = difference(pair, mask_science=mask, tiles=200)
    (step,) = told(diff)
    assert step.values["n_near"] == 1
    assert step.values["n_own"] == 14
    stamps = diff.tiles.noise[0]
    assert abs(stamps[0] - stamps[1]).max() < 0.05
    assert abs(stamps[0] - stamps[4]).max() > 0.4
