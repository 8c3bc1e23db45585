"""`benchmarks/run_gpu.sh` without a GPU: every step of it but NVIDIA's own tools, on the emulator with tiny frames."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cuda_host import build as host

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.skipif(bool(host.why_unavailable()), reason=host.why_unavailable() or "available")


def test_one_call_measures_everything(tmp_path):
    env = os.environ | {"DRY_RUN": "1", "OUT": str(tmp_path), "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "benchmarks/run_gpu.sh"], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [(s["stage"], s["ended"]) for s in summary["stages"]] == [("benchmark", "ok"), ("tests", "ok")]
    (name,) = tmp_path.glob("dry-run-*.json")
    record = json.loads(name.read_text())
    assert {"machine", "arguments", "rows", "fused", "chunks", "steps", "streaming", "surveys"} <= set(record)
    assert not any(row["failed"] for row in record["rows"] + record["fused"])
    fused = [row for row in record["rows"] if row["name"].startswith("zogy: D + S_corr + flux, fused")]
    assert {row["name"].rsplit(" ", 1)[1] for row in fused} == {"flat", "maps", "own"}
    assert {(row["chunk"], row["graph"]) for row in record["chunks"]} == {(1, False), (1, True), (2, False), (2, True)}
    assert all(row["times_floor"] > 0 for row in record["chunks"])
    assert [row["survey"] for row in record["surveys"]] == ["ZTF night", "DECam exposure", "Rubin visit"]
    assert all(row["candidates"] >= 0 and row["busy"] > 0 for row in record["streaming"])


def test_time_that_is_over_skips_a_stage(tmp_path):
    env = os.environ | {"DRY_RUN": "1", "OUT": str(tmp_path), "PYTHON": sys.executable, "BUDGET": "10"}
    done = subprocess.run(
        ["bash", "benchmarks/run_gpu.sh"], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    stages = json.loads((tmp_path / "summary.json").read_text())["stages"]
    assert [s["ended"] for s in stages] == ["skipped", "skipped"]
    assert "SKIPPED benchmark" in (tmp_path / "summary.txt").read_text()
