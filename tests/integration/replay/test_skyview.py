"""SkyView through astroquery's own code, against its recorded form and results page."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("astroquery", reason="acquisition needs the extra: pip install 'astrid-gpu[acquire]'")

import astrid_gpu as ag
from astrid_gpu.acquire import skyview
from astrid_gpu.acquire.observations import as_rows
from astrid_gpu.errors import AcquisitionError, InputError
from tests.integration.replay.recordings import recording
from tests.integration.replay.server import Answer
from tests.integration.replay.test_ps1 import image_bytes

CARINA = (161.264775, -59.6844306)
FORM = "/current/cgi/basicform.pl"
QUERY = "/current/cgi/runquery.pl"
FILE = "/tempspace/fits/skv6724208473423_1.fits"


@pytest.fixture(autouse=True)
def at_loopback(replay):
    from astroquery.skyview import conf

    replay.add(FORM, recording("astroquery/skyview/query_page.html"))
    with conf.set_temp("url", replay.url + FORM):
        yield


def results(replay, *answers, survey=None):
    given = answers or [recording("astroquery/skyview/results.html")]
    replay.add(QUERY, *given, when=lambda request: survey is None or request.query["survey"] == [survey])


def links(address):
    """A results page with another link to the file, otherwise as recorded."""
    page = recording("astroquery/skyview/results.html")
    return page.replace(b"../../tempspace/fits/skv6724208473423_1.fits", address.encode())


def test_surveys_are_those_of_the_form(replay, client):
    names = skyview.surveys(client=client)
    assert set(skyview.SURVEYS) <= set(names)
    assert len(names) > 100


def test_cutout_is_asked_for_with_size_scale_and_position(replay, client):
    results(replay)
    table = skyview.search(CARINA, surveys="DSS2 Red", pixels=240, pixel_scale=1.5, sampler="Clip", client=client)
    query = replay.requests[-1].query
    assert query["survey"] == ["DSS2 Red"]
    assert query["pixels"] == ["240"]
    size = [float(side) for side in query["size"][0].split(",")]
    assert size == pytest.approx([0.1, 0.1])  # degrees
    assert query["scaling"] == ["Linear"]
    assert query["Sampler"] == ["Clip"]
    assert [float(x) for x in query["Position"][0].split()] == pytest.approx(CARINA, abs=1e-3)
    (row,) = as_rows(table)
    assert row["url"] == replay.url + FILE
    assert (row["survey"], row["filter"], row["kind"], row["pixel_scale"]) == ("DSS2", "red", "reference", 1.5)
    assert (row["width"], row["height"]) == (240, 240)


def test_native_pixels_unless_told_otherwise(replay, client):
    results(replay)
    (row,) = as_rows(skyview.search(CARINA, 0.05, surveys="WISE 3.4", client=client))
    assert row["pixel_scale"] == 1.375
    assert row["width"] == round(360 / 1.375)


def test_pixels_are_the_files_own(replay, client, tmp_path, rng):
    """What arrives is what SkyView sent, bit for bit: nothing is scaled for display."""
    pixels = rng.normal(7000, 300, (240, 240)).astype(np.float32)
    results(replay)
    replay.add(FILE, image_bytes(pixels, SURVEY="DSS2 Red"))
    table = skyview.search(CARINA, surveys="DSS2 Red", pixels=240, client=client)
    (path,) = ag.acquire.fetch(table, tmp_path, client=client)
    np.testing.assert_array_equal(ag.read_image(path).data, pixels)


def test_same_cutout_comes_from_the_cache_although_its_address_changed(replay, client, tmp_path, rng):
    results(
        replay, Answer(recording("astroquery/skyview/results.html")), Answer(links("../../tempspace/fits/skv2.fits"))
    )
    replay.add(FILE, image_bytes(rng.normal(0, 1, (30, 30))))
    for folder in ("a", "b"):
        table = skyview.search(CARINA, surveys="SDSSr", pixels=30, client=client)
        skyview.fetch(table, tmp_path / folder, client=client)
    assert sum(request.path == FILE for request in replay.requests) == 1


def test_cutout_that_skyview_threw_away_is_made_again(replay, client, tmp_path, rng):
    results(
        replay, Answer(recording("astroquery/skyview/results.html")), Answer(links("../../tempspace/fits/skv2.fits"))
    )
    replay.add(FILE, Answer(b"gone", status=404))
    replay.add("/tempspace/fits/skv2.fits", image_bytes(rng.normal(0, 1, (30, 30))))
    table = skyview.search(CARINA, surveys="SDSSr", pixels=30, client=client)
    (path,) = skyview.fetch(table, tmp_path, client=client)
    assert path.is_file()


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_picture_of_nothing_is_refused(replay, client, tmp_path, value):
    """SkyView answers zeros where a survey does not cover the position; that is no reference."""
    results(replay)
    replay.add(FILE, image_bytes(np.full((30, 30), value, np.float32)))
    table = skyview.search(CARINA, surveys="SDSSr", pixels=30, client=client)
    with pytest.raises(AcquisitionError, match=r"SDSSr has no data at ra 161\.2647"):
        skyview.fetch(table, tmp_path / "out", client=client)
    assert not list((tmp_path / "out").glob("*.fits"))


def test_library_has_the_surveys_that_cover_the_position(replay, client, tmp_path, rng):
    for number, survey in enumerate(("DSS2 Red", "SDSSg", "2MASS-J")):
        file = f"/tempspace/fits/skv{number}.fits"
        results(replay, links(f"../../tempspace/fits/skv{number}.fits"), survey=survey)
        empty = np.zeros((24, 24), np.float32)
        replay.add(file, image_bytes(empty if survey == "SDSSg" else rng.normal(100, 9, (24, 24)).astype(np.float32)))
    (tmp_path / "source_fits").mkdir()
    found = skyview.library(
        CARINA, run=tmp_path, surveys=["DSS2 Red", "SDSSg", "2MASS-J"], pixels=24, pixel_scale=2.0, client=client
    )
    assert list(found) == ["DSS2 Red", "2MASS-J"]
    assert {path.parent for path in found.values()} == {tmp_path / "source_fits" / "reference"}


def test_page_without_an_image_is_told_in_its_words(replay, client):
    results(replay, b"<html><body><h2>Error: unable to resolve target</h2></body></html>")
    with pytest.raises(AcquisitionError, match=r"no image of SDSSr.*unable to resolve target"):
        skyview.search(CARINA, surveys="SDSSr", client=client)


def test_one_survey_that_fails_does_not_stop_the_next(replay, client):
    results(replay, Answer(b"disk full", status=403), survey="SDSSr")
    results(replay, survey="DSS2 Red")
    table = skyview.search(CARINA, surveys=["SDSSr", "DSS2 Red"], client=client)
    assert [row["survey"] for row in as_rows(table)] == ["DSS2"]
    ((name, reason),) = table.meta["failures"]
    assert name == "SDSSr"
    assert "disk full" in reason


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"surveys": "SDSSx"}, "no survey 'SDSSx'"),
        ({"surveys": []}, "at least one survey"),
        ({"surveys": "SDSSr", "sampler": "best"}, "sampler"),
        ({"surveys": "SDSSr", "pixels": 9000}, "pixels=9000"),
        ({"surveys": "SDSSr", "pixel_scale": 0}, "pixel_scale=0"),
        ({"surveys": "SDSSr", "radius": 5.0}, "4000 at most"),
    ],
)
def test_impossible_questions(replay, client, options, words):
    with pytest.raises(InputError, match=words):
        skyview.search(CARINA, client=client, **options)


@pytest.mark.parametrize("body", [b"", b"\xff\xfe\x00", b"<html></html>", b'{"a": 1}'])
def test_form_that_is_none(replay, client, body):
    replay.routes.clear()
    replay.add(FORM, Answer(body))
    with pytest.raises(AcquisitionError, match="lists no survey"):
        skyview.search(CARINA, surveys="SDSSr", client=client)
