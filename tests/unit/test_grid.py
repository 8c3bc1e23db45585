"""Whose grid the result has: the science image's, or the reference's."""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.errors import ConfigError
from astrid_gpu.flags import PixelFlag

pytest.importorskip("astropy", reason="a WCS needs astropy")


@pytest.fixture(scope="module")
def cut():
    """A simulated pair whose reference lost its first 12 rows and 7 columns, WCS and all."""
    pair = ag.simulate.pair(seed=5, shape=(220, 230))
    y, x = 12, 7
    reference = pair.reference.with_(
        data=pair.reference.data[y:, x:],
        wcs=pair.reference.wcs[y:, x:],
        mask=None if pair.reference.mask is None else pair.reference.mask[y:, x:],
    )
    return pair, reference, (y, x)


@pytest.mark.parametrize("grid", ["science", "reference"])
def test_shape_wcs_and_places_are_those_of_the_grid(cut, grid):
    pair, reference, (y, x) = cut
    diff = ag.subtract(pair.science, reference, grid=grid)
    owner = pair.science if grid == "science" else reference
    assert diff.shape == owner.shape
    np.testing.assert_allclose(diff.wcs.wcs.crpix, owner.wcs.wcs.crpix)
    candidates = ag.detect(diff)
    dy, dx = (0, 0) if grid == "science" else (y, x)
    strong = pair.truth[np.abs(pair.truth["snr"]) > 15]
    found = 0
    for source in strong:
        at = round(source["y"]) - dy, round(source["x"]) - dx
        inside = 4 <= at[0] < diff.shape[0] - 4 and 4 <= at[1] < diff.shape[1] - 4
        if not inside or diff.mask[at] & 127:
            continue
        distance = np.hypot(candidates["x"] - (source["x"] - dx), candidates["y"] - (source["y"] - dy))
        assert distance.min() < 1
        assert candidates["polarity"][np.argmin(distance)] == source["polarity"]
        found += 1
    assert found >= 3


def test_what_the_other_image_does_not_cover_is_flagged(cut):
    pair, reference, (y, x) = cut
    lost = (ag.subtract(pair.science, reference, grid="science").mask & int(PixelFlag.NO_DATA)) != 0
    assert lost[:y].all()
    assert lost[:, :x].all()
    assert not lost[y + 1 :, x + 1 :].any()
    assert not (ag.subtract(pair.science, reference, grid="reference").mask & int(PixelFlag.NO_DATA)).any()


def test_fluxes_are_the_science_images_either_way(cut):
    pair, reference, _ = cut
    ratios = [
        ag.subtract(pair.science, reference, grid=grid).metrics["flux_ratio"] for grid in ("science", "reference")
    ]
    assert ratios[0] == pytest.approx(ratios[1], rel=0.01)


def test_an_unknown_grid_is_refused(cut):
    with pytest.raises(ConfigError, match="grid must be one of 'science', 'reference'; got 'both'"):
        ag.subtract(cut[0].science, cut[1], grid="both")
