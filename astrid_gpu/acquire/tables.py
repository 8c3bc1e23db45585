"""Results as astropy tables, for people and for files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, fields
from typing import Any

from astrid_gpu.acquire.pairing import Pairing
from astrid_gpu.io.extras import need

__all__ = ["pairing_table"]


def pairing_table(pairings: Iterable[Pairing]) -> Any:
    """Return pairings as an astropy QTable: one row each, with why it was chosen or not.

    Columns: science, reference, chosen, reason, overlap, gap (days), cross_survey.
    """
    need("astropy", "fits", "tables")
    from astropy import units
    from astropy.table import QTable

    names = [f.name for f in fields(Pairing)]
    rows = [astuple(pairing) for pairing in pairings]
    table = QTable(rows=rows or None, names=names, dtype=("U128", "U128", bool, "U256", float, float, bool))
    table["gap"].unit = units.day
    return table
