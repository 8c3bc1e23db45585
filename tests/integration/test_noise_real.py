"""Noise of real images whose files do not tell it: planes of the sky alone, no gain, another survey's pixels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

import astrid_gpu as ag
from astrid_gpu._exposure import own_stages
from astrid_gpu.config import SubtractConfig

pytest.importorskip("astropy.io.fits")

pytestmark = pytest.mark.filterwarnings("ignore::Warning:astropy.*")


def noise_steps(exposure):
    return [step for step in exposure.steps if step.stage == "noise"]


def test_gain_of_an_sdss_frame_in_nanomaggies(data_dir):
    """Sky-subtracted, no gain in its header. SDSS r: 4.6 to 5.2 electrons a count of 0.004 to 0.006 nanomaggies."""
    image = ag.read_image(data_dir / "cross_survey/blast/2010H_SDSS_SDSS_r.fits")
    assert image.gain is None
    exposure = own_stages(image, SubtractConfig(), None, "science")
    (step,) = [step for step in noise_steps(exposure) if "measured on the residuals" in step.text]
    error = 4 * step.values["relative_error"]
    assert error < 0.5
    assert 4.6 / 0.006 / (1 + error) < step.values["gain"] < 5.2 / 0.004 * (1 + error)
    bright = exposure.image.data > 50 * exposure.sigma
    assert np.median(exposure.image.variance[bright & ~exposure.image.bad]) > 1.5 * exposure.sigma**2


def test_weights_of_a_des_coadd_know_the_sky_only(data_dir):
    """DES coadds give the inverse variance of the sky; the gain of the header adds the galaxy's photons."""
    image = ag.read_image(data_dir / "cross_survey/hostphot_field/DES_r.fits")
    assert image.variance is not None
    exposure = own_stages(image, SubtractConfig(), None, "science")
    (step,) = [step for step in noise_steps(exposure) if "variance as given" in step.text]
    assert "does not rise with the sources: their photon noise by gain" in step.text
    assert abs(step.values["sources_in_plane"]) < 0.05


def test_weights_of_decam_and_errors_of_jwst_hold_the_sources(data_dir):
    """Single exposures of both come with planes that rise with the light; they are left as they are."""
    folder = data_dir / "pairs/decam_testcase4/g"
    for name in ("c4d_170329_044212_{}_g_ls9.N3.fits", "c4d_180225_074106_{}_g_ls9.S1.fits"):
        planes = {"mask": folder / name.format("ood"), "weight": folder / name.format("oow")}
        image = ag.read_image(folder / name.format("ooi"), **planes)
        (step,) = [
            step
            for step in noise_steps(own_stages(image, SubtractConfig(), None, "science"))
            if "as given" in step.text
        ]
        # The archive's gain is good to 15 %.
        assert step.values["sources_in_plane"] == pytest.approx(1.0, abs=0.15)
        assert "added" not in step.text
    for path in sorted((data_dir / "pairs/jwst_a2744_f200w_crop").glob("*stamp.crop.fits")):
        image = ag.read_image(path, error=str(path).replace(".crop.", ".noise.crop."))
        steps = noise_steps(own_stages(image, SubtractConfig(), None, "science"))
        assert not any("added" in step.text or "measured on" in step.text for step in steps)


def test_another_survey_comes_to_the_grid_and_is_calibrated(data_dir):
    """GALEX pixels of 1.5 arcsec to SDSS's 0.4: another band differs everywhere, but blank sky has unit noise."""
    folder = data_dir / "cross_survey/blast"
    diff = ag.subtract(folder / "2010H_SDSS_SDSS_r.fits", folder / "2010H_GALEX_GALEX_NUV.fits")
    for key in ("score_corr_median_raw", "score_corr_std_raw", "map_error", "pixel_noise_factor", "noise_factor"):
        assert np.isfinite(diff.metrics[key]), key
    assert diff.metrics["map_error"] < 1e-3
    assert diff.metrics["pixel_noise_factor"] < 0.2
    changed = binary_dilation(np.abs(np.nan_to_num(diff.score_corr)) > 5, iterations=10)
    blank = diff.score_corr[(diff.mask == 0) & np.isfinite(diff.score_corr) & ~changed]
    # What is fainter than 5 sigma is left among the blank pixels: every source, the bands being so different.
    assert np.subtract(*np.percentile(blank, [84.135, 15.865])) / 2 == pytest.approx(1.0, abs=0.06)
    text = "\n".join(map(str, diff.steps))
    assert "resampled (spline5), flux conserved" in text
