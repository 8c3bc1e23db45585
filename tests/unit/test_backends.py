"""The registry and the contract of a backend; a third party's needs `xp` and an FFT alone."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu import backends
from astrid_gpu.backends import BackendSpec, BackendStatus, library_of, resolve_backend
from astrid_gpu.errors import BackendUnavailableError, ConfigError
from tests.scenes import moffat_psf


@pytest.fixture
def registry(monkeypatch):
    """Let a test register backends and forget them."""
    monkeypatch.setattr(backends, "_registered", {})
    yield
    backends._load.cache_clear()


class Minimal:
    """NumPy's own FFT in double precision and not one fused operation."""

    name, xp, is_gpu, float_dtype, ops = "minimal", np, False, np.dtype(np.float64), {}

    def asarray(self, array, dtype=None):
        return np.asarray(array, dtype=dtype)

    def to_host(self, array):
        return np.asarray(array)

    def rfft2(self, array):
        return np.fft.rfft2(array)

    def irfft2(self, spectrum, shape):
        return np.fft.irfft2(spectrum, shape)

    def next_fast_len(self, n):
        return n

    def free_memory(self):
        return 2**30

    def synchronize(self):
        pass


def spec(backend, *, priority=-5, available=True, reason="ready"):
    return BackendSpec(backend.name, priority, lambda: BackendStatus(available, reason, {}), lambda: backend)


# ---- the contract, on every backend that runs here


def test_arrays_go_there_and_come_back(backend, rng):
    for dtype in (np.float32, np.float64, np.uint8, bool):
        image = rng.uniform(0, 3, (2, 5, 7)).astype(dtype)
        there = backend.asarray(image)
        assert there.dtype == dtype
        back = backend.to_host(there)
        assert isinstance(back, np.ndarray)
        np.testing.assert_array_equal(back, image)
    assert backend.asarray(rng.normal(size=(3, 3)), np.float32).dtype == np.float32


def test_asarray_copies_nothing_that_fits(rng):
    for name in ("numpy", "numba"):
        b = ag.get_backend(name)
        image = rng.normal(size=(4, 4))
        assert np.shares_memory(b.asarray(image), image)
        image.flags.writeable = False
        assert np.shares_memory(b.asarray(image), image)
        np.testing.assert_array_equal(b.asarray(image), image)
        assert not image.flags.writeable


@pytest.mark.parametrize("shape", [(16, 16), (15, 21), (24, 9)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_transforms_are_numpys(backend, rng, shape, dtype):
    """Forward unnormalised, inverse by 1/N; single stays single; the input of the forward one is not touched."""
    images = rng.normal(size=(3, *shape)).astype(dtype)
    given = backend.asarray(images.copy())
    spectrum = backend.rfft2(given)
    assert spectrum.dtype == (np.complex64 if dtype == np.float32 else np.complex128)
    rounding = np.finfo(dtype).eps * 30 * np.sqrt(images[0].size)
    np.testing.assert_allclose(backend.to_host(spectrum), np.fft.rfft2(images.astype(float)), atol=rounding)
    np.testing.assert_array_equal(backend.to_host(given), images)
    back = backend.irfft2(spectrum, shape)
    assert back.dtype == dtype
    np.testing.assert_allclose(backend.to_host(back), images, atol=rounding)


def test_fast_lengths_and_memory(backend):
    for n in (1, 17, 101, 1031):
        fast = backend.next_fast_len(n)
        assert fast >= n
        assert backend.next_fast_len(fast) == fast
        assert fast < 1.5 * n + 2
    assert backend.free_memory() > 2**20
    backend.synchronize()


def test_every_fused_operation_can_be_called(backend):
    for name in backend.ops:
        assert callable(backend.ops[name])
        assert name in backend.ops
    assert backend.ops.get("no_such_operation") is None
    assert len(list(backend.ops)) == len(backend.ops)


# ---- the registry


def test_status_tells_why(monkeypatch):
    status = ag.backends.backend_status()
    assert {"numpy", "numba", "cupy"} <= set(status)
    assert status["numpy"].available
    assert all(s.reason for s in status.values())
    available = ag.available_backends()
    assert available == [name for name, s in status.items() if s.available]
    assert available[-1] == "numpy"  # the slowest is the last resort


def test_auto_takes_the_best_and_says_so_once(monkeypatch, caplog):
    monkeypatch.delenv("ASTRID_GPU_BACKEND", raising=False)
    backends._announce.cache_clear()
    with caplog.at_level(logging.INFO, logger="astrid_gpu"):
        chosen = ag.get_backend("auto")
        assert ag.get_backend() is chosen
    assert chosen.name == ag.available_backends()[0]
    assert [r.getMessage() for r in caplog.records] == [f"using the {chosen.name} backend (auto)"]


def test_the_environment_overrides_auto_and_nothing_else(monkeypatch):
    monkeypatch.setenv("ASTRID_GPU_BACKEND", "numpy")
    assert ag.get_backend("auto").name == "numpy"
    assert ag.get_backend("numba").name == "numba"
    monkeypatch.setenv("ASTRID_GPU_BACKEND", " auto ")
    assert ag.get_backend("auto").name == ag.available_backends()[0]
    monkeypatch.setenv("ASTRID_GPU_BACKEND", "torch")
    with pytest.raises(ConfigError, match="no backend is called 'torch'"):
        ag.get_backend("auto")


def test_a_name_is_taken_or_fails(registry):
    with pytest.raises(ConfigError, match=r"no backend is called 'jax'; known are cupy, numba, numpy and 'auto'"):
        ag.get_backend("jax")
    ag.register_backend(spec(Minimal(), available=False, reason="no minimal device; pip install minimal"))
    with pytest.raises(
        BackendUnavailableError, match="minimal backend cannot run here: no minimal device; pip install"
    ):
        ag.get_backend("minimal")
    assert "minimal" not in ag.available_backends()


def test_backend_objects_and_arrays_are_taken():
    b = ag.get_backend("numpy")
    assert ag.get_backend(b) is b
    assert ag.get_backend(np.zeros(3)).name == ag.get_backend("auto").name


def test_a_third_partys_backend_needs_xp_and_fft_alone(registry, rng):
    """Whatever it lacks runs as the reference on its `xp`: the result is that of numpy to rounding."""
    ag.register_backend(spec(Minimal()))
    assert ag.available_backends()[-1] == "minimal"  # by its priority
    N, R = rng.normal(size=(2, 50, 43))
    N[20, 20] = np.nan
    psf = moffat_psf(3.0, side=15)
    outputs = ("difference", "score", "score_corr", "flux")
    got, want = (ag.zogy(N, R, psf, psf, 1.0, 2.0, outputs=outputs, backend=name) for name in ("minimal", "numpy"))
    assert got.backend == "minimal"
    inner = (slice(18, -18),) * 2  # its frames are padded to another length
    for name in outputs:
        a, b = getattr(got, name), getattr(want, name)
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        np.testing.assert_allclose(a[inner], b[inner], atol=0.02 * np.nanstd(b))


def test_a_higher_priority_wins_auto_and_a_name_may_be_replaced(registry, monkeypatch):
    monkeypatch.delenv("ASTRID_GPU_BACKEND", raising=False)
    ag.register_backend(spec(Minimal(), priority=10**6))
    assert ag.get_backend("auto").name == "minimal"
    other = Minimal()
    ag.register_backend(spec(other, priority=10**6))
    assert ag.get_backend("minimal") is other


def test_a_broken_plug_in_does_not_stop_the_others(monkeypatch, caplog):
    def broken():
        msg = "No module named 'torch'"
        raise ImportError(msg)

    monkeypatch.setattr(backends, "_third_party", lambda: (SimpleNamespace(name="broken", load=broken),))
    with caplog.at_level(logging.WARNING, logger="astrid_gpu"):
        assert "numpy" in ag.available_backends()
    assert "backend plug-in 'broken' could not be imported: No module named 'torch'" in caplog.text


# ---- whose arrays


class Device:
    """Enough of a device array to be told from one of the host."""

    __cuda_array_interface__ = {"shape": (2, 2)}  # noqa: RUF012


def test_libraries_are_told_apart():
    assert library_of(np.zeros(2)) == "numpy"
    assert library_of(np.float64(3)) == "host"
    assert library_of([1, 2]) == "host"
    assert library_of(Device()) == "cupy"
    assert library_of(SimpleNamespace(__dlpack_device__=lambda: (2, 0))) == "cupy"
    assert library_of(SimpleNamespace(__dlpack_device__=lambda: (1, 0))) == "numpy"


def test_nothing_is_moved_between_host_and_device_unasked():
    with pytest.raises(TypeError, match=r"science is numpy, mask is cupy; move them to one side"):
        resolve_backend("auto", {"science": np.zeros(2), "mask": Device(), "variance": None, "sigma": 3.0})
    with pytest.raises(TypeError, match=r"on a GPU but backend 'numba' runs on the CPU; call .get\(\)"):
        resolve_backend("numba", {"science": Device()})
    if not ag.backends.backend_status()["cupy"].available:
        with pytest.raises(BackendUnavailableError, match="cupy"):
            resolve_backend("auto", {"science": Device()})
