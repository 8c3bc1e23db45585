"""What this machine can do: backends, devices, versions, and why something does not answer."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import astrid_gpu
from astrid_gpu.backends import backend_status, get_backend
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
        none), packages (version, or the extra that installs it). Costs a probe each; loads one backend.
    """
    backends = {
        name: {"available": s.available, "reason": s.reason, "details": dict(s.details)}
        for name, s in backend_status().items()
    }
    try:
        auto = get_backend("auto").name
    except AstridGpuError as exc:
        auto = f"nothing: {exc}"
    return {
        "version": astrid_gpu.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "backends": backends,
        "auto": auto,
        "packages": {name: _found(name, extra) for name, extra in _EXTRAS.items()},
    }


def _found(name: str, extra: str) -> str:
    """Return the version of a package, or how to get it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return f"not installed; pip install 'astrid-gpu[{extra}]'" if extra else "not installed"
