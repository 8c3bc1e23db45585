"""``astrid-gpu warmup``."""

from __future__ import annotations

import argparse
import json
import sys

__all__ = ["HELP", "add_arguments", "run"]

HELP = "compile every kernel now and keep the result on disk, so that the first image of a process need not wait"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("--backend", default="auto", help="auto, numba or cupy")


def run(args: argparse.Namespace) -> int:
    """Compile; return the exit code."""
    from astrid_gpu.run.warmup import warmup

    def progress(text: str) -> None:
        if not args.quiet:
            sys.stderr.write(text)
            sys.stderr.flush()

    result = warmup(args.backend, progress=progress)
    sys.stdout.write((json.dumps(result.to_dict()) if args.json else str(result)) + "\n")
    return 0
