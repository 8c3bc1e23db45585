"""What every adapter relies on: the observation table, positions, where files go, secrets, progress lines."""

from __future__ import annotations

import io
import math

import pytest

import astrid_gpu as ag
from astrid_gpu.errors import AcquisitionError, InputError

pytest.importorskip("astropy", reason="needs the fits extra")

from astrid_gpu.acquire.observations import COLUMNS, as_rows, check_observations, observation_table
from astrid_gpu.acquire.placing import raise_failures, target_path, try_each
from astrid_gpu.acquire.progress import Progress, progress_lines
from astrid_gpu.acquire.regions import radius_degrees, resolve
from astrid_gpu.acquire.secrets import redact

ROW = {"id": "a1", "ra": 10.0, "dec": -5.0, "survey": "PS1", "kind": "science", "filename": "a1.fits"}


def test_table_has_every_column_with_unit_and_words():
    table = observation_table([ROW], source="ps1")
    assert table.colnames == [column.name for column in COLUMNS]
    assert table["ra"].unit == "deg"
    assert table["exposure"].unit == "s"
    assert all(table[column.name].info.description for column in COLUMNS)
    (row,) = as_rows(table)
    assert row["size"] == -1
    assert math.isnan(row["mjd"])
    assert row["source"] == "ps1"
    assert as_rows(table[0])[0]["id"] == "a1"


def test_empty_table_has_the_columns_too():
    table = observation_table([], source="ps1")
    assert len(table) == 0
    check_observations(table)


def test_tables_of_several_adapters_stack():
    from astropy.table import vstack

    found = [("ps1", [ROW]), ("mast", []), ("skyview", [dict(ROW, id="longer id")])]
    both = vstack([observation_table(rows, source=source) for source, rows in found], metadata_conflicts="silent")
    check_observations(both)
    assert [row["source"] for row in as_rows(both)] == ["ps1", "skyview"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dec": 91.0}, "not on the sky"),
        ({"ra": 360.0}, "not on the sky"),
        ({"survey": ""}, "survey is empty"),
        ({"kind": "picture"}, "kind 'picture'"),
        ({"role": "best"}, "role 'best'"),
        ({"filename": "../../etc/passwd"}, "plain, printable name"),
        ({"filename": ".hidden"}, "plain, printable name"),
        ({"filename": "a\x00b.fits"}, "plain, printable name"),
        ({"filename": "a" * 300}, "at most 200 bytes"),
        ({"colour": "red"}, "no such column"),
    ],
)
def test_row_that_cannot_be_used_is_named(change, words):
    with pytest.raises(InputError, match=words):
        observation_table([{**ROW, **change}], source="ps1")


def test_service_that_sends_no_number_is_at_fault():
    with pytest.raises(AcquisitionError, match="exposure must be a number in s, got 'long'"):
        observation_table([{**ROW, "exposure": "long"}], source="ps1")


def test_foreign_table_is_refused():
    from astropy.table import QTable

    with pytest.raises(InputError, match="lacks id, ra, dec"):
        ag.acquire.fetch(QTable({"name": ["x"]}), ".")


def test_unknown_adapter_is_refused():
    with pytest.raises(InputError, match="no adapter is called 'nobody'"):
        ag.acquire.fetch(observation_table([ROW], source="nobody"), ".")


@pytest.mark.parametrize(
    "position",
    [
        (210.8, 54.35),
        "210.8 54.35",
        "210.8, +54.35",
        "14:03:12 +54:21:00",
        "14h03m12s +54d21m00s",
        "14 03 12 +54 21 00",
    ],
)
def test_position_in_any_usual_form(position):
    found = resolve(position)
    assert found.ra.deg == pytest.approx(210.8, abs=1e-9)
    assert found.dec.deg == pytest.approx(54.35, abs=1e-9)


def test_position_in_another_frame_becomes_icrs():
    from astropy.coordinates import SkyCoord

    found = resolve(SkyCoord(0.0, 90.0, unit="deg", frame="galactic"))
    assert found.dec.deg == pytest.approx(27.128, abs=1e-3)  # the galactic pole


@pytest.mark.parametrize(
    "position", [(1, 95), (1, 2, 3), None, "", object(), ([1, 2], [3, 4]), "10 99", "25:61:00 +10:00:00"]
)
def test_what_is_no_position_is_an_input_error(position):
    with pytest.raises(InputError):
        resolve(position)


def test_radius():
    from astropy import units as u

    assert radius_degrees(0.5) == 0.5
    assert radius_degrees(6 * u.arcmin) == pytest.approx(0.1)
    assert radius_degrees("6 arcmin") == pytest.approx(0.1)
    for wrong in (0, -1, 91, float("nan"), "wide", 3 * u.s, None):
        with pytest.raises(InputError, match="radius"):
            radius_degrees(wrong)


def test_files_go_to_the_folder_of_their_role(tmp_path):
    rows = as_rows(observation_table([ROW, {**ROW, "kind": "reference"}, {**ROW, "role": "reference"}], source="ps1"))
    assert {target_path(row, tmp_path) for row in rows} == {tmp_path / "a1.fits"}
    (tmp_path / "source_fits").mkdir()
    folders = [target_path(row, tmp_path).parent.name for row in rows]
    assert folders == ["science", "reference", "reference"]


def test_all_failures_are_named_and_what_arrived_is_told(tmp_path):
    broken = AcquisitionError("x: HTTP 500 [http://h/b]", url="http://h/b")
    with pytest.raises(AcquisitionError, match=r"(?s)2 of 3 files.*\n  b: x: HTTP 500.*\n  c: x") as caught:
        raise_failures([("a", tmp_path / "a"), ("b", broken), ("c", broken)])
    assert [name for name, _ in caught.value.failures] == ["b", "c"]
    assert caught.value.paths == (tmp_path / "a",)


def test_one_service_that_fails_does_not_stop_the_next(tmp_path):
    def fails():
        msg = "no"
        raise AcquisitionError(msg, paths=(tmp_path / "early",))

    with pytest.raises(AcquisitionError) as caught:
        try_each([("one", fails), ("two", lambda: [tmp_path / "late"])])
    assert caught.value.paths == (tmp_path / "early", tmp_path / "late")
    assert caught.value.failures == (("one", "no"),)


@pytest.mark.parametrize(
    "text",
    [
        "https://h/p?token=SECRETS&a=1", "https://h/p?a=1&api_key=SECRETS", "https://me:SECRETS@h/p?a=1",
        "Authorization: Bearer SECRETS", "https://h/p?X-Amz-Signature=SECRETS&a=1", "Token SECRETS00", "bearer SECRETS",
        "a url '/p?access_token=SECRETS'", "https://h/p?mast_api_token=SECRETS#x",
    ],
)  # fmt: skip
def test_secrets_are_redacted(text):
    said = redact(text)
    assert "SECRETS" not in said
    assert "***" in said


def test_harmless_addresses_stay_as_they_are():
    url = "https://mast.stsci.edu/api/v0.1/Download/file?uri=mast:HST/product/u9o40504m_drz.fits&size=240&ra=1.5"
    assert redact(url) == url
    assert redact("the token invalid or expired") == "the token invalid or expired"


def test_progress_lines_one_a_file_where_nobody_watches():
    out = io.StringIO()
    seconds = iter([0.0, 0.0, 1.0, 2.0, 2.0])
    show = progress_lines(out, now=lambda: next(seconds))
    show(Progress("a.fits", 0, 8_000_000))
    show(Progress("a.fits", 4_000_000, 8_000_000))
    show(Progress("a.fits", 8_000_000, 8_000_000, "done"))
    assert out.getvalue() == "a.fits  8.0 MB  4.0 MB/s\n"


def test_progress_lines_on_a_terminal_are_rewritten():
    out = io.StringIO()
    out.isatty = lambda: True
    show = progress_lines(out, now=lambda: 0.0)
    show(Progress("a.fits", 4_000_000, 8_000_000))
    show(Progress("a.fits", 8_000_000, 8_000_000, "failed"))
    assert out.getvalue() == "\ra.fits  4.0 of 8.0 MB   50 %\ra.fits  8.0 MB  failed      \n"
