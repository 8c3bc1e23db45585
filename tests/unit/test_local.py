"""Files on disk sorted into science and reference images: folders, globs, manifests, and what goes wrong."""

from __future__ import annotations

import json

import pytest

from astrid_gpu.acquire import local
from astrid_gpu.acquire.directory import RunDirectory
from astrid_gpu.errors import AcquisitionError, InputError
from tests.fits_files import write_fits


def roles(files):
    return {f.observation.observation_id: f.observation.role for f in files}


def test_the_earliest_of_a_field_and_band_is_the_reference(tmp_path):
    for name, mjd in (("a", 59003.0), ("b", 59001.0), ("c", 59002.0)):
        write_fits(tmp_path / f"{name}.fits", seed=ord(name), MJD=mjd)
    write_fits(tmp_path / "green.fits", MJD=58000.0, FILTER="ZTF_g")
    write_fits(tmp_path / "elsewhere.fits", MJD=58000.0, ra=151.0)
    files, skipped = local.find(tmp_path)
    assert roles(files) == {
        "a": "science",
        "b": "reference",
        "c": "science",
        "green": "science",
        "elsewhere": "science",
    }
    assert not skipped


def test_of_several_at_one_moment_none_is_the_reference(tmp_path):
    for name in "ab":
        write_fits(tmp_path / f"{name}.fits", seed=ord(name))
    assert set(roles(local.find(tmp_path)[0]).values()) == {"science"}


def test_a_date_a_folder_or_the_caller_decides(tmp_path):
    write_fits(tmp_path / "x" / "a.fits", MJD=59003.0)
    write_fits(tmp_path / "x" / "b.fits", MJD=59001.0)
    assert roles(local.find(tmp_path, split_mjd=59010.0)[0]) == {"a": "reference", "b": "reference"}
    assert roles(local.find(tmp_path, role="science")[0]) == {"a": "science", "b": "science"}
    (tmp_path / "x").rename(tmp_path / "Reference")
    assert roles(local.find(tmp_path)[0]) == {"a": "reference", "b": "reference"}
    with pytest.raises(InputError, match="role must be one of"):
        local.find(tmp_path, role="flat")


def test_globs_lists_and_single_files(tmp_path, monkeypatch):
    for name in "abc":
        write_fits(tmp_path / f"{name}.fits", seed=ord(name))
    assert len(local.find(str(tmp_path / "[ab].fits"))[0]) == 2
    assert len(local.find([tmp_path / "a.fits", tmp_path / "c.fits"])[0]) == 2
    monkeypatch.chdir(tmp_path)
    assert len(local.find("*.fits")[0]) == 3


def test_planes_go_with_their_image(tmp_path):
    write_fits(tmp_path / "c4d_1_ooi_z.fits")
    write_fits(tmp_path / "c4d_1_ood_z.fits")
    write_fits(tmp_path / "c4d_1_oow_z.fits")
    write_fits(tmp_path / "ztf_1_sciimg.fits")
    write_fits(tmp_path / "ztf_1_mskimg.fits")
    write_fits(tmp_path / "new.fits")
    write_fits(tmp_path / "new.weight.fits")
    write_fits(tmp_path / "lonely_mskimg.fits")
    write_fits(tmp_path / "FinalMatchKernel.fits")
    files, skipped = local.find(tmp_path)
    found = {f.path.name: {kind: path.name for kind, path in f.companions.items()} for f in files}
    assert found == {
        "c4d_1_ooi_z.fits": {"mask": "c4d_1_ood_z.fits", "weight": "c4d_1_oow_z.fits"},
        "ztf_1_sciimg.fits": {"mask": "ztf_1_mskimg.fits"},
        "new.fits": {"weight": "new.weight.fits"},
    }
    reasons = {s.path.name: s.reason for s in skipped}
    assert reasons["new.weight.fits"] == "the weight of new.fits"
    assert "is not there" in reasons["lonely_mskimg.fits"]
    assert "no image" in reasons["FinalMatchKernel.fits"]


def test_one_bad_file_stops_nothing(tmp_path):
    write_fits(tmp_path / "a.fits")
    (tmp_path / "b.fits").write_text("<html><title>Not found</title>")
    files, skipped = local.find(tmp_path)
    assert [f.path.name for f in files] == ["a.fits"]
    assert "web page" in skipped[0].reason
    rows = local.search(tmp_path)
    assert "web page" in rows.meta["skipped"][0]
    paths = local.fetch(rows, tmp_path / "run")
    (taken,) = RunDirectory(tmp_path / "run").observations()
    assert taken.source["adapter"] == "local"
    assert paths == [RunDirectory(tmp_path / "run").path(taken.paths["source"])]


def test_files_of_one_name_in_two_folders_are_told_apart(tmp_path):
    write_fits(tmp_path / "n1" / "a.fits", seed=1)
    write_fits(tmp_path / "n2" / "a.fits", seed=2)
    files, _ = local.find(tmp_path)
    assert sorted(roles(files)) == ["n1_a", "n2_a"]
    assert len(set(local.fetch(local.search(tmp_path), tmp_path / "run"))) == 2
    assert {o.observation_id for o in RunDirectory(tmp_path / "run").observations()} == {"n1_a", "n2_a"}


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_a_manifest_says_what_is_what(tmp_path, kind):
    write_fits(tmp_path / "data" / "a.fits")
    write_fits(tmp_path / "data" / "m.fits")
    write_fits(tmp_path / "data" / "b.fits", seed=2)
    rows = [
        {"file": "data/a.fits", "role": "reference", "mask": "data/m.fits", "filter": "i", "exposure": "60"},
        {"file": "data/b.fits", "role": "science", "mask": "", "filter": "", "exposure": ""},
    ]
    manifest = tmp_path / f"files.{kind}"
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    manifest.write_text("\n".join(lines) if kind == "csv" else json.dumps(rows))
    files, skipped = local.find(manifest)
    assert roles(files) == {"a": "reference", "b": "science"}
    assert (files[0].observation.filter, files[0].observation.exposure) == ("i", 60.0)
    assert files[0].companions["mask"].name == "m.fits"
    assert not skipped


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name,role\na.fits,science\n", "column 'file'"),
        ("file\n\n", "holds no FITS"),
        ("[1, 2]", "list of rows"),
        ("{", "read"),
    ],
)
def test_manifests_that_cannot_be(tmp_path, content, words):
    manifest = tmp_path / ("x.json" if content[0] in "[{" else "x.csv")
    manifest.write_text(content)
    with pytest.raises(AcquisitionError, match=words):
        local.find(manifest)


def test_a_manifest_with_a_missing_file_or_a_strange_role_skips_the_row(tmp_path):
    write_fits(tmp_path / "a.fits")
    (tmp_path / "x.csv").write_text("file,role,mask\na.fits,dark,\nb.fits,science,\na.fits,science,lost.fits\n")
    files, skipped = local.find(tmp_path / "x.csv")
    assert not files
    assert ["role must be" in s.reason for s in skipped] == [True, False, False]
    assert "lost.fits is not there" in skipped[2].reason


def test_nothing_there_is_an_error(tmp_path):
    with pytest.raises(AcquisitionError, match="no such file"):
        local.find(tmp_path / "none")
    with pytest.raises(AcquisitionError, match="holds no FITS"):
        local.find(tmp_path)


def test_search_gives_planes_a_row_and_fetch_takes_them_along(tmp_path):
    write_fits(tmp_path / "new.fits", seed=1)
    write_fits(tmp_path / "new.weight.fits", seed=2)
    write_fits(tmp_path / "far.fits", seed=3, ra=160.0)
    rows = local.search(tmp_path, position=(150.0, 2.0), radius=0.1)
    assert rows["kind"].tolist() == ["science", "weight"]
    assert rows["size"].tolist() == [(tmp_path / name).stat().st_size for name in ("new.fits", "new.weight.fits")]
    run = RunDirectory(tmp_path / "run")
    assert [path.name for path in local.fetch(rows, run)] == ["new.fits", "new.weight.fits"]
    assert run.observation("new").paths["weight"] == "source_fits/science/new.weight.fits"


def test_a_file_that_went_bad_meanwhile_is_named_and_the_others_taken(tmp_path):
    write_fits(tmp_path / "a.fits", seed=1)
    write_fits(tmp_path / "b c.fits", seed=2)
    rows = local.search(tmp_path)
    (tmp_path / "a.fits").write_text("gone")
    with pytest.raises(AcquisitionError, match="1 of 2") as caught:
        local.fetch(rows, tmp_path / "run")
    assert [path.name for path in caught.value.paths] == ["b c.fits"]
    assert caught.value.failures[0][0] == "a.fits"
