"""What `astrid-gpu fetch` does: find, show or fetch, and say what each file is."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from astrid_gpu.acquire import ADAPTERS, RunDirectory
from astrid_gpu.acquire.brokers import BROKERS
from astrid_gpu.acquire.progress import progress_lines
from astrid_gpu.acquire.regions import region
from astrid_gpu.errors import AcquisitionError, ConfigError

__all__ = ["SOURCES", "Fetched", "find", "get", "options_of"]

SOURCES = (*ADAPTERS, "alerts", *BROKERS)
"""What may be named after ``fetch``."""

_ON_DISK = ("local", "alerts")
_NUMBER = {"radius", "since", "until", "max_seeing", "min_drb", "min_probability", "pixel_scale"}
_WHOLE = {"limit", "size", "pixels", "min_detections"}
_LIST = {"filters", "missions", "surveys", "products", "planes", "types", "instruments"}
_PAIR = {"mjd", "magnitude"}
_YES_NO = {"usable", "whole"}
_NOT_ASKED = {"client", "where", "position"}


@dataclass(frozen=True)
class Fetched:
    """What a source has, or what was fetched of it.

    Parameters
    ----------
    rows : QTable
    paths : list of Path
        Empty for a dry run.
    failures : list of (name, reason)
    warning : str
        About the place, before anything is fetched; "" if there is none.
    """

    rows: Any
    paths: list[Path] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    warning: str = ""

    @property
    def total_size(self) -> int:
        """Bytes of all files whose size is known or estimated."""
        if "size" not in self.rows.colnames:
            return 0
        return int(sum(size for size in self.rows["size"] if size > 0))

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        names = [
            n
            for n in ("id", "object_id", "kind", "filter", "mjd", "size", "filename", "url")
            if n in self.rows.colnames
        ]
        plain = [[getattr(row[n], "value", row[n]) for n in names] for row in self.rows]
        return {
            "rows": [dict(zip(names, (_json(v) for v in values), strict=True)) for values in plain],
            "paths": [str(path) for path in self.paths],
            "failures": [list(failure) for failure in self.failures],
            "total_size": self.total_size,
            "warning": self.warning,
        }


def _json(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and value != value else value


def _module(source: str) -> Any:
    if source not in SOURCES:
        msg = f"no source is called {source!r}; there are {', '.join(SOURCES)}"
        raise ConfigError(msg)
    return import_module(f"astrid_gpu.acquire.{'brokers.' if source in BROKERS else ''}{source}")


def options_of(source: str) -> list[str]:
    """Return what can be asked of a source beside the place: the keywords of its `search`."""
    signature = inspect.signature(_module(source).search)
    return [name for name in signature.parameters if name not in _NOT_ASKED]


def find(source: str, where: str, options: dict[str, Any] | None = None, *, client: Any = None) -> Fetched:
    """Ask a source what it has.

    Parameters
    ----------
    source : str
        Of `SOURCES`.
    where : str
        A position, a region's or an object's name; for "local" and "alerts" a path or glob.
    options : dict of str to str, optional
        Keywords of the source's `search`, as text.
    client : Client, optional

    Returns
    -------
    Fetched
        Without paths.

    Raises
    ------
    ConfigError
        No such source or option, or a text that is not what the option wants.
    AcquisitionError, InputError
        As the adapter.
    """
    module, allowed = _module(source), options_of(source)
    given = {name: _parsed(name, text) for name, text in (options or {}).items()}
    strange = [name for name in given if name not in allowed]
    if strange:
        msg = f"{source} cannot be asked for {strange[0]!r}; it can for {', '.join(allowed)}"
        raise ConfigError(msg)
    if source in _ON_DISK:
        return Fetched(module.search(where, **given))
    asked = {} if client is None else {"client": client}
    if source in BROKERS:
        return _find_objects(module, where, given, asked)
    asked_for = "radius" in given
    place = region(where, given.pop("radius", None))
    if asked_for or (place.about and source == "mast"):  # a built-in region has its own size; cutouts have theirs
        given["radius"] = place.radius
    rows = module.search(place, **given, **asked)
    if source == "mast" and len(rows):
        rows = module.products(rows, which="best", **asked)
    return Fetched(rows, warning=place.warning)


def _find_objects(module: Any, where: str, given: dict[str, Any], asked: dict[str, Any]) -> Fetched:
    """Ask a broker: with a radius about a position, else for the object of that name."""
    if "radius" in given:
        place = region(where, given.pop("radius"))
        return Fetched(module.search(position=place, radius=place.radius, **given, **asked), warning=place.warning)
    if "class_name" in given or where == "*":
        return Fetched(module.search(**given, **asked))
    return Fetched(module.search(object_id=where, **given, **asked))


def get(source: str, found: Fetched, run: str | Path, *, role: str | None = None, client: Any = None) -> Fetched:
    """Fetch what was found into a run.

    Parameters
    ----------
    source : str
    found : Fetched
    run : path
        Becomes a run directory.
    role : {"science", "reference"}, optional
        What the images are to be; default: what the source says.
    client : Client, optional

    Returns
    -------
    Fetched
        With paths; what failed is in `failures`, and everything else has been fetched.
    """
    from astrid_gpu.acquire import brokers

    rows, directory = found.rows, RunDirectory(run)
    if role is not None and "role" in rows.colnames:
        rows = rows.copy()
        rows["role"] = [role] * len(rows)
    options: dict[str, Any] = {} if client is None or source in _ON_DISK else {"client": client}
    work: Callable[..., list[Path]] = brokers.fetch if source in BROKERS else _module(source).fetch
    if source in ADAPTERS and source != "local":
        options["progress"] = progress_lines(sys.stderr)
    try:
        return Fetched(rows, work(rows, directory, **options), warning=found.warning)
    except AcquisitionError as error:
        failures = list(error.failures) or [(source, str(error))]
        return Fetched(rows, list(error.paths), failures, found.warning)


def _parsed(name: str, text: Any) -> Any:
    """Return an option's text as what it means."""
    if not isinstance(text, str):
        return text
    try:
        if name in _PAIR:
            low, high = (float(part) for part in text.split(","))
            return low, high
        if name in _WHOLE:
            return int(text)
        if name in _LIST:
            return [part.strip() for part in text.split(",") if part.strip()]
        if name in _YES_NO:
            return {"yes": True, "no": False}[text.lower()]
        return float(text) if name in _NUMBER and _is_number(text) else text
    except (ValueError, KeyError) as error:
        kinds = {**dict.fromkeys(_PAIR, "two numbers LOW,HIGH"), **dict.fromkeys(_WHOLE, "a whole number"),
                 **dict.fromkeys(_YES_NO, "yes or no")}  # fmt: skip
        msg = f"{name} must be {kinds[name]}; got {text!r}"
        raise ConfigError(msg) from error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
