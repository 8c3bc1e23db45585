"""The width of S_corr: its error, the map of it where it varies, one number where it does not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from astrid_gpu._calibration import _noise_area, calibrate_score
from astrid_gpu.errors import InputError

SIGMA = 1.4  # px, of P_D
STAMP = np.zeros((21, 21))
STAMP[10, 10] = 1.0
STAMP = gaussian_filter(STAMP, SIGMA)
SHAPE = (700, 600)


def score_like(rng, shape=SHAPE):
    """White noise through P_D, unit width: what S_corr is on blank sky."""
    noise = gaussian_filter(rng.normal(size=shape), SIGMA, mode="wrap")
    return (noise * 2 * np.sqrt(np.pi) * SIGMA).astype(np.float32)


def calibrated(score, mode, **known):
    maps = {
        "score_corr": score.copy(),
        "flux_error": np.ones_like(score),
        "mask": known.pop("mask", np.zeros(score.shape, np.uint8)),
    }
    metrics = {}
    (step,) = calibrate_score(maps, mode, metrics, psf=STAMP, **known)
    return maps, metrics, step


def width(values):
    return np.subtract(*np.percentile(values, [84.135, 15.865])) / 2


def test_the_error_of_a_width_is_that_of_correlated_noise(rng):
    """Boxes of 60 x 60: the scatter of their widths is sqrt(A / n), A from P_D."""
    score = np.concatenate([score_like(rng) for _ in range(3)])
    boxes = score.reshape(35, 60, 10, 60).swapaxes(1, 2).reshape(350, -1)
    found = np.std([width(box) for box in boxes])
    # A standard deviation of 350 values is good to 1 / sqrt(700); the fourth powers stand for all higher ones.
    assert found / np.sqrt(_noise_area(STAMP) / 3600) == pytest.approx(1.0, abs=4 / np.sqrt(700) + 0.05)


def test_one_width_is_not_mapped(rng):
    """Chance boxes are no map: at odds of 1e-3 none of ten fields of one width gets one."""
    for _ in range(10):
        maps, metrics, step = calibrated(score_like(rng), "local")
        assert "does not vary beyond chance" in step.text
        assert "renormalise_min" not in metrics
        assert metrics["score_corr_std"] == 1.0
        assert np.ptp(maps["flux_error"]) == 0


def test_a_width_that_varies_is_mapped_and_taken_out(rng):
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] / SHAPE[0]
    truth = 1.1 + 0.35 * np.sin(3 * y) * np.cos(2 * x)
    score = (score_like(rng) * truth).astype(np.float32)
    # Changed sources and a bright static star's residuals are no noise.
    score[rng.integers(0, SHAPE[0], 60), rng.integers(0, SHAPE[1], 60)] += 30
    static = np.zeros(SHAPE, bool)
    static[300:380, 200:280] = True
    score[static] *= 4
    maps, metrics, step = calibrated(score, "local", static=static)
    plain, _, _ = calibrated(score, "global")
    assert "it varies from" in step.text
    assert metrics["renormalise_min"] < metrics["renormalise_factor"] < metrics["renormalise_max"]
    factor = maps["flux_error"]
    np.testing.assert_allclose(maps["score_corr"] * factor, score, rtol=1e-5)
    # A box is good to 3 %, the scatter of 56 of them to 1 / sqrt(112) of that; their mean to sqrt(A / n).
    assert np.std((factor / truth)[~static]) < 0.03 * (1 + 4 / np.sqrt(112))
    assert np.mean(factor / truth) == pytest.approx(1.0, abs=4 * np.sqrt(_noise_area(STAMP) / score.size))
    corners = [np.s_[:150, :150], np.s_[:150, -150:], np.s_[-150:, :150], np.s_[250:450, 350:]]
    # 22500 pixels: sqrt(A / n) = 2 %.
    assert [width(maps["score_corr"][c]) for c in corners] == pytest.approx([1.0] * 4, abs=0.06)
    assert max(abs(width(plain["score_corr"][c]) - 1) for c in corners) > 0.1


def test_flagged_pixels_do_not_count(rng):
    score = score_like(rng)
    mask = np.zeros(SHAPE, np.uint8)
    mask[:200], score[:200] = 64, 9 * score[:200]
    _, metrics, _ = calibrated(score, "global", mask=mask)
    assert metrics["score_corr_std_raw"] == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("mode", ["none", "global", "local"])
def test_raw_numbers_are_always_there(rng, mode):
    score = 1.3 * score_like(rng, (300, 300)) + np.float32(0.4)
    maps, metrics, step = calibrated(score, mode)
    n = score.size / _noise_area(STAMP)
    assert metrics["score_corr_std_raw"] == step.values["width"] == pytest.approx(1.3, rel=4 / np.sqrt(n))
    # A mean of correlated values has the area of the autocorrelation, 4 pi sigma².
    assert metrics["score_corr_median_raw"] == pytest.approx(0.4, abs=4 * 1.3 * np.sqrt(4 * np.pi) * SIGMA / 300)
    raw = mode == "none"
    assert metrics["score_corr_std"] == (metrics["score_corr_std_raw"] if raw else 1.0)
    assert metrics["score_corr_median"] == pytest.approx(
        metrics["score_corr_median_raw"] / (1 if raw else 1.3), rel=0.1
    )
    assert np.median(maps["score_corr"]) == pytest.approx(metrics["score_corr_median"], abs=1e-5)


def test_small_frames_and_empty_ones(rng):
    _, metrics, step = calibrated(score_like(rng, (120, 120)), "local")
    assert "too small for a map" in step.text
    assert metrics["renormalise_factor"] != 1.0
    with pytest.raises(InputError, match="no pixel of the difference is usable"):
        calibrated(np.full((50, 50), np.nan, np.float32), "local")


def test_subtract_with_a_variance_that_is_wrong_from_place_to_place(rng):
    """Noise that the variance does not know of, 30 % more on one side: the map finds it, fluxes stay, errors follow."""
    import astrid_gpu as ag
    from astrid_gpu.image import PSF, Image
    from tests.unit.align_fields import scene

    shape = (560, 560)
    truth = 1 + 0.3 / (1 + np.exp(-(np.arange(shape[1]) - 280) / 60))
    psf = PSF(scene((25, 25), 12, 12, 1.0, sigma=1.3), fwhm=3.06)
    images = [
        Image(rng.normal(0, 5, shape) * truth, variance=np.full(shape, 25.0), psf=psf, name=name) for name in ("N", "R")
    ]
    known = {"align": "none", "background": False, "flux_ratio": 1.0, "astrometric_error": (0.0, 0.0)}
    measured = ag.subtract(*images, **known, renormalise="none")  # spectra of the tiles know it already
    known["noise"] = "white"
    even, flat = (ag.subtract(*images, **known, renormalise=mode) for mode in ("local", "global"))
    sides = np.s_[20:-20, 20:140], np.s_[20:-20, -140:-20]
    # 520 x 120 pixels: sqrt(A / n) = 1.1 %; the map's boxes are good to 3 % each and 24 lie on a side.
    for side in sides:
        assert width(even.score_corr[side]) == pytest.approx(1.0, abs=0.04)
        assert width(measured.score_corr[side]) == pytest.approx(1.0, abs=0.04)
    assert width(flat.score_corr[sides[1]]) / width(flat.score_corr[sides[0]]) > 1.15
    np.testing.assert_array_equal(even.flux, flat.flux)
    assert np.median(even.flux_error[sides[1]]) / np.median(even.flux_error[sides[0]]) == pytest.approx(1.29, abs=0.08)
    header = even.to_hdulist()[0].header
    assert header["RENMIN"] < header["RENORM"] < header["RENMAX"]
    assert header["SCSTDRAW"] == pytest.approx(flat.metrics["score_corr_std_raw"])
    assert header["SCSTD"] == pytest.approx(1.0, abs=0.02)
