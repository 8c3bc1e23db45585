"""`detect` on real pairs with known answers (their story: PROVENANCE.md beside the data)."""

from __future__ import annotations

import numpy as np

import astrid_gpu as ag
from astrid_gpu.flags import decode


def at(cands, x, y, within=3.0):
    """The candidate at a place known to be something, and the words of its flags."""
    distance = np.hypot(cands["x"] - x, cands["y"] - y)
    assert distance.min() < within, f"nothing at x {x}, y {y}"
    row = cands.data[np.argmin(distance)]
    return row, decode(row["flags"])


def test_cosmic_rays_and_hot_pixels_of_a_null_pair(data_dir):
    """Two exposures 74 s apart: all three known defects are found with their sign and called sharp."""
    folder = data_dir / "pairs" / "eso085-030"
    diff = ag.subtract(folder / "aligned_eso085-030-004.fit", folder / "aligned_eso085-030-005.fit", backend="numba")
    cands = ag.detect(diff, 6.0)
    for x, y, sign in [(192, 90, 1), (547, 588, 1), (830, 605, -1)]:
        row, flags = at(cands, x, y)
        assert row["polarity"] == sign
        assert "SHARP" in flags
    # Nothing happened in the field: away from the edge hardly anything looks like a star.
    clean = cands.data[(cands["flags"] == 0) & (cands["edge_distance"] > 10)]
    assert len(clean) <= 3


def test_a_microlensing_event_in_a_crowded_field(data_dir):
    """The brightening that is 105 sigma in a PSF-matched difference: the strongest candidate, a clean point source."""
    folder = data_dir / "pairs" / "saao_kb13475"
    diff = ag.subtract(folder / "AKB13475I0100.fits", folder / "AKB13475I0007.fits", backend="numba")
    cands = ag.detect(diff, 6.0)
    strongest = cands.data[np.argmax(np.abs(cands["score"]))]
    assert np.hypot(strongest["x"] - 288, strongest["y"] - 215) < 2
    assert strongest["polarity"] == 1
    assert decode(strongest["flags"]) == []
    trips = ag.cutouts(diff, cands, 63)
    assert trips.images.shape == (len(cands), 3, 63, 63)
    middle = trips.images[cands["id"] == strongest["id"]][0, 2, 28:35, 28:35]
    assert np.nanargmax(middle) in range(16, 33)  # the brightening sits in the middle of its own cutout
