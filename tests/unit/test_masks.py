"""Defects of one exposure: charge that bled, bad lines, dead pixels, cosmic rays; and what must not pass for one."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu._bad_lines import bad_lines
from astrid_gpu._cosmic_rays import cosmic_rays
from astrid_gpu._masks import BAD, COSMIC_RAY, SATURATED, dead_pixels, mask_defects
from astrid_gpu._saturation import saturation_mask
from astrid_gpu.errors import BackendUnavailableError, ConfigError
from astrid_gpu.flags import INVALID, CandidateFlag, PixelFlag
from astrid_gpu.image import Image
from astrid_gpu.ops.psf_stamps import moffat_stamp
from tests.hand_made import add_source

FULL = 50000.0
MIDDLE = (200, 190)


def crowded(rng, *, brightest=6e6, ellipticity=0.0, spikes=0.0, n=400):
    """A bright star among sixty others, as counts with a sky of 300; before saturation."""
    image = np.zeros((n, n))
    psf = moffat_stamp(3.0, 2.5, 161)
    y, x = np.indices((n, n)) - np.array(MIDDLE)[:, None, None] - 0.3
    r2 = y**2 * (1 - ellipticity) + x**2 * (1 + ellipticity)
    profile = (1 + r2 / 1.9**2) ** -2.5
    image += brightest * profile / profile.sum()
    for yy, xx, flux in zip(*rng.uniform(20, n - 20, (2, 60)), rng.uniform(500, 60000, 60), strict=True):
        add_source(image, psf, yy, xx, flux)
    r = np.hypot(y, x) + 1
    for across in (y, x):
        image += spikes * r**-1.5 * np.exp(-0.5 * (across / 1.2) ** 2)
    return rng.poisson((image + 300) * 2) / 2 + rng.normal(0, 5, image.shape)


def bled(image, axis):
    """Charge along one axis: full, then falling to nothing; returns the pixels that hold it."""
    plane = image if axis == 0 else image.T
    y0, x0 = MIDDLE if axis == 0 else MIDDLE[::-1]
    truth = np.zeros(plane.shape, bool)
    for x, length in ((x0 - 1, 45), (x0, 70), (x0 + 1, 40)):
        for step in range(-length, length + 1):
            level = FULL * min(1.0, 0.02 + 2 * (length - abs(step)) / length)
            if level > plane[y0 + step, x]:
                plane[y0 + step, x], truth[y0 + step, x] = level, True
    return truth if axis == 0 else truth.T


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("spikes", [0.0, 3e5])
def test_charge_that_bled_is_followed_to_its_end(rng, axis, spikes):
    image = crowded(rng, spikes=spikes)
    truth = bled(image, axis)
    mask, step = saturation_mask(Image(np.minimum(image, FULL), saturation=FULL, name="n"))
    assert truth.sum() > 200
    assert np.count_nonzero(truth & ~mask) <= 6  # the last pixel of an end is within the noise of its star's halo
    assert step.values["n_bled"] > 50
    # What is masked besides lies on the core, or within a pixel or two of charge.
    near = ag.convolve((truth | (image >= 0.85 * FULL)).astype(float), np.ones((5, 5)), normalize=False) > 0.5
    assert np.count_nonzero(mask & ~near) <= 10


@pytest.mark.parametrize("seed", [1, 3, 5])
def test_charge_that_the_star_outshines_at_its_core_is_taken_up_beyond(seed):
    image = crowded(np.random.default_rng(seed))
    y, x = MIDDLE
    fading = 0.8 * FULL * np.exp(-np.abs(np.arange(-75, 76)) / 20)
    trail = image[y - 75 : y + 76, x - 1 : x + 2]
    truth = np.zeros(image.shape, bool)
    truth[y - 75 : y + 76, x - 1 : x + 2] = fading[:, None] > trail
    trail[...] = np.maximum(trail, fading[:, None])
    mask, step = saturation_mask(Image(np.minimum(image, FULL), saturation=FULL, name="n"))
    assert np.count_nonzero(truth & ~mask) <= 6
    assert step.values["n_bled"] > 300
    near = ag.convolve((truth | (image >= 0.85 * FULL)).astype(float), np.ones((5, 5)), normalize=False) > 0.5
    assert np.count_nonzero(mask & ~near) <= 10


@pytest.mark.parametrize(
    "kwargs", [{}, {"ellipticity": 0.15}, {"ellipticity": -0.15}, {"spikes": 3e5}, {"brightest": 3e7}]
)
def test_stars_that_did_not_bleed_keep_their_halo(rng, kwargs):
    """Round, elongated, with a cross of spikes, with a large core: nothing beyond core, rim and growth."""
    image = crowded(rng, **kwargs)
    mask, step = saturation_mask(Image(np.minimum(image, FULL), saturation=FULL, name="n"))
    assert mask[MIDDLE]
    assert step.values["n_bled"] <= 2


def test_bad_columns_and_rows_are_found_in_part_and_whole(rng):
    data = rng.normal(300, 8, (512, 640)).astype(np.float32)
    truth = np.zeros(data.shape, bool)
    for where, change in ((np.s_[:, 70], 12.0), (np.s_[256:, 300:302], -300.0), (np.s_[33], 15.0)):
        data[where] += change
        truth[where] = True
    mask, lines = bad_lines(data, np.zeros(data.shape, bool))
    np.testing.assert_array_equal(mask, truth)
    assert ("row", 33, 0, 319) in lines
    assert ("column", 300, 256, 511) in lines


@pytest.mark.parametrize(("first", "last"), [(200, 419), (0, 130), (470, 599), (10, 140)])
def test_a_defect_over_a_part_of_a_column_is_followed_to_its_ends(first, last):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        data, psf = rng.normal(300, 12, (600, 300)), moffat_stamp(3.0, 3.0, 31)
        for y, x, flux in zip(*rng.uniform(0, [[600], [300]], (2, 100)), rng.uniform(500, 50000, 100), strict=True):
            add_source(data, psf, y, x, flux)
        data[first : last + 1, 133] += 60
        for axis, values in (("column", data), ("row", data.T)):
            mask, lines = bad_lines(values, np.zeros(values.shape, bool))
            mask = mask if axis == "column" else mask.T
            truth = np.zeros(data.shape, bool)
            truth[first : last + 1, 133] = True
            assert np.count_nonzero(truth & ~mask) <= 16
            assert np.count_nonzero(mask & ~truth) <= 60  # to the end of a half or an eighth
            assert {line[:2] for line in lines} == {(axis, 133)}


def test_stars_in_a_row_spikes_gradients_and_blank_sky_are_no_bad_lines(rng):
    y, x = np.indices((512, 512))
    for _ in range(3):
        sky = rng.normal(300, 8, (512, 512)) + 0.5 * x + 0.1 * y
        psf = moffat_stamp(2.2, 3.0, 31)
        for row in range(10, 500, 5):  # a star every five pixels along a column, and along a row
            add_source(sky, psf, row, 200.0, 3000.0)
            add_source(sky, psf, 100.0, row, 3000.0)
        sky += 4000 * (np.hypot(y - 250, x - 400) + 5) ** -0.5 * np.exp(-0.5 * ((x - 400) / 0.85) ** 2)  # FWHM 2 px
        mask, lines = bad_lines(sky.astype(np.float32), np.zeros(sky.shape, bool))
        assert lines == []
        assert not mask.any()


def test_small_images_and_masked_lines_are_left_alone(rng):
    data = rng.normal(300, 8, (40, 200))
    data[:, 20] += 100
    assert bad_lines(data, np.zeros(data.shape, bool))[1] == []
    data = rng.normal(300, 8, (200, 200))
    data[:, 20] = np.nan
    assert bad_lines(data, np.isnan(data))[1] == []
    assert bad_lines(np.ones((200, 200)), np.zeros((200, 200), bool))[1] == []


def test_dead_pixels_are_found_and_wide_hollows_are_not(rng):
    data = rng.normal(0, 5, (200, 200))
    y, x = rng.integers(10, 90, (2, 12)) * 2
    data[y, x] = -300
    hollow = np.hypot(*(np.indices(data.shape) - 100)) < 6
    data[hollow] -= 200
    alone = ~hollow[y, x]
    image, steps = dead_pixels(Image(data, name="n"), 5.0)
    assert set(zip(*np.nonzero(image.mask), strict=True)) >= set(zip(y[alone], x[alone], strict=True))
    assert np.count_nonzero(image.mask & ~(data <= -290)) == 0
    assert steps[0].values["n_pixels"] == np.count_nonzero(image.mask)
    blank, none = dead_pixels(Image(rng.normal(0, 5, (300, 300)), name="n"), 5.0)
    assert blank.mask is None
    assert none == []


def test_each_kind_of_defect_keeps_its_bit(rng):
    data = crowded(rng)
    data[5, 6], data[:, 60] = np.nan, 0
    given = np.zeros(data.shape, np.int32)
    given[7, 8] = 2048
    image, steps = mask_defects(Image(np.minimum(data, FULL), saturation=FULL, mask=given, name="n"))
    assert image.mask[5, 6] == image.mask[7, 8] == image.mask[90, 60] == BAD
    assert image.mask[MIDDLE] == SATURATED
    assert [step.stage for step in steps] == ["saturation", "bad lines"]
    assert "column 60" in steps[1].text
    assert not (mask_defects(image.with_(mask=None), lines=False)[0].mask[90, 60])


@pytest.fixture(scope="module")
def hit_pair():
    """A pair with cosmic rays of one to four pixels, 30 to 100 sigma a pixel, in both images."""
    pair = ag.simulate.pair(seed=21, shape=(320, 320), n_changes=6, bad_columns=0, bad_fraction=0)
    rng = np.random.default_rng(5)
    images, places = [], []
    for image, noise in zip((pair.science, pair.reference), (7.3, 1.5), strict=True):
        data, hits = image.data.copy(), np.zeros(image.shape, bool)
        for y, x in rng.integers(15, 305, (25, 2)):
            dy, dx = ((0, 1), (1, 0), (1, 1))[rng.integers(3)]
            for k in range(rng.integers(1, 5)):
                data[y + k * dy, x + k * dx] += noise * rng.uniform(30, 100)
                hits[y + k * dy, x + k * dx] = True
        images.append(image.with_(data=data))
        places.append(hits)
    return pair, images, places


def test_cosmic_rays_of_both_images_are_masked_apart(hit_pair):
    pytest.importorskip("astroscrappy")
    pair, images, (in_science, in_reference) = hit_pair
    diff = ag.subtract(*images, cosmic_rays="astroscrappy")
    assert diff.mask.dtype == np.uint16
    rays = [(diff.mask & int(flag)) != 0 for flag in (PixelFlag.COSMIC_RAY_SCIENCE, PixelFlag.COSMIC_RAY_REFERENCE)]
    for found, truth in zip(rays, (in_science, in_reference), strict=True):
        assert found[truth].mean() > 0.8  # three of the fifty fall on stars, where nothing is taken for a ray
        around = ag.convolve(truth.astype(float), np.ones((5, 5)), normalize=False) > 0.5  # it grows what it finds
        assert np.count_nonzero(found & ~around) <= 5  # chance: 4.5 sigma of a Laplacian, once in 10^5 pixels
    assert np.isnan(diff.difference[rays[0] | rays[1]]).all()
    assert (diff.mask[rays[1]] & int(PixelFlag.BAD_REFERENCE)).all()
    assert ((diff.mask & INVALID) != 0)[rays[0]].all()
    cands = ag.detect(diff)
    ray = int(CandidateFlag.COSMIC_RAY_SCIENCE | CandidateFlag.COSMIC_RAY_REFERENCE)
    # Every change is still there, and beside it only what lies at a hit.
    for row in pair.truth:
        at = np.hypot(cands["x"] - row["x"], cands["y"] - row["y"])
        near = ray & int(
            np.bitwise_or.reduce(diff.mask[round(row["y"]) - 3 :, round(row["x"]) - 3 :][:7, :7], axis=None)
        )
        assert at.min() < 1.5 or near or row["snr"] < 6.5
    # What else was found is flagged, or is one of the rays on stars.
    hits = np.argwhere(in_science | in_reference)
    for row in cands.data:
        change = np.hypot(pair.truth["x"] - row["x"], pair.truth["y"] - row["y"]).min() < 3
        left = np.hypot(hits[:, 1] - row["x"], hits[:, 0] - row["y"]).min() < 2
        assert change or left or row["flags"] & (ray | int(CandidateFlag.NEAR_BAD | CandidateFlag.SHARP))


def test_cosmic_rays_left_in_place_are_sharp(hit_pair):
    _, images, (in_science, in_reference) = hit_pair
    cands = ag.detect(ag.subtract(*images), 8.4)  # the fainter, the more like a star
    from scipy.spatial import cKDTree

    hits = cKDTree(np.argwhere(in_science | in_reference))
    at_hit = hits.query(np.stack([cands["y"], cands["x"]], axis=1))[0] < 1.5
    assert at_hit.sum() > 35
    suspect = int(CandidateFlag.SHARP | CandidateFlag.DIPOLE)
    assert ((cands["flags"][at_hit] & suspect) != 0).mean() > 0.9


def test_missing_astroscrappy_is_named_or_told(monkeypatch, rng):
    monkeypatch.setitem(sys.modules, "astroscrappy", None)
    image = Image(rng.normal(size=(64, 64)), variance=np.ones((64, 64)), name="n")
    with pytest.raises(BackendUnavailableError, match=r"pip install 'astrid-gpu\[cosmic\]'"):
        cosmic_rays(image, 1.0, "astroscrappy")
    mask, steps = cosmic_rays(image, 1.0, "auto")
    assert not mask.any()
    assert "not installed" in steps[0].text
    assert cosmic_rays(image, 1.0, "none") == (pytest.approx(0), []) or not cosmic_rays(image, 1.0, "none")[0].any()
    with pytest.raises(ConfigError, match="cosmic_rays"):
        ag.subtract(image, image, cosmic_rays="lacosmic")


def test_bits_are_powers_of_their_flags():
    assert int(PixelFlag.SATURATED_SCIENCE) == SATURATED
    assert int(PixelFlag.COSMIC_RAY_SCIENCE) == COSMIC_RAY


def test_bits_survive_resampling(rng):
    """A reference on a grid that is turned by the dither of half a pixel: each kind of defect still has its bit."""
    from dataclasses import replace

    pair = ag.simulate.pair(
        seed=9, shape=(256, 256), n_changes=0, reference=replace(ag.simulate.REFERENCE, dither=(0.4, -0.3))
    )
    data = pair.reference.data.copy()
    data[60, 60:63] += 300  # a ray
    data[:, 140] += 40  # a column
    data[200:205, 40:45] = 6e4  # full
    diff = ag.subtract(pair.science, pair.reference.with_(data=data), cosmic_rays="auto")
    assert any(step.values.get("resampled") for step in diff.steps)
    bits = [
        int(np.bitwise_or.reduce(diff.mask[window], axis=None))
        for window in (np.s_[58:63, 58:65], np.s_[100:120, 137:143], np.s_[199:206, 39:46])
    ]
    if any(step.values.get("by") for step in diff.steps):  # astroscrappy is installed
        assert bits[0] & int(PixelFlag.COSMIC_RAY_REFERENCE)
    assert bits[1] & int(PixelFlag.BAD_REFERENCE)
    assert bits[2] & int(PixelFlag.SATURATED_REFERENCE)
    assert not any(b & int(PixelFlag.SATURATED_SCIENCE | PixelFlag.COSMIC_RAY_SCIENCE) for b in bits)
