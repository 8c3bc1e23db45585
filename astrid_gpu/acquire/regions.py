"""Where to look: a position given in any usual way becomes one `SkyCoord`."""

from __future__ import annotations

import re
from typing import Any

from astrid_gpu.errors import AcquisitionError, InputError

__all__ = ["radius_degrees", "resolve"]


def resolve(position: Any) -> Any:
    """Return a position as one ICRS `SkyCoord`.

    Parameters
    ----------
    position : SkyCoord, (ra, dec) or str
        Two numbers are degrees. Text is ``"210.80 54.35"`` (degrees), ``"14:03:12.5 +54:20:57"`` or
        ``"14h03m12.5s +54d20m57s"``, or a name that Sesame knows (needs the network).

    Raises
    ------
    InputError
        It is not one position on the sky.
    AcquisitionError
        A name could not be resolved.
    """
    from astropy import units as u
    from astropy.coordinates import SkyCoord

    try:
        if isinstance(position, SkyCoord):
            found = position.icrs
        elif isinstance(position, str):
            found = _from_text(position)
        else:
            ra, dec = position
            found = SkyCoord(u.Quantity(ra, u.deg), u.Quantity(dec, u.deg), frame="icrs")
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        msg = f"{position!r} is not a position: give a SkyCoord, (ra, dec) in degrees, or text ({error})"
        raise InputError(msg) from None
    if found.shape:
        msg = f"one position is wanted, got {found.size}; call once for each"
        raise InputError(msg)
    return found


def _from_text(text: str) -> Any:
    """Return the position that a text stands for."""
    from astropy.coordinates import SkyCoord
    from astropy.coordinates.name_resolve import NameResolveError

    said = text.strip()
    if re.match(r"^[-+]?\d+(\.\d*)?([eE][-+]?\d+)?\s*[,\s]\s*[-+]?\d+(\.\d*)?([eE][-+]?\d+)?$", said):
        return SkyCoord(*(float(part) for part in re.split(r"[,\s]+", said)), unit="deg")
    if re.match(r"^\d{1,2}[h:\s]", said) and len(re.findall(r"\d+", said)) >= 4:
        return SkyCoord(said.replace(",", " "), unit=("hourangle", "deg"))
    if not said:
        msg = "the position is an empty text"
        raise InputError(msg)
    try:
        return SkyCoord.from_name(said)
    except NameResolveError as error:
        msg = f"Sesame does not resolve the name {said!r}, or cannot be reached: {error}"
        raise AcquisitionError(msg) from None


def radius_degrees(radius: Any) -> float:
    """Return a radius in degrees: a number is degrees, a Quantity has its own unit.

    Raises
    ------
    InputError
        It is no angle, not above 0, or larger than 90 degrees.
    """
    from astropy import units as u

    try:
        value = float(u.Quantity(radius, u.deg).to_value(u.deg)) if not isinstance(radius, str) else _angle(radius)
    except (TypeError, ValueError) as error:
        msg = f"radius {radius!r} is not an angle: give degrees, a Quantity or text such as '5 arcmin' ({error})"
        raise InputError(msg) from None
    if not 0 < value <= 90:
        msg = f"radius {value} degrees must be above 0 and at most 90"
        raise InputError(msg)
    return value


def _angle(text: str) -> float:
    """Return a text such as '5 arcmin' or '0.1d' in degrees."""
    from astropy.coordinates import Angle

    return float(Angle(text, "deg").deg)
