"""Several FITS files against one reference: a folder of results for each, past those that fail."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from astrid_gpu.config import DetectConfig, SubtractConfig
from astrid_gpu.detect import detect
from astrid_gpu.errors import AstridGpuError
from astrid_gpu.io import read_image
from astrid_gpu.io.difference import check_extensions
from astrid_gpu.quality import quality
from astrid_gpu.results import Difference
from astrid_gpu.run.pair import PairRun, _write_summary, write_results
from astrid_gpu.run.profile import Profile
from astrid_gpu.subtract_stack import subtract_stack

__all__ = ["run_stack"]


def run_stack(
    science: Sequence[str | Path],
    reference: str | Path,
    output: str | Path,
    *,
    subtract_config: SubtractConfig | None = None,
    detect_config: DetectConfig | None = None,
    reference_planes: Mapping[str, Any] | None = None,
    extensions: tuple[str, ...] | None = None,
    sigma_reference: float | None = None,
) -> Iterator[tuple[str, PairRun | AstridGpuError]]:
    """Subtract one reference from several files, one by one, and write everything there is to say about each.

    Parameters
    ----------
    science : sequence of path, or "FILE[EXT]"
    reference : path, or "FILE[EXT]"
    output : path
        Each file's results go to a folder in it that is called as the file, without its suffixes.
    subtract_config, detect_config, reference_planes, extensions : optional
        As in `run_pair`.
    sigma_reference : float, optional

    Yields
    ------
    (str, PairRun or AstridGpuError)
        Each science file, in order, with what was made of it or why nothing was.

    Raises
    ------
    AstridGpuError
        The reference cannot be used.
    """
    settings, finding = subtract_config or SubtractConfig(), detect_config or DetectConfig()
    check_extensions(extensions)
    shared = read_image(reference, **dict(reference_planes or {}))
    differences = subtract_stack(
        science, shared, batch=1, on_error="return", config=settings, sigma_reference=sigma_reference
    )
    for path, folder in zip(science, _folders(science), strict=True):
        profile = Profile()
        with profile.stage("reading and other"):
            diff = next(differences)
        try:
            yield str(path), _write(diff, settings, finding, Path(output) / folder, extensions, profile)
        except (AstridGpuError, OSError) as exc:
            yield str(path), exc if isinstance(exc, AstridGpuError) else AstridGpuError(f"{path}: {exc}")
    next(differences, None)  # the end of the stack, where it sums up its warnings


def _write(
    diff: Difference | AstridGpuError,
    settings: SubtractConfig,
    finding: DetectConfig,
    folder: Path,
    extensions: tuple[str, ...] | None,
    profile: Profile,
) -> PairRun:
    """Detect and write, or raise the error that took the difference's place."""
    if isinstance(diff, AstridGpuError):
        raise diff
    profile.split(diff.metrics["profile"], {})
    with profile.stage("detection"):
        candidates = detect(diff, finding.threshold, finding.polarity, extractor=finding.extractor)
    with profile.stage("quality"):
        verdict = quality(diff, candidates)
    files = write_results(diff, candidates, folder, size=finding.size, extensions=extensions, profile=profile)
    diff.metrics["profile"] = profile.seconds()
    files["summary.json"] = _write_summary(diff, candidates, verdict, settings, finding, folder, files)
    profile.stop()
    return PairRun(diff, candidates, files, verdict, profile)


def _folders(paths: Sequence[str | Path]) -> list[str]:
    """Return a folder name for each file: its own without suffixes, numbered where two are the same.

    >>> _folders(["a/n1.fits", "b/n1.fits.gz", "mosaic.fits[CCD 3]"])
    ['n1', 'n1-2', 'mosaic_CCD_3']
    """
    found: list[str] = []
    for path in paths:
        name = re.sub(r"\.(fits|fit|fts|fz|gz|bz2)\b", "", Path(path).name, flags=re.IGNORECASE)
        name = re.sub(r"[^\w.+-]+", "_", name).strip("_") or "image"
        same = sum(re.fullmatch(rf"{re.escape(name)}(-\d+)?", other) is not None for other in found)
        found.append(f"{name}-{same + 1}" if same else name)
    return found
