"""Names of surveys and bands: one spelling out of many, and never a guess."""

from __future__ import annotations

import pytest

from astrid_gpu.acquire.bands import band_of, survey_of


@pytest.mark.parametrize(
    ("name", "band"),
    [
        ("ZTF_r", "r"),
        ("zg", "g"),
        ("g DECam SDSS c0001 4720.0 1520.0", "g"),
        ("i.00000", "i"),
        ("r'", "r"),
        ("sdss_u", "u"),
        ("Ks", "K"),
        ("j", "J"),
        ("W1", "W1"),
        ("WISE 4", "W4"),
        ("NUV", "NUV"),
        ("GALEX FUV", "FUV"),
        ("uvw1", "UVW1"),
        ("F200W", "F200W"),
        ("R", "R"),
        ("r", "r"),
        ("Clear", "Clear"),
        ("1", "1"),  # a number is no band: 1 is g for ZTF and W1 for WISE
        ("PS1_rings.v3.z", "PS1_rings.v3.z"),  # the g in "rings" is none
        ("", None),
        (None, None),
        ("nan", None),
    ],
)
def test_bands(name, band):
    assert band_of(name) == band


def test_the_r_of_ptf_is_mould_r():
    assert band_of("R", "PTF") == "R"
    assert band_of("g", "PTF") == "g"


@pytest.mark.parametrize(
    ("texts", "survey"),
    [
        (("ZTF/MOSAIC", "Palomar 48-inch"), "ZTF"),
        (("PTF/MOSAIC", "P48"), "PTF"),
        (("GPC1", "PS1"), "PS1"),
        (("DECam", "CTIO 4.0-m telescope"), "DECam"),
        (("S3-177_107419-14-1", None, "i DECam SDSS c0003 7835.0 1470.0"), "DECam"),
        (("NIRCAM",), "JWST"),
        (("WFPC2", "HST"), "HST"),
        ((None, None, None, "2010H_2MASS_2MASS_J.fits"), "2MASS"),
        (("Apogee USB/Net", None), None),
        ((), None),
    ],
)
def test_surveys(texts, survey):
    assert survey_of(*texts) == survey
