"""Credentials: from the environment only, sent in the Authorization header, kept out of logs, errors and the cache."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from astrid_gpu.errors import AcquisitionError

__all__ = ["authorization", "bearer", "credential", "redact"]

_HIDDEN = (
    "token|api[-_]?key|apikey|key|secret|passw(?:or)?d|pwd|auth|authorization|credential|signature|sig|session(?:id)?|"
    "access[-_]?token|x-amz-[a-z-]+|x-goog-[a-z-]+"
)
_IN_QUERY = re.compile(rf"(?i)((?:^|[?&;\s\"'])(?:[a-z_-]*[_-])?(?:{_HIDDEN})=)[^&#\s\"']+")
# "token invalid" is a sentence: after that word a secret has a digit in it
_IN_HEADER = re.compile(r"(?i)\b(bearer(?=\s+\S{6})|(?:token|basic)(?=\s+\S*\d))\s+[A-Za-z0-9._~+/=-]{6,}")
_USER_INFO = re.compile(r"(?i)(\b[a-z][a-z0-9+.-]*://)[^/@\s]*@")
_seen: set[str] = set()


def credential(name: str) -> str | None:
    """Return the secret in the environment variable `name`, or None; from then on `redact` knows it.

    Parameters
    ----------
    name : str
        For example ``MAST_API_TOKEN``.
    """
    value = os.environ.get(name, "").strip()
    if not value:
        return None
    _seen.add(value)
    return value


def authorization(name: str, scheme: str = "Bearer") -> Callable[[Any], Any] | None:
    """Return what `requests` takes as `auth` to send ``Authorization: SCHEME secret``; None if `name` is not set.

    requests drops that header where a service sends one on to another host.
    """
    value = credential(name)
    return None if value is None else _signature(value, scheme)


def bearer(token: Any, service: str) -> Callable[[Any], Any]:
    """Return the same for a token that a service gave on logging in; from then on `redact` knows it.

    Raises
    ------
    AcquisitionError
        It gave none.
    """
    if not isinstance(token, str) or not token.strip():
        msg = f"{service} let us in but gave no token: the user name or the password may be wrong"
        raise AcquisitionError(msg)
    _seen.add(token)
    return _signature(token, "Bearer")


def _signature(value: str, scheme: str) -> Callable[[Any], Any]:
    def sign(request: Any) -> Any:
        request.headers["Authorization"] = f"{scheme} {value}".strip()
        return request

    return sign


def redact(text: object) -> str:
    """Return `text` with secrets replaced by ``***``: known credentials, user:password@, token=... and the like."""
    said = str(text)
    for secret in _seen:
        if len(secret) >= 4:
            said = said.replace(secret, "***").replace(quote(secret, safe=""), "***")
    said = _USER_INFO.sub(r"\1***@", said)
    said = _IN_QUERY.sub(r"\1***", said)
    return _IN_HEADER.sub(r"\1 ***", said)
