"""Kowalski and BOOM alike: a data base of ZTF alerts behind two questions, `find` and `cone`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

from astrid_gpu.acquire.brokers.documents import alert_of, labels_of, objects_of
from astrid_gpu.acquire.brokers.objects import arcseconds, label_table, object_table
from astrid_gpu.acquire.client import Client, default_client
from astrid_gpu.acquire.light_curves import light_curve as curve_of
from astrid_gpu.acquire.packets import Alert
from astrid_gpu.acquire.secrets import authorization, bearer, credential
from astrid_gpu.errors import AcquisitionError, InputError

__all__ = ["DataBase"]

_JD = 2400000.5


class DataBase(ABC):
    """The verbs of a broker, over `find` and `cone` of one service."""

    name: ClassVar[str]
    broker: ClassVar[str]
    alerts: ClassVar[str] = "ZTF_alerts"
    history: ClassVar[str] = "ZTF_alerts_aux"

    @abstractmethod
    def find(self, client: Client, catalog: str, query: dict[str, Any], limit: int) -> list[dict[str, Any]]:
        """Return documents of a catalogue that fit a MongoDB filter."""

    @abstractmethod
    def cone(self, client: Client, place: Any, reach: float, query: dict[str, Any], limit: int) -> list[dict[str, Any]]:
        """Return alerts within `reach` arcseconds of a place."""

    @abstractmethod
    def log_in(self, client: Client, user: str, password: str) -> Any:
        """Return the token that the service gives to a user."""

    def signature(self, client: Client) -> Any:
        """Return what signs a request: ``<BROKER>_TOKEN`` of the environment, else a token got by logging in.

        Raises
        ------
        AcquisitionError
            No credentials in the environment; the variables are named.
        """
        names = [f"{self.broker.upper()}_{what}" for what in ("TOKEN", "USERNAME", "PASSWORD")]
        found = authorization(names[0])
        if found is not None:
            return found
        user, password = credential(names[1]), credential(names[2])
        if user is None or password is None:
            msg = f"{self.name} wants credentials: set {names[0]}, or {names[1]} and {names[2]}"
            raise AcquisitionError(msg)
        return bearer(self.log_in(client, user, password), self.name)

    def stamps(self, client: Client, document: dict[str, Any]) -> dict[str, Any]:
        """Return the document with its stamps; a data base that keeps them elsewhere looks there."""
        return document

    def search(
        self,
        *,
        object_id: str | None = None,
        position: Any = None,
        radius: Any = None,
        magnitude: tuple[float, float] | None = None,
        mjd: tuple[float, float] | None = None,
        min_drb: float | None = None,
        limit: int = 100,
        client: Client | None = None,
    ) -> Any:
        """Look for objects: by name, or by what their alerts are like.

        Parameters
        ----------
        object_id : str, optional
        position, radius : optional
            Given together; a number is degrees.
        magnitude, mjd : (low, high), optional
            Of the alerts.
        min_drb : float, optional
            Least deep-learning real-bogus score.
        limit : int
            Alerts looked at.
        client : Client, optional

        Returns
        -------
        QTable
            `objects.OBJECT_COLUMNS`, of each object its latest alert.

        Raises
        ------
        AcquisitionError
            The service failed, or no credentials are in the environment.
        InputError
            Nothing was asked for.
        """
        client = client or default_client()
        query: dict[str, Any] = {} if object_id is None else {"objectId": object_id}
        for key, limits, shift in (("magpsf", magnitude, 0.0), ("jd", mjd, _JD)):
            if limits is not None:
                query[f"candidate.{key}"] = {"$gte": limits[0] + shift, "$lte": limits[1] + shift}
        if min_drb is not None:
            query["candidate.drb"] = {"$gte": min_drb}
        if position is not None or radius is not None:
            place, reach = arcseconds(position, radius)
            return object_table(objects_of(self.cone(client, place, reach, query, limit), place), self.broker)
        if not query:
            msg = f"{self.name} is asked by object_id, position and radius, magnitude, mjd or min_drb; give one of them"
            raise InputError(msg)
        return object_table(objects_of(self.find(client, self.alerts, query, limit)), self.broker)

    def labels(self, object_id: str, *, client: Client | None = None) -> Any:
        """Return the machine-learning scores of an object's latest alert: classifier, class_name, probability."""
        return label_table(labels_of(self._latest(client or default_client(), object_id)), self.broker)

    def light_curve(self, object_id: str, *, client: Client | None = None) -> np.ndarray:
        """Return the light curve of an object, forced photometry included, as `light_curves.light_curve` does."""
        client = client or default_client()
        return curve_of(alert_of(self._latest(client, object_id), self._history(client, object_id), self.name))

    def alert(self, object_id: str, candid: int | None = None, *, client: Client | None = None) -> Alert:
        """Return an alert with its stamps and history: the one named, else the latest.

        Raises
        ------
        AcquisitionError
            There is no such alert, or no stamp of it could be had.
        """
        client = client or default_client()
        document = self.stamps(client, self._latest(client, object_id, candid))
        found = alert_of(document, self._history(client, object_id), self.name)
        if not found.stamps:
            msg = f"{self.name} has no stamp of {object_id} {found.candid}: {found.notes[0]}"
            raise AcquisitionError(msg)
        return found

    def _latest(self, client: Client, object_id: str, candid: int | None = None) -> dict[str, Any]:
        query = {"objectId": object_id} | ({} if candid is None else {"candid": candid})
        found = self.find(client, self.alerts, query, 1000)
        if not found:
            msg = f"{self.name} has no alert {'' if candid is None else f'{candid} '}of {object_id!r}"
            raise AcquisitionError(msg)
        return max(found, key=lambda d: float((d.get("candidate") or {}).get("jd") or 0))

    def _history(self, client: Client, object_id: str) -> dict[str, Any] | None:
        found = self.find(client, self.history, {"_id": object_id}, 1)
        return found[0] if found else None
