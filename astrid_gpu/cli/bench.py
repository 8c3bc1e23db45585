"""``astrid-gpu bench``."""

from __future__ import annotations

import argparse
import json
import sys

__all__ = ["HELP", "add_arguments", "run"]

HELP = "a short table of throughput on this machine, each time with its error beside it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("--side", type=int, nargs="+", metavar="N", help="sides in pixels (default: 1024 2048)")
    parser.add_argument("--backend", default="all", help="all, auto, numpy, numba or cupy")
    parser.add_argument("--quick", action="store_true", help="512 pixels, a few seconds")


def run(args: argparse.Namespace) -> int:
    """Measure; return 1 if a result is wrong by more than its tolerance."""
    from astrid_gpu.run.bench import describe_machine, format_table, run_bench

    def progress(text: str) -> None:
        if not args.quiet:
            sys.stderr.write(f"{text}\n")

    sizes = {} if args.side is None else {"sizes": tuple(args.side)}
    rows = run_bench(backend=args.backend, quick=args.quick, progress=progress, **sizes)
    text = json.dumps({"machine": describe_machine(), "rows": rows}) if args.json else format_table(rows)
    sys.stdout.write(f"{text}\n")
    return 1 if any(row["failed"] for row in rows) else 0
