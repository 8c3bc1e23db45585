"""The replay server, a client whose time does not pass, and a cache of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.integration.replay.server import FakeClock, ReplayServer

pytest.importorskip("requests", reason="acquisition needs the extra: pip install 'astrid-gpu[acquire]'")


@pytest.fixture
def replay() -> Iterator[ReplayServer]:
    """A server on loopback; a request that it has no recording of fails the test."""
    server = ReplayServer()
    yield server
    server.close()
    assert not server.unexpected, f"not in the recording: {server.unexpected}"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def client(clock, cache):
    """A client that retries as ours does, without sleeping."""
    from astrid_gpu.acquire import Client, Policy

    return Client(Policy(attempts=4, read_timeout=2.0, stall_timeout=30.0), clock=clock)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder, the one that is used."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("ASTRID_GPU_CACHE", str(folder))
    return folder


@pytest.fixture
def fits_bytes(rng) -> bytes:
    """A FITS image of 200 kB of noise: long enough to break off in the middle."""
    import io

    from astropy.io import fits

    stream = io.BytesIO()
    fits.PrimaryHDU(rng.normal(100, 5, (220, 230)).astype(np.float32)).writeto(stream)
    return stream.getvalue()
