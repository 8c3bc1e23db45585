"""The demonstration end to end, quick version: files are whole, numbers agree with the truth within their noise."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

pytest.importorskip("astropy")
pytest.importorskip("h5py")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """One run of the quick demo, the lines of progress it told, and its folder."""
    from astrid_gpu.demo import run_demo

    told: list[str] = []
    result = run_demo(tmp_path_factory.mktemp("demo"), quick=True, progress=told.append)
    return result, told


def test_every_file_is_there_and_readable(demo):
    from astropy.io import fits
    from astropy.table import Table

    result, _ = demo
    folder = result.output
    with fits.open(folder / "source_fits" / "reference" / "reference.fits") as hdus:
        assert hdus[0].data.shape == result.shape
        assert "not a real image" in hdus[0].header["ORIGIN"]
    for row in result.epochs:
        here = folder / "epochs" / f"{row['epoch']:02d}"
        names = {path.name for path in here.iterdir()}
        wanted = {"difference.fits", "candidates.csv", "candidates.ecsv", "triplets.h5", "triplets.npz", "summary.png"}
        assert wanted <= names
        assert len(Table.read(here / "candidates.ecsv", format="ascii.ecsv")) == row["candidates"]
        with fits.open(here / "difference.fits") as hdus:
            assert hdus["SCORECORR"].data.shape == result.shape
    assert all(path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for path in result.pictures)
    assert len(result.pictures) == len(result.epochs) + 1
    assert not list(folder.rglob(".*")), "a temporary file was left behind"


def test_bright_sources_are_all_recovered(demo):
    """At an expected S/N of 10 a miss at threshold 5 is a 5-sigma event: none among some tens of sources."""
    result, _ = demo
    bright = [row for row in result.summary["completeness"] if row["low"] >= 10]
    assert sum(row["number"] for row in bright) >= 10
    for row in bright:
        assert row["recovered"] == row["number"]


def test_false_positives_are_few(demo):
    """Not more than Gaussian noise makes, by 4 of its standard deviations and one."""
    result, _ = demo
    false = result.summary["false"]
    assert 0 < false["expected"] < 1  # half a million pixels
    assert false["count"] <= false["expected"] + 4 * np.sqrt(false["expected"]) + 1


def test_fluxes_are_unbiased_and_their_errors_true(demo):
    """Pulls of n sources: median 0 within 4 * 1.25 / sqrt(n), width 1 within 4 / sqrt(2 n) plus that of the truth."""
    result, _ = demo
    flux = result.summary["flux"]
    n = flux["n_pull"]
    assert n >= 10
    assert abs(flux["pull_median"]) < 4 * 1.25 / np.sqrt(n)
    assert 1 - 4 / np.sqrt(2 * n) < flux["pull_width"] < 1 + 4 / np.sqrt(2 * n)


def test_forced_light_curves_scatter_as_their_errors_say(demo):
    """Every object in every epoch, detected or not: chi-squared per point within 5 sqrt(2 / n) of 1, plus 30 %.

    The 30 % are for objects on galaxies and beside stars, whose flux error leaves the PSF's own error out.
    """
    result, _ = demo
    with (result.output / "light_curves.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    measured = [row for row in rows if row["flux"] != "nan"]
    n = len(measured)
    assert n > 0.8 * len(rows)
    pulls = [(float(r["flux"]) - float(r["flux_true"])) / float(r["flux_error"]) for r in measured]
    assert np.mean(np.square(pulls)) < 1.3 + 5 * np.sqrt(2 / n)
    assert np.mean(np.square(pulls)) > 1 - 5 * np.sqrt(2 / n)


def test_report_tells_the_same_as_the_json(demo):
    result, told = demo
    stored = json.loads((result.output / "demo.json").read_text())
    assert stored == result.to_dict()
    text = str(result)
    for words in ("expected S/N", "false positives", "overview.png", result.backend):
        assert words in text
    assert any("epoch  3 of 3" in line for line in told)


def test_truth_tables_are_beside_the_images(demo):
    result, _ = demo
    for row in result.epochs:
        with (result.output / "truth" / f"{row['epoch']:02d}.csv").open() as stream:
            truth = list(csv.DictReader(stream))
        assert len(truth) == result.n_objects
        assert {"x", "y", "ra", "dec", "kind", "flux", "snr", "polarity"} <= set(truth[0])
