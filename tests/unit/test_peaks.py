"""What `find_peaks` accepts, refuses and returns."""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.errors import ConfigError, InputError, ShapeMismatchError
from astrid_gpu.ops import peaks as peak_ops


@pytest.fixture
def image(rng):
    return rng.normal(size=(40, 50))


def test_returns_a_sorted_table(image):
    peaks = ag.find_peaks(image, 1.0, polarity="both", backend="numpy")
    assert peaks.dtype.names == ("image", "y", "x", "value")
    assert (peaks["image"] == 0).all()
    assert np.array_equal(peaks, np.sort(peaks, order=["image", "y", "x"]))
    assert (np.abs(peaks["value"]) > 1).all()
    assert {1.0, -1.0} == set(np.sign(peaks["value"]))


def test_negative_is_the_negative_of_positive(image):
    negative = ag.find_peaks(image, 1.0, polarity="negative", min_separation=3, backend="numpy")
    positive = ag.find_peaks(-image, 1.0, min_separation=3, backend="numpy")
    np.testing.assert_array_equal(negative[["y", "x"]], positive[["y", "x"]])
    np.testing.assert_array_equal(negative["value"], -positive["value"])


def test_both_signs_are_separated_on_their_own():
    image = np.zeros((9, 9))
    image[4, 3], image[4, 5] = 9.0, -8.0
    peaks = ag.find_peaks(image, 5.0, min_separation=4, polarity="both", backend="numpy")
    assert peaks["value"].tolist() == [9.0, -8.0]


@pytest.mark.parametrize("place", [(0, 0), (0, 6), (8, 0), (8, 6), (0, 3), (4, 0)])
def test_borders_and_corners_count(backend, place):
    image = np.zeros((9, 7), np.float32)
    image[place] = 6.0
    peaks = ag.find_peaks(backend.asarray(image), 5.0, backend=backend)
    assert peaks[["y", "x"]].tolist() == [place]


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.bool_, ">f4", np.float16, np.float64])
def test_any_real_type_gives_the_same_places(dtype):
    image = np.zeros((12, 12))
    image[3, 4], image[8, 9] = 1, 1
    want = ag.find_peaks(image, 0.5, backend="numpy")
    got = ag.find_peaks(image.astype(dtype), 0.5, backend="numpy")
    np.testing.assert_array_equal(got, want)
    assert len(want) == 2


def test_float64_is_not_rounded_to_float32(backend):
    image = np.zeros((9, 9))
    image[4, 4], image[4, 5] = 1.0, 1.0 + 1e-12  # equal in float32
    peaks = ag.find_peaks(backend.asarray(image), 0.5, backend=backend)
    assert peaks[["y", "x"]].tolist() == [(4, 5)]


def test_inputs_are_not_modified(backend, image):
    data, mask = image.astype(np.float32), image > 2
    before = data.copy(), mask.copy()
    data.flags.writeable = mask.flags.writeable = False
    ag.find_peaks(backend.asarray(data), 1.0, mask=backend.asarray(mask), polarity="negative", backend=backend)
    np.testing.assert_array_equal(data, before[0])
    np.testing.assert_array_equal(mask, before[1])


def test_views_and_byte_orders(backend, image):
    want = ag.find_peaks(backend.asarray(np.ascontiguousarray(image[::2, ::-1])), 1.0, backend=backend)
    got = ag.find_peaks(backend.asarray(image)[::2, ::-1], 1.0, backend=backend)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"threshold": np.nan}, InputError, "threshold must be finite"),
        ({"threshold": [1.0, 2.0]}, ShapeMismatchError, "one per image"),
        ({"threshold": -1.0, "polarity": "both"}, InputError, "thresholds >= 0"),
        ({"polarity": "up"}, InputError, "'positive', 'negative', 'both'"),
        ({"min_separation": -1}, InputError, "distance in pixels"),
        ({"min_separation": np.inf}, InputError, "distance in pixels"),
        ({"max_peaks": -1}, InputError, "whole number"),
        ({"max_peaks": 2.5}, InputError, "whole number"),
        ({"mask": np.zeros((3, 3), bool)}, ShapeMismatchError, "mask has shape"),
        ({"images": np.zeros(5)}, ShapeMismatchError, "images must be an image"),
        ({"images": np.zeros((0, 5))}, ShapeMismatchError, "images must be an image"),
        ({"images": np.zeros((5, 5), complex)}, InputError, "real numbers"),
        ({"backend": "abacus"}, ConfigError, "no backend is called"),
    ],
)
def test_refuses_in_words(image, change, error, words):
    call = {"images": image, "threshold": 1.0, "backend": "numpy"} | change
    images, threshold = call.pop("images"), call.pop("threshold")
    with pytest.raises(error, match=words):
        ag.find_peaks(images, threshold, **call)


def test_a_bent_plateau_is_one_peak_and_a_shoulder_none():
    image = np.zeros((9, 9))
    for y, x in [(2, 2), (3, 2), (4, 2), (4, 3), (4, 4), (3, 4), (2, 4)]:  # a U: two arms reach up
        image[y, x] = 7.0
    image[7, 6], image[7, 7], image[6, 8] = 7.0, 7.0, 8.0  # level ground beside something higher
    peaks = ag.find_peaks(image, 5.0, backend="numpy")
    assert peaks[["y", "x"]].tolist() == [(2, 2), (6, 8)]


def test_ties_within_the_separation_go_to_the_first():
    image = np.zeros((5, 12))
    image[2, [1, 4, 7, 10]] = 6.0
    peaks = ag.find_peaks(image, 5.0, min_separation=3, backend="numpy")
    assert peaks["x"].tolist() == [1, 7]


def test_a_removed_peak_removes_nothing():
    found = peak_ops.Maxima(
        np.zeros(3, int), np.zeros(3, int), np.array([0, 3, 6]), np.array([9.0, 8.0, 7.0]), np.zeros(3, bool)
    )
    assert peak_ops.suppress(found, 4.0, True).tolist() == [True, False, True]


def test_no_peaks_is_an_empty_table(backend):
    assert len(ag.find_peaks(backend.asarray(np.zeros((2, 8, 8), np.float32)), 1.0, backend=backend)) == 0
