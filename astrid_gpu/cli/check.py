"""``astrid-gpu check``."""

from __future__ import annotations

import argparse
import json
import sys

__all__ = ["HELP", "add_arguments", "run"]

HELP = "is a run directory complete, whole and consistent?"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("run_directory", metavar="RUN", help="folder of a run")
    parser.add_argument(
        "--headers-only", action="store_true", help="do not read the pixels: fast, blind to damage there"
    )


def run(args: argparse.Namespace) -> int:
    """Print what is wrong; return 1 if something is."""
    from astrid_gpu.run.check import check_run

    report = check_run(args.run_directory, pixels=not args.headers_only)
    sys.stdout.write((json.dumps(report.to_json(), indent=1) if args.json else str(report)) + "\n")
    return 0 if report.ok else 1
