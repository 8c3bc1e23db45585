"""Rows that the read-out left dark beside saturated stars: flagged, their candidates too; none where there are none."""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu._star_lines import star_lines
from astrid_gpu.flags import CandidateFlag, PixelFlag
from astrid_gpu.image import Image
from astrid_gpu.ops.psf_stamps import moffat_stamp
from tests.hand_made import add_source

SHAPE = (320, 400)
PSF = moffat_stamp(3.2, 3.0, 41)
STARS = [(120.3, 250.6, 6e6), (240.0, 90.2, 3e6)]
FULL = 60_000.0


def field(rng, dark):
    """Two exposures with two saturated stars and many others; `dark` is taken off rows left of the first in science."""
    sky = np.zeros(SHAPE)
    for y, x, flux in STARS:
        add_source(sky, PSF, y, x, flux)
    for _ in range(150):
        add_source(sky, PSF, *(rng.uniform(5, n - 6) for n in SHAPE), float(10 ** rng.uniform(3.3, 5)))
    images = []
    for k in range(2):
        seen = rng.poisson(np.maximum(sky, 0) + 400.0).astype(float) + rng.normal(0, 5, SHAPE)
        if k == 0:
            seen[119:123, :225] -= dark
        images.append(Image(np.minimum(seen, FULL), gain=1.0, saturation=FULL, name=("science", "reference")[k]))
    return images


def flagged(diff):
    return (diff.mask & int(PixelFlag.SATURATED_LINE)) != 0


@pytest.mark.parametrize("turned", [False, True])
def test_dark_rows_are_flagged_with_their_candidates(rng, turned):
    images = field(rng, dark=20.0)  # the noise of a pixel
    if turned:
        images = [im.with_(data=np.ascontiguousarray(im.data.T)) for im in images]
    diff = ag.subtract(*images, align="none", backend="numba")
    on = flagged(diff).T if turned else flagged(diff)
    assert on[119:123, 20:200].mean() > 0.95
    off = on.copy()
    off[112:130, :250] = False  # what the PSF spreads of them belongs to them
    assert not off.any()
    cands = ag.detect(diff, backend="numba")
    row, column = (cands["x"], cands["y"]) if turned else (cands["y"], cands["x"])
    there = (np.abs(row - 120.5) < 4) & (column > 10) & (column < 215)
    assert there.sum() >= 5
    assert ((cands["flags"][there] & int(CandidateFlag.SATURATED_LINE)) != 0).all()
    assert any(step.stage == "star lines" for step in diff.steps)
    assert diff.metrics["n_line_pixels"] == on.sum()


@pytest.mark.parametrize("method", ["zogy", "classic"])
def test_saturated_stars_alone_have_none(rng, method):
    diff = ag.subtract(*field(rng, dark=0.0), align="none", backend="numba", method=method)
    # Some 10^3 lines are looked at; by chance one at 6 sigma is out of the question, and spikes there are none.
    assert not flagged(diff).any()
    assert diff.metrics["n_line_pixels"] == 0


@pytest.mark.parametrize("shape", [(40, 40), (70, 300), (300, 70), (200, 200)])
def test_stars_at_edges_and_in_small_frames_do_no_harm(rng, shape):
    score, mask = rng.normal(size=shape), np.zeros(shape, np.uint16)
    for y, x in [(0, 0), (shape[0] // 2, shape[1] - 6), (shape[0] - 5, shape[1] // 2)]:
        mask[y : y + 5, x : x + 6] = PixelFlag.SATURATED_REFERENCE
    score[mask != 0] = np.nan
    assert not star_lines(score, mask, 2.5, 1.0).any()
