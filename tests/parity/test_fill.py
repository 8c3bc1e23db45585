"""fill.cu against the float64 reference, under several schedules and on every backend.

Tolerances: a fill is a sum of products of the good pixels with weights, so it differs from the reference by a small
multiple of eps times the largest pixel.
"""

from __future__ import annotations

import numpy as np
import pytest

from astrid_gpu.backends.cuda import fill as cuda_fill
from astrid_gpu.ops import fill as reference
from tests.cuda_host import emu

SCHEDULES = [0, 1, 2, 3]
REALS = [np.float32, np.float64]


def close(got: np.ndarray, wanted: np.ndarray, size: float) -> None:
    eps = np.finfo(got.dtype).eps
    np.testing.assert_allclose(got, wanted, rtol=16 * eps, atol=16 * eps * size)


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("sigmas", [[1.4], [1.4, 2.2]], ids=["one profile", "a profile an image"])
def test_every_backend(backend, real, sigmas, rng):
    """Where a backend has no such operation, it is the reference on its own arrays."""
    images = (10 * rng.standard_normal((2, 37, 41))).astype(real)
    images[:, 10:20, 30:] += 500
    bad = rng.random((2, 37, 41)) < 0.1
    bad[:, -6:] = True
    profiles = reference.fill_profiles(sigmas, (37, 41))
    op = backend.ops.get("fill_masked")
    given = backend.asarray(images), backend.asarray(bad), profiles
    got = backend.to_host(op(*given) if op else reference.fill_masked(*given, xp=backend.xp))
    assert got.dtype == real
    close(got, reference.fill_masked(images.astype(float), bad, profiles), abs(images).max())
    assert (got[bad] != 0).any(), "something was filled"


@pytest.mark.parametrize("seed", SCHEDULES)
@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("shared", [False, True])
def test_fill(seed, real, shared, rng):
    images = (100 * rng.standard_normal((2, 40, 57))).astype(real)
    bad = rng.random((1 if shared else 2, 40, 57)) < 0.1
    bad[:, 10:32, 20:45] = True  # a hole wider than the window
    bad[:, -5:] = bad[:, :, -4:] = True  # padding: filled from both sides of the periodic frame
    got = emu.backend(seed).ops["fill_masked"](images, bad, reference.fill_profiles([1.7], images.shape[1:]))
    wanted = reference.fill_masked(images.astype(float), bad, reference.fill_profiles([1.7], images.shape[1:]))
    good = np.broadcast_to(~bad, images.shape)
    np.testing.assert_array_equal(got[good], images[good])
    close(got, wanted, abs(images).max())
    assert (got[:, 21, 32] == 0).all(), "nothing reaches the middle of the hole"
    assert (got[~good] != 0).mean() > 0.5


def test_fill_never_reads_what_is_bad(rng):
    images = rng.standard_normal((1, 16, 16)).astype(np.float32)
    bad = np.zeros((1, 16, 16), np.uint8)
    bad[0, 4:7, 5:9] = 3
    holed = np.where(bad != 0, np.float32(np.nan), images)
    np.testing.assert_array_equal(
        emu.backend().ops["fill_masked"](holed, bad, reference.fill_profiles([1.0], images.shape[1:])),
        emu.backend().ops["fill_masked"](images, bad, reference.fill_profiles([1.0], images.shape[1:])),
    )


@pytest.mark.parametrize("shape", [(2, 9), (5, 3), (7, 7)])
def test_fill_window_is_cut_to_the_frame(shape, rng):
    images = rng.standard_normal((1, *shape)).astype(np.float32)
    bad = rng.random((1, *shape)) < 0.4
    close(
        emu.backend().ops["fill_masked"](images, bad, reference.fill_profiles([12.0], images.shape[1:])),
        reference.fill_masked(images.astype(float), bad, reference.fill_profiles([12.0], images.shape[1:])),
        abs(images).max(),
    )


def test_fade_is_that_of_the_reference():
    assert (cuda_fill.FADE, cuda_fill.SHRINK) == (reference.FADE, reference.SHRINK)


@pytest.mark.parametrize(
    ("bad", "profiles", "message"),
    [
        ((2, 9, 9), (1, 3), r"bad has shape \(2, 9, 9\); allowed: \(3, 9, 9\) or \(1, 9, 9\)"),
        ((1, 9, 9), (2, 3), "profiles has shape"),
        ((1, 9, 9), (1, 6), "a window of 11 pixels does not fit the frame"),
    ],
)
def test_wrong_shapes_are_refused(bad, profiles, message):
    with pytest.raises(ValueError, match=message):
        emu.backend().ops["fill_masked"](np.ones((3, 9, 9), np.float32), np.ones(bad, np.uint8), np.ones(profiles))
