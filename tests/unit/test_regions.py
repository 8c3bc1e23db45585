"""Where to look: built-in targets, positions in any form, and the warning near the galactic plane."""

from __future__ import annotations

import pytest

from astrid_gpu.acquire.regions import REGIONS, Region, region, resolve
from astrid_gpu.errors import InputError

SkyCoord = pytest.importorskip("astropy.coordinates", reason="positions").SkyCoord


@pytest.mark.parametrize("name", ["SN 2011fe", "sn2011fe", "M 101", "cosmos", "GOODS-N", "goods_n"])
def test_targets_of_the_plan_are_built_in(name):
    found = region(name)
    assert found in REGIONS.values()
    assert resolve(name).separation(SkyCoord(found.ra, found.dec, unit="deg")).arcsec < 1e-6
    assert not found.warning


def test_the_supernova_lies_in_its_galaxy():
    apart = resolve("SN 2011fe").separation(resolve("M101"))
    assert 1 < apart.arcmin < 10


def test_any_position_is_a_region():
    assert region((10.0, 20.0)) == Region("10.00000 +20.00000", 10.0, 20.0, 0.1)
    assert region("10 20", "30 arcmin").radius == 0.5
    assert region("COSMOS", 0.2).radius == 0.2
    assert region(REGIONS["M101"]) is REGIONS["M101"]
    assert region(SkyCoord(10, 20, unit="deg")).ra == pytest.approx(10)
    with pytest.raises(InputError, match="radius"):
        region("COSMOS", -1)


def test_the_plane_of_the_milky_way_is_warned_about():
    plane = region("266.4 -29.0")
    assert abs(plane.galactic_latitude) < 1
    assert "galactic latitude -0.0" in plane.warning
    assert "10 degrees" in plane.warning
