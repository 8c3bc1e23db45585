"""BOOM: the alert broker after Kowalski, at https://api.kaboom.caltech.edu.

Credentials: ``BOOM_TOKEN``, or ``BOOM_USERNAME`` and ``BOOM_PASSWORD``.
"""

from __future__ import annotations

from typing import Any

from astrid_gpu.acquire.brokers._data_base import DataBase
from astrid_gpu.acquire.brokers.objects import records
from astrid_gpu.acquire.client import Client
from astrid_gpu.errors import AcquisitionError

__all__ = ["SERVER", "alert", "labels", "light_curve", "search"]

SERVER = "https://api.kaboom.caltech.edu"

_PATIENCE = 10_000  # ms that a query may take there


class _Boom(DataBase):
    name = "BOOM"
    broker = "boom"

    def find(self, client: Client, catalog: str, query: dict[str, Any], limit: int) -> list[dict[str, Any]]:
        asked = {"catalog_name": catalog, "filter": query, "limit": limit, "max_time_ms": _PATIENCE}
        return records(self._query(client, "find", asked), f"{SERVER}/queries/find", self.name)

    def cone(self, client: Client, place: Any, reach: float, query: dict[str, Any], limit: int) -> list[dict[str, Any]]:
        asked: dict[str, Any] = {
            "catalog_name": self.alerts,
            "object_coordinates": {"query": [float(place.ra.deg), float(place.dec.deg)]},
            "radius": reach,
            "unit": "Arcseconds",
            "max_time_ms": _PATIENCE,
        }
        asked |= ({"filter": query} if query else {}) | ({"limit": limit} if limit != 100 else {})
        answer = self._query(client, "cone_search", asked)
        found = answer.get("query") if isinstance(answer, dict) else answer
        return records(found, f"{SERVER}/queries/cone_search", self.name)

    def stamps(self, client: Client, document: dict[str, Any]) -> dict[str, Any]:
        key = document.get("candid") or document.get("_id")
        found = self.find(client, f"{self.alerts}_cutouts", {"_id": key}, 1)
        return {**(found[0] if found else {}), **document}

    def _query(self, client: Client, verb: str, asked: dict[str, Any]) -> Any:
        """Ask, and return the data of the answer."""
        url = f"{SERVER}/queries/{verb}"
        answer = client.json(url, service=self.name, method="POST", json=asked, auth=self.signature(client))
        if not isinstance(answer, dict) or "data" not in answer:
            said = str(answer.get("message") if isinstance(answer, dict) else answer)[:200]
            msg = f"BOOM at {url} sent no data: {said}"
            raise AcquisitionError(msg, url=url)
        return answer["data"]

    def log_in(self, client: Client, user: str, password: str) -> Any:
        form = {"username": user, "password": password}
        answer = client.json(f"{SERVER}/auth", service=self.name, method="POST", data=form)
        return answer.get("access_token") if isinstance(answer, dict) else None


_broker = _Boom()
search, labels, light_curve, alert = _broker.search, _broker.labels, _broker.light_curve, _broker.alert
