"""Read the signatures of CUDA kernels and check launch arguments against them.

CuPy passes whatever it is given: a Python float goes as a double, an int as 64 bits, an array of another dtype or a
strided view as its bare address, and the kernel computes nonsense. Every launch therefore passes here first, on the
device and in the emulator alike; it costs about a microsecond an argument.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["DOUBLE", "Parameter", "check_arguments", "check_shape", "parse_signatures"]

DOUBLE = "-DASTRID_DOUBLE"
_KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(([^)]*)\)\s*\{", re.DOTALL)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)

# What CUDA C calls it -> what NumPy calls it. One byte: masks may be bool or uint8.
_DTYPES: dict[str, tuple[np.dtype, ...]] = {
    "float": (np.dtype(np.float32),),
    "double": (np.dtype(np.float64),),
    "float2": (np.dtype(np.complex64),),
    "double2": (np.dtype(np.complex128),),
    "bool": (np.dtype(np.bool_), np.dtype(np.uint8)),
    "unsigned char": (np.dtype(np.uint8), np.dtype(np.bool_)),
    "short": (np.dtype(np.int16),),
    "unsigned short": (np.dtype(np.uint16),),
    "int": (np.dtype(np.int32),),
    "unsigned": (np.dtype(np.uint32),),
    "unsigned int": (np.dtype(np.uint32),),
    "long long": (np.dtype(np.int64),),
    "unsigned long long": (np.dtype(np.uint64),),
}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel.

    Attributes
    ----------
    name : str
    ctype : str
        C type without ``const``, ``*`` and ``__restrict__``.
    pointer, const : bool
    dtypes : tuple of numpy.dtype
        What may be passed.
    """

    name: str
    ctype: str
    pointer: bool
    const: bool
    dtypes: tuple[np.dtype, ...]


def parse_signatures(source: str, options: Sequence[str] = ()) -> Mapping[str, tuple[Parameter, ...]]:
    """Return the parameters of every ``__global__`` function in `source`, by kernel name.

    `real` and `real2` are float and float2, or double and double2 with ``-DASTRID_DOUBLE`` in `options`.

    Raises
    ------
    ValueError
        A parameter has a type that launches cannot pass; use the types of this module's table.
    """
    plain = re.sub(r"\breal(2?)\b", r"double\1" if DOUBLE in options else r"float\1", _COMMENT.sub(" ", source))
    return {name: tuple(_parameter(name, text) for text in _split(text)) for name, text in _KERNEL.findall(plain)}


def _split(parameters: str) -> list[str]:
    return [text for text in parameters.split(",") if text.strip() not in ("", "void")]


def _parameter(kernel: str, text: str) -> Parameter:
    words = text.replace("__restrict__", " ").replace("*", " * ").split()
    ctype = " ".join(word for word in words[:-1] if word not in ("*", "const"))
    if ctype not in _DTYPES:
        msg = f"kernel {kernel}: parameter {text.strip()!r} has type {ctype!r}; allowed are {', '.join(_DTYPES)}"
        raise ValueError(msg)
    pointer = "*" in words
    return Parameter(words[-1], ctype, pointer, "const" in words, _DTYPES[ctype])


def check_shape(kernel: str, what: str, shape: Sequence[int]) -> tuple[int, int, int]:
    """Return a grid or block of one to three positive ints as three."""
    if not isinstance(shape, tuple) or not 1 <= len(shape) <= 3:
        msg = f"{kernel}: {what} must be a tuple of one to three ints, got {shape!r}"
        raise TypeError(msg)
    sides = tuple(int(side) for side in shape)
    if min(sides) < 1:
        msg = f"{kernel}: {what} {sides} has an empty side; return early where there is nothing to do"
        raise ValueError(msg)
    x, y, z = (*sides, 1, 1)[:3]
    return x, y, z


def check_arguments(kernel: str, parameters: Sequence[Parameter], args: Sequence[Any], array: type) -> None:
    """Check the arguments of a launch.

    Parameters
    ----------
    kernel : str
        Name, for the message.
    parameters : sequence of Parameter
    args : sequence
        NumPy scalars of the exact type for values; C-contiguous arrays of the exact dtype, or the null pointer
        ``numpy.uintp(0)``, for pointers.
    array : type
        The array class of the namespace: ``numpy.ndarray`` or ``cupy.ndarray``.

    Raises
    ------
    TypeError
        Number, type, dtype or contiguity is wrong.
    """
    if len(args) != len(parameters):
        names = ", ".join(p.name for p in parameters)
        msg = f"{kernel} takes {len(parameters)} arguments ({names}), got {len(args)}"
        raise TypeError(msg)
    for parameter, value in zip(parameters, args, strict=True):
        problem = _pointer_problem(parameter, value, array) if parameter.pointer else _value_problem(parameter, value)
        if problem:
            msg = f"{kernel}: {parameter.name} {problem}"
            raise TypeError(msg)


def _value_problem(parameter: Parameter, value: Any) -> str:
    wanted = parameter.dtypes[0]
    if isinstance(value, np.generic) and value.dtype in parameter.dtypes:
        return ""
    got = value.dtype if isinstance(value, np.generic) else type(value).__name__
    return f"is {parameter.ctype}: pass numpy.{wanted.name}, got {got}"


def _pointer_problem(parameter: Parameter, value: Any, array: Any) -> str:
    if isinstance(value, np.uintp) and value == 0:
        return ""
    if not isinstance(value, array):
        return f"is a pointer: pass a {array.__module__} array or the null pointer numpy.uintp(0), got {type(value)}"
    if value.dtype not in parameter.dtypes:
        return f"points to {parameter.ctype}: pass dtype {parameter.dtypes[0].name}, got {value.dtype}"
    if not value.flags.c_contiguous:
        return f"must be C-contiguous, got strides {value.strides} for shape {value.shape}"
    if not parameter.const and not getattr(value.flags, "writeable", True):
        return "is written to, but the array is read-only"
    return ""
