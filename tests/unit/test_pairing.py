"""Which reference is chosen, and the words for why the others are not."""

from __future__ import annotations

import math

import pytest

from astrid_gpu.acquire.pairing import PairingRules, choose_pairs
from astrid_gpu.acquire.record import Observation
from astrid_gpu.acquire.tables import pairing_table
from astrid_gpu.errors import InputError


def observation(name, role="reference", ra=10.0, side=0.1, **changes):
    half = side / 2
    corners = [(ra - half, -half), (ra + half, -half), (ra + half, half), (ra - half, half)]
    base = {"ra": ra, "dec": 0.0, "corners": corners, "radius": half * math.sqrt(2), "survey": "ZTF", "band": "r"}
    return Observation(name, role, **{**base, "mjd": 59000.0, "exposure": 30.0, **changes})


SCIENCE = observation("new", "science", mjd=59100.0)


def chosen(pairs):
    return [p.reference for p in pairs if p.chosen]


@pytest.mark.parametrize(("prefer", "expected"), [("deepest", "deep"), ("earliest", "old"), ("best seeing", "sharp")])
def test_preferences(prefer, expected):
    references = [
        observation("deep", exposure=300.0, fwhm=2.0),
        observation("old", mjd=58000.0, fwhm=2.5),
        observation("sharp", fwhm=1.2),
        observation("unknown", mjd=None, exposure=None),
    ]
    pairs = choose_pairs([SCIENCE, *references], prefer=prefer)
    assert chosen(pairs) == [expected]
    assert pairs[0].chosen
    assert len(pairs) == 4
    assert all("usable, but not the" in p.reason for p in pairs[1:])


def test_each_rule_says_why():
    references = [
        observation("green", band="g"),
        observation("other", survey="PS1"),
        observation("beside", ra=10.08),
        observation("soon", mjd=59099.9),
        observation("long ago", mjd=50000.0),
        observation("good"),
    ]
    pairs = choose_pairs([SCIENCE, *references], min_gap=1.0, max_gap=1000.0)
    reasons = {p.reference: p.reason for p in pairs}
    assert chosen(pairs) == ["good"]
    assert reasons["green"] == "of another band: g, not r"
    assert reasons["other"].startswith("of another survey: PS1, not ZTF; cross_survey=True")
    assert reasons["beside"] == "covers 20 % of the science image, less than 50 %"
    assert reasons["soon"] == "0.1 days apart, less than 1"
    assert reasons["long ago"] == "9.1e+03 days apart, more than 1000"


def test_cross_survey_pairs_are_made_if_asked_for_and_flagged():
    pairs = choose_pairs([SCIENCE, observation("ps1", survey="PS1")], cross_survey=True)
    assert chosen(pairs) == ["ps1"]
    assert pairs[0].cross_survey
    assert "another survey" in pairs[0].reason


def test_several_references_and_no_reference():
    pool = [SCIENCE, observation("a", exposure=10.0), observation("b", exposure=20.0), observation("c", exposure=5.0)]
    assert chosen(choose_pairs(pool, references=2)) == ["b", "a"]
    (alone,) = choose_pairs([SCIENCE])
    assert not alone.chosen
    assert "no reference" in alone.reason


def test_without_positions_the_stars_have_to_tell():
    nowhere = {"ra": None, "dec": None, "corners": [], "radius": None}
    pairs = choose_pairs([SCIENCE.with_(**nowhere), observation("r").with_(**nowhere)])
    assert pairs[0].chosen
    assert "stars will have to tell" in pairs[0].reason
    assert math.isnan(pairs[0].overlap)


def test_radii_serve_where_corners_are_missing():
    science = SCIENCE.with_(corners=[])
    near, far = observation("near").with_(corners=[]), observation("far", ra=10.2).with_(corners=[])
    pairs = {p.reference: p for p in choose_pairs([science, near, far])}
    assert pairs["near"].overlap == 1
    assert pairs["far"].overlap == 0
    assert not pairs["far"].chosen


@pytest.mark.parametrize(
    "wrong", [{"prefer": "best"}, {"min_overlap": 1.1}, {"min_gap": 2.0, "max_gap": 1.0}, {"references": 0}]
)
def test_impossible_rules_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        PairingRules(**wrong)


def test_ids_must_be_unique():
    with pytest.raises(InputError, match="'a'"):
        choose_pairs([SCIENCE, observation("a"), observation("a")])


def test_the_table_has_a_row_for_each_combination():
    table = pairing_table(choose_pairs([SCIENCE, observation("a"), observation("g", band="g")]))
    assert table["science", "reference", "chosen"].as_array().tolist() == [("new", "a", True), ("new", "g", False)]
    assert str(table["gap"].unit) == "d"
    assert len(pairing_table([])) == 0
