"""`cutouts`: what is cut, from where, and what lies beyond the frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.errors import InputError, ShapeMismatchError
from astrid_gpu.flags import PixelFlag
from astrid_gpu.ops.psf_stamps import gaussian_stamp
from tests.hand_made import hand_made, stacked

PSF = gaussian_stamp(3.0, 21)
SOURCES = [(30.2, 40.4, 30.0), (1.0, 2.0, 50.0), (60.6, 79.0, -40.0)]


def make(rng, sources=SOURCES, **kw):
    diff = hand_made(rng, PSF, sources, shape=(64, 80), **kw)
    sky = rng.normal(size=(2, 64, 80)).astype(diff.difference.dtype)
    return replace(diff, science=sky[0], reference=sky[1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 3, 11, 63])
def test_triplets_are_slices(rng, backend, size, dtype):
    diff = make(rng, dtype=dtype)
    cands = ag.detect(diff, 8.0, backend="numpy")
    names = ("science", "reference", "difference", "score_corr", "mask", "flux", "flux_error")
    moved = replace(diff, **{k: backend.asarray(getattr(diff, k)) for k in names})
    cuts = ag.cutouts(moved, cands, size, backend=backend)
    assert cuts.images.shape == (len(cands), 3, size, size)
    assert cuts.images.dtype == dtype
    assert (cuts.mask.dtype, cuts.size, len(cuts)) == (np.uint8, size, len(cands))
    np.testing.assert_array_equal(cuts.ids, cands["id"])
    half = size // 2
    for k, row in enumerate(cands.data):
        y, x = int(np.floor(row["y"] + 0.5)), int(np.floor(row["x"] + 0.5))
        for got, plane in zip(
            [*cuts.images[k], cuts.score_corr[k]], [diff.science, diff.reference, diff.difference, diff.score_corr],
            strict=True,
        ):  # fmt: skip
            padded = np.pad(plane, half, constant_values=np.nan)
            np.testing.assert_array_equal(got, padded[y : y + size, x : x + size])
        outside = np.pad(np.zeros(diff.shape, bool), half, constant_values=True)[y : y + size, x : x + size]
        np.testing.assert_array_equal(cuts.mask[k] == PixelFlag.NO_DATA, outside)
        np.testing.assert_array_equal(np.isnan(cuts.images[k, 0]), outside)


def test_a_stack_with_a_shared_reference(rng, backend):
    diffs = [make(rng, dtype=np.float32), make(rng, SOURCES[:1], dtype=np.float32)]
    stack = stacked(diffs)
    cands = ag.detect(stack, 8.0, backend="numpy")
    shared = replace(stack, reference=diffs[0].reference, mask=stack.mask[:1])
    cuts = ag.cutouts(shared, cands, 9, backend=backend)
    for i, diff in enumerate(diffs):
        rows = cands["image"] == i
        mine = cands[rows]
        mine.data["image"] = 0
        one = ag.cutouts(replace(diff, reference=diffs[0].reference), mine, 9, backend="numpy")
        np.testing.assert_array_equal(cuts.images[rows], one.images)
        np.testing.assert_array_equal(cuts.mask[rows], one.mask)
        np.testing.assert_array_equal(cuts.ids[rows], one.ids)


def test_no_candidates_no_score_no_mask(rng):
    diff = make(rng, sources=())
    cands = ag.detect(diff, 50.0, backend="numpy")
    cuts = ag.cutouts(replace(diff, score_corr=None, mask=None), cands, 7, backend="numpy")
    assert cuts.images.shape == (0, 3, 7, 7)
    cands = ag.detect(make(rng), 8.0, backend="numpy")
    cuts = ag.cutouts(replace(make(rng), score_corr=None, mask=None), cands, 7, backend="numpy")
    assert np.isnan(cuts.score_corr).all()
    assert set(np.unique(cuts.mask)) == {0, int(PixelFlag.NO_DATA)}
    assert "triplets of 7x7 px" in repr(cuts)


@pytest.mark.parametrize(
    ("change", "size", "error", "words"),
    [
        ({}, 62, InputError, "odd"),
        ({}, -3, InputError, "odd"),
        ({}, 7.5, InputError, "odd"),
        ({"science": None}, 7, InputError, "holds no science image"),
        ({"reference": None}, 7, InputError, "holds no reference image"),
        ({"science": np.zeros((3, 3))}, 7, ShapeMismatchError, "science has shape"),
        ({"mask": np.zeros((3, 3), np.uint8)}, 7, ShapeMismatchError, "mask has shape"),
    ],
)
def test_refuses_in_words(rng, change, size, error, words):
    diff = make(rng)
    cands = ag.detect(diff, 8.0, backend="numpy")
    with pytest.raises(error, match=words):
        ag.cutouts(replace(diff, **change), cands, size, backend="numpy")


def test_candidates_of_another_difference_are_refused(rng):
    diffs = [make(rng), make(rng)]
    single, both = ag.detect(diffs[0], 8.0, backend="numpy"), ag.detect(stacked(diffs), 8.0, backend="numpy")
    with pytest.raises(InputError, match="do not say which"):
        ag.cutouts(stacked(diffs), single, 7, backend="numpy")
    with pytest.raises(InputError, match="has images 0 to 0"):
        ag.cutouts(diffs[0], both, 7, backend="numpy")
    broken = single.data.copy()
    broken["x"][0] = np.nan
    with pytest.raises(InputError, match="no finite position"):
        ag.cutouts(diffs[0], replace(single, data=broken), 7, backend="numpy")


def test_the_reference_comes_in_science_units(rng):
    diff = make(rng)
    cands = ag.detect(diff, 8.0, backend="numpy")
    plain = ag.cutouts(diff, cands, 9)
    scaled = ag.cutouts(replace(diff, metrics={"flux_ratio": 1.7}), cands, 9)
    np.testing.assert_allclose(scaled.images[:, 1], 1.7 * plain.images[:, 1])
    np.testing.assert_array_equal(scaled.images[:, [0, 2]], plain.images[:, [0, 2]])
