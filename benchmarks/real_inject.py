"""Point sources injected into real frames: what the whole pipeline finds of them, how pure, with which fluxes.

``python -m benchmarks.real_inject PAIR METHOD ...`` is a process of its own and prints one line of JSON a method. The
sources have the frame's own PSF at their place (`real_places.LocalPsf`) and Poisson noise; `subtract` and `detect` then
run on the frame as on any other, PSF measurement, registration and flux ratio included.
"""

from __future__ import annotations

import json
import sys
import warnings
import zlib
from itertools import pairwise
from typing import Any

import numpy as np

import astrid_gpu as ag
from astrid_gpu.errors import AstridGpuError
from astrid_gpu.simulate import inject
from astrid_gpu.simulate.compare import forced_flux
from benchmarks.real_missed import CAUSES, LEAST, causes, local_snr
from benchmarks.real_pairs import RealPair, all_pairs
from benchmarks.real_places import PLACEMENTS, LocalPsf, places, prepared
from benchmarks.real_run import METHODS

__all__ = ["FIELDS", "SNR_EDGES", "THRESHOLDS", "Tally", "run"]

FIELDS = {
    "jwst/f200w": (3, 50, ("uniform", "galaxy")),
    "saao/0100-0007": (6, 60, ("uniform", "bright star")),
    "eso085-030/004-005": (3, 120, ("uniform", "galaxy", "galaxy", "bright star")),
    "decam/z_2018_-_2017a": (10, 16, ("uniform", "bright star")),
    "sfft/04b-04a": (10, 18, ("uniform", "bright star")),
}
"""Frames that get sources: how often, how many at most each time (far enough apart not to make a crowd), and where."""

SNR_EDGES = (4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 25.0, 50.0)
"""Bins of the S/N that a source would have on blank sky: flux over the median error of `zogy` on the bare frame."""

THRESHOLDS = (4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 15.0, 20.0)
"""Where purity is counted; completeness is at 5 sigma."""

_DETECTED = 5.0


def run(pair: RealPair, methods: list[str], rounds: int, number: int, where: tuple[str, ...]) -> list[dict[str, Any]]:
    """Inject, subtract and detect so many times; return one row a method."""
    science, reference = pair.load()
    bare = ag.subtract(science, reference)
    error = float(np.median(bare.flux_error[np.isfinite(bare.flux_error) & (bare.mask == 0)]))
    frame = prepared(science)
    psf = LocalPsf(frame)
    tallies = {name: Tally(pair, bare) for name in methods}
    for k in range(rounds):
        rng = np.random.default_rng([zlib.crc32(pair.key.encode()), k])
        sources = places(bare, frame, number, where, rng)
        low = rng.integers(len(SNR_EDGES) - 1, size=len(sources))
        edges = np.log(SNR_EDGES)
        sources["snr"] = np.exp(edges[low] + rng.uniform(size=len(sources)) * np.diff(edges)[low])
        sources["flux"] = sources["snr"] * error
        noise = frame.gain is not None
        image = inject(science, sources, psf=psf, gain=frame.gain, noise=noise, seed=rng).image
        for name, tally in tallies.items():
            try:
                diff = ag.subtract(image, reference, **METHODS[name])
                tally.add(diff, ag.detect(diff, THRESHOLDS[0]).data, sources, bare.metrics["fwhm_science"])
            except AstridGpuError as exc:
                tally.errors.append(f"{type(exc).__name__}: {exc}")
    about = {"pair": pair.key, "rounds": rounds, "error_on_sky": error, "psf": psf.describe(), "gain": frame.gain}
    return [{**about, "method": name, **tally.document()} for name, tally in tallies.items()]


class Tally:
    """Counts of one method over many injected frames."""

    def __init__(self, pair: RealPair, bare: ag.Difference) -> None:
        self._known, self._bare = pair.known, bare
        self._why: list[np.ndarray] = []
        self._truth: list[np.ndarray] = []
        self._found: list[np.ndarray] = []
        self._flux: list[np.ndarray] = []
        self._false = np.zeros((len(THRESHOLDS), 2), int)
        self._true = np.zeros((len(THRESHOLDS), 2), int)
        self._mpix = 0.0
        self.errors: list[str] = []

    def add(self, diff: ag.Difference, rows: np.ndarray, sources: np.ndarray, fwhm: float) -> None:
        """Match one frame: the nearest positive candidate within 0.7 FWHM (2 px at least) of each source."""
        match = _match(rows, sources, max(2.0, 0.7 * fwhm))
        self._truth.append(sources)
        score = np.where(match >= 0, rows["score"][match], 0.0) if len(rows) else np.zeros(len(sources))
        self._found.append(score >= _DETECTED)
        self._flux.append(_fluxes(diff, rows, sources, match))
        if diff.flux is not None:
            self._why.append(causes(self._bare, diff, rows, sources, fwhm))
        real = np.zeros(len(rows), bool)
        real[match[match >= 0]] = True
        theirs = np.zeros(len(rows), bool)
        for source in self._known:
            theirs |= source.holds(rows["x"], rows["y"])
        for i, threshold in enumerate(THRESHOLDS):
            above = np.abs(rows["score"]) >= threshold
            for j, chosen in enumerate((above, above & (rows["flags"] == 0))):
                self._true[i, j] += np.sum(chosen & real)
                self._false[i, j] += np.sum(chosen & ~real & ~theirs)
        self._mpix += float(np.isfinite(diff.score_corr).sum()) / 1e6

    def document(self) -> dict[str, Any]:
        """Return everything as JSON."""
        if not self._truth:
            return {"ok": False, "error": self.errors[0]}
        truth, found = np.concatenate(self._truth), np.concatenate(self._found)
        fluxes = np.concatenate(self._flux)
        completeness, photometry = {}, {}
        for name in PLACEMENTS:
            here = truth["place"] == name
            if here.any():
                completeness[name] = _shares(truth["snr"][here], found[here])
                photometry[name] = _photometry(truth[here], found[here], fluxes[here])
        return {
            "ok": True, "injected": len(truth), "mpix": self._mpix, "errors": self.errors,
            "completeness": completeness, "local": _shares(local_snr(self._bare, truth), found, (0.0, *SNR_EDGES)),
            "missed": self._missed(truth, found), "photometry": photometry,
            "purity": [[t, *map(int, self._true[i]), *map(int, self._false[i])] for i, t in enumerate(THRESHOLDS)],
        }  # fmt: skip

    def _missed(self, truth: np.ndarray, found: np.ndarray) -> dict[str, Any] | None:
        """Return how many sources of S/N `LEAST` up there were, and those missed by cause, each with its place."""
        if not self._why:
            return None
        why, strong = np.concatenate(self._why), truth["snr"] >= LEAST
        lost = strong & ~found
        local = local_snr(self._bare, truth)
        rows = [
            [str(t["place"]), round(float(t["x"]), 1), round(float(t["y"]), 1), float(t["snr"]), float(s), str(w)]
            for t, s, w in zip(truth[lost], local[lost], why[lost], strict=True)
        ]
        return {"of": int(strong.sum()), "causes": {c: int(np.sum(why[lost] == c)) for c in CAUSES}, "rows": rows}


def _shares(snr: np.ndarray, found: np.ndarray, edges: tuple[float, ...] = SNR_EDGES) -> list[list[float]]:
    """Return rows of low, high, number, recovered by S/N."""
    return [
        [low, high, int(np.sum(chosen)), int(np.sum(found & chosen))]
        for low, high in pairwise(edges)
        for chosen in [(snr >= low) & (snr < high)]
    ]


def _match(rows: np.ndarray, sources: np.ndarray, radius: float) -> np.ndarray:
    """Return the row of the candidate that recovers each source, brightest source first, -1 if none does."""
    match = np.full(len(sources), -1)
    free = rows["polarity"] > 0
    for i in np.argsort(-sources["flux"]):
        distance = np.where(free, np.hypot(rows["x"] - sources["x"][i], rows["y"] - sources["y"][i]), np.inf)
        if len(distance) and distance.min() <= radius:
            match[i] = int(distance.argmin())
            free[match[i]] = False
    return match


def _fluxes(diff: ag.Difference, rows: np.ndarray, sources: np.ndarray, match: np.ndarray) -> np.ndarray:
    """Return (flux, error) of the candidate and (flux, error) forced at the true place, NaN where there is none."""
    out = np.full((len(sources), 4), np.nan)
    if diff.flux is None:
        return out
    got = match >= 0
    out[got, 0], out[got, 1] = rows["flux"][match[got]], rows["flux_error"][match[got]]
    out[:, 2], out[:, 3] = forced_flux(diff, sources["x"], sources["y"])
    return out


def _photometry(truth: np.ndarray, found: np.ndarray, fluxes: np.ndarray) -> dict[str, Any] | None:
    """Return flux ratios (S/N 20 and more) and pulls (10 and more) of recovered sources, and forced at all places."""
    if not np.isfinite(fluxes).any():
        return None
    out: dict[str, Any] = {}
    for name, columns, chosen in (("found", (0, 1), found), ("forced", (2, 3), np.ones(len(truth), bool))):
        flux, error = (fluxes[:, c] for c in columns)
        usable = chosen & np.isfinite(flux) & (error > 0)
        bright, good = usable & (truth["snr"] >= 20), usable & (truth["snr"] >= 10)
        ratio, pull = (flux / truth["flux"])[bright], ((flux - truth["flux"]) / error)[good]
        spread = np.percentile(pull, [15.865, 50, 84.135]) if len(pull) >= 5 else (None,) * 3
        out[name] = {
            "n_bright": len(ratio), "median_ratio": float(np.median(ratio)) if len(ratio) else None,
            "ratio_error": float(1.253 * np.std(ratio) / np.sqrt(len(ratio))) if len(ratio) > 1 else None,
            "n_pull": len(pull), "pull_median": spread[1],
            "pull_width": None if spread[0] is None else float(spread[2] - spread[0]) / 2,
        }  # fmt: skip
    return out


def main() -> int:
    """Inject into one pair and print a line for each method."""
    key, *methods = sys.argv[1:]
    pair = next(p for p in all_pairs() if p.key == key)
    warnings.simplefilter("ignore")
    for row in run(pair, methods, *FIELDS[key]):
        print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
