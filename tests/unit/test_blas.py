"""NumPy's BLAS on one thread within a block, and as before after it."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu import _prepare
from astrid_gpu.backends import blas
from astrid_gpu.backends.blas import one_blas_thread


@pytest.fixture
def threads():
    """Set OpenBLAS to two threads, return what tells how many there are."""
    found = blas._openblas()
    if found is None:
        pytest.skip("NumPy is not linked to OpenBLAS")
    get, put = found
    before = get()
    put(2)
    yield get
    put(before)


def test_one_within_and_as_before_after(threads):
    with one_blas_thread():
        assert threads() == 1
        with one_blas_thread():
            assert threads() == 1
        assert threads() == 1
    assert threads() == 2
    with pytest.raises(ValueError, match="no"), one_blas_thread():
        raise ValueError("no")
    assert threads() == 2


def test_blocks_of_two_threads_overlap(threads):
    inside, leave = threading.Event(), threading.Event()

    def other():
        with one_blas_thread():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with one_blas_thread():
        thread.start()
        inside.wait(10)
    assert threads() == 1
    leave.set()
    thread.join()
    assert threads() == 2


def test_without_openblas_nothing_happens(monkeypatch):
    monkeypatch.setattr(blas, "_openblas", lambda: None)
    with one_blas_thread():
        assert np.linalg.inv(np.eye(2)).tolist() == [[1, 0], [0, 1]]


def test_a_pair_is_prepared_on_one(threads, monkeypatch):
    seen = []
    original = _prepare.choose_psfs
    monkeypatch.setattr(_prepare, "choose_psfs", lambda *args: (seen.append(threads()), original(*args))[1])
    field = ag.simulate.pair(seed=1, shape=(192, 192))
    ag.subtract(field.science, field.reference)
    assert seen == [1]
    assert threads() == 2
