"""``astrid-gpu doctor``."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

__all__ = ["HELP", "add_arguments", "run"]

HELP = "which backends and FFT libraries run here, and why the others do not"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare nothing: the verb has no arguments of its own."""


def run(args: argparse.Namespace) -> int:
    """Print what this machine can do; return the exit code."""
    from astrid_gpu.run.doctor import examine

    report = examine()
    sys.stdout.write((json.dumps(report) if args.json else _text(report)) + "\n")
    return 0


def _text(report: dict[str, Any]) -> str:
    """Lay out the report for people."""
    lines = [f"astrid_gpu {report['version']}, Python {report['python']}, {report['platform']}", "", "backends"]
    for name, status in report["backends"].items():
        lines.append(f"  {name:<8} {'yes' if status['available'] else 'no ':<4} {status['reason']}")
        lines += [f"           {key}: {value}" for key, value in status["details"].items()]
    lines += ["", f"auto takes {report['auto']}", "", "FFTs of whole frames on the CPU"]
    lines += [f"  {name:<8} {found}" for name, found in report["fft"]["libraries"].items()]
    lines += [f"  auto takes {report['fft']['auto']}", "", "compiled CPU kernels"]
    lines += [f"  {key}: {value}" for key, value in report["kernels"].items()]
    lines += ["", "optional packages"]
    lines += [f"  {name:<12} {found}" for name, found in report["packages"].items()]
    return "\n".join(lines)
