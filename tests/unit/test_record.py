"""Records of observations: what they hold, what they refuse, and that they only move forward."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from astrid_gpu.acquire.record import SCHEMA, STAGES, Observation, file_name
from astrid_gpu.acquire.record_schema import observation_schema, validate_record
from astrid_gpu.errors import DatasetError, InputError

FULL = {
    "observation_id": "a/1",
    "role": "science",
    "ra": 10.0,
    "dec": -5.0,
    "mjd": 59000.5,
    "date": "2020-05-31T12:00:00",
    "shape": (10, 20),
    "corners": [(1.0, 2.0), (3.0, 4.0)],
    "exposure": np.float32(30.0),
    "psf": {"fwhm": np.float64(2.5), "bad": float("nan")},
    "paths": {"source": "source_fits/science/a.fits"},
}


def test_a_record_comes_back_as_it_was(tmp_path):
    path = Observation(**FULL).advance("acquired").write(tmp_path / "a.json")
    back = Observation.read(path)
    assert back.to_json() == json.loads(path.read_text())
    assert back.shape == (10, 20)
    assert back.exposure == 30.0
    assert back.psf == {"fwhm": 2.5, "bad": None}  # JSON has no NaN
    validate_record(back.to_json())


def test_every_field_is_in_the_schema_and_the_schema_is_valid():
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(observation_schema())
    record = Observation("a", "science").to_json()
    assert set(record) == set(observation_schema()["properties"])
    validate_record(record)


@pytest.mark.parametrize(
    ("key", "value"),
    [("ra", 400), ("dec", -91), ("role", "sci"), ("exposure", 0), ("status", {}), ("shape", [1]), ("extra", 1)],
)
def test_the_schema_refuses(key, value):
    record = Observation("a", "science").to_json() | {key: value}
    with pytest.raises(DatasetError, match=key):
        validate_record(record)


def test_stages_are_done_in_order_and_stay_done(tmp_path):
    one = Observation("a", "science")
    with pytest.raises(InputError, match="cannot be aligned before it is acquired"):
        one.advance("aligned")
    with pytest.raises(InputError, match="no stage 'resampled'"):
        one.advance("resampled")
    first = one.advance("acquired")
    then = first.advance("aligned", paths={"aligned": "x"})
    assert [s for s in STAGES if then.done(s)] == ["acquired", "aligned"]
    assert then.advance("acquired").status == then.status  # its first time stays
    path = then.write(tmp_path / "a.json")
    with pytest.raises(InputError, match="is aligned already and this copy of it is not"):
        first.write(path)
    assert Observation.read(path).done("aligned")
    with pytest.raises(InputError, match="advance"):
        then.with_(status={})


@pytest.mark.parametrize("changes", [{"role": "flat"}, {"observation_id": " "}, {"status": {"done": None}}])
def test_impossible_records_are_refused(changes):
    with pytest.raises(InputError):
        Observation(**{"observation_id": "a", "role": "science"} | changes)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: json.dumps({"schema": SCHEMA, t: t}).encode()))
def test_any_bytes_as_a_record_are_a_clean_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("records") / "x.json"
    path.write_bytes(content)
    with pytest.raises(DatasetError):
        Observation.read(path)


def test_a_deeply_nested_record_is_a_clean_error(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text("[" * 100_000)
    with pytest.raises(DatasetError, match="not JSON"):
        Observation.read(path)


@given(st.text(min_size=1, max_size=200), st.text(min_size=1, max_size=200))
def test_file_names_are_safe_and_tell_ids_apart(one, two):
    name = file_name(one)
    assert name == name.strip("./ ")
    assert "/" not in name
    assert len(name) < 140
    assert (file_name(two) == name) == (one == two)
