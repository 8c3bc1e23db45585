"""Pan-STARRS 1: stacks and single exposures (warps), cut out around a position, from STScI's cutout service.

Two requests: ``ps1filenames.py`` says which skycell images cover the position, ``fitscut.cgi`` cuts them. The service
gives cutouts in linear counts; whole skycells of stacks are asinh-scaled and are brought to linear counts here. JPEG
previews are display-scaled: they are offered as pictures and never as images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from astrid_gpu.acquire._ps1_table import KINDS, PIXEL_SCALE, SERVICE, file_table, observation_of
from astrid_gpu.acquire.client import Client, default_client
from astrid_gpu.acquire.observations import as_rows, checked_rows, observation_table
from astrid_gpu.acquire.placing import fetch_items, target_path
from astrid_gpu.acquire.progress import ProgressCallback
from astrid_gpu.acquire.recording import recorded
from astrid_gpu.acquire.regions import radius_degrees, resolve
from astrid_gpu.acquire.transfer import Item, download
from astrid_gpu.errors import AcquisitionError, InputError
from astrid_gpu.image import Image

__all__ = ["PIXEL_SCALE", "SERVER", "cutouts", "fetch", "preview", "search"]

SERVER = "https://ps1images.stsci.edu"
"""Where the service is."""

_LARGEST = 6000
_PLANES = {"": "", "mask": "mask", "weight": "wt"}


def search(
    position: Any,
    radius: Any = 0.00833,
    *,
    filters: str | Sequence[str] = "grizy",
    types: Sequence[str] = ("stack",),
    planes: Sequence[str] = ("mask", "weight"),
    since: float | None = None,
    until: float | None = None,
    size: int | None = None,
    whole: bool = False,
    client: Client | None = None,
) -> Any:
    """Return the PS1 images that cover a position.

    Parameters
    ----------
    position : SkyCoord, (ra, dec) or str
        Centre of the cutouts. PS1 covers declinations above -30 degrees.
    radius : float or Quantity
        Half the side of the cutouts; a number is degrees. The default makes 240 pixels.
    filters : str or sequence of str
        Among g, r, i, z, y.
    types : sequence of str
        "stack" (deep, kind "reference") and "warp" (single exposures, kind "science").
    planes : sequence of str
        What goes with each image: "mask" and "weight" (a variance map, kind "variance").
    since, until : float, optional
        Modified Julian dates (UTC) between which warps begin.
    size : int, optional
        Side of the cutouts in pixels, instead of `radius`.
    whole : bool
        Rows of the whole skycells (6300 pixels a side, 100 MB) instead of cutouts.
    client : Client, optional

    Returns
    -------
    QTable
        Observation table, one row a file; empty where PS1 has nothing.

    Raises
    ------
    InputError
        The position, size, filters, types or planes are impossible.
    AcquisitionError
        The service failed, in its words.
    """
    client = client or default_client()
    place = resolve(position)
    side = _side(radius, size)
    wanted = _checked("filters", list(filters), "grizy")
    types, planes = _checked("types", list(types), KINDS), _checked("planes", list(planes), ("mask", "weight"))
    asked = [kind + (f".{_PLANES[plane]}" if plane else "") for kind in types for plane in ("", *planes)]
    query = {"ra": f"{place.ra.deg:.6f}", "dec": f"{place.dec.deg:.6f}", "filters": "".join(wanted)}
    url = f"{SERVER}/cgi-bin/ps1filenames.py"
    body = client.get(url, params={**query, "type": ",".join(asked)}, wanted="text", service=SERVICE)
    rows = []
    for line in file_table(body, url):
        row = observation_of(line, place, side, whole, SERVER)
        undated = line["type"].startswith("stack")
        in_time = undated or (since or -math.inf) <= row["mjd"] <= (until or math.inf)
        if line["type"] in asked and line["filter"] in wanted and in_time:
            rows.append(row)
    rows.sort(key=lambda row: (wanted.index(row["filter"]), row["id"], row["kind"] not in KINDS.values()))
    return observation_table(rows, source="ps1", position=f"{place.ra.deg:.6f} {place.dec.deg:+.6f}", size=side)


@recorded
def fetch(
    rows: Any, run: str | Path, *, client: Client | None = None, progress: ProgressCallback | None = None
) -> list[Path]:
    """Fetch the files of rows that `search` found, in linear counts.

    Parameters
    ----------
    rows : QTable or Row
        Of `search`.
    run : str or Path
        A folder or a run directory.
    client : Client, optional
    progress : callable, optional

    Returns
    -------
    list of Path
        In the order of the rows. Asinh-scaled files have been rewritten in counts, with MAGZP.

    Raises
    ------
    AcquisitionError
        Some failed: `failures` names each, `paths` has those that arrived.
    """
    from astrid_gpu.io import linearise_ps1_file

    items = [Item(row["url"], target_path(row, run), service=SERVICE) for row in checked_rows(rows)]
    try:
        paths = fetch_items(items, client=client, progress=progress)
    except AcquisitionError as error:
        for path in error.paths:
            linearise_ps1_file(path)
        raise
    for path in paths:
        linearise_ps1_file(path)
    return paths


def cutouts(
    position: Any,
    radius: Any = 0.00833,
    *,
    filters: str | Sequence[str] = "grizy",
    types: Sequence[str] = ("stack",),
    folder: str | Path,
    client: Client | None = None,
    progress: ProgressCallback | None = None,
    **options: Any,
) -> list[Image]:
    """Return cutouts as images, ready to be subtracted: linear counts, zero point, variance, mask, WCS.

    Parameters
    ----------
    position, radius, filters, types, client, progress
        As for `search` and `fetch`.
    folder : str or Path
        Where the files go.
    **options
        Also for `search`: size, since, until.

    Returns
    -------
    list of Image
        One for each filter and exposure, in the order of `search`.

    Raises
    ------
    AcquisitionError
        The service failed, or has nothing here: nothing is made up.
    """
    from astrid_gpu.io import read_image

    table = search(position, radius, filters=filters, types=types, client=client, **options)
    if not len(table):
        msg = f"PS1 has no {' or '.join(types)} in {''.join(filters)} at {position!r} (it ends at declination -30)"
        raise AcquisitionError(msg, url=f"{SERVER}/cgi-bin/ps1filenames.py")
    paths = dict(zip([r["filename"] for r in as_rows(table)], fetch(table, folder, client=client, progress=progress),
                     strict=True))  # fmt: skip
    images = []
    for row in as_rows(table):
        if row["kind"] in KINDS.values():
            stem = row["filename"].removesuffix(".fits")
            mask, weight = paths.get(f"{stem}.mask.fits"), paths.get(f"{stem}.wt.fits")
            image = read_image(paths[row["filename"]], mask=mask, variance=weight)
            images.append(image.with_(meta={**image.meta, "observation_id": row["id"], "filter": row["filter"]}))
    return images


def preview(row: Any, path: str | Path, *, client: Client | None = None) -> Path:
    """Fetch the picture of a row: a JPEG, display-scaled, to look at and never to measure on.

    Parameters
    ----------
    row : Row
        One row of `search`.
    path : str or Path
        Name of the picture; it must not look like a FITS file.
    client : Client, optional

    Raises
    ------
    InputError
        `path` ends as FITS files do.
    AcquisitionError
        The service failed, or sent no picture.
    """
    path = Path(path)
    if any(suffix in (".fits", ".fit", ".fts", ".fz") for suffix in path.suffixes):
        msg = f"{path.name}: a preview is a picture; name it .jpg"
        raise InputError(msg)
    (told,) = as_rows(row)
    return download(Item(told["preview_url"], path, wanted="picture", service=SERVICE), client=client)


def _checked(name: str, given: list[str], allowed: Any) -> list[str]:
    """Return `given` if all of it is allowed."""
    wrong = [value for value in given if value not in allowed]
    if wrong or (not given and name != "planes"):
        msg = f"{name}={given!r}: each must be one of {', '.join(allowed)}"
        raise InputError(msg)
    return list(dict.fromkeys(given))


def _side(radius: Any, size: int | None) -> int:
    """Return the side of the cutouts in pixels."""
    side = math.ceil(round(2 * 3600 * radius_degrees(radius) / PIXEL_SCALE, 1)) if size is None else size
    if not isinstance(side, int) or isinstance(side, bool) or not 1 <= side <= _LARGEST:
        msg = f"cutouts of {side} pixels: the side must be 1 to {_LARGEST} pixels of {PIXEL_SCALE} arcsec"
        raise InputError(msg)
    return side
