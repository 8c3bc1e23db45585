"""Fixtures for all tests: seeded random numbers, the backends that run here, and the real data where it is present."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("no deadline", deadline=None)  # the clock is no judge of a test: machines are shared
settings.load_profile("no deadline")

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=20161020, help="seed of the rng fixture")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of live services run only where somebody asks for them: ``pytest -m remote``."""
    if "remote" not in config.getoption("-m"):
        kept = [item for item in items if item.get_closest_marker("remote") is None]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A generator seeded by --seed; the seed is printed when a test fails."""
    seed = request.config.getoption("--seed")
    print(f"rng seed {seed}")
    return np.random.default_rng(seed)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data, or a skip."""
    path = Path(os.environ.get("ASTRID_GPU_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (path / "PROVENANCE.md").is_file():
        pytest.skip(f"real data not found at {path}; set ASTRID_GPU_TEST_DATA")
    return path


@pytest.fixture(params=["numpy", "numba", "emu", pytest.param("cupy", marks=pytest.mark.gpu)])
def backend(request: pytest.FixtureRequest) -> Iterator[object]:
    """Every backend that can run here: the reference, the CPU twin, CUDA on the CPU, and CUDA on a device."""
    import astrid_gpu as ag

    name = request.param
    if name == "emu":
        emulator = pytest.importorskip("tests.cuda_host.emu", reason="the CUDA emulator needs a C++ compiler")
        yield emulator.backend(on_device=True)  # refuses what a device refuses
        return
    status = ag.backends.backend_status()[name]
    if not status.available:
        pytest.skip(f"{name}: {status.reason}")
    yield ag.get_backend(name)
