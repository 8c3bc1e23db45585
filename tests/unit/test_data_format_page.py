"""docs/data-format.md tells every extension, keyword, column and flag, and its example runs."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from astrid_gpu.dataset import write_dataset
from astrid_gpu.flags import describe
from astrid_gpu.io.difference import _METRICS, _SCIENCE, EXTENSIONS
from astrid_gpu.io.tables import COLUMNS
from astrid_gpu.results import Cutouts

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data-format.md").read_text(encoding="utf-8")
WORDS = set(re.findall(r"[A-Za-z_0-9-]+", PAGE))


@pytest.mark.parametrize("name", [*EXTENSIONS, *(row[0] for row in (*_METRICS, *_SCIENCE)), *COLUMNS])
def test_named(name):
    assert name in WORDS


def test_flags_are_those_of_the_code():
    for info in describe():
        line = rf"^\| {info.bit} \| {info.name} \|.*\| {re.escape(info.meaning)} \|$"
        assert re.search(line, PAGE, re.MULTILINE), info.name


def test_example_runs(tmp_path, monkeypatch, rng):
    monkeypatch.chdir(tmp_path)
    cuts = Cutouts(rng.normal(size=(9, 3, 5, 5)), np.zeros((9, 5, 5)), np.zeros((9, 5, 5), np.uint8), np.arange(9))
    write_dataset("triplets.h5", cuts)
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]
    names = {}
    exec(code, names)
    assert names["images"].shape[1:] == (3, 5, 5)
    assert len(names["labels"]) == len(names["weight"]) == len(names["images"]) == names["train"].sum()


def test_every_dataset_is_told(tmp_path):
    none = Cutouts(np.zeros((0, 3, 5, 5)), np.zeros((0, 5, 5)), np.zeros((0, 5, 5), np.uint8), np.zeros(0, int))
    with h5py.File(write_dataset(tmp_path / "t.h5", none)) as file:
        for name in [*file, *file.attrs]:
            assert name in WORDS
    with np.load(write_dataset(tmp_path / "t.npz", none)) as file:
        for name in file.files:
            assert name in WORDS
