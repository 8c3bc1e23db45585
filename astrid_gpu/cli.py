"""The command line: thin verbs, no logic. Progress on standard error, results on standard output.

Exit codes: 0 done, 1 an input failed, 2 usage or configuration.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import astrid_gpu
from astrid_gpu.errors import AstridGpuError, BackendUnavailableError, ConfigError

__all__ = ["main"]

_PLANES = ("mask", "variance", "error", "weight", "psf")


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
    parser = _parser()
    try:
        args = parser.parse_args(argv)
    except SystemExit as exc:
        return int(exc.code or 0)
    level = logging.ERROR if args.quiet else logging.DEBUG if args.verbose else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("astrid_gpu").setLevel(level)
    try:
        return int(args.verb(args))
    except (ConfigError, BackendUnavailableError) as exc:
        return _fail(exc, args, 2)
    except (AstridGpuError, OSError) as exc:
        return _fail(exc, args, 1)
    except ImportError as exc:
        return _fail(f"{exc}; this verb needs more packages: pip install 'astrid-gpu[all]'", args, 2)
    except KeyboardInterrupt:
        return _fail("interrupted", args, 1)


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
    for name, add in (("demo", _add_demo), ("subtract", _add_subtract), ("doctor", _add_doctor)):
        help_text, verb, arguments = add()
        sub = verbs.add_parser(name, parents=[shared], help=help_text, description=help_text)
        arguments(sub)
        sub.set_defaults(verb=verb)
    return parser


_Verb = tuple[str, Callable[[argparse.Namespace], int], Callable[[argparse.ArgumentParser], None]]


def _add_demo() -> _Verb:
    def arguments(p: argparse.ArgumentParser) -> None:
        p.add_argument("-o", "--output", default="demo", metavar="DIR", help="folder for the results (default: demo)")
        p.add_argument("--quick", action="store_true", help="fewer and smaller images")
        p.add_argument("--backend", default="auto", help="auto, numpy, numba or cupy")
        p.add_argument("--seed", type=int, default=1, help="seed of the simulated field")

    return "the whole job on a simulated field, compared with its truth; no network", _demo, arguments


def _add_doctor() -> _Verb:
    return "which backends run here, and why the others do not", _doctor, lambda p: None


def _add_subtract() -> _Verb:
    def arguments(p: argparse.ArgumentParser) -> None:
        p.add_argument("science", help="FITS file, or FILE[EXT]")
        p.add_argument("reference", help="FITS file, or FILE[EXT]: an older or deeper image of the field")
        p.add_argument("-o", "--output", default="astrid_out", metavar="DIR", help="folder (default: astrid_out)")
        planes = p.add_argument_group("what is known of the images (files, or FILE[EXT])")
        helps = {
            "mask": "nonzero = bad",
            "variance": "variance of each pixel",
            "error": "1-sigma error of each pixel",
            "weight": "1 / variance; 0 or less = bad",
            "psf": "stamp, PSFEx or DAOPHOT file, gaussian:FWHM or moffat:FWHM,BETA",
        }
        for plane in _PLANES:
            for role in ("science", "reference"):
                planes.add_argument(f"--{plane}-{role}", metavar="F", help=helps[plane])
        for role in ("science", "reference"):
            planes.add_argument(f"--sigma-{role}", type=float, metavar="X", help="background standard deviation")
        planes.add_argument("--flux-ratio", type=float, metavar="BETA", help="F_n / F_r; measured if not given")
        how = p.add_argument_group("how")
        how.add_argument("--method", default="zogy", help="zogy, classic or classic-fit")
        how.add_argument("--align", default="auto", help="auto, wcs, stars or none")
        how.add_argument("--grid", default="science", help="science or reference: whose pixel grid the output has")
        how.add_argument("--no-background", action="store_true", help="the images are sky-subtracted already")
        how.add_argument("--box", type=int, help="side of a background box, pixels")
        how.add_argument("--psf-size", type=int, help="odd side of measured PSFs, pixels")
        how.add_argument("--registration", default="shift", help="shift, noise or none")
        how.add_argument("--renormalise", default="global", help="global or none")
        how.add_argument("--backend", default="auto", help="auto, numpy, numba or cupy")
        how.add_argument("--profile", action="store_true", help="print where the time went")
        find = p.add_argument_group("candidates")
        find.add_argument("--threshold", type=float, default=5.0, help="sigma of S_corr (default: 5)")
        find.add_argument("--polarity", default="both", help="positive, negative or both")
        find.add_argument("--extractor", default="peaks", help="peaks, sep or photutils")
        find.add_argument("--size", type=int, default=63, help="odd side of the cutouts, pixels (default: 63)")
        find.add_argument("--extensions", help="comma-separated extensions of difference.fits")

    return "two FITS files to a difference, candidates, triplets and a picture", _subtract, arguments


def _subtract(args: argparse.Namespace) -> int:
    from astrid_gpu.config import DetectConfig, SubtractConfig
    from astrid_gpu.run.pair import jsonable, run_pair

    settings = SubtractConfig(
        method=args.method,
        align=args.align,
        grid=args.grid,
        background=not args.no_background,
        box=args.box,
        psf_size=args.psf_size,
        registration=args.registration,
        renormalise=args.renormalise,
        backend=args.backend,
    )
    finding = DetectConfig(threshold=args.threshold, polarity=args.polarity, extractor=args.extractor, size=args.size)
    result = run_pair(
        args.science,
        args.reference,
        args.output,
        subtract_config=settings,
        detect_config=finding,
        science_planes=_planes(args, "science"),
        reference_planes=_planes(args, "reference"),
        extensions=tuple(args.extensions.upper().split(",")) if args.extensions else None,
        sigma_science=args.sigma_science,
        sigma_reference=args.sigma_reference,
        flux_ratio=args.flux_ratio,
    )
    diff, candidates = result.difference, result.candidates
    if not args.quiet:
        sys.stderr.write("".join(f"{step}\n" for step in diff.steps))
    if args.profile:
        sys.stderr.write("".join(f"{s:8.3f} s  {stage}\n" for stage, s in diff.metrics["profile"].items()))
    if args.json:
        summary = json.loads(Path(result.files["summary.json"]).read_text(encoding="utf-8"))
        rows = [{k: row[k] for k in candidates.data.dtype.names or ()} for row in candidates.data]
        sys.stdout.write(json.dumps(summary | {"candidates": jsonable(rows)}) + "\n")
    else:
        sys.stdout.write(f"{candidates!r}\n")
        sys.stdout.write("".join(f"wrote {path}\n" for path in result.files.values()))
    return 0


def _planes(args: argparse.Namespace, role: str) -> dict[str, Any]:
    """Companion files given for one image."""
    values = {plane: getattr(args, f"{plane}_{role}") for plane in _PLANES}
    return {plane: value for plane, value in values.items() if value is not None}


def _demo(args: argparse.Namespace) -> int:
    from astrid_gpu.demo import run_demo

    result = run_demo(args.output, quick=args.quick, backend=args.backend, seed=args.seed)
    sys.stdout.write((json.dumps(result.to_dict()) if args.json else str(result)) + "\n")
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from astrid_gpu.run.doctor import examine

    report = examine()
    sys.stdout.write((json.dumps(report) if args.json else _doctor_text(report)) + "\n")
    return 0


def _doctor_text(report: dict[str, Any]) -> str:
    """Lay out the doctor's report for people."""
    lines = [f"astrid_gpu {report['version']}, Python {report['python']}, {report['platform']}", "", "backends"]
    for name, status in report["backends"].items():
        lines.append(f"  {name:<8} {'yes' if status['available'] else 'no ':<4} {status['reason']}")
        lines += [f"           {key}: {value}" for key, value in status["details"].items()]
    lines += ["", f"auto takes {report['auto']}", "", "optional packages"]
    lines += [f"  {name:<12} {found}" for name, found in report["packages"].items()]
    return "\n".join(lines)
