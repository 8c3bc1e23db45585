"""Sixteen float32 side by side as one value: a vector type for Numba, so that kernels need not hope for vectorising.

LLVM maps the type to what the processor has: one register of AVX-512, two of AVX, four of NEON. No bounds are checked.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

__all__ = [
    "LANES", "OPTIONS", "larger", "load", "root", "smaller", "splat", "store", "transpose16",
    "where_above",
]  # fmt: skip

LANES = 16
OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy", "boundscheck": False}
"""How kernels of lanes are compiled: they run without the interpreter's lock, from plain Python threads."""

_FAST = ("contract", "nsz", "arcp", "reassoc")
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_INDEX = ir.IntType(32)


class _Lanes(types.Type):
    def __init__(self) -> None:
        super().__init__(name="Lanes16f")


lanes = _Lanes()


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _VECTOR)


def _arithmetic(op: Callable[..., Any], name: str) -> None:
    """Let `op` work on two values of lanes by the LLVM instruction `name`."""

    @infer_global(op)
    class _Typed(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if not kws and len(args) == 2 and all(isinstance(a, _Lanes) for a in args):
                return signature(lanes, lanes, lanes)
            return None

    @lower_builtin(op, _Lanes, _Lanes)
    def _lowered(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, name)(*args, flags=_FAST)


for _op, _name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _arithmetic(_op, _name)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Return the address of array[index] as that of a vector; the array is flat and contiguous, or a bare pointer."""
    data = array if isinstance(kind, types.CPointer) else context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _VECTOR.as_pointer())


@intrinsic
def load(typingctx: Any, array: Any, index: Any) -> Any:
    """Return array[index : index + 16]."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(_pointer(context, builder, sig.args[0], *args), align=4)

    return lanes(array, types.intp), codegen


@intrinsic
def store(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """Write array[index : index + 16] = value."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[2], _pointer(context, builder, sig.args[0], *args[:2]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), codegen


@intrinsic
def splat(typingctx: Any, value: Any) -> Any:
    """Return sixteen times the same float32."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        none = ir.Constant(_VECTOR, ir.Undefined)
        one = builder.insert_element(none, args[0], ir.Constant(_INDEX, 0))
        return builder.shuffle_vector(one, none, ir.Constant(ir.VectorType(_INDEX, LANES), [0] * LANES))

    return lanes(types.float32), codegen


def _extreme(relation: str) -> Callable[..., Any]:
    """Return the code of the lane-wise smaller or larger of two values."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(relation, *args), *args)

    return codegen


@intrinsic
def smaller(typingctx: Any, a: Any, b: Any) -> Any:
    """Return the smaller of a and b in each lane."""
    return lanes(lanes, lanes), _extreme("<")


@intrinsic
def larger(typingctx: Any, a: Any, b: Any) -> Any:
    """Return the larger of a and b in each lane."""
    return lanes(lanes, lanes), _extreme(">")


@intrinsic
def root(typingctx: Any, a: Any) -> Any:
    """Return the square root of each lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(_VECTOR, [_VECTOR])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.sqrt.v{LANES}f32"), args)

    return lanes(lanes), codegen


def _shuffle(builder: Any, a: Any, b: Any, order: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INDEX, LANES), order))


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Exchange rows and lanes: blocks of 8, 4, 2 and 1 change places in turn."""
    for width in (8, 4, 2, 1):
        low = [k if not k & width else (k ^ width) + LANES for k in range(LANES)]
        high = [k | width if not k & width else k + LANES for k in range(LANES)]
        mixed = list(rows)
        for r in range(LANES):
            if not r & width:
                mixed[r] = _shuffle(builder, rows[r], rows[r | width], low)
                mixed[r | width] = _shuffle(builder, rows[r], rows[r | width], high)
        rows = mixed
    return rows


@intrinsic
def transpose16(typingctx: Any, source: Any, i: Any, step: Any, target: Any, j: Any, pitch: Any) -> Any:
    """Write target[j + pitch * r + c] = source[i + step * c + r] for a block of 16 x 16."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        a, i, step, b, j, pitch = args
        starts = [builder.add(i, builder.mul(step, ir.Constant(i.type, r))) for r in range(LANES)]
        rows = [builder.load(_pointer(context, builder, sig.args[0], a, s), align=4) for s in starts]
        for r, row in enumerate(_transposed(builder, rows)):
            end = builder.add(j, builder.mul(pitch, ir.Constant(j.type, r)))
            builder.store(row, _pointer(context, builder, sig.args[3], b, end), align=4)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp), codegen


@intrinsic
def where_above(typingctx: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
    """Return `yes` in the lanes where a > b, `no` in the others."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *args[:2]), *args[2:])

    return lanes(lanes, lanes, lanes, lanes), codegen
