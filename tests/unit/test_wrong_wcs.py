"""A WCS that is wrong: overruled by stars that agree with each other, told where nothing agrees, else left alone."""

from __future__ import annotations

import logging

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.align import align
from tests.unit.align_fields import scene, tan_wcs

SHAPE = (400, 420)
TRUTH = (15.0, -9.0)  # px; where the source shows what the target shows at 0, 0
MIDDLE = ((SHAPE[0] - 1) / 2, (SHAPE[1] - 1) / 2)


def sky(rng, n, *, faint=2e3):
    """n stars over and round the frame, brightest first."""
    y, x = rng.uniform(-40, SHAPE[0] + 40, n), rng.uniform(-40, SHAPE[1] + 40, n)
    return y, x, np.sort(np.exp(rng.uniform(np.log(faint), np.log(1e5), n)))[::-1]


def pair(rng, there, here, *, off=(0.0, 0.0), rotation=0.0, flip=False, sigma=1.3, hot=0, noise=5.0):
    """Target and source, whose WCS is `off` px and `rotation` degrees wrong; `hot` pixels on the detector of both."""
    crpix = MIDDLE[0] + TRUTH[0] + off[0], MIDDLE[1] + TRUTH[1] + off[1]
    wcs = tan_wcs(SHAPE), tan_wcs(SHAPE, crpix=crpix, rotation=np.radians(rotation), flip=flip)
    to = scene(SHAPE, *there, noise=noise, rng=rng, sky=100.0)
    moved = np.asarray(here[0]) + TRUTH[0], np.asarray(here[1]) + TRUTH[1]
    image = scene(SHAPE, *moved, here[2], noise=noise, rng=rng, sky=100.0, sigma=sigma)
    y, x = rng.integers(5, SHAPE[0] - 5, hot), rng.integers(5, SHAPE[1] - 5, hot)
    to[y, x] += 3000
    image[y, x] += 3000
    return ag.Image(image, wcs=wcs[1], name="source"), ag.Image(to, wcs=wcs[0], name="target")


def error_of(aligned):
    """How far off the map is in the middle of the frame."""
    y, x = aligned.source_position([200.0], [200.0])
    return float(np.hypot(y[0] - 200 - TRUTH[0], x[0] - 200 - TRUTH[1]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"off": (12.0, -6.0)}, {"off": (-60.0, 40.0)}, {"rotation": 1.5}, {"rotation": 90.0}, {"rotation": 180.0},
        {"flip": True}, {"off": (20.0, 0.0), "rotation": -30.0},
    ],
)  # fmt: skip
@pytest.mark.parametrize("n", [12, 200])
def test_stars_overrule_a_wrong_wcs_and_that_is_told(rng, caplog, wrong, n):
    stars = sky(rng, n)
    if n == 12:
        stars = rng.uniform(110, 290, n), rng.uniform(110, 290, n), stars[2] + 1e4  # in view whatever the WCS says
        if wrong == {"rotation": 1.5}:
            pytest.skip("of few stars a degree more or less is within what is corrected next to the WCS")
    with caplog.at_level(logging.WARNING, "astrid_gpu"):
        aligned = align(*pair(rng, stars, stars, **wrong))
    assert error_of(aligned) < 0.1
    assert aligned.method == "wcs+stars"
    assert any(step.values.get("wcs_wrong") for step in aligned.steps)
    assert "the WCS of source or of target is wrong by" in caplog.text


@pytest.mark.parametrize("off", [(0.0, 0.0), (13.0, 8.0)])
@pytest.mark.parametrize("kind", ["deep source", "deep target", "other band", "crowded", "blurred"])
def test_depths_bands_and_crowds_are_aligned_either_way(rng, kind, off):
    y, x, flux = sky(rng, 2500 if kind == "crowded" else 400, faint=300)
    shallow = y, x, 0.05 * flux
    other = y, x, rng.permutation(flux)
    here = {"deep target": shallow, "other band": other}.get(kind, (y, x, flux))
    there = shallow if kind == "deep source" else (y, x, flux)
    aligned = align(*pair(rng, there, here, off=off, sigma=2.0 if kind == "blurred" else 1.3))
    assert error_of(aligned) < 0.1
    assert any(step.values.get("wcs_wrong") for step in aligned.steps) is (off != (0.0, 0.0))


@pytest.mark.parametrize("n", [0, 1, 3, 5])
def test_a_handful_of_stars_does_not_overrule_a_wcs(rng, caplog, n):
    stars = rng.uniform(110, 290, n), rng.uniform(110, 290, n), np.full(n, 3e4)
    aligned = align(*pair(rng, stars, stars, off=(20.0, 11.0)))
    assert aligned.method == "wcs"
    assert not caplog.records
    assert "too few or do not match" in aligned.steps[0].text


@pytest.mark.parametrize("n", [20, 60, 400])
def test_sources_that_do_not_match_are_told_and_the_wcs_stays(rng, caplog, n):
    aligned = align(*pair(rng, sky(rng, n), sky(rng, n)))
    assert error_of(aligned) < 1e-6
    assert aligned.steps[0].values["n_unmatched"] >= 8
    assert "no 3 of them match" in caplog.text


@pytest.mark.parametrize("n", [0, 3, 40])
def test_hot_pixels_do_not_overrule_a_wcs(rng, n):
    stars = sky(rng, n)
    assert error_of(align(*pair(rng, stars, stars, hot=100))) < 0.1


def test_subtract_with_a_wrong_wcs_finds_nothing_in_a_constant_sky(rng):
    stars = sky(rng, 200)
    image, to = pair(rng, stars, stars, off=(12.0, -6.0))
    diff = ag.subtract(to, image)
    assert diff.metrics["flux_ratio"] == pytest.approx(1.0, abs=0.02)
    assert len(ag.detect(diff)) == 0


def test_subtract_says_in_quality_that_nothing_matches(rng):
    image, to = pair(rng, sky(rng, 300), sky(rng, 300))
    diff = ag.subtract(to, image, flux_ratio=1.0)
    judged = ag.quality(diff)
    assert judged.verdict == "bad"
    assert any("sources in common sky match" in reason for reason in judged.reasons)
