"""What masks, trails and verdicts add to a pair, each with its error: bad lines, the trail search, `quality`.

All run on the host whatever the backend. The error of the bad lines is the share of pixels of the true ones and of the
found ones that they do not have in common, that of the trails the share of the trail's pixels that is not covered, and
that of the verdict how far the width of S_corr on blank sky is from 1, chance included.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from astrid_gpu._bad_lines import bad_lines
from astrid_gpu._trails import find_trails, trail_mask
from astrid_gpu.detect import detect
from astrid_gpu.ops.psf_stamps import fwhm_of, moffat_stamp
from astrid_gpu.quality import quality
from benchmarks.harness import Work
from tests.hand_made import hand_made

pytest.importorskip("pytest_benchmark")

PSF = moffat_stamp(2.6, 3.0, 31)


@cache
def crossed(side, height=1.4):
    """A difference of white noise, twenty sources and a trail of 4 sigma if it is 1.4 high, and where that is."""
    rng = np.random.default_rng(8)
    y, x = np.indices((side, side))
    across = (x * 0.3 - y + 0.4 * side) / np.hypot(1, 0.3)
    line = np.exp(-0.5 * (across / 1.1) ** 2)
    sources = [(*place, 30.0) for place in rng.uniform(40, side - 40, (20, 2))]
    diff = hand_made(rng, PSF, sources, shape=(side, side), extra=height * line, dtype=np.float32)
    return diff, line > 0.5


def make_lines(side):
    """A frame with a dead half column, a hot column and a dark row; what is returned is mask found and truth."""
    rng = np.random.default_rng(9)
    data = rng.normal(300, 8, (side, side)).astype(np.float32)
    truth = np.zeros(data.shape, bool)
    for where, change in ((np.s_[side // 2 :, side // 3], -300), (np.s_[:, side // 5], 15), (np.s_[side // 7], -20)):
        data[where] += change
        truth[where] = True
    none = np.zeros(data.shape, bool)
    return lambda: (bad_lines(data, none)[0], truth)


def make_trails(side):
    """The trail of `crossed`."""
    diff, truth = crossed(side)
    return lambda: (find_trails(diff.score_corr, diff.mask, fwhm_of(PSF)), truth)


def make_quality(side):
    """The verdict on one without a trail, candidates at hand as on the command line."""
    diff, _ = crossed(side, 0.0)
    candidates = detect(diff)
    return lambda: quality(diff, candidates)


def lines_missed(got):
    found, truth = got
    return np.count_nonzero(found ^ truth) / np.count_nonzero(found | truth)


def trail_missed(got):
    found, truth = got
    return 1 - float(trail_mask(truth.shape, found)[truth].mean())


def width_off(found):
    return abs(found.score_std - 1)


@pytest.mark.parametrize(
    ("name", "maker", "error", "error_of", "tolerance"),
    [
        ("bad lines", make_lines, lines_missed, "pixels", 1e-9),
        ("trails", make_trails, trail_missed, "of the trail", 0.1),
        ("quality", make_quality, width_off, "width", 0.02),
    ],
)
def test_quality(bench, name, maker, error, error_of, tolerance):
    """On one frame."""
    side = 512 if bench.quick else 2048
    work = Work(maker, {"side": side}, {"side": 256})
    bench.row(name, "host", f"{side} x {side}", work, tolerance=tolerance, error=error, error_of=error_of,
              pixels=side * side)  # fmt: skip
