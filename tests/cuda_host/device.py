"""Arrays that behave as if they were on a device, on the CPU: what CuPy refuses is refused here.

NumPy and CuPy share their functions but not their arrays. Code that works on NumPy alone mixes the two without
noticing: ``np.asarray`` of a device array, a host array in an operator, a method that CuPy lacks. `DeviceArray` and
`namespace` find this without a GPU; `tests/cuda_host/test_device.py` runs the engine on them.
"""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

__all__ = ["DeviceArray", "namespace", "unwrap", "wrap"]

# Methods and attributes of cupy.ndarray that NumPy's has too.
_METHODS = frozenset(
    """
    T all any argmax argmin argpartition argsort astype byteswap choose clip compress conj conjugate copy cumprod cumsum
    diagonal dot dtype fill flatten imag item itemsize mT max mean min nbytes ndim nonzero partition prod put ravel real
    repeat reshape round searchsorted shape size sort squeeze std strides sum swapaxes take tobytes tolist trace
    transpose var view
    """.split()  # noqa: SIM905 - a table of names, readable as such
)
# Functions that take host data, because bringing it to the device is what they do.
_FROM_HOST = frozenset(["array", "asarray", "asanyarray", "ascontiguousarray", "asfortranarray"])


def _refuse_host(value: Any, where: str) -> None:
    if isinstance(value, np.ndarray):
        msg = f"{where}: a host array of shape {value.shape} among device arrays; move it with xp.asarray"
        raise TypeError(msg)
    if isinstance(value, (list, tuple)):
        for item in value:
            _refuse_host(item, where)


def unwrap(value: Any) -> Any:
    """Return the host memory behind device arrays, also inside lists, tuples and dicts."""
    if isinstance(value, DeviceArray):
        return value._memory
    if isinstance(value, (list, tuple)):
        items = [unwrap(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return {k: unwrap(v) for k, v in value.items()} if isinstance(value, dict) else value


def wrap(value: Any) -> Any:
    """Return results as device arrays; the scalar that NumPy gives for a reduction is an array of no dimension."""
    if isinstance(value, (np.ndarray, np.generic)):
        return DeviceArray(np.asarray(value))
    if isinstance(value, (list, tuple)):
        return tuple(wrap(item) for item in value)
    return value


class DeviceArray(NDArrayOperatorsMixin):
    """An array on the emulated device. Only ``get`` and CuPy's other explicit ways lead to the host."""

    __array_priority__ = 100

    def __init__(self, memory: np.ndarray) -> None:
        self._memory = memory

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        msg = "implicit conversion of a device array to a NumPy array is not allowed; use .get()"
        raise TypeError(msg)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        out = kwargs.get("out", ())
        _refuse_host([*inputs, *out], ufunc.__name__)
        result = getattr(ufunc, method)(*unwrap(inputs), **unwrap(kwargs))
        return out[0] if out else wrap(result)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return _call(function, args, kwargs)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        interface = self._memory.__array_interface__
        return {"shape": self.shape, "typestr": interface["typestr"], "data": interface["data"], "version": 3}

    def get(self) -> np.ndarray:
        """Return a host copy."""
        return self._memory.copy()

    @property
    def flags(self) -> SimpleNamespace:
        """Contiguity and ownership: CuPy has no ``writeable``."""
        own = self._memory.flags
        return SimpleNamespace(c_contiguous=own.c_contiguous, f_contiguous=own.f_contiguous, owndata=own.owndata)

    def __getattr__(self, name: str) -> Any:
        if name not in _METHODS:
            msg = f"cupy.ndarray has no attribute {name!r} that works as NumPy's does"
            raise AttributeError(msg)
        value = getattr(self._memory, name)
        if not callable(value) or isinstance(value, np.ndarray):
            return wrap(value) if isinstance(value, np.ndarray) else value

        def method(*args: Any, **kwargs: Any) -> Any:
            _refuse_host([*args, *kwargs.values()], name)
            result = value(*unwrap(args), **unwrap(kwargs))
            return result if name in ("item", "tolist", "tobytes") else wrap(result)

        return method

    def __getitem__(self, index: Any) -> Any:
        return wrap(self._memory[unwrap(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        parts = index if isinstance(index, tuple) else (index,)
        if all(part is None or part is Ellipsis or isinstance(part, (slice, int, np.integer)) for part in parts):
            _refuse_host(value, "assignment to a slice")
        self._memory[unwrap(index)] = unwrap(value)

    def __len__(self) -> int:
        return len(self._memory)

    def __iter__(self) -> Any:
        return (wrap(item) for item in self._memory)

    def __bool__(self) -> bool:
        return bool(self._memory)

    def __int__(self) -> int:
        return int(self._memory)

    def __float__(self) -> float:
        return float(self._memory)

    def __complex__(self) -> complex:
        return complex(self._memory)

    def __repr__(self) -> str:
        return f"device {self._memory!r}"


def _call(function: Any, args: Any, kwargs: Any) -> Any:
    name = getattr(function, "__name__", str(function))
    if name not in _FROM_HOST:
        _refuse_host([*args, *kwargs.values()], name)
    return wrap(function(*unwrap(args), **unwrap(kwargs)))


class _Function:
    """A function of the namespace; ufuncs keep their methods (``xp.add.at``)."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _call(self._function, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return _Function(getattr(self._function, name))


class _Namespace(ModuleType):
    """NumPy's functions over device arrays."""

    ndarray = DeviceArray

    def __init__(self, module: ModuleType) -> None:
        super().__init__(f"device_{module.__name__}")
        self._module = module

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        if isinstance(value, ModuleType):
            return _Namespace(value)
        # dtypes and constants are NumPy's own in CuPy too
        return value if isinstance(value, type) or not callable(value) else _Function(value)


namespace = _Namespace(np)
