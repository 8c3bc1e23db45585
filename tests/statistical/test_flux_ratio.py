"""flux_ratio: unbiased, with errors that hold, whatever the offset, the outliers and the registration."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu.calibrate import flux_ratio
from astrid_gpu.stars import find_stars
from tests.star_fields import field_pair, stamp_psf

N = 24


def estimate(rng, *, gamma=0.0, **options):
    science, reference = field_pair(rng, **options)
    n, r = science.subtracted(), reference.subtracted()
    n = n.with_(data=n.data + gamma)
    stars = [find_stars(image, background_rms=f.sigma) for image, f in ((n, science), (r, reference))]
    psfs = stamp_psf(science.model), stamp_psf(reference.model)
    return flux_ratio(n, r, *psfs, *stars, science.variance, reference.variance)


@pytest.mark.parametrize(
    "options",
    [{}, {"gamma": 3.0}, {"changed": 0.1}, {"changed": 0.3}, {"beta": 2.5, "fwhm": (4.5, 2.5)}],
    ids=["plain", "offset", "outliers 10 %", "outliers 30 %", "wider science"],
)
def test_ratio_is_right_to_one_percent_and_its_error_holds(rng, options):
    truth = options.get("beta", 0.7)
    found = [estimate(rng, **options) for _ in range(N)]
    ratio = np.array([f.beta / truth for f in found])
    pull = np.array([(f.beta - truth) / f.beta_error for f in found])
    # 18 stars of S/N 50 to 400 give 0.2 to 0.3 %; with a third of them lost and some half-way outliers 0.5 %.
    assert np.abs(ratio - 1).max() < (0.01 if options.get("changed", 0) < 0.3 else 0.02)
    assert {f.method for f in found} == {"stars"}
    # Mean of N pulls: 1 / sqrt(N); width: 1 / sqrt(2 N); three of each. The PSF cut at 4 FWHM moves beta by some 0.1 %,
    # half a sigma of one estimate.
    assert abs(pull.mean()) < 3 / np.sqrt(N) + 0.5
    assert pull.std() == pytest.approx(1.0, abs=3 / np.sqrt(2 * N))


def test_sky_offset_is_recovered(rng):
    found = [estimate(rng, gamma=5.0) for _ in range(N)]
    error = np.array([f.step.values["gamma_error"] for f in found])
    pull = (np.array([f.gamma for f in found]) - 5.0) / error
    assert abs(pull.mean()) < 3 / np.sqrt(N) + 0.5  # half a sigma for the stars' wings, which shift the median
    assert pull.std() == pytest.approx(1.0, abs=3 / np.sqrt(2 * N))


def test_offset_and_scatter_of_the_registration(rng):
    found = [estimate(rng, offset=(0.15, -0.2), jitter=0.05) for _ in range(N)]
    for axis, shift in (("dy", 0.15), ("dx", -0.2)):
        values = np.array([getattr(f, axis) for f in found])
        # 18 stars of 0.05 px: 0.012 px an estimate. The quadratic term of the offset adds up to 3 % of it.
        assert values.std() < 0.012 * (1 + 3 / np.sqrt(2 * N)) * 1.4
        assert values.mean() == pytest.approx(shift, abs=3 * 0.017 / np.sqrt(N) + 0.03 * abs(shift))
        scatter = np.array([getattr(f, f"scatter_{axis[1]}") for f in found])
        # One scatter of 18 has an error of 17 %; robust weights add to it.
        assert scatter.mean() == pytest.approx(0.05, abs=3 * 0.25 * 0.05 / np.sqrt(N) + 0.003)


def test_no_scatter_is_claimed_where_there_is_none(rng):
    found = [estimate(rng) for _ in range(10)]
    assert np.median([f.scatter_y for f in found]) < 0.005
    assert np.median([f.scatter_x for f in found]) < 0.005
    assert np.median([f.intrinsic for f in found]) < 0.002
