"""Find what changed in the sky: batched ZOGY image subtraction in NumPy, Numba or on the GPU, one API."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

# In a source checkout the kernels lie beside the package; an installed wheel has them inside it.
_here = Path(__file__).resolve().parent
if not (_here / "kernels").is_dir() and (_here.parent / "kernels" / "zogy.cu").is_file():
    __path__.append(str(_here.parent))

_PUBLIC = {
    "align": "astrid_gpu.align",
    "available_backends": "astrid_gpu.backends",
    "Background": "astrid_gpu.results",
    "Candidates": "astrid_gpu.results",
    "classic": "astrid_gpu.engine.classic",
    "convolve": "astrid_gpu.engine.convolve",
    "cutouts": "astrid_gpu.cutouts",
    "Cutouts": "astrid_gpu.results",
    "detect": "astrid_gpu.detect",
    "Difference": "astrid_gpu.results",
    "estimate_background": "astrid_gpu.engine.background",
    "find_peaks": "astrid_gpu.engine.peaks",
    "get_backend": "astrid_gpu.backends",
    "Image": "astrid_gpu.image",
    "measure_noise_spectrum": "astrid_gpu.calibrate",
    "measure_psf": "astrid_gpu.psf",
    "PSF": "astrid_gpu.image",
    "PSFModel": "astrid_gpu.image",
    "quality": "astrid_gpu.quality",
    "read_image": "astrid_gpu.io",
    "read_psfex": "astrid_gpu.io",
    "register_backend": "astrid_gpu.backends",
    "resample": "astrid_gpu.engine.resample",
    "subtract": "astrid_gpu.subtract",
    "subtract_stack": "astrid_gpu.subtract_stack",
    "write_dataset": "astrid_gpu.dataset",
    "zogy": "astrid_gpu.engine.zogy",
    "zogy_stream": "astrid_gpu.engine.stream",
}
_SUBPACKAGES = ("acquire", "backends", "errors", "flags", "simulate")

__all__ = [*sorted(_PUBLIC), *_SUBPACKAGES]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used (PEP 562), so that ``import astrid_gpu`` stays instant."""
    if name in _PUBLIC:
        value = getattr(import_module(_PUBLIC[name]), name)
        globals()[name] = value
        return value
    if name in _SUBPACKAGES:
        return import_module(f"astrid_gpu.{name}")
    msg = f"module 'astrid_gpu' has no attribute {name!r}"
    raise AttributeError(msg)


class _Package(ModuleType):
    """Keeps ``ag.subtract`` the function although a module of that name exists: importing it would set the module."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in _PUBLIC):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
