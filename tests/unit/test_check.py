"""What `astrid-gpu check` finds: each kind of damage, and nothing on a run that is whole."""

from __future__ import annotations

import json

import numpy as np
import pytest

from astrid_gpu.acquire.directory import RunDirectory
from astrid_gpu.acquire.record import STAGES
from astrid_gpu.cli import main
from astrid_gpu.errors import InputError
from astrid_gpu.run.check import check_run
from tests.fits_files import write_fits

DONE = {"acquired": "2020-01-01T00:00:00+00:00"} | dict.fromkeys(STAGES[1:])


@pytest.fixture
def run(tmp_path):
    """A run of two observations and their difference, with nothing wrong."""
    run = RunDirectory(tmp_path / "run")
    for name, role, mjd in (("new", "science", 59010.0), ("old", "reference", 59000.0)):
        run.add(write_fits(tmp_path / f"{name}.fits", seed=len(role), MJD=mjd), role)
    difference = write_fits(run.folder("differences/zogy") / "new.fits", seed=5)
    run.link_difference("zogy", "new", "old", difference)
    return run


def found(run, **options):
    return {(f.severity, f.kind) for f in check_run(run, **options).findings}


def edit(run, name, **changes):
    """Change a record behind the package's back."""
    path = run.record_path(name)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_whole_run_has_nothing_wrong(run, capsys):
    report = check_run(run)
    assert not report.findings
    assert (report.n_observations, report.n_files, report.ok) == (2, 3, True)
    assert main(["check", str(run.root)]) == 0
    assert "nothing wrong" in capsys.readouterr().out


def test_the_command_says_1_where_something_is_wrong(run, capsys):
    run.path("source_fits/science/new.fits").write_bytes(b"<html>")
    assert main(["check", str(run.root), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["ok"]
    assert report["findings"][0]["kind"] == "integrity"
    assert main(["check", str(run.root / "nowhere")]) == 1


def test_no_run_is_an_error(tmp_path):
    with pytest.raises(InputError, match="is no run"):
        check_run(tmp_path)


def test_truncated_changed_and_missing_files(run):
    source = run.path("source_fits/science/new.fits")
    whole = source.read_bytes()
    source.write_bytes(whole[:4000])
    assert ("error", "integrity") in found(run)
    changed = bytearray(whole)
    changed[4000] ^= 1
    source.write_bytes(changed)
    assert found(run) == {("error", "integrity"), ("warning", "checksum")}
    assert found(run, pixels=False) == set()  # headers alone do not show it
    source.unlink()
    assert found(run) == {("error", "missing file")}


def test_pixels_that_are_no_numbers(run, tmp_path):
    for name, part in (("some", 0.6), ("all", 1.1)):
        data = np.ones((48, 64), np.float32)
        data.ravel()[: int(part * data.size)] = np.nan
        run.add(write_fits(tmp_path / f"{name}.fits", data=data), "science")
    infinite = np.ones((48, 64), np.float32)
    infinite[3, 3] = np.inf
    run.add(write_fits(tmp_path / "inf.fits", data=infinite), "science")
    messages = {f.where.split("/")[-1]: f for f in check_run(run).findings if "some" in f.where or "all." in f.where}
    assert messages["some.fits"].severity == "warning"
    assert messages["all.fits"].severity == "error"
    assert any("infinite" in f.message and "inf.fits" in f.where for f in check_run(run).findings)
    assert any("same value" in f.message for f in check_run(run).findings)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"mjd": 99999999.0}, "time"),
        ({"mjd": 100.0}, "time"),
        ({"date": "2001-01-01T00:00:00"}, "time"),
        ({"ra": 151.0}, "coordinates"),
        ({"shape": [10, 10]}, "dimensions"),
        ({"references": ["lost"]}, "cross-reference"),
        ({"differences": []}, "cross-reference"),
        ({"paths": {}}, "metadata"),
        ({"paths": {"source": "../../../etc/passwd"}}, "missing file"),
        ({"role": "dark"}, "record"),
        ({"schema": "other/1"}, "record"),
        ({"observation_id": "another"}, "record"),
        ({"status": DONE | {"aligned": "2020-01-01T00:00:00+00:00"}}, "status"),
    ],
)
def test_records_that_do_not_hold_together(run, changes, kind):
    edit(run, "new", **changes)
    assert ("error", kind) in found(run)


def test_a_reference_of_another_field(run, tmp_path):
    run.add(write_fits(tmp_path / "far.fits", ra=200.0), "reference")
    edit(run, "new", references=["far"])
    assert ("error", "coordinates") in found(run)


def test_what_is_missing_and_what_nobody_knows_is_a_warning(run, tmp_path):
    run.add(write_fits(tmp_path / "bare.fits", FILTER="", MAGZP=0.0), "science")
    write_fits(run.source_folder("science") / "stray.fits")
    (run.root / "candidates" / ".table-x.part.csv").write_text("")
    report = check_run(run)
    assert report.ok
    assert {f.kind for f in report.findings} == {"metadata", "stray file", "left over"}
    assert "filter, zero_point" in next(f.message for f in report.findings if f.kind == "metadata")


def test_a_wcs_that_cannot_be(run, tmp_path):
    run.add(write_fits(tmp_path / "coarse.fits", CDELT1=-0.1, CDELT2=0.1), "science")
    assert ("error", "wcs") in found(run)
