"""`quality` against noise of known correlation, and against differences that are wrong in one known way."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.errors import InputError
from astrid_gpu.flags import PixelFlag
from astrid_gpu.ops.gaussianity import autocorrelation, expected_peaks, expected_tail, moment_scatter, moments
from astrid_gpu.ops.psf_stamps import gaussian_stamp, moffat_stamp
from tests.hand_made import hand_made, matched, stacked
from tests.scenes import noisy_pair


@pytest.mark.parametrize("stride", [1, 2])
def test_scatter_of_moments_and_tails_of_a_correlated_field(rng, stride):
    """Many fields of matched-filtered noise: the scatter from field to field is the one that is foretold."""
    psf, n_fields, side = moffat_stamp(2.6, 3.0, 21), 400, 64
    norm = np.sqrt(np.sum(psf**2))
    fields = [matched(rng.normal(size=(side, side)), psf)[::stride, ::stride] / norm for _ in range(n_fields)]
    rho, n = autocorrelation(psf, stride), fields[0].size
    found = np.array([moments(f.ravel()) for f in fields])
    room = 1 + 4 / np.sqrt(2 * n_fields)  # of a standard deviation, 4 of its own
    for order, values in ((1, found[:, 0]), (2, found[:, 1] ** 2), (3, found[:, 2]), (4, found[:, 3])):
        want = moment_scatter(rho, n, order)
        # Dividing by the measured variance takes a few per cent off the scatter of the third and fourth moments.
        assert want / room / 1.08 < np.std(values) < want * room * 1.08, order
    for sigma in (2.0, 3.0):
        counts = [np.count_nonzero(f > sigma) for f in fields]
        mean, scatter = expected_tail(sigma, rho, n)
        assert abs(np.mean(counts) - mean) < 4 * scatter / np.sqrt(n_fields)
        # Counts are skewed: their scatter is known less well than that of a Gaussian.
        assert scatter / room / 1.1 < np.std(counts) < scatter * room * 1.1


def test_tail_of_independent_pixels_is_binomial():
    p = 0.0013498980316300933
    mean, scatter = expected_tail(3.0, np.ones((1, 1)), 100_000)
    assert mean == pytest.approx(1e5 * p)
    assert scatter == pytest.approx(np.sqrt(1e5 * p * (1 - p)), rel=1e-6)


def test_peaks_of_noise_are_as_many_as_detect_finds(rng):
    psf = gaussian_stamp(3.5, 23)
    want = 2 * expected_peaks(3.5, psf, 600**2)
    n = len(ag.detect(hand_made(rng, psf, shape=(600, 600)), 3.5, backend="numba"))
    assert 0.85 * want - 4 * np.sqrt(want) < n < want + 4 * np.sqrt(want)  # maxima between pixels are lost


def test_blank_sky_is_good_and_chance_seldom_says_otherwise(rng):
    """A dozen blank fields: every one good. Each check grants 4 standard deviations, and there are some 20."""
    for psf in (gaussian_stamp(2.4, 21), moffat_stamp(3.2, 3.0, 35)):
        for shape in ((64, 64), (150, 200), (400, 300)):
            for _ in range(2):
                found = ag.quality(hand_made(rng, psf, shape=shape), threshold=5.0)
                assert found.verdict == "good", found
                assert found.score_std == pytest.approx(1, abs=5 / np.sqrt(found.n_independent))


def reasons(found):
    """Names of the checks that were not passed."""
    return {check.name for check in found.checks if check.verdict != "good"}


@pytest.fixture(scope="module")
def field():
    return ag.simulate.pair(seed=11, shape=(384, 384), n_changes=8)


def test_a_good_pair_is_good(field):
    found = ag.quality(ag.subtract(field.science, field.reference))
    assert found.verdict == "good", found
    assert found.n_stars > 15
    assert abs(found.flux_residual) < 0.02
    assert np.hypot(found.offset_y, found.offset_x) < 0.03
    assert found.limiting_magnitude == pytest.approx(
        ag.subtract(field.science, field.reference).metrics["limiting_magnitude"], abs=0.02
    )


def test_a_wrong_flux_ratio_is_named_and_measured(field):
    right = ag.subtract(field.science, field.reference).metrics["flux_ratio"]
    found = ag.quality(ag.subtract(field.science, field.reference, flux_ratio=1.05 * right))
    assert "flux_residual" in reasons(found)
    assert "offset_leak" not in reasons(found)
    assert found.flux_residual == pytest.approx(-0.05, abs=0.01)


def test_misregistration_is_named_and_measured():
    moved = ag.simulate.pair(seed=11, shape=(384, 384), n_changes=8, misregistration=(0.25, -0.15))
    found = ag.quality(ag.subtract(moved.science, moved.reference, align="none", registration="none"))
    assert {"offset_leak", "n_dipoles"} <= reasons(found)
    assert "flux_residual" not in reasons(found)
    # The reference lies at +0.25, -0.15: science is off by the opposite.
    assert found.offset_y == pytest.approx(-0.25, abs=0.03)
    assert found.offset_x == pytest.approx(0.15, abs=0.03)


def test_a_wrong_psf_is_named(field):
    width = ag.subtract(field.science, field.reference).metrics["fwhm_science"]
    found = ag.quality(ag.subtract(field.science, field.reference, psf_science=f"gaussian:{1.3 * width}"))
    assert "width_leak" in reasons(found)
    assert found.width_residual < -0.05
    assert found.verdict != "good"


def test_correlated_noise_is_named(rng):
    """Noise smoothed over neighbours, given to the engine as white of the same variance a pixel."""
    scene = noisy_pair(rng, (256, 256), gain=(1e9, 1e9))
    kernel = np.array([0.5, 1.0, 0.5])
    kernel /= np.sqrt(np.sum(kernel**2))
    science = rng.normal(0, 5, (256, 256))
    for axis in (0, 1):
        science = sum(w * np.roll(science, k, axis) for w, k in zip(kernel, (-1, 0, 1), strict=True))
    found = ag.quality(ag.zogy(science, scene.reference, **scene.kwargs))
    assert {"spatial_correlation", "score_std"} <= reasons(found)
    assert found.spatial_correlation > 0.3
    assert not {"offset_leak", "flux_residual"} & reasons(found)


def test_masks_are_counted_and_named(field):
    mask = np.zeros(field.science.shape, np.uint8)
    mask[:150] = 1
    found = ag.quality(ag.subtract(field.science, field.reference, mask_science=mask))
    assert "masked_fraction" in reasons(found)
    assert found.masked_fraction == pytest.approx(150 / 384, abs=0.03)
    assert found.pixel_flags["BAD_SCIENCE"] >= 150 * 384
    saturated = np.where(mask, np.uint8(PixelFlag.SATURATED_SCIENCE), np.uint8(0))
    blank = hand_made(np.random.default_rng(1), moffat_stamp(2.6, 3.0, 21), shape=mask.shape, mask=saturated)
    assert {"masked_fraction", "saturation_fraction"} <= reasons(ag.quality(blank))


def test_noise_that_is_not_gaussian_or_not_uniform_is_named(rng):
    psf = gaussian_stamp(2.4, 21)
    heavy = hand_made(rng, psf, shape=(300, 300), extra=rng.standard_t(2.5, (300, 300)))
    assert reasons(ag.quality(heavy)) & {"kurtosis", "tail_3", "tail_4"}
    uneven = hand_made(rng, psf, shape=(300, 300), extra=rng.normal(size=(300, 300)) * np.linspace(0, 1, 300))
    assert "uniformity" in reasons(ag.quality(uneven))
    tilted = hand_made(rng, psf, shape=(300, 300), extra=np.linspace(-0.3, 0.3, 300)[None] * np.ones((300, 1)))
    assert "sky_residual" in reasons(ag.quality(tilted))


def test_result_is_plain_and_tells(rng):
    diff = hand_made(rng, gaussian_stamp(2.4, 21), [(60, 60, 30.0)], shape=(128, 128))
    cands = ag.detect(diff, 6.0)
    found = ag.quality(diff, cands)
    assert found.n_candidates == len(cands) == 1
    assert found.threshold == 6.0
    assert found.to_dict() == json.loads(json.dumps(found.to_dict()))
    assert found.to_dict()["limiting_magnitude"] is None
    assert found.verdict in repr(found)
    assert found.line().startswith(found.verdict)
    for check in found.checks:
        assert check.verdict == (
            "good" if check.value <= check.good else "usable" if check.value <= check.usable else "bad"
        )


def test_stacks_and_missing_maps_are_refused(rng):
    one = hand_made(rng, gaussian_stamp(2.4, 21))
    with pytest.raises(InputError, match="stack of 2"):
        ag.quality(stacked([one, one]))
    assert ag.quality(stacked([one])).verdict == ag.quality(one).verdict
    with pytest.raises(InputError, match="score_corr"):
        ag.quality(replace(one, score_corr=None))
    with pytest.raises(InputError, match="usable"):
        ag.quality(replace(one, score_corr=np.full((128, 128), np.nan)))
