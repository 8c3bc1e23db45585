"""Trails across a significance map: found where they are, and not where there are none."""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu._trails import find_trails, trail_mask
from astrid_gpu.flags import CandidateFlag, PixelFlag
from astrid_gpu.ops.psf_stamps import fwhm_of, moffat_stamp
from tests.hand_made import add_source, matched

PSF = moffat_stamp(2.6, 3.0, 21)
NORM = np.sqrt(np.sum(PSF**2))
FWHM = fwhm_of(PSF)
SHAPE = (400, 500)


def score(pixels):
    """S_corr of pixels with unit noise."""
    return (matched(pixels, PSF) / NORM).astype(np.float32)


def trail(ends, height, width=1.1, shape=SHAPE):
    """A line of Gaussian profile; `height` is its S_corr."""
    (x0, y0), (x1, y1) = ends
    y, x = np.indices(shape)
    length = np.hypot(x1 - x0, y1 - y0)
    c, s = (x1 - x0) / length, (y1 - y0) / length
    across, along = (x - x0) * s - (y - y0) * c, (x - x0) * c + (y - y0) * s
    line = np.exp(-0.5 * (across / width) ** 2) * ((along >= 0) & (along <= length))
    return line * height / np.median(score(line)[(line > 0.99) & (x > 20) & (x < shape[1] - 20)])


def flags(shape=SHAPE):
    return np.zeros(shape, np.uint16)


@pytest.mark.parametrize("height", [2.0, 4.0, 40.0])
@pytest.mark.parametrize(
    "ends", [((-5, 80), (510, 300)), ((150, -5), (260, 410)), ((-5, 390), (480, -5)), ((505, 200), (505 - 320, 330))]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_trail_is_found_and_covered(rng, height, ends, sign):
    """Down to 2 sigma a pixel, where no pixel of it is a candidate; of either sign; also one that ends inside."""
    light = trail(ends, height)
    found = find_trails(score(rng.normal(size=SHAPE) + sign * light), flags(), FWHM)
    assert len(found) == 1
    assert np.sign(found[0].score) == sign
    covered = trail_mask(SHAPE, found)
    assert covered[light > 0.5 * light.max()].mean() > (0.9 if height > 2 else 0.75)
    assert covered.mean() < 0.06
    # The line lies along the trail: its middle is within a FWHM of it.
    (x0, y0), (x1, y1) = ends
    off = ((found[0].x0 + found[0].x1) / 2 - x0) * (y1 - y0) - ((found[0].y0 + found[0].y1) / 2 - y0) * (x1 - x0)
    assert abs(off) / np.hypot(x1 - x0, y1 - y0) < FWHM


def test_two_trails_that_cross_are_two(rng):
    light = trail(((-5, 80), (510, 300)), 6.0) + trail(((60, -5), (330, 410)), 3.0)
    found = find_trails(score(rng.normal(size=SHAPE) + light), flags(), FWHM)
    assert len(found) == 2
    assert found[0].score > found[1].score
    assert trail_mask(SHAPE, found)[light > 0.5 * light.max()].mean() > 0.9


def test_blank_sky_has_none(rng):
    """Twenty fields of noise: none. The chance of one is far below one in a thousand."""
    for shape in [SHAPE] * 10 + [(150, 130)] * 9 + [(1000, 900)]:
        assert find_trails(score(rng.normal(size=shape)), flags(shape), FWHM) == []


def crowd(rng, n, heights, shape=SHAPE):
    """Point sources of both signs, and dipoles, as crowded fields leave them."""
    pixels = rng.normal(size=shape)
    for y, x, height, kind in zip(
        rng.uniform(0, shape[0], n), rng.uniform(0, shape[1], n), rng.uniform(*heights, n), rng.integers(3, size=n),
        strict=True,
    ):  # fmt: skip
        add_source(pixels, PSF, y, x, (1, -1, 1)[kind] * height / NORM)
        if kind == 2:
            add_source(pixels, PSF, y + 1, x + 1.5, -height / NORM)
    return pixels


@pytest.mark.parametrize(("n", "heights"), [(300, (5, 100)), (1500, (3, 30)), (4000, (2, 12))])
def test_crowded_fields_have_none(rng, n, heights):
    for _ in range(3):
        assert find_trails(score(crowd(rng, n, heights)), flags(), FWHM) == []


def test_stars_in_a_row_are_none_but_a_trail_among_stars_is(rng):
    pixels = crowd(rng, 300, (5, 100))
    for t in np.linspace(0.02, 0.98, 25):
        add_source(pixels, PSF, 30 + 320 * t, 20 + 450 * t, 20 / NORM)
    assert find_trails(score(pixels), flags(), FWHM) == []
    light = trail(((-5, 300), (510, 90)), 3.0)
    found = find_trails(score(pixels + light), flags(), FWHM)
    assert len(found) == 1
    assert trail_mask(SHAPE, found)[light > 0.5 * light.max()].mean() > 0.8


@pytest.mark.parametrize("angle", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("place", [(200, 250), (30, 60)])
def test_diffraction_spikes_are_none(rng, angle, place):
    """A cross of spikes from a saturated star, that reach 150 px, one pair brighter in science, one fainter."""
    y, x = np.indices(SHAPE) - np.array(place)[:, None, None]
    c, s = np.cos(angle), np.sin(angle)
    r = np.hypot(y, x) + 3
    pixels = rng.normal(size=SHAPE)
    for along, across, sign in ((x * c + y * s, y * c - x * s, 1), (y * c - x * s, x * c + y * s, -1)):
        pixels += sign * 3000 / r**1.5 * np.exp(-0.5 * (across / 1.2) ** 2) * (np.abs(along) < 150)
    mask = flags()
    mask[np.hypot(y, x) < 8] = PixelFlag.SATURATED_SCIENCE
    values = score(pixels)
    values[mask > 0] = np.nan
    assert find_trails(values, mask, FWHM) == []


def test_bad_columns_and_rows_are_none(rng):
    pixels = rng.normal(size=SHAPE)
    pixels[:, 200] += 2
    pixels[120] -= 3
    pixels[:, 333:335] += 30
    assert find_trails(score(pixels), flags(), FWHM) == []


def test_small_or_masked_maps_have_none(rng):
    assert find_trails(score(rng.normal(size=(60, 60))), flags((60, 60)), FWHM) == []
    assert find_trails(np.full(SHAPE, np.nan, np.float32), flags(), FWHM) == []


def test_subtract_flags_pixels_and_candidates(rng):
    """A satellite through the science image, another through the reference."""
    pair = ag.simulate.pair(seed=31, shape=(400, 400), n_changes=6)
    light = trail(((-5, 100), (410, 330)), 1.0, shape=(400, 400))
    light /= light.max()
    dark = trail(((300, -5), (60, 410)), 1.0, shape=(400, 400))
    dark /= dark.max()
    science = pair.science.with_(data=(pair.science.data + 60 * light).astype(np.float32))
    reference = pair.reference.with_(data=(pair.reference.data + 60 * dark).astype(np.float32))
    diff = ag.subtract(science, reference)
    on = (diff.mask & int(PixelFlag.TRAIL)) != 0
    assert diff.metrics["n_trails"] == 2
    (step,) = [step for step in diff.steps if step.stage == "trails"]
    assert sorted(np.sign(t["score"]) for t in step.values["trails"]) == [-1, 1]
    for one in (light, dark):
        assert on[one > 0.5].mean() > 0.9
    assert on.mean() < 0.2
    assert np.isfinite(diff.difference[on]).mean() > 0.9  # a warning, not a hole
    cands = ag.detect(diff)
    flagged = (cands["flags"] & int(CandidateFlag.TRAIL)) != 0
    inside = on[np.rint(cands["y"]).astype(int), np.rint(cands["x"]).astype(int)]
    assert inside.sum() > 20
    assert flagged[inside].all()
    found = ag.quality(diff, cands)
    assert found.n_trails == 2
    assert found.verdict != "good"
    assert any("trail" in reason for reason in found.reasons)
    assert ag.subtract(science, reference, trails=False).metrics["n_trails"] == 0
    assert ag.subtract(pair.science, pair.reference).metrics["n_trails"] == 0
