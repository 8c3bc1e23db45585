"""CUDA launch code, one file a stem, shared by the CuPy backend and the CPU emulator of the tests.

Each operation has the name, arguments and result of its reference in `astrid_gpu.ops`, with the context (see
`context`) as first argument in place of ``xp``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from typing import Any

from astrid_gpu.backends.cuda.context import Context

__all__ = ["cuda_ops"]

# operation -> module of this package that holds a function of the same name
_OPS = {
    "zogy_spectra": "zogy",
    "zogy_finish": "zogy",
    "zogy_maps": "zogy_maps",
    "subtraction_stream": "stream",
    "extremes": "extremes",
    "fill_masked": "fill",
    "mesh_statistics": "background",
    "mesh_interpolate": "background",
    "convolve": "convolve",
    "find_peaks": "peaks",
    "measure_moments": "moments",
    "gather_stamps": "stamps",
    "resample": "resample",
}


class _CudaOps(Mapping[str, Callable[..., Any]]):
    """The operations bound to one context; a stem is imported when its operation is used."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    def __getitem__(self, name: str) -> Callable[..., Any]:
        function = getattr(import_module(f"{__name__}.{_OPS[name]}"), name)
        return partial(function, self._ctx)

    def __iter__(self) -> Iterator[str]:
        return iter(_OPS)

    def __len__(self) -> int:
        return len(_OPS)


def cuda_ops(ctx: Context) -> Mapping[str, Callable[..., Any]]:
    """Return the fused operations as CUDA kernels that run in `ctx`.

    Callers pass ``xp=`` to a reference but not to these: the context holds it.
    """
    return _CudaOps(ctx)
