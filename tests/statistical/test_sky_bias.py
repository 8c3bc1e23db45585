"""No sky left in the difference: S_corr is centred on zero with gradients, crowds and offsets; and a step says it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import astrid_gpu as ag

pytest.importorskip("astropy", reason="the simulated WCS needs astropy")

SHAPE = (360, 400)


def gradient(image, slope, offset=0.0):
    """The image with a sky that rises by `slope` across the frame and bends."""
    y, x = np.indices(image.shape)
    v, u = y / image.shape[0] - 0.5, x / image.shape[1] - 0.5
    return image.with_(data=(image.data + offset + slope * (u + 0.5 * v + u * v)).astype(np.float32))


@pytest.mark.parametrize(
    ("n_stars", "slope", "offset"),
    [(200, 0.0, 0.0), (200, 60.0, 500.0), (4000, 0.0, 0.0), (4000, 40.0, -30.0)],
    ids=["plain", "gradient", "crowded", "crowded, gradient"],
)
def test_s_corr_is_centred(n_stars, slope, offset):
    pair = ag.simulate.pair(seed=n_stars + 7, shape=SHAPE, n_stars=n_stars, n_changes=0)
    science = gradient(pair.science, slope, offset)
    diff = ag.subtract(science, pair.reference, align="none", renormalise="none")
    clean = diff.score_corr[(diff.mask == 0) & np.isfinite(diff.score_corr)]
    independent = clean.size / 25  # the area of the autocorrelation of S is about 25 pixels
    allowed = max(5 * 1.25 / np.sqrt(independent), 0.05)
    assert abs(np.median(clean)) < allowed
    assert diff.metrics["score_corr_median"] == pytest.approx(float(np.median(clean)), abs=0.01)
    # Each quarter for itself: no gradient is left either.
    for half in (np.s_[:180, :200], np.s_[:180, 200:], np.s_[180:, :200], np.s_[180:, 200:]):
        part = diff.score_corr[half][(diff.mask[half] == 0) & np.isfinite(diff.score_corr[half])]
        assert abs(np.median(part)) < max(5 * 1.25 / np.sqrt(part.size / 25), 0.1)
    said = [
        step for step in diff.steps if step.stage == "background" and "left in the difference, taken off" in step.text
    ]
    assert len(said) == 1
    assert np.isfinite(said[0].values["offset"])
    assert np.isfinite(diff.metrics["offset"])


def test_an_offset_that_is_left_is_reported():
    """With the background left alone as asked, S is off, and the step says by how much a pixel."""
    pair = ag.simulate.pair(seed=5, shape=SHAPE, n_changes=0)
    images = [
        image.with_(data=image.data - exposure.sky, background_level=exposure.sky)
        for image, exposure in zip((pair.science, pair.reference), pair.exposures, strict=True)
    ]
    shifted = images[0].with_(data=images[0].data + 3.0)
    diff = ag.subtract(shifted, images[1], align="none", background=False)
    said = next(step for step in diff.steps if "left in the difference, left, as asked" in step.text)
    assert said.values["offset"] == pytest.approx(3.0, abs=0.5)


def test_few_stars_fall_to_a_moffat_profile_and_then_to_an_error():
    """Each said: a field of three stars, a field of none, and one where the profile is given."""
    from astrid_gpu.errors import PsfError

    rng = np.random.default_rng(3)
    exposure = replace(ag.simulate.SCIENCE, sky=100.0)
    places = [(40.0, 30.0), (70.0, 80.0), (100.0, 60.0)]
    frames = []
    for n in (3, 0):
        data = 100 + 7 * rng.normal(size=(140, 120))
        for y, x in places[:n]:
            ag.simulate.draw_stars(data, [x], [y], [2e4], exposure.psf)
        frames.append(ag.Image(data.astype(np.float32), gain=2.0, name=f"{n} stars"))
    diff = ag.subtract(frames[0], frames[0].with_(name="again"), align="none")
    said = [step for step in diff.steps if step.stage == "psf"]
    assert all("moffat fit" in step.text and "fewer than 5 good stars" in step.text for step in said)
    assert all(step.values["origin"] == "moffat fit" and step.values["n_stars"] == 3 for step in said)
    with pytest.raises(PsfError, match=r"0 stars: no PSF can be measured: .*Give a PSF stamp"):
        ag.subtract(frames[1], frames[1], align="none")
    given = ag.subtract(frames[1], frames[1], align="none", psf_science="moffat:2.5", psf_reference="moffat:2.5")
    ratio = next(step for step in given.steps if step.stage == "flux ratio")
    assert ratio.values["method"] == "assumed"
    assert "no source common to both" in ratio.text
