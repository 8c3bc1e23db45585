"""A run's directory: what goes where, and that nothing taken in is lost or taken for something else."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from astrid_gpu.acquire.directory import FOLDERS, RunDirectory
from astrid_gpu.acquire.record import Observation
from astrid_gpu.errors import DatasetError, FitsError, InputError
from tests.fits_files import write_fits


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "run")


def test_a_run_has_the_folders_of_the_plan(run):
    assert all((run.root / name).is_dir() for name in FOLDERS)
    assert run.source_folder("science") == run.root / "source_fits/science"
    with pytest.raises(InputError, match="no folder 'images'"):
        run.folder("images")
    with pytest.raises(InputError, match="role must be one of"):
        run.source_folder("flat")


def test_a_file_is_no_run_and_neither_is_any_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        RunDirectory(tmp_path / "file")
    with pytest.raises(InputError, match="is no run"):
        RunDirectory(tmp_path, create=False)


def test_a_file_is_taken_in_with_what_its_header_says(run, tmp_path):
    file = write_fits(tmp_path / "a.fits", seed=1, MJD=59000.5)
    mask = write_fits(tmp_path / "a.mask.fits", seed=2)
    taken = run.add(file, "science", companions={"mask": mask}, source={"adapter": "local"}, survey="ZTF")
    assert taken == run.observation("a")
    assert taken.done("acquired")
    assert (taken.mjd, taken.band, taken.survey, taken.shape) == (59000.5, "r", "ZTF", (48, 64))
    assert taken.ra == pytest.approx(150.0, abs=1e-3)
    assert taken.pixel_scale == pytest.approx(1.0, rel=1e-3)
    assert taken.radius == pytest.approx(np.hypot(23.5, 31.5) / 3600, rel=1e-2)
    assert taken.paths == {"source": "source_fits/science/a.fits", "mask": "source_fits/science/a.mask.fits"}
    assert run.path(taken.paths["source"]).read_bytes() == file.read_bytes()
    assert set(taken.source) == {"adapter", "size", "sha256"}
    assert "1 science, 0 reference" in repr(run)


def test_taken_in_twice_it_is_one_and_keeps_its_status(run, tmp_path):
    file = write_fits(tmp_path / "a.fits", seed=1)
    run.write(run.add(file, "science").advance("aligned"))
    assert run.add(file, "science").done("aligned")
    assert len(list(run.observations())) == 1
    other = write_fits(tmp_path / "elsewhere" / "a.fits", seed=2)
    with pytest.raises(InputError, match="in the run already as a science image"):
        run.add(other, "science")
    named = run.add(other, "science", observation_id="another")
    assert named.paths["source"] != "source_fits/science/a.fits"
    assert run.path("source_fits/science/a.fits").read_bytes() == file.read_bytes()


def test_a_damaged_file_is_refused_and_nothing_is_taken_in(run, tmp_path):
    file = write_fits(tmp_path / "a.fits", seed=1)
    file.write_bytes(file.read_bytes()[:4000])
    with pytest.raises(FitsError, match="truncated"):
        run.add(file, "science")
    assert not list(run.observations())
    assert not list(run.source_folder("science").iterdir())


def test_moved_or_left_where_it_is(run, tmp_path):
    file = write_fits(tmp_path / "a.fits", seed=1)
    run.add(file, "reference", copy=False)
    assert not file.exists()
    inside = run.source_folder("science") / "b.fits"
    shutil.copyfile(run.path("source_fits/reference/a.fits"), inside)
    assert run.add(inside, "science").paths["source"] == "source_fits/science/b.fits"
    assert inside.exists()


def test_differences_are_known_to_both(run, tmp_path):
    for name, role in (("new", "science"), ("old", "reference")):
        run.add(write_fits(tmp_path / f"{name}.fits", seed=len(role)), role)
    path = run.folder("differences/zogy") / "new.fits"
    path.write_bytes(b"")
    run.link_difference("zogy", "new", "old", path)
    run.link_difference("zogy", "new", "old", path)  # once is enough
    expected = [{"method": "zogy", "science": "new", "reference": "old", "path": "differences/zogy/new.fits"}]
    assert run.observation("new").differences == run.observation("old").differences == expected
    assert run.observation("new").references == ["old"]
    with pytest.raises(DatasetError, match="cannot be read"):
        run.link_difference("zogy", "new", "lost", path)


def test_paths_do_not_lead_out_of_a_run(run, tmp_path):
    with pytest.raises(DatasetError, match="leads out"):
        run.path("../../etc/passwd")
    with pytest.raises(InputError, match="is not in the run"):
        run.relative(tmp_path / "x.fits")


def test_known_fields_win_over_the_header(run, tmp_path):
    file = write_fits(tmp_path / "a.fits", seed=1)
    taken = run.add(file, "science", filter="i", mjd=None)
    assert (taken.filter, taken.mjd) == ("i", 59000.0)
    with pytest.raises(InputError, match="no field colour"):
        run.add(file, "science", colour="red")


def test_ids_of_any_kind_have_a_record(run, tmp_path):
    file = write_fits(tmp_path / "a.fits", seed=1)
    run.add(file, "science", observation_id="mast:HST/product/x")
    assert isinstance(run.observation("mast:HST/product/x"), Observation)
