"""Cost against pixels and against pairs: `python -m benchmarks.scale` measures, writes JSON and draws the figure.

One pair from 256 x 256 to 8192 x 8192 beside n log n, with the error on a corner of each; and a stream of 1 to 256
pairs of 512 x 512 with known PSFs through `astrid_gpu.subtract_stack`, images made as they are asked for and results
let go, with the peak memory of the process. Every point is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import astrid_gpu as ag
from astrid_gpu.run.scenes import subtraction_scene
from benchmarks.child import status
from benchmarks.harness import rounded
from benchmarks.machine import ROOT, describe

SIDES = (256, 512, 1024, 2048, 4096, 8192)
PAIRS = (1, 4, 16, 64, 256)
STREAM_SIDE, BATCH, CORNER = 512, 8, 512


def pair(side: int, backend: str, rounds: int) -> dict[str, Any]:
    """Time one pair and find its error on the corner, which a frame of twice the corner gives in float64."""
    b = ag.get_backend(backend)
    scene = subtraction_scene((side, side))
    args, keywords = scene.zogy_arguments(0)
    got = ag.zogy(*args, **keywords, backend=b).score_corr
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        ag.zogy(*args, **keywords, backend=b)
        b.synchronize()
        times.append(time.perf_counter() - start)
    corner, wide = min(CORNER, side), min(2 * CORNER, side)
    cut = {k: v[:wide, :wide] if k.startswith("variance") else v for k, v in keywords.items()}
    part = (args[0][:wide, :wide], args[1][:wide, :wide], *args[2:])
    exact = ag.zogy(*part, **cut, backend="numpy", dtype="float64").score_corr
    off = np.abs(b.to_host(got)[:corner, :corner] - exact[:corner, :corner]).max()
    return {"side": side, "median_ms": rounded(1e3 * np.median(times)), "min_ms": rounded(1e3 * min(times)),
            "rounds": rounds, "error": float(f"{off:.2g}")}  # fmt: skip


def stream(pairs: int, backend: str) -> dict[str, Any]:
    """Subtract a stream of pairs against one reference; seconds of it all, memory of the whole process."""
    scene = subtraction_scene((STREAM_SIDE, STREAM_SIDE))
    known = {"psf_science": scene.psfs[0], "psf_reference": scene.psfs[1], "align": "none", "registration": "none"}
    reference = ag.Image(scene.reference, variance=scene.variance_reference)
    rng = np.random.default_rng(2)

    def exposures(n: int) -> Iterator[ag.Image]:
        for _ in range(n):
            noise = rng.standard_normal(scene.reference.shape, dtype=np.float32)
            yield ag.Image(scene.science[0] + noise, variance=scene.variance_science[0] + np.float32(1))

    def work(n: int) -> int:
        found = ag.subtract_stack(exposures(n), reference, batch=BATCH, backend=backend, **known)
        return sum(bool(np.isfinite(difference.score_corr).all()) for difference in found)

    work(1)  # compiled code, plans, threads
    start = time.perf_counter()
    done = work(pairs)
    seconds = time.perf_counter() - start
    assert done == pairs
    return {"pairs": pairs, "seconds": rounded(seconds), "peak_mb": rounded(status("VmHWM") / 1e6)}


def measure(sides: tuple[int, ...], pairs: tuple[int, ...], backend: str) -> dict[str, Any]:
    """Measure every point in a process of its own, small to large."""
    document: dict[str, Any] = describe("python -m benchmarks.scale") | {
        "backend": backend,
        "stream_side": STREAM_SIDE,
        "batch": BATCH,
    }
    document["pixels"] = [_elsewhere("pair", side, backend, 5 if side > 4096 else 9) for side in sides]
    document["pairs"] = [_elsewhere("stream", n, backend) for n in pairs]
    return document


def _elsewhere(what: str, *arguments: Any) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scale", "--point", json.dumps([what, *arguments])]
    found = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    sys.stderr.write(found)
    return json.loads(found.splitlines()[-1])


def draw(document: dict[str, Any], path: Path) -> None:
    """Draw time against pixels, time against pairs, and memory against pairs."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10.5, 3.2), layout="constrained")
    n = np.array([p["side"] ** 2 for p in document["pixels"]], float)
    ms = np.array([p["median_ms"] for p in document["pixels"]])
    anchor = len(n) // 2
    left.loglog(n, ms, "o-", color="C0", label="measured")
    left.loglog(n, ms[anchor] * n * np.log(n) / (n[anchor] * np.log(n[anchor])), "k--", lw=1, label=r"$n\,\log n$")
    left.set(xlabel="pixels of a frame", ylabel="ms a pair", title="one pair")
    left.set_xticks(n, [f"{p['side']}²" for p in document["pixels"]])
    left.minorticks_off()
    count = np.array([p["pairs"] for p in document["pairs"]], float)
    seconds = np.array([p["seconds"] for p in document["pairs"]])
    middle.loglog(count, seconds, "o-", color="C0", label="measured")
    middle.loglog(count, seconds[-1] * count / count[-1], "k--", lw=1, label="linear")
    memory = [p["peak_mb"] for p in document["pairs"]]
    right.semilogx(count, memory, "o-", color="C1", label="peak of the process")
    right.set_ylim(0, 1.5 * max(memory))
    side, batch = document["stream_side"], document["batch"]
    middle.set(xlabel="pairs", ylabel="s in all", title=f"stream of {side}² pairs")
    right.set(xlabel="pairs", ylabel="MB", title=f"its memory, batches of {batch}")
    for axes in (middle, right):
        axes.set_xticks(count, [str(int(c)) for c in count])
        axes.minorticks_off()
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Parse, measure, write, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backend", default="numba")
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES)
    parser.add_argument("--pairs", type=int, nargs="+", default=PAIRS)
    parser.add_argument("--json", type=Path, default=ROOT / "out" / "scale.json")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs" / "figures" / "scale.png")
    parser.add_argument("--redraw", action="store_true", help="draw what --json holds; measure nothing")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.point:
        what, *rest = json.loads(given.point)
        sys.stdout.write(json.dumps({"pair": pair, "stream": stream}[what](*rest)) + "\n")
        return 0
    if not given.redraw:
        document = measure(tuple(given.sides), tuple(given.pairs), given.backend)
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    draw(json.loads(given.json.read_text(encoding="utf-8")), given.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
