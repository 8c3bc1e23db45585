"""One pair of FITS files to a folder of results: what ``astrid-gpu subtract`` does."""

from __future__ import annotations

import contextlib
import json
import math
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import astrid_gpu
from astrid_gpu._host_ops import beside, both
from astrid_gpu.config import DetectConfig, SubtractConfig, to_mapping
from astrid_gpu.cutouts import cutouts
from astrid_gpu.dataset import write_dataset
from astrid_gpu.detect import detect
from astrid_gpu.flags import decode
from astrid_gpu.image import Image
from astrid_gpu.io import atomic_path, open_image
from astrid_gpu.io.difference import check_extensions
from astrid_gpu.quality import Quality, quality
from astrid_gpu.report.elsewhere import Draughtsman
from astrid_gpu.report.summary import draw_page, summary_maps, summary_page
from astrid_gpu.results import Candidates, Difference
from astrid_gpu.run.profile import Profile
from astrid_gpu.subtract import subtract

__all__ = ["PairRun", "jsonable", "run_pair", "write_results"]


@dataclass(frozen=True)
class PairRun:
    """What `run_pair` made: the difference, its candidates, the files by name, how good it is, where the time went."""

    difference: Difference
    candidates: Candidates
    files: dict[str, Path]
    quality: Quality
    profile: Profile = field(default_factory=Profile)


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
    profile: Profile | None = None,
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
    profile : Profile, optional
        Goes on from it: ``Profile(process_age())`` counts the imports of a program too.
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
    profile, fits = profile or Profile(), None
    check_extensions(extensions)
    with profile.stage("picture, start", "a process that imports matplotlib meanwhile"):
        draughtsman = Draughtsman()
    try:
        images = _read(profile, (science, science_planes), (reference, reference_planes))
        with profile.stage("other", "flags, metrics"):
            diff = subtract(*images, config=settings, **given)
        profile.split(diff.metrics["profile"], _told(diff))
        with profile.stage("detection"):
            candidates, maps = both(
                lambda: detect(diff, finding.threshold, finding.polarity, extractor=finding.extractor),
                lambda: summary_maps(diff),
            )
        profile.tell(f"{len(candidates)} candidates beyond {finding.threshold:g} sigma by {finding.extractor}")
        page = summary_page(diff, candidates, maps=maps)
        draughtsman.draw(page, Path(output) / "summary.png")  # first, as it takes longest
        fits = beside(lambda: diff.write(Path(output) / "difference.fits", extensions))
        with profile.stage("quality"):
            verdict = quality(diff, candidates)
        profile.tell(f"{verdict.verdict}, {len(verdict.checks)} checks")
        how: dict[str, Any] = {"fits": fits, "profile": profile, "draughtsman": draughtsman}
        files = write_results(diff, candidates, output, size=finding.size, **how)
    finally:
        draughtsman.cancel()
        if fits is not None:  # whole or not there, however this ends
            with contextlib.suppress(Exception):
                fits()
    diff.metrics["profile"] = profile.seconds()
    files["summary.json"] = _write_summary(diff, candidates, verdict, settings, finding, Path(output), files)
    profile.stop()
    return PairRun(diff, candidates, files, verdict, profile)


def _read(profile: Profile, *files: tuple[str | Path, Mapping[str, Any] | None]) -> list[Image]:
    """Open files with their planes."""
    with profile.stage("reading"):
        images = [open_image(path, **dict(planes or {})) for path, planes in files]
    profile.tell(", ".join(f"{image.shape[1]}x{image.shape[0]} {image.data.dtype}" for image in images))
    return images


def _told(diff: Difference) -> dict[str, str]:
    """Return in a few words what the stages of a subtraction did."""
    m = diff.metrics
    values = [step.values for step in diff.steps if step.stage == "alignment"]
    n_matched = next((v["n_matched"] for v in values if "n_matched" in v), 0)
    moved = "resampled" if any(v.get("resampled") for v in values) else "not resampled"
    psfs = [step for step in diff.steps if step.stage == "psf"]
    return {
        "background and noise": "both images at once",
        "alignment": f"{moved}, {n_matched} stars" if n_matched else moved,
        "stars": "both images at once",
        "PSFs": " and ".join(f"{step.values['n_stars']} stars" for step in psfs),
        "flux ratio and registration": f"{m.get('n_flux_stars', 0)} stars; what sky and noise are left",
        "subtraction": f"{diff.method} on {diff.backend}, {diff.difference.dtype}",
        "trails": f"{m.get('n_trails', 0)} found",
        "calibration": f"width of S_corr {m.get('score_corr_std_raw', float('nan')):.3f}",
    }


def write_results(
    diff: Difference,
    candidates: Candidates,
    output: str | Path,
    *,
    size: int = 63,
    extensions: tuple[str, ...] | None = None,
    title: str | None = None,
    profile: Profile | None = None,
    draughtsman: Draughtsman | None = None,
    fits: Callable[[], Path] | None = None,
) -> dict[str, Path]:
    """Write difference.fits, candidates.csv and .ecsv, triplets.h5 and .npz, and summary.png into a folder.

    Parameters
    ----------
    diff, candidates
    output : path
        Folder, made if absent.
    size, extensions, title
        Of the cutouts; of the FITS file; of the picture.
    profile : Profile, optional
        Gets a line for each kind of file.
    draughtsman : Draughtsman, optional
        Is drawing the picture already; without one it is drawn here.
    fits : callable, optional
        Waits for difference.fits, if it is being written already, and returns its path.

    Returns
    -------
    dict of str to Path
        The files by name.
    """
    folder, profile = Path(output), profile or Profile()
    folder.mkdir(parents=True, exist_ok=True)
    with profile.stage("writing"):
        fits = fits or beside(lambda: diff.write(folder / "difference.fits", extensions))
        tables = _write_tables(diff, candidates, folder, size)
        files = {"difference.fits": fits(), **tables}
    written = sum(path.stat().st_size for path in files.values())
    profile.tell(f"{written / 1e6:.0f} MB in {len(files)} files, FITS beside the rest")
    with profile.stage("picture, wait", "until it is drawn"):
        if draughtsman is not None:
            picture = draughtsman.finish()
        else:
            picture = draw_page(summary_page(diff, candidates, title=title), folder / "summary.png")
    return files | {"summary.png": picture}


def _write_tables(diff: Difference, candidates: Candidates, folder: Path, size: int) -> dict[str, Path]:
    """Write the candidates and their cutouts."""
    files = {name: candidates.write(folder / name) for name in ("candidates.csv", "candidates.ecsv")}
    triplets = cutouts(diff, candidates, size)
    for name in ("triplets.h5", "triplets.npz"):
        files[name] = Path(write_dataset(folder / name, triplets, candidates))
    return files


def _write_summary(
    diff: Difference,
    candidates: Candidates,
    verdict: Quality,
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
        "quality": verdict.to_dict(),
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
