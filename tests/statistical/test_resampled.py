"""`subtract` with a reference on another grid: turned, finer or coarser pixels, or smaller than the science image.

S_corr must stay calibrated although resampling correlates the reference's noise; nothing is given but the gains.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.errors import AlignmentError, WcsError
from astrid_gpu.flags import PixelFlag
from astrid_gpu.simulate.compare import forced_flux
from tests.unit.align_fields import catalogue, scene, tan_wcs

pytest.importorskip("astropy")

SIDE, SKY, SNR = 360, 400.0, 20.0


class Pair(NamedTuple):
    science: ag.Image
    reference: ag.Image
    y: np.ndarray
    x: np.ndarray
    flux: float


def make_pair(seed, *, scale=0.9, rotation=0.15, side=None, dec=2.0):
    """Poisson exposures of one field; 25 new sources of S/N 20 in the science image alone."""
    from astropy.wcs.utils import pixel_to_pixel

    rng = np.random.default_rng(seed)
    size = side or int(1.25 * SIDE / scale)
    here, there = tan_wcs((SIDE, SIDE)), tan_wcs((size, size), scale=scale, rotation=rotation)
    y, x, flux = catalogue(rng, 220, (SIDE, SIDE), border=-60, faint=5e2, bright=1e5, apart=7)
    sx, sy = pixel_to_pixel(here, there, x, y)
    there.wcs.crval = [150.0, dec]
    new = rng.uniform(25, SIDE - 25, (2, 25))
    alpha = SNR * np.sqrt(4 * np.pi * 1.3**2 * SKY)
    science = scene((SIDE, SIDE), y, x, flux, sigma=1.3) + scene((SIDE, SIDE), *new, np.full(25, alpha), sigma=1.3)
    reference = scene((size, size), sy, sx, 2 * flux, sigma=1.2 / scale)
    images = [
        ag.Image(rng.poisson(light + sky).astype(np.float32), wcs=wcs, gain=1.0, read_noise=0.0, name=name)
        for light, sky, wcs, name in ((science, SKY, here, "science"), (reference, 200.0, there, "reference"))
    ]
    return Pair(*images, *new, alpha)


@pytest.mark.parametrize(
    ("kernel", "scale"), [("spline5", 0.9), ("spline5", 1.3), ("spline5", 0.5), ("lanczos3", 0.9), ("bilinear", 0.9)]
)
def test_significance_stays_calibrated(kernel, scale):
    pulls = []
    for seed in (1, 2):
        pair = make_pair(seed, scale=scale)
        diff = ag.subtract(pair.science, pair.reference, kernel=kernel)
        # The width of 1.2e5 pixels, correlated over some 12, is good to 1 %; the noise model is promised to 5 %.
        assert diff.metrics["score_corr_std_raw"] == pytest.approx(1.0, abs=0.05)
        assert abs(diff.metrics["score_corr_median_raw"]) < 0.05
        assert diff.metrics["map_error"] < 1e-3
        assert 0 < diff.metrics["pixel_noise_factor"] < 1.1
        assert any(step.values.get("kernel") == kernel for step in diff.steps)
        found = ag.detect(diff)
        distance = np.hypot(found["x"][:, None] - pair.x, found["y"][:, None] - pair.y)
        assert np.sum(distance.min(axis=1) > 2) <= 1  # false ones
        assert np.sum(distance.min(axis=0) < 1) >= 23  # two may lie on a bright star
        flux, error = forced_flux(diff, pair.x, pair.y)
        pulls.append((flux - pair.flux) / error)
    pulls = np.concatenate(pulls)
    assert np.median(pulls) == pytest.approx(0.0, abs=4 * 1.25 / np.sqrt(len(pulls)))
    assert 1.4826 * np.median(np.abs(pulls - np.median(pulls))) == pytest.approx(
        1.0, abs=4 * 1.17 / np.sqrt(len(pulls))
    )


def test_a_reference_smaller_than_the_science_image():
    pair = make_pair(3, side=200)
    diff = ag.subtract(pair.science, pair.reference)
    outside = (diff.mask & PixelFlag.NO_DATA) != 0
    assert 0.7 < outside.mean() < 0.8
    assert np.isnan(diff.difference[outside]).all()
    inside = (diff.mask == 0) & ~outside
    assert inside.mean() > 0.1
    assert diff.metrics["overlap"] == pytest.approx(1 - outside.mean(), abs=1e-6)
    assert diff.metrics["score_corr_std_raw"] == pytest.approx(1.0, abs=0.06)
    found = ag.detect(diff)
    distance = np.hypot(found["x"][:, None] - pair.x, found["y"][:, None] - pair.y).min(axis=1)
    assert np.sum(distance < 1) >= 4  # a quarter of 25
    assert np.sum(distance > 2) <= 1


@pytest.mark.parametrize(
    ("dec", "error", "words"),
    [
        (2.5, WcsError, "reference and science share no sky"),
        (2.107, AlignmentError, r"reference and science overlap by \d\.\d% of the smaller frame.*min_overlap=0\.1"),
    ],
)
def test_no_overlap_and_little_of_it(dec, error, words):
    """Field centres 30 and 6.4 arcmin apart, on frames of 6 and 7.5 arcmin."""
    pair = make_pair(4, dec=dec)
    with pytest.raises(error, match=words):
        ag.subtract(pair.science, pair.reference, align="wcs")
