"""SkyView's form through astroquery: its surveys, and one cutout a time."""

from __future__ import annotations

from functools import partial
from typing import Any

from astrid_gpu.acquire.client import Client
from astrid_gpu.acquire.content import words_of
from astrid_gpu.acquire.sessions import asking
from astrid_gpu.acquire.wire import failure

__all__ = ["SERVICE", "SURVEYS", "make_cutout", "skyview_of", "survey_names"]

SERVICE = "SkyView"
"""Its name in messages."""

SURVEYS: dict[str, tuple[str, str, float]] = {
    "DSS2 Blue": ("DSS2", "blue", 1.0),
    "DSS2 Red": ("DSS2", "red", 1.0),
    "DSS2 IR": ("DSS2", "ir", 1.0),
    "SDSSu": ("SDSS", "u", 0.396),
    "SDSSg": ("SDSS", "g", 0.396),
    "SDSSr": ("SDSS", "r", 0.396),
    "SDSSi": ("SDSS", "i", 0.396),
    "SDSSz": ("SDSS", "z", 0.396),
    "GALEX Far UV": ("GALEX", "FUV", 1.5),
    "GALEX Near UV": ("GALEX", "NUV", 1.5),
    "2MASS-J": ("2MASS", "J", 1.0),
    "2MASS-H": ("2MASS", "H", 1.0),
    "2MASS-K": ("2MASS", "K", 1.0),
    "WISE 3.4": ("WISE", "W1", 1.375),
    "WISE 4.6": ("WISE", "W2", 1.375),
    "WISE 12": ("WISE", "W3", 1.375),
    "WISE 22": ("WISE", "W4", 1.375),
}
"""SkyView's name -> (survey, filter, native pixel in arcseconds). Others that SkyView holds may be named too."""


def skyview_of(client: Client) -> Any:
    """Return astroquery's SkyView, asking through our client, at the address that its configuration names now.

    One is kept for each client: it reads the form's long list of surveys once.
    """
    from astrid_gpu.io.extras import need

    need("astroquery.skyview", "acquire", "SkyView")
    from astroquery.skyview import SkyViewClass, conf

    kept = client.kept.get(("skyview", conf.url))
    if kept is None:
        kept = SkyViewClass()
        kept.URL = conf.url
        kept._session = client.session(SERVICE)
        kept._request = partial(kept._request, cache=False)
        client.kept["skyview", conf.url] = kept
    return kept


def survey_names(service: Any) -> list[str]:
    """Return the surveys of SkyView's form."""
    with asking(SERVICE, service.URL):
        found = [name for names in service.survey_dict.values() for name in names]
    if not found:
        del service._survey_dict  # not kept: the form may be there the next time
        reason = f"its form lists no survey: {words_of(service._session.last_body)!r}"
        raise failure(service.URL, reason, service=SERVICE)
    return found


def make_cutout(service: Any, name: str, place: Any, count: int, scale: float, sampler: str) -> str:
    """Let SkyView make one cutout and return where it is."""
    from astropy import units as u

    side = count * scale / 3600 * u.deg
    with asking(SERVICE, service.URL):
        links = service.get_image_list(
            position=place, survey=[name], pixels=str(count), width=side, height=side, coordinates="J2000",
            projection="Tan", scaling="Linear", sampler=None if sampler == "NN" else sampler, cache=False,
        )  # fmt: skip
    if not links:
        reason = f"made no image of {name}; its page says: {words_of(service._session.last_body)!r}"
        raise failure(service.URL, reason, service=SERVICE)
    return str(links[0])
