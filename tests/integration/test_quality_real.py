"""Verdicts and artefacts of real pairs: what each is known for is what the reasons say."""

from __future__ import annotations

import json

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.flags import CandidateFlag, PixelFlag
from astrid_gpu.io import read_psf
from tests.integration.test_real_pairs import ZTF_PAIRS

pytest.importorskip("astropy", reason="reading FITS needs astropy")
pytestmark = pytest.mark.filterwarnings("ignore::astropy.wcs.FITSFixedWarning")


def decam(folder, band, exposure, chip):
    """A DECam cutout with its mask, weight, and its PSFEx model near the middle of the detector."""
    name = lambda kind, end: folder / band / f"c4d_{exposure}_{kind}_{band}_ls9{end}"  # noqa: E731
    planes = {"mask": name("ood", f".{chip}.fits"), "weight": name("oow", f".{chip}.fits")}
    psf = read_psf(name("ooi", f"-{chip}-psfex.fits"), x=1000.0, y=2000.0)
    return ag.read_image(name("ooi", f".{chip}.fits"), **planes).with_(psf=psf)


def failed(found):
    """Names of the checks that were not passed."""
    return {check.name for check in found.checks if check.verdict != "good"}


def test_a_real_trail_is_found(data_dir):
    """Frame 070 of the SAAO series, taken in twilight: a broad trail crosses its upper right corner."""
    folder = data_dir / "pairs/saao_kb13475"
    diff = ag.subtract(folder / "AKB13475I0070.fits", folder / "AKB13475I0007.fits")
    on = (diff.mask & int(PixelFlag.TRAIL)) != 0
    assert diff.metrics["n_trails"] == 1
    (trail,) = next(step.values["trails"] for step in diff.steps if step.stage == "trails")
    assert trail["score"] > 90  # along its middle; its flagged width comes in steps of two FWHM and may hold some sky
    y, x = np.nonzero(on)
    along = np.array([trail["y1"] - trail["y0"], trail["x1"] - trail["x0"]])
    across = np.abs((y - trail["y0"]) * along[1] - (x - trail["x0"]) * along[0]) / np.hypot(*along)
    score = diff.score_corr[y, x]
    assert 12 < trail["width"] < 24  # as far as its wings stand out
    assert np.nanmedian(score[across < 5]) > 70
    assert np.nanmedian(score[across < 7]) > 50
    assert np.nanmedian(score) > 30
    assert y.min() > 330
    assert x.min() > 450
    cands = ag.detect(diff)
    assert ((cands["flags"] & int(CandidateFlag.TRAIL)) != 0).any()
    found = ag.quality(diff, cands)
    assert "n_trails" in failed(found)
    assert found.verdict != "good"


@pytest.mark.parametrize(
    ("science", "reference"), [(("180212_083009", "N3"), ("170316_062107", "N2")), (None, None)], ids=["decam", "ztf"]
)
def test_calibrated_survey_pairs_are_good(data_dir, science, reference):
    if science:
        folder = data_dir / "pairs/decam_testcase4"
        images = [decam(folder, "z", *which) for which in (science, reference)]
    else:
        one, star_one, two, star_two = ZTF_PAIRS[0]
        folder = data_dir / "pairs/ztf_psfcat_stamps"
        images = [
            ag.read_image(folder / frame / f"{star}.fits").with_(
                psf=read_psf(folder / frame / "psf.psf", x=1500.0, y=1500.0)
            )
            for frame, star in ((one, star_one), (two, star_two))
        ]
    found = ag.quality(ag.subtract(*images))
    assert found.verdict == "good", found
    assert json.loads(json.dumps(found.to_dict()))["limiting_magnitude"] > 19


def test_a_saturated_cutout_is_bad_and_says_why(data_dir):
    folder = data_dir / "pairs/decam_testcase6"
    diff = ag.subtract(decam(folder, "g", "181214_050844", "S9"), decam(folder, "g", "181104_072440", "S4"))
    found = ag.quality(diff)
    assert found.verdict == "bad"
    assert {"masked_fraction", "saturation_fraction"} <= failed(found)


def test_astroscrappy_takes_the_known_ray_out(data_dir):
    """The unmasked cosmic ray of 2018-02-12 at (213, 30): masked in science, and no candidate is left."""
    pytest.importorskip("astroscrappy")
    folder = data_dir / "pairs/decam_testcase4"
    images = decam(folder, "z", "180212_083009", "N3"), decam(folder, "z", "170316_062107", "N2")
    diff = ag.subtract(*images, cosmic_rays="astroscrappy")
    assert diff.mask[29:31, 212:215].any()
    assert (diff.mask[27:33, 210:217] & int(PixelFlag.COSMIC_RAY_SCIENCE)).any()
    assert not (diff.mask & int(PixelFlag.COSMIC_RAY_SCIENCE)).astype(bool).sum() > 60
    cands = ag.detect(diff)
    assert not (np.hypot(cands["x"] - 213, cands["y"] - 29.5) < 3).any()
