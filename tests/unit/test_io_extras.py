"""A package that is missing is named with what it is for and how to get it."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from astrid_gpu.dataset import write_dataset
from astrid_gpu.io import read_image, write_difference
from astrid_gpu.report import summary_figure
from astrid_gpu.results import Cutouts, Difference

DIFF = Difference(np.zeros((5, 5)), score_corr=np.zeros((5, 5)))
NONE = Cutouts(np.zeros((0, 3, 5, 5)), np.zeros((0, 5, 5)), np.zeros((0, 5, 5), np.uint8), np.zeros(0, int))


@pytest.mark.parametrize(
    ("module", "extra", "call"),
    [
        ("astropy", "fits", lambda folder: read_image(folder / "a.fits")),
        ("astropy", "fits", lambda folder: write_difference(DIFF, folder / "a.fits")),
        ("h5py", "fits", lambda folder: write_dataset(folder / "a.h5", NONE)),
        ("matplotlib", "report", lambda folder: summary_figure(DIFF, None, folder / "a.png")),
    ],
)
def test_missing_package(tmp_path, monkeypatch, module, extra, call):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"needs {module}, .*pip install 'astrid-gpu\[{extra}\]'"):
        call(tmp_path)
    assert list(tmp_path.iterdir()) == []
