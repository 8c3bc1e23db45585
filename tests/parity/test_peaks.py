"""Peaks on every backend: the same as a plain loop over the pixels, as photutils, and as each other."""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.ops import peaks as peak_ops

SHAPES = [(64, 64), (33, 35), (53, 61), (40, 97), (1, 130), (130, 1), (2, 2), (1, 1)]


def smooth_noise(rng, n, shape, dtype):
    from scipy.ndimage import gaussian_filter

    return np.stack([gaussian_filter(rng.normal(size=shape), 1.2, mode="wrap") for _ in range(n)]).astype(dtype)


def plain_peaks(image, threshold, mask=None):
    """Regional maxima by definition: flood every pixel's plateau, ask whether anything round it is higher."""
    ny, nx = image.shape
    good = np.isfinite(image) if mask is None else np.isfinite(image) & ~mask
    seen, found = np.zeros(image.shape, bool), []
    for y in range(ny):
        for x in range(nx):
            if seen[y, x] or not good[y, x] or not image[y, x] > threshold:
                continue
            plateau, stack, maximum = [], [(y, x)], True
            seen[y, x] = True
            while stack:
                j, i = stack.pop()
                plateau.append((j, i))
                for dj, di in peak_ops.NEIGHBOURS:
                    q = j + dj, i + di
                    if not (0 <= q[0] < ny and 0 <= q[1] < nx) or not good[q]:
                        continue
                    if image[q] > image[y, x]:
                        maximum = False
                    elif image[q] == image[y, x] and not seen[q]:
                        seen[q] = True
                        stack.append(q)
            if maximum:
                found.append(min(plateau))
    return sorted(found)


def plain_suppress(rows, r):
    """Keep the strongest, drop what is near it, go on: (sign, strength, y, x) rows."""
    kept = []
    for sign, strength, y, x in sorted(rows, key=lambda p: (-p[1], p[2], p[3])):
        if all(s != sign or (y - v) ** 2 + (x - u) ** 2 > r * r for s, _, v, u in kept):
            kept.append((sign, strength, y, x))
    return sorted((y, x) for _, _, y, x in kept)


def places(peaks, image=0):
    rows = peaks[peaks["image"] == image]
    return list(zip(rows["y"].tolist(), rows["x"].tolist(), strict=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_definition(rng, backend, shape, dtype):
    stack = smooth_noise(rng, 3, shape, dtype)
    stack[rng.random(stack.shape) < 0.02] = np.nan
    stack[rng.random(stack.shape) < 0.01] = np.inf
    mask = rng.random(stack.shape) < 0.05
    got = ag.find_peaks(backend.asarray(stack), 0.05, mask=backend.asarray(mask), backend=backend)
    for i in range(3):
        assert places(got, i) == plain_peaks(stack[i], np.asarray(0.05, dtype), mask[i])
    np.testing.assert_array_equal(got["value"], stack[got["image"], got["y"], got["x"]].astype(float))
    assert np.array_equal(got, np.sort(got, order=["image", "y", "x"]))


@pytest.mark.parametrize("levels", [2, 4, 30])
def test_plateaus_of_integer_images(rng, backend, levels):
    stack = (smooth_noise(rng, 2, (41, 47), np.float64) * 3 * levels).round().clip(-levels, levels)
    stack[rng.random(stack.shape) < 0.02] = np.nan
    got = ag.find_peaks(backend.asarray(stack), 0.5, backend=backend)
    for i in range(2):
        assert places(got, i) == plain_peaks(stack[i], 0.5)
    both = ag.find_peaks(backend.asarray(stack), 0.5, polarity="both", backend=backend)
    for i in range(2):
        assert places(both, i) == sorted(plain_peaks(stack[i], 0.5) + plain_peaks(-stack[i], 0.5))


@pytest.mark.parametrize("r", [1, 2, 3.5, 6])
def test_separation_is_strongest_first(rng, backend, r):
    stack = rng.normal(size=(2, 60, 71)).astype(np.float32).round(2)
    got = ag.find_peaks(backend.asarray(stack), 0.1, min_separation=r, polarity="both", backend=backend)
    every = ag.find_peaks(backend.asarray(stack), 0.1, polarity="both", backend=backend)
    for i in range(2):
        rows = [(np.sign(p["value"]), abs(p["value"]), int(p["y"]), int(p["x"])) for p in every if p["image"] == i]
        assert places(got, i) == plain_suppress(rows, r)
    assert len(got) < len(every) or r < 2


def test_equals_photutils(rng, backend):
    photutils = pytest.importorskip("photutils.detection")
    image = smooth_noise(rng, 1, (151, 163), np.float64)[0]
    mask = np.zeros(image.shape, bool)
    mask[40:60, 70:72] = True
    table = photutils.find_peaks(image, 0.2, box_size=3, mask=mask)
    want = sorted(zip(table["y_peak"].tolist(), table["x_peak"].tolist(), strict=True))
    got = ag.find_peaks(backend.asarray(image), 0.2, mask=backend.asarray(mask), backend=backend)
    # photutils lets masked pixels outshine their neighbours; away from them both find the same
    near = {(y + dy, x + dx) for y, x in np.argwhere(mask).tolist() for dy in (-1, 0, 1) for dx in (-1, 0, 1)}
    assert [p for p in places(got) if p not in near] == [p for p in want if p not in near]
    assert len(want) > 100


def test_threshold_per_image_and_batch_equals_loop(rng, backend):
    stack = smooth_noise(rng, 4, (37, 50), np.float32)
    levels = np.array([0.1, 0.2, 0.3, 5.0])
    shared = rng.random((37, 50)) < 0.1
    kw = {"min_separation": 3, "polarity": "both", "backend": backend}
    batch = ag.find_peaks(backend.asarray(stack), levels, mask=backend.asarray(shared), max_peaks=7, **kw)
    for i, level in enumerate(levels):
        one = ag.find_peaks(backend.asarray(stack[i]), level, mask=backend.asarray(shared), max_peaks=7, **kw)
        assert places(batch, i) == places(one)
        assert len(one) <= 7
    assert not (batch["image"] == 3).any()


def test_max_peaks_keeps_the_strongest(rng, backend):
    stack = smooth_noise(rng, 2, (50, 50), np.float32)
    every = ag.find_peaks(backend.asarray(stack), 0.1, polarity="both", backend=backend)
    for most in (0, 1, 5, 10**6):
        got = ag.find_peaks(backend.asarray(stack), 0.1, polarity="both", max_peaks=most, backend=backend)
        for i in range(2):
            values = np.abs(every["value"][every["image"] == i])
            assert sorted(np.abs(got["value"][got["image"] == i])) == sorted(values)[::-1][:most][::-1]


@pytest.mark.parametrize("value", [1.0, -1.0])
def test_a_constant_image_is_one_plateau(backend, value):
    image = np.full((70, 50), value, np.float32)
    got = ag.find_peaks(backend.asarray(image), 0.5, polarity="both", backend=backend)
    assert places(got) == [(0, 0)]
    assert got["value"].tolist() == [value]
    assert len(ag.find_peaks(backend.asarray(image * np.nan), 0.5, polarity="both", backend=backend)) == 0


def test_negative_threshold_of_positive_peaks(backend):
    image = np.full((20, 20), -9.0)
    image[5, 5], image[5, 8], image[12, 12] = -1.0, -2.0, 0.0
    got = ag.find_peaks(backend.asarray(image), -5.0, min_separation=4, backend=backend)
    assert places(got) == [(5, 5), (12, 12)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shared", [True, False])
def test_find_peaks_twin(rng, backend, dtype, shared):
    op = backend.ops.get("find_peaks")
    if op is None:
        pytest.skip(f"{backend.name} runs the reference itself")
    stack = smooth_noise(rng, 3, (45, 71), dtype).round(1)
    stack[rng.random(stack.shape) < 0.02] = np.nan
    levels = np.array([0.05, 0.15, 0.25])
    mask = rng.random((1 if shared else 3, 45, 71)) < 0.05
    for both in (False, True):
        got = op(backend.asarray(stack), levels, backend.asarray(mask), both)
        want = peak_ops.find_peaks(stack, levels, mask, both)
        assert sorted(zip(*(c.tolist() for c in got), strict=True)) == sorted(
            zip(*(c.tolist() for c in want), strict=True)
        )
        assert len(want[0]) > 50


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_cuda_under_every_schedule_and_without_room(rng, seed, monkeypatch):
    emulator = pytest.importorskip("tests.cuda_host.emu")
    from astrid_gpu.backends.cuda import peaks as launch
    from tests.cuda_host import build

    stack, levels = smooth_noise(rng, 3, (67, 93), np.float32).round(1), np.array([0.05, 0.15, 0.1])
    table = lambda columns: sorted(zip(*(c.tolist() for c in columns), strict=True))  # noqa: E731
    want = table(peak_ops.find_peaks(stack, levels, None, True))
    assert len(want) > 3
    for flags in ((), build.UBSAN):
        op = emulator.backend(seed, flags).ops["find_peaks"]
        assert table(op(stack, levels, None, True)) == want
        assert table(op(stack, levels, None, True, capacity=3)) == want
    monkeypatch.setattr(launch, "_MOST_IMAGES", 1)  # more images than a grid has rows
    assert table(op(stack, levels, None, True)) == want
