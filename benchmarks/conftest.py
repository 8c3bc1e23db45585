"""Options, the fixture `bench`, and the table and JSON at the end of a run of the benchmarks."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from benchmarks.harness import BACKENDS, Bench, Session, table

_SESSION = pytest.StashKey[Session]()


def pytest_addoption(parser):
    group = parser.getgroup("astrid_gpu benchmarks")
    group.addoption("--quick", action="store_true", help="small frames, few rounds: judges errors, not time")
    group.addoption("--results", metavar="FILE", help="write machine, versions and all rows as JSON")


def pytest_configure(config):
    config.stash[_SESSION] = Session(quick=config.getoption("--quick"))


@pytest.fixture
def bench(request, benchmark):
    """Times operations and notes their rows; see `benchmarks.harness.Bench.row`."""
    return Bench(benchmark, request.config.stash[_SESSION])


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Every backend that runs here."""
    import astrid_gpu as ag

    status = ag.backends.backend_status()[request.param]
    if not status.available:
        pytest.skip(f"{request.param}: {status.reason}")
    return ag.get_backend(request.param)


def _words(arguments):
    """The command's words; all the benchmarks of this folder as the pattern they were typed as."""
    every = {f"benchmarks/{path.name}" for path in Path(__file__).parent.glob("bench_*.py")}
    rest = [shlex.quote(word) for word in arguments if word not in every]
    return " ".join((["benchmarks/bench_*.py"] if every <= set(arguments) else sorted(every & set(arguments))) + rest)


def pytest_terminal_summary(terminalreporter, config):
    session = config.stash[_SESSION]
    if not session.rows:
        return
    bandwidth = session.bandwidth
    terminalreporter.section("astrid_gpu benchmarks")
    terminalreporter.write_line(
        f"memory: {bandwidth['gb_s']} GB/s with {bandwidth['threads']} threads ({bandwidth['how']})"
    )
    terminalreporter.write_line(
        "times: median and interquartile range; error: against float64; B/px: peak memory above"
    )
    terminalreporter.write_line("inputs and outputs, in a process of its own; of memory: least traffic over the time\n")
    terminalreporter.write_line(table(session.rows))
    if path := config.getoption("--results"):
        command = f"python -m pytest {_words(config.invocation_params.args)}"
        text = json.dumps(session.document(command), indent=1)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text + "\n", encoding="utf-8")
        terminalreporter.write_line(f"\nwritten: {path}")
