"""The probe of the cupy backend: each step of the ladder has its own reason and advice, and none raises."""

from __future__ import annotations

import importlib.util
import sys
import time
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.backends import cupy_
from astrid_gpu.errors import BackendUnavailableError, InputError

HAS_CUPY = importlib.util.find_spec("cupy") is not None


class CudaRuntimeError(RuntimeError):
    """As CuPy's: not an OSError, not an ImportError."""


def fake_runtime(devices: int = 1, capability: tuple[int, int] = (9, 0)) -> SimpleNamespace:
    properties = {
        "name": b"NVIDIA H200",
        "major": capability[0],
        "minor": capability[1],
        "totalGlobalMem": 139 << 30,
    }
    return SimpleNamespace(
        getDeviceCount=lambda: devices,
        getDevice=lambda: 0,
        getDeviceProperties=lambda number: properties,
        driverGetVersion=lambda: 13000,
    )


@pytest.fixture
def install(monkeypatch):
    """Put a CuPy of a given behaviour into sys.modules, as one wheel."""
    monkeypatch.setattr(cupy_, "_installed_wheels", lambda: {"cupy-cuda12x": "13.6.0"})

    def put(runtime: SimpleNamespace, *, cufft: bool = True, nvrtc: bool = True) -> None:
        cupy, cuda = ModuleType("cupy"), ModuleType("cupy.cuda")
        cupy.__spec__, cupy.__version__ = ModuleSpec("cupy", None), "13.6.0"
        cupy.cuda, cuda.runtime = cuda, runtime
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)
        for name, present in (("cufft", cufft), ("nvrtc", nvrtc)):
            module = ModuleType(f"cupy.cuda.{name}")

            def get_version(name: str = name, present: bool = present) -> int:
                if not present:
                    msg = f"Failure finding lib{name}.so\n  searched here\n  and there"
                    raise RuntimeError(msg)
                return 12000

            module.getVersion = get_version
            monkeypatch.setitem(sys.modules, f"cupy.cuda.{name}", module)

    return put


def reason() -> str:
    status = cupy_._examine()
    assert not status.available
    assert "\n" not in status.reason, "one line: it goes into tables and error messages"
    return status.reason


def test_not_installed_names_the_extra(monkeypatch):
    monkeypatch.setattr(cupy_.util, "find_spec", lambda name: None)
    text = reason()
    assert "CuPy is not installed" in text
    assert "astrid-gpu[cuda13]" in text
    assert "astrid-gpu[cuda12]" in text


@pytest.mark.parametrize("error", [ValueError("cupy.__spec__ is None"), ImportError("broken finder")])
def test_broken_finders_do_not_raise(monkeypatch, error):
    def find_spec(name):
        raise error

    monkeypatch.setattr(cupy_.util, "find_spec", find_spec)
    assert "CuPy is not installed" in reason()


@pytest.mark.parametrize("line", ["raise ImportError('libcublas.so.12: cannot open shared object file')", "1 / 0"])
def test_import_that_fails(monkeypatch, tmp_path, line):
    (tmp_path / "cupy").mkdir()
    (tmp_path / "cupy" / "__init__.py").write_text(line)
    for name in [n for n in sys.modules if n.split(".")[0] == "cupy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = reason()
    assert "installed but does not import" in text
    assert ("libcublas.so.12" in text) or ("division by zero" in text)


def test_two_cupys_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(cupy_, "_installed_wheels", lambda: {"cupy-cuda13x": "14.2", "cupy-cuda12x": "13.6"})
    test_import_that_fails(monkeypatch, tmp_path, "raise ImportError('libcublas.so.12')")
    assert "cupy-cuda13x, cupy-cuda12x are installed together: uninstall all but one" in reason()


def test_no_driver(install):
    def get_device_count():
        msg = "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
        raise CudaRuntimeError(msg)

    install(SimpleNamespace(getDeviceCount=get_device_count))
    text = reason()
    assert "CuPy 13.6.0 is installed but no CUDA driver is usable (cudaErrorInsufficientDriver" in text
    assert "nvidia-smi" in text


def test_no_device(install):
    install(fake_runtime(devices=0))
    assert "0 devices" in reason()
    assert "CUDA_VISIBLE_DEVICES" in reason()


@pytest.mark.parametrize(("missing", "words"), [("cufft", "cuFFT (libcufft)"), ("nvrtc", "NVRTC (libnvrtc)")])
def test_missing_libraries(install, missing, words):
    install(fake_runtime(), **{missing: False})
    text = reason()
    assert f"{words} is missing (Failure finding lib{missing}.so)" in text
    assert "astrid-gpu[cuda12-ctk]" in text, "the extra of the CUDA version that CuPy was built for"


def test_library_that_does_not_import(install, monkeypatch):
    install(fake_runtime())
    monkeypatch.setitem(sys.modules, "cupy.cuda.cufft", None)
    assert "cuFFT (libcufft) is missing" in reason()


def test_device_too_old(install):
    install(fake_runtime(capability=(7, 0)))
    assert "NVIDIA H200 has compute capability 7.0; the kernels need 7.5" in reason()


def test_device_that_does_not_answer(install):
    runtime = fake_runtime()
    del runtime.getDeviceProperties
    install(runtime)
    assert "the CUDA device does not answer" in reason()


@pytest.mark.parametrize("capability", [(7, 5), (9, 0), (10, 0)])
def test_device_that_answers(install, capability):
    install(fake_runtime(capability=capability))
    status = cupy_._examine()
    assert status.available
    assert status.details["device"] == "0: NVIDIA H200"
    assert status.details["compute capability"] == f"{capability[0]}.{capability[1]}"
    assert status.details["memory"] == "139.0 GiB"
    assert status.details["CUDA of the driver"] == "13.0"


def test_installed_wheels_are_read_from_metadata(monkeypatch):
    def version(name):
        if name != "cupy-cuda13x":
            raise PackageNotFoundError(name)
        return "14.2.0"

    monkeypatch.setattr(cupy_, "version", version)
    assert cupy_._installed_wheels() == {"cupy-cuda13x": "14.2.0"}


def test_a_named_backend_that_cannot_run_is_an_error_with_the_reason(monkeypatch):
    status = cupy_.BackendStatus(False, "there is no GPU in this test", {})
    unusable = cupy_.BackendSpec(name="cupy", priority=100, probe=lambda: status, load=cupy_.spec.load)
    monkeypatch.setattr(cupy_, "spec", unusable)
    with pytest.raises(BackendUnavailableError, match="there is no GPU in this test"):
        ag.get_backend("cupy")
    monkeypatch.delenv("ASTRID_GPU_BACKEND", raising=False)
    assert ag.get_backend("auto").name != "cupy"


def test_loading_checks_the_probe(monkeypatch):
    monkeypatch.setattr(cupy_, "_probe", lambda: cupy_.BackendStatus(False, "nothing here", {}))
    with pytest.raises(BackendUnavailableError, match="nothing here"):
        cupy_.spec.load()


def test_spec():
    assert cupy_.spec.name == "cupy"
    assert cupy_.spec.priority == 100
    assert ag.backends.backend_status()["cupy"] == cupy_.spec.probe()


def test_second_probe_costs_nothing():
    cupy_.spec.probe()
    start = time.perf_counter()
    for _ in range(1000):
        cupy_.spec.probe()
    assert time.perf_counter() - start < 0.1


@pytest.mark.skipif(not HAS_CUPY, reason="CuPy is not installed")
def test_real_cupy_without_a_driver_gives_the_driver_message():
    import cupy

    status = cupy_._examine()
    if cupy.is_available():
        assert status.available, status.reason
    else:
        assert f"CuPy {cupy.__version__} is installed but no CUDA driver is usable (cudaError" in status.reason


@pytest.mark.parametrize(
    ("n", "expected"), [(1, 2), (2, 2), (13, 14), (15, 16), (127, 128), (2049, 2058), (4096, 4096), (4201, 4320)]
)
def test_smooth_lengths(n, expected):
    assert cupy_.smooth_length(n) == expected


def test_smooth_lengths_by_definition():
    smooth = {2**a * 3**b * 5**c * 7**d for a in range(1, 13) for b in range(8) for c in range(6) for d in range(5)}
    table = np.array(sorted(smooth))
    for n in range(1, 4097):
        assert cupy_.smooth_length(n) == table[np.searchsorted(table, n)]


def test_arrays_on_another_device_are_refused():
    """Nothing moves between devices behind the caller's back."""

    class Array:
        device = SimpleNamespace(id=1)

    namespace = SimpleNamespace(
        ndarray=Array,
        asarray=lambda a, dtype=None: a,
        cuda=SimpleNamespace(Device=lambda: SimpleNamespace(id=0)),
    )
    backend = object.__new__(cupy_.CupyBackend)
    backend.xp = namespace
    with pytest.raises(InputError, match=r"on CUDA device 1 but the current one is 0; call inside `with cupy"):
        backend.asarray(Array())
