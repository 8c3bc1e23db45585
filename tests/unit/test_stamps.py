"""`gather_stamps` where a padded slice is not the question: places beyond the frame and the reference's types."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu.ops.stamps import gather_stamps


def test_middle_pixel_is_the_place():
    image = np.arange(63.0).reshape(1, 7, 9)
    got = gather_stamps(image, np.array([0]), np.array([3]), np.array([5]), 3, np.nan)
    np.testing.assert_array_equal(got[0], image[0, 2:5, 4:7])


@pytest.mark.parametrize("place", [(-10, 4), (4, -10), (4, 40), (40, 4), (10**9, -(10**9))])
def test_a_window_wholly_outside_is_all_fill(place):
    got = gather_stamps(np.ones((1, 7, 9)), np.array([0]), *(np.array([p]) for p in place), 5, -7.0)
    assert (got == -7).all()


def test_input_is_not_modified_and_output_is_a_copy():
    image = np.ones((1, 5, 5))
    got = gather_stamps(image, np.array([0]), np.array([2]), np.array([2]), 3, 0.0)
    got[:] = 9
    assert (image == 1).all()
