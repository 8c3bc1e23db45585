"""The benchmark harness: what a row says, when it fails, what a file holds, what a comparison finds."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import compare
from benchmarks.child import Child, sizes
from benchmarks.harness import SCHEMA, Bench, Row, Session, Work, read, table
from benchmarks.machine import describe, triad
from tests.layout.source_tree import ROOT

ROW = Row("zogy pair", "numba", "64 x 64", median_ms=10.0, iqr_ms=0.2, min_ms=9.0, error=1e-5, error_of="S_corr",
          tolerance=1e-3, ratios={"yardstick": 3.0})  # fmt: skip


def make_array(megabytes, keep=False):
    """For the memory of a child: a result of one size, made by way of a temporary of three times that."""
    n = int(megabytes) * 1_000_000

    def run():
        between = np.ones(3 * n, np.uint8)
        return {"map": between[:n] + 1, "number": 3}

    return run


class FakeBenchmark:
    """pytest-benchmark's fixture as far as the harness uses it; every round takes 10 ms."""

    def __init__(self):
        self.extra_info = {}

    def pedantic(self, run, setup, rounds, warmup_rounds):
        for _ in range(rounds + warmup_rounds):
            setup()
            result = run()
        self.stats = SimpleNamespace(stats=SimpleNamespace(data=[0.010] * rounds))
        return result


def bench():
    session = Session(quick=True)
    session._bandwidth = {"gb_s": 10.0, "threads": 1, "how": "given"}
    return Bench(FakeBenchmark(), session), session


def test_row_has_error_beside_time():
    bench_, session = bench()
    bench_.row("op", "numpy", "8 x 8", lambda: 5.0, error=lambda out: out - 4.9, tolerance=0.2, error_of="values",
               images=2, moved=25.0, rivals={"other": lambda: None})  # fmt: skip
    (row,) = session.rows
    assert (row.median_ms, row.iqr_ms, row.failed) == (5.0, 0.0, False)  # an image: the call took 10 ms for two
    assert row.error == pytest.approx(0.1)
    assert row.of_bandwidth == pytest.approx(25e6 / 5e-3 / 10e9)
    assert 0 < row.ratios["other"] < 1
    assert "5.00" in table(session.rows)


@pytest.mark.parametrize("error", [0.3, float("nan")])
def test_row_beyond_its_tolerance_has_no_speed(error):
    bench_, session = bench()
    with pytest.raises(AssertionError, match="exceeds"):
        bench_.row("op", "numpy", "8 x 8", lambda: 5.0, error=lambda _: error, tolerance=0.2, error_of="values",
                   rivals={"other": lambda: None})  # fmt: skip
    (row,) = session.rows
    assert row.failed
    assert row.median_ms is row.min_ms is row.iqr_ms is None
    assert row.ratios == {}
    assert "FAILED" in table(session.rows)


def test_rivals_take_turns_with_the_operation():
    bench_, _ = bench()
    order = []
    bench_.row("op", "numpy", "8 x 8", lambda: order.append("a"), error=lambda _: 0, tolerance=1, error_of="nothing",
               rivals={"b": lambda: order.append("b"), "c": lambda: order.append("c")})  # fmt: skip
    assert order == ["b", "c", "a"] * 4  # one warm-up, three rounds


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_memory_of_a_child_is_what_the_operation_takes():
    """Three times the result and the sum before it is the result: 3 parts above the output, to a page or two."""
    with Child(f"{__name__}:make_array", {"megabytes": 20}, {"megabytes": 1}) as child:
        assert child.memory() / 20e6 == pytest.approx(3, abs=0.1)


def test_child_that_cannot_start_says_so():
    with pytest.raises(RuntimeError, match="ended"):
        Child("benchmarks.bench_zogy:no_such_maker", {})


def test_sizes_count_every_array():
    arrays = np.zeros(3), np.zeros(2, np.uint8)
    assert sizes({"a": arrays[0], "b": [arrays[1], "text"], "c": None}) == 26


def test_work_names_its_maker():
    assert Work(make_array, {"megabytes": 1}).name.endswith("test_bench_rows:make_array")
    assert Work(make_array, {"megabytes": 1}).make()()["map"].size == 1_000_000


def test_document_says_where_it_comes_from(tmp_path):
    session = Session(quick=True)
    session.rows.append(ROW)
    session._bandwidth = triad(megabytes=1, rounds=2)
    text = json.dumps(session.document("make bench"))
    (tmp_path / "r.json").write_text(text)
    got = read(tmp_path / "r.json")
    assert got["rows"] == [ROW]
    assert {"machine", "threads", "versions", "commit", "date", "command", "bandwidth"} <= set(got)
    assert got["bandwidth"]["gb_s"] > 0.1
    assert got["versions"]["numpy"] == np.__version__
    assert len(describe("x")["commit"]) >= 7


def test_other_files_are_refused(tmp_path):
    (tmp_path / "r.json").write_text('{"rows": []}')
    with pytest.raises(ValueError, match="not a result"):
        read(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("new", "verdict"),
    [
        ({}, ""),
        ({"median_ms": 15.0}, ""),  # a slower machine: the rival was slower too
        ({"ratios": {"yardstick": 2.0}}, "slower"),
        ({"ratios": {"yardstick": 4.0}}, "faster"),
        ({"ratios": {"yardstick": 2.0}, "iqr_ms": 9.0}, "slower"),
        ({"ratios": {"yardstick": 2.0}, "iqr_ms": 12.0}, ""),  # within the spread
        ({"median_ms": 15.0, "ratios": {}}, "slower"),
        ({"failed": True, "median_ms": None}, "FAILED"),
        ({"size": "65 x 65"}, "missing"),
    ],
)
def test_comparison(new, verdict):
    (change,) = compare.changes([ROW], [replace(ROW, **new)])
    assert change.verdict(1.1) == verdict


def test_comparison_of_files_is_strict_on_demand(tmp_path, capsys):
    paths = []
    for name, ratio in (("a", 3.0), ("b", 1.0)):
        head = describe("x") | {
            "schema": SCHEMA,
            "bandwidth": {},
            "rows": [asdict(replace(ROW, ratios={"yardstick": ratio}))],
        }
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(head))
    arguments = [str(p) for p in paths]
    assert compare.main(arguments) == 0
    assert compare.main([*arguments, "--strict"]) == 1
    assert compare.main([*reversed(arguments), "--strict"]) == 0
    out = capsys.readouterr().out
    assert "slower" in out
    assert "3.00" in out


def test_failed_row_fails_the_run(tmp_path):
    """The real thing: a benchmark whose error is too large prints FAILED, writes no time, and ends with 1."""
    (tmp_path / "bench_wrong.py").write_text(
        "def test_wrong(bench):\n"
        "    bench.row('wrong', 'numpy', '8 x 8', lambda: 1, error=lambda r: r, tolerance=0.5, error_of='all')\n"
    )
    (tmp_path / "conftest.py").write_text((ROOT / "benchmarks" / "conftest.py").read_text())
    command = [
        *(sys.executable, "-m", "pytest", str(tmp_path), "-q", "--quick", "--benchmark-quiet", "--results", "r.json"),
        *("-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), "-p", "no:cacheprovider"),
        *("-o", "python_files=bench_*.py", "-o", f"pythonpath={ROOT}"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED" in done.stdout
    (row,) = read(tmp_path / "r.json")["rows"]
    assert row.failed
    assert row.median_ms is None
