"""The command line: thin verbs, no logic. Progress on standard error, results on standard output.

Exit codes: 0 done, 1 an input failed, 2 usage or configuration.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import json
import logging
import os
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

import astrid_gpu
from astrid_gpu.cli import bench, check, demo, doctor, fetch, inject, subtract, warmup
from astrid_gpu.errors import AstridGpuError, BackendUnavailableError, ConfigError

__all__ = ["entry", "main"]

# Each has HELP, add_arguments(parser) and run(args), which returns the exit code.
_VERBS = {
    "demo": demo,
    "subtract": subtract,
    "doctor": doctor,
    "warmup": warmup,
    "bench": bench,
    "fetch": fetch,
    "inject": inject,
    "check": check,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments after the program's name; default those of the process.

    Returns
    -------
    int
        0 done, 1 an input failed, 2 usage or configuration.
    """
    if "numpy" not in sys.modules:  # or its BLAS has threads already, which get in the way of ours
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    parser = _parser()
    try:
        args = parser.parse_args(argv)
    except SystemExit as exc:
        return int(exc.code or 0)
    level = logging.ERROR if args.quiet else logging.DEBUG if args.verbose else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("astrid_gpu").setLevel(level)
    try:
        return int(args.run(args))
    except (ConfigError, BackendUnavailableError) as exc:
        return _fail(exc, args, 2)
    except (AstridGpuError, OSError) as exc:
        return _fail(exc, args, 1)
    except ImportError as exc:
        return _fail(f"{exc}; this verb needs more packages: pip install 'astrid-gpu[all]'", args, 2)
    except KeyboardInterrupt:
        return _fail("interrupted", args, 1)


def entry() -> NoReturn:
    """Run the command line and end the process with its exit code.

    Threads and exit handlers are seen to as Python does, but the interpreter is not taken down piece by piece: that
    frees what the system frees anyway, and takes a tenth as long as a subtraction. Under a debugger or profiler it is.
    """
    _keep_memory()
    code = main()
    tools = getattr(sys, "monitoring", None)
    watched = sys.gettrace() or sys.getprofile() or (tools and any(tools.get_tool(i) for i in range(6)))
    if watched or sys.flags.interactive:
        sys.exit(code)
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except Exception:  # such as a closed pipe, of which the interpreter has its own way to tell
        sys.exit(code)
    os._exit(code)


def _keep_memory() -> None:
    """Have the C library keep freed arrays of up to 32 MiB for the next ones, 256 MiB in all, where it has such a knob.

    Pages given back to the system come again filled with zeros, one fault each: a fifth of the system's time.
    """
    import ctypes

    trim_threshold, mmap_threshold = -1, -3  # of <malloc.h>
    with contextlib.suppress(OSError, AttributeError, TypeError):  # not the GNU C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 32 << 20)
        mallopt(trim_threshold, 256 << 20)


def _fail(reason: object, args: argparse.Namespace, code: int) -> int:
    """Say what went wrong on standard error, and as JSON on standard output if that was asked for."""
    sys.stderr.write(f"astrid-gpu: {reason}\n")
    if getattr(args, "json", False):
        sys.stdout.write(json.dumps({"error": str(reason), "kind": type(reason).__name__}) + "\n")
    return code


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print the result as JSON")
    shared.add_argument("-q", "--quiet", action="store_true", help="only errors on standard error")
    shared.add_argument("-v", "--verbose", action="store_true", help="more on standard error")
    parser = argparse.ArgumentParser(
        prog="astrid-gpu", description="Find what changed in the sky: proper image subtraction (ZOGY)."
    )
    parser.add_argument("--version", action="version", version=f"astrid-gpu {astrid_gpu.__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name, verb in _VERBS.items():
        sub = verbs.add_parser(name, parents=[shared], help=verb.HELP, description=verb.HELP)
        verb.add_arguments(sub)
        sub.set_defaults(run=verb.run)
    return parser
