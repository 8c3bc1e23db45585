"""TESScut: cubes cut out of TESS's full-frame images, one for each sector that saw the position.

Through the service of astroquery.mast.Tesscut; the zip archives come through our own core. `frames` turns a cube into a
time series of images.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from astrid_gpu.acquire.client import Client, default_client
from astrid_gpu.acquire.content import kind_of
from astrid_gpu.acquire.observations import checked_rows, observation_table
from astrid_gpu.acquire.placing import raise_failures, target_path
from astrid_gpu.acquire.progress import ProgressCallback
from astrid_gpu.acquire.recording import recorded
from astrid_gpu.acquire.regions import resolve
from astrid_gpu.acquire.sessions import asking
from astrid_gpu.acquire.transfer import Item, download
from astrid_gpu.errors import AcquisitionError, InputError
from astrid_gpu.image import Image

__all__ = ["PIXEL_SCALE", "fetch", "frames", "search"]

PIXEL_SCALE = 21.0
"""Arcseconds a pixel, nearly."""

_SERVICE = "TESScut"
_LARGEST = 100


def search(position: Any, radius: Any = None, *, size: int | None = None, client: Client | None = None) -> Any:
    """Return the sectors whose frames hold a position.

    Parameters
    ----------
    position : SkyCoord, (ra, dec) or str
    radius : float or Quantity, optional
        Half the side of the cubes; a number is degrees.
    size : int, optional
        Side in pixels of 21 arcsec instead, 1 to 100. Default 31.
    client : Client, optional

    Returns
    -------
    QTable
        Observation table, one row a sector, kind "cube".

    Raises
    ------
    InputError
        The size is impossible.
    AcquisitionError
        The service failed.
    """
    client = client or default_client()
    place, side = resolve(position), _side(radius, size)
    service = _tesscut(client)
    address = service._service_api_connection.REQUEST_URL
    with asking(_SERVICE, address):
        table = service.get_sectors(coordinates=place)
        found = [(str(r["sectorName"]), int(r["sector"]), int(r["camera"]), int(r["ccd"])) for r in table]
    rows = []
    for name, sector, camera, ccd in found:
        at = {"ra": f"{place.ra.deg:.6f}", "dec": f"{place.dec.deg:.6f}", "x": side, "y": side, "units": "px"}
        identity = f"{name}_{place.ra.deg:.6f}_{place.dec.deg:.6f}_{side}x{side}_astrocut".replace("/", "-")
        rows.append({
            "id": identity, "ra": place.ra.deg, "dec": place.dec.deg, "survey": "TESS",
            "instrument": f"TESS camera {camera} CCD {ccd}", "filter": "TESS", "kind": "cube", "distance": 0.0,
            "pixel_scale": PIXEL_SCALE, "width": side, "height": side, "target": f"sector {sector}",
            "filename": f"{identity}.fits", "url": f"{address}astrocut?{urlencode({**at, 'sector': sector})}",
            "access": "public", "service_id": str(sector),
        })  # fmt: skip
    return observation_table(rows, source="tesscut")


@recorded
def fetch(
    rows: Any, run: str | Path, *, client: Client | None = None, progress: ProgressCallback | None = None
) -> list[Path]:
    """Fetch cubes: the zip archive of each row is checked and its one FITS file kept.

    Parameters
    ----------
    rows : QTable or Row
        Of `search`.
    run : str or Path
        A folder or a run directory.
    client : Client, optional
    progress : callable, optional

    Raises
    ------
    AcquisitionError
        Some failed: `failures` names each, `paths` has those that arrived.
    """
    client = client or default_client()
    outcomes: list[tuple[str, Path | AcquisitionError]] = []
    for row in checked_rows(rows):
        path = target_path(row, run)
        packed = path.with_name(f".{path.stem}.zip")
        try:
            item = Item(row["url"], packed, wanted="zip", service=_SERVICE)
            outcomes.append(
                (row["filename"], _unpack(download(item, client=client, progress=progress), path, item.url))
            )
        except AcquisitionError as error:
            outcomes.append((row["filename"], error))
        finally:
            packed.unlink(missing_ok=True)
    return raise_failures(outcomes)


def frames(path: str | Path, **options: Any) -> list[Image]:
    """Return a cube as a time series of images; see `astrid_gpu.io.read_tess_frames`."""
    from astrid_gpu.io import read_tess_frames

    return read_tess_frames(path, **options)


def _side(radius: Any, size: int | None) -> int:
    """Return the side of the cubes in pixels."""
    if radius is not None and size is None:
        from astrid_gpu.acquire.regions import radius_degrees

        size = max(1, round(2 * 3600 * radius_degrees(radius) / PIXEL_SCALE))
    size = 31 if size is None else size
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= _LARGEST:
        msg = f"cubes of {size!r} pixels: the side must be a whole number from 1 to {_LARGEST}"
        raise InputError(msg)
    return size


def _tesscut(client: Client) -> Any:
    """Return astroquery's Tesscut, asking through our client, at the server that its configuration names now."""
    from astrid_gpu.io.extras import need

    need("astroquery.mast", "acquire", "TESScut")
    from astroquery.mast import TesscutClass, conf

    service = TesscutClass()
    api = service._service_api_connection
    service._session = api._session = client.session(_SERVICE)
    api.REQUEST_URL = f"{str(conf.server).rstrip('/')}/tesscut/api/v0.1/"
    api.TIMEOUT = conf.timeout
    return service


def _unpack(packed: Path, path: Path, url: str) -> Path:
    """Write the FITS file of an archive to its final name, whole or not at all."""
    from astrid_gpu.acquire.wire import failure
    from astrid_gpu.errors import FitsError
    from astrid_gpu.io import atomic_path, is_tess_cube

    with zipfile.ZipFile(packed) as archive:
        members = [info for info in archive.infolist() if kind_of(archive.open(info).read(16)) == "fits"]
        if len(members) != 1:
            names = ", ".join(info.filename for info in members) or "none"
            raise failure(url, f"sent {len(members)} cubes for one sector: {names}", service=_SERVICE)
        with atomic_path(path) as part:
            with archive.open(members[0]) as source, part.open("wb") as target:
                shutil.copyfileobj(source, target)
            try:
                wrong = "" if is_tess_cube(part) else "sent a FITS file that holds no cube"
            except FitsError as error:
                wrong = f"sent a damaged cube ({error})"
            if wrong:
                raise failure(url, wrong, service=_SERVICE)
    return path
