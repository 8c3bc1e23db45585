"""Work shared by Python threads: each part once, wherever it is called from, and no error lost."""

from __future__ import annotations

import threading

import pytest
from astrid_gpu.kernels._pool import share


@pytest.fixture(params=[1, 3])
def threads(request, monkeypatch):
    monkeypatch.setattr("astrid_gpu.kernels._pool.cpu_threads", lambda: request.param)
    return request.param


@pytest.mark.parametrize("parts", [0, 1, 2, 100])
def test_every_part_once(threads, parts):
    done = []
    share(done.append, parts)
    assert sorted(done) == list(range(parts))


def test_within_a_task_and_from_many_threads(threads):
    """More calls than the pool has threads: none waits for another."""
    done = []

    def outer(k):
        share(lambda m: done.append((k, m)), 4)

    callers = [threading.Thread(target=share, args=(outer, 8)) for _ in range(5)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=60)
    assert len(done) == 5 * 8 * 4


def test_an_error_is_raised_where_it_was_called(threads):
    def task(k):
        if k == 7:
            msg = "seven"
            raise ValueError(msg)

    with pytest.raises(ValueError, match="seven"):
        share(task, 20)
