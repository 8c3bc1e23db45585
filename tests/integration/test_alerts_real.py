"""The recorded alert packets, held against the table that was made of them when they were collected."""

from __future__ import annotations

import math

import numpy as np
import pytest

from astrid_gpu.acquire import alerts
from astrid_gpu.acquire.packets import STAMPS
from astrid_gpu.dataset import read_dataset

pytest.importorskip("fastavro", reason="reads alert packets")


@pytest.fixture(scope="module")
def table(data_dir):
    """Rows of the table in PROVENANCE.md, by candid."""
    text = (data_dir / "PROVENANCE.md").read_text().split("## ZTF alert packets")[1]
    lines = [line for line in text.splitlines() if line.startswith("| ZTF")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {int(row[1]): row for row in rows}


@pytest.fixture(scope="module")
def packets(data_dir):
    found, failed = alerts.read(data_dir / "ztf_alerts")
    assert not failed
    return found


def test_every_packet_is_read_and_its_numbers_are_those_of_the_table(packets, table):
    assert len(packets) == len(table) == 45
    rows = alerts.to_candidates(packets).data
    for alert, row in zip(packets, rows, strict=True):
        name, _, jd, fid, mag, rb, drb, positive, stamp, schema, *_ = table[alert.candid]
        assert alert.object_id == name
        assert alert.mjd + 2400000.5 == pytest.approx(float(jd), abs=1e-5)
        assert row["band"] == {"1": "g", "2": "r"}[fid]
        assert row["mag"] == pytest.approx(float(mag), abs=5e-4)
        assert row["rb"] == pytest.approx(float(rb), abs=5e-4)
        assert math.isnan(row["drb"]) if not drb else row["drb"] == pytest.approx(float(drb), abs=5e-5)
        assert row["polarity"] == (1 if positive == "t" else -1)
        assert alert.schema == ("" if schema == "None" else schema)
        shape, lost = stamp.split(" ")
        assert "x".join(map(str, alert.stamps[STAMPS[0]].shape)) == shape
        assert [int(n) for n in lost.strip("()").split("/")] == [
            int(np.isnan(alert.stamps[kind]).sum()) for kind in STAMPS
        ]


def test_history_has_as_many_points_as_the_table_says(packets, table):
    for alert in packets:
        *_, n_previous, n_forced, _ = table[alert.candid]
        assert (len(alert.previous), len(alert.forced)) == (int(n_previous), int(n_forced))


def test_difference_stamps_peak_in_the_middle_with_the_sign_of_the_candidate(packets):
    triplets = alerts.to_cutouts(packets)
    assert triplets.images.shape == (45, 3, 63, 63)
    radius = np.hypot(*np.mgrid[-31:32, -31:32])
    offsets = []
    for alert, image in zip(packets, triplets.images, strict=True):
        signed = alert.polarity * image[2]
        assert np.nansum(np.where(radius <= 2.5, signed - np.nanmedian(signed), 0)) > 0
        y, x = np.unravel_index(np.nanargmax(np.where(radius <= 5, signed, -np.inf)), signed.shape)
        offsets.append(np.hypot(y - 31, x - 31))
    assert np.mean(np.array(offsets) <= 2) > 0.85  # a bogus alert may peak anywhere near; most are real
    cut = [o for o, a in zip(offsets, packets, strict=True) if a.stamps[STAMPS[0]].shape != (63, 63)]
    assert len(cut) == 5
    assert max(cut) <= 3  # the edge of the frame is put back where it was


def test_the_seven_alerts_of_one_object_make_one_light_curve(packets):
    of_one = [a for a in packets if a.object_id == "ZTF19abegmle"]
    curve = alerts.light_curve(of_one)
    assert len({(p["mjd"], p["band"], p["kind"]) for p in curve}) == len(curve)
    assert {a.candid for a in of_one} <= set(curve["candid"].tolist())
    assert np.all(np.diff(curve["mjd"]) >= 0)


def test_forced_photometry_agrees_with_the_alerts_of_the_same_exposure(packets):
    """Two ways to measure the same flux: within 10 % for bright sources (the positions differ, not the images)."""
    ratios = []
    for alert in packets:
        curve = alerts.light_curve(alert)
        forced, detected = curve[curve["kind"] == "forced"], curve[curve["kind"] == "alert"]
        for point in detected:
            same = forced[(abs(forced["mjd"] - point["mjd"]) < 1e-3) & (forced["band"] == point["band"])]
            if len(same) and abs(same["flux"][0]) > 10 * same["flux_error"][0]:
                ratios.append(same["flux"][0] / point["flux"])
    assert len(ratios) >= 8
    assert np.median(ratios) == pytest.approx(1, abs=0.1)


def test_packets_of_another_survey_are_read_too(data_dir):
    (alert,), failed = alerts.read(data_dir / "other_alerts")
    assert not failed
    assert (alert.survey, alert.object_id) == ("PGIR", "PGIR19aacbvv")
    row = alerts.to_candidates([alert]).data[0]
    assert row["mag"] == pytest.approx(10.176, abs=1e-3)
    assert row["polarity"] == 1
    assert alerts.to_cutouts([alert]).images.shape == (1, 3, 63, 63)
    assert np.isnan(row["ssdistnr"])  # -99 in the packet


def test_a_night_becomes_a_data_set(data_dir, tmp_path):
    found = alerts.search(data_dir / "ztf_alerts", min_drb=0.9)
    assert len(found) > 10
    paths = {path.name: path for path in alerts.fetch(found, tmp_path / "run")}
    back = read_dataset(paths["alerts.h5"])
    assert len(back.images) == len(found)
    seven = np.array([name == "ZTF19abegmle" for name in found["object_id"]])
    assert len(set(np.asarray(back.split)[seven])) == 1  # an object is never on both sides of a split
