"""The PS1 cutout service.

No answer of ps1filenames.py was recorded whole; rows quoted in public code serve as the table, and real cutouts of the
service (shared data) as what fitscut.cgi sends.
"""

from __future__ import annotations

import io
import math

import numpy as np
import pytest

pytest.importorskip("astropy", reason="needs the fits extra")

import astrid_gpu as ag
from astrid_gpu.acquire import ps1
from astrid_gpu.acquire.observations import as_rows
from astrid_gpu.errors import AcquisitionError, InputError
from astrid_gpu.io import linear_flux, linearise_ps1_file
from tests.integration.replay.server import Answer

HEAD = "projcell subcell ra dec filter mjd type filename shortname badflag"
CELL = "/rings.v3.skycell/1329/005/"
PLACE = (27.952, 0.2635)


def line(kind, band, mjd=0.0, end="", badflag=0):
    """A row of the service's table, in the form of the ones that were quoted."""
    what, _, plane = kind.partition(".")
    middle = f"stk.{band}.unconv" if what == "stack" else f"wrp.{band}.{int(mjd)}_{end or 40000}"
    name = f"rings.v3.skycell.1329.005.{middle}{f'.{plane}' if plane else ''}.fits"
    return f"1329 5 {PLACE[0]} {PLACE[1]} {band} {mjd} {kind} {CELL}{name} {name} {badflag}"


def names(replay, *lines):
    replay.add("/cgi-bin/ps1filenames.py", "\n".join([HEAD, *lines]).encode() + b"\n")


def fitscut(replay, ending, *answers):
    replay.add("/cgi-bin/fitscut.cgi", *answers, when=lambda request: request.query["red"][0].endswith(ending))


@pytest.fixture(autouse=True)
def at_loopback(replay, monkeypatch):
    monkeypatch.setattr(ps1, "SERVER", replay.url)


def image_bytes(pixels, **keywords):
    from astropy.io import fits

    stream = io.BytesIO()
    fits.PrimaryHDU(np.asarray(pixels), fits.Header(keywords)).writeto(stream)
    return stream.getvalue()


def test_quoted_rows_of_the_service_are_understood(replay, client, data_dir):
    replay.add("/cgi-bin/ps1filenames.py", (data_dir / "http" / "ps1" / "ps1filenames_rows_quoted.txt").read_bytes())
    table = ps1.search((45.0, 87.45), size=240, filters="giy", planes=(), client=client)
    rows = as_rows(table)
    assert [row["filter"] for row in rows] == ["g", "i", "y"]
    assert all(row["kind"] == row["role"] == "reference" for row in rows)
    assert all(math.isnan(row["mjd"]) for row in rows)
    assert rows[0]["url"].startswith(f"{replay.url}/cgi-bin/fitscut.cgi?ra=45.000000&dec=87.450000&size=240&red=/rings")
    assert rows[0]["url"].endswith("2643.000.stk.g.unconv.fits&format=fits")


def test_the_question(replay, client):
    names(replay)
    assert len(ps1.search(PLACE, size=240, filters="gr", types=("stack", "warp"), client=client)) == 0
    query = replay.requests[0].query
    assert query["type"] == ["stack,stack.mask,stack.wt,warp,warp.mask,warp.wt"]
    assert (query["filters"], query["ra"], query["dec"]) == (["gr"], ["27.952000"], ["0.263500"])


def test_warps_between_two_dates(replay, client):
    names(replay, *[line("warp", "r", mjd) for mjd in (55000.5, 55400.25, 56000.5)], line("stack", "r"),
          line("warp.mask", "r", 55400.25))  # fmt: skip
    table = ps1.search(PLACE, filters="r", types=("warp", "stack"), since=55100, until=55500, client=client)
    assert [(row["kind"], row["role"]) for row in as_rows(table)] == [
        ("reference", "reference"), ("science", "science"), ("mask", "science"),
    ]  # fmt: skip
    # the service's dates are TAI: 34 s ahead of UTC in 2010
    assert as_rows(table)[1]["mjd"] == pytest.approx(55400.25 - 34 / 86400, abs=1e-9)


def test_real_cutouts_of_two_filters_with_zero_point_and_planes(replay, client, tmp_path, data_dir):
    folder = data_dir / "cross_survey" / "hostphot_field"
    rows = [line(kind, band) for band in "gr" for kind in ("stack", "stack.mask", "stack.wt")]
    names(replay, *rows)
    mask = np.zeros((240, 240), np.int32)
    mask[10, 20] = 4096
    for band in "gr":
        fitscut(replay, f"stk.{band}.unconv.fits", (folder / f"PS1_{band}.fits").read_bytes())
        fitscut(replay, f"stk.{band}.unconv.mask.fits", image_bytes(mask))
        fitscut(replay, f"stk.{band}.unconv.wt.fits", image_bytes(np.full((240, 240), 144.0, np.float32)))
    green, red = ps1.cutouts(PLACE, size=240, filters="gr", folder=tmp_path / "run", client=client)
    for image, band, exposure in ((green, "g", 860.0), (red, "r", 720.0)):
        from astropy.io import fits

        raw = fits.getdata(folder / f"PS1_{band}.fits")
        np.testing.assert_array_equal(image.data, raw)  # the service's cutouts are linear: nothing is done to them
        assert image.zero_point == pytest.approx(25 + 2.5 * math.log10(exposure))
        assert image.meta["filter"] == band
        assert (image.variance[image.mask == 0] == 144.0).all()
        assert image.mask[10, 20]
        assert (image.mask != 0).sum() == 1
        middle = image.wcs.pixel_to_world(119.5, 119.5)
        assert (middle.ra.deg, middle.dec.deg) == pytest.approx(PLACE, abs=2e-3)


def test_asinh_scaling_is_undone_once(tmp_path, rng):
    """Against the formula of the survey's documentation, written another way, and never twice."""
    counts = np.concatenate([rng.normal(0, 30, 5000), rng.exponential(5000, 5000)]).reshape(100, 100)
    soften, offset = 95.4, 2.25
    a = 2.5 * math.log10(math.e)  # 1.0857362
    scaled = (a * np.arcsinh((counts - offset) / (2 * soften))).astype(np.float64)
    np.testing.assert_allclose(linear_flux(scaled, soften, offset), counts, rtol=1e-12, atol=1e-9)
    path = tmp_path / "stack.fits"
    path.write_bytes(image_bytes(scaled, BSOFTEN=soften, BOFFSET=offset, EXPTIME=100.0))
    before = ag.read_image(path)
    np.testing.assert_allclose(before.data, counts, rtol=1e-12, atol=1e-9)
    assert linearise_ps1_file(path)
    assert not linearise_ps1_file(path)
    after = ag.read_image(path)
    np.testing.assert_allclose(after.data, counts, rtol=1e-7, atol=1e-5)  # written in float32
    assert "BSOFTEN" not in after.meta["header"]


def test_asinh_scaled_weights_are_undone_too(tmp_path):
    variance = np.full((20, 20), 250.0)
    scaled = np.arcsinh((variance - 1.0) / 20.0) / (0.4 * math.log(10))
    (tmp_path / "a.fits").write_bytes(image_bytes(np.ones((20, 20), np.float32)))
    (tmp_path / "w.fits").write_bytes(image_bytes(scaled, BSOFTEN=10.0, BOFFSET=1.0))
    image = ag.read_image(tmp_path / "a.fits", variance=tmp_path / "w.fits")
    np.testing.assert_allclose(image.variance, 250.0, rtol=1e-6)


def test_whole_skycells_have_the_archives_own_address(replay, client):
    names(replay, line("stack", "g"))
    (row,) = as_rows(ps1.search(PLACE, filters="g", planes=(), whole=True, client=client))
    assert row["url"] == f"{replay.url}{CELL}rings.v3.skycell.1329.005.stk.g.unconv.fits"
    assert row["filename"] == "rings.v3.skycell.1329.005.stk.g.unconv.fits"


def test_preview_is_a_picture_and_only_that(replay, client, tmp_path):
    names(replay, line("stack", "g"))
    table = ps1.search(PLACE, filters="g", planes=(), client=client)
    fitscut(replay, "fits", b"\xff\xd8\xff\xe0" + bytes(900))
    assert ps1.preview(table[0], tmp_path / "g.jpg", client=client).is_file()
    assert replay.requests[-1].query["format"] == ["jpg"]
    with pytest.raises(InputError, match="preview is a picture"):
        ps1.preview(table[0], tmp_path / "g.fits", client=client)


def test_picture_where_fits_was_asked_for_is_refused(replay, client, tmp_path):
    """What the host application took for data: a JPEG."""
    names(replay, line("stack", "g"))
    table = ps1.search(PLACE, filters="g", planes=(), client=client)
    fitscut(replay, "fits", b"\xff\xd8\xff\xe0" + bytes(900))
    with pytest.raises(AcquisitionError, match="JPEG picture where a FITS file was asked for"):
        ps1.fetch(table, tmp_path / "out", client=client)
    assert not list((tmp_path / "out").glob("*.fits"))


def test_one_filter_that_fails_is_named_and_the_other_kept(replay, client, tmp_path, fits_bytes):
    names(replay, line("stack", "g"), line("stack", "r"))
    fitscut(replay, "stk.g.unconv.fits", fits_bytes)
    fitscut(replay, "stk.r.unconv.fits", Answer(b"fitscut: Error reading file", status=500))
    table = ps1.search(PLACE, filters="gr", planes=(), client=client)
    with pytest.raises(AcquisitionError, match=r"(?s)1 of 2 files.*stk\.r.*Error reading file") as caught:
        ps1.fetch(table, tmp_path / "out", client=client)
    assert ["stk.g" in path.name for path in caught.value.paths] == [True]


def test_sky_that_ps1_never_saw(replay, client, tmp_path):
    names(replay)
    with pytest.raises(AcquisitionError, match="PS1 has no stack in gr"):
        ps1.cutouts((10.0, -60.0), filters="gr", folder=tmp_path, client=client)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html><body>Internal error</body></html>", "an HTML page"),
        (b"Error: no image files found", "no table of file names"),
        (f"{HEAD}\n1329 5 27.9".encode(), "damaged table"),
        (f"{HEAD}\n{line('stack', 'g').replace('0.0', 'soon')}".encode(), "'soon' for a date"),
        (f"{HEAD}\n{line('stack', 'g').replace(CELL, 'http://evil/')}".encode(), "impossible file name"),
        (f"{HEAD}\n{line('stack', 'g').replace(' rings', ' ../rings')}".encode(), "impossible file name"),
    ],
)  # fmt: skip
def test_answers_that_are_no_table(replay, client, body, words):
    replay.add("/cgi-bin/ps1filenames.py", Answer(body))
    with pytest.raises(AcquisitionError, match=words):
        ps1.search(PLACE, client=client)


@pytest.mark.parametrize(
    "options",
    [{"filters": "gu"}, {"filters": ""}, {"types": ("diff",)}, {"planes": ("psf",)}, {"size": 0}, {"size": 9000},
     {"size": 2.5}, {"radius": 5.0}],
)  # fmt: skip
def test_impossible_questions_are_not_asked(replay, client, options):
    with pytest.raises(InputError):
        ps1.search(PLACE, client=client, **options)
    assert not replay.requests
