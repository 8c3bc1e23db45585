"""The registry of backends: found by entry point, probed cheaply, loaded when used."""

from __future__ import annotations

import logging
import os
from functools import cache, lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import numpy as np

from astrid_gpu.backends.base import Backend, BackendSpec, BackendStatus
from astrid_gpu.errors import BackendUnavailableError, ConfigError

__all__ = [
    "Backend",
    "BackendSpec",
    "BackendStatus",
    "available_backends",
    "backend_status",
    "get_backend",
    "library_of",
    "register_backend",
    "resolve_backend",
]

_log = logging.getLogger("astrid_gpu")
_GROUP = "astrid_gpu.backends"
# The built-ins, so that an uninstalled checkout works; an installed wheel names the same through entry points.
_BUILTIN = {
    "numpy": "astrid_gpu.backends.numpy_:spec",
    "numba": "astrid_gpu.backends.numba_:spec",
    "cupy": "astrid_gpu.backends.cupy_:spec",
}
_registered: dict[str, BackendSpec] = {}


def register_backend(spec: BackendSpec) -> None:
    """Add a backend, or replace the one of the same name, for this process.

    Packages that ship a backend name it in the entry-point group ``astrid_gpu.backends`` instead.

    Parameters
    ----------
    spec : BackendSpec
        Its name, priority for ``"auto"``, probe and loader.
    """
    _registered[spec.name] = spec
    _load.cache_clear()


def _specs() -> dict[str, BackendSpec]:
    """Return all known specs by name: built-in, then entry points, then registered by hand."""
    specs: dict[str, BackendSpec] = {}
    for target in _BUILTIN.values():
        module, _, attribute = target.partition(":")
        spec = getattr(import_module(module), attribute)
        specs[spec.name] = spec
    for point in _third_party():
        try:
            spec = point.load()
        except Exception as exc:  # a broken plug-in must not stop the others
            _log.warning("backend plug-in %r could not be imported: %s", point.name, exc)
            continue
        specs[spec.name] = spec
    specs.update(_registered)
    return specs


@lru_cache(maxsize=1)
def _third_party() -> tuple[Any, ...]:
    return tuple(p for p in entry_points(group=_GROUP) if p.name not in _BUILTIN)


def backend_status() -> dict[str, BackendStatus]:
    """Probe every known backend.

    Returns
    -------
    dict of str to BackendStatus
        By name, highest priority first, with the reason why one cannot run here.
    """
    specs = sorted(_specs().values(), key=lambda spec: -spec.priority)
    return {spec.name: spec.probe() for spec in specs}


def available_backends() -> list[str]:
    """Return the names of the backends that can run here.

    Returns
    -------
    list of str
        Highest priority first: ``"auto"`` takes the first one.
    """
    return [name for name, status in backend_status().items() if status.available]


@cache
def _load(name: str) -> Backend:
    return _specs()[name].load()


@cache
def _announce(name: str, how: str) -> None:
    _log.info("using the %s backend (%s)", name, how)


def get_backend(name: str | Backend | Any = "auto") -> Backend:
    """Return a backend.

    Parameters
    ----------
    name : str, Backend or array
        ``"auto"`` takes ``ASTRID_GPU_BACKEND`` if it is set, else cupy if a device answers, else numba, else
        numpy. A name takes that backend or fails: there is no fall-back from a name. A CuPy array takes cupy;
        a NumPy array takes what ``"auto"`` takes.

    Returns
    -------
    Backend

    Raises
    ------
    BackendUnavailableError
        The named backend cannot run here; the message says why and what to install.
    ConfigError
        There is no backend of that name.
    """
    if isinstance(name, str):
        return _by_name(name)
    if hasattr(name, "ops") and hasattr(name, "rfft2"):
        return name  # a Backend already
    return resolve_backend("auto", {"array": name})


def _by_name(name: str) -> Backend:
    specs = _specs()
    if name == "auto":
        wanted = os.environ.get("ASTRID_GPU_BACKEND", "").strip()
        if wanted and wanted != "auto":
            _announce(wanted, "ASTRID_GPU_BACKEND")
            return _by_name(wanted)
        chosen = available_backends()[0]
        _announce(chosen, "auto")
        return _load(chosen)
    if name not in specs:
        msg = f"no backend is called {name!r}; known are {', '.join(sorted(specs))} and 'auto'"
        raise ConfigError(msg)
    status = specs[name].probe()
    if not status.available:
        msg = f"the {name} backend cannot run here: {status.reason}"
        raise BackendUnavailableError(msg)
    return _load(name)


def library_of(array: Any) -> str:
    """Return ``"cupy"``, ``"numpy"`` or ``"host"`` (lists, scalars) for the library that owns `array`."""
    if isinstance(array, np.ndarray):
        return "numpy"
    if hasattr(array, "__cuda_array_interface__"):
        return "cupy"
    device = getattr(array, "__dlpack_device__", None)
    if callable(device) and not isinstance(array, np.generic):
        return "numpy" if int(device()[0]) == 1 else "cupy"
    return "host"


def resolve_backend(backend: str | Backend, arrays: dict[str, Any]) -> Backend:
    """Choose the backend for a call from its `backend` argument and its arrays.

    Parameters
    ----------
    backend : str or Backend
        As in `get_backend`.
    arrays : dict of str to array or None
        The array arguments by name; what comes in decides what goes out.

    Raises
    ------
    TypeError
        NumPy and CuPy arrays are mixed, or a CuPy array was given to a CPU backend. Nothing is copied between host
        and device behind the caller's back.
    """
    owners = {name: library_of(a) for name, a in arrays.items() if a is not None}
    libraries = {owner for owner in owners.values() if owner != "host"}
    if len(libraries) > 1:
        listed = ", ".join(f"{name} is {owner}" for name, owner in owners.items() if owner != "host")
        msg = f"arrays of different libraries cannot be mixed: {listed}; move them to one side first"
        raise TypeError(msg)
    on_device = libraries == {"cupy"}
    if isinstance(backend, str) and backend == "auto" and on_device:
        return _by_name("cupy")
    chosen = get_backend(backend)
    if on_device and not chosen.is_gpu:
        msg = f"the arrays are on a GPU but backend {chosen.name!r} runs on the CPU; call .get() on them first"
        raise TypeError(msg)
    return chosen
