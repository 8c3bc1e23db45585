"""MAST and TESScut: astroquery's own code and ours against recorded answers."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("astroquery", reason="acquisition needs the extra: pip install 'astrid-gpu[acquire]'")

import astrid_gpu as ag
from astrid_gpu.acquire import mast, tesscut
from astrid_gpu.acquire._mast_portal import observation_of
from astrid_gpu.acquire._mast_products import best_products, calibrated_products
from astrid_gpu.acquire.observations import as_rows
from astrid_gpu.errors import AcquisitionError, InputError
from tests.integration.replay.recordings import mashup, recording, serve_mast
from tests.integration.replay.server import Answer

M101 = (210.80227, 54.34895)


@pytest.fixture(autouse=True)
def at_loopback(replay, monkeypatch):
    """astroquery's server settings point at the replay server; what it learnt of columns before is forgotten."""
    from astroquery.mast import conf
    from astroquery.mast.discovery_portal import PortalAPI

    monkeypatch.setattr(PortalAPI, "_column_configs", {})
    with conf.set_temp("server", replay.url), conf.set_temp("timeout", 5):
        yield


def galex(replay, client, **options):
    serve_mast(replay, Caom_Filtered_Position="advSearchPos.json")
    return mast.search(M101, 0.5, missions="GALEX", client=client, **options)


def observation(replay, **changes):
    """A row as `search` gives it, of the HST observation whose products were recorded."""
    row = {"id": "U9O40504M", "ra": 10.0, "dec": 5.0, "survey": "HST", "kind": "science", "filename": "U9O40504M.fits",
           "filter": "F606W", "service_id": "2003738726"} | changes  # fmt: skip
    return ag.acquire.observation_table([row], source="mast")


def test_cone_search_has_the_metadata_of_every_observation(replay, client):
    table = galex(replay, client)
    recorded = json.loads(recording("astroquery/mast/advSearchPos.json"))["data"]
    assert len(table) == len(recorded) == 12
    by_id = {(line["obs_id"], line["filters"]): line for line in recorded}
    for row in as_rows(table):
        line = by_id[row["id"], row["filter"]]
        assert row["ra"] == pytest.approx(line["s_ra"], abs=1e-12)
        assert row["dec"] == pytest.approx(line["s_dec"], abs=1e-12)
        assert row["mjd"] == line["t_min"]
        assert row["mjd_end"] == line["t_max"]
        assert row["exposure"] in {other["t_exptime"] for other in recorded if other["obs_id"] == row["id"]}
        assert (row["survey"], row["instrument"], row["target"]) == ("GALEX", "GALEX", line["target_name"])
        assert row["footprint"].startswith("CIRCLE ICRS")
        assert row["preview_url"].startswith("http")
        assert row["service_id"].isdigit()
        assert row["url"] == ""  # MAST told none: products are asked for when it is fetched
    distances = table["distance"].value
    assert (np.diff(distances) >= 0).all()
    assert distances[0] == 0


def test_the_question_holds_position_missions_filters_and_dates(replay, client):
    galex(replay, client, filters=["NUV", "FUV"], since=52000, until=56000, instruments="GALEX", limit=3)
    question = mashup(replay.requests[-1])
    assert question["params"]["position"] == "210.80227, 54.34895, 0.5"
    filters = {part["paramName"]: part["values"] for part in question["params"]["filters"]}
    assert filters["obs_collection"] == ["GALEX"]
    assert filters["filters"] == ["NUV", "FUV"]
    assert filters["dataproduct_type"] == ["image"]
    assert filters["t_min"] == [{"min": 52000, "max": 56000}]
    assert filters["instrument_name"] == ["GALEX"]
    assert filters["calib_level"]


@pytest.mark.parametrize("name", ["caom.json", "advSearch.json", "advSearchPos.json"])
def test_every_recorded_row_is_an_observation(name):
    """HST, HLA and GALEX rows of a cone and of a search by criteria."""
    lines = json.loads(recording(f"astroquery/mast/{name}"))["data"]
    rows = [observation_of(line) for line in lines]
    table = ag.acquire.observation_table(rows, source="mast")
    assert len(table) == len(lines)
    for row, line in zip(as_rows(table), lines, strict=True):
        assert (row["survey"], row["filter"]) == (line["obs_collection"], line["filters"])
        assert (row["ra"], row["dec"], row["mjd"]) == (line["s_ra"], line["s_dec"], line["t_min"])
        assert row["exposure"] == line["t_exptime"]
        assert row["id"] == line["obs_id"]


def test_row_that_names_its_product_has_an_address(replay):
    """As MAST answers today: dataURL holds a mast: URI."""
    line = json.loads(recording("astroquery/mast/caom.json"))["data"][0]
    uri = "mast:HST/product/hst_05371_cs_wfpc2_f814w_wf_drz.fits"
    row = observation_of(line | {"dataURL": uri, "dataRights": "PUBLIC", "jpegURL": uri.replace(".fits", ".jpg")})
    assert row["url"] == f"{replay.url}/api/v0.1/Download/file?uri={uri}"
    assert row["preview_url"].endswith("drz.jpg")
    assert row["filename"] == "hst_05371_cs_wfpc2_f814w_wf_drz.fits"
    assert row["access"] == "public"
    stack = observation_of(line | {"obs_collection": "PS1", "dataURL": "mast:PS1/product/a.stk.g.unconv.fits"})
    assert stack["kind"] == "reference"
    assert observation_of(line | {"dataURL": "mast:HST/product/a.jpg"})["url"] == ""


def test_limit_keeps_the_nearest(replay, client):
    table = galex(replay, client, limit=3)
    assert len(table) == 3
    assert table["distance"].value.max() < 300


def test_rows_of_other_missions_are_not_passed_on(replay, client):
    serve_mast(replay, Caom_Filtered_Position="advSearchPos.json")
    assert len(mast.search(M101, 0.5, missions="HST", client=client)) == 0


def test_no_rows_is_an_empty_table(replay, client):
    empty = json.loads(recording("astroquery/mast/advSearchPos.json"))
    empty["data"] = []
    serve_mast(replay, Caom_Filtered_Position=Answer(json.dumps(empty).encode()))
    table = mast.search(M101, 0.5, missions=["HST", "JWST"], client=client)
    assert len(table) == 0
    ag.acquire.check_observations(table)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"missions": "HTS"}, "did you mean HST"),
        ({"missions": []}, "missions is empty"),
        ({"radius": -1}, "radius"),
        ({"position": (400, 95)}, "not a position"),
    ],
)
def test_impossible_questions_are_not_asked(replay, client, change, words):
    options = {"position": M101, "radius": 0.1} | change
    with pytest.raises(InputError, match=words):
        mast.search(options.pop("position"), options.pop("radius"), client=client, **options)
    assert not replay.requests


def test_products_are_the_calibrated_images(replay, client):
    serve_mast(replay, Caom_Products="products.json")
    table = mast.products(observation(replay), client=client)
    assert mashup(replay.requests[-1])["params"]["obsid"] == "2003738726"
    # of 22 products 15 are auxiliary, two raw science files (D0M, D0F), two quality masks (C1M, C1F)
    assert [row["quality"] for row in as_rows(table)] == ["DRZ", "C0M", "C0F"]
    first = as_rows(table)[0]
    assert first["url"] == f"{replay.url}/api/v0.1/Download/file?uri=mast:HST/product/u9o40504m_drz.fits"
    assert first["size"] == 27227520
    assert first["filter"] == "F606W"
    assert [r["quality"] for r in as_rows(mast.products(observation(replay), which="best", client=client))] == ["DRZ"]
    assert [r["quality"] for r in as_rows(mast.products(observation(replay), which=["c0m"], client=client))] == ["C0M"]


@pytest.mark.parametrize(
    ("survey", "band", "files", "calibrated", "best"),
    [
        ("JWST", "F200W",
         [("jw1_uncal.fits", "UNCAL", 1), ("jw1_cal.fits", "CAL", 2), ("jw1_i2d.fits", "I2D", 3)],
         ["jw1_i2d.fits", "jw1_cal.fits"], ["jw1_i2d.fits"]),
        ("HST", "F814W",
         [("j1_raw.fits", "RAW", 1), ("j1_flt.fits", "FLT", 2), ("j1_flc.fits", "FLC", 2), ("j1_spt.fits", "SPT", 1)],
         ["j1_flc.fits", "j1_flt.fits"], ["j1_flc.fits"]),
        ("GALEX", "NUV",
         [("A-nd-int.fits.gz", "", 2), ("A-fd-int.fits.gz", "", 2), ("A-nd-rr.fits.gz", "", 2)],
         ["A-nd-int.fits.gz"], ["A-nd-int.fits.gz"]),
        ("PS1", "g",
         [("a.stk.g.unconv.fits", "", 3), ("a.stk.g.unconv.mask.fits", "", 3), ("a.stk.g.unconv.wt.fits", "", 3)],
         ["a.stk.g.unconv.fits"], ["a.stk.g.unconv.fits"]),
    ],
)  # fmt: skip
def test_calibrated_images_of_each_mission(survey, band, files, calibrated, best):
    """Names as the missions' handbooks give them; made up, not recorded."""
    lines = [
        {"dataURI": f"mast:{survey}/product/{name}", "productFilename": name, "productType": "SCIENCE",
         "dataproduct_type": "image", "productSubGroupDescription": kind or None, "calib_level": level}
        for name, kind, level in files
    ]  # fmt: skip
    chosen = calibrated_products(lines, survey, band)
    assert [line["productFilename"] for line in chosen] == calibrated
    assert [line["productFilename"] for line in best_products(chosen, survey)] == best


def test_names_from_the_archive_stay_in_their_folder():
    line = json.loads(recording("astroquery/mast/caom.json"))["data"][0]
    row = observation_of(line | {"dataURL": "mast:HST/product/..%2f..\\..\x00.fits", "obs_id": "../../etc/passwd"})
    (row,) = as_rows(ag.acquire.observation_table([row], source="mast"))
    assert "/" not in row["filename"] + row["id"]
    assert "\\" not in row["filename"] + row["id"]


def download_route(replay, uri, *answers):
    replay.add("/api/v0.1/Download/file", *answers, when=lambda request: request.query["uri"] == [uri])


def test_fetch_asks_for_products_and_downloads_the_best(replay, client, tmp_path, fits_bytes):
    serve_mast(replay, Caom_Products="products.json")
    download_route(replay, "mast:HST/product/u9o40504m_drz.fits", fits_bytes)
    (path,) = ag.acquire.fetch(observation(replay), tmp_path, client=client)
    assert path == tmp_path / "u9o40504m_drz.fits"
    assert path.read_bytes() == fits_bytes


def test_fetch_into_a_run_directory_goes_by_role(replay, client, tmp_path, fits_bytes):
    serve_mast(replay, Caom_Products="products.json")
    download_route(replay, "mast:HST/product/u9o40504m_drz.fits", fits_bytes)
    (tmp_path / "source_fits").mkdir()
    (path,) = mast.fetch(observation(replay, role="reference"), tmp_path, client=client)
    assert path == tmp_path / "source_fits" / "reference" / "u9o40504m_drz.fits"


def test_record_of_the_run_is_that_of_the_product(replay, client, tmp_path, fits_bytes):
    """The file's name is known only after MAST was asked for products; the record must be there all the same."""
    serve_mast(replay, Caom_Products="products.json")
    download_route(replay, "mast:HST/product/u9o40504m_drz.fits", fits_bytes)
    run = ag.acquire.RunDirectory(tmp_path / "run")
    ag.acquire.fetch(observation(replay, mjd=52000.5, exposure=300.0), run, client=client)
    (record,) = (tmp_path / "run" / "metadata").glob("*.json")
    told = json.loads(record.read_text())
    assert told["observation_id"] == "U9O40504M"
    assert told["filter"] == "F606W"
    assert told["survey"] == "HST"


def test_one_product_that_fails_does_not_stop_the_others(replay, client, tmp_path, fits_bytes):
    serve_mast(replay, Caom_Products="products.json")
    download_route(replay, "mast:HST/product/u9o40504m_drz.fits", fits_bytes)
    download_route(replay, "mast:HST/product/u9o40504m_c0m.fits", Answer(b"No such file", status=404))
    download_route(replay, "mast:HST/product/u9o40504m_c0f.fits", fits_bytes)
    rows = mast.products(observation(replay), client=client)
    with pytest.raises(AcquisitionError, match=r"(?s)1 of 3 files.*u9o40504m_c0m.fits.*No such file") as caught:
        mast.fetch(rows, tmp_path, client=client)
    assert [name for name, _ in caught.value.failures] == ["u9o40504m_c0m.fits"]
    assert {path.name for path in caught.value.paths} == {"u9o40504m_drz.fits", "u9o40504m_c0f.fits"}


def test_observation_without_a_calibrated_image_is_named(replay, client, tmp_path):
    lines = json.loads(recording("astroquery/mast/products.json"))
    lines["data"] = [line for line in lines["data"] if line["productType"] == "AUXILIARY"]
    serve_mast(replay, Caom_Products=Answer(json.dumps(lines).encode()))
    with pytest.raises(AcquisitionError, match=r"U9O40504M \(HST\) has no calibrated FITS image"):
        mast.fetch(observation(replay), tmp_path, client=client)


def test_token_goes_to_mast_and_nowhere_else(replay, client, tmp_path, monkeypatch, fits_bytes):
    monkeypatch.setenv("MAST_API_TOKEN", "0123456789abcdef")
    elsewhere = f"{replay.url.replace('127.0.0.1', 'localhost')}/preview.fits"
    download_route(replay, "mast:JWST/product/a_cal.fits", fits_bytes)
    replay.add("/preview.fits", fits_bytes)
    ours = mast.resolve_uri("mast:JWST/product/a_cal.fits")
    for url, name in ((ours, "a_cal.fits"), (elsewhere, "preview.fits")):
        mast.fetch(observation(replay, survey="JWST", url=url, filename=name), tmp_path, client=client)
    assert replay.requests[0].headers["Authorization"] == "token 0123456789abcdef"
    assert "Authorization" not in replay.requests[1].headers


def test_ps1_stack_of_the_archive_becomes_linear(replay, client, tmp_path):
    """An asinh-scaled skycell: what is written is counts, and reading either file gives the same image."""
    import io

    from astropy.io import fits

    counts = np.linspace(-200.0, 40000.0, 900).reshape(30, 30)
    soften, offset = 95.41472414983, 2.246295928955
    scaled = np.arcsinh((counts - offset) / (2 * soften)) / (0.4 * np.log(10))
    header = fits.Header({"BSOFTEN": soften, "BOFFSET": offset, "EXPTIME": 860.0, "HIERARCH FPA.ZP": 25.0})
    stream = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(scaled.astype(np.float32), header)]).writeto(stream)
    download_route(replay, "mast:PS1/product/a.stk.g.unconv.fits", stream.getvalue())
    row = observation(
        replay, survey="PS1", url=mast.resolve_uri("mast:PS1/product/a.stk.g.unconv.fits"), filename="a.fits"
    )
    (path,) = mast.fetch(row, tmp_path, client=client)
    image = ag.read_image(path)
    # float32 asinh values near 6: an ulp of 5e-7 is 5e-7 * 0.92 of the counts
    np.testing.assert_allclose(image.data, counts, rtol=2e-6, atol=1e-4)
    assert image.zero_point == pytest.approx(25 + 2.5 * np.log10(860))
    original = tmp_path / "original.fits"
    original.write_bytes(stream.getvalue())
    np.testing.assert_allclose(ag.read_image(original).data, image.data, rtol=1e-6)
    assert ag.read_image(original).zero_point == pytest.approx(image.zero_point)


def test_errors_of_the_portal_are_told_in_its_words(replay, client):
    serve_mast(replay, Caom_Filtered_Position=Answer(b'{"status": "ERROR", "msg": "Invalid Service: nobody home"}'))
    with pytest.raises(AcquisitionError, match=r"MAST.*nobody home.*/api/v0/invoke"):
        mast.search(M101, 0.1, client=client)


def test_a_portal_that_never_finishes_ends(replay, client):
    from astroquery.mast import conf

    serve_mast(replay, Caom_Filtered_Position=Answer(b'{"status": "EXECUTING"}'))
    with conf.set_temp("timeout", 0), pytest.raises(AcquisitionError, match="Timeout limit of 0"):
        mast.search(M101, 0.1, client=client)


def test_portal_that_is_down_for_a_moment_is_asked_again(replay, client):
    serve_mast(replay)
    replay.add("/api/v0/invoke", Answer(status=503), Answer(status=429, headers={"Retry-After": "5"}),
               Answer(recording("astroquery/mast/advSearchPos.json")), method="POST")  # fmt: skip
    assert len(mast.search(M101, 0.5, missions="GALEX", client=client)) == 12


@pytest.mark.parametrize(
    "body", [b"<html><title>Down</title></html>", b"", b"[]", b"{}", b'{"status": "COMPLETE"}', b"\xff\xfe"]
)
def test_answers_that_are_no_table(replay, client, body):
    serve_mast(replay, Caom_Filtered_Position=Answer(body))
    with pytest.raises(AcquisitionError, match="MAST"):
        mast.search(M101, 0.1, client=client)


def sectors(replay, *answers):
    given = answers or [recording("astroquery/mast/tess_sector.json")]
    replay.add("/tesscut/api/v0.1/sector", *given, method="POST")


def cube(replay, *answers):
    replay.add("/tesscut/api/v0.1/astrocut",
               *(answers or [recording("astroquery/mast/astrocut_107.27_-70.0_5x5.zip")]))  # fmt: skip


def test_tess_sectors_to_a_time_series(replay, client, tmp_path):
    sectors(replay)
    cube(replay)
    table = mast.search((107.27, -70.0), missions="TESS", client=client)
    (row,) = as_rows(table)
    assert (row["kind"], row["survey"], row["instrument"]) == ("cube", "TESS", "TESS camera 1 CCD 3")
    (path,) = ag.acquire.fetch(table, tmp_path, client=client)
    assert replay.requests[-1].query == {"ra": ["107.270000"], "dec": ["-70.000000"], "x": ["31"], "y": ["31"],
                                         "units": ["px"], "sector": ["1"]}  # fmt: skip
    assert {p.name for p in tmp_path.iterdir()} <= {path.name, "cache"}
    series = tesscut.frames(path)
    assert len(series) == 1267  # of 1282 cadences, 15 flagged as desaturations
    assert len(tesscut.frames(path, bad_quality=0)) == 1282
    times = np.array([image.meta["mjd"] for image in series])
    assert (np.diff(times) > 0).all()
    assert np.median(np.diff(times)) == pytest.approx(1800 / 86400, rel=2e-3)  # sector 1: half-hour frames
    assert all(image.shape == (5, 5) and (image.variance > 0).all() for image in series)
    # 2018-07-25T19:29:42.708 UTC begins the first frame, which lasts half an hour: its middle is 15 minutes later
    assert times[0] == pytest.approx(58324.81229 + 900 / 86400, abs=60 / 86400)
    assert series[0].wcs is None
    assert any("from RA_OBJ, DEC_OBJ and was left out" in note for note in series[0].meta["notes"])


def test_target_pixel_file(data_dir):
    series = tesscut.frames(data_dir / "tess" / "tess25155310-s01-first-cadences.fits.gz")
    assert len(series) == 4  # the first of five points at the Earth (QUALITY 8)
    image = series[0]
    assert image.shape == (11, 11)
    assert image.gain == image.meta["exposure"] == pytest.approx(118.8)  # 60 frames of 1.98 s
    assert np.diff([i.meta["mjd_bary"] for i in series]) == pytest.approx(120 / 86400, rel=1e-3)
    middle = image.wcs.pixel_to_world(5, 5)
    assert (middle.ra.deg, middle.dec.deg) == pytest.approx((63.385, -69.224), abs=1e-3)
    assert image.meta["sector"] == 1


def test_position_that_tess_never_saw(replay, client):
    sectors(replay, b'{"results": []}')
    assert len(tesscut.search((10, 0), client=client)) == 0


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b'{"msg": "The requested coordinates are not in this sector"}', "not in this sector"),
        (b"<html><body>Gateway time-out</body></html>", "an HTML page"),
        (None, "holds no cube"),
    ],
)
def test_tesscut_that_sends_something_else(replay, client, tmp_path, answer, words):
    sectors(replay)
    cube(replay, *([answer] if answer else [recording("astroquery/mast/astrocut_189.49206_62.20615_100x100px_f.zip")]))
    table = tesscut.search((107.27, -70.0), size=5, client=client)
    with pytest.raises(AcquisitionError, match=words):
        tesscut.fetch(table, tmp_path / "out", client=client)
    assert not [p for p in (tmp_path / "out").glob("**/*") if p.is_file()]
