"""Piff models that only Piff can draw, drawn by Piff."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from astrid_gpu.errors import PsfError
from astrid_gpu.io.extras import need
from astrid_gpu.ops.psf_stamps import centre_psf, fwhm_of

__all__ = ["PiffDrawn"]

_FIRST_LOOK = 75  # px, the side that the width is measured on
_SIDES = (25, 151)
_WIDTHS = 10  # FWHM, the side of the stamps


class PiffDrawn:
    """A file that the package opens and draws.

    Raises
    ------
    ImportError
        The package is not installed.
    PsfError
        It cannot open the file, or the model depends on more than the position.
    """

    def __init__(self, path: Path, chip: int | None) -> None:
        need("piff", "piff", "a Piff model of this kind")
        import piff

        self.path, self.chip, self.version = path, chip, str(piff.__version__)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.model = piff.read(str(path))
        except Exception as error:
            msg = f"{path}: piff {self.version} cannot open it: {type(error).__name__}: {error}"
            raise PsfError(msg) from error
        others = [key for key in self.model.interp_property_names if key not in ("x", "y", "u", "v")]
        if others:
            msg = (
                f"{path}: the model depends on {', '.join(others)} besides the position; draw it for the values of "
                "your stars, piff.read(path).draw(x, y, ...), and pass PSFModel.fit(stamps, y, x, order=..., shape=...)"
            )
            raise PsfError(msg)

    def stamps(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the PSF at whole pixels, centred, (n, side, side)."""
        middle = len(y) // 2
        width = fwhm_of(centre_psf(self._one(y[middle], x[middle], _FIRST_LOOK), name=str(self.path)))
        side = int(np.clip(2 * round(_WIDTHS * width / 2) + 1, *_SIDES))
        return np.stack([centre_psf(self._one(a, b, side), name=str(self.path)) for a, b in zip(y, x, strict=True)])

    def _one(self, y: float, x: float, side: int) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = self.model.draw(x=x + 1, y=y + 1, chipnum=self.chip, stamp_size=side)
        except Exception as error:
            msg = f"{self.path}: piff {self.version} cannot draw it at (y {y:g}, x {x:g}): {error}"
            raise PsfError(msg) from error
        return np.asarray(image.array, float)
