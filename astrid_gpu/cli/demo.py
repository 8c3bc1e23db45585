"""``astrid-gpu demo``."""

from __future__ import annotations

import argparse
import json
import sys

__all__ = ["HELP", "add_arguments", "run"]

HELP = "the whole job on a simulated field, compared with its truth; no network"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("-o", "--output", default="demo", metavar="DIR", help="folder for the results (default: demo)")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller images")
    parser.add_argument("--backend", default="auto", help="auto, numpy, numba or cupy")
    parser.add_argument("--seed", type=int, default=1, help="seed of the simulated field")


def run(args: argparse.Namespace) -> int:
    """Run the demo; return the exit code."""
    from astrid_gpu.demo import run_demo

    result = run_demo(args.output, quick=args.quick, backend=args.backend, seed=args.seed)
    sys.stdout.write((json.dumps(result.to_dict()) if args.json else str(result)) + "\n")
    return 0
