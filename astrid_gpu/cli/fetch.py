"""``astrid-gpu fetch``."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from astrid_gpu.errors import ConfigError

__all__ = ["HELP", "add_arguments", "run"]

HELP = "images from archives, files on disk, or alerts into a run directory"

_COMMON = {
    "radius": "degrees, or text such as '5 arcmin'",
    "filters": "comma-separated, as the survey names them",
    "missions": "mast: PS1,HST,JWST,TESS",
    "surveys": "skyview: 'DSS2 Red,SDSSg,...'",
    "products": "ztf: science,mask,psf,catalog,difference,reference,error",
    "since": "earliest time: modified Julian date; ztf takes ISO dates too",
    "until": "latest time",
    "size": "side of cutouts: arcsec (ztf), pixels (ps1, tesscut)",
    "limit": "no more than so many",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "source", help="mast, ps1, skyview, tesscut, ztf; local, alerts; alerce, fink, lasair, boom, kowalski"
    )
    where = (
        "position ('210.80 54.35'), region (M101, 'SN 2011fe', COSMOS, GOODS-N) or name; "
        "a path for local and alerts; an object's id for brokers"
    )
    parser.add_argument("where", help=where)
    parser.add_argument("-o", "--output", default="run", metavar="RUN", help="run directory (default: run)")
    parser.add_argument("--dry-run", action="store_true", help="show what would be fetched and how large it is")
    parser.add_argument("--role", choices=("science", "reference"), help="what the images are to be")
    for name, told in _COMMON.items():
        parser.add_argument(f"--{name}", metavar="X", help=told)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any other keyword of the source's search()"
    )


def run(args: argparse.Namespace) -> int:
    """Find, and unless told otherwise fetch; return 1 if a file failed."""
    from astrid_gpu.run.fetching import find, get

    found = find(args.source, args.where, _options(args))
    if found.warning:
        sys.stderr.write(f"warning: {found.warning}\n")
    if not args.dry_run and len(found.rows):
        found = get(args.source, found, args.output, role=args.role)
    for name, reason in found.failures:
        sys.stderr.write(f"astrid-gpu: {name}: {reason}\n")
    sys.stdout.write((json.dumps(found.to_json(), indent=1) if args.json else _text(found, args)) + "\n")
    return 1 if found.failures else 0


def _options(args: argparse.Namespace) -> dict[str, str]:
    """Return what was asked for, by the names of search()'s keywords."""
    asked = {name: getattr(args, name) for name in _COMMON if getattr(args, name) is not None}
    for pair in args.set:
        name, equals, value = pair.partition("=")
        if not equals:
            msg = f"--set wants NAME=VALUE, got {pair!r}"
            raise ConfigError(msg)
        asked[name.strip()] = value.strip()
    return asked


def _text(found: Any, args: argparse.Namespace) -> str:
    """Lay the result out for people."""
    size = found.total_size / 1e6
    about = f"about {size:.1f} MB" if size else "size not known"
    if not len(found.rows):
        return f"{args.source} has nothing of that at {args.where}"
    if not args.dry_run:
        return "\n".join([*(f"wrote {path}" for path in found.paths), f"{len(found.paths)} files in {args.output}"])
    lines = [_line(row, found.rows.colnames) for row in found.rows]
    return "\n".join([*lines, f"{len(found.rows)} rows, {about}; nothing was fetched (--dry-run)"])


def _line(row: Any, names: list[str]) -> str:
    """Return one row in a line."""
    if "object_id" in names:
        return f"{row['object_id']:<14} {row['class_name']}" if "class_name" in names else str(row["object_id"])
    size = f"{row['size'] / 1e6:8.1f} MB" if row["size"] > 0 else "       ? MB"
    mjd = getattr(row["mjd"], "value", row["mjd"])
    when = f"MJD {mjd:11.5f}" if mjd == mjd else "MJD           -"
    return f"{row['kind']:<10} {row['survey']:<6} {row['filter']:<8} {when} {size}  {row['filename']}"
