"""The table of ps1filenames.py, and the observations that its lines stand for."""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import urlencode

from astrid_gpu.acquire.wire import failure

__all__ = ["KINDS", "PIXEL_SCALE", "SERVICE", "file_table", "observation_of"]

SERVICE = "PS1 image service"
"""Its name in messages."""

PIXEL_SCALE = 0.25
"""Arcseconds a pixel."""

KINDS = {"stack": "reference", "warp": "science"}
"""What the service's types are to us."""


def file_table(body: bytes, url: str) -> list[dict[str, str]]:
    """Return the rows of an answer of ps1filenames.py: a line of names, then values, separated by blanks."""
    lines = [line.split() for line in body.decode("utf-8", "replace").splitlines() if line.strip()]
    needed = ("filter", "type", "filename", "shortname")
    if not lines or any(name not in lines[0] for name in needed):
        said = " ".join(" ".join(line) for line in lines[:3])[:200]
        reason = f"sent no table of file names (columns {', '.join(needed)}): {said!r}"
        raise failure(url, reason, service=SERVICE)
    for number, line in enumerate(lines[1:], 1):
        if len(line) != len(lines[0]):
            reason = f"sent a damaged table: line {number} has {len(line)} values for {len(lines[0])} columns"
            raise failure(url, reason, service=SERVICE)
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


def observation_of(line: dict[str, str], place: Any, side: int, whole: bool, server: str) -> dict[str, Any]:
    """Return the observation that a line stands for."""
    kind, _, plane = line["type"].partition(".")
    stem = line["shortname"].removesuffix(".fits")
    if "/" in stem or stem.startswith(".") or not line["filename"].startswith("/"):
        raise failure(server, f"sent an impossible file name: {line['filename']!r}", service=SERVICE)
    at = {"ra": f"{place.ra.deg:.6f}", "dec": f"{place.dec.deg:.6f}", "size": side}
    cut = f"{server}/cgi-bin/fitscut.cgi?{urlencode({**at, 'red': line['filename']}, safe='/')}"
    told = {"mask": "mask", "wt": "variance", "": KINDS.get(kind, "science")}.get(plane, "weight")
    # mask and variance are named after their image: ..._stk.g.unconv.fits, ....unconv.mask.fits
    name = stem if whole else f"ps1_{place.ra.deg:.5f}{place.dec.deg:+.5f}_{side}_{stem}"
    return {
        "id": name.removesuffix(f".{plane}") if plane else name,
        "ra": place.ra.deg,
        "dec": place.dec.deg,
        "mjd": _mjd(line.get("mjd", ""), server),
        "survey": "PS1",
        "instrument": "GPC1",
        "filter": line["filter"],
        "kind": told,
        "role": KINDS.get(kind, "science"),
        "distance": math.nan if whole else 0.0,
        "pixel_scale": PIXEL_SCALE,
        "width": 0 if whole else side,
        "height": 0 if whole else side,
        "quality": "bad" if line.get("badflag", "0") not in ("0", "") else "",
        "size": -1 if whole else 4 * side * side + 48 * 960,
        "filename": f"{name}.fits",
        "url": f"{server}{line['filename']}" if whole else f"{cut}&format=fits",
        "preview_url": f"{cut}&format=jpg",
        "access": "public",
        "service_id": line["filename"],
    }


def _mjd(text: str, server: str) -> float:
    """Return a date in UTC; the service's are TAI, and 0 for stacks."""
    try:
        value = float(text or 0)
    except ValueError:
        raise failure(server, f"sent {text!r} for a date", service=SERVICE) from None
    if not 0 < value < 1e6:
        return math.nan
    from astropy.time import Time

    return float(Time(value, format="mjd", scale="tai").utc.mjd)
