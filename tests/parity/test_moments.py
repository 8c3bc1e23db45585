"""Moments on every backend equal the plain sum over pixels."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu.engine.peaks import measure
from astrid_gpu.ops import moments as moment_ops


def plain_moments(image, y, x, sigma, radius, mask):
    cy, cx = int(np.floor(y + 0.5)), int(np.floor(x + 0.5))
    sums = np.zeros(7)
    for j in range(max(0, cy - radius), min(image.shape[0], cy + radius + 1)):
        for i in range(max(0, cx - radius), min(image.shape[1], cx + radius + 1)):
            d = float(image[j, i])
            if np.isfinite(d) and not mask[j, i]:
                v, u = j - y, i - x
                w = np.exp(-0.5 * (v * v + u * u) / sigma**2)
                sums += w * np.array([1, d, d * v, d * u, d * v * v, d * u * u, d * v * u])
    return sums


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(41, 41), (30, 64), (7, 53), (1, 20)])
@pytest.mark.parametrize("masks", [0, 1, 3])
def test_equals_the_plain_sum(rng, backend, shape, dtype, masks):
    images = rng.normal(size=(3, *shape)).astype(dtype)
    images[rng.random(images.shape) < 0.03] = np.nan
    images[rng.random(images.shape) < 0.01] = -np.inf
    mask = rng.random((max(masks, 1), *shape)) < 0.1 if masks else None
    m = 25
    image = rng.integers(0, 3, m)
    y, x = rng.uniform(-0.5, shape[0] - 0.5, m), rng.uniform(-0.5, shape[1] - 0.5, m)
    y[:2], x[:2] = 0.5, 1.5  # on the edge between two pixels
    sigma, radius = rng.uniform(0.7, 3, m), 6
    got = measure(
        backend, backend.asarray(images), image, y, x, sigma, radius, None if mask is None else backend.asarray(mask)
    )
    none = np.zeros(shape, bool)
    want = np.stack([
        plain_moments(images[i], a, b, s, radius, none if mask is None else mask[i % len(mask)])
        for i, a, b, s in zip(image, y, x, sigma, strict=True)
    ])  # fmt: skip
    # Every backend adds in double precision; only the order differs. Terms are at most about 4 * 36.
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-10)


def test_many_windows(rng, backend):
    images, m = rng.normal(size=(2, 70, 90)).astype(np.float32), 2500
    where = (rng.integers(0, 2, m), rng.uniform(0, 69, m), rng.uniform(0, 89, m), rng.uniform(0.7, 2, m))
    got = measure(backend, backend.asarray(images), *where, 5)
    np.testing.assert_allclose(got, moment_ops.measure_moments(images, *where, 5), rtol=1e-12, atol=1e-10)


def test_no_windows(backend):
    got = measure(backend, backend.asarray(np.zeros((1, 5, 5), np.float32)), *([np.zeros(0)] * 4), 3)
    assert got.shape == (0, 7)


def test_the_reference_in_chunks(rng):
    images = rng.normal(size=(2, 30, 30))
    m = 9000  # more than two chunks
    where = (rng.integers(0, 2, m), rng.uniform(0, 29, m), rng.uniform(0, 29, m), np.full(m, 1.5))
    whole = moment_ops.measure_moments(images, *where, 3)
    parts = [moment_ops.measure_moments(images, *(c[k : k + 1] for c in where), 3)[0] for k in (0, 4095, 4096, 8999)]
    np.testing.assert_array_equal(whole[[0, 4095, 4096, 8999]], parts)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_cuda_under_every_schedule(rng, seed):
    emulator = pytest.importorskip("tests.cuda_host.emu")
    from tests.cuda_host import build

    images = rng.normal(size=(2, 33, 41)).astype(np.float32)
    where = (rng.integers(0, 2, 9), rng.uniform(0, 33, 9), rng.uniform(0, 41, 9), np.full(9, 1.3))
    got = emulator.backend(seed, build.UBSAN).ops["measure_moments"](images, *where, 5)
    np.testing.assert_allclose(got, moment_ops.measure_moments(images, *where, 5), rtol=1e-12, atol=1e-12)
