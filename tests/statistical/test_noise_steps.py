"""Noise whose correlation changes at a line within a tile: unit S_corr on both sides, and no flood of false alarms.

The left part of the science image is smoothed by a Gaussian of 1 px, and of the variance of the white rest. S_corr is
correlated over a PSF, n pixels hold n / 25 independent ones: the width of 20 columns of 500 is good to 0.035.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import astrid_gpu as ag
from astrid_gpu import _mosaic, _tiled
from astrid_gpu.ops.two_levels import cell_means, correlated_area, two_levels
from tests.scenes import blurred, moffat_psf

SHAPE = (500, 600)
PSFS = moffat_psf(3.2), moffat_psf(2.8)
SIGMA = 12.0, 8.0
GAIN = 1.5, 6.0


class Made(NamedTuple):
    """A pair of images, whose noise is correlated where `left`, and where new sources are."""

    images: list
    left: np.ndarray
    places: np.ndarray


def where(kind, shape=SHAPE):
    """Pixels of correlated noise: left of a column, in a corner, or on one side of a diagonal."""
    y, x = np.indices(shape)
    if isinstance(kind, int):
        return x < kind
    return {
        "corner": (x < 300) & (y < 360),
        "diagonal": x + y < 540,
        "none": x < 0,
        "all": x >= 0,
    }[kind]


def correlated(rng, shape):
    noise = gaussian_filter(rng.normal(size=(shape[0] + 20, shape[1] + 20)), 1.0)[10:-10, 10:-10]
    return noise * 2 * np.sqrt(np.pi)


def made(rng, kind, shape=SHAPE, new=0, stars=200, quieter=1.0):
    """Make a pair of static stars with variance planes, and a grid of new sources of a flux `new`.

    The noise of both images is `quieter` times as large on the left, and their variance planes say so.
    """
    left = where(kind, shape)
    static = [(rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), 500 * (1 + rng.pareto(1.0))) for _ in range(stars)]
    places = np.array([(y, x) for y in range(30, shape[0] - 20, 40) for x in range(30, shape[1] - 20, 40)])
    images = []
    for role, psf, sigma, gain in zip(("science", "reference"), PSFS, SIGMA, GAIN, strict=True):
        sky = blurred([(y, x, min(f, 5e4)) for y, x, f in static], shape, psf)
        if role == "science" and new:
            sky = sky + blurred([(y, x, new) for y, x in places], shape, psf)
        noise = rng.normal(size=shape)
        if role == "science":
            noise = np.where(left, correlated(rng, shape), noise)
        sigma = np.where(left, quieter * sigma, sigma)
        data = sky + sigma * noise + np.sqrt(np.maximum(sky, 0) / gain) * rng.normal(size=shape)
        variance = sigma**2 + np.maximum(sky, 0) / gain
        images.append(ag.Image(data.astype(np.float32), variance=variance.astype(np.float32), name=role))
    return Made(images, left, places)


def difference(pair, **options):
    return ag.subtract(*pair.images, align="none", psf_science=PSFS[0], psf_reference=PSFS[1], **options)


def spread(values):
    """Robust width: half of the distance between the 16 % and the 84 % points."""
    low, high = np.percentile(values[np.isfinite(values)], [15.865, 84.135])
    return (high - low) / 2


def sides(pair, reach=60, gap=6):
    """Pixels up to 60 px from the step, 6 px about it left out, on the side that is correlated and on the other."""
    from scipy.ndimage import distance_transform_edt

    inside, outside = distance_transform_edt(pair.left), distance_transform_edt(~pair.left)
    frame = np.zeros(pair.left.shape, bool)
    frame[20:-20, 20:-20] = True
    return [frame & (d > gap) & (d < reach) for d in (inside, outside)]


def told(diff):
    return [step for step in diff.steps if step.stage == "noise steps"]


@pytest.fixture(params=["whole", "blocks"])
def how(request, monkeypatch):
    """The frame whole, or prepared by blocks of 200 px as one that is too large for the memory."""
    if request.param == "whole":
        return {}
    for module, name, value in ((_mosaic, "BLOCK", 200), (_mosaic, "MARGIN", 100), (_tiled, "BLOCK", 200)):
        monkeypatch.setattr(module, name, value)
    return {"memory": 0.45}


@pytest.mark.parametrize("kind", [300, 256, 220, "corner", "diagonal"])
def test_both_sides_of_a_step_have_unit_noise(rng, how, kind):
    """Tiles end at 200 and 400. Noise alone makes 0.2 candidates of these pixels, steps made forty."""
    pair = made(rng, kind)
    diff = difference(pair, **how)
    assert any(step.stage == "blocks" for step in diff.steps) == bool(how)
    assert [spread(diff.score_corr[side]) for side in sides(pair)] == pytest.approx([1, 1], abs=0.1)
    found = ag.detect(diff)
    assert len(found) <= 2
    (step,) = told(diff)
    assert 0.1 < diff.metrics["noise_steps"] < 0.7
    assert step.values["highest"] > 1.25 * step.values["lowest"]
    assert diff.metrics["renormalise_max"] > 1.25 * diff.metrics["renormalise_min"]
    judged = ag.quality(diff, found)
    assert judged.verdict == "usable"
    assert any("correlation changes within tiles" in reason for reason in judged.reasons)


def test_a_step_of_the_variance_planes_too(rng):
    """As where one part was resampled and the other not: the brighter noise is no star's."""
    pair = made(rng, 300, quieter=0.5)
    diff = difference(pair)
    assert told(diff)
    assert [spread(diff.score_corr[side]) for side in sides(pair)] == pytest.approx([1, 1], abs=0.1)
    assert len(ag.detect(diff)) <= 2


def test_without_renormalising_nothing_is_divided(rng):
    pair = made(rng, 300)
    diff = difference(pair, renormalise="none")
    assert not told(diff)
    low, high = sorted(spread(diff.score_corr[side]) for side in sides(pair))
    assert low < 0.8
    assert high > 1.2
    assert difference(pair).metrics["score_corr_std_raw"] == diff.metrics["score_corr_std_raw"]


def test_a_frame_too_small_to_tell_that_its_noise_varies_is_left_alone(rng):
    """Blank sky of the images has to say so: what a difference shows by itself may be what galaxies leave in it."""
    assert not told(difference(made(rng, 110, (230, 240), stars=40)))


def test_new_sources_at_a_step_keep_their_flux_and_significance(rng):
    """A grid of 180, S/N 8 and more: pulls of mean 0 and width 1, nearly all beyond 5: none is divided away."""
    flux = 1700.0
    pair = made(rng, 300, new=flux)
    diff = difference(pair)
    assert told(diff)
    y, x = pair.places.T
    for half in (x < 292, x > 308):
        pulls = ((diff.flux[y, x] - flux) / diff.flux_error[y, x])[half]
        pulls = pulls[np.isfinite(pulls)]
        n = len(pulls)
        assert n > 70
        assert abs(np.median(pulls)) < 4 * 1.25 / np.sqrt(n)
        assert spread(pulls) == pytest.approx(1, abs=4 * 1.2 / np.sqrt(2 * n))
        assert np.mean(diff.score_corr[y, x][half] > 5) > 0.95


@pytest.mark.parametrize("kind", ["none", "all"])
def test_noise_that_is_the_same_everywhere_is_left_alone(kind):
    for seed in range(4):
        pair = made(np.random.default_rng(seed), kind, (300, 420))
        diff = difference(pair)
        assert not told(diff)
        assert "noise_steps" not in diff.metrics
        assert "renormalise_min" not in diff.metrics


def test_chance_makes_no_step_of_uniform_noise():
    """400 pieces of 256 px: the likelihood of two variances stays well below what is asked for."""
    rng = np.random.default_rng(5)
    stamp = np.zeros((31, 31))
    stamp[15, 15] = 1
    area = correlated_area(gaussian_filter(stamp, 1.36))
    gains = []
    for _ in range(100):
        score = gaussian_filter(rng.normal(size=(532, 532)), 1.36, mode="wrap")
        score /= score.std()
        for y, x in ((0, 0), (0, 266), (266, 0), (266, 266)):
            mean, n = cell_means(score[y : y + 256, x : x + 256], np.ones((256, 256), bool), 8)
            found = two_levels(mean, n / (2 * area))
            gains.append(0.0 if found is None else found.gain)
    assert max(gains) < 0.7 * 0.06 * 32**2
