"""ZTF at IRSA: real rows of metadata (those kept beside the recorded stamps), in IRSA's table format, and file answers.

There is no recording of a ZTF search; the rows are real, and the table around them is made in the form of the recorded
PTF answer of the same service.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from astrid_gpu import acquire
from astrid_gpu.acquire import RunDirectory, ztf
from astrid_gpu.acquire._ztf_products import product_url, science_id
from astrid_gpu.errors import AcquisitionError, InputError
from tests.fits_files import write_fits
from tests.integration.replay.server import Answer

pytest.importorskip("astroquery", reason="asks IRSA")


@pytest.fixture
def exposures(data_dir):
    """Rows of IRSA's metadata of six exposures."""
    manifest = json.loads((data_dir / "pairs/ztf_psfcat_stamps/manifest.json").read_text())
    return [image["metadata"] for image in manifest["images"]]


def ipac(rows):
    """A table as IRSA sends it."""
    import io

    from astropy.io import ascii as formats
    from astropy.table import Table

    stream = io.StringIO()
    names = list(rows[0])
    table = Table({name: [row[name] for row in rows] for name in names})
    formats.write(table, stream, format="ipac")
    return stream.getvalue().encode()


def references(exposures):
    """The references of the exposures, as the table "ref" has them."""
    unique = {(r["field"], r["filtercode"], r["ccdid"], r["qid"]): r for r in exposures}
    keep = (
        "ra",
        "dec",
        "field",
        "ccdid",
        "qid",
        "fid",
        "filtercode",
        *(f"{c}{i}" for c in ("ra", "dec") for i in (1, 2, 3, 4)),
    )
    more = {"rfid": 1, "nframes": 25, "maglimit": 22.8, "startobsdate": "2018-04-12 06:02:51+00",
            "endobsdate": "2018-11-02 06:02:51+00"}  # fmt: skip
    return [{**{k: r[k] for k in keep}, **more} for r in unique.values()]


@pytest.fixture
def irsa(replay, monkeypatch, exposures):
    from astroquery.ipac.irsa.ibe import conf

    with conf.set_temp("server", f"{replay.url}/ibe/"):
        replay.add("/ibe/search/ztf/products/sci", ipac(exposures))
        replay.add("/ibe/search/ztf/products/ref", ipac(references(exposures)))
        yield replay


def test_search_gives_a_row_for_each_file(irsa, client, exposures):
    table = ztf.search((95.5, 77.5), client=client)
    assert len(table) == 3 * len(exposures) + 2 * len(references(exposures))
    first = table[table["kind"] == "science"]
    assert np.all(np.diff(first["mjd"].value) >= 0)
    by_id = {science_id(row): row for row in exposures}
    for row in first:
        known = by_id[row["id"]]
        assert row["mjd"].value == pytest.approx(known["obsjd"] - 2400000.5)
        assert row["seeing"].value == pytest.approx(known["seeing"])
        assert row["filter"] == known["filtercode"][1:]
        assert row["limiting_magnitude"].value == pytest.approx(known["maglimit"], abs=1e-4)
        assert row["footprint"].startswith("POLYGON ICRS")


def test_addresses_are_those_of_the_archive(exposures):
    """Written out by hand after the layouts in IRSA's documentation."""
    row = {"filefracday": 20200924431759, "field": 655, "filtercode": "zr", "ccdid": 13, "imgtypecode": "o", "qid": 3}
    base = "https://irsa.ipac.caltech.edu/ibe/"
    assert product_url(base, row, "sciimg.fits") == (
        "https://irsa.ipac.caltech.edu/ibe/data/ztf/products/sci/2020/0924/431759/"
        "ztf_20200924431759_000655_zr_c13_o_q3_sciimg.fits"
    )
    assert product_url(base, row, "scimrefdiffimg.fits.fz").endswith("_o_q3_scimrefdiffimg.fits.fz")
    assert product_url(base, row, "refimg.fits") == (
        "https://irsa.ipac.caltech.edu/ibe/data/ztf/products/ref/000/field000655/zr/ccd13/q3/"
        "ztf_000655_zr_c13_q3_refimg.fits"
    )
    far = row | {"field": 1655}
    assert "/ref/001/field001655/zr/" in product_url(base, far, "refimg.fits")
    cut = product_url(base, row, "mskimg.fits", (255.5, 12.25, 60.0))
    assert cut.endswith("_mskimg.fits?center=255.5000000,12.2500000&size=60arcsec&gzip=false")
    assert "?" not in product_url(base, row, "psfcat.fits", (255.5, 12.25, 60.0))  # a catalogue is not cut
    with pytest.raises(AcquisitionError, match="lacks filefracday"):
        product_url(base, row | {"filefracday": None}, "sciimg.fits")


def test_what_is_asked_of_irsa(irsa, client):
    ztf.search(
        (95.5, 77.5), 0.1, products="science", filters=["g", "r"], since="2022-01-01", until=60000.0, max_seeing=2.5,
        client=client,
    )  # fmt: skip
    (request,) = irsa.requests
    assert [float(x) for x in request.query["POS"][0].split(",")] == pytest.approx([95.5, 77.5])
    assert float(request.query["SIZE"][0]) == pytest.approx(0.2)
    conditions = ["filtercode IN ('zg','zr')", "obsjd>=2459580.500000", "obsjd<=2460000.500000", "seeing<=2.5"]
    assert request.query["where"] == [" AND ".join([*conditions, "infobits<33554432"])]


def test_limit_takes_the_latest_and_their_references_alone(irsa, client, exposures):
    table = ztf.search((95.5, 77.5), limit=1, client=client)
    latest = max(exposures, key=lambda r: r["obsjd"])
    assert set(table["id"][table["role"] == "science"]) == {science_id(latest)}
    assert len(set(table["id"][table["role"] == "reference"])) == 1


def test_files_go_into_the_run_with_their_records(irsa, client, tmp_path, exposures):
    table = ztf.search((95.5, 77.5), limit=1, size=60, products=("science", "mask", "reference"), client=client)
    assert table["filename"][0].endswith("_sciimg.fits")
    assert table["width"][0] == 59
    for number, row in enumerate(table):
        path = row["url"].removeprefix(irsa.url).split("?")[0]
        irsa.add(path, write_fits(tmp_path / f"{number}.fits", seed=number, ra=95.5, dec=77.5).read_bytes())
    run = RunDirectory(tmp_path / "run")
    paths = acquire.fetch(table, run, client=client)
    assert [path.parent.name for path in paths] == ["science", "science", "reference"]
    science, reference = (next(run.observations(role)) for role in ("science", "reference"))
    assert set(science.paths) == {"source", "mask"}
    assert (science.survey, science.band, science.source["adapter"]) == ("ZTF", "r", "ztf")
    assert reference.observation_id == "ztf_000857_zr_c09_q2"
    assert science.source["row"]["seeing"] > 0


def test_a_difference_that_does_not_exist_is_named_and_the_rest_is_there(irsa, client, tmp_path):
    table = ztf.search((95.5, 77.5), limit=1, products=("science", "difference"), client=client)
    path = table["url"][0].removeprefix(irsa.url)
    irsa.add(path, write_fits(tmp_path / "x.fits").read_bytes())
    irsa.add(table["url"][1].removeprefix(irsa.url), Answer(b"<html><title>404 Not Found</title></html>", status=404))
    with pytest.raises(AcquisitionError, match=r"1 of 2[^\n]*\n.*404") as caught:
        ztf.fetch(table, tmp_path / "run", client=client)
    assert [p.name for p in caught.value.paths] == [table["filename"][0]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"products": "flat"}, "no product 'flat' of ZTF"),
        ({"filters": "z"}, "no filter 'z'"),
        ({"since": "yesterday"}, "no date"),
        ({"size": 0.5}, "2 to 7200"),
        ({"size": "wide"}, "not an angle"),
    ],
)
def test_questions_that_cannot_be(client, options, words):
    with pytest.raises(InputError, match=words):
        ztf.search((95.5, 77.5), client=client, **options)


@pytest.mark.parametrize(
    "answer",
    [b"<html><title>Service unavailable</title></html>", b"", b"|a|b\n|x", b"\x00\xff\xfe", b'{"error": "no"}'],
)
def test_answers_that_are_no_table(replay, client, answer):
    from astroquery.ipac.irsa.ibe import conf

    with conf.set_temp("server", f"{replay.url}/ibe/"):
        replay.add("/ibe/search/ztf/products/sci", answer)
        with pytest.raises(AcquisitionError, match="IRSA"):
            ztf.search((95.5, 77.5), products="science", client=client)


def test_nothing_found_is_an_empty_table(replay, client, exposures):
    from astroquery.ipac.irsa.ibe import conf

    head = b"\n".join(line for line in ipac(exposures).splitlines() if line.startswith((b"|", b"\\"))) + b"\n"
    with conf.set_temp("server", f"{replay.url}/ibe/"):
        replay.add("/ibe/search/ztf/products/sci", head)
        assert len(ztf.search((95.5, 77.5), products="science", client=client)) == 0


@pytest.mark.remote
def test_the_live_service_knows_m101():
    table = ztf.search("M101", limit=2)
    assert len(table) > 2
