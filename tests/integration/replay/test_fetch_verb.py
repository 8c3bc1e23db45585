"""``astrid-gpu fetch``: what it shows, what it writes, and its exit codes."""

from __future__ import annotations

import json

import pytest

from astrid_gpu.acquire import RunDirectory
from astrid_gpu.acquire import client as client_module
from astrid_gpu.cli import main
from astrid_gpu.run.check import check_run
from tests.fits_files import write_fits
from tests.integration.replay.server import Answer

pytest.importorskip("astroquery", reason="asks IRSA")

ROW = {
    "ra": 95.5, "dec": 77.5, "infobits": 0, "field": 857, "ccdid": 9, "qid": 2, "filtercode": "zr", "pid": 1,
    "imgtypecode": "o", "obsjd": 2459540.85, "exptime": 30.0, "filefracday": 20211122348889, "seeing": 2.0,
    "airmass": 1.5, "maglimit": 20.5,
}  # fmt: skip


@pytest.fixture
def irsa(replay, monkeypatch, client):
    """IRSA with one exposure, asked by the command line's own client."""
    import io

    from astropy.io import ascii as formats
    from astropy.table import Table
    from astroquery.ipac.irsa.ibe import conf

    stream = io.StringIO()
    formats.write(Table([ROW]), stream, format="ipac")
    replay.add("/ibe/search/ztf/products/sci", stream.getvalue().encode())
    monkeypatch.setattr(client_module, "_default", [client])
    with conf.set_temp("server", f"{replay.url}/ibe/"):
        yield replay


def test_a_dry_run_shows_what_and_how_much_and_writes_nothing(irsa, tmp_path, capsys):
    code = main(["fetch", "ztf", "95.5 77.5", "--products", "science,mask", "-o", str(tmp_path / "run"), "--dry-run"])
    assert code == 0
    out = capsys.readouterr().out
    assert "_sciimg.fits" in out
    assert "2 rows, about 57.0 MB; nothing was fetched" in out
    assert not (tmp_path / "run").exists()


def test_a_run_is_made_and_holds_together(irsa, tmp_path, capsys):
    base = "/ibe/data/ztf/products/sci/2021/1122/348889/ztf_20211122348889_000857_zr_c09_o_q2_"
    for number, ending in enumerate(("sciimg.fits", "mskimg.fits")):
        irsa.add(
            base + ending, write_fits(tmp_path / ending, seed=number, ra=95.5, dec=77.5, MJD=59540.35).read_bytes()
        )
    run = tmp_path / "run"
    arguments = ["fetch", "ztf", "95.5 77.5", "--products", "science,mask", "-o", str(run), "--role", "reference"]
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [path.split("/")[-2] for path in told["paths"]] == ["reference", "reference"]
    (observation,) = RunDirectory(run).observations()
    assert (observation.role, set(observation.paths)) == ("reference", {"source", "mask"})
    assert check_run(run).ok
    assert main(["check", str(run)]) == 0
    assert main(arguments) == 0  # again: the files are there, the record stays
    assert len(list(RunDirectory(run).observations())) == 1


def test_what_failed_is_named_and_the_exit_code_says_so(irsa, tmp_path, capsys):
    base = "/ibe/data/ztf/products/sci/2021/1122/348889/ztf_20211122348889_000857_zr_c09_o_q2_"
    irsa.add(base + "sciimg.fits", write_fits(tmp_path / "a.fits", ra=95.5, dec=77.5).read_bytes())
    irsa.add(base + "mskimg.fits", Answer(b"gone", status=404))
    code = main(["fetch", "ztf", "95.5 77.5", "--products", "science,mask", "-o", str(tmp_path / "run")])
    assert code == 1
    told = capsys.readouterr()
    assert "mskimg.fits" in told.err
    assert "404" in told.err
    assert "1 files in" in told.out
    assert len(list(RunDirectory(tmp_path / "run").observations())) == 1


def test_the_galactic_plane_is_warned_about(irsa, capsys):
    assert main(["fetch", "ztf", "266.4 -29.0", "--products", "science", "--dry-run"]) == 0
    assert "Milky Way" in capsys.readouterr().err


def test_local_files_and_a_dry_run_of_them(tmp_path, capsys):
    write_fits(tmp_path / "in" / "old.fits", seed=1, MJD=58000.0)
    write_fits(tmp_path / "in" / "new.fits", seed=2)
    assert main(["fetch", "local", str(tmp_path / "in"), "-o", str(tmp_path / "run"), "--dry-run"]) == 0
    assert "reference" in capsys.readouterr().out
    assert main(["fetch", "local", str(tmp_path / "in"), "-o", str(tmp_path / "run")]) == 0
    assert {o.role for o in RunDirectory(tmp_path / "run").observations()} == {"science", "reference"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["fetch", "eso", "M101"], 2, "no source is called 'eso'"),
        (["fetch", "ztf", "M101", "--missions", "HST"], 2, "ztf cannot be asked for 'missions'"),
        (["fetch", "ztf", "M101", "--limit", "many"], 2, "limit must be a whole number"),
        (["fetch", "ztf", "M101", "--set", "usable"], 2, "NAME=VALUE"),
        (["fetch", "ztf", "M101", "--set", "usable=perhaps"], 2, "usable must be yes or no"),
        (["fetch", "local", "/nowhere/at/all"], 1, "no such file or folder"),
        (["fetch", "ztf", "95 100"], 1, "not a position"),
    ],
)
def test_what_cannot_be_is_said(arguments, code, words, capsys):
    assert main(arguments) == code
    assert words in capsys.readouterr().err
