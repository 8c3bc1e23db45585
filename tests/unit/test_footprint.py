"""Overlaps and separations on the sky, against what geometry says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from astrid_gpu.acquire.footprint import overlap_fraction, separation_deg


def square(ra, dec, side, *, flip=False):
    half = side / 2
    wide = half / np.cos(np.radians(dec))
    corners = [(ra - wide, dec - half), (ra + wide, dec - half), (ra + wide, dec + half), (ra - wide, dec + half)]
    return corners[::-1] if flip else corners


@given(st.floats(0, 360), st.floats(-80, 80), st.floats(0.01, 1), st.booleans())
def test_a_footprint_covers_itself(ra, dec, side, flip):
    assert overlap_fraction(square(ra, dec, side), square(ra, dec, side, flip=flip)) == pytest.approx(1, abs=1e-6)


@given(st.floats(0, 360), st.floats(-0.5, 0.5), st.floats(-1.5, 1.5), st.floats(-1.5, 1.5))
def test_shifted_squares_near_the_equator(ra, dec, dx, dy):
    side = 0.1
    expected = max(0, 1 - abs(dx)) * max(0, 1 - abs(dy))
    got = overlap_fraction(square(ra, dec, side), square(ra + dx * side, dec + dy * side, side))
    assert got == pytest.approx(expected, abs=2e-3)


def test_the_part_is_of_the_first():
    assert overlap_fraction(square(10, 0, 0.2), square(10, 0, 0.1)) == pytest.approx(0.25, rel=1e-3)
    assert overlap_fraction(square(10, 0, 0.1), square(10, 0, 0.2)) == 1


def test_across_the_meridian_the_pole_and_the_other_side():
    assert overlap_fraction(square(359.99, 0, 0.1), square(0.01, 0, 0.1)) == pytest.approx(0.8, abs=1e-3)
    cap = [(0, 89.9), (90, 89.9), (180, 89.9), (270, 89.9)]
    assert overlap_fraction(cap, [(a + 45, d) for a, d in cap]) == pytest.approx(2 * (np.sqrt(2) - 1), abs=1e-3)
    assert overlap_fraction(square(0, 0, 1), square(180, 0, 1)) == 0


@given(st.floats(0, 360), st.floats(-90, 90), st.floats(0, 360), st.floats(-90, 90))
def test_separation_is_that_of_astropy(ra1, dec1, ra2, dec2):
    from astropy.coordinates import angular_separation

    expected = np.degrees(angular_separation(*np.radians([ra1, dec1, ra2, dec2])))
    assert separation_deg(ra1, dec1, ra2, dec2) == pytest.approx(expected, abs=1e-6)
