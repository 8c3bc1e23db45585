"""One pair of FITS files to a folder of results: what ``astrid-gpu subtract`` does."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import astrid_gpu
from astrid_gpu.config import DetectConfig, SubtractConfig, to_mapping
from astrid_gpu.cutouts import cutouts
from astrid_gpu.dataset import write_dataset
from astrid_gpu.detect import detect
from astrid_gpu.flags import decode
from astrid_gpu.io import atomic_path, read_image
from astrid_gpu.report import summary_figure
from astrid_gpu.results import Candidates, Difference
from astrid_gpu.subtract import subtract

__all__ = ["PairRun", "jsonable", "run_pair", "write_results"]


@dataclass(frozen=True)
class PairRun:
    """What `run_pair` made: the difference, its candidates, and the files by name."""

    difference: Difference
    candidates: Candidates
    files: dict[str, Path]


def run_pair(
    science: str | Path,
    reference: str | Path,
    output: str | Path,
    *,
    subtract_config: SubtractConfig | None = None,
    detect_config: DetectConfig | None = None,
    science_planes: Mapping[str, Any] | None = None,
    reference_planes: Mapping[str, Any] | None = None,
    extensions: tuple[str, ...] | None = None,
    **given: Any,
) -> PairRun:
    """Subtract two FITS files and write everything there is to say about it.

    Parameters
    ----------
    science, reference : path, or "FILE[EXT]"
    output : path
        Folder for the results, made if absent. Files there are replaced one by one, each when it is whole.
    subtract_config, detect_config : optional
    science_planes, reference_planes : mapping, optional
        Companion files by kind: mask, variance, error, weight, psf (see `read_image`).
    extensions : tuple of str, optional
        Extensions of the difference FITS.
    **given
        Passed to `subtract`: sigma_science, flux_ratio, ...

    Returns
    -------
    PairRun

    Raises
    ------
    AstridGpuError
        As `read_image` and `subtract`; files written before a failure stay.
    """
    settings, finding = subtract_config or SubtractConfig(), detect_config or DetectConfig()
    images = [
        read_image(path, **dict(planes or {}))
        for path, planes in ((science, science_planes), (reference, reference_planes))
    ]
    diff = subtract(*images, config=settings, **given)
    candidates = detect(diff, finding.threshold, finding.polarity, extractor=finding.extractor)
    files = write_results(diff, candidates, output, size=finding.size, extensions=extensions)
    files["summary.json"] = _write_summary(diff, candidates, settings, finding, Path(output), files)
    return PairRun(diff, candidates, files)


def write_results(
    diff: Difference,
    candidates: Candidates,
    output: str | Path,
    *,
    size: int = 63,
    extensions: tuple[str, ...] | None = None,
    title: str | None = None,
) -> dict[str, Path]:
    """Write difference.fits, candidates.csv and .ecsv, triplets.h5 and .npz, and summary.png into a folder.

    Returns
    -------
    dict of str to Path
        The files by name.
    """
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    files = {"difference.fits": diff.write(folder / "difference.fits", extensions)}
    for name in ("candidates.csv", "candidates.ecsv"):
        files[name] = candidates.write(folder / name)
    triplets = cutouts(diff, candidates, size)
    for name in ("triplets.h5", "triplets.npz"):
        files[name] = Path(write_dataset(folder / name, triplets, candidates))
    summary_figure(diff, candidates, folder / "summary.png", title=title)
    return files | {"summary.png": folder / "summary.png"}


def _write_summary(
    diff: Difference,
    candidates: Candidates,
    settings: SubtractConfig,
    finding: DetectConfig,
    folder: Path,
    files: dict[str, Path],
) -> Path:
    """Write summary.json: every estimate, metric and warning, and what made them."""
    summary = {
        "science": diff.meta.get("science"),
        "reference": diff.meta.get("reference"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "backend": diff.backend,
        "method": diff.method,
        "config": {"subtract": to_mapping(settings), "detect": to_mapping(finding)},
        "metrics": diff.metrics,
        "steps": [{"stage": s.stage, "text": s.text, "values": s.values} for s in diff.steps],
        "n_candidates": len(candidates),
        "n_unflagged": int(np.sum(candidates["flags"] == 0)),
        "flags": {str(row["id"]): decode(row["flags"]) for row in candidates.data if row["flags"]},
        "files": {name: path.name for name, path in files.items()},
        "versions": _versions(),
    }
    path = folder / "summary.json"
    with atomic_path(path) as temporary:
        Path(temporary).write_text(json.dumps(jsonable(summary), indent=2) + "\n", encoding="utf-8")
    return path


def _versions() -> dict[str, str]:
    """Versions of what computed the result."""
    found = {"astrid_gpu": astrid_gpu.__version__, "python": platform.python_version()}
    for name in ("numpy", "scipy", "numba", "astropy", "reproject"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def jsonable(value: Any) -> Any:
    """Return `value` with NumPy types made plain and non-finite numbers null."""
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [jsonable(v) for v in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, str) else str(value)
