"""Argument checks shared by the engine: everything wrong is said before any work is done."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from astrid_gpu.backends import Backend
from astrid_gpu.errors import InputError, ShapeMismatchError

__all__ = ["as_plane", "as_stack", "check_outputs", "float_type", "per_image", "positive"]


def float_type(backend: Backend, arrays: Sequence[Any], dtype: Any = None) -> np.dtype:
    """Return the type to compute in: `dtype` if given, float32 if every array is, else the backend's own."""
    if dtype is not None:
        chosen = np.dtype(dtype)
        if chosen not in (np.dtype(np.float32), np.dtype(np.float64)):
            msg = f"dtype must be float32 or float64, got {chosen}"
            raise InputError(msg)
        return chosen
    types = {np.dtype(getattr(a, "dtype", np.float64)) for a in arrays if a is not None}
    return np.dtype(np.float32) if types == {np.dtype(np.float32)} else np.dtype(backend.float_dtype)


def as_stack(backend: Backend, array: Any, name: str, dtype: np.dtype) -> Any:
    """Return an image or stack as a contiguous (n, ny, nx) array of `dtype`.

    Raises
    ------
    ShapeMismatchError
        Not two- or three-dimensional, or empty.
    InputError
        Not numbers.
    """
    native = backend.asarray(array)
    if native.dtype.kind not in "fiub":
        msg = f"{name} must hold real numbers, got dtype {native.dtype}"
        raise InputError(msg)
    if native.ndim not in (2, 3) or 0 in native.shape:
        msg = f"{name} must be an image (ny, nx) or a stack (n, ny, nx), got shape {tuple(native.shape)}"
        raise ShapeMismatchError(msg)
    stack = native if native.ndim == 3 else native[None]
    return backend.xp.ascontiguousarray(stack.astype(dtype, copy=False))


def as_plane(backend: Backend, array: Any, name: str, n: int, shape: tuple[int, int]) -> Any:
    """Return a companion of the images as (1 or n, ny, nx), checked against their shape."""
    native = backend.asarray(array)
    plane = native if native.ndim == 3 else native[None]
    if native.ndim not in (2, 3) or tuple(plane.shape[1:]) != shape or plane.shape[0] not in (1, n):
        allowed = f"{shape} or {(n, *shape)}" if n > 1 else f"{shape}"
        msg = f"{name} has shape {tuple(native.shape)}, but the images call for {allowed}"
        raise ShapeMismatchError(msg)
    return plane


def per_image(value: Any, name: str, n: int) -> np.ndarray:
    """Return a scalar or one number per image as float64 (n,), finite."""
    host = value.get() if hasattr(value, "get") else value
    numbers = np.atleast_1d(np.asarray(host, dtype=float))
    if numbers.ndim != 1 or numbers.shape[0] not in (1, n):
        msg = f"{name} must be one number or one per image ({n}), got shape {np.shape(host)}"
        raise ShapeMismatchError(msg)
    if not np.all(np.isfinite(numbers)):
        msg = f"{name} must be finite, got {host!r}"
        raise InputError(msg)
    return np.broadcast_to(numbers, (n,)).copy()


def positive(value: Any, name: str, n: int) -> np.ndarray:
    """Return `per_image` numbers that must all be positive."""
    numbers = per_image(value, name, n)
    if np.any(numbers <= 0):
        msg = f"{name} must be positive, got {float(numbers.min()):g}"
        raise InputError(msg)
    return numbers


def check_outputs(outputs: Collection[str], allowed: Collection[str]) -> set[str]:
    """Return `outputs` as a set, refusing names that are not known."""
    wanted = {outputs} if isinstance(outputs, str) else set(outputs)
    unknown = sorted(wanted - set(allowed))
    if unknown or not wanted:
        msg = f"outputs may name any of {', '.join(sorted(allowed))}; got {', '.join(unknown) or 'nothing'}"
        raise InputError(msg)
    return wanted
