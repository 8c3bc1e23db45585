"""``astrid-gpu inject``."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

from astrid_gpu.errors import ConfigError

__all__ = ["HELP", "add_arguments", "run"]

HELP = "point sources into an image, with its PSF and photon noise, and a table of the truth"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("image", help="FITS file, or FILE[EXT]")
    parser.add_argument("sources", help="CSV with the columns x, y (0-based pixels) or ra, dec; flux or mag")
    parser.add_argument("-o", "--output", default="injected.fits", metavar="FILE", help="default: injected.fits")
    parser.add_argument(
        "--psf", metavar="PSF", help="file, or moffat:FWHM,BETA; default: measured on the image's stars"
    )
    parser.add_argument("--gain", type=float, metavar="G", help="electrons per count; default: the header's")
    parser.add_argument("--no-noise", action="store_true", help="the expected light only, without its photon noise")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the photon noise (default 0)")


def run(args: argparse.Namespace) -> int:
    """Inject; write the image and, beside it, its truth."""
    from astrid_gpu.io.image_files import write_image
    from astrid_gpu.simulate import inject, write_truth

    image, truth = inject(
        args.image, _read(Path(args.sources)), psf=args.psf, gain=args.gain, noise=not args.no_noise, seed=args.seed
    )
    output = Path(args.output)
    marked = image.with_(meta={**image.meta, "ORIGIN": f"{image.name} with {len(truth)} injected sources"[:68]})
    files = [write_image(marked, output), write_truth(truth, output.with_suffix(".truth.csv"))]
    told = {"sources": len(truth), "files": [str(path) for path in files]}
    text = "\n".join([f"{len(truth)} sources", *(f"wrote {path}" for path in files)])
    sys.stdout.write((json.dumps(told) if args.json else text) + "\n")
    return 0


def _read(path: Path) -> dict[str, list[float]]:
    """Return the numeric columns of a CSV file by name."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(line for line in stream if not line.startswith("#")))
    if not rows:
        msg = f"{path} has no sources: a line of names (x,y,flux or ra,dec,mag), then a line a source"
        raise ConfigError(msg)
    table: dict[str, list[float]] = {}
    for name in ("x", "y", "ra", "dec", "flux", "mag"):
        if name in rows[0]:
            try:
                table[name] = [float(row[name]) for row in rows]
            except (TypeError, ValueError) as exc:
                msg = f"{path}: the column {name} holds something that is no number ({exc})"
                raise ConfigError(msg) from exc
    return table
