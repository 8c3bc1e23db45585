"""BRIGHT_STAR among the residuals round a star: what is one of many is flagged, what stands out is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu._among_residuals import _highest_of_blocks
from astrid_gpu.flags import CandidateFlag
from astrid_gpu.image import Image
from astrid_gpu.ops.psf_stamps import moffat_stamp
from tests.hand_made import hand_made, shifted

PSF = moffat_stamp(2.8, 3.0, 31)
SHAPE = (192, 192)
STAR = (96.0, 96.0)


def scene(rng, *, star, residuals, sources):
    """A difference with residuals round a place, and the science image with or without the star that may leave them."""
    from scipy.ndimage import gaussian_filter

    distance = np.hypot(*(axis - centre for axis, centre in zip(np.indices(SHAPE), STAR, strict=True)))
    lumps = gaussian_filter(rng.normal(size=SHAPE), 1.2)
    diff = hand_made(rng, PSF, sources, shape=SHAPE, extra=residuals * lumps / lumps.std() * (distance < 20))
    science = diff.difference.copy()
    if star:
        science = science + 20_000 * shifted(PSF, *STAR, SHAPE)
    return replace(diff, science=science)


def flagged(diff, backend="numpy"):
    cands = ag.detect(diff, 5.0, backend=backend)
    distance = np.hypot(cands["y"] - STAR[0], cands["x"] - STAR[1])
    return cands, distance, (cands["flags"] & int(CandidateFlag.BRIGHT_STAR)) != 0


def test_residuals_round_a_star_are_flagged_and_what_stands_out_is_not(rng):
    source = (110.0, 96.0, 60.0)
    cands, distance, bright = flagged(scene(rng, star=True, residuals=2.5, sources=[source]))
    own = np.hypot(cands["y"] - source[0], cands["x"] - source[1]) < 1.5
    assert own.sum() == 1
    assert not bright[own].any()
    ring = (distance > 4) & (distance < 14) & ~own  # nearer the rim half of the surroundings is quiet
    assert ring.sum() >= 8
    assert bright[ring].mean() > 0.9


def test_without_a_star_they_are_none_of_its(rng):
    cands, _, bright = flagged(scene(rng, star=False, residuals=2.5, sources=[]))
    assert len(cands) > 10
    assert not bright.any()


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_beside_a_star_that_leaves_nothing_a_source_is_free(rng, backend):
    sources = [(96.0, 96.0 + 8.0, 7.0), (96.0 - 12.0, 96.0, 10.0), (120.0, 110.0, 8.0)]
    cands, _, bright = flagged(scene(rng, star=True, residuals=0.0, sources=sources), backend)
    assert len(cands) >= len(sources)
    assert not bright.any()


def test_stars_of_a_psf_that_is_too_narrow_are_told(rng):
    """A frame of which the given PSF is a fifth narrower than its stars: nothing unflagged near the brightest."""
    science, reference = np.zeros(SHAPE), np.zeros(SHAPE)
    wide, narrow = moffat_stamp(3.4, 2.5, 61), moffat_stamp(2.8, 2.5, 61)
    for y, x, flux in [(*STAR, 4e6), *((*rng.uniform(15, 177, 2), 2e4) for _ in range(25))]:
        science += flux * shifted(wide, y + 0.03, x, SHAPE)
        reference += flux * shifted(moffat_stamp(3.2, 2.5, 61), y, x, SHAPE)
    images = [Image(rng.normal(200 + plane, np.sqrt(200 + plane)), gain=1.0) for plane in (science, reference)]
    diff = ag.subtract(*images, psf_science=narrow, psf_reference=narrow, align="none", backend="numpy")
    _, distance, bright = flagged(diff)
    near = (distance > 6) & (distance < 30)
    assert near.sum() >= 3
    assert bright[near].mean() > 0.7


@pytest.mark.parametrize("side", [1, 2, 3, 7])
def test_the_brightest_near_is_that_of_the_whole_blocks(rng, side):
    image = rng.normal(size=(53, 61)).astype(np.float32)
    image[rng.random(image.shape) < 0.3] = np.nan
    image[:14, :14] = np.nan
    found = _highest_of_blocks(ag.get_backend("numpy"), image, side)
    for row, column in np.ndindex(found.shape):
        block = image[row * side : (row + 1) * side, column * side : (column + 1) * side]
        assert found[row, column] == np.nanmax(np.append(block, -np.inf))
