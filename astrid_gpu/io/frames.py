"""Frames that stay on disk: pixels of large FITS files read by windows, and scratch files for what comes of them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from astrid_gpu.errors import DeviceMemoryError

__all__ = ["DiskFrame", "ScratchFolder", "ScratchFrame", "in_memory"]


class DiskFrame:
    """A frame (ny, nx) in a file, read where it is indexed: ``frame[rows, columns]`` is an array in native byte order.

    Nothing of it stays mapped or in memory between two reads. ``np.asarray(frame)`` reads all of it.

    Parameters
    ----------
    path : Path
    shape : (ny, nx)
    stored : dtype
        As in the file, byte order included.
    offset : int
        Bytes before the first pixel.
    """

    ndim = 2

    def __init__(self, path: Path, shape: tuple[int, int], stored: Any, offset: int = 0) -> None:
        self.path, self.shape, self.offset = path, (int(shape[0]), int(shape[1])), offset
        self.stored = np.dtype(stored)
        self.dtype = self.stored.newbyteorder("=")
        self.size = self.shape[0] * self.shape[1]

    def mapped(self, mode: Any = "r", rows: range | None = None) -> np.ndarray:
        """Return some rows, or all, as a memory map: pages come as they are touched and go with the array."""
        rows = range(self.shape[0]) if rows is None else rows
        start = self.offset + rows.start * self.shape[1] * self.stored.itemsize
        return np.memmap(self.path, self.stored, mode, start, (len(rows), self.shape[1]))

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        rows, columns = window
        found = range(self.shape[0])[rows]
        if not len(found):
            return np.empty((0, len(range(self.shape[1])[columns])), self.dtype)
        span = range(min(found), max(found) + 1)
        return np.array(self.mapped("r", span)[:: found.step, columns], self.dtype, order="C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = np.fromfile(self.path, self.stored, self.size, offset=self.offset).reshape(self.shape)
        return whole.astype(dtype or self.dtype, copy=False)

    def __repr__(self) -> str:
        return f"<DiskFrame {self.shape[1]}x{self.shape[0]} px {self.dtype.name} in {self.path.name}>"


class ScratchFolder:
    """A temporary folder for frames that would not fit the memory; gone with the last reference to it or its frames.

    It lies where Python puts temporary files: ``TMPDIR``.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="astrid-gpu-", ignore_cleanup_errors=True)
        self._count = 0

    def frame(self, shape: tuple[int, int], dtype: Any = np.float32) -> ScratchFrame:
        """Return a new frame, its room on the disk taken.

        Raises
        ------
        DeviceMemoryError
            The disk has no room for it.
        """
        self._count += 1
        path = Path(self._folder.name) / f"{self._count}.raw"
        size = shape[0] * shape[1] * np.dtype(dtype).itemsize
        try:
            with path.open("wb") as stream:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(stream.fileno(), 0, max(size, 1))
                else:
                    stream.truncate(size)
        except OSError as error:
            msg = (
                f"the frame is prepared in pieces, which takes {size / 1e9:.2f} GB of disk for each of its planes, but "
                f"{path.parent} has no room ({error.strerror}); set TMPDIR to a larger place, or allow more memory"
            )
            raise DeviceMemoryError(msg) from error
        return ScratchFrame(self, path, shape, dtype)


class ScratchFrame(DiskFrame):
    """A frame in a scratch file, written by windows as it is read: ``frame[rows, columns] = values``."""

    def __init__(self, folder: ScratchFolder, path: Path, shape: tuple[int, int], dtype: Any) -> None:
        super().__init__(path, shape, dtype)
        self.folder = folder

    def __setitem__(self, window: tuple[slice, slice], values: Any) -> None:
        rows, columns = window
        self.mapped("r+", range(self.shape[0])[rows])[:, columns] = values


def in_memory(frame: Any) -> Any:
    """Return a frame that lies on disk as an array; anything else as it is."""
    return np.asarray(frame) if isinstance(frame, DiskFrame) else frame
