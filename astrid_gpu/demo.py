"""The demonstration: simulate a season of a field, find what changed as a user would, compare with the truth."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from astrid_gpu.detect import detect
from astrid_gpu.io import atomic_path
from astrid_gpu.results import Candidates, Difference
from astrid_gpu.run.pair import jsonable, write_results
from astrid_gpu.simulate.compare import Comparison, compare, forced_flux, summarise
from astrid_gpu.simulate.files import write_fits, write_truth
from astrid_gpu.simulate.sequence import SimulatedSequence, sequence
from astrid_gpu.subtract_stack import subtract_stack

__all__ = ["DemoResult", "run_demo"]

_log = logging.getLogger("astrid_gpu")

# Full and quick: epochs and shape, and changing sources. Sized for well under a minute on two CPU cores.
_SIZES = {False: (12, (512, 512)), True: (3, (384, 384))}
_OBJECTS = {False: 15, True: 8}

LIGHT_CURVE_DTYPE = np.dtype(
    [("id", "i4"), ("epoch", "i4"), ("mjd", "f8"), ("kind", "U12"), ("flux_true", "f8"), ("flux", "f8"),
     ("flux_error", "f8")]
)  # fmt: skip


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration did and how well it went.

    Parameters
    ----------
    output : Path
        Folder with everything.
    epochs : tuple of dict
        One line an epoch: fwhm, flux_ratio, width of S_corr, limiting magnitude, candidates, recovered, false.
    summary : dict
        See `simulate.compare.summarise`.
    backend : str
    seconds : dict
        Wall time by part: simulate, subtract, detect, write, total.
    pictures : tuple of Path
    """

    output: Path
    epochs: tuple[dict[str, Any], ...]
    summary: dict[str, Any]
    backend: str
    seconds: dict[str, float]
    shape: tuple[int, int]
    n_objects: int
    pictures: tuple[Path, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers and text, ready for JSON."""
        return jsonable(
            {
                "output": str(self.output),
                "backend": self.backend,
                "shape": self.shape,
                "n_objects": self.n_objects,
                "seconds": self.seconds,
                "epochs": list(self.epochs),
                "summary": self.summary,
                "pictures": [str(path) for path in self.pictures],
            }
        )

    def __str__(self) -> str:
        return "\n".join([*self._head(), "", *self._epoch_lines(), "", *self._summary_lines(), "", *self._tail()])

    def _head(self) -> list[str]:
        ny, nx = self.shape
        epochs = f"{len(self.epochs)} simulated epochs of {nx}x{ny} px against a deep reference"
        return [f"{epochs}, {self.n_objects} changing sources; backend {self.backend}"]

    def _epoch_lines(self) -> list[str]:
        lines = ["epoch  FWHM px  F_n/F_r  S_corr width  limit mag  candidates  real  missed  false"]
        lines += [
            f"{row['epoch']:>5}  {row['fwhm']:>7.2f}  {row['flux_ratio']:>7.4f}  {row['width_raw']:>12.3f}  "
            f"{row['limiting_magnitude']:>9.2f}  {row['candidates']:>10}  {row['real']:>4}  {row['missed']:>6}  "
            f"{row['false']:>5}"
            for row in self.epochs
        ]
        return lines

    def _summary_lines(self) -> list[str]:
        lines = ["expected S/N  sources  recovered  expected of Gaussian noise"]
        for row in self.summary["completeness"]:
            high = f"{row['high']:g}" if row["high"] is not None else ""
            name = f"{row['low']:g} to {high}" if high else f"beyond {row['low']:g}"
            lines.append(f"{name:>12}  {row['number']:>7}  {row['recovered']:>9}  {row['expected']:>26.1f}")
        false, flux, position = self.summary["false"], self.summary["flux"], self.summary["position"]
        rate = f"{false['count']} in {false['mpix']:.2f} Mpix, {false['unflagged']} of them unflagged"
        lines += ["", f"false positives  {rate}; {false['expected']:.1f} expected of Gaussian noise"]
        if flux["median_ratio"] is not None:
            lines.append(f"flux             measured / true {flux['median_ratio']:.4f}, median of {flux['n_bright']} "
                         "at S/N >= 20")  # fmt: skip
        if flux["pull_median"] is not None:
            lines.append(
                f"flux errors      (measured - true) / error: median {flux['pull_median']:+.2f}, width "
                f"{flux['pull_width']:.2f}, {flux['n_pull']} at S/N >= 10"
            )
        if position["median_px"] is not None:
            lines.append(f"position         {position['median_px']:.3f} px, median of {position['n']} at S/N >= 20")
        if self.summary["flawed"]:
            lines.append(f"left out of it   {self.summary['flawed']} at S/N >= 10 that touch bad pixels or the edge")
        if self.summary["masked"]:
            lines.append(f"not counted      {self.summary['masked']} sources on bad or saturated pixels")
        return lines

    def _tail(self) -> list[str]:
        parts = ", ".join(f"{name} {s:.1f}" for name, s in self.seconds.items() if name != "total")
        return [
            f"{self.seconds['total']:.1f} s ({parts})",
            f"pictures: {self.pictures[0]} and {len(self.pictures) - 1} summary.png, one an epoch, below it",
            f"tables, images and triplets: {self.output}",
        ]


def run_demo(
    output: str | Path = "demo",
    *,
    quick: bool = False,
    backend: str = "auto",
    seed: int = 1,
    threshold: float = 5.0,
    progress: Callable[[str], None] | None = None,
) -> DemoResult:
    """Simulate, subtract, detect, export and report; no network.

    The simulated images are written as FITS and read back; everything the subtraction needs is estimated from their
    pixels and headers. The truth is used only afterwards, to count what was found and missed.

    Parameters
    ----------
    output : path
        Folder, made if absent: source_fits/{reference,science}/, epochs/NN/ (difference.fits, candidates.csv and
        .ecsv, triplets.h5 and .npz, summary.png), truth/NN.csv, light_curves.csv, overview.png, demo.json.
    quick : bool
        3 epochs of 384x384 pixels in place of 12 of 512x512.
    backend : str
        See `get_backend`.
    seed : int
        Of the simulation.
    threshold : float
        In sigma of S_corr.
    progress : callable, optional
        Is given one line of text now and then; by default they go to the log.

    Returns
    -------
    DemoResult
        ``print`` it for the tables.
    """
    tell = progress or _log.info
    folder, start = Path(output), time.perf_counter()
    seconds = {"simulate": 0.0, "subtract": 0.0, "detect": 0.0, "write": 0.0}
    clock = _Clock(seconds)
    season = sequence(*_SIZES[quick], n_objects=_OBJECTS[quick], seed=seed)
    tell(f"simulating {season!r}")
    reference, paths, truths = _write_season(season, folder)
    clock.stop("simulate")
    rows: list[dict[str, Any]] = []
    comparisons: list[Comparison] = []
    curves: list[np.ndarray] = []
    pictures: list[Path] = []
    name = "numpy"
    for index, diff in enumerate(subtract_stack(paths, reference, backend=backend, batch=1)):
        if not isinstance(diff, Difference):
            raise diff
        clock.stop("subtract")
        candidates = detect(diff, threshold=threshold, polarity="both")
        comparison = compare(diff, candidates, truths[index])
        curves.append(_light_curve(diff, truths[index], index + 1, 60000.0 + float(season.days[index])))
        clock.stop("detect")
        here = folder / "epochs" / f"{index + 1:02d}"
        title = f"simulated epoch {index + 1} of {len(season)}"
        pictures.append(write_results(diff, candidates, here, title=title)["summary.png"])
        clock.stop("write")
        rows.append(_row(index + 1, diff, candidates, comparison))
        comparisons.append(comparison)
        name = diff.backend
        tell(f"epoch {index + 1:>2} of {len(season)}: {len(candidates)} candidates, {comparison!r}")
    pictures.insert(0, _finish(folder, comparisons, np.concatenate(curves)))
    clock.stop("write")
    seconds["total"] = time.perf_counter() - start
    n_objects = len(season.objects)
    result = DemoResult(
        folder, tuple(rows), summarise(comparisons), name, seconds, season.scene.shape, n_objects, tuple(pictures)
    )
    with atomic_path(folder / "demo.json") as temporary:
        temporary.write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")
    return result


class _Clock:
    """Adds the time since the last stop to a part."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self.last = time.perf_counter()

    def stop(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part] += now - self.last
        self.last = now


def _write_season(season: SimulatedSequence, folder: Path) -> tuple[Path, list[Path], list[np.ndarray]]:
    """Write the reference, the epochs and their truth; return the paths and the truth tables."""
    reference = write_fits(season.reference, folder / "source_fits" / "reference" / "reference.fits")
    paths, truths = [], []
    for index, pair in enumerate(season):
        name = f"{index + 1:02d}"
        paths.append(write_fits(pair.science, folder / "source_fits" / "science" / f"epoch_{name}.fits"))
        write_truth(pair.truth, folder / "truth" / f"{name}.csv")
        truths.append(pair.truth)
    return reference, paths, truths


def _row(epoch: int, diff: Difference, candidates: Candidates, comparison: Comparison) -> dict[str, Any]:
    """Return one line of the table of epochs."""
    wanted = np.abs(comparison.truth["snr"]) >= candidates.threshold
    return {
        "epoch": epoch,
        "fwhm": diff.metrics["fwhm_science"],
        "flux_ratio": diff.metrics["flux_ratio"],
        "width_raw": diff.metrics["score_corr_std_raw"],
        "limiting_magnitude": diff.metrics["limiting_magnitude"],
        "candidates": len(candidates),
        "real": int(comparison.found.sum()),
        "missed": int((wanted & ~comparison.found).sum()),
        "false": int(comparison.false.sum()),
    }


def _light_curve(diff: Difference, truth: np.ndarray, epoch: int, mjd: float) -> np.ndarray:
    """Return the forced flux of every changing source in one epoch, whether it was detected or not."""
    points = np.zeros(len(truth), LIGHT_CURVE_DTYPE)
    points["id"], points["kind"], points["flux_true"] = truth["id"], truth["kind"], truth["flux"]
    points["epoch"], points["mjd"] = epoch, mjd
    points["flux"], points["flux_error"] = forced_flux(diff, truth["x"], truth["y"])
    return points


def _finish(folder: Path, comparisons: list[Comparison], curves: np.ndarray) -> Path:
    """Write the light curves and the overview picture, and return the picture's path."""
    from astrid_gpu._demo_figure import overview_figure

    write_truth(curves, folder / "light_curves.csv")
    return overview_figure(comparisons, curves, folder / "overview.png")
