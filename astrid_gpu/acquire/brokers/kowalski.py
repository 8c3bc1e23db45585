"""Kowalski: the alert data base of the ZTF collaboration, through the API that its client penquins uses.

Credentials: ``KOWALSKI_TOKEN``, or ``KOWALSKI_USERNAME`` and ``KOWALSKI_PASSWORD``.
"""

from __future__ import annotations

from typing import Any

from astrid_gpu.acquire.brokers._data_base import DataBase
from astrid_gpu.acquire.brokers.objects import records
from astrid_gpu.acquire.client import Client
from astrid_gpu.errors import AcquisitionError

__all__ = ["SERVER", "alert", "labels", "light_curve", "search"]

SERVER = "https://kowalski.caltech.edu"


class _Kowalski(DataBase):
    name = "Kowalski"
    broker = "kowalski"

    def find(self, client: Client, catalog: str, query: dict[str, Any], limit: int) -> list[dict[str, Any]]:
        asked = {"catalog": catalog, "filter": query, "projection": {}}
        answer = self._query(client, {"query_type": "find", "query": asked, "kwargs": {"limit": limit}})
        return records(answer, f"{SERVER}/api/queries", self.name)

    def cone(self, client: Client, place: Any, reach: float, query: dict[str, Any], limit: int) -> list[dict[str, Any]]:
        where = {
            "cone_search_radius": reach,
            "cone_search_unit": "arcsec",
            "radec": {"query": [float(place.ra.deg), float(place.dec.deg)]},
        }
        catalogs = {self.alerts: {"filter": query, "projection": {"cutoutScience": 0, "cutoutTemplate": 0,
                                                                  "cutoutDifference": 0}}}  # fmt: skip
        asked = {"object_coordinates": where, "catalogs": catalogs}
        answer = self._query(client, {"query_type": "cone_search", "query": asked, "kwargs": {"limit": limit}})
        found = answer.get(self.alerts) if isinstance(answer, dict) else None
        found = found.get("query") if isinstance(found, dict) else answer
        return records(found, f"{SERVER}/api/queries", self.name)

    def _query(self, client: Client, asked: dict[str, Any]) -> Any:
        """Ask, and return the data of an answer that says success."""
        url = f"{SERVER}/api/queries"
        answer = client.json(url, service=self.name, method="POST", json=asked, auth=self.signature(client))
        if not isinstance(answer, dict) or answer.get("status") != "success":
            said = str(answer.get("message") if isinstance(answer, dict) else answer)[:200]
            msg = f"Kowalski at {url} did not succeed: {said}"
            raise AcquisitionError(msg, url=url)
        return answer.get("data")

    def log_in(self, client: Client, user: str, password: str) -> Any:
        asked = {"username": user, "password": password}
        answer = client.json(f"{SERVER}/api/auth", service=self.name, method="POST", json=asked)
        return answer.get("token") if isinstance(answer, dict) else None


_broker = _Kowalski()
search, labels, light_curve, alert = _broker.search, _broker.labels, _broker.light_curve, _broker.alert
