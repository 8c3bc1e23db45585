"""Which PSF the benchmarks inject into real frames: of half the stars, or a frame's own core in given wings."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu.image import PSF, PSFModel
from astrid_gpu.ops.psf_stamps import moffat_stamp
from benchmarks.real_places import LocalPsf, _half_of, _joined, prepared
from tests.star_fields import star_field, true_psf


def stamp(fwhm, side, beta=3.0):
    data = moffat_stamp(fwhm, beta, side)
    return PSF(data / data.sum(), fwhm)


def test_half_of_the_good_stars_is_as_bright_as_the_other(rng):
    stars = prepared(star_field(rng, shape=(400, 400), n=70).image).stars
    half = _half_of(stars)
    good = (stars["flags"] == 0) & stars["isolated"] & (stars["snr"] >= 20)
    kept, barred = good & half["isolated"], good & ~half["isolated"]
    assert good.sum() >= 40
    assert 0 <= kept.sum() - barred.sum() <= 1
    assert np.median(stars["snr"][kept]) == pytest.approx(np.median(stars["snr"][barred]), rel=0.15)
    assert len(half) == len(stars)  # neighbours all
    assert np.array_equal(_half_of(stars[:20])["isolated"], stars["isolated"][:20])


@pytest.mark.parametrize(("own", "given"), [(25, 63), (63, 25), (41, 41)])
def test_a_core_goes_over_into_given_wings(own, given):
    core, wings = stamp(3.0, own), stamp(3.4, given, beta=2.0)
    joined = _joined(core, wings)
    assert joined.data.shape == wings.data.shape
    assert joined.data.sum() == pytest.approx(1.0)
    axis = np.arange(given) - given // 2
    radius = np.hypot(axis[:, None], axis)
    ratio = joined.data / wings.data
    assert np.ptp(ratio[radius > 9.0]) < 1e-12  # the given wings, and the same share of light in the core as there
    inside = radius <= 6.0
    share = joined.data[inside].sum() / joined.data[radius > 9.0].sum()
    assert share == pytest.approx(wings.data[inside].sum() / wings.data[radius > 9.0].sum())
    middle = slice(given // 2 - 5, given // 2 + 6), slice(given // 2 - 5, given // 2 + 6)
    near = core.data[own // 2 - 5 : own // 2 + 6, own // 2 - 5 : own // 2 + 6]
    assert np.ptp((joined.data[middle] / near)[radius[middle] < 6.0]) < 1e-12


def test_a_frame_without_a_psf_gets_that_of_half_its_stars_and_one_with_its_wings(rng):
    made = star_field(rng, shape=(400, 400), n=70)
    frame = prepared(made.image)
    own = LocalPsf(frame)
    assert own.at(100, 100).n_stars <= 0.6 * ((frame.stars["flags"] == 0) & frame.stars["isolated"]).sum()
    truth = true_psf(made.model, own.at(0, 0).data.shape[0] // 2)
    assert np.abs(own.at(300, 200).data - truth / truth.sum()).sum() < 0.1
    wide = stamp(3.6, 81).data
    given = PSFModel(np.stack([wide, np.zeros_like(wide), 0.2 * (stamp(4.2, 81).data - wide)]), made.image.shape)
    joined = LocalPsf(prepared(made.image.with_(psf=given))).at(300, 200)
    assert joined.data.shape == (81, 81)
    assert joined.fwhm == pytest.approx(own.at(0, 0).fwhm, rel=0.02)
    assert len(own.describe()) == 4
