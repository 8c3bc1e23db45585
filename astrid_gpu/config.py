"""One frozen configuration per stage, to and from TOML; unknown keys are refused with the nearest valid name."""

from __future__ import annotations

import difflib
import numbers
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from astrid_gpu.errors import ConfigError

__all__ = ["DetectConfig", "SubtractConfig", "from_mapping", "read_toml", "to_mapping"]

_C = TypeVar("_C")


def _choice(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        msg = f"{name} must be one of {', '.join(repr(a) for a in allowed)}; got {value!r}"
        raise ConfigError(msg)


def _plain_numbers(config: Any, *names: str) -> None:
    """Turn the numbers of other libraries, such as NumPy's integers, into Python's, which TOML and JSON can hold."""
    for name in names:
        value = getattr(config, name)
        if type(value) in (bool, int, float):
            continue
        if isinstance(value, numbers.Integral):
            object.__setattr__(config, name, int(value))
        elif isinstance(value, numbers.Real):
            object.__setattr__(config, name, float(value))


@dataclass(frozen=True)
class SubtractConfig:
    """How `subtract` prepares and differences a pair.

    Parameters
    ----------
    method : {"zogy", "classic", "classic-fit"}
        Proper subtraction; N - R / beta; or N - (scale R + offset) fitted to the pixels.
    align : {"auto", "wcs", "stars", "none"}
        How the reference comes to the science grid: "auto" uses the WCS of both where they have one, else stars.
    grid : {"science", "reference"}
        Whose pixel grid the result has; the other image is brought to it. Fluxes are the science image's either way.
    kernel : {"spline5", "spline3", "lanczos3", "bilinear", "nearest"}
        What interpolates where the grids differ, see `align`.
    min_overlap : float
        Common area over that of the smaller frame, 0 to 1, below which it is an error.
    background : bool
        Subtract a mesh background from both images. Switch it off only for sky-subtracted images.
    box : int or None
        Side of a background box in pixels; None chooses it from the image and the PSF.
    cosmic_rays : {"none", "auto", "astroscrappy"}
        Mask cosmic rays in both images before anything is differenced: not at all (what is left of them in the
        difference is flagged SHARP), by astroscrappy where it is installed, or by astroscrappy or not at all.
    bad_lines : bool
        Find and mask bad columns and rows.
    trails : bool
        Look for the trails of satellites in the result and flag them.
    psf_size : int or None
        Odd side of measured PSF stamps; None takes about 8 FWHM.
    psf_order : {"auto", 0, 1, 2, 3}
        Degree of the polynomial over the field of measured PSFs, 0 for constant ones; "auto" takes what the stars
        support and call for, see `measure_psf`.
    flux_order : {"auto", 0, 1, 2, 3}
        Degree of the polynomial over the field of the flux ratio, 0 for a constant one; "auto" takes what the sources
        call for, a number is lowered to what they support.
    registration : {"shift", "noise", "none"}
        What to do with the registration measured on stars: remove the mean shift and count the scatter as
        astrometric noise; only count both as noise; or nothing.
    noise : {"auto", "coloured", "white"}
        What the noise of blank sky is taken for: its power spectrum is measured on each image, and of each tile where
        tiles differ by more than chance, and used where the correlation of neighbouring pixels matters ("auto"),
        always, or never.
    renormalise : {"global", "local", "none"}
        Divide S_corr by its robust width on quiet sky (and multiply flux errors), so that it has unit noise
        where the noise model does not hold: by one number, or by a smooth map where the width varies over the frame
        beyond chance. Raw median and width are reported either way.
    tiles : {"auto", "never"} or int
        Difference the frame by overlapping tiles, each with its own PSF, noise, noise spectrum and flux ratio: "auto"
        if one of these measurably varies over the frame or the frame is too large for the memory; "never"; or always,
        with interiors of so many pixels a side.
    memory : float or None
        GiB of memory that a pair may take; None for what is free. With less than the whole frames take, they are
        prepared by blocks and differenced by tiles, with scratch files, and without the map of S.
    backend : str or Backend
        See `get_backend`.
    dtype : {"float32", "float64"} or None
        Type to compute in; None follows the backend.
    """

    method: str = "zogy"
    align: str = "auto"
    grid: str = "science"
    kernel: str = "spline5"
    min_overlap: float = 0.1
    background: bool = True
    box: int | None = None
    cosmic_rays: str = "none"
    bad_lines: bool = True
    trails: bool = True
    psf_size: int | None = None
    psf_order: int | str = "auto"
    flux_order: int | str = "auto"
    registration: str = "shift"
    noise: str = "auto"
    renormalise: str = "global"
    tiles: str | int = "auto"
    memory: float | None = None
    backend: Any = "auto"
    dtype: str | None = None

    def __post_init__(self) -> None:
        _plain_numbers(self, "box", "psf_size", "psf_order", "flux_order", "tiles", "memory", "min_overlap")
        _choice("method", self.method, ("zogy", "classic", "classic-fit"))
        _choice("align", self.align, ("auto", "wcs", "stars", "none"))
        _choice("grid", self.grid, ("science", "reference"))
        _choice("kernel", self.kernel, ("spline5", "spline3", "lanczos3", "bilinear", "nearest", "cubic", "quintic"))
        if not 0 <= self.min_overlap <= 1:
            msg = f"min_overlap must be a fraction from 0 to 1, got {self.min_overlap!r}"
            raise ConfigError(msg)
        for name in ("psf_order", "flux_order"):
            _choice(name, getattr(self, name), ("auto", 0, 1, 2, 3))
        _choice("registration", self.registration, ("shift", "noise", "none"))
        _choice("cosmic_rays", self.cosmic_rays, ("none", "auto", "astroscrappy"))
        _choice("noise", self.noise, ("auto", "coloured", "white"))
        _choice("renormalise", self.renormalise, ("global", "local", "none"))
        _choice("dtype", self.dtype, (None, "float32", "float64"))
        if self.tiles not in ("auto", "never") and (
            isinstance(self.tiles, (bool, str)) or not isinstance(self.tiles, int) or self.tiles < 64
        ):
            msg = f"tiles must be 'auto', 'never' or the side of a tile, at least 64 pixels; got {self.tiles!r}"
            raise ConfigError(msg)
        if self.memory is not None and not (isinstance(self.memory, (int, float)) and self.memory > 0):
            msg = f"memory must be None or a positive number of GiB, got {self.memory!r}"
            raise ConfigError(msg)
        for name, least in (("box", 8), ("psf_size", 5)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                msg = f"{name} must be None or a whole number of pixels, at least {least}; got {value!r}"
                raise ConfigError(msg)


@dataclass(frozen=True)
class DetectConfig:
    """How `detect` finds candidates: the threshold in sigma of S_corr, the signs, the extractor, the cutout side."""

    threshold: float = 5.0
    polarity: str = "both"
    extractor: str = "peaks"
    size: int = 63

    def __post_init__(self) -> None:
        _plain_numbers(self, "threshold", "size")
        _choice("polarity", self.polarity, ("positive", "negative", "both"))
        _choice("extractor", self.extractor, ("peaks", "sep", "photutils"))
        if not self.threshold > 0:
            msg = f"threshold must be positive (sigma of S_corr), got {self.threshold!r}"
            raise ConfigError(msg)
        if self.size < 3 or self.size % 2 == 0:
            msg = f"size must be an odd number of pixels, at least 3; got {self.size!r}"
            raise ConfigError(msg)


def from_mapping(kind: type[_C], values: dict[str, Any], *, where: str = "") -> _C:
    """Build a configuration from a mapping.

    Raises
    ------
    ConfigError
        A key is unknown (the nearest valid one is named) or a value impossible.
    """
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            msg = f"unknown option {key!r}{f' in {where}' if where else ''}{hint} Known: {', '.join(known)}"
            raise ConfigError(msg)
    return kind(**values)


def to_mapping(config: Any) -> dict[str, Any]:
    """Return the fields of a configuration that are not None, ready for TOML or JSON."""
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    return {k: getattr(v, "name", v) for k, v in values.items() if v is not None}


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file, with the file and line in the error where it is broken."""
    try:
        with Path(path).open("rb") as stream:
            return tomllib.load(stream)
    except FileNotFoundError as exc:
        msg = f"no configuration file at {path}"
        raise ConfigError(msg) from exc
    except tomllib.TOMLDecodeError as exc:
        msg = f"{path} is not valid TOML: {exc}"
        raise ConfigError(msg) from exc
