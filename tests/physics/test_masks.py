"""Holes, saturated stars with bled charge, stars on the border: nothing false beside them, nothing finite in them."""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.flags import INVALID, PixelFlag
from tests.scenes import moffat_psf, noisy_pair

SHAPE = (256, 256)


def broken(rng, scene):
    """Science and reference of a scene with blocks of NaN, clipped stars and dead columns, in either image."""
    science, reference = scene.science.copy(), scene.reference.copy()
    science[100:140, 60:75] = np.nan
    reference[30:34, 150:250] = np.nan
    science[:, 200] = np.nan
    mask = np.zeros(SHAPE, np.uint8)
    clipped = science > 20000
    science[clipped] = 20000
    mask[clipped] |= int(PixelFlag.SATURATED_SCIENCE)
    full = reference > 15000
    reference[full] = 15000
    mask[full] |= int(PixelFlag.SATURATED_REFERENCE)
    return science, reference, mask


def test_no_false_peak_beside_holes_saturated_and_border_stars(rng):
    """No finite pixel outside the flagged footprint exceeds 5 sigma; within it no more than chance does."""
    sources = [(80.3, 90.7, 3e6), (180.0, 40.2, 1e6), (-1.0, 120.0, 4e5), (128.0, 255.4, 4e5), (120.0, 76.5, 2e5)]
    sources += [(float(y), float(x), 2e4) for y, x in rng.uniform(5, 250, (40, 2))]
    scene = noisy_pair(rng, SHAPE, sources=sources)
    science, reference, mask = broken(rng, scene)
    diff = ag.zogy(science, reference, **scene.kwargs, mask=mask, outputs=("difference", "score_corr", "flux"))
    assert (mask & int(PixelFlag.SATURATED_SCIENCE)).any()
    invalid = (diff.mask & INVALID) != 0
    for plane in (diff.difference, diff.score_corr, diff.flux, diff.flux_error):
        np.testing.assert_array_equal(np.isnan(plane), invalid)
    score = np.where(invalid, 0, diff.score_corr)
    assert np.abs(score[diff.mask == 0]).max() < 5.0
    # In reach of a hole the fill's error is counted: two warnings in 65536 pixels would be a surprise by chance, too.
    assert np.count_nonzero(np.abs(score) > 5.0) <= 1


@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_through_subtract_with_everything_estimated(seed):
    """A saturated star with bled charge, a NaN block and a border star on a simulated pair: no unflagged candidate."""
    pair = ag.simulate.pair(seed=seed, shape=(320, 320), n_changes=0)
    rng = np.random.default_rng(seed)
    planes = []
    for image, scale, psf in zip((pair.science, pair.reference), (0.94, 1.0), pair.frames, strict=True):
        data = image.data.astype(float)
        stamp = moffat_psf(float(psf.psf.fwhm), 3.5, 121)
        for y, x, flux in ((160, 150, 4e6), (2, 80, 3e4), (250, 318, 3e4)):
            rows, columns = np.arange(320)[:, None] - y, np.arange(320)[None] - x
            near = (np.abs(rows) <= 60) & (np.abs(columns) <= 60)
            light = np.zeros(data.shape)
            light[near] = scale * flux * stamp[(rows + 60).clip(0, 120), (columns + 60).clip(0, 120)][near]
            data += rng.poisson(light * 6.2) / 6.2
        data[120:200, 149:152] = np.maximum(data[120:200, 149:152], 5.2e4)  # a bleed, full
        data[105:120, 150] += 5e3  # its end
        planes.append(image.with_(data=np.minimum(data, 5e4).astype(np.float32)))
    planes[0].data[40:60, 200:230] = np.nan
    diff = ag.subtract(*planes)
    assert (diff.mask[105:201, 150] & int(PixelFlag.SATURATED_SCIENCE)).all()
    assert (diff.mask[105:201, 150] & int(PixelFlag.SATURATED_REFERENCE)).all()
    assert np.isnan(diff.difference[(diff.mask & INVALID) != 0]).all()
    score = diff.score_corr[(diff.mask == 0) & np.isfinite(diff.score_corr)]
    # 80 000 correlated pixels: 5 sigma once in 400 such images.
    assert np.abs(score).max() < 5.0
