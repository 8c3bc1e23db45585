"""Mesh statistics of hard boxes by the CUDA kernels: every way the exact median is found, small boxes and large."""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu.ops.background import mesh_statistics
from tests.cuda_host import emu

RNG = np.random.default_rng(9)


def number(shape: tuple[int, int]) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape)


BOXES = {
    "sky about zero": lambda shape: RNG.standard_normal(shape),
    "sky on a level": lambda shape: 1e4 + 30 * RNG.standard_normal(shape),
    "counts, many alike": lambda shape: RNG.poisson(4, shape),
    "two values": lambda shape: RNG.integers(0, 2, shape) * 1e-3,
    "one value": lambda shape: np.full(shape, 7.25),
    "a hot pixel": lambda shape: np.where(number(shape) == 11, 1e30, RNG.standard_normal(shape)),
    "beyond the range of the bins": lambda shape: np.where(RNG.random(shape) < 0.5, -3e38, 3e38),
    "denormals": lambda shape: RNG.standard_normal(shape) * 1e-41,
    "crowded": lambda shape: RNG.standard_normal(shape) + 50 * (RNG.random(shape) < 0.3),
    "a quarter missing": lambda shape: np.where(RNG.random(shape) < 0.25, np.nan, RNG.standard_normal(shape)),
    "all missing": lambda shape: np.full(shape, np.nan),
    "one pixel left": lambda shape: np.where(number(shape) == 5, 2.5, np.inf),
}


@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (71, 66)], ids=str)
@pytest.mark.parametrize("kind", BOXES)
def test_hard_boxes(kind, shape):
    images = BOXES[kind](shape).astype(np.float32)[None]
    for seed in (0, 2):
        got = emu.backend(seed).ops["mesh_statistics"](images, None, max(shape), 3.0, "sextractor")
        wanted = mesh_statistics(images.astype(float), None, max(shape), 3.0, "sextractor")
        size = np.abs(images[np.isfinite(images)]).max(initial=1e-30)
        for g, w in zip(got, wanted, strict=True):
            np.testing.assert_allclose(g, w, rtol=1e-9, atol=1e-12 * size)
