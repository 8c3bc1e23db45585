"""Every error this package raises on purpose.

::

    AstridGpuError
    ├── InputError (ValueError)            what was given cannot be used
    │   ├── ShapeMismatchError             arrays that must agree in shape do not
    │   ├── PsfError                       a PSF is not finite, not positive, not centred, or absent
    │   ├── WcsError                       a world coordinate system is missing, broken or elsewhere on the sky
    │   └── FitsError                      a file is not FITS, is damaged, or holds no usable image
    ├── ConfigError (ValueError)           an unknown option or an impossible value
    ├── BackendUnavailableError (ImportError)   a named backend cannot run here, and why
    ├── DeviceMemoryError (MemoryError)    the device is full, and what would fit
    ├── AlignmentError                     two images could not be registered
    ├── AcquisitionError (OSError)         an archive or a download failed
    └── DatasetError                       a data set cannot be written or read

Messages name what was given, what is allowed and what to do.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AcquisitionError",
    "AlignmentError",
    "AstridGpuError",
    "BackendUnavailableError",
    "ConfigError",
    "DatasetError",
    "DeviceMemoryError",
    "FitsError",
    "InputError",
    "PsfError",
    "ShapeMismatchError",
    "WcsError",
]


class AstridGpuError(Exception):
    """Base of every error raised on purpose by astrid_gpu."""


class InputError(AstridGpuError, ValueError):
    """An argument cannot be used."""


class ShapeMismatchError(InputError):
    """Arrays that must agree in shape do not."""


class PsfError(InputError):
    """A point-spread function is unusable or cannot be measured."""


class WcsError(InputError):
    """A world coordinate system is missing, broken, or covers another piece of sky."""


class FitsError(InputError):
    """A file is not FITS, is damaged, or holds no usable image."""


class ConfigError(AstridGpuError, ValueError):
    """An option is unknown or its value impossible."""


class BackendUnavailableError(AstridGpuError, ImportError):
    """A backend asked for by name cannot run on this machine."""


class DeviceMemoryError(AstridGpuError, MemoryError):
    """The device has too little memory for even one image."""


class AlignmentError(AstridGpuError):
    """Two images could not be brought to one pixel grid."""


class AcquisitionError(AstridGpuError, OSError):
    """An archive refused, or a download failed.

    Attributes
    ----------
    url : str
        What was asked for, secrets removed; empty if it is not about one address.
    status : int or None
        The HTTP status, if the service answered.
    failures : tuple of (str, str)
        Name and reason of each file that could not be had, where several were asked for.
    paths : tuple
        The files of the same call that did arrive.
    """

    def __init__(
        self,
        message: str = "",
        *,
        url: str = "",
        status: int | None = None,
        failures: tuple[tuple[str, str], ...] = (),
        paths: tuple[Any, ...] = (),
    ) -> None:
        super().__init__(message)
        self.url, self.status, self.failures, self.paths = url, status, failures, paths


class DatasetError(AstridGpuError):
    """A data set cannot be written or read."""
