"""`subtract` end to end, estimating everything: noise, false alarms, fluxes and positions against the simulated truth.

Nothing is given: sky, noise, PSFs, registration and flux ratio come from the pixels of five fields of 400 x 400 with
30 changes of S/N 20 each, new, vanished and varying, on blank sky and on galaxies. Tolerances come from n.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from scipy import stats
from scipy.ndimage import label

import astrid_gpu as ag

pytest.importorskip("astropy", reason="the simulated WCS needs astropy")

SEEDS = range(100, 105)
SNR = 20.0
FLUX_RATIO = ag.simulate.SCIENCE.flux_scale / ag.simulate.REFERENCE.flux_scale


class Field(NamedTuple):
    """One field: the truth, what came out, S_corr before renormalisation, and where there is nothing to find."""

    truth: np.ndarray
    diff: ag.Difference
    candidates: ag.Candidates
    raw: np.ndarray
    empty: np.ndarray


@pytest.fixture(scope="module")
def fields():
    found = []
    for seed in SEEDS:
        pair = ag.simulate.pair(seed=seed, shape=(400, 400), n_changes=30, snr=(SNR, SNR))
        diff = ag.subtract(pair.science, pair.reference)
        y, x = np.ogrid[:400, :400]
        empty = diff.mask == 0
        for source in pair.truth:
            empty &= np.hypot(y - source["y"], x - source["x"]) > 14  # five FWHM
        raw = diff.score_corr * diff.metrics["renormalise_factor"]
        found.append(Field(pair.truth, diff, ag.detect(diff), raw, empty))
    return found


@pytest.fixture(scope="module")
def matched(fields):
    """Rows of (candidate, true source) for the sources that no bad pixel touches: a list of pairs."""
    pairs = []
    for field in fields:
        rows = field.candidates.data
        for source in field.truth[np.abs(field.truth["snr"]) > 10]:
            distance = np.hypot(rows["x"] - source["x"], rows["y"] - source["y"])
            nearest = np.argmin(distance)
            at = field.diff.mask[round(source["y"]), round(source["x"])]
            if at == 0:
                assert distance[nearest] < 1, source
                pairs.append((rows[nearest], source))
    assert len(pairs) > 100  # most of 150: the sample is large enough for what follows
    return pairs


def test_raw_width_is_1_within_5_per_cent(fields):
    """Before renormalisation: the noise model itself holds, in the core and as a standard deviation."""
    for field in fields:
        assert field.diff.metrics["score_corr_std_raw"] == pytest.approx(1.0, abs=0.05)
        assert field.raw[field.empty].std() == pytest.approx(1.0, abs=0.05)


def test_the_mean_is_zero(fields):
    """The sky was fitted in the same pixels, so the mean is nearer to zero than that of independent noise."""
    for field in fields:
        independent = field.empty.sum() / 25  # the area of the autocorrelation of S is about 25 pixels
        assert abs(field.raw[field.empty].mean()) < 5 / np.sqrt(independent)


@pytest.mark.parametrize("threshold", [3.5, 4.0, 5.0])
def test_false_alarms_come_at_the_gaussian_rate(fields, threshold):
    """Pixels beyond the threshold, on static stars too, against a Gaussian; they come in clumps, which are Poisson."""
    beyond = [np.where(f.empty, np.abs(f.raw), 0) > threshold for f in fields]
    pixels = sum(int(b.sum()) for b in beyond)
    clumps = sum(label(b)[1] for b in beyond)
    expected = 2 * stats.norm.sf(threshold) * sum(int(f.empty.sum()) for f in fields)
    per_clump = max(pixels / max(clumps, 1), 1.0)
    low, high = stats.poisson.ppf([1e-4, 1 - 1e-4], expected / per_clump) * per_clump
    assert low <= pixels <= high, (pixels, expected, clumps)


def test_no_false_candidate_on_clean_pixels(fields):
    """What `detect` calls a candidate without any flag, away from the truth: as many as the Gaussian tail gives."""
    false = sum(
        int(np.sum(f.empty[np.rint(f.candidates["y"]).astype(int), np.rint(f.candidates["x"]).astype(int)]))
        for f in fields
    )
    expected = 2 * stats.norm.sf(5.0) * sum(int(f.empty.sum()) for f in fields)
    assert false <= stats.poisson.ppf(1 - 1e-4, expected)


def test_every_change_is_found_with_its_sign(matched):
    for row, source in matched:
        assert row["polarity"] == source["polarity"], source
    scores = np.array([row["score"] / source["snr"] for row, source in matched])
    # expected significance, renormalised by the measured width: its mean, up to 5 % of the width, and 1/S/N each
    assert np.mean(scores) == pytest.approx(1.0, abs=0.05 + 4 / SNR / np.sqrt(len(scores)))


def test_flux_ratios_are_right_within_their_errors(fields):
    pulls = [(f.diff.metrics["flux_ratio"] - FLUX_RATIO) / f.diff.metrics["flux_ratio_error"] for f in fields]
    assert np.max(np.abs(pulls)) < 4
    assert abs(np.mean(pulls)) < 4 / np.sqrt(len(pulls))


def test_fluxes_are_unbiased_and_their_errors_true(fields, matched):
    pulls = np.array([(row["flux"] - source["flux"]) / row["flux_error"] for row, source in matched])
    pulls *= [source["polarity"] for _, source in matched]
    n = len(pulls)
    # The flux ratio's own error goes into every flux; a maximum over two coordinates adds 1 / S/N; the flux scale is
    # promised to 0.5 %.
    ratio = np.mean([f.diff.metrics["flux_ratio_error"] / f.diff.metrics["flux_ratio"] for f in fields])
    assert abs(pulls.mean() - 1 / SNR) < 4 / np.sqrt(n) + SNR * (0.005 + ratio)
    assert pulls.std() == pytest.approx(1.0, abs=4 / np.sqrt(2 * n))
    ratios = np.array([row["flux"] / source["flux"] for row, source in matched])
    assert np.median(ratios) == pytest.approx(1.0, abs=0.005 + 1 / SNR**2 + 4 * 1.25 / SNR / np.sqrt(n))


def test_positions_are_good_to_a_tenth_of_a_pixel_at_snr_20(matched):
    for axis in ("x", "y"):
        error = np.array([row[axis] - source[axis] for row, source in matched])
        n = len(error)
        assert error.std() < 0.1
        assert abs(error.mean()) < 4 * 0.1 / np.sqrt(n)
