"""`estimate_background` on every backend against the float64 reference, and each fused operation against its own."""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.ops import background as ops
from tests.statistical.test_background import AS_GOOD, FRAMES, LEVEL_ERROR, frame

SHAPES = [(64, 64), (65, 63), (131, 97), (40, 200), (37, 33)]
# The same pixels in float64 sums of another order, or with fused multiply-add: a few hundred units in the last place.
SUMS = 1e-12


def fields(rng, shape, dtype=np.float32, n=2):
    """Sky with a slope, stars, a hot pixel, NaN and infinities."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    images = rng.normal(500, 12, (n, *shape)) + 0.1 * y - 0.05 * x
    for _ in range(10):
        k, cy, cx = rng.integers(n), rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        images[k] += 2e4 * rng.pareto(1.5) * np.exp(-0.5 * ((y - cy) ** 2 + (x - cx) ** 2) / 1.7**2)
    images[0, 3, 4], images[0, 9, 9], images[-1, 5, 5] = np.nan, np.inf, -np.inf
    images[-1, 7, 7] = 3e9
    return images.astype(dtype)


def on(backend, array):
    return None if array is None else backend.asarray(array)


def statistics(backend, images, mask, *options):
    op = backend.ops.get("mesh_statistics")
    arguments = (on(backend, images), on(backend, mask), *options)
    found = op(*arguments) if op else ops.mesh_statistics(*arguments, xp=backend.xp)
    return [backend.to_host(a) for a in found]


def same_statistics(found, expected, scale):
    """Levels and widths to rounding of sums of numbers of size `scale`; counts and NaN exactly."""
    for got, want in zip(found[:2], expected[:2], strict=True):
        assert got.dtype == np.float64
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        np.testing.assert_allclose(got, want, rtol=SUMS, atol=SUMS * scale)
    np.testing.assert_array_equal(found[2], expected[2])


@pytest.mark.parametrize("statistic", ops.STATISTICS)
@pytest.mark.parametrize(("shape", "box"), list(zip(SHAPES, [32, 8, 32, 64, 16], strict=True)))
def test_mesh_statistics(backend, rng, shape, box, statistic):
    images = fields(rng, shape)
    for mask in (None, rng.random((1, *shape)) < 0.2, rng.random((2, *shape)) < 0.2):
        expected = ops.mesh_statistics(images, mask, box, 3.0, statistic)
        same_statistics(statistics(backend, images, mask, box, 3.0, statistic), expected, 500)


KINDS = {
    "sky around zero": lambda sky: sky,
    "both signs of zero": lambda sky: np.where(sky > 0, 0.0, -0.0) * np.ones_like(sky),
    "whole counts": lambda sky: np.round(sky / 5),
    "two values": lambda sky: np.where(sky > 3, 7.0, 2.0),
    "constant": lambda sky: np.full_like(sky, 0.1),
    "tiny": lambda sky: sky * 1e-38,
    "huge": lambda sky: sky * 1e35,
    "heavy tails": lambda sky: np.sinh(sky / 2),
    "one pixel left": lambda sky: np.where(np.arange(sky.size).reshape(sky.shape) % 997, np.nan, sky),
    "nothing left": lambda sky: np.full_like(sky, np.nan),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip", [2.0, 3.0, np.inf])
def test_mesh_statistics_of_strange_pixels(backend, rng, kind, clip):
    images = KINDS[kind](rng.normal(0, 10, (2, 50, 60))).astype(np.float32)
    expected = ops.mesh_statistics(images, None, 32, clip, "sextractor")
    scale = np.nan_to_num(expected[1]).max()
    same_statistics(statistics(backend, images, None, 32, clip, "sextractor"), expected, scale)


LARGE = {
    "sky": lambda sky: sky,
    "half of it 0": lambda sky: np.where(np.arange(sky.shape[-1]) % 2, sky, 0.0),
    "a tail": lambda sky: np.exp(sky),
}


@pytest.mark.parametrize("kind", LARGE)
def test_mesh_statistics_of_one_large_box(backend, rng, kind):
    images = LARGE[kind](rng.normal(0, 5, (1, 300, 260))).astype(np.float32)
    images[0, ::40, ::50] = 1e6
    expected = ops.mesh_statistics(images, None, 300, 3.0, "sextractor")
    same_statistics(statistics(backend, images, None, 300, 3.0, "sextractor"), expected, expected[1].max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "nodes"), [((64, 64), (1, 1)), ((65, 130), (2, 5)), ((300, 31), (9, 1))])
def test_mesh_interpolate(backend, rng, dtype, shape, nodes):
    mesh = rng.normal(100, 10, (3, *nodes))
    rows, columns = ops.spline_axis(shape[0], nodes[0]), ops.spline_axis(shape[1], nodes[1])
    expected = ops.mesh_interpolate(mesh, rows, columns, np.float64)
    op = backend.ops.get("mesh_interpolate")
    arguments = (on(backend, mesh), rows, columns, dtype)
    got = backend.to_host(op(*arguments) if op else ops.mesh_interpolate(*arguments, xp=backend.xp))
    assert got.dtype == dtype
    # Four products of size 100, with weights up to about 2 where the spline is continued beyond the last node.
    np.testing.assert_allclose(got, expected, rtol=0, atol=8 * np.finfo(dtype).eps * 200)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_whole(backend, rng, shape, dtype):
    images = fields(rng, shape, dtype)
    mask = rng.random(shape) < 0.1
    options = {"box": 16, "filter_size": 3}
    background = ag.estimate_background(on(backend, images), mask=on(backend, mask), backend=backend, **options)
    level, rms, mesh = (backend.to_host(a) for a in background)
    wanted = np.float32 if dtype == np.float32 else backend.float_dtype
    assert level.dtype == rms.dtype == wanted
    expected = ag.estimate_background(images.astype(wanted).astype(float), mask=mask, backend="numpy", **options)
    eps = np.finfo(wanted).eps
    np.testing.assert_allclose(mesh, expected.mesh, rtol=SUMS)
    np.testing.assert_allclose(level, expected.level, rtol=0, atol=16 * eps * np.abs(expected.mesh).max())
    np.testing.assert_allclose(rms, expected.rms, rtol=0, atol=16 * eps * expected.rms.max() + SUMS * 500)


def test_a_stack_is_its_images(backend, rng):
    images = fields(rng, (70, 90), n=3)
    masks = rng.random(images.shape) < 0.05
    together = ag.estimate_background(on(backend, images), box=32, mask=on(backend, masks), backend=backend)
    for k in range(3):
        alone = ag.estimate_background(on(backend, images[k]), box=32, mask=on(backend, masks[k]), backend=backend)
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_allclose(backend.to_host(a[k]), backend.to_host(b), rtol=4 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("field", [{"stars": 200, "slope": 1.0}, {"stars": 1500}], ids=["stars", "crowded"])
def test_as_accurate_as_sep(backend, field):
    """RMS error and bias of the level against the truth, on the same frame with stars, of what users call."""
    sep = pytest.importorskip("sep")
    image, sky = frame(3, **field)
    ours = backend.to_host(ag.estimate_background(on(backend, image), box=64, backend=backend).level) - sky
    theirs = sep.Background(image, bw=64, bh=64, fw=3, fh=3).back() - sky
    assert np.sqrt(np.mean(ours**2)) <= AS_GOOD * np.sqrt(np.mean(theirs**2))
    assert abs(ours.mean()) <= abs(theirs.mean()) + 4 * LEVEL_ERROR * np.sqrt(FRAMES)  # that is of all frames' mean
