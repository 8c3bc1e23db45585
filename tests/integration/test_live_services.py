"""The live services. Run with ``pytest -m remote`` on a machine with a network; nothing here has run in CI.

Small questions only: a few hundred kilobytes each.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

pytest.importorskip("astroquery", reason="acquisition needs the extra: pip install 'astrid-gpu[acquire]'")

import astrid_gpu as ag
from astrid_gpu.acquire.observations import as_rows

pytestmark = pytest.mark.remote

M101 = (210.80227, 54.34895)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ASTRID_GPU_CACHE", str(tmp_path / "cache"))


def test_mast():
    table = ag.acquire.mast.search(M101, 0.01, missions="HST", filters="F814W", limit=3)
    assert len(table)
    assert {row["survey"] for row in as_rows(table)} == {"HST"}
    assert len(ag.acquire.mast.products(table[:1])) >= 1


def test_mast_download(tmp_path):
    """A small one: a preview-sized GALEX intensity map would be 40 MB, a WFPC2 exposure is 10."""
    table = ag.acquire.mast.search(M101, 0.05, missions="HST", instruments="WFPC2/WFC", limit=1)
    (path, *_) = ag.acquire.fetch(table, tmp_path)
    assert ag.read_image(path).data.size


def test_tesscut(tmp_path):
    table = ag.acquire.tesscut.search((107.27, -70.0), size=5)
    (path,) = ag.acquire.fetch(table[:1], tmp_path)
    series = ag.acquire.tesscut.frames(path)
    assert len(series) > 500
    assert series[0].shape == (5, 5)


def test_ps1(tmp_path):
    images = ag.acquire.ps1.cutouts(M101, size=120, filters="gr", folder=tmp_path)
    assert [image.meta["filter"] for image in images] == ["g", "r"]
    for image in images:
        assert image.shape == (120, 120)
        assert image.zero_point is not None
        assert image.variance is not None
        assert image.mask is not None
        middle = image.wcs.pixel_to_world(59.5, 59.5)
        assert (middle.ra.deg, middle.dec.deg) == pytest.approx(M101, abs=1e-3)


def test_ps1_cutouts_are_linear(tmp_path):
    """A cutout of a skycell equals the service's own: the scaling was undone by it, not by us, exactly once."""
    (image,) = ag.acquire.ps1.cutouts(M101, size=60, filters="i", folder=tmp_path)
    assert "BSOFTEN" not in image.meta["header"]
    assert np.nanmax(image.data) > 50  # asinh magnitudes would end near 10


def test_skyview(tmp_path):
    found = ag.acquire.skyview.library(M101, run=tmp_path, surveys=["DSS2 Red", "2MASS-J"], pixels=100, pixel_scale=2.0)
    assert list(found) == ["DSS2 Red", "2MASS-J"]
    assert all(ag.read_image(path).shape == (100, 100) for path in found.values())


def test_name_of_an_object():
    assert ag.acquire.resolve("NGC 5457").separation(ag.acquire.resolve(M101)).arcmin < 1


def test_ztf(tmp_path):
    table = ag.acquire.ztf.search(M101, limit=1, size=60, products=("science", "mask", "reference"))
    science, mask, reference = ag.acquire.fetch(table, ag.acquire.RunDirectory(tmp_path / "run"))
    assert ag.read_image(science, mask=mask).shape == ag.read_image(reference).shape
    roles = [o.role for o in ag.acquire.RunDirectory(tmp_path / "run").observations()]
    assert sorted(roles) == ["reference", "science"]


@pytest.mark.parametrize("broker", ["alerce", "fink"])
def test_brokers_without_credentials(broker):
    module = getattr(ag.acquire.brokers, broker)
    (row,) = module.search(object_id="ZTF18abcgqmz")
    assert row["ra"].value == pytest.approx(279.905, abs=1e-3)
    assert len(module.light_curve("ZTF18abcgqmz")) >= 2
    assert module.alert("ZTF18abcgqmz").stamps
    assert module.labels("ZTF18abcgqmz").colnames == ["classifier", "class_name", "probability"]


@pytest.mark.parametrize(
    ("broker", "variables"),
    [("lasair", ("LASAIR_TOKEN",)), ("boom", ("BOOM_TOKEN", "BOOM_USERNAME")),
     ("kowalski", ("KOWALSKI_TOKEN", "KOWALSKI_USERNAME"))],
)  # fmt: skip
def test_brokers_with_credentials(broker, variables):
    if not any(os.environ.get(name) for name in variables):
        pytest.skip(f"none of {', '.join(variables)} is set")
    table = getattr(ag.acquire.brokers, broker).search(position=(279.905, -4.871), radius="5 arcsec")
    assert "ZTF18abcgqmz" in list(table["object_id"])
