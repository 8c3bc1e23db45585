"""One way to ask a service: retries, rate limit, time-outs, and errors with the address and the service's own words.

It is built on requests, which astroquery and pyvo use: their sessions are replaced by `Client.session()`, so that
everything below holds for them too, and proxies and certificates are those that the user knows from there.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

from astrid_gpu.acquire.content import check_bytes, words_of
from astrid_gpu.acquire.limits import Clock, Policy, RateLimiter, backoff_seconds, retry_after_seconds
from astrid_gpu.acquire.secrets import redact
from astrid_gpu.acquire.wire import Fault, Stopped, decoded, failure, network_words, read_blocks, read_body

__all__ = ["Client", "default_client"]

_log = logging.getLogger("astrid_gpu.acquire")
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_T = TypeVar("_T")


class Client:
    """Asks services and downloads files politely.

    Parameters
    ----------
    policy : Policy
        Attempts, waits, time-outs, requests a second, files at a time.
    clock : Clock
        Where time comes from; tests give their own.

    Notes
    -----
    Safe to use from several threads: each has its own connections, all share the rate limit.
    """

    def __init__(self, policy: Policy | None = None, *, clock: Clock | None = None) -> None:
        self.policy = policy or Policy()
        self.clock = clock or Clock()
        self.limiter = RateLimiter(self.policy.per_second, self.clock)
        self._local = threading.local()
        self._stop: threading.Event | None = None
        self.kept: dict[Any, Any] = {}  # what adapters learnt of a service and need not ask again

    def until(self, stop: threading.Event) -> Client:
        """Return this client, its rate limit and connections shared; its waits end in `Stopped` once `stop` is set."""
        other = copy.copy(self)
        other._stop = stop
        return other

    def nap(self, seconds: float) -> None:
        """Sleep.

        Raises
        ------
        Stopped
            The client was told to end.
        """
        if seconds > 0 and self._stop is not None and self.clock.sleep is time.sleep:
            self._stop.wait(seconds)
        elif seconds > 0:
            self.clock.sleep(seconds)
        if self._stop is not None and self._stop.is_set():
            raise Stopped

    def get(self, url: str, *, wanted: str = "any", service: str = "", **options: Any) -> bytes:
        """Return the body of an answer, held in memory.

        Parameters
        ----------
        url : str
        wanted : str
            What it must be, one of `content.CONTENTS`: an HTML page where JSON was promised is an error.
        service : str
            Its name for messages; the host by default.
        **options
            What `requests.Session.request` takes: params, data, json, headers, auth, method ("POST" ...).

        Raises
        ------
        AcquisitionError
            After the last attempt, or at once where another would not help: address, status, the service's words.
        """
        answer = self.request(options.pop("method", "GET"), url, service=service, **options)
        wrong = check_bytes(answer.content, wanted)
        if wrong:
            raise failure(answer.url, wrong, service=service, status=answer.status_code)
        return answer.content

    def json(self, url: str, *, service: str = "", **options: Any) -> Any:
        """Return a parsed JSON answer. Anything else is an `AcquisitionError` with its words. Options as for `get`."""
        import json

        body = self.get(url, wanted="json", service=service, **options)
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            reason = f"sent a damaged JSON text ({error})"
            raise failure(url, reason, service=service) from None

    def request(self, method: str, url: str, *, service: str = "", **options: Any) -> Any:
        """Return a `requests.Response` with status below 400 whose body has arrived whole. Options as for `get`."""

        def attempt() -> Any:
            with self.open(method, url, service=service, **options) as answer:
                read_body(answer, self.policy, self.clock, service)
                return answer

        return self.patiently(attempt, url, service)

    @contextmanager
    def open(
        self, method: str, url: str, *, service: str = "", accept: tuple[int, ...] = (), **options: Any
    ) -> Iterator[Any]:
        """Give one streamed answer, its turn at the host waited for; a refusal is a `Fault` or an error.

        A status in `accept` is handed on to the caller, who asked for it.
        """
        import requests

        self.nap(self.limiter.turn(_host(url)))
        options.setdefault("timeout", (self.policy.connect_timeout, self.policy.read_timeout))
        if options["timeout"] is None:
            options["timeout"] = (self.policy.connect_timeout, self.policy.read_timeout)
        options["stream"] = True
        try:
            answer = self._connections().request(method, url, **options)
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise Fault(network_words(error)) from None
        except (requests.RequestException, ValueError) as error:
            raise failure(url, f"cannot be asked: {error}", service=service) from None
        with answer:
            if answer.status_code >= 400 and answer.status_code not in accept:
                self._refused(answer, service)
            yield answer

    def patiently(self, attempt: Callable[[], _T], url: str, service: str = "") -> _T:
        """Return what `attempt` returns; after a `Fault` wait and try again, as often as the policy allows."""
        count = 0
        while True:
            try:
                return attempt()
            except Fault as fault:
                count = 0 if fault.progressed else count + 1
                if count >= self.policy.attempts:
                    tries = f"{count} attempt{'s' if count > 1 else ''}"
                    raise failure(url, f"{fault.reason} ({tries})", service=service, status=fault.status) from None
                wait = backoff_seconds(max(count - 1, 0), self.policy, self.clock)
                if fault.wait is not None:
                    wait = max(wait if count > 1 else 0.0, fault.wait)
                if fault.wait is not None and fault.wait > self.policy.longest_wait:
                    reason = (
                        f"{fault.reason}; it asks to wait {fault.wait:.0f} s, more than Policy(longest_wait="
                        f"{self.policy.longest_wait:g}); come back later"
                    )
                    raise failure(url, reason, service=service, status=fault.status) from None
                _log.info("%s: %s; again in %.1f s", redact(url), fault.reason, wait)
                if fault.wait is not None:
                    self.limiter.hold(_host(url), wait)
                self.nap(wait)

    def session(self, service: str = "") -> Any:
        """Return a `requests.Session` whose every request goes through this client: for astroquery and pyvo."""
        from astrid_gpu.acquire.sessions import guarded_session

        return guarded_session(self, service)

    def _connections(self) -> Any:
        """Return this thread's own connections."""
        session = getattr(self._local, "session", None)
        if session is None:
            from astrid_gpu import __version__
            from astrid_gpu.acquire.sessions import own_session

            session = own_session()
            session.headers["User-Agent"] = f"astrid-gpu/{__version__} {session.headers['User-Agent']}"
            session.headers["Accept-Encoding"] = "identity"  # lengths and ranges are then those of the file
            self._local.session = session
        return session

    def _refused(self, answer: Any, service: str) -> None:
        """Raise about a status of 400 and above: a `Fault` if another attempt may help."""
        status, body = answer.status_code, b""
        with suppress(Fault):  # an explanation that breaks off is better than none
            for block in read_blocks(answer, self.policy, self.clock):
                body += block
                if len(body) > 20_000:
                    break
        reason = words_of(decoded(answer, body, 1 << 20) or body) if body else ""
        said = f"HTTP {status} {answer.reason or ''}".strip() + (f": {reason}" if reason else "")
        if status in _AGAIN:
            raise Fault(said, status=status, wait=retry_after_seconds(answer.headers, self.clock))
        if status in (401, 403):
            said += "; this may need credentials (docs/acquisition.md names the environment variables)"
        raise failure(answer.url, said, service=service, status=status)


def _host(url: str) -> str:
    """Return whom the rate limit is for."""
    try:
        return urlsplit(url).netloc
    except ValueError as error:
        raise failure(url, f"is no address: {error}") from None


_default: list[Client] = []


def default_client() -> Client:
    """Return the client that the adapters use unless given one: made once, with the default policy."""
    if not _default:
        _default.append(Client())
    return _default[0]
