"""``astrid-gpu subtract``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from astrid_gpu.errors import AstridGpuError, ConfigError

__all__ = ["HELP", "add_arguments", "run"]

HELP = "FITS files to differences, candidates, triplets and pictures"

_PLANES = {
    "mask": "nonzero = bad",
    "variance": "variance of each pixel",
    "error": "1-sigma error of each pixel",
    "weight": "1 / variance; 0 or less = bad",
    "psf": "stamp, PSFEx or DAOPHOT file, gaussian:FWHM or moffat:FWHM,BETA",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    p = parser
    p.add_argument("science", nargs="+", help="FITS file, or FILE[EXT]; of several, each gets a folder in DIR")
    p.add_argument("reference", help="FITS file, or FILE[EXT]: an older or deeper image of the field")
    p.add_argument("-o", "--output", default="astrid_out", metavar="DIR", help="folder (default: astrid_out)")
    planes = p.add_argument_group("what is known of the images (files, or FILE[EXT])")
    for plane, help_text in _PLANES.items():
        for role in ("science", "reference"):
            planes.add_argument(f"--{plane}-{role}", metavar="F", help=help_text)
    for role in ("science", "reference"):
        planes.add_argument(f"--sigma-{role}", type=float, metavar="X", help="background standard deviation")
    planes.add_argument("--flux-ratio", type=float, metavar="BETA", help="F_n / F_r; measured if not given")
    planes.add_argument(
        "--astrometric-error",
        nargs=2,
        type=float,
        metavar=("Y", "X"),
        help="1-sigma registration noise, pixels; measured if not given",
    )
    _add_how(p.add_argument_group("how"))
    find = p.add_argument_group("candidates")
    find.add_argument("--threshold", type=float, default=5.0, help="sigma of S_corr (default: 5)")
    find.add_argument("--polarity", default="both", help="positive, negative or both")
    find.add_argument("--extractor", default="peaks", help="peaks, sep or photutils")
    find.add_argument("--size", type=int, default=63, help="odd side of the cutouts, pixels (default: 63)")
    find.add_argument("--extensions", help="comma-separated extensions of difference.fits")


def _add_how(how: Any) -> None:
    """Declare how the images are prepared and differenced."""
    how.add_argument("--method", default="zogy", help="zogy, classic or classic-fit")
    how.add_argument("--align", default="auto", help="auto, wcs, stars or none")
    how.add_argument(
        "--kernel", default="spline5", help="spline5, spline3, lanczos3, bilinear or nearest interpolation"
    )
    how.add_argument(
        "--min-overlap", type=float, default=0.1, metavar="X", help="least common part of the smaller frame"
    )
    how.add_argument("--grid", default="science", help="science or reference: whose pixel grid the output has")
    how.add_argument("--no-background", action="store_true", help="the images are sky-subtracted already")
    how.add_argument("--cosmic-rays", default="none", help="none, auto or astroscrappy: mask them in both images first")
    how.add_argument("--no-bad-lines", action="store_true", help="do not look for bad columns and rows")
    how.add_argument("--no-trails", action="store_true", help="do not look for the trails of satellites")
    how.add_argument("--box", type=int, help="side of a background box, pixels")
    how.add_argument("--psf-size", type=int, help="odd side of measured PSFs, pixels")
    how.add_argument("--psf-order", default="auto", help="auto, or 0 to 3: polynomial of measured PSFs over the field")
    how.add_argument("--flux-order", default="auto", help="auto, or 0 to 3: the same of the flux ratio")
    how.add_argument("--registration", default="shift", help="shift, noise or none")
    how.add_argument("--tiles", default="auto", type=_tiles, help="auto, never, or the side of a tile in pixels")
    how.add_argument("--noise", default="auto", help="auto, coloured or white: the noise spectrum of blank sky")
    how.add_argument("--memory", type=float, metavar="GIB", help="memory that may be taken (default: what is free)")
    how.add_argument("--renormalise", default="global", help="global, local (a map, where the width varies) or none")
    how.add_argument("--backend", default="auto", help="auto, numpy, numba or cupy")
    how.add_argument("--dtype", help="float32 or float64 to compute in (default: the backend's)")
    how.add_argument("--profile", action="store_true", help="print where the time went")


def _tiles(text: str) -> str | int:
    """Return the side of a tile as a number, words as they are: the configuration knows which are allowed."""
    return int(text) if text.isdecimal() else text


def run(args: argparse.Namespace) -> int:
    """Subtract one file or several; return 1 if one of several failed."""
    from astrid_gpu.config import DetectConfig, SubtractConfig

    options: dict[str, Any] = {
        "subtract_config": SubtractConfig(
            method=args.method,
            align=args.align,
            grid=args.grid,
            kernel=args.kernel,
            min_overlap=args.min_overlap,
            background=not args.no_background,
            cosmic_rays=args.cosmic_rays,
            bad_lines=not args.no_bad_lines,
            trails=not args.no_trails,
            box=args.box,
            psf_size=args.psf_size,
            psf_order=_order(args.psf_order),
            flux_order=_order(args.flux_order),
            registration=args.registration,
            tiles=args.tiles,
            noise=args.noise,
            memory=args.memory,
            renormalise=args.renormalise,
            backend=args.backend,
            dtype=args.dtype,
        ),
        "detect_config": DetectConfig(
            threshold=args.threshold, polarity=args.polarity, extractor=args.extractor, size=args.size
        ),
        "reference_planes": _planes(args, "reference"),
        "extensions": tuple(args.extensions.upper().split(",")) if args.extensions else None,
        "sigma_reference": args.sigma_reference,
    }
    return _several(args, options) if len(args.science) > 1 else _one(args, options)


def _order(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def _one(args: argparse.Namespace, options: dict[str, Any]) -> int:
    from astrid_gpu.run.pair import run_pair
    from astrid_gpu.run.profile import Profile, process_age

    result = run_pair(
        args.science[0],
        args.reference,
        args.output,
        science_planes=_planes(args, "science"),
        sigma_science=args.sigma_science,
        flux_ratio=args.flux_ratio,
        astrometric_error=None if args.astrometric_error is None else tuple(args.astrometric_error),
        profile=Profile(process_age()),
        **options,
    )
    _tell(args, result)
    if args.json:
        sys.stdout.write(json.dumps(_summary(result)) + "\n")
    else:
        sys.stdout.write(f"{result.candidates!r}\nquality {result.quality.line()}\n")
        sys.stdout.write("".join(f"wrote {path}\n" for path in result.files.values()))
    return 0


def _several(args: argparse.Namespace, options: dict[str, Any]) -> int:
    """Subtract one reference from each file; a line, or with --json an object, for each."""
    from astrid_gpu.run.stack import run_stack

    own = [f"--{name}-science" for name in (*_PLANES, "sigma") if getattr(args, f"{name}_science") is not None]
    own += [
        f"--{name.replace('_', '-')}" for name in ("flux_ratio", "astrometric_error") if getattr(args, name) is not None
    ]
    if own:
        msg = f"{', '.join(own)} would be the same for {len(args.science)} science images; subtract them one by one"
        raise ConfigError(msg)
    failed = 0
    for path, result in run_stack(args.science, args.reference, args.output, **options):
        if isinstance(result, AstridGpuError):
            failed += 1
            sys.stderr.write(f"astrid-gpu: {result}\n")
            row = {"science": path, "error": str(result), "kind": type(result).__name__}
        else:
            _tell(args, result)
            row = _summary(result) if args.json else {}
        if args.json:
            sys.stdout.write(json.dumps(row) + "\n")
        elif not isinstance(result, AstridGpuError):
            folder = Path(result.files["summary.json"]).parent
            sys.stdout.write(f"{path}: {len(result.candidates)} candidates, {result.quality.verdict}, {folder}\n")
    return 1 if failed else 0


def _tell(args: argparse.Namespace, result: Any) -> None:
    """Say on standard error what was estimated and, if asked, where the time went."""
    if not args.quiet:
        sys.stderr.write("".join(f"{step}\n" for step in result.difference.steps))
    if args.profile:
        sys.stderr.write(f"{result.profile}\n")


def _summary(result: Any) -> dict[str, Any]:
    """Return the summary file with the candidates in it."""
    from astrid_gpu.run.pair import jsonable

    summary = json.loads(Path(result.files["summary.json"]).read_text(encoding="utf-8"))
    table = result.candidates.data
    rows = [{k: row[k] for k in table.dtype.names or ()} for row in table]
    return summary | {"candidates": jsonable(rows)}


def _planes(args: argparse.Namespace, role: str) -> dict[str, Any]:
    """Companion files given for one image."""
    values = {plane: getattr(args, f"{plane}_{role}") for plane in _PLANES}
    return {plane: value for plane, value in values.items() if value is not None}
