"""A `requests.Session` for astroquery and pyvo whose requests go through our client."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from astrid_gpu.acquire.wire import failure
from astrid_gpu.errors import AstridGpuError
from astrid_gpu.io.files import silent

__all__ = ["asking", "guarded_session", "own_session"]


def own_session() -> Any:
    """Return a `requests.Session` that sends no credentials but those it is given: ~/.netrc is not read.

    Proxies and certificates come from the environment as usual. An Authorization header is dropped where a service
    sends a request on to another host.
    """
    import requests

    class OwnSession(requests.Session):
        def rebuild_auth(self, prepared_request: Any, response: Any) -> None:
            if self.should_strip_auth(response.request.url, prepared_request.url):
                prepared_request.headers.pop("Authorization", None)

    session = OwnSession()
    session.auth = _as_it_is  # being there, it keeps requests from looking for others
    return session


def _as_it_is(request: Any) -> Any:
    """Leave a request as it is."""
    return request


def guarded_session(client: Any, service: str = "") -> Any:
    """Return a session that retries, waits its turn, times out and raises `AcquisitionError` as `client` does.

    The body of every answer has arrived when it is returned, also where ``stream=True`` was asked for; that of the
    last one is `last_body`, for the service's words where a library throws them away.
    """
    import requests

    class GuardedSession(requests.Session):
        """Passes each request on to the client; keeps its own headers (the library's name among them)."""

        last_body = b""

        def request(self, method: Any, url: Any, **options: Any) -> Any:  # type: ignore[override]
            own = {key: value for key, value in self.headers.items() if key.lower() == "user-agent"}
            own |= {key: value for key, value in self.headers.items() if key.lower() == "authorization"}
            options["headers"] = {**own, **(options.pop("headers", None) or {})}
            if not options.get("auth"):
                options.pop("auth", None)
            options.pop("stream", None)
            options.setdefault("cookies", self.cookies)
            answer = client.request(str(method), str(url), service=service, **options)
            self.cookies.update(answer.cookies)
            self.last_body = answer.content
            for hook in self.hooks.get("response", []):
                hook(answer)
            return answer

    session = GuardedSession()
    session.headers["User-Agent"] = f"astrid-gpu {session.headers['User-Agent']}"
    return session


@contextmanager
def asking(service: str, url: str) -> Iterator[None]:
    """Turn whatever another library raises while it asks `service` into one `AcquisitionError`.

    Its warnings (no rows, deprecated keywords) are kept quiet: what matters is raised. astroquery keeps answers for a
    week and would give last Monday's as today's; within this block it asks.

    Raises
    ------
    AcquisitionError
        Ours as it is, any other as its words and `url`.
    """
    try:
        with silent(), _fresh_answers():
            yield
    except (AstridGpuError, KeyboardInterrupt):
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise failure(
            url, f"sent what cannot be understood ({type(error).__name__}: {said})", service=service
        ) from None


def _fresh_answers() -> Any:
    """Return a context in which astroquery, if it is loaded, takes nothing from its cache and puts nothing there."""
    astroquery = sys.modules.get("astroquery")
    return nullcontext() if astroquery is None else astroquery.cache_conf.set_temp("cache_active", False)
