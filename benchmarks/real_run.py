"""One real pair by some methods: significance of the blank sky, candidates and what they are, time and memory.

``python -m benchmarks.real_run PAIR METHOD ...`` is a process of its own and prints one line of JSON a method.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from typing import Any

import numpy as np

import astrid_gpu as ag
from astrid_gpu.config import SubtractConfig
from astrid_gpu.errors import AstridGpuError
from astrid_gpu.flags import CandidateFlag, PixelFlag
from benchmarks.child import host_peak
from benchmarks.real_pairs import DEFECT, Known, RealPair, all_pairs, saao_photometry

__all__ = ["CLASSES", "METHODS", "classify", "forced", "measure", "width_and_mean"]

_ASKED: dict[str, dict[str, Any]] = {
    "zogy": {},
    "zogy, white noise": {"noise": "white"},
    "zogy, one PSF": {"psf_order": 0},
    "classic": {"method": "classic"},
    "classic-fit": {"method": "classic-fit"},
}
METHODS = {name: given for name, given in _ASKED.items() if given.keys() <= SubtractConfig.__dataclass_fields__.keys()}
"""What `subtract` is asked for; everything else is estimated, as a user would have it."""

CLASSES = (
    *("known source", "known defect", "edge or mask", "saturated or bright star"),
    *("dipole", "star residual", "sharp", "unexplained"),
)
"""What a candidate is, the first that holds: on a source or a defect known beforehand; touching an edge or bad pixels;
within six FWHM of a saturated pixel, on a row or column of one, among a star's residuals or on a star a hundred times
its peak; half of a dipole; on a star ten times its peak; sharper than a star; none of these."""

_BAD = int(
    CandidateFlag.EDGE | CandidateFlag.NEAR_BAD | CandidateFlag.BAD_SCIENCE | CandidateFlag.BAD_REFERENCE
    | CandidateFlag.COSMIC_RAY | CandidateFlag.NO_DATA
)  # fmt: skip
_SATURATED = int(
    CandidateFlag.SATURATED_SCIENCE | CandidateFlag.SATURATED_REFERENCE | CandidateFlag.SATURATED_LINE
    | CandidateFlag.BRIGHT_STAR
)  # fmt: skip
_STAR, _BRIGHT = 0.1, 0.01  # peak of the change over that of the static source under it
_NEAR_SATURATED = 6.0  # FWHM from a saturated pixel


def measure(pair: RealPair, method: str) -> dict[str, Any]:
    """Run a pair: numbers about its difference, its candidates and its cost."""
    images = pair.load()
    made: list[Any] = []

    def run() -> None:
        made[:] = [ag.subtract(*images, **METHODS[method])]
        made.append(ag.detect(made[0]))

    wall, cpu = time.perf_counter(), time.process_time()
    peak = host_peak(run, rounds=1)
    cost = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu, "peak_mb": peak / 1e6}
    diff, candidates = made
    found = describe(diff, candidates.data, pair.known)
    return found | {"cost": cost, "photometry": _photometry(pair, diff)}


def describe(diff: ag.Difference, rows: np.ndarray, known: tuple[Known, ...]) -> dict[str, Any]:
    """Return widths, candidates by class, what became of the known sources, and the estimates behind them."""
    kinds = classify(diff, rows, known)
    mpix = float(np.isfinite(diff.score_corr).sum()) / 1e6
    keep = ("flux_ratio", "flux_ratio_error", "flux_scatter", "n_flux_stars", "fwhm_science", "fwhm_reference",
            "noise_factor", "score_corr_std_raw", "masked", "overlap", "shift_y", "shift_x", "astrometric_error_y",
            "astrometric_error_x")  # fmt: skip
    return {
        "shape": list(diff.shape),
        "mpix": mpix,
        **width_and_mean(diff),
        "metrics": {k: float(diff.metrics[k]) for k in keep if k in diff.metrics},
        "candidates": len(rows),
        "unflagged": int((rows["flags"] == 0).sum()),
        "classes": {kind: int((kinds == kind).sum()) for kind in CLASSES},
        "known": [_recovery(diff, rows, source) for source in known],
        "left": [
            [round(float(r["x"]), 1), round(float(r["y"]), 1), round(float(r["score"]), 1), int(r["flags"])]
            for r in sorted(rows[kinds == CLASSES[-1]], key=lambda r: -abs(r["score"]))[:20]
        ],
    }


def width_and_mean(diff: ag.Difference) -> dict[str, Any]:
    """Return the robust width and the mean of S_corr on unflagged pixels, and both apart for blank sky and sources.

    The width is half the distance of the 16th and 84th percentiles, before any renormalisation ("raw") and after; the
    mean leaves out pixels beyond 4 sigma. `tail` is the share of pixels beyond 4 sigma over a Gaussian's 6.3e-5.
    """
    clean = np.isfinite(diff.score_corr) & (diff.mask == 0)
    if np.count_nonzero(clean) < 500:
        clean = np.isfinite(diff.score_corr)
    source = _source_pixels(diff)
    factor = diff.metrics.get("renormalise_factor", 1.0)
    score = np.asarray(diff.score_corr, np.float64)
    out = {"width_raw": _width(score[clean]) * factor, "width": _width(score[clean])}
    out |= {"width_sky": _width(score[clean & ~source]), "width_sources": _width(score[clean & source])}
    inner = score[clean][np.abs(score[clean]) < 4]
    tail = float(np.mean(np.abs(score[clean]) > 4)) / 6.334e-5
    return out | {"mean": float(inner.mean()), "source_share": float(np.mean(source[clean])), "tail": tail}


def _width(values: np.ndarray) -> float:
    if values.size < 500:
        return float("nan")
    low, high = np.percentile(values, [15.865, 84.135])
    return float(high - low) / 2


def _source_pixels(diff: ag.Difference) -> np.ndarray:
    """Return pixels where the registered reference or science stands 5 sigma above the sky."""
    out = np.zeros(diff.shape, bool)
    for plane, name in ((diff.science, "sigma_science"), (diff.reference, "sigma_reference")):
        out |= np.nan_to_num(np.asarray(plane, np.float64), nan=0.0) > 5 * diff.metrics[name]
    return out


def classify(diff: ag.Difference, rows: np.ndarray, known: tuple[Known, ...]) -> np.ndarray:
    """Say of every candidate which of `CLASSES` it is."""
    kinds = np.full(len(rows), CLASSES[-1], dtype="U32")
    if not len(rows):
        return kinds
    share = _share_of_star(diff, rows)
    flags = rows["flags"]
    near = _saturated_distance(diff, rows) < _NEAR_SATURATED * diff.metrics["fwhm_science"]
    # Last to first, so that the first in the list wins.
    kinds[flags & int(CandidateFlag.SHARP) != 0] = "sharp"
    kinds[share < _STAR] = "star residual"
    kinds[flags & int(CandidateFlag.DIPOLE) != 0] = "dipole"
    kinds[(share < _BRIGHT) | near | (flags & _SATURATED != 0)] = "saturated or bright star"
    kinds[flags & _BAD != 0] = "edge or mask"
    for source in known:
        kinds[source.holds(rows["x"], rows["y"])] = CLASSES[source.kind == DEFECT]
    return kinds


def _share_of_star(diff: ag.Difference, rows: np.ndarray) -> np.ndarray:
    """Return the peak of each change over the brightest static pixel within a FWHM of it."""
    beta, reach = diff.metrics["flux_ratio"], max(2, round(diff.metrics["fwhm_science"]))
    static = np.fmax(np.asarray(diff.science, np.float64), beta * np.asarray(diff.reference, np.float64))
    change = np.abs(np.asarray(diff.difference, np.float64))
    share = np.full(len(rows), np.inf)
    for i, (x, y) in enumerate(zip(rows["x"], rows["y"], strict=True)):
        iy, ix = round(float(y)), round(float(x))
        window = lambda plane, r: plane[max(iy - r, 0) : iy + r + 1, max(ix - r, 0) : ix + r + 1]  # noqa: B023, E731
        here, under = window(change, 1), window(static, reach)
        if (
            np.isfinite(here).any()
            and np.isfinite(under).any()
            and np.nanmax(under) > 5 * diff.metrics["sigma_science"]
        ):
            share[i] = np.nanmax(here) / np.nanmax(under)
    return share


def _saturated_distance(diff: ag.Difference, rows: np.ndarray) -> np.ndarray:
    """Return the distance of each candidate from the nearest saturated pixel, infinite if there is none."""
    from scipy.ndimage import distance_transform_edt

    saturated = (diff.mask & int(PixelFlag.SATURATED_SCIENCE | PixelFlag.SATURATED_REFERENCE)) != 0
    if not saturated.any():
        return np.full(len(rows), np.inf)
    distance = distance_transform_edt(~saturated)
    ny, nx = distance.shape
    y, x = (np.clip(np.rint(rows[k]).astype(int), 0, n - 1) for k, n in (("y", ny), ("x", nx)))
    return distance[y, x]


def _recovery(diff: ag.Difference, rows: np.ndarray, source: Known) -> dict[str, Any]:
    """Return the strongest candidate on a known source, if any, and S_corr and flux there."""
    here = rows[source.holds(rows["x"], rows["y"])]
    best = here[np.argmax(np.abs(here["score"]))] if len(here) else None
    found = None if best is None else {k: float(best[k]) for k in ("x", "y", "score", "flux", "flux_error")}
    right = best is not None and (source.polarity == 0 or int(best["polarity"]) == source.polarity)
    return {"what": source.what, "kind": source.kind, "x": source.x, "y": source.y, "expected": source.expected,
            "sign_right": right, "candidate": found, **forced(diff, source.x, source.y)}  # fmt: skip


def forced(diff: ag.Difference, x: float, y: float) -> dict[str, float | None]:
    """Return S_corr, flux and its error of a point source at a place, None where there is none."""
    from astrid_gpu.simulate.compare import forced_flux

    iy, ix = round(y), round(x)
    inside = 0 <= iy < diff.shape[0] and 0 <= ix < diff.shape[1]
    score = float(diff.score_corr[iy, ix]) if inside else float("nan")
    flux, error = (float("nan"),) * 2
    if diff.flux is not None:
        flux, error = (float(v[0]) for v in forced_flux(diff, np.array([x]), np.array([y])))
    values = {"forced_score": score, "forced_flux": flux, "forced_error": error}
    return {k: v if np.isfinite(v) else None for k, v in values.items()}


def _photometry(pair: RealPair, diff: ag.Difference) -> list[dict[str, Any]]:
    """Compare the change of the SAAO sources, on the scale of frame 007, with the curator's apertures."""
    if pair.series != "saao":
        return []
    table, frame = saao_photometry(), pair.name[:4]
    row, reference, beta = table[frame], table["0007"], diff.metrics["flux_ratio"]
    out = []
    for name in ("event", "var2", "var3"):
        here = forced(diff, row[f"{name}_x"], row[f"{name}_y"])
        flux, error = here["forced_flux"], here["forced_error"]
        out.append({
            "source": name, "mjd": row["mjd"], "aperture": row[f"{name}_flux"] - reference[f"{name}_flux"],
            "flux": None if flux is None else flux / beta, "error": None if error is None else error / beta,
        })  # fmt: skip
    return out


def warm_up() -> None:
    """Run once on something small, so that compilers and threads are there when time and memory are counted."""
    field = ag.simulate.pair(seed=1, shape=(128, 128), n_changes=2)
    ag.detect(ag.subtract(field.science, field.reference))


def main() -> int:
    """Measure one pair and print a line for each method as it is done."""
    key, *methods = sys.argv[1:]
    pair = next(p for p in all_pairs() if p.key == key)
    warnings.simplefilter("ignore")
    warm_up()
    for method in methods:
        try:
            found = {"ok": True, **measure(pair, method)}
        except AstridGpuError as error:
            found = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        print(json.dumps({"pair": pair.key, "method": method, "note": pair.note} | found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
