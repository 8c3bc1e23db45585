"""Saturation found by levels and by shape, whatever else is in the frame; and unsaturated light that must not pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu._masks import BAD, SATURATED, mask_defects
from astrid_gpu._plateaus import pile_ups, side_by_side
from astrid_gpu._saturation import saturation_level, saturation_mask
from astrid_gpu.image import Image
from astrid_gpu.ops.psf_stamps import moffat_stamp
from tests.hand_made import add_source

SHAPE, SKY, FULL = (300, 320), 200.0, 20000.0


def light(rng, *, fwhm=3.0, n=80, brightest=2e6):
    """Stars of all heights before noise and saturation, no two of the brightest near each other."""
    image, psf = np.zeros(SHAPE), moffat_stamp(fwhm, 3.5, 4 * round(4 * fwhm) + 1)
    y, x = rng.uniform(15, 285, (2, n))
    y[:6], x[:6] = np.repeat([60.3, 180.8], 3), np.tile([50.2, 150.4, 260.9], 2)
    flux = brightest * np.concatenate([np.geomspace(1, 0.2, 6), 0.1 * np.geomspace(1, 0.001, n - 6)])
    for each in zip(y, x, flux, strict=True):
        add_source(image, psf, *each)
    return np.maximum(image, 0) + SKY


def observed(rng, counts):
    return rng.poisson(counts * 1.5) / 1.5 + rng.normal(0, 3, counts.shape)


@pytest.fixture
def scene(rng):
    """A frame that saturates at FULL, and which pixels do."""
    data = observed(rng, light(rng))
    full = data >= FULL
    assert 60 < full.sum() < 400
    return np.minimum(data, FULL), full


def beyond(mask, full):
    """Pixels masked that are further than three pixels from a full one."""
    return np.count_nonzero(mask & ~(ag.convolve(full.astype(float), np.ones((7, 7)), normalize=False) > 0.5))


@pytest.mark.parametrize("garbage", [65535.0, 1e6, 20700.0])
def test_masked_garbage_tells_no_level_and_is_not_saturated(scene, garbage):
    data, full = scene
    mask = np.zeros(SHAPE, np.uint8)
    mask[100:110], mask[:, 300:303] = 1, 1
    data[mask != 0] = garbage
    found, steps = mask_defects(Image(data, mask=mask, name="n"))
    assert (found.mask[full & (mask == 0)] == SATURATED).all()
    assert (found.mask[(mask != 0) & ~full] & SATURATED == 0).mean() > 0.99
    assert steps[0].values["level"] == pytest.approx(FULL, rel=0.03)
    assert beyond(found.mask & SATURATED != 0, full) == 0


def test_masked_garbage_is_not_counted_by_quality(rng):
    pair = ag.simulate.pair(seed=3, shape=(300, 300), n_changes=0, bad_columns=0, bad_fraction=0)
    mask = np.zeros((300, 300), bool)
    mask[100:110] = True
    data = np.where(mask, np.float32(1e6), pair.science.data)
    without, there = (
        ag.quality(ag.subtract(replace(pair.science, data=pixels), pair.reference, mask_science=mask))
        for pixels in (pair.science.data, data)
    )
    assert there.saturation_fraction == without.saturation_fraction


def test_saturated_cores_that_a_mask_covers_stay_saturated(scene):
    data, full = scene
    mask = ag.convolve(full.astype(float), np.ones((3, 3)), normalize=False) > 0.5
    found, _ = mask_defects(Image(data, mask=mask, saturation=FULL, name="n"))
    assert (found.mask[full] == BAD | SATURATED).all()


@pytest.mark.parametrize("header", [None, 65535.0, 26000.0])
@pytest.mark.parametrize("hot", [26000.0, 60000.0])
def test_hot_pixels_hide_no_plateau(scene, header, hot):
    data, full = scene
    data[50, 100] = hot
    data[220, 230:232] = hot
    mask, _ = saturation_mask(Image(data, saturation=header, name="n"))
    assert mask[full].mean() > 0.97  # of a level that the header has otherwise, lone full pixels are no plateau
    full[50, 100] = full[220, 230:232] = True
    assert beyond(mask, full) == 0


def test_a_plateau_after_a_flat_field(scene):
    data, full = scene
    y, x = np.indices(SHAPE)
    data = data / (1 + 0.08 * np.sin(x / 40) * np.cos(y / 55))
    for header in (None, 65535.0):
        mask, step = saturation_mask(Image(data, saturation=header, name="n"))
        assert mask[full].mean() > 0.95
        assert beyond(mask, full) == 0
        assert step.values["n_other"] > 50
        assert "on flat cores at other levels" in step.text


def test_two_amplifiers(rng):
    data = observed(rng, light(rng))
    level = np.where(np.arange(SHAPE[1]) < 160, 20000.0, 17000.0)
    full = data >= level
    mask, _ = saturation_mask(Image(np.minimum(data, level), name="n"))
    assert mask[full].mean() > 0.97
    assert beyond(mask, full) == 0


def test_a_core_that_dips(scene):
    data, full = scene
    y, x = np.indices(SHAPE)
    data[np.hypot(y - 60.3, x - 50.2) < 2] *= 0.8
    data[50, 100] = 40000.0
    mask, _ = saturation_mask(Image(data, name="n"))
    assert mask[full].all()


@pytest.mark.parametrize("fwhm", [1.6, 2.2, 3.0, 5.0, 8.0, 12.0])
@pytest.mark.parametrize("header", [None, 65535.0])
def test_bright_stars_that_do_not_saturate(rng, fwhm, header):
    for brightest in (2e5, 3e6):
        data = observed(rng, light(rng, fwhm=fwhm, brightest=brightest)) * (60000 / 3e6 if brightest > 1e6 else 1)
        mask, step = saturation_mask(Image(data, saturation=header, name="n"))
        assert step.values["n_saturated"] <= 9, step  # by chance one star that stands between four pixels
        assert not mask[60, 50]


@pytest.mark.parametrize("index", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("radius", [4.0, 15.0, 40.0])
def test_galaxies_and_crowds_do_not_saturate(rng, index, radius):
    canvas = np.full(SHAPE, SKY)
    rows = np.zeros(8, ag.simulate.GALAXY_DTYPE)
    for k in range(8):
        rows[k] = (*rng.uniform(30, 290, 2), 4e5 * radius * rng.uniform(0.3, 2), radius, index, 0.7, 180 * rng.random())
    ag.simulate.draw_galaxies(canvas, rows, ag.simulate.PsfModel("moffat", 3.0, 3.5))
    for scene in (canvas, canvas + light(rng, n=2000, brightest=1e5)):
        assert not saturation_mask(Image(observed(rng, scene), name="n"))[0].any()


def test_skies_of_few_values_are_not_piled_up(rng):
    for noise in (0.05, 0.3, 1.0):
        data = np.rint(rng.normal(300.2, noise, SHAPE))
        data[30:33, 40] += (9, 30, 9)
        assert not saturation_mask(Image(data, name="n"))[0].any()
    assert not saturation_mask(Image(np.full(SHAPE, 7.0), name="n"))[0].any()


def test_piles_and_neighbours(rng):
    heights = np.concatenate([rng.uniform(1000, 9000, 300), np.full(30, 10000.0), np.full(20, 17000.0), [25000.0]])
    assert [(p.height, p.n, p.above) for p in pile_ups(heights)] == [(17000.0, 20, 1), (10000.0, 30, 21)]
    assert pile_ups(heights[:3]) == []
    np.testing.assert_array_equal(side_by_side(np.array([3, 4, 9, 19, 30]), 10), [True, True, True, True, False])


def test_the_level_alone(scene):
    data, _ = scene
    data[50, 100] = 26000.0
    level, origin = saturation_level(Image(data, saturation=65535.0, name="n"))
    assert level == pytest.approx(FULL, rel=0.03)
    assert "piled up" in origin
    assert saturation_level(Image(data, saturation=15000.0, name="n")) == (15000.0, "given")
    assert saturation_level(Image(data, saturation=25000.0, name="n")) == (25000.0, "given")  # a pixel reaches it
    assert saturation_level(Image(np.full(SHAPE, np.nan), name="n"))[0] is None
