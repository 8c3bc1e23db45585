"""Bytes off the wire, and the words for what can go wrong with them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from astrid_gpu.acquire.limits import Clock, Policy
from astrid_gpu.acquire.secrets import redact
from astrid_gpu.errors import AcquisitionError

__all__ = ["Fault", "Stopped", "decoded", "failure", "network_words", "read_blocks", "read_body"]

_BLOCK = 1 << 16


class Fault(Exception):  # noqa: N818  (an attempt that failed is no error yet)
    """One attempt failed in a way that another may not.

    `wait` is what the service asked for, in seconds; `progressed` says that the attempt brought a good part of a file
    nevertheless and is not to be counted.
    """

    def __init__(
        self, reason: str, *, status: int | None = None, wait: float | None = None, progressed: bool = False
    ) -> None:
        super().__init__(reason)
        self.reason, self.status, self.wait, self.progressed = reason, status, wait, progressed


class Stopped(Exception):  # noqa: N818
    """The user wants no more."""


def failure(url: str, reason: object, *, service: str = "", status: int | None = None) -> AcquisitionError:
    """Return the error about `url`: service, reason and address, secrets removed."""
    address = redact(url)
    try:
        who = service or urlsplit(address).hostname or "the service"
    except ValueError:
        who = "the service"
    return AcquisitionError(f"{who}: {redact(reason)} [{address}]", url=address, status=status)


def network_words(error: Exception) -> str:
    """Return why a connection failed, without the layers of libraries around it."""
    import requests

    if isinstance(error, requests.exceptions.ConnectTimeout):
        return "no connection within the time-out"
    if isinstance(error, requests.Timeout) or "timed out" in str(error).lower():
        return "no answer within the time-out"
    inner: Any = error.args[0] if error.args else error
    inner = getattr(inner, "reason", None) or inner
    said = str(inner)
    said = said.split(": ", 1)[1] if said.startswith(("<", "HTTPConnection", "HTTPSConnection")) else said
    return redact(f"the connection failed ({said or type(error).__name__})")


def read_blocks(answer: Any, policy: Policy, clock: Clock) -> Iterator[bytes]:
    """Yield the bytes of a streamed answer as they come, undecoded; a slow drip or a break is a `Fault`."""
    import urllib3

    window_start, window_bytes = clock.now(), 0
    while True:
        try:
            block = answer.raw.read1(_BLOCK)
        except urllib3.exceptions.ReadTimeoutError:
            msg = f"no byte came for {policy.read_timeout:g} s"
            raise Fault(msg) from None
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if "IncompleteRead" in str(error):
                msg = "the connection ended early"
                raise Fault(msg) from None
            msg = f"the transfer broke off ({redact(error)})"
            raise Fault(msg) from None
        if not block:
            return
        yield block
        window_bytes += len(block)
        passed = clock.now() - window_start
        if passed >= policy.stall_timeout:
            if window_bytes < policy.least_rate * passed:
                msg = f"the transfer stalled: {window_bytes} bytes in {passed:.0f} s"
                raise Fault(msg)
            window_start, window_bytes = clock.now(), 0


def read_body(answer: Any, policy: Policy, clock: Clock, service: str) -> None:
    """Read the whole body of an answer into memory, its promised length checked, and decode it."""
    blocks, total = [], 0
    for block in read_blocks(answer, policy, clock):
        blocks.append(block)
        total += len(block)
        if total > policy.largest_answer:
            msg = f"the answer is larger than Policy(largest_answer={policy.largest_answer}) bytes; ask for less"
            raise failure(answer.url, msg, service=service)
    promised = answer.headers.get("Content-Length", "")
    if promised.isdigit() and int(promised) > total:
        msg = f"the answer broke off: {total} of {promised} bytes came"
        raise Fault(msg)
    body = decoded(answer, b"".join(blocks), policy.largest_answer)
    if body is None:
        msg = "the answer cannot be unpacked"
        raise failure(answer.url, msg, service=service)
    answer.raw.release_conn()
    answer._content, answer._content_consumed, answer.raw = body, True, _Body(body)


class _Body(io.BytesIO):
    """A body that has arrived, for libraries that read `Response.raw`: pyvo gives it to the VOTable parser."""

    def read(self, size: int | None = -1, decode_content: bool = False) -> bytes:
        return super().read(size)

    def release_conn(self) -> None:
        """Do nothing: the connection was given back already."""


def decoded(answer: Any, body: bytes, largest: int) -> bytes | None:
    """Return a body without its Content-Encoding, as far as it came; None if it is damaged."""
    encoding = answer.headers.get("Content-Encoding", "").lower()
    if encoding not in ("gzip", "x-gzip", "deflate"):
        return body
    import zlib

    try:
        return zlib.decompressobj(47 if "gzip" in encoding else 15).decompress(body, largest)
    except zlib.error:
        return None
