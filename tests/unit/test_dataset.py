"""Data sets: schema, labels, splits, and the host application's npz."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

import astrid_gpu
from astrid_gpu.dataset import object_keys, read_dataset, split_of, write_dataset
from astrid_gpu.detect import candidate_dtype
from astrid_gpu.errors import DatasetError
from astrid_gpu.results import Candidates, Cutouts

N, SIZE = 40, 21


@pytest.fixture
def candidates(rng):
    rows = np.zeros(N, candidate_dtype())
    rows["id"] = 3 * np.arange(N) + 1
    rows["x"], rows["y"] = rng.uniform(0, 4000, (2, N))
    rows["ra"], rows["dec"] = rng.uniform(149, 151, N), rng.uniform(1, 3, N)
    rows["score"], rows["flags"] = rng.normal(0, 20, N), rng.integers(0, 300, N)
    return Candidates(rows, 5.5, "peaks", {"science": "sci.fits", "bunit": "adu"})


@pytest.fixture
def cutouts(rng, candidates):
    images = rng.normal(100, 3, (N, 3, SIZE, SIZE)).astype(np.float32)
    images[0, :, 0, 0] = np.nan
    score = rng.normal(size=(N, SIZE, SIZE)).astype(np.float32)
    return Cutouts(images, score, rng.integers(0, 255, (N, SIZE, SIZE)).astype(np.uint8), candidates["id"])


def test_hdf5_schema(tmp_path, cutouts, candidates):
    path = write_dataset(tmp_path / "t.h5", cutouts, candidates, meta={"seed": 7, "config": {"size": SIZE}, "run": "a"})
    with h5py.File(path) as file:
        assert file.attrs["schema"] == "astrid-gpu.triplets/1"
        assert file.attrs["astrid_gpu_version"] == astrid_gpu.__version__
        assert (file.attrs["seed"], file.attrs["run"], file.attrs["threshold"]) == (7, "a", 5.5)
        assert json.loads(file.attrs["configuration"]) == {"size": SIZE}
        assert file.attrs["created"].startswith("20")
        assert "Zackay" in file.attrs["citation"]
        assert not file.attrs["normalised"]
        assert file.attrs["unit"] == "flux of the science image (adu)"
        assert file.attrs["science"] == "sci.fits"
        assert list(file["images"].attrs["channels"]) == ["science", "reference", "difference"]
        assert file["images"].dtype == np.float32
        np.testing.assert_array_equal(file["images"], cutouts.images)
        for name in ("score_corr", "mask"):
            np.testing.assert_array_equal(file[name], getattr(cutouts, name))
        assert file["mask"].dtype == file["anomaly_mask"].dtype == np.uint8
        assert file["anomaly_mask"].shape == (N, SIZE, SIZE)
        assert not file["anomaly_mask"][:].any()
        assert file["labels"].shape == (N,)
        assert not file["labels"]["anomaly"].any()
        assert not file["labels"]["confidence"].any()
        assert set(file["labels"]["source_type"]) == {b"unknown"}
        assert set(file["candidates"]) == set(candidates.data.dtype.names)
        np.testing.assert_array_equal(file["candidates/score"], candidates["score"])
        assert file["candidates/ra"].attrs["unit"] == "deg"
        assert set(file["split"].asstr()[:]) <= {"train", "validation", "test"}


@pytest.mark.parametrize("ending", ["h5", "hdf5", "npz"])
def test_round_trip(tmp_path, cutouts, candidates, ending):
    labels = {"anomaly": np.arange(N) % 3 - 1, "source_type": ["SN Ia"] * N, "confidence": 0.5}
    pixels = np.zeros((N, SIZE, SIZE))
    pixels[:, 10, 10] = 3
    given = {"labels": labels, "anomaly_mask": pixels, "meta": {"seed": 7}}
    path = write_dataset(tmp_path / f"t.{ending}", cutouts, candidates, **given)
    got = read_dataset(path)
    np.testing.assert_array_equal(got.images, cutouts.images)
    np.testing.assert_array_equal(got.mask, cutouts.mask)
    np.testing.assert_array_equal(got.anomaly_mask, pixels != 0)
    np.testing.assert_array_equal(got.labels["anomaly"], labels["anomaly"])
    assert set(got.labels["source_type"]) == {"SN Ia"}
    assert (got.labels["confidence"] == 0.5).all()
    assert got.candidates.dtype == candidates.data.dtype
    np.testing.assert_array_equal(got.candidates, candidates.data)
    assert got.meta["seed"] == 7
    assert got.to_candidates().threshold == 5.5
    np.testing.assert_array_equal(got.to_cutouts().score_corr, cutouts.score_corr)
    assert sum(len(got.subset(name)) for name in ("train", "validation", "test")) == N
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_npz_is_in_the_host_applications_order(tmp_path, cutouts, candidates):
    path = write_dataset(tmp_path / "t.npz", cutouts, candidates, labels=np.ones(N, int))
    with np.load(path) as file:  # no pickles needed
        assert file["channels"].tolist() == ["reference", "science", "difference"]
        assert file["images"].dtype == np.float32
        assert file["labels"].dtype == np.int32
        np.testing.assert_array_equal(file["labels"], 1)
        for channel, source in enumerate((1, 0, 2)):
            np.testing.assert_array_equal(file["images"][:, channel], cutouts.images[:, source])


def test_npz_bytes_repeat(tmp_path, cutouts, candidates):
    first = write_dataset(tmp_path / "a.npz", cutouts, candidates).read_bytes()
    assert write_dataset(tmp_path / "b.npz", cutouts, candidates).read_bytes() == first


@pytest.mark.parametrize("ending", ["h5", "npz"])
def test_empty(tmp_path, cutouts, candidates, ending):
    none = Cutouts(cutouts.images[:0], cutouts.score_corr[:0], cutouts.mask[:0], cutouts.ids[:0])
    got = read_dataset(write_dataset(tmp_path / f"t.{ending}", none, candidates[:0]))
    assert len(got) == 0
    assert got.images.shape == (0, 3, SIZE, SIZE)


@pytest.mark.parametrize("ending", ["h5", "npz"])
def test_without_candidates(tmp_path, cutouts, ending):
    got = read_dataset(write_dataset(tmp_path / f"t.{ending}", cutouts))
    assert got.candidates is None
    assert got.to_candidates() is None
    assert len(set(got.objects)) == N


def test_candidates_are_matched_by_id(tmp_path, cutouts, candidates):
    shuffled = candidates[::-1]
    some = Cutouts(cutouts.images[5:9], cutouts.score_corr[5:9], cutouts.mask[5:9], cutouts.ids[5:9])
    got = read_dataset(write_dataset(tmp_path / "t.h5", some, shuffled))
    np.testing.assert_array_equal(got.candidates, candidates.data[5:9])


def test_candidates_of_something_else(tmp_path, cutouts, candidates):
    with pytest.raises(DatasetError, match=r"no candidate has the id 1 \(39 candidates, 40 cutouts\)"):
        write_dataset(tmp_path / "t.h5", cutouts, candidates[1:])


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.ones(3), r"labels\['anomaly'\] has shape \(3,\), but there are 40"),
        (np.full(N, 2), "1 .real., 0 .not. and -1 .undecided.; got .2"),
        ({"class": 1}, "labels may have anomaly, source_type and confidence; got class"),
        ({"confidence": 1.5}, "from 0 to 1"),
    ],
)
def test_wrong_labels(tmp_path, cutouts, labels, words):
    with pytest.raises(DatasetError, match=words):
        write_dataset(tmp_path / "t.h5", cutouts, labels=labels)
    assert list(tmp_path.iterdir()) == []


def test_wrong_shapes_and_endings(tmp_path, cutouts):
    with pytest.raises(DatasetError, match="anomaly_mask has shape"):
        write_dataset(tmp_path / "t.h5", cutouts, anomaly_mask=np.zeros((N, 5, 5)))
    with pytest.raises(DatasetError, match="objects names 2 objects"):
        write_dataset(tmp_path / "t.h5", cutouts, objects=["a", "b"])
    with pytest.raises(DatasetError, match=r"written as .h5, .hdf5 or .npz"):
        write_dataset(tmp_path / "t.zarr", cutouts)


def test_a_failed_write_leaves_the_old_file(tmp_path, cutouts, candidates, monkeypatch):
    path = write_dataset(tmp_path / "t.h5", cutouts, candidates)
    before = path.read_bytes()

    def fail(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(h5py.Group, "create_group", fail)
    with pytest.raises(OSError, match="disk full"):
        write_dataset(path, cutouts, candidates)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["t.h5"]


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89HDF\r\n\x1a\nxx", b"PK\x03\x04xx"])
def test_damaged_files(tmp_path, content):
    path = tmp_path / "t.h5"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"t\.h5"):
        read_dataset(path)


def test_missing_file_and_another_schema(tmp_path):
    with pytest.raises(DatasetError, match="no such data set"):
        read_dataset(tmp_path / "t.h5")
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file.attrs["schema"] = "other/9"
    with pytest.raises(DatasetError, match="schema 'other/9'"):
        read_dataset(tmp_path / "t.h5")


# ---- splits


def test_split_fractions():
    n = 20000
    split = split_of([f"object{i}" for i in range(n)])
    for name, fraction in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
        spread = 5 * np.sqrt(n * fraction * (1 - fraction))  # binomial
        assert abs((split == name).sum() - n * fraction) < spread


def test_split_does_not_depend_on_the_others():
    keys = [f"object{i}" for i in range(100)]
    whole = dict(zip(keys, split_of(keys), strict=True))
    assert dict(zip(keys[::-3], split_of(keys[::-3]), strict=True)).items() <= whole.items()
    # SHA-256, not Python's salted hash: the same tomorrow and on another machine
    assert split_of(["SN2011fe", "SN1987A", "AT2018cow"]).tolist() == ["train", "test", "train"]


def scattered(rng, n, *, sky):
    rows = np.zeros(2 * n, candidate_dtype())
    place = rng.uniform(0, 1, (2, n))
    if sky:
        dec = -80 + 1.5 * place[0]
        ra = (359.9 + 0.2 * place[1]) % 360  # across RA 0 and near the pole
        jitter = rng.normal(0, 0.2 / 3600, (2, 2 * n))
        rows["dec"] = np.tile(dec, 2) + jitter[0]
        rows["ra"] = (np.tile(ra, 2) + jitter[1] / np.cos(np.radians(80))) % 360
    else:
        rows["ra"] = rows["dec"] = np.nan
        rows["y"], rows["x"] = np.tile(place * 20000, 2) + rng.normal(0, 0.2, (2, 2 * n))
    return rows


@pytest.mark.parametrize("sky", [True, False])
def test_two_epochs_of_one_object_fall_on_one_side(rng, sky):
    n = 300
    rows = scattered(rng, n, sky=sky)
    keys = object_keys(rows, 2 * n)
    assert keys[:n] == keys[n:]
    assert len(set(keys)) > 0.5 * n


def test_objects_by_name_win(tmp_path, cutouts, candidates):
    names = [f"SN{i % 7}" for i in range(N)]
    got = read_dataset(write_dataset(tmp_path / "t.h5", cutouts, candidates, objects=names))
    assert got.objects.tolist() == names
    for name in set(names):
        assert len(set(got.split[got.objects == name])) == 1
