"""Result arrays whose memory is used again: never while anybody can see it."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from astrid_gpu.kernels import _memory

from astrid_gpu.errors import ConfigError

SHAPE = (3, 2000, 2000)


@pytest.fixture(autouse=True)
def nothing_waits():
    _memory.forget()
    yield
    _memory.forget()


def address(array):
    return array.ctypes.data


def test_memory_comes_back_when_the_last_view_is_gone():
    first = _memory.empty(SHAPE)
    where, view = address(first), first[1, 5:, ::2]
    view[...] = 7
    del first
    second = _memory.empty(SHAPE)
    assert address(second) != where
    assert np.all(view == 7)
    del view
    gc.collect()
    third = _memory.empty(SHAPE)
    assert address(third) == where
    assert third.flags.c_contiguous
    assert third.flags.writeable
    assert third.dtype == np.float32
    assert third.shape == SHAPE


def test_small_arrays_and_other_sizes_are_new():
    first = _memory.empty(SHAPE)
    where = address(first)
    del first
    assert address(_memory.empty((3, 1200, 1200))) != where
    assert _memory.empty((4, 4)).base is None


def test_what_waits_is_limited(monkeypatch):
    monkeypatch.setenv("ASTRID_GPU_KEEP_MIB", "50")
    arrays = [_memory.empty(SHAPE) for _ in range(3)]  # 46 MiB each
    del arrays
    assert sum(b.size for b in _memory._waiting) <= 50 << 20
    monkeypatch.setenv("ASTRID_GPU_KEEP_MIB", "0")
    array = _memory.empty(SHAPE)
    del array
    assert len(_memory._waiting) <= 1
    assert _memory.empty(SHAPE).base is None


def test_a_limit_that_is_no_number(monkeypatch):
    monkeypatch.setenv("ASTRID_GPU_KEEP_MIB", "lots")
    with pytest.raises(ConfigError, match=r"ASTRID_GPU_KEEP_MIB is a number of MiB, 0 or more; got 'lots'"):
        _memory.empty(SHAPE)
