"""The width of S_corr: its error, the map of it where it varies, one number where it does not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from astrid_gpu._calibration import calibrate_score
from astrid_gpu._quiet_sky import score_area
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
    assert found / np.sqrt(score_area(STAMP) / 3600) == pytest.approx(1.0, abs=4 / np.sqrt(700) + 0.05)


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
    assert np.mean(factor / truth) == pytest.approx(1.0, abs=4 * np.sqrt(score_area(STAMP) / score.size))
    corners = [np.s_[:150, :150], np.s_[:150, -150:], np.s_[-150:, :150], np.s_[250:450, 350:]]
    # 22500 pixels: sqrt(A / n) = 2 %.
    assert [width(maps["score_corr"][c]) for c in corners] == pytest.approx([1.0] * 4, abs=0.06)
    assert max(abs(width(plain["score_corr"][c]) - 1) for c in corners) > 0.09


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
    n = score.size / score_area(STAMP)
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


def with_sources(score, rng, n):
    """Add n point sources of 5 to 100 sigma and either sign; return the score and the pixels at least 14 px away."""
    rho = gaussian_filter(STAMP, SIGMA)
    places = [rng.integers(20, side - 20, n) for side in score.shape]
    peaks = rng.uniform(5, 100, n) * rng.choice([-1, 1], n)
    far = np.ones(score.shape, bool)
    score = score.copy()
    for y, x, peak in zip(*places, peaks, strict=True):
        score[y - 10 : y + 11, x - 10 : x + 11] += peak * rho / rho.max()
        far[max(0, y - 14) : y + 15, max(0, x - 14) : x + 15] = False
    return score, far


@pytest.mark.parametrize("mode", ["global", "local"])
@pytest.mark.parametrize("n", [5, 100])
def test_sources_are_no_noise(rng, mode, n):
    """However many: a hundred in 384 x 384 moved the width by 15 %."""
    for _ in range(3):
        score = score_like(rng, (384, 384))
        _, bare, _ = calibrated(score, mode)
        maps, metrics, _ = calibrated(with_sources(score, rng, n)[0], mode)
        # Of 1e5 pixels of the 1.5e5: sqrt(A / n) is 0.6 %, and the two share most of them.
        assert metrics["score_corr_std_raw"] == pytest.approx(bare["score_corr_std_raw"], rel=0.008)
        assert metrics["score_corr_median_raw"] == pytest.approx(bare["score_corr_median_raw"], abs=0.03)
        assert np.median(maps["flux_error"]) == pytest.approx(bare["renormalise_factor"], rel=0.01)


def test_sources_are_told_from_noise_of_any_width(rng):
    score = score_like(rng, (384, 384))
    for scale in (0.3, 2.5):
        score_here, far = with_sources(score, rng, 60)
        maps, metrics, _ = calibrated((scale * score_here).astype(np.float32), "global")
        assert metrics["score_corr_std_raw"] == pytest.approx(scale * width(score), rel=0.01)
        assert width(maps["score_corr"][far]) == pytest.approx(1.0, abs=0.01)


def test_tails_and_residuals_everywhere_are_not_hidden(rng):
    """Noise that is not Gaussian keeps its width and its tails, and residuals all over the frame still widen it."""
    score = score_like(rng)
    tailed = score * np.where(gaussian_filter(rng.normal(size=SHAPE), 8) > 0.06, np.float32(2.0), np.float32(1.0))
    maps, metrics, _ = calibrated(tailed, "global")
    assert metrics["score_corr_std_raw"] == pytest.approx(width(tailed), rel=0.02)
    beyond = np.count_nonzero(abs(tailed) > 4 * width(tailed))
    assert np.count_nonzero(abs(maps["score_corr"]) > 4) >= beyond > 10 * 6.3e-5 * score.size
    crowd, _ = with_sources(score, rng, 4000)
    maps, metrics, _ = calibrated(crowd, "global")
    assert metrics["score_corr_std_raw"] > 1.2
    assert np.isfinite(maps["score_corr"]).all()


def test_subtract_with_many_sources_and_a_trail(rng):
    """The errors of fluxes do not follow from how many changed, or from what is flagged after the subtraction."""
    import astrid_gpu as ag

    field = ag.simulate.pair(seed=3, shape=(384, 384), n_changes=0)
    bare = ag.subtract(field.science, field.reference)
    places = {"x": rng.uniform(20, 364, 100), "y": rng.uniform(20, 364, 100), "flux": rng.uniform(500, 5000, 100)}
    busy, _ = ag.simulate.inject(field.science, places, seed=4)
    y, x = np.mgrid[:384, :384]
    away = np.abs(y - 0.7 * x - 40) / np.hypot(1, 0.7)
    noise = 1.4826 * np.nanmedian(np.abs(np.diff(field.science.data))) / np.sqrt(2)
    crossed = field.science.with_(data=field.science.data + 6 * noise * np.exp(-((away / 8.0) ** 2)))
    for image in (busy, crossed):
        diff = ag.subtract(image, field.reference)
        assert diff.metrics["score_corr_std_raw"] == pytest.approx(bare.metrics["score_corr_std_raw"], rel=0.01)
        assert np.nanmedian(diff.flux_error) == pytest.approx(np.nanmedian(bare.flux_error), rel=0.012)
    assert diff.metrics["n_trails"] == 1
