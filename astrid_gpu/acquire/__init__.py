"""From a position on the sky to files: one thin adapter for each service over one download core.

Every adapter is a module with the same two verbs::

    rows = ag.acquire.mast.search("M101", 0.1, missions="HST")     # QTable, one row a file: observations.COLUMNS
    paths = ag.acquire.mast.fetch(rows, "run")                     # downloaded, checked, list of Path

A service that fails is an `AcquisitionError` with the address and its own words; nothing is ever made up in its
place. `fetch` below takes rows of any adapter.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from astrid_gpu.acquire.client import Client, default_client
from astrid_gpu.acquire.directory import RunDirectory
from astrid_gpu.acquire.limits import Clock, Policy
from astrid_gpu.acquire.observations import COLUMNS, KINDS, check_observations, observation_table
from astrid_gpu.acquire.pairing import Pairing, PairingRules, choose_pairs
from astrid_gpu.acquire.progress import Progress, progress_lines
from astrid_gpu.acquire.record import Observation
from astrid_gpu.acquire.regions import REGIONS, Region, region, resolve
from astrid_gpu.acquire.tables import pairing_table
from astrid_gpu.acquire.transfer import Item, download, download_all

ADAPTERS = ("mast", "ps1", "skyview", "tesscut", "ztf", "local")
"""Modules that have `search` and `fetch` for images."""

_MODULES = (*ADAPTERS, "alerts", "brokers")

__all__ = [
    "ADAPTERS",
    "COLUMNS",
    "KINDS",
    "REGIONS",
    "Client",
    "Clock",
    "Item",
    "Observation",
    "Pairing",
    "PairingRules",
    "Policy",
    "Progress",
    "Region",
    "RunDirectory",
    "check_observations",
    "choose_pairs",
    "default_client",
    "download",
    "download_all",
    "fetch",
    "observation_table",
    "pairing_table",
    "progress_lines",
    "region",
    "resolve",
]


def __getattr__(name: str) -> Any:
    """Load an adapter when it is first used."""
    if name in _MODULES:
        return import_module(f"astrid_gpu.acquire.{name}")
    msg = f"module 'astrid_gpu.acquire' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})


def fetch(rows: Any, run: str | Path | RunDirectory, **options: Any) -> list[Path]:
    """Fetch the files of an observation table, each by the adapter that found it.

    Parameters
    ----------
    rows : QTable
        From any adapter's `search`, or several of them stacked with `astropy.table.vstack`.
    run : str, Path or RunDirectory
        A folder, or a run directory: then files go to ``source_fits/science`` and ``source_fits/reference``, and each
        image gets its record in ``metadata``.
    **options
        Passed on: `client`, `progress`.

    Returns
    -------
    list of Path
        Grouped by adapter, within each in the order of the rows.

    Raises
    ------
    AcquisitionError
        Some failed: its `failures` names each, its `paths` has those that arrived.
    InputError
        It is not an observation table, or names an adapter that does not exist.
    """
    from astrid_gpu.acquire.placing import try_each
    from astrid_gpu.errors import InputError

    check_observations(rows)
    sources = list(dict.fromkeys(str(source) for source in rows["source"]))
    strange = [source for source in sources if source not in ADAPTERS]
    if strange:
        msg = f"no adapter is called {strange[0]!r}; there are {', '.join(ADAPTERS)}"
        raise InputError(msg)
    return try_each((source, partial(_fetch_from, source, rows, run, options)) for source in sources)


def _fetch_from(source: str, rows: Any, run: str | Path | RunDirectory, options: dict[str, Any]) -> list[Path]:
    """Fetch the rows of one adapter."""
    adapter = import_module(f"astrid_gpu.acquire.{source}")
    return adapter.fetch(rows[rows["source"] == source], run, **options)  # type: ignore[no-any-return]
