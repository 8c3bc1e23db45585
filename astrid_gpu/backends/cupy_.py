"""The GPU backend: CuPy arrays in float32, cuFFT, and the CUDA kernels of ``kernels/*.cu`` compiled by NVRTC."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib import import_module, util
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

import numpy as np

from astrid_gpu.backends.base import Backend, BackendSpec, BackendStatus
from astrid_gpu.backends.cuda import cuda_ops
from astrid_gpu.backends.cuda.context import Kernel, kernel_source
from astrid_gpu.backends.cuda.plans import PlanCache, smooth_length
from astrid_gpu.backends.cuda.runtime import CupyRuntime, Runtime
from astrid_gpu.backends.cuda.signature import Parameter, check_arguments, check_shape, parse_signatures
from astrid_gpu.errors import BackendUnavailableError, InputError

__all__ = ["CupyBackend", "CupyContext", "CupyPlan", "smooth_length", "spec"]

_WHEELS = ("cupy-cuda13x", "cupy-cuda12x", "cupy-cuda11x", "cupy")
_OLDEST = (7, 5)  # compute capability: what CUDA 13 compiles for and the kernels are built for in the tests
_INSTALL = "pip install 'astrid-gpu[cuda13]' for drivers of 580 and newer, or 'astrid-gpu[cuda12]' for older ones"


# ---- probe -----------------------------------------------------------------------------------------------------------
def _found() -> bool:
    """Return whether there is a cupy to import, without importing it."""
    try:
        return util.find_spec("cupy") is not None
    except (ImportError, ValueError):  # what find_spec raises where another package left a broken entry
        return False


def _installed_wheels() -> dict[str, str]:
    """Return the installed CuPy distributions and their versions."""
    found: dict[str, str] = {}
    for wheel in _WHEELS:
        try:
            found[wheel] = version(wheel)
        except PackageNotFoundError:
            continue
    return found


def _libraries_extra(wheels: Mapping[str, str]) -> str:
    """Return how to get the CUDA libraries that belong to the installed CuPy."""
    major = "12" if "cupy-cuda12x" in wheels else "13"
    return f"install a CUDA {major} toolkit, or: pip install 'astrid-gpu[cuda{major}-ctk]'"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _examine() -> BackendStatus:
    """Climb from "is it installed" to "is the device new enough"; the first step that fails is the reason."""
    if not _found():
        return BackendStatus(False, f"CuPy is not installed; {_INSTALL}", {})
    wheels = _installed_wheels()
    details = dict(wheels)
    try:
        cupy = import_module("cupy")
    except Exception as exc:  # a broken installation may raise anything, and the next backend must run
        advice = f"{', '.join(wheels)} are installed together: uninstall all but one" if len(wheels) > 1 else _INSTALL
        return BackendStatus(False, f"CuPy is installed but does not import ({_first_line(exc)}); {advice}", details)
    name = f"CuPy {getattr(cupy, '__version__', 'unknown')}"
    details["cupy"] = str(getattr(cupy, "__version__", "unknown"))
    try:
        runtime = cupy.cuda.runtime
        devices = int(runtime.getDeviceCount())
    except Exception as exc:  # CUDARuntimeError derives from RuntimeError, a missing library from OSError
        advice = "install or update the NVIDIA driver (nvidia-smi shows it)"
        return BackendStatus(
            False, f"{name} is installed but no CUDA driver is usable ({_first_line(exc)}); {advice}", details
        )
    if devices == 0:
        reason = (
            f"{name} and a CUDA driver are installed but there are 0 devices; see nvidia-smi and CUDA_VISIBLE_DEVICES"
        )
        return BackendStatus(False, reason, details)
    for module, library in (
        ("cupy.cuda.cufft", "cuFFT (libcufft)"),
        ("cupy.cuda.nvrtc", "the compiler NVRTC (libnvrtc)"),
    ):
        problem = _library_problem(module)
        if problem:
            reason = f"{name} sees a device but {library} is missing ({problem}); {_libraries_extra(wheels)}"
            return BackendStatus(False, reason, details)
    return _examine_device(runtime, details)


def _library_problem(module: str) -> str:
    """Return why a CUDA library cannot be used, or an empty string; CuPy loads them when first asked."""
    try:
        import_module(module).getVersion()
    except Exception as exc:  # ImportError from the loader, or DynamicLibNotFoundError (a RuntimeError)
        return _first_line(exc)
    return ""


def _examine_device(runtime: Any, details: dict[str, str]) -> BackendStatus:
    try:
        number = int(runtime.getDevice())
        properties = runtime.getDeviceProperties(number)
        driver = int(runtime.driverGetVersion())
    except Exception as exc:  # a probe never raises
        return BackendStatus(False, f"the CUDA device does not answer ({_first_line(exc)})", details)
    label = properties["name"]
    label = label.decode() if isinstance(label, bytes) else str(label)
    capability = int(properties["major"]), int(properties["minor"])
    details |= {
        "device": f"{number}: {label}",
        "compute capability": f"{capability[0]}.{capability[1]}",
        "memory": f"{int(properties['totalGlobalMem']) / 2**30:.1f} GiB",
        "CUDA of the driver": f"{driver // 1000}.{driver % 1000 // 10}",
    }
    if capability < _OLDEST:
        reason = (
            f"{label} has compute capability {capability[0]}.{capability[1]}; the kernels need "
            f"{_OLDEST[0]}.{_OLDEST[1]} (Turing, 2018) or newer"
        )
        return BackendStatus(False, reason, details)
    return BackendStatus(True, f"{label} answers", details)


@cache
def _probe() -> BackendStatus:
    """Examine once a process: every call with backend="auto" asks, and importing CuPy takes half a second."""
    return _examine()


# ---- kernels ---------------------------------------------------------------------------------------------------------
class _DeviceKernel:
    """A compiled kernel whose launches are checked against its signature."""

    def __init__(self, name: str, parameters: tuple[Parameter, ...], function: Any, cupy: ModuleType) -> None:
        self.name = name
        self.function = function  # the RawKernel: attributes such as num_regs
        self._parameters = parameters
        self._array = cupy.ndarray
        self._synchronize = cupy.cuda.get_current_stream if os.environ.get("ASTRID_GPU_SYNC") else None

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], *, shared_mem: int = 0
    ) -> None:
        """Launch on the current stream; with ASTRID_GPU_SYNC set, wait and name the kernel if it failed."""
        grid, block = check_shape(self.name, "grid", grid), check_shape(self.name, "block", block)
        check_arguments(self.name, self._parameters, args, self._array)
        self.function(grid, block, tuple(args), shared_mem=shared_mem)
        if self._synchronize is None:
            return
        try:
            self._synchronize().synchronize()
        except Exception as exc:
            msg = f"kernel {self.name} failed on the device, grid {grid}, block {block}: {exc}"
            raise RuntimeError(msg) from exc


class CupyPlan:
    """A cuFFT plan made once, run without CuPy's copies and without its division by the number of pixels."""

    def __init__(self, cupy: ModuleType, shape: tuple[int, int], batch: int, kind: str) -> None:
        cufft = import_module("cupy.cuda.cufft")
        get_plan = import_module("cupyx.scipy.fftpack").get_fft_plan
        real, half = (batch, *shape), (batch, shape[0], shape[1] // 2 + 1)
        single = kind in ("R2C", "C2R")
        forward = kind in ("R2C", "D2Z")
        dtype = ("f" if forward else "F") if single else ("d" if forward else "D")
        like = cupy.empty(real if forward else half, dtype)  # its shape is asked for; the pool has it back at once
        cache = cupy.fft.config.get_plan_cache()
        size = cache.get_size()
        cache.set_size(0)  # CuPy's own, which holds what it makes for ever
        try:
            self._plan = get_plan(like, shape=shape, axes=(-2, -1), value_type="R2C" if forward else "C2R")
        finally:
            cache.set_size(size)
        self._direction = cufft.CUFFT_FORWARD if forward else cufft.CUFFT_INVERSE
        area = getattr(self._plan, "work_area", None)
        self.work_bytes = int(area.mem.size) if area is not None else 0

    def __call__(self, source: Any, target: Any) -> None:
        """Transform on the current stream."""
        self._plan.fft(source, target, self._direction)


class CupyContext:
    """A `Context` on the current CUDA device.

    Kernels are compiled by NVRTC when first used; CuPy keeps the binaries in its cache folder between processes.
    """

    def __init__(self, cupy: ModuleType) -> None:
        self.xp = cupy
        self._modules: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._kernels: dict[tuple[str, str, tuple[str, ...]], _DeviceKernel] = {}
        runtime = CupyRuntime(cupy)
        self.runtime: Runtime = runtime
        self.plans = PlanCache(partial(CupyPlan, cupy), limit=runtime.plan_limit, place=runtime.place)
        self.memory: dict[Any, Any] = {}

    def kernel(self, file: str, name: str, options: tuple[str, ...] = ()) -> Kernel:
        """Return kernel `name` of ``kernels/<file>``."""
        key = (file, name, options)
        if key not in self._kernels:
            source = kernel_source(file)
            if (file, options) not in self._modules:
                flags = ("-std=c++17", "-lineinfo", *options)
                self._modules[file, options] = self.xp.RawModule(code=source, options=flags, backend="nvrtc")
            function = self._modules[file, options].get_function(name)
            self._kernels[key] = _DeviceKernel(name, parse_signatures(source, options)[name], function, self.xp)
        return self._kernels[key]


# ---- backend ---------------------------------------------------------------------------------------------------------
class CupyBackend:
    """CuPy arrays on the current device; float32 unless asked otherwise."""

    name: str = "cupy"
    is_gpu: bool = True
    float_dtype: np.dtype = np.dtype(np.float32)

    def __init__(self, cupy: ModuleType) -> None:
        self.xp = cupy
        self._fft = import_module("cupyx.scipy.fft")
        self.context = CupyContext(cupy)
        self.ops: Mapping[str, Callable[..., Any]] = cuda_ops(self.context)

    def asarray(self, array: Any, dtype: Any = None) -> Any:
        """Return a CuPy array on the current device.

        NumPy arrays are copied to it; CuPy arrays and those with ``__cuda_array_interface__`` or DLPack on the device
        are taken as they are.

        Raises
        ------
        InputError
            The array lives on another device than the current one.
        """
        xp = self.xp
        if isinstance(array, np.ndarray) and not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        foreign = not isinstance(array, (np.ndarray, np.generic, xp.ndarray))
        if foreign and hasattr(array, "__dlpack__") and not hasattr(array, "__cuda_array_interface__"):
            array = self._from_dlpack(array)
        if isinstance(array, xp.ndarray):
            current = xp.cuda.Device().id
            if array.device.id != current:
                msg = (
                    f"the array is on CUDA device {array.device.id} but the current one is {current}; "
                    f"call inside `with cupy.cuda.Device({array.device.id}):`"
                )
                raise InputError(msg)
        return xp.asarray(array, dtype=dtype)

    def _from_dlpack(self, array: Any) -> Any:
        kind = int(array.__dlpack_device__()[0])
        return np.from_dlpack(array) if kind == 1 else self.xp.from_dlpack(array)

    def to_host(self, array: Any) -> np.ndarray:
        """Return a NumPy copy; waits for the device."""
        return self.xp.asnumpy(array)

    def rfft2(self, array: Any) -> Any:
        """Forward real FFT over the last two axes, unnormalised."""
        return self._fft.rfft2(array)

    def irfft2(self, spectrum: Any, shape: tuple[int, int]) -> Any:
        """Inverse real FFT over the last two axes, divided by the number of pixels. Destroys `spectrum`.

        cuFFT's complex-to-real transform overwrites its input; without ``overwrite_x`` CuPy would copy it first.
        """
        return self._fft.irfft2(spectrum, s=shape, overwrite_x=True)

    def next_fast_len(self, n: int) -> int:
        """Return the smallest even length >= `n` with no prime factor above 7."""
        return smooth_length(n)

    def free_memory(self) -> int:
        """Return the bytes free on the device: the driver's count and what CuPy's pool holds unused."""
        return self.context.runtime.free_memory()

    def synchronize(self) -> None:
        """Wait for the current device."""
        self.xp.cuda.Device().synchronize()

    def __repr__(self) -> str:
        properties = self.xp.cuda.runtime.getDeviceProperties(self.xp.cuda.Device().id)
        return f"<backend cupy: float32, {properties['name'].decode()}>"


def _load() -> Backend:
    status = _probe()
    if not status.available:
        msg = f"the cupy backend cannot run here: {status.reason}"
        raise BackendUnavailableError(msg)
    return CupyBackend(import_module("cupy"))


spec = BackendSpec(name="cupy", priority=100, probe=_probe, load=_load)
