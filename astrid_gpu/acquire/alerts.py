"""Alert packets as candidates, triplets and light curves: what a survey found, in the form that `detect` gives.

>>> from astrid_gpu.acquire import alerts
>>> found, failed = alerts.read("night.tar.gz")              # doctest: +SKIP
>>> triplets = alerts.to_cutouts(found)                      # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from astrid_gpu.acquire.directory import RunDirectory
from astrid_gpu.acquire.footprint import separation_deg
from astrid_gpu.acquire.light_curves import band_of_alert, light_curve
from astrid_gpu.acquire.packets import Alert, number, read_packets
from astrid_gpu.acquire.triplets import SIDE, to_cutouts
from astrid_gpu.dataset import write_dataset
from astrid_gpu.detect import CANDIDATE_COLUMNS
from astrid_gpu.errors import AcquisitionError, InputError
from astrid_gpu.flags import CandidateFlag
from astrid_gpu.io import atomic_path
from astrid_gpu.results import Candidates

__all__ = [
    "ALERT_COLUMNS",
    "Alert",
    "fetch",
    "light_curve",
    "read",
    "search",
    "to_candidates",
    "to_cutouts",
    "write_alerts",
]

ALERT_COLUMNS = (
    ("object_id", "U32"), ("candid", np.int64), ("survey", "U16"), ("schema", "U8"), ("mjd", float), ("band", "U8"),
    ("zero_point", float), ("limiting_magnitude", float), ("rb", float), ("drb", float), ("nneg", float),
    ("sumrat", float), ("magdiff", float), ("seeratio", float), ("chipsf", float), ("classtar", float),
    ("distnr", float), ("magnr", float), ("ssdistnr", float), ("ssmagnr", float), ("dsnrms", float), ("ssnrms", float),
    ("dsdiff", float), ("sgscore1", float), ("distpsnr1", float), ("ndethist", float), ("rcid", float),
    ("field", float), ("programid", float),
)  # fmt: skip
"""What an alert's row has beside the columns of `detect`; names in lower case letters are the packets' own."""

_MAG_TO_SNR = 2.5 / math.log(10)


def read(where: str | Path | Iterable[str | Path]) -> tuple[list[Alert], list[AcquisitionError]]:
    """Read alert packets.

    Parameters
    ----------
    where : path, glob, or a list of them
        ``.avro`` files, folders, tar archives.

    Returns
    -------
    (alerts, failed)
        In order of file; a packet that cannot be read is an error with its name and stops nothing.

    Raises
    ------
    AcquisitionError
        There are no packets at all.

    Notes
    -----
    `packets.read_packets` gives one at a time, for archives larger than memory.
    """
    found: list[Alert] = []
    failed: list[AcquisitionError] = []
    for one in read_packets(where):
        if isinstance(one, AcquisitionError):
            failed.append(one)
        else:
            found.append(one)
    return found, failed


def to_candidates(alerts: Sequence[Alert]) -> Candidates:
    """Return alerts as candidates: one row each, the columns of `detect`, then `ALERT_COLUMNS`.

    Parameters
    ----------
    alerts : sequence of Alert

    Returns
    -------
    Candidates
        `score` is the packet's `scorr` with the sign of its polarity; `flux` and `flux_error` are counts of the
        science image, by `magpsf`, `sigmapsf` and `magzpsci`, NaN where the schema has no zero point; `x` and `y` are
        0-based pixels of the readout quadrant. `id` counts from 1, as in the cutouts.
    """
    rows = np.zeros(len(alerts), dtype=[*CANDIDATE_COLUMNS, *ALERT_COLUMNS])
    for i, alert in enumerate(alerts):
        for name, value in _row(alert).items():
            rows[name][i] = value
    rows["id"] = np.arange(1, len(alerts) + 1)
    meta = {"surveys": sorted({a.survey for a in alerts}), "source": "alert packets"}
    return Candidates(rows, 5.0, "alerts", meta)


def _row(alert: Alert) -> dict[str, Any]:
    """Return the columns of one alert."""
    c = alert.candidate
    mag, error, zero_point = (number(c.get(key)) for key in ("magpsf", "sigmapsf", "magzpsci"))
    flux = alert.polarity * 10 ** (-0.4 * (mag - zero_point))
    flags = CandidateFlag.EDGE if _cut_off(alert) else CandidateFlag(0)
    if any(np.isnan(stamp).any() for stamp in alert.stamps.values()):
        flags |= CandidateFlag.NEAR_BAD
    own = {name: number(c.get(name)) for name, kind in ALERT_COLUMNS if kind is float}
    return own | {
        "x": number(c.get("xpos")) - 1,
        "y": number(c.get("ypos")) - 1,
        "ra": number(c.get("ra"), nothing=False),
        "dec": number(c.get("dec"), nothing=False),
        "polarity": alert.polarity,
        "score": alert.polarity * abs(number(c.get("scorr"))),
        "flux": flux,
        "flux_error": abs(flux) * error / _MAG_TO_SNR,
        "snr": alert.polarity * _MAG_TO_SNR / error if error > 0 else math.nan,
        "mag": mag,
        "mag_error": error,
        "fwhm": number(c.get("fwhm")),
        "elongation": number(c.get("elong")),
        "flags": int(flags),
        "n_bad": int(_or(number(c.get("nbad")), 0)),
        "edge_distance": number(c.get("mindtoedge")),
        "object_id": alert.object_id,
        "candid": alert.candid,
        "survey": alert.survey,
        "schema": alert.schema,
        "mjd": alert.mjd,
        "band": band_of_alert(c),
        "zero_point": zero_point,
        "limiting_magnitude": number(c.get("diffmaglim")),
    }


def _or(value: float, otherwise: float) -> float:
    return value if math.isfinite(value) else otherwise


def _cut_off(alert: Alert) -> bool:
    """Whether the pipeline cut a stamp off at the edge of the frame."""
    shapes = {stamp.shape for stamp in alert.stamps.values()}
    return any(ny != nx for ny, nx in shapes)


def search(
    where: Any,
    *,
    position: Any = None,
    radius: float | None = None,
    object_id: str | Sequence[str] | None = None,
    band: str | None = None,
    mjd: tuple[float, float] | None = None,
    magnitude: tuple[float, float] | None = None,
    min_drb: float | None = None,
) -> Any:
    """Look through alert packets on disk.

    Parameters
    ----------
    where : path, glob, or a list of them
    position, radius : (ra, dec) or anything `resolve` takes, degrees; optional
    object_id : str or several, optional
    band : str, optional
    mjd, magnitude : (low, high), optional
    min_drb : float, optional
        Least deep-learning real-bogus score; alerts without one (before 2019) are left out.

    Returns
    -------
    astropy.table.QTable
        One row an alert: the columns of `to_candidates`. ``meta`` has the packets themselves ("alerts", in the order
        of the rows) and what could not be read ("failed").

    Raises
    ------
    AcquisitionError
        There are no packets at all.
    InputError
        A position without a radius, or the reverse.
    """
    if (position is None) != (radius is None):
        msg = "give position and radius together, or neither"
        raise InputError(msg)
    alerts, failed = read(where)
    rows = to_candidates(alerts).data
    keep = np.ones(len(rows), bool)
    if position is not None:
        from astrid_gpu.acquire.regions import resolve

        centre = resolve(position)
        keep &= separation_deg(rows["ra"], rows["dec"], centre.ra.deg, centre.dec.deg) <= radius
    if object_id is not None:
        keep &= np.isin(rows["object_id"], [object_id] if isinstance(object_id, str) else list(object_id))
    if band is not None:
        keep &= rows["band"] == band
    for name, limits in (("mjd", mjd), ("mag", magnitude)):
        if limits is not None:
            keep &= (rows[name] >= limits[0]) & (rows[name] <= limits[1])
    if min_drb is not None:
        keep &= rows["drb"] >= min_drb
    chosen = [alert for alert, kept in zip(alerts, keep, strict=True) if kept]
    table = to_candidates(chosen).to_table()
    table.meta |= {"alerts": chosen, "failed": [str(error) for error in failed]}
    return table


def fetch(rows: Any, run: str | Path | RunDirectory, *, size: int = SIDE) -> list[Path]:
    """Write the alerts that `search` found into a run: candidates, triplets and light curves.

    Parameters
    ----------
    rows : QTable
        Of `search`, or rows of it.
    run : RunDirectory or path
    size : int
        Odd side of the triplets.

    Returns
    -------
    list of Path
        ``candidates/alerts.csv`` and ``.ecsv``, ``dataset/alerts.h5`` and ``.npz`` (split by object), and
        ``candidates/light_curves.csv``.
    """
    by_candid = {alert.candid: alert for alert in rows.meta["alerts"]}
    return write_alerts([by_candid[int(candid)] for candid in rows["candid"]], run, size=size)


def write_alerts(alerts: Sequence[Alert], run: str | Path | RunDirectory, *, size: int = SIDE) -> list[Path]:
    """Write alerts into a run: candidates, triplets and light curves; see `fetch`.

    Raises
    ------
    InputError
        There is none.
    """
    if not alerts:
        msg = "no alert is left to write; widen the search"
        raise InputError(msg)
    directory = run if isinstance(run, RunDirectory) else RunDirectory(run)
    found, triplets = to_candidates(alerts), to_cutouts(alerts, size)
    tables, data = directory.folder("candidates"), directory.folder("dataset")
    written = [found.write(tables / f"alerts.{ending}") for ending in ("csv", "ecsv")]
    objects = [alert.object_id for alert in alerts]
    written += [write_dataset(data / f"alerts.{e}", triplets, found, objects=objects) for e in ("h5", "npz")]
    return [*written, _write_light_curves(tables / "light_curves.csv", light_curve(alerts))]


def _write_light_curves(path: Path, points: np.ndarray) -> Path:
    import csv

    with atomic_path(path) as part, part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(points.dtype.names or ())
        writer.writerows(row.tolist() for row in points)
    return path
