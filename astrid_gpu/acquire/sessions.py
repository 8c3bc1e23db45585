"""A `requests.Session` for astroquery and pyvo whose requests go through our client."""

from __future__ import annotations

from typing import Any

__all__ = ["guarded_session"]


def guarded_session(client: Any, service: str = "") -> Any:
    """Return a session that retries, waits its turn, times out and raises `AcquisitionError` as `client` does.

    The body of every answer has arrived when it is returned, also where ``stream=True`` was asked for.
    """
    import requests

    class GuardedSession(requests.Session):
        """Passes each request on to the client; keeps its own headers (the library's name among them)."""

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
            for hook in self.hooks.get("response", []):
                hook(answer)
            return answer

    session = GuardedSession()
    session.headers["User-Agent"] = f"astrid-gpu {session.headers['User-Agent']}"
    return session
