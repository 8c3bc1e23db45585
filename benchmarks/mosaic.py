"""Peak memory of a frame too large for it: `python -m benchmarks.mosaic [--side 10000] [--memory 4]`.

Simulates a pair, piece by piece, into two FITS files, runs ``astrid-gpu subtract --memory GIB`` on them in a process
of its own, and tells the high-water mark of its resident memory, the time of its CPU, and what it found against the
truth. `--limit` lets the system enforce it: the address space ends at the memory and 2 GiB for libraries and files.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import astrid_gpu as ag
from benchmarks.machine import ROOT, describe

PIECE = 2000


def simulate(folder: Path, side: int, piece: int = PIECE) -> np.ndarray:
    """Write science.fits and reference.fits, and return the truth: independent fields of one sky side by side."""
    from astropy.io import fits

    files, truth = {}, []
    for name in ("science", "reference"):
        exposure = ag.simulate.SCIENCE if name == "science" else ag.simulate.REFERENCE
        cards = [("SIMPLE", True), ("BITPIX", -32), ("NAXIS", 2), ("NAXIS1", side), ("NAXIS2", side)]
        path = folder / f"{name}.fits"
        fits.Header([*cards, ("GAIN", exposure.gain), ("SATURATE", exposure.saturation)]).tofile(path, overwrite=True)
        start = path.stat().st_size
        os.truncate(path, start + -(-side * side * 4 // 2880) * 2880)
        files[name] = np.memmap(path, ">f4", "r+", start, (side, side))
    for k, (y, x) in enumerate((y, x) for y in range(0, side, piece) for x in range(0, side, piece)):
        shape = (min(piece, side - y), min(piece, side - x))
        field = ag.simulate.pair(seed=k, shape=shape, n_changes=8, bad_columns=0)
        for name, plane in files.items():
            plane[y : y + shape[0], x : x + shape[1]] = getattr(field, name).data
        rows = field.truth.copy()
        rows["y"] += y
        rows["x"] += x
        truth.append(rows)
    for plane in files.values():
        plane.flush()
    return np.concatenate(truth)


def run(folder: Path, memory: float, *, limit: bool, more: tuple[str, ...] = ()) -> dict[str, Any]:
    """Subtract the files on the command line; return the peak memory and the time."""
    command = [sys.executable, "-m", "astrid_gpu", "subtract", "science.fits", "reference.fits", "-o", "out"]
    command += ["--memory", str(memory), "--align", "none", "--profile", *more]
    bytes_allowed = int((memory + 2) * 2**30)

    def limited() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_AS, (bytes_allowed, bytes_allowed))

    start = time.perf_counter()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, preexec_fn=limited, stderr=log, stdout=log, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        _, status, usage = os.wait4(process.pid, 0)
    told = (folder / "log").read_text()
    if status:
        msg = f"the command failed:\n{told[-2000:]}"
        raise SystemExit(msg)
    return {
        "memory_gib": memory,
        "peak_gib": usage.ru_maxrss / 2**20,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "seconds": time.perf_counter() - start,
        "log": told,
    }


def found(folder: Path, truth: np.ndarray) -> dict[str, int]:
    """Count the changed sources beyond 8 sigma that were found, and the candidates that are none."""
    from astropy.table import Table

    rows = Table.read(folder / "out" / "candidates.csv")
    bright = truth[np.abs(truth["snr"]) > 8]
    near = [np.hypot(rows["x"] - t["x"], rows["y"] - t["y"]).min() < 2.5 for t in bright]
    real = truth[np.abs(truth["snr"]) > 2]
    false = [np.hypot(real["x"] - r["x"], real["y"] - r["y"]).min() > 2.5 for r in rows]
    return {"bright": len(bright), "found": int(np.sum(near)), "candidates": len(rows), "false": int(np.sum(false))}


def main() -> None:
    """Simulate, run, tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=10_000)
    parser.add_argument("--memory", type=float, default=4.0, help="GiB")
    parser.add_argument("--limit", action="store_true")
    parser.add_argument("--folder", type=Path, help="keep the files here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "truth.npy").exists():
            truth = np.load(folder / "truth.npy")
        else:
            truth = simulate(folder, args.side)
            np.save(folder / "truth.npy", truth)
        result = run(folder, args.memory, limit=args.limit)
        sys.stdout.write(result.pop("log"))
        result |= found(folder, truth) | {"side": args.side}
    sys.stdout.write(json.dumps(describe("python -m benchmarks.mosaic") | result, indent=2) + "\n")


if __name__ == "__main__":
    main()
