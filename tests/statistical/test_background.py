"""How near the truth the background comes, and whether it is as good as sep's on the same frames.

The error of a level has two parts: a bias, from star light that the clipping leaves, and a scatter from box to box.
In a box of m pixels the mode 2.5 median - 1.5 mean of a Gaussian scatters by sigma sqrt(4.57 / m): 6.25 pi / 2 for the
median, 2.25 for the mean, and 2 * 3.75 off for their correlation.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.ops.background import clipped_width

SIDE, BOX, FRAMES, SIGMA = 512, 64, 4, 10.0
BOXES = FRAMES * (SIDE // BOX) ** 2
BOX_ERROR = SIGMA * np.sqrt((6.25 * np.pi / 2 + 2.25 - 7.5) / BOX**2)  # of one box's level
LEVEL_ERROR = BOX_ERROR / np.sqrt(BOXES)  # of the mean over all frames
RMS_ERROR = 4 * 1.33 / np.sqrt(2 * BOX**2 * BOXES)  # relative, 4 sigma: 1 / sqrt(2 m), a third more after clipping
AS_GOOD = 1.05  # of sep's own error: differences in how ties and edges are treated are a few per cent

FIELDS = {
    "blank": {},
    "sloping": {"slope": 1.0},
    "stars": {"stars": 200},
    "stars on a slope": {"stars": 200, "slope": 1.0},
    "crowded on a slope": {"stars": 1500, "slope": 1.0},
    "whole counts": {"stars": 200, "slope": 0.1, "quantum": 5.0},
    "boxes that do not fit": {"slope": 1.0, "shape": (500, 531)},
}


def frame(seed, stars=0, slope=0.0, quantum=0.0, shape=(SIDE, SIDE)):
    """Return an image of Gaussian noise, Moffat stars (fluxes ~ N^-0.8) and a curved sky, and that sky."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    v, u = y / shape[0], x / shape[1]
    sky = 300 + slope * (40 * u + 25 * v**2 + 15 * np.sin(4 * u) * v)
    image = sky + SIGMA * rng.standard_normal(shape)
    fluxes = np.minimum(500 * (rng.pareto(0.8, stars) + 1), 3e6)
    reach, alpha, beta = 30, 2.2, 2.5
    for flux, cy, cx in zip(fluxes, rng.uniform(0, shape[0], stars), rng.uniform(0, shape[1], stars), strict=True):
        rows = slice(max(0, int(cy) - reach), int(cy) + reach)
        columns = slice(max(0, int(cx) - reach), int(cx) + reach)
        r2 = ((y[rows, columns] - cy) ** 2 + (x[rows, columns] - cx) ** 2) / alpha**2
        image[rows, columns] += flux * (beta - 1) / (np.pi * alpha**2) * (1 + r2) ** -beta
    if quantum:
        image = quantum * np.round(image / quantum)
    return image.astype(np.float32), sky


@cache
def errors(field):
    """Return (level bias, level scatter, relative rms bias) in units of sigma for us and for sep, frame averages."""
    sep = pytest.importorskip("sep")
    ours, theirs = [], []
    for seed in range(FRAMES):
        image, sky = frame(seed, **FIELDS[field])
        background = ag.estimate_background(image, box=BOX, backend="numpy")
        peer = sep.Background(image, bw=BOX, bh=BOX, fw=3, fh=3)
        for found, level, rms in ((ours, background.level, background.rms), (theirs, peer.back(), peer.rms())):
            off = (level - sky) / SIGMA
            found.append((off.mean(), off.std(), rms.mean() / SIGMA - 1))
    print(f"{field}: ours {np.mean(ours, 0).round(4)}, sep {np.mean(theirs, 0).round(4)} (bias, scatter, rms - 1)")
    return np.mean(ours, axis=0), np.mean(theirs, axis=0)


@pytest.mark.parametrize("field", FIELDS)
def test_the_level_is_as_good_as_seps(field):
    ours, theirs = errors(field)
    assert abs(ours[0]) <= abs(theirs[0]) + 4 * LEVEL_ERROR / SIGMA
    assert ours[1] <= AS_GOOD * theirs[1]


@pytest.mark.parametrize("field", FIELDS)
def test_the_rms_is_as_good_as_seps(field):
    """Star light widens what the clipping leaves, for both alike.

    sep's rms is besides 1.5 % too small, by the wings that the clipping cut off; on a flat field with few stars the two
    errors happen to cancel. So that luck is no standard, its rms is taken with our correction for the wings.
    """
    ours, theirs = errors(field)
    corrected = (1 + theirs[2]) / clipped_width(3.0) - 1
    assert abs(ours[2]) <= abs(corrected) + RMS_ERROR


def test_the_rms_of_blank_sky_is_better_than_seps():
    ours, theirs = errors("blank")
    assert abs(ours[2]) + RMS_ERROR < abs(theirs[2])


def test_blank_sky_is_unbiased():
    level, scatter, width = errors("blank")[0]
    assert abs(level) < 4 * LEVEL_ERROR / SIGMA
    assert scatter < 1.1 * BOX_ERROR / SIGMA  # the filter takes some away, the corners give some back
    assert abs(width) < 0.005  # half of what S_corr may be off by (design, section 9)


def test_a_slope_does_not_bias_the_rms():
    blank, sloping = errors("blank")[0][2], errors("sloping")[0][2]
    assert abs(sloping - blank) < 0.002


def test_rounding_to_counts_costs_no_accuracy():
    """Counts half as large as the noise: the scatter stays that of the same frames before rounding."""
    counts = [frame(seed, quantum=5.0) for seed in range(FRAMES)]
    exact = [frame(seed) for seed in range(FRAMES)]
    scatter = [
        np.mean([np.std(ag.estimate_background(i, box=BOX, backend="numpy").level - sky) for i, sky in frames])
        for frames in (counts, exact)
    ]
    # rounding adds quantum^2 / 12 to the variance: 1 % in sigma
    assert scatter[0] < 1.1 * scatter[1]
