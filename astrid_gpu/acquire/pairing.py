"""Which reference goes with which science image, and why not the others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from astrid_gpu.acquire.footprint import overlap_fraction, separation_deg
from astrid_gpu.acquire.record import Observation
from astrid_gpu.errors import InputError

__all__ = ["Pairing", "PairingRules", "choose_pairs"]

PREFERENCES = ("deepest", "earliest", "best seeing")


@dataclass(frozen=True)
class PairingRules:
    """What makes two observations a pair.

    Parameters
    ----------
    prefer : {"deepest", "earliest", "best seeing"}
        Which of several references is taken: the longest exposure, the first in time, or the least FWHM. A reference
        whose record does not tell comes last.
    same_band, cross_survey : bool
        Pairs of two surveys are made only if asked for, and are flagged: their bands and PSFs differ.
    min_overlap : float
        Least part of the science image that the reference covers, 0 to 1.
    min_gap, max_gap : float
        Days between the two; the sign does not matter.
    references : int
        How many references each science image gets.
    """

    prefer: str = "deepest"
    same_band: bool = True
    cross_survey: bool = False
    min_overlap: float = 0.5
    min_gap: float = 0.0
    max_gap: float = math.inf
    references: int = 1

    def __post_init__(self) -> None:
        if self.prefer not in PREFERENCES:
            msg = f"prefer must be one of {', '.join(PREFERENCES)}; got {self.prefer!r}"
            raise InputError(msg)
        if not 0 <= self.min_overlap <= 1:
            msg = f"min_overlap is a part of the science image, 0 to 1; got {self.min_overlap!r}"
            raise InputError(msg)
        if not 0 <= self.min_gap <= self.max_gap:
            msg = f"gaps are days with 0 <= min_gap <= max_gap; got {self.min_gap!r} and {self.max_gap!r}"
            raise InputError(msg)
        if self.references < 1:
            msg = f"references must be 1 or more; got {self.references!r}"
            raise InputError(msg)


@dataclass(frozen=True)
class Pairing:
    """One science image with one possible reference: taken or not, and why.

    Parameters
    ----------
    science, reference : str
        Observation ids; reference "" where a science image has none to choose from.
    chosen : bool
    reason : str
        In words.
    overlap : float
        Part of the science image that the reference covers, NaN if unknown.
    gap : float
        Days from reference to science, NaN if unknown.
    cross_survey : bool
    """

    science: str
    reference: str
    chosen: bool
    reason: str
    overlap: float = float("nan")
    gap: float = float("nan")
    cross_survey: bool = False


def choose_pairs(
    observations: Iterable[Observation], rules: PairingRules | None = None, **options: Any
) -> list[Pairing]:
    """Choose a reference for each science image.

    Parameters
    ----------
    observations : iterable of Observation
        With their roles: each science image is held against each reference.
    rules : PairingRules, optional
    **options
        Fields of `PairingRules`.

    Returns
    -------
    list of Pairing
        Every combination, science images in the order given, the chosen reference first, then the others by merit,
        then those that the rules exclude. `pairing_table` makes an astropy table of it.

    Raises
    ------
    InputError
        An impossible rule, or the same id twice in one role.
    """
    rules = PairingRules(**{**(vars(rules) if rules else {}), **options})
    pool = list(observations)
    science = [o for o in pool if o.role == "science"]
    references = [o for o in pool if o.role == "reference"]
    for group in (science, references):
        ids = [o.observation_id for o in group]
        twice = next((i for i in ids if ids.count(i) > 1), None)
        if twice is not None:
            msg = f"two {group[0].role} images have the id {twice!r}; ids must be unique"
            raise InputError(msg)
    return [pairing for one in science for pairing in _for_one(one, references, rules)]


def _for_one(science: Observation, references: Sequence[Observation], rules: PairingRules) -> list[Pairing]:
    """Return every pairing of one science image, the chosen first."""
    if not references:
        return [Pairing(science.observation_id, "", chosen=False, reason="there is no reference image at all")]
    judged = [(reference, *_judge(science, reference, rules)) for reference in references]
    usable = sorted((j for j in judged if not j[1]), key=lambda j: _merit(j[0], rules.prefer))
    rows = []
    for place, (reference, _, facts) in enumerate(usable):
        taken = place < rules.references
        what = _what(reference, rules.prefer)
        reason = f"{rules.prefer}: {what}" if taken else f"usable, but not the {rules.prefer}: {what}"
        if taken and facts.get("note"):
            reason += f"; {facts['note']}"
        rows.append(_row(science, reference, taken, reason, facts))
    rejected = [j for j in judged if j[1]]
    return rows + [_row(science, reference, False, reason, facts) for reference, reason, facts in rejected]


def _row(science: Observation, reference: Observation, chosen: bool, reason: str, facts: dict[str, Any]) -> Pairing:
    return Pairing(
        science.observation_id,
        reference.observation_id,
        chosen,
        reason,
        facts["overlap"],
        facts["gap"],
        facts["cross_survey"],
    )


def _judge(science: Observation, reference: Observation, rules: PairingRules) -> tuple[str, dict[str, Any]]:
    """Return why the rules exclude a reference ("" if they do not), and what was found."""
    cross = science.survey != reference.survey
    overlap, note = _overlap(science, reference)
    gap = math.nan if None in (science.mjd, reference.mjd) else float(science.mjd - reference.mjd)  # type: ignore[operator]
    notes = [note] if note else []
    if cross:
        notes.append(f"of another survey ({reference.survey} for {science.survey}): bands and PSFs differ")
    if math.isnan(gap):
        notes.append("a time is not known")
    facts = {"overlap": overlap, "gap": gap, "cross_survey": cross, "note": "; ".join(notes)}
    return _why_not(science, reference, rules, facts), facts


def _why_not(science: Observation, reference: Observation, rules: PairingRules, facts: dict[str, Any]) -> str:
    overlap, gap = facts["overlap"], facts["gap"]
    if science.observation_id == reference.observation_id:
        return "the same observation"
    if facts["cross_survey"] and not rules.cross_survey:
        return f"of another survey: {reference.survey}, not {science.survey}; cross_survey=True allows it"
    if rules.same_band and science.band != reference.band:
        return f"of another band: {reference.band}, not {science.band}"
    if overlap < rules.min_overlap:
        return f"covers {100 * overlap:.0f} % of the science image, less than {100 * rules.min_overlap:.0f} %"
    if abs(gap) < rules.min_gap:
        return f"{abs(gap):.3g} days apart, less than {rules.min_gap:g}"
    if abs(gap) > rules.max_gap:
        return f"{abs(gap):.3g} days apart, more than {rules.max_gap:g}"
    return ""


def _overlap(science: Observation, reference: Observation) -> tuple[float, str]:
    """Return the part of the science image that the reference covers, and what had to be assumed."""
    if len(science.corners) >= 3 and len(reference.corners) >= 3:
        return overlap_fraction(science.corners, reference.corners), ""
    if None not in (science.ra, science.dec, reference.ra, reference.dec):
        apart = float(separation_deg(science.ra, science.dec, reference.ra, reference.dec))
        sizes = (science.radius or 0.0), (reference.radius or 0.0)
        if not any(sizes):
            return math.nan, f"sizes unknown, centres {3600 * apart:.3g} arcsec apart"
        part = max(0.0, min(1.0, 1 - (apart - (sizes[1] - sizes[0])) / max(2 * sizes[0], 1e-9)))
        return part, "overlap from centres and radii"
    return math.nan, "no position on the sky: stars will have to tell the overlap"


def _merit(reference: Observation, prefer: str) -> tuple[float, str]:
    """Return what sorts references, the best first."""
    worst = math.inf
    if prefer == "earliest":
        value = worst if reference.mjd is None else reference.mjd
    elif prefer == "best seeing":
        value = worst if reference.fwhm is None else reference.fwhm
    else:
        value = worst if reference.exposure is None else -reference.exposure
    return value, reference.observation_id


def _what(reference: Observation, prefer: str) -> str:
    """Return the value that `prefer` looks at, in words."""
    if prefer == "earliest":
        return "no time in its record" if reference.mjd is None else f"MJD {reference.mjd:.5f}"
    if prefer == "best seeing":
        return "no seeing in its record" if reference.fwhm is None else f'FWHM {reference.fwhm:.2f}"'
    return "no exposure time in its record" if reference.exposure is None else f"{reference.exposure:g} s"
