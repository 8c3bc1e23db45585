"""Alert brokers: what they know of objects, one module a broker, the same verbs on each.

::

    rows = brokers.alerce.search(position=(279.9, -4.87), radius=0.01)    # QTable of objects
    labels = brokers.alerce.labels("ZTF18abcgqmz")                        # QTable of classes
    curve = brokers.alerce.light_curve("ZTF18abcgqmz")                    # structured array, as from alert packets
    alert = brokers.alerce.alert("ZTF18abcgqmz")                          # Alert with stamps
    paths = brokers.fetch(rows, "run")                                    # candidates, triplets, light curves

What a broker does not offer raises `InputError` and says who does. Credentials come from the environment alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from astrid_gpu.acquire.brokers.objects import BROKERS, OBJECT_COLUMNS, fetch, object_table

__all__ = ["BROKERS", "OBJECT_COLUMNS", "fetch", "object_table"]


def __getattr__(name: str) -> Any:
    """Load a broker when it is first used."""
    if name in BROKERS:
        return import_module(f"astrid_gpu.acquire.brokers.{name}")
    msg = f"module 'astrid_gpu.acquire.brokers' has no attribute {name!r}; brokers: {', '.join(BROKERS)}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *BROKERS})
