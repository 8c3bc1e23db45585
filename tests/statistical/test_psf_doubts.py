"""Doubts about a measured PSF: told of galaxies and of few stars, never of a star field."""

from __future__ import annotations

import logging

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu._psf_check import StackWarnings
from astrid_gpu._psf_doubts import width_scatter
from astrid_gpu.results import Step
from astrid_gpu.stars import STAR_DTYPE
from tests.star_fields import field_pair

pytest.importorskip("astropy", reason="the simulated WCS needs astropy")


def galaxies(seed, n=25):
    """Two epochs of n small exponential discs, half-light radii of 3 to 10 px, and no star."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng([seed, 41])
    rows, columns = np.mgrid[:300, :340]
    sky = np.zeros(rows.shape)
    for _ in range(n):
        y, x, size, ratio = rng.uniform((20, 20, 2, 0.4), (280, 320, 6, 1.0))
        disc = np.exp(-1.68 * np.hypot(columns - x, (rows - y) / ratio) / size)
        sky += 3e4 * disc / disc.sum()
    sky = gaussian_filter(sky, 1.3)
    return [ag.Image(rng.poisson((f * sky + 200) * g) / g, gain=g, read_noise=5.0) for f, g in ((1.0, 1.5), (1.2, 6.0))]


def steps_of(diff):
    return [step for step in diff.steps if step.stage == "psf"]


def test_galaxies_taken_for_stars_are_told(caplog):
    told = []
    for seed in range(6):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "astrid_gpu"):
            diff = ag.subtract(*galaxies(seed), align="none")
        said = [r.getMessage() for r in caplog.records if "measured PSF in doubt" in r.getMessage()]
        told.append(len(said))
        if said:
            assert any("; in doubt: " in step.text for step in steps_of(diff))
            found = ag.quality(diff)
            assert found.verdict != "good"
            assert any(reason.startswith("measured PSF in doubt: ") for reason in found.reasons)
    assert max(told) == 1
    assert sum(told) >= 5  # one field of a few alike may pass


def test_star_fields_raise_no_doubt(caplog):
    with caplog.at_level(logging.WARNING, "astrid_gpu"):
        for seed in range(10):
            field = ag.simulate.pair(seed=seed, shape=(300, 300))
            diff = ag.subtract(field.science, field.reference)
            assert all(step.values["doubts"] == [] for step in steps_of(diff))
            assert all(step.values["width_scatter"] < 0.03 for step in steps_of(diff))
    assert not [r for r in caplog.records if "doubt" in r.getMessage()]


def test_three_stars_are_few(rng, caplog):
    science, reference = (f.image for f in field_pair(rng, n=3))
    with caplog.at_level(logging.WARNING, "astrid_gpu"):
        diff = ag.subtract(science, reference)
    assert [step.values["doubts"] for step in steps_of(diff)] == [["fewer than 5 stars: 3"]] * 2
    said = [r.getMessage() for r in caplog.records if "doubt" in r.getMessage()]
    assert len(said) == 1
    assert "give psf_science and psf_reference if known" in said[0]
    assert ag.quality(diff).verdict == "usable"


def test_given_psfs_are_in_no_doubt(rng):
    science, reference = (f.image for f in field_pair(rng, n=3))
    diff = ag.subtract(science, reference, psf_science="moffat:3.0,3.0", psf_reference="moffat:4.0,3.0")
    assert all(step.values["doubts"] == [] for step in steps_of(diff))


def test_widths_that_change_over_the_field_are_no_scatter():
    smooth, rough = [], []
    for seed in range(20):
        rng = np.random.default_rng([seed, 42])
        stars = np.zeros(60, STAR_DTYPE)
        stars["y"], stars["x"] = rng.uniform(0, 999, (2, 60))
        stars["snr"] = np.exp(rng.uniform(np.log(20), np.log(500), 60))
        u, v = stars["y"] / 500 - 1, stars["x"] / 500 - 1
        stars["fwhm"] = 3.0 * np.exp(0.2 * u + 0.15 * v**2 + rng.normal(size=60) / stars["snr"])
        smooth.append(width_scatter(stars, (1000, 1000)))
        stars["fwhm"] *= np.exp(0.15 * rng.normal(size=60))
        rough.append(width_scatter(stars, (1000, 1000)))
    assert max(smooth) < 0.08
    assert np.median(smooth) < 0.02
    assert np.median(rough) == pytest.approx(0.15, abs=0.02)
    assert np.isnan(width_scatter(stars[:4], (1000, 1000)))


def test_a_stack_is_warned_of_once(caplog):
    step = {
        role: Step("psf", "", {"role": role, "doubts": ["fewer than 5 stars: 2"]}) for role in ("science", "reference")
    }
    with caplog.at_level(logging.WARNING, "astrid_gpu"), StackWarnings() as told:
        told.add([], "a")
        told.add(step.values(), "b")
        told.add(step.values(), "c")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0].startswith("measured PSF in doubt: reference: fewer than 5 stars: 2")
    assert said[1].startswith("2 of 3 exposures' PSFs are in doubt; first, b: measured PSF in doubt: science: ")
