"""Pixel-mask bits and candidate flags: one table each, from which constants, decoder and docs come.

A pixel mask is ``uint16``, 0 = good; the engine's is its low byte alone. Pixels with a bit of `INVALID`, which are
all in that byte, are NaN in every output; the other bits are warnings and details. Candidate flags are ``uint32``: a
pixel's bit means that it is set on a pixel under the candidate; bits 256 to 4096 describe the candidate itself.
"""

from __future__ import annotations

from enum import IntFlag
from typing import NamedTuple

__all__ = ["INVALID", "CandidateFlag", "FlagInfo", "PixelFlag", "decode", "describe"]


class PixelFlag(IntFlag):
    """Bits of a pixel mask. A cosmic ray in the reference sets BAD_REFERENCE too, so that the low byte says it all."""

    BAD_SCIENCE = 1
    BAD_REFERENCE = 2
    SATURATED_SCIENCE = 4
    SATURATED_REFERENCE = 8
    COSMIC_RAY_SCIENCE = 16
    NO_DATA = 32
    NEAR_BAD = 64
    EDGE = 128
    COSMIC_RAY_REFERENCE = 8192
    TRAIL = 16384
    SATURATED_LINE = 32768
    COSMIC_RAY = 16  # the older name of COSMIC_RAY_SCIENCE


INVALID: int = int(
    PixelFlag.BAD_SCIENCE
    | PixelFlag.BAD_REFERENCE
    | PixelFlag.SATURATED_SCIENCE
    | PixelFlag.SATURATED_REFERENCE
    | PixelFlag.COSMIC_RAY_SCIENCE
    | PixelFlag.NO_DATA
)


class CandidateFlag(IntFlag):
    """Bits of a candidate's ``flags`` column."""

    BAD_SCIENCE = 1
    BAD_REFERENCE = 2
    SATURATED_SCIENCE = 4
    SATURATED_REFERENCE = 8
    COSMIC_RAY_SCIENCE = 16
    NO_DATA = 32
    NEAR_BAD = 64
    EDGE = 128
    DIPOLE = 256
    SHARP = 512
    EXTENDED = 1024
    NO_CENTROID = 2048
    BRIGHT_STAR = 4096
    COSMIC_RAY_REFERENCE = 8192
    TRAIL = 16384
    SATURATED_LINE = 32768
    COSMIC_RAY = 16  # the older name of COSMIC_RAY_SCIENCE


class FlagInfo(NamedTuple):
    """One line of the flag table."""

    bit: int
    name: str
    meaning: str


_MEANINGS = {
    "BAD_SCIENCE": "masked, NaN, infinite, or on a dead pixel or bad column found in the science image",
    "BAD_REFERENCE": "masked, NaN, infinite, or on a dead pixel or bad column found in the reference image",
    "SATURATED_SCIENCE": "saturated, or bled into from a saturated core, in the science image",
    "SATURATED_REFERENCE": "saturated, or bled into from a saturated core, in the reference image",
    "COSMIC_RAY_SCIENCE": "hit by a cosmic ray in the science image",
    "NO_DATA": "outside the common footprint of the two images, or a fill value in one of them, which is bad too",
    "NEAR_BAD": "within the reach of the PSFs from an invalid pixel; its variance is raised",
    "EDGE": "within the reach of the PSFs from the edge of the frame; its variance is raised",
    "DIPOLE": "a peak of the other sign and similar strength lies within two FWHM",
    "SHARP": "sharper than the difference PSF: a cosmic ray or a hot pixel",
    "EXTENDED": "wider than the difference PSF or elongated",
    "NO_CENTROID": "the centroid did not converge; the peak pixel is given",
    "BRIGHT_STAR": "on a static source so bright that its residual rivals the candidate, or among residuals round one",
    "COSMIC_RAY_REFERENCE": "hit by a cosmic ray in the reference image; BAD_REFERENCE is set too",
    "SATURATED_LINE": "on a row or column beside a saturated star that the read-out left darker or brighter",
    "TRAIL": "on the trail of a satellite or aeroplane across the difference",
}


def describe(kind: type[IntFlag] = CandidateFlag) -> list[FlagInfo]:
    """Return the table of flags of `kind`, lowest bit first."""
    return [FlagInfo(int(flag), str(flag.name), _MEANINGS[str(flag.name)]) for flag in kind]


def decode(value: int, kind: type[IntFlag] = CandidateFlag) -> list[str]:
    """Return the names of the bits set in `value`, lowest first.

    >>> decode(192)
    ['NEAR_BAD', 'EDGE']
    """
    return [str(flag.name) for flag in kind if int(value) & int(flag)]
