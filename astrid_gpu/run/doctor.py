"""What this machine can do: backends, devices, versions, and why something does not answer."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import astrid_gpu
from astrid_gpu.backends import backend_status, get_backend
from astrid_gpu.backends.fft import fft_provider, fft_status
from astrid_gpu.errors import AstridGpuError

__all__ = ["examine"]

_EXTRAS = {
    "numpy": "", "scipy": "", "numba": "cpu", "astropy": "fits", "reproject": "fits",
    "sep": "fits", "photutils": "fits", "h5py": "fits", "matplotlib": "report",
}  # fmt: skip


def examine() -> dict[str, Any]:
    """Probe every backend and every optional package.

    Returns
    -------
    dict
        version, python, platform, backends (available, reason, details), auto (the backend "auto" takes, or why
        none), fft (libraries, and what "auto" takes), kernels (where Numba keeps compiled code, or why it cannot),
        packages (version, or the extra that installs it). Costs a probe each; loads one backend.
    """
    backends = {
        name: {"available": s.available, "reason": s.reason, "details": dict(s.details)}
        for name, s in backend_status().items()
    }
    return {
        "version": astrid_gpu.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "backends": backends,
        "auto": _answer(lambda: get_backend("auto").name),
        "fft": {"libraries": {n: why or "installed" for n, why in fft_status().items()}, "auto": _answer(_fft)},
        "kernels": _kernels() if backends["numba"]["available"] else {},
        "packages": {name: _found(name, extra) for name, extra in _EXTRAS.items()},
    }


def _answer(ask: Callable[[], str]) -> str:
    """Return an answer, or why there is none."""
    try:
        return ask()
    except AstridGpuError as exc:
        return f"nothing: {exc}"


def _fft() -> str:
    provider = fft_provider()
    return f"{provider.name}, {provider.threads} threads"


def _kernels() -> dict[str, str]:
    """Say where the code that Numba compiles is kept and how much is there, or what to do if it has no place."""
    from astrid_gpu.backends.numba_ import kernel_cache

    try:
        folder = kernel_cache().folder
    except AstridGpuError as exc:
        return {"folder": f"none: {exc}"}
    number = len({path.name.split("-")[0] for path in Path(folder).glob("*_numba.*.nbi")})
    return {"folder": folder, "functions": str(number) if number else "none yet: astrid-gpu warmup"}


def _found(name: str, extra: str) -> str:
    """Return the version of a package, or how to get it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return f"not installed; pip install 'astrid-gpu[{extra}]'" if extra else "not installed"
