"""Where to look: a position given in any usual way becomes one `SkyCoord`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from astrid_gpu.errors import AcquisitionError, InputError

__all__ = ["REGIONS", "Region", "radius_degrees", "region", "resolve"]

PLANE = 10.0
"""Galactic latitude in degrees below which fields are crowded and reddened."""


@dataclass(frozen=True)
class Region:
    """A piece of sky to look at.

    Parameters
    ----------
    name : str
    ra, dec : float
        Degrees, ICRS.
    radius : float
        Degrees; what to search by default.
    about : str
        Why one looks there.
    """

    name: str
    ra: float
    dec: float
    radius: float
    about: str = ""

    @property
    def galactic_latitude(self) -> float:
        """Degrees."""
        from astropy.coordinates import SkyCoord

        return float(SkyCoord(self.ra, self.dec, unit="deg").galactic.b.deg)

    @property
    def warning(self) -> str:
        """What to be told before images are fetched from there; "" if nothing."""
        latitude = self.galactic_latitude
        if abs(latitude) >= PLANE:
            return ""
        return (
            f"{self.name} lies at galactic latitude {latitude:+.1f}, in the plane of the Milky Way: crowded and "
            "reddened. Expect many variable stars and few that stand alone; a field beyond 10 degrees is easier"
        )


REGIONS: dict[str, Region] = {
    r.name: r
    for r in (
        Region("SN 2011fe", 210.773796, 54.273672, 0.1, "the supernova Ia of 2011 in M101, the nearest in decades"),
        Region("M101", 210.802429, 54.348750, 0.25, "nearby spiral, seen often: SN 2011fe, SN 2023ixf"),
        Region("COSMOS", 150.119167, 2.205833, 0.7, "deep field, 2 square degrees, all wavelengths"),
        Region("GOODS-N", 189.229167, 62.237500, 0.15, "deep field of HST, Chandra and JWST"),
    )
}
"""Built-in targets, by name; case, blanks and dashes do not matter."""


def resolve(position: Any) -> Any:
    """Return a position as one ICRS `SkyCoord`.

    Parameters
    ----------
    position : SkyCoord, (ra, dec) or str
        Two numbers are degrees. Text is a name in `REGIONS`, ``"210.80 54.35"`` (degrees),
        ``"14:03:12.5 +54:20:57"`` or ``"14h03m12.5s +54d20m57s"``, or a name that Sesame knows (needs the network).

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
        if isinstance(position, Region):
            found = SkyCoord(position.ra, position.dec, unit="deg")
        elif isinstance(position, SkyCoord):
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


def region(position: Any, radius: Any = None) -> Region:
    """Return a position as a `Region`: a built-in one by its name, else one of the radius given.

    Parameters
    ----------
    position : Region or anything `resolve` takes
    radius : float, Quantity or str, optional
        Default: the built-in region's own, else 0.1 degrees.

    Raises
    ------
    InputError, AcquisitionError
        As `resolve` and `radius_degrees`.
    """
    found = position if isinstance(position, Region) else _built_in(position) if isinstance(position, str) else None
    if found is None:
        centre = resolve(position)
        name = position if isinstance(position, str) else f"{centre.ra.deg:.5f} {centre.dec.deg:+.5f}"
        found = Region(name, float(centre.ra.deg), float(centre.dec.deg), 0.1)
    if radius is None:
        return found
    return Region(found.name, found.ra, found.dec, radius_degrees(radius), found.about)


def _built_in(name: str) -> Region | None:
    """Return the built-in region of that name, however it is written."""
    plain = re.sub(r"[\s_-]", "", name).lower()
    return next((r for key, r in REGIONS.items() if re.sub(r"[\s_-]", "", key).lower() == plain), None)


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
    built_in = _built_in(said)
    if built_in is not None:
        return SkyCoord(built_in.ra, built_in.dec, unit="deg")
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
