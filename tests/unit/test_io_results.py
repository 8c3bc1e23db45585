"""Difference FITS, cutout FITS and candidate tables: what is written can be read, by anyone."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable, Table
from astropy.wcs import WCS

from astrid_gpu.detect import candidate_dtype
from astrid_gpu.errors import InputError
from astrid_gpu.flags import CandidateFlag, PixelFlag
from astrid_gpu.io import (
    candidates_table,
    difference_hdulist,
    read_image,
    write_candidates,
    write_cutout_fits,
    write_difference,
)
from astrid_gpu.ops.psf_stamps import gaussian_stamp
from astrid_gpu.results import Candidates, Cutouts, Difference, Step


@pytest.fixture
def wcs():
    w = WCS(naxis=2)
    w.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
    w.wcs.crval, w.wcs.crpix, w.wcs.cdelt = [150.0, 2.0], [20.0, 15.0], [-2e-4, 2e-4]
    from astropy.wcs import Sip

    a = np.zeros((3, 3))
    a[2, 0] = 1e-4
    w.sip = Sip(a, -a, None, None, w.wcs.crpix)
    return w


@pytest.fixture
def diff(rng, wcs):
    maps = rng.normal(size=(5, 30, 40)).astype(np.float32)
    mask = np.zeros((30, 40), np.uint8)
    mask[3, 4], mask[0] = PixelFlag.BAD_SCIENCE, PixelFlag.EDGE
    maps[:, 3, 4] = np.nan
    return Difference(
        difference=maps[0], score=maps[1], score_corr=maps[2], flux=maps[3], flux_error=np.abs(maps[4]),
        psf=gaussian_stamp(3.0), flux_scale=0.8, mask=mask, wcs=wcs, zero_point=26.3,
        steps=(Step("psf", "science: FWHM 2.5 ± 0.1 px, σ² = 3\nand a second line " + "x" * 90, {}),),
        metrics={
            "flux_ratio": 1.25, "flux_ratio_error": 0.01, "offset": np.float32(3.5), "shift_x": 0.1, "shift_y": -0.2,
            "score_corr_std": 1.0, "score_corr_median": 0.01, "limiting_magnitude": float("nan"), "profile": {"a": 1.0},
        },
        meta={
            "science": "sci.fits", "reference": "ref.fits",
            "science_meta": {"filter": "r", "mjd": 59000.5, "exposure": 30.0, "bunit": "adu", "observation_id": 77},
            "reference_meta": {"mjd": 58000.25, "observation_id": "deep"},
        },
    )  # fmt: skip


@pytest.fixture
def candidates():
    rows = np.zeros(2, candidate_dtype())
    rows["id"], rows["x"], rows["y"], rows["ra"], rows["dec"] = (1, 2), (10.123456, 30), (20, 5), (150.1, np.nan), 2.0
    rows["polarity"], rows["score"], rows["flux"], rows["flux_error"] = (1, -1), (12.5, -7), (1e4, -500), (800, 70)
    rows["snr"], rows["mag"], rows["flags"] = (12.5, -7), (16.3, np.nan), (0, int(CandidateFlag.DIPOLE))
    return Candidates(rows, 5.0, "peaks", {"science": "sci.fits", "science_meta": {"bunit": "adu"}, "big": np.ones(9)})


def test_extensions_in_order(diff):
    hdus = difference_hdulist(diff)
    assert [h.name for h in hdus[1:]] == ["DIFFERENCE", "SCORE", "SCORECORR", "FLUX", "FLUXERR", "MASK", "PSF"]
    assert all(h.data.dtype == (np.uint8 if h.name == "MASK" else np.float32) for h in hdus[1:])
    np.testing.assert_array_equal(hdus["SCORECORR"].data, diff.score_corr)


def test_chosen_extensions(diff):
    assert [h.name for h in difference_hdulist(diff, ("psf", "DIFFERENCE"))[1:]] == ["DIFFERENCE", "PSF"]
    with pytest.raises(InputError, match="unknown extension NOISE; a difference has DIFFERENCE, SCORE"):
        difference_hdulist(diff, ("NOISE",))
    with pytest.raises(InputError, match="FLUX was not computed"):
        difference_hdulist(replace(diff, flux=None), ("FLUX",))


def test_keywords(diff):
    header = difference_hdulist(diff)[0].header
    expected = {
        "SCIENCE": "sci.fits", "REFERENC": "ref.fits", "OBSID": 77, "REFID": "deep", "METHOD": "zogy",
        "BACKEND": "numpy", "FN": 1.0, "FR": 0.8, "FD": 0.8, "BETA": 1.25, "BETAERR": 0.01, "GAMMA": 3.5,
        "DX": 0.1, "DY": -0.2, "SCSTD": 1.0, "SCMED": 0.01, "NMASK": 1, "MAGZP": 26.3, "FILTER": "r",
        "MJD-OBS": 59000.5, "REFMJD": 58000.25, "EXPTIME": 30.0,
    }  # fmt: skip
    assert {key: header[key] for key in expected} == pytest.approx(expected)
    assert "LIMMAG" not in header  # NaN cannot be written
    assert {"VERSION", "DATE"} <= set(header)
    story = " ".join(str(line) for line in header["HISTORY"])
    assert "2.5 +- 0.1 px, sigma^2 = 3 and a second line" in story


@pytest.mark.parametrize("name", ["d.fits", "d.fits.gz", "d.fits.fz", "new/folder/d.fits"])
def test_round_trip(tmp_path, diff, wcs, name):
    path = write_difference(diff, tmp_path / name)
    got = read_image(path)
    np.testing.assert_array_equal(got.data, diff.difference)
    assert got.zero_point == 26.3
    assert got.meta["mjd"] == 59000.5
    # our own mask: only invalid pixels are bad, EDGE is a warning
    assert np.argwhere(got.bad).tolist() == [[3, 4]]
    places = np.array([[3.0, 4.0], [39.0, 29.0]])
    np.testing.assert_allclose(got.wcs.all_pix2world(places, 0), wcs.all_pix2world(places, 0), atol=1e-11)
    np.testing.assert_allclose(read_image(f"{path}[PSF]").data, diff.psf, atol=1e-7)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_file_obeys_the_standard(tmp_path, diff):
    path = write_difference(diff, tmp_path / "d.fits")
    with fits.open(path, checksum=True) as hdus:  # warnings are errors
        hdus.verify("exception")
        assert all(hdu.verify_checksum() == 1 for hdu in hdus if "CHECKSUM" in hdu.header)
        assert len(hdus) > 1


def test_a_result_without_anything(tmp_path):
    path = write_difference(Difference(np.zeros((4, 5))), tmp_path / "d.fits")
    image = read_image(path)
    assert image.wcs is None
    assert image.data.dtype == np.float32


def test_a_stack(tmp_path):
    path = write_difference(Difference(np.zeros((2, 4, 5)), flux_scale=np.ones(2)), tmp_path / "d.fits")
    assert fits.getdata(path, "DIFFERENCE").shape == (2, 4, 5)


# ---- candidates


def test_table_has_units_and_meaning(candidates):
    table = candidates_table(candidates)
    assert isinstance(table, QTable)
    assert table["x"].unit == u.pix
    assert table["ra"].unit == u.deg
    assert table["flux"].unit == u.adu
    assert table["mag"].unit == u.mag
    assert all(table[name].info.description for name in table.colnames)
    assert table.meta["threshold"] == 5.0
    assert table.meta["flags"]["DIPOLE"].startswith("256: ")
    assert table.meta["science"] == "sci.fits"
    assert "big" not in table.meta


def test_flux_without_a_known_unit(candidates):
    table = candidates_table(replace(candidates, meta={"bunit": "widgets per fortnight"}))
    assert getattr(table["flux"], "unit", None) is None


def test_csv_is_plain_numbers(tmp_path, candidates):
    path = write_candidates(candidates, tmp_path / "c.csv")
    with path.open() as stream:
        lines = list(csv.reader(stream))
    assert lines[0] == list(candidates.data.dtype.names)
    assert len(lines) == 3
    first = dict(zip(lines[0], lines[1], strict=True))
    assert (first["id"], first["x"], first["flags"], first["ra"]) == ("1", "10.1235", "0", "150.10000000")
    assert [float(v) for line in lines[1:] for v in line]
    assert Table.read(path)["flags"].tolist() == [0, 256]


def test_ecsv_round_trip(tmp_path, candidates):
    table = QTable.read(write_candidates(candidates, tmp_path / "c.ecsv"))
    for name in candidates.data.dtype.names:
        np.testing.assert_array_equal(np.asarray(table[name]), candidates[name])
    assert table["flux_error"].unit == u.adu
    assert table.meta["extractor"] == "peaks"


@pytest.mark.parametrize("bunit", ["", "electron", "MJy/sr", "widgets per fortnight"])
def test_ecsv_is_what_astropy_writes(tmp_path, candidates, bunit):
    """Ours and `QTable.write`'s: the same columns, units, meanings and metadata when read back."""
    more = {"bunit": bunit, "tiny": 1e-7, "huge": -1e300, "nan": float("inf"), "said": 'σ: "5" \\ 𝄞', "list": [1, "b"]}
    candidates = replace(candidates, meta={**candidates.meta, **more})
    candidates_table(candidates).write(tmp_path / "theirs.ecsv", format="ascii.ecsv")
    ours, theirs = QTable.read(write_candidates(candidates, tmp_path / "c.ecsv")), QTable.read(tmp_path / "theirs.ecsv")
    assert ours.colnames == theirs.colnames
    assert ours.meta == theirs.meta
    for name in ours.colnames:
        a, b = ours[name], theirs[name]
        assert (type(a), a.dtype, getattr(a, "unit", None)) == (type(b), b.dtype, getattr(b, "unit", None))
        assert a.info.description == b.info.description
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_fits_table(tmp_path, candidates):
    table = QTable.read(write_candidates(candidates, tmp_path / "c.fits"))
    np.testing.assert_array_equal(table["score"], candidates["score"])


@pytest.mark.parametrize("ending", ["csv", "ecsv"])
def test_same_candidates_same_bytes(tmp_path, candidates, ending):
    first = write_candidates(candidates, tmp_path / f"a.{ending}").read_bytes()
    assert write_candidates(candidates, tmp_path / f"b.{ending}").read_bytes() == first


@pytest.mark.parametrize("ending", ["csv", "ecsv", "fits"])
def test_no_candidates(tmp_path, candidates, ending):
    path = write_candidates(candidates[:0], tmp_path / f"c.{ending}")
    table = Table.read(path)
    assert len(table) == 0
    assert table.colnames == list(candidates.data.dtype.names)


def test_unknown_ending(tmp_path, candidates):
    with pytest.raises(InputError, match=r"c.xlsx; candidates are written as .csv, .ecsv or .fits"):
        write_candidates(candidates, tmp_path / "c.xlsx")
    assert list(tmp_path.iterdir()) == []


def test_cutout_fits(tmp_path, rng, candidates, wcs):
    images, score = rng.normal(size=(2, 3, 11, 11)).astype(np.float32), rng.normal(size=(2, 11, 11)).astype(np.float32)
    cuts = Cutouts(images, score, np.zeros((2, 11, 11), np.uint8), candidates["id"])
    path = write_cutout_fits(tmp_path / "1.fits", cuts, 0, candidate=candidates.data[0], wcs=wcs)
    with fits.open(path) as hdus:
        assert [h.name for h in hdus[1:]] == ["SCIENCE", "REFERENCE", "DIFFERENCE", "SCORE", "MASK"]
        np.testing.assert_array_equal(hdus["REFERENCE"].data, images[0, 1])
        assert (hdus[0].header["CANDID"], hdus[0].header["SCORE"]) == (1, 12.5)
    got = read_image(f"{path}[SCIENCE]")
    here, there = got.wcs.all_pix2world(5, 5, 0), wcs.all_pix2world(10, 20, 0)
    np.testing.assert_allclose(here, there, atol=1e-11)
    with pytest.raises(InputError, match="2 cutouts, no number 2"):
        write_cutout_fits(tmp_path / "x.fits", cuts, 2)
