"""pyvo through our session: VOTables that services sent, their errors in their words, and whatever else may come."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("pyvo", reason="acquisition needs the extra: pip install 'astrid-gpu[acquire]'")

from astrid_gpu.acquire import Client, Policy
from astrid_gpu.acquire.content import check_file, words_of
from astrid_gpu.acquire.sessions import asking
from astrid_gpu.errors import AcquisitionError
from tests.integration.replay.recordings import recording
from tests.integration.replay.server import Answer, FakeClock, ReplayServer


def images(url, client):
    """What a Simple Image Access service says of a position."""
    import pyvo

    with asking("SIA", url):
        service = pyvo.dal.SIAService(url, session=client.session("SIA"))
        return service.search(pos=(288, 15), size=(0.1, 0.1))


def test_recorded_images_are_listed(replay, client):
    replay.add("/sia", recording("pyvo/dal/sia/dataset.xml"))
    found = images(f"{replay.url}/sia", client)
    assert len(found) >= 1
    assert found[0].getdataurl().startswith("http")
    assert replay.requests[0].query["POS"] == ["288.0,15.0"]
    assert "astrid-gpu" in replay.requests[0].headers["User-Agent"]


def test_service_that_is_down_is_asked_again(replay, client):
    replay.add("/sia", Answer(status=503), Answer(recording("pyvo/dal/sia/dataset.xml")))
    assert len(images(f"{replay.url}/sia", client)) >= 1


def test_error_inside_a_votable_is_told(replay, client):
    """Status 200, and QUERY_STATUS says ERROR."""
    body = recording("pyvo/dal/query/errorstatus.xml").replace(b">ERROR<", b">No such table: sky<")
    replay.add("/sia", body)
    with pytest.raises(AcquisitionError, match="No such table: sky"):
        images(f"{replay.url}/sia", client)
    assert words_of(body) == "No such table: sky"


def test_page_instead_of_a_votable(replay, client, tmp_path):
    page = b"<html><head><title>Maintenance</title></head><body>Back on Monday</body></html>"
    replay.add("/sia", page)
    with pytest.raises(AcquisitionError, match="SIA"):
        images(f"{replay.url}/sia", client)
    with pytest.raises(AcquisitionError, match=r"an HTML page where a VOTable was asked for.*Back on Monday"):
        client.get(f"{replay.url}/sia", wanted="votable")
    (tmp_path / "a.xml").write_bytes(page)
    assert "an HTML page" in check_file(tmp_path / "a.xml", "votable")


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.data())
def test_any_bytes_end_in_rows_or_in_our_error(data):
    whole = recording("pyvo/dal/sia/dataset.xml")
    cut = st.integers(0, len(whole)).map(lambda end: whole[:end])
    place = st.tuples(st.integers(0, len(whole) - 1), st.binary(min_size=1, max_size=20))
    spoilt = place.map(lambda change: whole[: change[0]] + change[1] + whole[change[0] + len(change[1]) :])
    body = data.draw(st.one_of(st.binary(max_size=500), cut, spoilt))
    server = ReplayServer()
    server.add("/sia", body)
    try:
        images(f"{server.url}/sia", Client(Policy(attempts=1, per_second=1e6), clock=FakeClock()))
    except AcquisitionError as error:
        said = str(error)
    else:
        said = server.url
    finally:
        server.close()
    assert server.url in said
