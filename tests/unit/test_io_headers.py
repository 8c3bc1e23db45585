"""What headers say, for the telescopes whose dialects are known: hand-made cards, then the real files."""

from __future__ import annotations

import math

import numpy as np
import pytest
from astropy.io import fits

from astrid_gpu.io import read_image
from astrid_gpu.io.headers import read_facts


def facts(**cards):
    header = fits.Header()
    for key, value in cards.items():
        name = key.replace("_OBS", "-OBS").replace("FPA_", "HIERARCH FPA.").replace("CELL_", "HIERARCH CELL.")
        header[name if len(name) <= 8 or name.startswith("HIERARCH") else f"HIERARCH {name}"] = value
    return read_facts(header)


# ---- zero points


@pytest.mark.parametrize("key", ["MAGZP", "ZP", "PHOTZP", "MAGZERO", "ABMAGZP", "IMAGEZPT", "MAGZPT"])
def test_zero_point_keywords(key):
    assert facts(**{key: 26.2}).zero_point == 26.2


@pytest.mark.parametrize("value", [0.0, -99.0, 99.0, float("1e10"), "unknown"])
def test_zero_points_that_mean_uncalibrated(value):
    assert facts(MAGZEROP=value).zero_point is None


@pytest.mark.parametrize(
    ("unit", "zero_point"),
    [
        ("nanomaggy", 22.5),
        ("nanomaggies", 22.5),
        ("Jy", 8.9),
        ("mJy", 16.4),
        ("uJy", 23.9),
        ("nJy", 31.4),
        ("MJy", -6.1),
    ],
)
def test_flux_units(unit, zero_point):
    assert facts(BUNIT=unit).zero_point == pytest.approx(zero_point)


def test_surface_brightness_of_jwst():
    area = 2.29e-14
    got = facts(BUNIT="MJy/sr", PIXAR_SR=area, TELESCOP="JWST", GAIN=2.0)
    assert got.zero_point == pytest.approx(-2.5 * math.log10(area * 1e6 / 3631), abs=1e-3)  # 3631 Jy is AB 0
    assert got.gain is None
    assert facts(BUNIT="MJy/sr").zero_point is None


def test_hst_counts_and_rates():
    # ACS/WFC F606W: PHOTFLAM 7.86e-20, PHOTPLAM 5921.9 give the published AB zero point 26.49
    rate = facts(TELESCOP="HST", PHOTFLAM=7.86e-20, PHOTPLAM=5921.9, BUNIT="ELECTRONS/S", EXPTIME=500.0, CCDGAIN=2.0)
    assert rate.zero_point == pytest.approx(26.49, abs=0.01)
    assert rate.gain == 500.0
    counts = facts(TELESCOP="HST", PHOTFLAM=7.86e-20, PHOTPLAM=5921.9, BUNIT="ELECTRONS", EXPTIME=500.0, CCDGAIN=2.0)
    assert counts.zero_point - rate.zero_point == pytest.approx(2.5 * math.log10(500))
    assert counts.gain == 1.0
    assert any("CCDGAIN = 2 was not used" in note for note in counts.notes)


def test_a_zero_point_per_second_is_brought_to_the_exposure():
    header = fits.Header([("MAGZPT", 24.743, "[mag] Magnitude zero point per sec"), ("EXPTIME", 131.0, "")])
    assert read_facts(header).zero_point == pytest.approx(30.036, abs=0.001)


@pytest.mark.parametrize(("band", "offset"), [(1, 2.699), (2, 3.339), (3, 5.174), (4, 6.620)])
def test_wise_is_vega(band, offset):
    assert facts(TELESCOP="WISE", BAND=band, MAGZP=20.5).zero_point == pytest.approx(20.5 + offset)


def test_pan_starrs_counts():
    got = facts(FPA_ZP=25.0, EXPTIME=860.0, FPA_FILTER="g.00000", FPA_TELESCOPE="PS1", CELL_GAIN=1.1, STK_ID="4")
    assert got.zero_point == pytest.approx(25 + 2.5 * math.log10(860))
    assert (got.meta["telescope"], got.meta["filter"], got.gain) == ("PS1", "g.00000", 1.1)


# ---- noise


@pytest.mark.parametrize("key", ["GAIN", "EGAIN", "E_GAIN", "CCDGAIN", "ATODGAIN"])
def test_gain_keywords(key):
    assert facts(**{key: 1.9}).gain == 1.9
    assert facts(**{key: 0.0}).gain is None


def test_amplifiers():
    got = facts(GAINA=3.8, GAINB=4.0, RDNOISEA=6.0, RDNOISEB=8.0, SATURATA=5e4, SATURATB=4e4)
    assert got.gain == pytest.approx(3.9)
    assert got.read_noise == pytest.approx(math.sqrt(50.0))
    assert got.saturation == 4e4


@pytest.mark.parametrize(
    ("unit", "gain"), [("adu", 2.0), ("adu/s", 60.0), ("DN / s", 60.0), ("electron", 1.0), ("electron/s", 30.0)]
)
def test_gain_is_per_unit_of_the_pixels(unit, gain):
    assert facts(BUNIT=unit, GAIN=2.0, EXPTIME=30.0).gain == gain


def test_coadd_gain_is_trusted_whatever_the_unit():
    header = fits.Header([("BUNIT", "electrons", ""), ("GAIN", 18.4, "Maximum equivalent gain (e-/ADU)")])
    assert read_facts(header).gain == 18.4


@pytest.mark.parametrize("key", ["RDNOISE", "READNOI", "READNOISE", "READNSE", "READ_NOISE", "RD_NOISE", "RN"])
def test_read_noise_keywords(key):
    assert facts(**{key: 8.5}).read_noise == 8.5


@pytest.mark.parametrize(
    ("cards", "gain"),
    [
        ([("OUT1 CONAD", 1.9, ""), ("OUT1 GAIN", 0.5, "")], 1.9),
        ([("CHIP1 GAIN", 1.9, "")], 1.9),
        ([("OUT1 GAIN", 0.5, "Conversion from electrons to ADU")], 2.0),
        ([("OUT1 GAIN", 0.5, "")], 2.0),
        ([("OUT1 GAIN", 2.5, "[e-/ADU] gain")], 2.5),
    ],
)
def test_gains_of_eso(cards, gain):
    assert read_facts(fits.Header([(f"HIERARCH ESO DET {key}", *rest) for key, *rest in cards])).gain == pytest.approx(
        gain
    )


def test_egain_is_the_gain_and_gain_beside_it_a_setting():
    got = facts(GAIN=120, EGAIN=2.0)
    assert got.gain == 2.0
    assert any("GAIN = 120 beside it is taken for a camera setting" in note for note in got.notes)
    assert not facts(GAIN=2.0, EGAIN=2.0).notes
    coadd = fits.Header([("GAIN", 18.4, "Maximum equivalent gain (e-/ADU)"), ("EGAIN", 2.0, "")])
    assert read_facts(coadd).gain == 18.4


@pytest.mark.parametrize("key", ["SATURATE", "SATLEVEL", "SATUR", "ESATUR", "SATURVAL"])
def test_saturation_keywords(key):
    assert facts(**{key: 55000}).saturation == 55000


def test_sky_subtracted_saturation_tells_the_sky():
    got = facts(SATURATE=46536.1, ESATUR=42410.6)
    assert got.saturation == 42410.6
    assert got.background_level == pytest.approx(4125.5)


# ---- times and names


@pytest.mark.parametrize(
    ("cards", "mjd"),
    [
        ({"MJD_OBS": 59000.25}, 59000.25),
        ({"OBSJD": 2459000.75}, 59000.25),
        ({"DATE_OBS": "2020-05-31T06:00:00"}, 59000.25),
        ({"DATE_OBS": "2020-05-31", "TIME_OBS": "06:00:00"}, 59000.25),
        ({"DATE_OBS": "2020-05-31", "UT": "06:00:00", "MJD_OBS": 59000.0}, 59000.25),
        ({"DATE_OBS": "20/02/99"}, 51229.0),
        ({"TELESCOP": "HST", "EXPSTART": 51229.79}, 51229.79),
        ({"DATE_OBS": "sometime"}, None),
    ],
)
def test_times(cards, mjd):
    if "TIME_OBS" in cards:
        cards = {**cards, "TIME-OBS": cards["TIME_OBS"]}
    got = facts(**cards).meta.get("mjd")
    assert got == (None if mjd is None else pytest.approx(mjd, abs=1e-6))


def test_numbers_written_as_text_count():
    assert facts(EXPTIME="53.907456").meta["exposure"] == 53.907456


def test_blank_names_are_left_out():
    assert facts(TELESCOP="        ", INSTRUME="Apogee").meta == {"instrument": "Apogee"}


def test_acs_filter_wheels():
    assert facts(FILTER1="CLEAR1L", FILTER2="F814W").meta["filter"] == "F814W"


def test_seeing_only_where_it_is_in_pixels():
    assert read_facts(fits.Header([("SEEING", 2.1, "seeing FWHM [pixels]")])).meta["fwhm"] == 2.1
    assert "fwhm" not in read_facts(fits.Header([("SEEING", 2.1, "[arcsec]")])).meta


# ---- real files: zero point, gain, read noise, saturation, filter, MJD, whether there is a WCS

REAL = {
    "pairs/ztf_psfcat_stamps/r_858_12_1_2459987.7442/star_00.fits": (
        26.314719, 6.1, 8.9, 59804.336, "ZTF_r", 59987.2441551, True),
    "pairs/saao_kb13475/AKB13475I0001.fits": (None, 1.9, 5.0, 65535.0, "58", 56470.9675, False),
    "pairs/eso085-030/aligned_eso085-030-004.fit": (None, None, None, 65535.0, "Clear", 57383.2683333, False),
    "pairs/decam_testcase4/g/c4d_170329_044212_ooi_g_ls9.N3.fits": (
        30.036, 3.82098, 5.8845, 52068.4227, "g DECam SDSS c0001 4720.0 1520.0", 57841.19389557, True),
    "pairs/decam_sfft_mini/DEC-OBS04a.mini.fits": (
        None, 3.9840467, 11.83702, 42410.62, "i DECam SDSS c0003 7835.0 1470.0", 58334.39133794, True),
    "pairs/jwst_a2744_f200w_crop/jw01324001001-01324-o001_t001_nircam_clear-f200w_i2d_stamp.crop.fits": (
        28.0292, None, None, None, "F200W", 59759.4144985, True),
    "cross_survey/blast/2010H_2MASS_2MASS_J.fits": (21.7158, None, None, None, "j", 51570.183189, True),
    "cross_survey/blast/2010H_GALEX_GALEX_NUV.fits": (20.08, None, None, None, "NUV", 53768.379919, True),
    "cross_survey/blast/2010H_SDSS_SDSS_r.fits": (22.5, None, None, None, "r", 51960.0, True),
    "cross_survey/blast/2010H_WISE_WISE_W1.fits": (23.199, None, None, None, "W1", 55301.900828, True),
    "cross_survey/hostphot_field/DES_g.fits": (
        30.0, 18.357922, None, 30560.13567, "g DECam SDSS c0001 4720.0 1520.0", 56545.37819827, True),
    "cross_survey/hostphot_field/PS1_g.fits": (32.33625, 1.138861, None, 1275451.0, "g.00000", 56102.19459, True),
    "cross_survey/hostphot_field/SDSS_g.fits": (22.5, None, None, None, "g", 52872.0, True),
    "single/PTF_R_M81_cropped.fits": (23.50338, 1.6, 5.4, 55000.0, "R", 56251.38368, True),
    "single/WFPC2ASSNu5780205bx.fits": (30.1421, 7.0, None, 4095.0, "FR533P15", 51229.79390428, True),
    "single/a8280271.fits": (None, 1.9, 5.0, 65535.0, "48", 56486.03996, False),
    "single/ztf_20200924431759_000655_zr_c13_o_q3_sciimg.cropA.fits.gz": (
        26.285139, 6.0, 9.0, 58647.152, "ZTF_r", 59116.4317708, True),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_headers(data_dir, name):
    image = read_image(data_dir / name)
    zero_point, gain, read_noise, saturation, filter_name, mjd, has_wcs = REAL[name]
    for got, expected in (
        (image.zero_point, zero_point),
        (image.gain, gain),
        (image.read_noise, read_noise),
        (image.saturation, saturation),
    ):
        assert got == (None if expected is None else pytest.approx(expected, rel=1e-5))
    assert image.meta["filter"] == filter_name
    assert image.meta["mjd"] == pytest.approx(mjd, abs=1e-4)
    assert (image.wcs is not None) == has_wcs
    assert np.isfinite(image.data).mean() > 0.9


def test_every_real_image_is_read_without_a_warning(data_dir):
    """All FITS of pairs, single and cross_survey: an image, or a FitsError that says why not."""
    from astrid_gpu.errors import FitsError

    folders = ("pairs", "single", "cross_survey")
    paths = [path for folder in folders for path in sorted((data_dir / folder).rglob("*.fit*"))]
    paths = [path for path in paths if "star_" not in path.name or "star_00" in path.name]
    assert len(paths) > 60
    refused = []
    for path in paths:
        try:
            image = read_image(path)
        except FitsError:
            refused.append(path.name)
        else:
            assert image.data.ndim == 2
    assert all("psfex" in name or name == "WFPC2u5780205r_c0fx.fits" for name in refused), refused


def test_decam_with_its_mask_and_weight(data_dir):
    name = "pairs/decam_testcase4/z/c4d_170419_042827_oo{}_z_ls9.S1.fits"
    image, mask, weight = (data_dir / name.format(kind) for kind in "idw")
    got = read_image(image, mask=mask, weight=weight)
    codes, inverse = fits.getdata(mask), fits.getdata(weight)
    np.testing.assert_array_equal(got.mask != 0, (codes != 0) | ~(inverse > 0))
    good = inverse > 0
    np.testing.assert_allclose(got.variance[good], 1 / inverse[good], rtol=1e-5)
    # The weight holds the noise: it agrees with the scatter of the sky. The median of |x - median| of m Gaussian
    # pixels has a relative error of 1.17 / sqrt(m), far below the 10 % that faint sources may add.
    sky = got.data[~got.bad]
    scatter = 1.4826 * np.median(np.abs(sky - np.median(sky)))
    assert np.sqrt(np.median(got.variance[~got.bad])) == pytest.approx(scatter, rel=0.1)


def test_jwst_with_its_noise(data_dir):
    name = "pairs/jwst_a2744_f200w_crop/jw01324001001-01324-o001_t001_nircam_clear-f200w_i2d_stamp.{}crop.fits"
    got = read_image(data_dir / name.format(""), error=data_dir / name.format("noise."))
    np.testing.assert_allclose(got.variance, fits.getdata(data_dir / name.format("noise.")) ** 2, rtol=1e-5)


def test_ztf_mask_does_not_mask_the_stars(data_dir):
    name = "single/ztf_20200924431759_000655_zr_c13_o_q3_{}img.cropA.fits.gz"
    got = read_image(data_dir / name.format("sci"), mask=data_dir / name.format("msk"))
    codes = fits.getdata(data_dir / name.format("msk"))
    assert (codes & 2).astype(bool).mean() > 0.03
    np.testing.assert_array_equal(got.mask != 0, (codes & 6141) != 0)
    assert got.mask.astype(bool).mean() < 0.001
