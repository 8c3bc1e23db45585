"""Growing masks from seeds, and where the True pixels are."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import label

from astrid_gpu.ops.flux import cut_windows
from astrid_gpu.ops.mask import connected, places_of


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (60, 45)])
def test_connected_is_what_labels_say(rng, shape, share):
    high, seeds = rng.random(shape) < share, rng.random(shape) < 0.01
    parts, _ = label(high | seeds, np.ones((3, 3)))
    np.testing.assert_array_equal(connected(seeds, high), np.isin(parts, parts[seeds]) & (parts > 0))


def test_connected_does_not_go_round_the_edges():
    high, seeds = np.zeros((4, 5), bool), np.zeros((4, 5), bool)
    high[:, [0, 4]] = True
    seeds[1, 4] = True
    assert connected(seeds, high).sum(axis=0).tolist() == [0, 0, 0, 0, 4]
    assert seeds.sum() == 1  # left as it was


def test_places_of(rng):
    mask = rng.random((30, 70)) < 0.05
    for got, wanted in zip(places_of(mask[2:-2, 3:-1]), np.nonzero(mask[2:-2, 3:-1]), strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("half", [0, 3, 19, 20, 35])
def test_windows_at_edges_and_larger_than_the_image(rng, half):
    image = rng.normal(size=(40, 60)).astype(np.float32)
    y, x = rng.integers(0, 40, 80), rng.integers(0, 60, 80)
    wide = np.pad(image, half, constant_values=7.0)
    got = cut_windows(image, y, x, half, 7.0)
    assert got.dtype == image.dtype
    for window, j, i in zip(got, y, x, strict=True):
        np.testing.assert_array_equal(window, wide[j : j + 2 * half + 1, i : i + 2 * half + 1])
