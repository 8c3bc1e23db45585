"""Light curves out of alert packets: detections, upper limits and forced photometry on one flux scale."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from astrid_gpu.acquire.packets import Alert, number

__all__ = ["LIGHT_CURVE_COLUMNS", "band_of_alert", "light_curve"]

LIGHT_CURVE_COLUMNS = (
    ("object_id", "U32"), ("mjd", float), ("band", "U8"), ("kind", "U8"), ("flux", float), ("flux_error", float),
    ("mag", float), ("mag_error", float), ("limiting_magnitude", float), ("polarity", int), ("candid", np.int64),
)  # fmt: skip
"""`kind` is "alert", "limit" or "forced"; fluxes are microjansky of the difference, signed; magnitudes are of |flux|,
as the survey has them: AB for ZTF."""

_BANDS = {1: "g", 2: "r", 3: "i"}
_AB_UJY = 23.9  # AB magnitude of one microjansky
_MJD = 2400000.5


def light_curve(alerts: Alert | Iterable[Alert]) -> np.ndarray:
    """Return the light curve that alerts hold: their candidates, `prv_candidates` and `fp_hists`, each point once.

    Parameters
    ----------
    alerts : Alert or iterable of Alert
        Of one object or of several.

    Returns
    -------
    structured array
        `LIGHT_CURVE_COLUMNS`, sorted by object, time and kind. What was not measured is NaN; an upper limit has its
        `limiting_magnitude` (5 sigma) alone. Forced photometry that failed is left out.

    Notes
    -----
    Fluxes are those of the difference image: what the source has more than in the reference. A point that two alerts
    of an object both carry is taken once. From a magnitude m and its error e: flux 10^(-0.4 (m - 23.9)) microjansky
    with error flux e ln(10) / 2.5.
    """
    rows: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for alert in [alerts] if isinstance(alerts, Alert) else alerts:
        for point in [*alert.previous, {**alert.candidate, "candid": alert.candid}]:
            row = _alert_point(alert, point)
            rows.setdefault(_key(row), row)
        for point in alert.forced:
            row = _forced_point(alert, point)
            if math.isfinite(row[4]) and row[5] > 0:
                rows.setdefault(_key(row), row)
    return np.array(sorted(rows.values(), key=lambda r: (r[0], r[1], r[3], r[2])), dtype=list(LIGHT_CURVE_COLUMNS))


def band_of_alert(point: dict[str, Any]) -> str:
    """Return the band of a candidate or a point of its history; "" where the packet does not say."""
    fid = point.get("fid")
    return _BANDS.get(int(fid), str(fid)) if isinstance(fid, int) else str(point.get("filter") or "")


def _key(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return what makes a point the same point in another alert."""
    return row[0], round(row[1], 6), row[2], row[3]


def _alert_point(alert: Alert, point: dict[str, Any]) -> tuple[Any, ...]:
    """Return the row of a detection, or of an upper limit where nothing was detected."""
    mag, error = number(point.get("magpsf")), number(point.get("sigmapsf"))
    sign = 1 if str(point.get("isdiffpos")).strip().lower() in ("t", "true", "1") else -1
    detected = math.isfinite(mag)
    flux = sign * 10 ** (-0.4 * (mag - _AB_UJY)) if detected else math.nan
    return (
        alert.object_id,
        number(point.get("jd")) - _MJD,
        band_of_alert(point),
        "alert" if detected else "limit",
        flux,
        abs(flux) * error * math.log(10) / 2.5,
        mag,
        error,
        number(point.get("diffmaglim")),
        sign if detected else 0,
        int(point.get("candid") or 0) if detected else 0,
    )


def _forced_point(alert: Alert, point: dict[str, Any]) -> tuple[Any, ...]:
    """Return the row of a forced measurement: counts of the difference, made microjansky by the zero point."""
    zero_point = number(point.get("magzpsci"))
    scale = 10 ** (-0.4 * (zero_point - _AB_UJY))
    flux, error = (number(point.get(f"forcediffimflux{k}")) * scale for k in ("", "unc"))
    known = math.isfinite(flux) and flux != 0
    return (
        alert.object_id,
        number(point.get("jd")) - _MJD,
        band_of_alert(point),
        "forced",
        flux,
        error,
        _AB_UJY - 2.5 * math.log10(abs(flux)) if known else math.nan,
        abs(error / flux) * 2.5 / math.log(10) if known else math.nan,
        number(point.get("diffmaglim")),
        (1 if flux > 0 else -1) if known else 0,
        0,
    )
