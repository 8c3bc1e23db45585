"""One name for a survey and one for a band, out of the many that archives and headers use."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["band_of", "survey_of"]

# What telescope, instrument, origin or file name contains -> the survey's name here. First match wins.
_SURVEYS: tuple[tuple[str, str], ...] = (
    (r"\bZTF|PALOMAR 48-INCH", "ZTF"),
    (r"\bPTF\b|PTF/|\bP48\b", "PTF"),
    (r"PAN-?STARRS|\bPS1\b|\bGPC1\b|\bPS1[_.]", "PS1"),
    (r"\bJWST\b|\bNIRCAM\b|\bMIRI\b|\bNIRISS\b", "JWST"),
    (r"\bHST\b|\bHLA\b|\bWFPC2\b|\bWFC3\b", "HST"),
    (r"\bTESS\b|\bSPOC\b|TICA", "TESS"),
    (r"DECAM|DECALS|CTIO 4\.0|\bDES\b|\bC4D_", "DECam"),
    (r"\bSDSS\b|APACHE POINT|\b2\.5M\b", "SDSS"),
    (r"\b2MASS\b", "2MASS"),
    (r"\bWISE\b|\bUNWISE\b", "WISE"),
    (r"\bGALEX\b", "GALEX"),
    (r"\bSWIFT\b|\bUVOT\b", "Swift"),
    (r"\bDSS\d?\b|DIGITI[SZ]ED SKY|\bPOSS|\bUKST\b|SERC", "DSS"),
    (r"\bSAAO\b", "SAAO"),
)

# Filter names that say more than the band; tried in order on the upper-case name.
_BANDS: tuple[tuple[str, str], ...] = (
    (r"^Z(?:TF)?[_ ]?([GRI])$", r"\1"),
    (r"^([UGRIZY])[_ ]DECAM.*$", r"\1"),
    (r"^([UGRIZY])\.0+$", r"\1"),
    (r"^(?:SDSS|SLOAN|PS1|PANSTARRS|PAN-STARRS|LSST|DES|DECAM)?[ _.-]*([UGRIZY])['P_]?(?: .*)?$", r"\1"),
    (r"^(?:2MASS)?[ _.-]*([JHK])(?:S|_S)?$", r"\1"),
    (r"^(?:(?:UN)?WISE[ _.-]*W?|W)([1234])$", r"W\1"),
    (r"^(?:GALEX)?[ _.-]*([FN])UV$", r"\1UV"),
    (r"^(?:UVOT)?[ _.-]*(UVW1|UVW2|UVM2|UVV|UBB|UUU)$", r"\1"),
)
_SMALL = re.compile(r"^[UGRIZY]$")
_VEGA = {"PTF": {"R": "R", "G": "g"}}


def survey_of(*texts: Any) -> str | None:
    """Return the survey or telescope that some of the texts name, None if none is known.

    Parameters
    ----------
    *texts : str or None
        TELESCOP, INSTRUME, ORIGIN, a mission's name, a file's name, ..., most telling first.

    >>> survey_of("Palomar 48-inch", "ZTF/MOSAIC")
    'ZTF'
    """
    for text in texts:
        words = re.sub(r"[_/]", " ", str(text or "")).upper() + " " + str(text or "").upper()
        for pattern, name in _SURVEYS:
            if re.search(pattern, words):
                return name
    return None


def band_of(name: Any, survey: str | None = None) -> str | None:
    """Return the band that a filter's name means: ``g``, ``J``, ``W1``, ``NUV``, ``F200W``; other names as they are.

    Never a guess from parts of a name: "PS1_rings.v3.z" is not a filter, and two names that are not understood are
    the same band only if they are the same name.

    Parameters
    ----------
    name : str or None
        ``ZTF_r``, ``zr``, ``g DECam SDSS c0001 4720.0 1520.0``, ``i.00000``, ``r'``, ``Ks``, ...
    survey : str, optional
        As `survey_of` gives it, where the same letter means different bands.

    >>> band_of("g DECam SDSS c0001 4720.0 1520.0"), band_of("ZTF_r"), band_of("F200W")
    ('g', 'r', 'F200W')
    """
    text = str(name or "").strip()
    if not text or text.lower() in ("none", "nan", "unknown", "masked"):
        return None
    if survey in _VEGA and text in _VEGA[survey]:
        return _VEGA[survey][text]
    if text in ("U", "B", "V", "R", "I"):  # Johnson and Cousins: capital letters
        return text
    for pattern, band in _BANDS:
        found = re.match(pattern, text.upper())
        if found:
            out = found.expand(band)
            return out.lower() if _SMALL.match(out) else out
    return text
