"""The zero point of a real header reaches the magnitudes of candidates."""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.io import read_image


def test_an_injected_star_has_its_magnitude(data_dir):
    """A star of magnitude 17.5 put into a ZTF frame by MAGZP of its header is found with that magnitude."""
    path = data_dir / "single/ztf_20200924431759_000655_zr_c13_o_q3_sciimg.cropA.fits.gz"
    whole = read_image(path)
    assert whole.zero_point == pytest.approx(26.285139, abs=1e-5)
    cut = np.s_[300:620, 300:620]
    image = whole.with_(data=whole.data[cut], mask=None if whole.mask is None else whole.mask[cut], wcs=None)
    y, x = np.array([81.0, 160.0, 240.0]), np.array([70.0, 165.0, 255.0])
    flux = np.full(3, 10 ** (0.4 * (whole.zero_point - 17.5)))
    psf = ag.measure_psf(image)
    brighter = ag.simulate.inject(image, {"x": x, "y": y, "flux": flux}, psf=psf, seed=3).image
    diff = ag.subtract(brighter, image, align="none", psf_science=psf, psf_reference=psf)
    assert diff.zero_point == pytest.approx(whole.zero_point)
    table = ag.detect(diff, 8.0).data
    for place in zip(y, x, strict=True):
        found = table[np.argmin(np.hypot(table["y"] - place[0], table["x"] - place[1]))]
        assert np.hypot(found["y"] - place[0], found["x"] - place[1]) < 0.5
        assert found["mag"] == pytest.approx(17.5, abs=max(4 * found["mag_error"], 0.03))


def test_without_its_own_it_is_the_reference_s(data_dir):
    """A science image without a zero point takes the reference's through the flux ratio: magnitudes stay the same."""
    path = data_dir / "single/ztf_20200924431759_000655_zr_c13_o_q3_sciimg.cropA.fits.gz"
    whole = read_image(path)
    cut = np.s_[300:620, 300:620]
    image = whole.with_(data=whole.data[cut], mask=None, wcs=None)
    science = image.with_(data=image.data * np.float32(0.5), zero_point=None, gain=image.gain * 2)
    diff = ag.subtract(science, image, align="none")
    assert diff.zero_point == pytest.approx(whole.zero_point + 2.5 * np.log10(0.5), abs=0.01)
    assert any(step.stage == "zero point" for step in diff.steps)
