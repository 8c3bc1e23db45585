"""Properties of `find_peaks` for any image: hypothesis looks for one that breaks them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import astrid_gpu as ag

# Few levels make plateaus and ties; NaN and infinities come along.
LEVELS = st.sampled_from([0.0, 1.0, 2.0, 3.0, -3.0, np.nan, np.inf, -np.inf])
IMAGES = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14), elements=LEVELS)
STACKS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=9), elements=LEVELS)
BACKENDS = ["numpy", "numba"]
QUICK = settings(max_examples=60, deadline=None)


def rows(peaks):
    return set(peaks[["y", "x"]].tolist())


def find(image, threshold=0.5, backend="numpy", **kw):
    return ag.find_peaks(image, threshold, backend=backend, **kw)


@pytest.mark.parametrize("backend", BACKENDS)
@QUICK
@given(image=IMAGES, dy=st.integers(0, 5), dx=st.integers(0, 5), r=st.sampled_from([1, 2, 3.5]))
def test_shift_covariance(backend, image, dy, dx, r):
    """Moved into a larger frame of masked pixels, the peaks move along."""
    frame = np.full((image.shape[0] + 6, image.shape[1] + 7), np.nan, np.float32)
    frame[dy : dy + image.shape[0], dx : dx + image.shape[1]] = image
    here = find(image, backend=backend, polarity="both", min_separation=r)
    there = find(frame, backend=backend, polarity="both", min_separation=r)
    assert rows(there) == {(y + dy, x + dx) for y, x in rows(here)}


@pytest.mark.parametrize("backend", BACKENDS)
@QUICK
@given(stack=STACKS, r=st.sampled_from([1, 2.5]), most=st.sampled_from([None, 1, 3]))
def test_batch_equals_loop(backend, stack, r, most):
    batch = find(stack, backend=backend, polarity="both", min_separation=r, max_peaks=most)
    for i, image in enumerate(stack):
        one = find(image, backend=backend, polarity="both", min_separation=r, max_peaks=most)
        mine = batch[batch["image"] == i]
        np.testing.assert_array_equal(mine[["y", "x", "value"]], one[["y", "x", "value"]])


@QUICK
@given(stack=STACKS, r=st.sampled_from([1, 2, 4]))
def test_backends_agree(stack, r):
    a, b = (find(stack, backend=name, polarity="both", min_separation=r) for name in BACKENDS)
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
@QUICK
@given(data=st.data(), image=IMAGES)
def test_mask_monotonicity(backend, data, image):
    """Masking more makes no peak except beside a newly masked pixel or on a plateau that it cut."""
    mask = data.draw(hnp.arrays(np.bool_, image.shape))
    before, after = find(image, backend=backend), find(image, backend=backend, mask=mask)
    assert not any(mask[p] for p in rows(after))
    for y, x in rows(after) - rows(before):
        level, seen, front, touched = image[y, x], {(y, x)}, [(y, x)], False
        while front:
            j, i = front.pop()
            window = [(a, b) for a in range(max(j - 1, 0), j + 2) for b in range(max(i - 1, 0), i + 2)]
            for q in (q for q in window if q[0] < image.shape[0] and q[1] < image.shape[1] and q not in seen):
                seen.add(q)
                touched |= bool(mask[q])
                if image[q] == level and not mask[q]:
                    front.append(q)
        assert touched


@pytest.mark.parametrize("backend", BACKENDS)
@QUICK
@given(image=IMAGES, r=st.sampled_from([1, 2, 3.5, 6]))
def test_separation_is_maximal(backend, image, r):
    """Kept peaks of one sign lie further apart than r, and each dropped one has a kept, stronger one within r."""
    every = find(image, backend=backend, polarity="both")
    kept = find(image, backend=backend, polarity="both", min_separation=r)
    assert rows(kept) <= rows(every)
    for p in every:
        near = kept[
            (np.sign(kept["value"]) == np.sign(p["value"]))
            & ((kept["y"] - p["y"]) ** 2 + (kept["x"] - p["x"]) ** 2 <= max(r, 1) ** 2)
        ]
        if (int(p["y"]), int(p["x"])) in rows(kept):
            assert len(near) == 1
        else:
            assert (np.abs(near["value"]) >= abs(p["value"])).any()


@pytest.mark.parametrize("backend", BACKENDS)
@QUICK
@given(image=IMAGES, scale=st.sampled_from([0.5, 2.0, 4.0]), level=st.sampled_from([0.5, 1.5, 2.5]))
def test_scale_and_threshold(backend, image, scale, level):
    """Scaling image and threshold changes nothing; a higher threshold only drops peaks."""
    low = find(image, 0.5, backend=backend)
    np.testing.assert_array_equal(find(scale * image, scale * 0.5, backend=backend)[["y", "x"]], low[["y", "x"]])
    high = find(image, level, backend=backend)
    np.testing.assert_array_equal(high, low[low["value"] > level])


@QUICK
@given(image=IMAGES)
def test_every_finite_hill_has_a_peak(image):
    """The highest usable pixel above the threshold is always found (at its plateau's first pixel)."""
    usable = np.isfinite(image) & (image > 0.5)
    values = find(image)["value"]
    if usable.any():
        assert values.max() == image[usable].max()
    else:
        assert len(values) == 0
