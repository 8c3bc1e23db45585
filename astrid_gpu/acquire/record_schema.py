"""The JSON Schema of an observation's record, for whoever reads the records without this package."""

from __future__ import annotations

from typing import Any

from astrid_gpu.acquire.record import ROLES, SCHEMA, STAGES
from astrid_gpu.errors import DatasetError

__all__ = ["observation_schema", "validate_record"]

_OPTIONAL_TEXT = {"type": ["string", "null"]}
_OPTIONAL_NUMBER = {"type": ["number", "null"]}
_OPTIONAL_OBJECT = {"type": ["object", "null"]}


def _number(*, least: float | None = None, most: float | None = None, above: float | None = None) -> dict[str, Any]:
    """Return the schema of a number, or null, within bounds."""
    bounds = {"minimum": least, "maximum": most, "exclusiveMinimum": above}
    return _OPTIONAL_NUMBER | {key: value for key, value in bounds.items() if value is not None}


def observation_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of ``metadata/<observation_id>.json``.

    >>> observation_schema()["properties"]["role"]
    {'enum': ['science', 'reference']}
    """
    position = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
    texts = dict.fromkeys(("survey", "telescope", "instrument", "filter", "band"), _OPTIONAL_TEXT)
    difference = {
        "type": "object",
        "required": ["method", "science", "reference", "path"],
        "properties": {name: {"type": "string"} for name in ("method", "science", "reference", "path")},
    }
    stages: dict[str, Any] = {key: {"type": ["string", "null"], "format": "date-time"} for key in STAGES}
    properties: dict[str, Any] = {
        "schema": {"const": SCHEMA},
        "observation_id": {"type": "string", "minLength": 1},
        "role": {"enum": list(ROLES)},
        "ra": _number(least=0, most=360),
        "dec": _number(least=-90, most=90),
        "mjd": _number(above=0),
        "date": _OPTIONAL_TEXT,
        "exposure": _number(above=0),
        **texts,
        "shape": {"type": ["array", "null"], "items": {"type": "integer", "minimum": 1}, "minItems": 2, "maxItems": 2},
        "n_frames": {"type": ["integer", "null"], "minimum": 1},
        "pixel_scale": _number(above=0),
        "radius": _number(least=0, most=180),
        "corners": {"type": "array", "items": position},
        "zero_point": _OPTIONAL_NUMBER,
        "gain": _number(above=0),
        "read_noise": _number(least=0),
        "saturation": _OPTIONAL_NUMBER,
        "fwhm": _number(above=0),
        "paths": {"type": "object", "additionalProperties": {"type": "string"}},
        "normalization": _OPTIONAL_OBJECT,
        "psf": _OPTIONAL_OBJECT,
        "quality": _OPTIONAL_OBJECT,
        "references": {"type": "array", "items": {"type": "string"}},
        "differences": {"type": "array", "items": difference},
        "source": {"type": "object"},
        "status": {"type": "object", "required": list(STAGES), "properties": stages, "additionalProperties": False},
        "notes": {"type": "array", "items": {"type": "string"}},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": SCHEMA,
        "type": "object",
        "required": list(properties),
        "properties": properties,
        "additionalProperties": False,
    }


def validate_record(record: Any, where: str = "record") -> None:
    """Hold a record against the schema.

    Raises
    ------
    DatasetError
        With each place that does not fit and what is allowed there.
    ImportError
        jsonschema is not installed: the extra ``acquire`` brings it.
    """
    from astrid_gpu.io.extras import need

    need("jsonschema", "acquire", "checking observation records")
    from jsonschema import Draft202012Validator

    wrong = [
        f"{'.'.join(str(p) for p in error.absolute_path) or 'record'}: {error.message}"
        for error in sorted(Draft202012Validator(observation_schema()).iter_errors(record), key=lambda e: str(e.path))
    ]
    if wrong:
        msg = f"{where} does not fit {SCHEMA}: {'; '.join(wrong[:5])}"
        raise DatasetError(msg)
