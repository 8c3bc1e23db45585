"""An HTTP server on loopback that answers from recordings, and misbehaves on purpose where it is told to.

A request that no route holds is remembered: the fixture `replay` fails the test for it.
"""

from __future__ import annotations

import email.utils
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class FakeClock:
    """Time that passes only when somebody sleeps or says so. Attributes `now`, `sleep`, ... as `limits.Clock` has."""

    def __init__(self):
        self.time, self.naps, self._lock = 1000.0, [], threading.Lock()
        self._read = threading.Event()

    def now(self):
        self._read.set()
        return self.time

    def wall(self):
        return 1.7e9 + self.time

    def sleep(self, seconds):
        with self._lock:
            self.time += seconds
            self.naps.append(seconds)

    def advance(self, seconds):
        with self._lock:
            self.time += seconds

    def advance_and_show(self, seconds):
        """Let time pass and wait until somebody has looked at the clock."""
        self._read.clear()
        self.advance(seconds)
        self._read.wait(1.0)

    def chance(self):
        return 0.5

    def date_in(self, seconds):
        """An HTTP date so many seconds from now."""
        return email.utils.formatdate(self.wall() + seconds, usegmt=True)


@dataclass
class Answer:
    """One answer.

    Parameters
    ----------
    body : bytes
    status : int
    headers : dict
    etag : str
        Sent, and compared with If-Range.
    ranges : bool
        Whether Range is obeyed.
    stop_after : int
        Bytes of the body after which the connection ends; -1 = all are sent.
    reset : bool
        It ends with a TCP reset instead of an orderly close.
    length : int
        Content-Length to claim; None = the truth, -1 = none (the connection's end is the file's end).
    drip : callable
        Called after each byte, which are sent one by one.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    etag: str = ""
    ranges: bool = True
    stop_after: int = -1
    reset: bool = False
    length: int | None = None
    drip: Callable[[], None] | None = None


@dataclass
class Request:
    """What was asked."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes


@dataclass
class Route:
    """Answers to a method and path, given in turn; the last one is given again and again."""

    method: str
    path: str
    answers: list[Answer]
    matches: Callable[[Request], bool]
    count: int = 0

    def next(self):
        answer = self.answers[min(self.count, len(self.answers) - 1)]
        self.count += 1
        return answer


class ReplayServer:
    """Serves on 127.0.0.1, port 0, in a thread. `url` is its address, `requests` what it was asked so far."""

    def __init__(self):
        self.routes: list[Route] = []
        self.requests: list[Request] = []
        self.unexpected: list[str] = []
        handler = type("Handler", (_Handler,), {"replay": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def add(
        self, path: str, *answers: Answer | bytes, method: str = "GET", when: Callable[[Request], Any] | None = None
    ) -> Route:
        """Answer requests to `path` (without the query) for which `when` holds."""
        given = [a if isinstance(a, Answer) else Answer(a) for a in answers]
        route = Route(method, path, given, lambda request: bool(when is None or when(request)))
        self.routes.append(route)
        return route

    def answer_to(self, request: Request) -> Answer:
        self.requests.append(request)
        for route in self.routes:
            if (route.method, route.path) == (request.method, request.path) and route.matches(request):
                return route.next()
        self.unexpected.append(f"{request.method} {request.path} {request.query} {request.body[:300]!r}")
        return Answer(b"the recording does not hold this request", status=404)

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class _Handler(BaseHTTPRequestHandler):
    replay: ReplayServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self._serve("GET")

    def do_POST(self):
        self._serve("POST")

    def _serve(self, method):
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(method, parts.path, parse_qs(parts.query, keep_blank_values=True), dict(self.headers), body)
        answer = self.replay.answer_to(request)
        try:
            self._send(answer, request)
        except OSError:  # the client went away, as some tests want
            self.close_connection = True

    def _send(self, answer, request):
        body, status, start = answer.body, answer.status, 0
        wanted = request.headers.get("Range", "")
        validator = request.headers.get("If-Range", answer.etag)
        if wanted and answer.ranges and status == 200 and validator == answer.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                status, body = 416, b""
            else:
                status, body = 206, body[start:]
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(answer.body) - 1}/{len(answer.body)}")
        if answer.etag:
            self.send_header("ETag", answer.etag)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        length = len(body) if answer.length is None else answer.length
        if length >= 0:
            self.send_header("Content-Length", str(length))
        if length != len(body) or answer.stop_after >= 0:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        end = len(body) if answer.stop_after < 0 else min(answer.stop_after, len(body))
        if answer.drip:
            for number in range(end):
                self.wfile.write(body[number : number + 1])
                self.wfile.flush()
                answer.drip()
        else:
            self.wfile.write(body[:end])
            self.wfile.flush()
        if answer.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
