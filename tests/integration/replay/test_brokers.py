"""Brokers: recorded answers where there are some, and answers of the documented form where there are none.

Recorded: ALeRCE (object, detections, a stamp), Fink (object), Lasair (cone), BOOM (log-in, an empty cone). Everything
else is answered by hand, in the form that the service's documentation and its own client have.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from astrid_gpu.acquire import brokers
from astrid_gpu.acquire.packets import STAMPS
from astrid_gpu.errors import AcquisitionError, InputError
from tests.integration.replay.server import Answer

fits = pytest.importorskip("astropy.io.fits", reason="stamps are FITS")


@pytest.fixture
def cassette(data_dir):
    """Load a recorded exchange: a list of (path, request body, response body)."""

    def load(name):
        yaml = pytest.importorskip("yaml", reason="cassettes are YAML")
        text = (data_dir / f"http/brokers/{name}.yaml").read_text(encoding="utf-8")
        return [
            (urlsplit(i["request"]["uri"]).path, i["request"]["body"] or "", i["response"]["body"]["string"].encode())
            for i in yaml.safe_load(text)["interactions"]
        ]

    return load


@pytest.fixture
def served(replay, monkeypatch):
    """Point a broker's addresses at the replay server."""

    def point(broker, path=""):
        module = getattr(brokers, broker)
        monkeypatch.setattr(module, "SERVER", replay.url + path)
        return module

    return point


def stamp():
    stream = io.BytesIO()
    fits.PrimaryHDU(np.ones((63, 63), np.float32)).writeto(stream)
    return gzip.compress(stream.getvalue())


def asked(replay):
    """The last question's JSON."""
    return json.loads(replay.requests[-1].body)


# ---- ALeRCE


def test_alerce_object_and_light_curve_as_recorded(replay, client, cassette, served):
    alerce = served("alerce", "/ztf/v1")
    for path, _, body in cassette("alerce_get_alert"):
        replay.add(path, body)
    (row,) = alerce.search(object_id="ZTF18abcgqmz", client=client)
    assert (row["object_id"], row["n_detections"]) == ("ZTF18abcgqmz", 2)
    assert row["ra"].value == pytest.approx(279.904766)
    curve = alerce.light_curve("ZTF18abcgqmz", client=client)
    assert curve["candid"].tolist() == [534377870115010099, 593191350115010084]
    assert curve["mag"].tolist() == [18.770634, 18.30812]
    assert np.all(curve["flux"] < 0)  # both faded
    assert set(curve["band"]) == {"g"}


def test_alerce_alert_has_the_recorded_stamp(replay, client, cassette, served, monkeypatch, data_dir):
    alerce = served("alerce", "/ztf/v1")
    monkeypatch.setattr(alerce, "STAMP_SERVER", replay.url)
    replay.add(*(cassette("alerce_get_alert")[1][0], cassette("alerce_get_alert")[1][2]))
    content = (data_dir / "http/brokers/alerce_stamp_example.fits.gz").read_bytes()
    replay.add("/get_stamp", content, when=lambda r: r.query["type"] != ["template"])
    replay.add("/get_stamp", Answer(b"no such stamp", status=404), when=lambda r: r.query["type"] == ["template"])
    alert = alerce.alert("ZTF18abcgqmz", client=client)
    assert alert.candid == 593191350115010084  # the latest
    assert alert.polarity == -1
    assert {kind: s.shape for kind, s in alert.stamps.items()} == {STAMPS[0]: (63, 63), STAMPS[2]: (63, 63)}
    assert any("no such stamp" in note for note in alert.notes)
    assert len(alert.previous) == 1
    with pytest.raises(AcquisitionError, match="no alert 5 of"):
        alerce.alert("ZTF18abcgqmz", 5, client=client)


def test_alerce_search_by_place_and_class(replay, client, served):
    alerce = served("alerce")
    items = [{"oid": "ZTF1", "meanra": 10.0, "meandec": 20.001, "class": "SNIa", "probability": 0.9,
              "classifier": "lc_classifier", "firstmjd": 59000.0, "lastmjd": 59010.0, "ndet": "7"}]  # fmt: skip
    replay.add("/objects", json.dumps({"items": items, "page": 1}).encode())
    table = alerce.search(
        position=(10, 20), radius="10 arcsec", class_name="SNIa", min_probability=0.5, mjd=(58990, 59020), client=client
    )
    query = replay.requests[-1].query
    assert (query["class"], query["classifier"], query["probability"]) == (["SNIa"], ["lc_classifier"], ["0.5"])
    assert float(query["radius"][0]) == pytest.approx(10)
    assert query["firstmjd"] == ["58990", "59020"]
    assert table["distance"][0].value == pytest.approx(3.6, abs=1e-3)
    assert (table["class_name"][0], table["n_detections"][0]) == ("SNIa", 7)
    replay.add("/objects/ZTF1/probabilities", json.dumps(
        [{"classifier_name": "stamp", "class_name": n, "probability": p} for n, p in (("AGN", 0.2), ("SN", 0.7))]
    ).encode())  # fmt: skip
    assert alerce.labels("ZTF1", client=client)["class_name"].tolist() == ["SN", "AGN"]


# ---- Fink


def test_fink_object_as_recorded(replay, client, cassette, served):
    fink = served("fink")
    ((path, question, body),) = cassette("fink_get_alert")
    replay.add(path, body, method="POST", when=lambda r: json.loads(r.body) == json.loads(question))
    (row,) = fink.search(object_id="ZTF19aaosfcb", client=client)
    assert row["last_mjd"].value == pytest.approx(60826.41027, abs=1e-5)
    assert row["n_detections"] == 39
    curve = fink.light_curve("ZTF19aaosfcb", client=client)
    assert len(curve) == len(json.loads(body))
    assert curve["mag"][-1] == pytest.approx(14.903686)
    labels = fink.labels("ZTF19aaosfcb", client=client)
    assert "kilonova" in labels["classifier"]


def test_fink_by_place_class_and_date(replay, client, served):
    fink = served("fink")
    rows = [{"i:objectId": "ZTF1", "i:jd": 2459000.5 + k, "i:ra": 10.0, "i:dec": 20.0, "i:candid": k,
             "v:classification": "SN candidate", "v:separation_degree": 0.001} for k in (1, 2)]  # fmt: skip
    replay.add("/api/v1/conesearch", json.dumps(rows).encode(), method="POST")
    replay.add("/api/v1/latests", json.dumps(rows).encode(), method="POST")
    table = fink.search(position=(10, 20), radius=0.01, mjd=(58990, 59020), client=client)
    assert (asked(replay)["radius"], asked(replay)["startdate"][:10]) == (pytest.approx(36), "2020-05-21")
    assert table["candid"].tolist() == [2]  # one row an object, its latest alert
    assert table["distance"][0].value == pytest.approx(3.6)
    fink.search(class_name="Early SN Ia candidate", limit=5, client=client)
    assert asked(replay) == {"class": "Early SN Ia candidate", "n": 5, "output-format": "json"}
    with pytest.raises(InputError, match="give one of them"):
        fink.search(client=client)


def test_fink_alert_with_stamps(replay, client, cassette, served):
    fink = served("fink")
    ((path, _, body),) = cassette("fink_get_alert")
    replay.add(path, body, method="POST")
    replay.add("/api/v1/cutouts", stamp(), method="POST")
    alert = fink.alert("ZTF19aaosfcb", client=client)
    assert set(alert.stamps) == set(STAMPS)
    assert alert.schema == "4.02"
    assert asked(replay)["kind"] == "Difference"


# ---- Lasair


def test_lasair_cone_as_recorded(replay, client, cassette, served, monkeypatch):
    monkeypatch.setenv("LASAIR_TOKEN", "abc123secret")
    lasair = served("lasair")
    ((path, question, body),) = cassette("lasair_cone")
    replay.add(path, body, method="POST")
    table = lasair.search(position=(280, -5), radius="600 arcsec", limit=5000, client=client)
    sent, wanted = (parse_qs(form) for form in (replay.requests[-1].body.decode(), question))
    assert sent.keys() == wanted.keys()
    assert all(float(sent[k][0]) == pytest.approx(float(wanted[k][0])) for k in ("ra", "dec", "radius"))
    assert replay.requests[-1].headers["Authorization"] == "Token abc123secret"
    assert len(table) == len(json.loads(body))
    assert table["object_id"][0] == "ZTF19aaypuas"
    assert table["distance"][0].value == pytest.approx(19.6948, abs=1e-4)


def test_lasair_object_query_and_what_it_has_not(replay, client, served):
    lasair = served("lasair")
    about = {
        "objectId": "ZTF1",
        "objectData": {"ramean": 10.0, "decmean": 20.0, "jdmin": 2459000.5, "jdmax": 2459001.5, "ncand": 2},
        "candidates": [{"candid": 1, "jd": 2459000.5, "fid": 2, "magpsf": 19.0, "sigmapsf": 0.1, "isdiffpos": "t"},
                       {"mjd": 59001.0, "fid": 2, "diffmaglim": 20.0}],
        "sherlock": {"classification": "SN"},
        "TNS": {},
    }  # fmt: skip
    replay.add("/api/object/", json.dumps(about).encode(), method="POST")
    (row,) = lasair.search(object_id="ZTF1", client=client)
    assert (row["class_name"], row["last_mjd"].value) == ("SN", 59001.0)
    assert lasair.light_curve("ZTF1", client=client)["kind"].tolist() == ["alert", "limit"]
    assert lasair.labels("ZTF1", client=client)["class_name"].tolist() == ["SN"]
    with pytest.raises(InputError, match="no stamps"):
        lasair.alert("ZTF1", client=client)
    replay.add("/api/query/", json.dumps([{"objectId": "ZTF2", "ramean": 1.0, "decmean": 2.0}]).encode(), method="POST")
    assert lasair.search(class_name="SN", mjd=(59000, 59010), client=client)["object_id"].tolist() == ["ZTF2"]
    assert 'classification = "SN"' in parse_qs(replay.requests[-1].body.decode())["conditions"][0]
    with pytest.raises(InputError, match="letters alone"):
        lasair.search(class_name='SN"; DROP TABLE', client=client)


# ---- BOOM and Kowalski


DOCUMENT = {
    "_id": 7, "candid": 7, "objectId": "ZTF1", "schemavsn": "4.02",
    "candidate": {"jd": 2459000.5, "ra": 10.0, "dec": 20.0, "magpsf": 19.0, "sigmapsf": 0.1, "isdiffpos": True,
                  "fid": 1, "jdstarthist": 2458990.5, "ndethist": 3},
    "classifications": {"acai_h": 0.9, "acai_h_version": "d1", "braai": 0.99},
}  # fmt: skip
HISTORY = {
    "_id": "ZTF1",
    "prv_candidates": [{"jd": 2458990.5, "fid": 1, "magpsf": 19.5, "sigmapsf": 0.1, "isdiffpos": 1}],
}


def test_boom_logs_in_and_asks_as_recorded(replay, client, cassette, served, monkeypatch):
    monkeypatch.setenv("BOOM_USERNAME", "somebody")
    monkeypatch.setenv("BOOM_PASSWORD", "verysecret")
    boom = served("boom")
    (login, _, granted), (path, question, body) = cassette("boom_query")
    replay.add(login, granted, method="POST")
    replay.add(path, body, method="POST")
    table = boom.search(position=(280, -5), radius="5 arcsec", client=client)
    assert len(table) == 0
    sent, wanted = asked(replay), json.loads(question)
    assert sent.pop("radius") == pytest.approx(wanted.pop("radius"))
    assert sent == wanted
    assert replay.requests[-1].headers["Authorization"] == "Bearer REDACTED"


def test_boom_alert_takes_stamps_from_their_own_catalogue(replay, client, served, monkeypatch):
    monkeypatch.setenv("BOOM_TOKEN", "tok123")
    boom = served("boom")
    content = base64.b64encode(stamp()).decode()
    stamps = {"_id": 7, "cutoutScience": content, "cutoutTemplate": {"$binary": {"base64": content}},
              "cutoutDifference": list(stamp())}  # fmt: skip
    for catalog, rows in (("ZTF_alerts", [DOCUMENT]), ("ZTF_alerts_cutouts", [stamps]), ("ZTF_alerts_aux", [HISTORY])):
        replay.add("/queries/find", json.dumps({"message": "ok", "data": rows}).encode(), method="POST",
                   when=lambda r, c=catalog: json.loads(r.body)["catalog_name"] == c)  # fmt: skip
    alert = boom.alert("ZTF1", client=client)
    assert set(alert.stamps) == set(STAMPS)
    assert (alert.polarity, len(alert.previous)) == (1, 1)
    assert boom.light_curve("ZTF1", client=client)["mjd"].tolist() == [58990.0, 59000.0]


def test_kowalski_find_cone_and_labels(replay, client, served, monkeypatch):
    monkeypatch.setenv("KOWALSKI_TOKEN", "tok456")
    kowalski = served("kowalski")
    content = {"fileName": "x", "stampData": {"$binary": base64.b64encode(stamp()).decode(), "$type": "00"}}
    document = DOCUMENT | dict.fromkeys(STAMPS, content)

    def of(kind, catalog=None):
        def fits(request):
            asked = json.loads(request.body)
            return asked["query_type"] == kind and catalog in (None, asked["query"].get("catalog"))

        return fits

    def good(data):
        return json.dumps({"status": "success", "message": "ok", "data": data}).encode()

    cone = good({"ZTF_alerts": {"query": [DOCUMENT]}})
    replay.add("/api/queries", cone, method="POST", when=of("cone_search"))
    replay.add("/api/queries", good([document]), method="POST", when=of("find", "ZTF_alerts"))
    replay.add("/api/queries", good([]), method="POST", when=of("find", "ZTF_alerts_aux"))
    (row,) = kowalski.search(position=(10, 20.001), radius=0.01, min_drb=0.5, client=client)
    assert row["distance"].value == pytest.approx(3.6, abs=1e-3)
    query = asked(replay)["query"]["catalogs"]["ZTF_alerts"]["filter"]
    assert query == {"candidate.drb": {"$gte": 0.5}}
    assert kowalski.search(magnitude=(18, 20), client=client)["class_name"].tolist() == ["braai"]
    assert kowalski.labels("ZTF1", client=client)["probability"].tolist() == [0.9, 0.99]
    assert set(kowalski.alert("ZTF1", client=client).stamps) == set(STAMPS)
    assert replay.requests[-1].headers["Authorization"] == "Bearer tok456"
    with pytest.raises(InputError, match="give one of them"):
        kowalski.search(client=client)


@pytest.mark.parametrize("broker", ["kowalski", "boom"])
def test_without_credentials_the_variables_are_named(broker, client, monkeypatch):
    for name in ("TOKEN", "USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"{broker.upper()}_{name}", raising=False)
    with pytest.raises(AcquisitionError, match=f"{broker.upper()}_TOKEN"):
        getattr(brokers, broker).search(object_id="ZTF1", client=client)


def test_secrets_are_in_no_error(replay, client, served, monkeypatch):
    monkeypatch.setenv("KOWALSKI_USERNAME", "somebody")
    monkeypatch.setenv("KOWALSKI_PASSWORD", "verysecret99")
    kowalski = served("kowalski")
    replay.add("/api/auth", json.dumps({"status": "success", "token": "tok-verysecret-77"}).encode(), method="POST")
    replay.add("/api/queries", Answer(b'{"message": "bad token tok-verysecret-77"}', status=401), method="POST")
    with pytest.raises(AcquisitionError) as caught:
        kowalski.search(object_id="ZTF1", client=client)
    assert "401" in str(caught.value)
    assert "verysecret" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b'{"status": "error", "message": "no such catalog"}', "no such catalog"),
        (b"<html><title>Down</title></html>", "HTML page"),
        (b"[1, 2", "JSON"),
        (b'{"status": "success", "data": {"x": 1}}', "no list of records"),
        (Answer(b'{"message": "quota exceeded"}', status=403), "quota exceeded"),
    ],
)
def test_answers_that_are_not_what_was_promised(replay, client, served, monkeypatch, answer, words):
    monkeypatch.setenv("KOWALSKI_TOKEN", "tok456")
    kowalski = served("kowalski")
    replay.add("/api/queries", answer, method="POST")
    with pytest.raises(AcquisitionError, match=words):
        kowalski.search(object_id="ZTF1", client=client)


# ---- into a run


def test_objects_of_a_broker_become_candidates_and_triplets(replay, client, cassette, served, monkeypatch, tmp_path):
    alerce = served("alerce", "/ztf/v1")
    monkeypatch.setattr(alerce, "STAMP_SERVER", replay.url)
    for path, _, body in cassette("alerce_get_alert"):
        replay.add(path, body)
    replay.add("/get_stamp", stamp())
    replay.add("/ztf/v1/objects/ZTF0/detections", b"[]")
    rows = brokers.object_table([{"object_id": "ZTF18abcgqmz"}, {"object_id": "ZTF0"}], "alerce")
    with pytest.raises(AcquisitionError, match="1 of 2 objects") as caught:
        brokers.fetch(rows, tmp_path / "run", client=client)
    assert caught.value.failures[0][0] == "ZTF0"
    assert {path.name for path in caught.value.paths} >= {"alerts.h5", "light_curves.csv"}
    assert len((tmp_path / "run/candidates/light_curves.csv").read_text().splitlines()) == 3


def test_a_broker_that_does_not_exist():
    with pytest.raises(AttributeError, match="alerce, fink, lasair, boom, kowalski"):
        _ = brokers.antares
    with pytest.raises(AcquisitionError, match="no number"):
        brokers.object_table([{"object_id": "x", "ra": "abc"}], "alerce")
