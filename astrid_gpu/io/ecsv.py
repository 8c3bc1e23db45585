"""Tables of numbers as ECSV, the text format of astropy's tables, without importing those.

The content is what `astropy.table.QTable` writes and reads: columns with units are quantities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["EcsvColumn", "write_ecsv"]


class EcsvColumn(NamedTuple):
    """A column of numbers or truth values, its unit as astropy spells it and its meaning, both or either None."""

    values: np.ndarray
    unit: str | None
    description: str | None


def write_ecsv(path: Path, columns: Mapping[str, EcsvColumn], meta: Mapping[str, Any]) -> None:
    """Write columns of one length, and what is said about them.

    Parameters
    ----------
    path : Path
    columns : mapping of name to EcsvColumn
        Names without spaces; values (n,), real, integer or bool.
    meta : mapping
        Words, numbers, truth values, lists and mappings of them.
    """
    lines = ["%ECSV 1.0", "---", "datatype:", *(f"- {_declared(*item)}" for item in columns.items())]
    quantities = {name: column.unit for name, column in columns.items() if column.unit is not None}
    lines += ["meta: !!omap", *(f"- {_text({key: value})}" for key, value in meta.items())]
    if quantities:
        lines += ["- __serialized_columns__:"]
        for name, unit in quantities.items():
            kind = "__class__: astropy.units.quantity.Quantity"
            where = f"value: !astropy.table.SerializedColumn {{name: {_text(name)}}}"
            lines.append(f"    {_text(name)}: {{{kind}, unit: !astropy.units.Unit {{unit: {_text(unit)}}}, {where}}}")
    lines.append("schema: astropy-2.0")
    rows = zip(*([str(value) for value in column.values] for column in columns.values()), strict=True)
    body = [" ".join(columns), *(" ".join(row) for row in rows)]
    path.write_text("".join(f"# {line}\n" for line in lines) + "".join(f"{line}\n" for line in body), encoding="ascii")


def _declared(name: str, column: EcsvColumn) -> str:
    """Return the line about a column."""
    said = {"name": name, "unit": column.unit, "datatype": column.values.dtype.name, "description": column.description}
    return _text({key: value for key, value in said.items() if value is not None})


def _text(value: Any) -> str:
    """Return a value as YAML on one line, in ASCII."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(str(key))}: {_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_text(item) for item in value) + "]"
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        return _number(float(value))
    return '"' + "".join(_letter(c) for c in str(value)) + '"'


def _number(value: float) -> str:
    """Return a real as YAML 1.1 knows it: with a point."""
    if not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    text = repr(value)
    return text if "." in text else text.replace("e", ".0e")


def _letter(c: str) -> str:
    """Return a character as it stands between double quotes."""
    if c in '"\\':
        return "\\" + c
    return c if " " <= c <= "~" else f"\\U{ord(c):08x}"
