"""Simulated images and truth tables as files."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from astrid_gpu.image import Image
from astrid_gpu.io.image_files import write_image
from astrid_gpu.io.paths import atomic_path

__all__ = ["write_fits", "write_truth"]


def write_fits(image: Image, path: str | Path) -> Path:
    """Write a simulated image as FITS (see `io.image_files.write_image`), marked as not real in ORIGIN."""
    return write_image(image.with_(meta={**image.meta, "ORIGIN": "astrid_gpu.simulate, not a real image"}), path)


def write_truth(truth: np.ndarray, path: str | Path) -> Path:
    """Write a structured array as CSV, one row a source; floats keep all their digits."""
    target = Path(path)
    with atomic_path(target) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(truth.dtype.names or ())
        writer.writerows(row.tolist() for row in truth)
    return target
