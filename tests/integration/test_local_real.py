"""Real files of ten telescopes taken in as local files: what is known of each, and whole runs of them."""

from __future__ import annotations

import pytest

from astrid_gpu.acquire import local
from astrid_gpu.acquire.directory import RunDirectory
from astrid_gpu.acquire.pairing import choose_pairs
from astrid_gpu.run.check import check_run

pytest.importorskip("astropy", reason="reads FITS files")
pytest.importorskip("jsonschema", reason="checks records against their schema")

# folder, file, survey, band, MJD, exposure [s], gain [e], zero point [AB mag], pixel scale [arcsec]: from the headers
# by eye, and from the archives' documentation. None: the header does not say.
KNOWN = [
    ("single", "ztf_20200924431759_000655_zr_c13_o_q3_sciimg.cropA.fits.gz",
     "ZTF", "r", 59116.43177, 30.0, 6.0, 26.285, 1.013),
    ("single", "PTF_R_M81_cropped.fits", "PTF", "R", 56251.38368, 60.0, 1.6, 23.503, 1.012),
    ("single", "a8280271.fits", "SAAO", "48", 56486.03997, 150.04, 1.9, None, None),
    ("single", "WFPC2ASSNu5780205bx.fits", "HST", "FR533P15", 51229.79390, 300.0, 7.0, 30.142, 0.0996),
    ("cross_survey/blast", "2010H_SDSS_SDSS_r.fits", "SDSS", "r", 51960.0, 53.907, None, 22.5, 0.396),
    ("cross_survey/blast", "2010H_2MASS_2MASS_J.fits", "2MASS", "J", 51570.18319, None, None, 21.716, 1.0),
    ("cross_survey/blast", "2010H_WISE_WISE_W1.fits", "WISE", "W1", 55301.90083, 212.158, None, 23.199, 1.375),
    ("cross_survey/blast", "2010H_GALEX_GALEX_NUV.fits", "GALEX", "NUV", 53768.37992, 181.05, None, 20.08, 1.5),
    ("cross_survey/hostphot_field", "PS1_g.fits", "PS1", "g", 56102.19459, 860.0, 1.139, 32.336, 0.25),
    ("cross_survey/hostphot_field", "DES_r.fits", "DECam", "r", 56604.23267, 450.0, 21.139, 30.0, 0.263),
    ("pairs/jwst_a2744_f200w_crop", "jw01324001001-01324-o001_t001_nircam_clear-f200w_i2d_stamp.crop.fits",
     "JWST", "F200W", 59759.41450, 44579.056, None, 28.029, 0.0309),
    ("pairs/decam_testcase4/z", "c4d_170419_042827_ooi_z_ls9.S1.fits",
     "DECam", "z", 57862.18344, 209.0, 3.841, 30.537, 0.263),
    ("pairs/eso085-030", "aligned_eso085-030-004.fit", None, "Clear", 57383.26833, 60.0, None, None, None),
    ("pairs/decam_sfft_mini", "DEC-OBS04a.mini.fits", "DECam", "i", 58334.39134, 330.0, 3.984, None, 0.263),
]  # fmt: skip


@pytest.mark.parametrize("row", KNOWN, ids=lambda row: row[1][:30])
def test_metadata_of_each_telescope(data_dir, row):
    folder, name, survey, band, mjd, exposure, gain, zero_point, scale = row
    files, _ = local.find(data_dir / folder)
    o = next(f.observation for f in files if f.path.name == name)
    assert (o.survey, o.band) == (survey, band)
    assert o.mjd == pytest.approx(mjd, abs=1e-4)
    for got, expected, tolerance in (
        (o.exposure, exposure, 1e-3),
        (o.gain, gain, 1e-3),
        (o.zero_point, zero_point, 2e-4),
        (o.pixel_scale, scale, 6e-3),
    ):
        assert got is None if expected is None else got == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize(
    ("folder", "n_images", "n_references"),
    [
        ("pairs/decam_testcase4", 6, 2),
        ("pairs/decam_testcase6", 2, 1),
        ("pairs/jwst_a2744_f200w_crop", 2, 1),
        ("pairs/saao_kb13475", 14, 1),
        ("pairs/eso085-030", 2, 1),
        ("single", 4, 0),
        ("cross_survey", 10, 0),
    ],
)
def test_folders_become_runs_that_hold_together(data_dir, tmp_path, folder, n_images, n_references):
    run = RunDirectory(tmp_path / "run")
    local.fetch(local.search(data_dir / folder), run)
    assert len(list(run.observations())) == n_images
    assert len(list(run.observations("reference"))) == n_references
    report = check_run(run, pixels=False)
    # Both JWST crops carry the dates of a third image in their headers, months from their own MJD.
    expected = {"time"} if "jwst" in folder else set()
    assert {f.kind for f in report.errors} == expected, str(report)
    assert report.n_observations == n_images


def test_a_tess_cube_is_an_observation_of_many_frames(data_dir, tmp_path):
    rows = local.search(data_dir / "tess")
    assert rows["kind"].tolist() == ["cube"]
    run = RunDirectory(tmp_path / "run")
    local.fetch(rows, run)
    (o,) = run.observations()
    assert (o.survey, o.band, o.shape, o.n_frames) == ("TESS", "TESS", (11, 11), 4)  # one of the 5 is flagged
    assert o.mjd == pytest.approx(58324.79, abs=0.01)
    assert o.pixel_scale == pytest.approx(20.6, rel=0.02)
    assert (o.ra, o.dec) == pytest.approx((63.37, -69.226), abs=0.05)
    assert check_run(run).ok


def test_every_plane_of_the_decam_images_is_known(data_dir):
    files, skipped = local.find(data_dir / "pairs/decam_testcase4")
    assert all(set(f.companions) == {"mask", "weight", "psf"} for f in files)
    assert len(skipped) == 3 * len(files)


def test_each_science_image_gets_the_reference_of_its_band(data_dir):
    files, _ = local.find(data_dir / "pairs/decam_testcase4")
    pairs = choose_pairs(f.observation for f in files)
    taken = {p.science: p.reference for p in pairs if p.chosen}
    assert len(taken) == 4
    assert all(science.split("_")[4] == reference.split("_")[4] for science, reference in taken.items())
    assert all(p.overlap > 0.98 for p in pairs)


def test_a_wrong_wcs_shows_as_no_overlap(data_dir):
    """The SDSS cutouts of this field were cut out without moving CRPIX: they claim another piece of sky."""
    files, _ = local.find(data_dir / "cross_survey/hostphot_field")
    of = {f.path.name: f.observation for f in files}
    pool = [of["SDSS_g.fits"], of["PS1_g.fits"].advance("acquired"), of["DES_g.fits"]]
    references = [type(o)(**{**vars(o), "role": "reference"}) for o in pool[1:]]
    pairs = choose_pairs([pool[0], *references], cross_survey=True)
    assert not any(p.chosen for p in pairs)
    assert all("covers 0 %" in p.reason for p in pairs)
