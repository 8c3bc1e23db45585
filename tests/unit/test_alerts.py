"""Alert packets made by hand: every way they are broken, and where each pixel goes."""

from __future__ import annotations

import gzip
import io
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from astrid_gpu.acquire import alerts
from astrid_gpu.acquire.packets import STAMPS, Alert, read_packets
from astrid_gpu.errors import AcquisitionError, FitsError, InputError
from astrid_gpu.flags import CandidateFlag, PixelFlag
from astrid_gpu.io.stamps import read_stamp

fastavro = pytest.importorskip("fastavro", reason="reads alert packets")
fits = pytest.importorskip("astropy.io.fits", reason="stamps are FITS")

_STAMP = {
    "type": "record",
    "name": "stamp",
    "fields": [{"name": "fileName", "type": "string"}, {"name": "stampData", "type": "bytes"}],
}
_NUMBERS = ("jd", "ra", "dec", "magpsf", "sigmapsf", "xpos", "ypos", "magzpsci", "scorr", "diffmaglim")
SCHEMA = fastavro.parse_schema(
    {
        "type": "record",
        "name": "alert",
        "fields": [
            {"name": "objectId", "type": "string"},
            {"name": "candid", "type": "long"},
            {"name": "candidate", "type": {"type": "record", "name": "candidate", "fields": [
                {"name": "fid", "type": "int"}, {"name": "isdiffpos", "type": "string"},
                *({"name": name, "type": ["null", "double"], "default": None} for name in _NUMBERS),
            ]}},
            {"name": "prv_candidates", "type": ["null", {"type": "array", "items": "candidate"}], "default": None},
            {"name": "cutoutScience", "type": ["null", _STAMP], "default": None},
            {"name": "cutoutTemplate", "type": ["null", "stamp"], "default": None},
            {"name": "cutoutDifference", "type": ["null", "stamp"], "default": None},
        ],
    }
)  # fmt: skip


def stamp_bytes(pixels):
    stream = io.BytesIO()
    fits.PrimaryHDU(np.asarray(pixels, np.float32)).writeto(stream)
    return gzip.compress(stream.getvalue())


def candidate(**changes):
    return {
        "jd": 2459000.5, "fid": 2, "isdiffpos": "t", "ra": 10.0, "dec": 20.0, "magpsf": 20.0, "sigmapsf": 0.1,
        "xpos": 1000.0, "ypos": 1000.0, "magzpsci": 26.0, "scorr": 9.0, "diffmaglim": 20.5, **changes,
    }  # fmt: skip


def packet(name="ZTF20aaaaaaa", candid=1, shape=(63, 63), previous=(), **changes):
    content = {"fileName": "x", "stampData": stamp_bytes(np.arange(shape[0] * shape[1]).reshape(shape))}
    return {
        "objectId": name, "candid": candid, "candidate": candidate(**changes), "prv_candidates": list(previous),
        **dict.fromkeys(STAMPS, content),
    }  # fmt: skip


def write(path, *packets):
    with path.open("wb") as stream:
        fastavro.writer(stream, SCHEMA, packets)
    return path


def test_an_alert_becomes_a_candidate(tmp_path):
    found, failed = alerts.read(write(tmp_path / "a.avro", packet(isdiffpos="f", xpos=11.25)))
    assert not failed
    row = alerts.to_candidates(found).data[0]
    assert (row["object_id"], row["candid"], row["band"], row["polarity"]) == ("ZTF20aaaaaaa", 1, "r", -1)
    assert row["flux"] == pytest.approx(-(10 ** (0.4 * 6.0)))
    assert row["snr"] == pytest.approx(-10.857, abs=1e-3)
    assert row["flux"] / row["flux_error"] == pytest.approx(row["snr"])
    assert row["score"] == pytest.approx(-9.0)
    assert (row["x"], row["y"], row["mjd"]) == (10.25, 999.0, 59000.0)
    assert np.isnan(row["drb"])
    assert "ZTF20aaaaaaa" in repr(found[0])


def test_without_a_zero_point_there_is_no_flux(tmp_path):
    found, _ = alerts.read(write(tmp_path / "a.avro", packet(magzpsci=None)))
    row = alerts.to_candidates(found).data[0]
    assert np.isnan(row["flux"])
    assert row["mag"] == 20.0
    assert row["snr"] > 10


def test_many_packets_in_files_folders_and_archives(tmp_path):
    folder = tmp_path / "night"
    folder.mkdir()
    write(folder / "a.avro", packet(candid=1), packet(candid=2))
    write(folder / "b.avro", packet(candid=3))
    (folder / "readme.txt").write_text("not an alert")
    with tarfile.open(tmp_path / "night.tar.gz", "w:gz") as archive:
        archive.add(folder)
    for where in (folder, tmp_path / "night.tar.gz", str(folder / "*.avro"), [folder / "a.avro", folder / "b.avro"]):
        assert [a.candid for a in alerts.read(where)[0]] == [1, 2, 3]
    with pytest.raises(AcquisitionError, match="no alert packets there"):
        alerts.read(tmp_path / "nothing")


def test_one_bad_packet_stops_nothing(tmp_path):
    good = write(tmp_path / "b.avro", packet(candid=2))
    (tmp_path / "a.avro").write_bytes(good.read_bytes()[:-200])
    (tmp_path / "c.avro").write_text("<html>error</html>")
    with (tmp_path / "d.avro").open("wb") as stream:
        fastavro.writer(
            stream, {"type": "record", "name": "other", "fields": [{"name": "x", "type": "int"}]}, [{"x": 1}]
        )
    found, failed = alerts.read(tmp_path)
    assert [a.candid for a in found] == [2]
    assert [str(e).split(" ")[0] for e in failed] == ["a.avro", "c.avro", "d.avro"]
    assert "no objectId" in str(failed[2])
    with tarfile.open(tmp_path / "cut.tar", "w") as archive:
        archive.add(good)
    whole = (tmp_path / "cut.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:3000])
    (broken,) = read_packets(tmp_path / "cut.tar")
    assert isinstance(broken, AcquisitionError)


def test_a_damaged_or_missing_stamp_leaves_the_rest(tmp_path):
    record = packet()
    record["cutoutTemplate"] = {"fileName": "x", "stampData": b"\x1f\x8b nonsense"}
    record["cutoutDifference"] = None
    (found,), _ = alerts.read(write(tmp_path / "a.avro", record))
    assert set(found.stamps) == {"cutoutScience"}
    assert any("gzip" in note for note in found.notes)
    assert any("missing" in note for note in found.notes)
    triplet = alerts.to_cutouts([found])
    assert np.isfinite(triplet.images[0, 0]).all()
    assert np.isnan(triplet.images[0, 1:]).all()
    assert np.all(triplet.mask[0] & PixelFlag.BAD_REFERENCE)


@pytest.mark.parametrize(
    ("shape", "xpos", "ypos"),
    [((63, 53), 3051.06, 1214.0), ((63, 53), 22.3, 1214.0), ((53, 63), 229.3, 3058.63), ((63, 50), 19.2, 2000.0)],
)
def test_stamps_cut_off_at_an_edge_keep_the_candidate_in_the_middle(tmp_path, shape, xpos, ypos):
    (found,), _ = alerts.read(write(tmp_path / "a.avro", packet(shape=shape, xpos=xpos, ypos=ypos)))
    triplet = alerts.to_cutouts([found])
    # The pixel values count along the stamp; the candidate's own pixel follows from the edge that cuts.
    column = min(31, round(xpos - 1)) if xpos < 1500 else 31
    row = min(31, round(ypos - 1)) if ypos < 1500 else 31
    assert triplet.images[0, 0, 31, 31] == row * shape[1] + column
    assert np.count_nonzero(triplet.mask[0] == 0) == shape[0] * shape[1]
    assert np.array_equal(np.isnan(triplet.images[0, 0]), (triplet.mask[0] & PixelFlag.NO_DATA) != 0)
    assert alerts.to_candidates([found]).data["flags"][0] & CandidateFlag.EDGE


def test_the_difference_of_a_faded_source_is_science_less_template(tmp_path):
    (found,), _ = alerts.read(write(tmp_path / "a.avro", packet(isdiffpos="f")))
    (other,), _ = alerts.read(write(tmp_path / "b.avro", packet()))
    assert np.array_equal(alerts.to_cutouts([found]).images[0, 2], -alerts.to_cutouts([other]).images[0, 2])
    assert np.array_equal(alerts.to_cutouts([found]).images[0, :2], alerts.to_cutouts([other]).images[0, :2])


def test_nan_in_a_stamp_stays_and_is_flagged():
    pixels = np.ones((63, 63), np.float32)
    pixels[:, 40:] = np.nan
    stamps = {STAMPS[0]: np.ones((63, 63)), STAMPS[1]: pixels, STAMPS[2]: pixels}
    triplet = alerts.to_cutouts([Alert("ZTF1", 1, "ZTF", "", candidate(), stamps=stamps)], size=31)
    assert triplet.images.shape == (1, 3, 31, 31)
    assert np.isnan(triplet.images[0, 1, :, 24:]).all()
    assert np.array_equal(triplet.mask[0] == PixelFlag.BAD_REFERENCE, np.isnan(triplet.images[0, 1]))
    with pytest.raises(InputError, match="odd"):
        alerts.to_cutouts([], size=30)


def test_light_curve_of_two_alerts_has_each_point_once(tmp_path):
    old = candidate(jd=2458990.5, magpsf=19.0)
    limit = candidate(jd=2458980.5, magpsf=None, sigmapsf=None)
    first = packet(candid=1, previous=[limit, old])
    second = packet(candid=2, jd=2459010.5, previous=[limit, old, candidate()])
    found, _ = alerts.read(write(tmp_path / "a.avro", first, second))
    curve = alerts.light_curve(found)
    assert curve["mjd"].tolist() == [58980.0, 58990.0, 59000.0, 59010.0]
    assert curve["kind"].tolist() == ["limit", "alert", "alert", "alert"]
    assert np.isnan(curve["flux"][0])
    assert curve["flux"][1] == pytest.approx(10 ** (0.4 * 4.9))
    assert curve["flux_error"][1] / curve["flux"][1] == pytest.approx(0.0921, abs=1e-4)


def test_forced_photometry_is_on_the_same_scale():
    failed = {"jd": 2459000.6, "fid": 1, "magzpsci": 26.0, "forcediffimflux": -99999.0, "forcediffimfluxunc": -99999.0}
    good = failed | {"jd": 2459000.7, "forcediffimflux": -(10 ** (0.4 * 6.0)), "forcediffimfluxunc": 10.0}
    curve = alerts.light_curve(Alert("ZTF1", 1, "ZTF", "4.02", candidate(), forced=[failed, good]))
    forced = curve[curve["kind"] == "forced"]
    assert len(forced) == 1
    assert forced["mag"][0] == pytest.approx(20.0)
    assert forced["flux"][0] == pytest.approx(-(10 ** (0.4 * 3.9)))
    assert (forced["polarity"][0], forced["band"][0]) == (-1, "g")


def test_search_and_fetch(tmp_path):
    write(tmp_path / "a.avro", packet(candid=1), packet("ZTF21b", candid=2, ra=11.0, magpsf=18.0, jd=2459100.5))
    assert len(alerts.search(tmp_path)) == 2
    for wanted in ({"position": (11.0, 20.0), "radius": 0.1}, {"object_id": "ZTF21b"}, {"magnitude": (17, 19)},
                   {"mjd": (59050, 59200)}):  # fmt: skip
        assert alerts.search(tmp_path, **wanted)["candid"].tolist() == [2]
    assert len(alerts.search(tmp_path, band="g")) == 0
    assert len(alerts.search(tmp_path, min_drb=0.5)) == 0
    with pytest.raises(InputError, match="together"):
        alerts.search(tmp_path, radius=1.0)
    paths = alerts.fetch(alerts.search(tmp_path), tmp_path / "run")
    assert all(path.stat().st_size for path in paths)
    assert {path.name for path in paths} == {"alerts.csv", "alerts.ecsv", "alerts.h5", "alerts.npz", "light_curves.csv"}
    with pytest.raises(InputError, match="no alert is left"):
        alerts.fetch(alerts.search(tmp_path, band="g"), tmp_path / "run")


@given(st.binary(max_size=3000) | st.binary(max_size=300).map(lambda b: b"Obj\x01" + b))
def test_any_bytes_as_a_packet_are_a_clean_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("packets") / "x.avro"
    path.write_bytes(content)
    assert all(isinstance(one, AcquisitionError) for one in read_packets(path))


@given(st.binary(max_size=3000) | st.binary(max_size=6000).map(lambda b: b"SIMPLE  =                    T" + b))
def test_any_bytes_as_a_stamp_are_a_clean_error(content):
    for form in (content, gzip.compress(content)):
        with pytest.raises(FitsError):
            read_stamp(form)


def test_a_stamp_that_unpacks_to_gigabytes_is_refused():
    with pytest.raises(FitsError, match="more than 64 MiB"):
        read_stamp(gzip.compress(bytes(80 << 20), 1))
