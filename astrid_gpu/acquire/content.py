"""What a service really sent: told by the bytes and not by the name or the status, and in its own words when it failed.

Archives answer 200 with an HTML page, a JSON error or a JPEG where FITS was asked for. Nothing of that gets a final
name.
"""

from __future__ import annotations

import html
import json
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

from astrid_gpu.acquire.secrets import redact

__all__ = ["CONTENTS", "check_bytes", "check_file", "kind_of", "words_of"]

CONTENTS = ("any", "fits", "zip", "json", "votable", "text", "picture", "avro", "tar")
"""What may be asked for; "any" takes whatever comes."""

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"SIMPLE  =", "fits"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF8", "gif"),
    (b"Obj\x01", "avro"),
    (b"%PDF", "pdf"),
)
_NAMES = {
    "html": "an HTML page", "json": "a JSON text", "votable": "a VOTable", "xml": "an XML text",
    "text": "plain text", "jpeg": "a JPEG picture", "png": "a PNG picture", "gif": "a GIF picture",
    "zip": "a zip archive", "gzip": "a gzip file", "bzip2": "a bzip2 file", "tar": "a tar archive",
    "fits": "a FITS file", "avro": "an Avro file", "pdf": "a PDF", "empty": "nothing (0 bytes)",
    "binary": "unknown binary data",
}  # fmt: skip
_ACCEPTED = {
    "fits": {"fits", "gzip", "bzip2"},
    "zip": {"zip"},
    "json": {"json"},
    "votable": {"votable"},
    "text": {"text", "json", "xml", "votable"},
    "picture": {"jpeg", "png", "gif"},
    "avro": {"avro", "gzip"},
    "tar": {"tar", "gzip", "bzip2"},
}

_DAMAGE = (ValueError, RecursionError, OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile)


def kind_of(head: bytes) -> str:
    """Name the kind of a file by its first kilobyte: fits, gzip, zip, html, json, votable, xml, jpeg, text, ..."""
    if not head:
        return "empty"
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[257:262] == b"ustar":
        return "tar"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1024]
    low = text.lower()
    if low.startswith((b"<!doctype html", b"<html")) or re.match(rb"<(head|body|title|!--)", low):
        return "html"
    if low.startswith((b"<?xml", b"<votable")):
        return "votable" if b"<votable" in low or b":votable" in low else "html" if b"<html" in low else "xml"
    if text[:1] in (b"{", b"["):
        return "json"
    sample = head[:512]
    control = sum(byte < 9 or 13 < byte < 32 or byte == 127 for byte in sample)
    return "binary" if control else "text"


def words_of(body: bytes, limit: int = 300) -> str:
    """Return what a failing service says in an answer: the message of a JSON, HTML, VOTable or plain text, short."""
    kind = kind_of(body[:1024])
    text = body[:200_000].decode("utf-8", "replace")
    if kind in ("empty", "binary", "fits", "jpeg", "png", "gif", "zip", "gzip", "bzip2", "avro", "tar", "pdf"):
        return f"({_NAMES[kind]})"
    if kind == "json":
        text = _json_words(text)
    elif kind in ("votable", "xml"):
        found = re.search(r"(?is)<info\b[^>]*query_status[^>]*value=.error[^>]*>(.*?)</info>", text)
        text = _plain(found[1] if found else text)
    elif kind == "html":
        text = _html_words(text)
    text = " ".join(text.split())
    return redact(text if len(text) <= limit else text[: limit - 3].rstrip() + "...")


def _json_words(text: str) -> str:
    """Return the message of a JSON error, or the text itself."""
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return text
    for _ in range(4):
        if not isinstance(found, dict):
            break
        keys = ("msg", "message", "error_description", "error", "errors", "detail", "details", "title", "reason")
        known = [found[key] for key in keys if found.get(key)]
        if not known:
            return text
        found = known[0]
    return found if isinstance(found, str) else json.dumps(found)


def _html_words(text: str) -> str:
    """Return title and text of a page."""
    title = re.search(r"(?is)<title[^>]*>(.*?)</title>", text)
    body = re.sub(r"(?is)<(script|style|head)\b.*?</\1>", " ", text)
    said, heading = _plain(body), _plain(title[1]) if title else ""
    return said if not heading or said.startswith(heading) else f"{heading}: {said}"


def _plain(text: str) -> str:
    """Return a marked-up text without its tags."""
    return " ".join(html.unescape(re.sub(r"(?s)<!--.*?-->|<[^>]*>", " ", text)).split())


def check_bytes(head: bytes, wanted: str) -> str | None:
    """Return None if an answer that begins with `head` can be `wanted`, else what it is instead, in words."""
    if wanted == "any" and head:
        return None
    kind = kind_of(head[:1024])
    if kind in _ACCEPTED.get(wanted, ()):
        return None
    said = words_of(head)
    quoted = "" if said.startswith("(") else f": {said!r}"
    asked = {"picture": "a picture", "any": "some content"}.get(wanted) or _NAMES.get(wanted, wanted)
    return f"sent {_NAMES[kind]} where {asked} was asked for{quoted}"


def check_file(path: Path, wanted: str) -> str | None:
    """Return None if the whole file is sound `wanted`, else what is wrong with it, in words.

    FITS is opened and its extensions are read to their ends, zip archives are tested member by member and must hold
    FITS, gzip and bzip2 are unpacked, JSON is parsed.
    """
    with path.open("rb") as stream:
        wrong = check_bytes(stream.read(4096), wanted)
    if wrong:
        return wrong
    try:
        return _check_whole(path, wanted)
    except (
        ValueError,
        RecursionError,
        OSError,
        EOFError,
        zlib.error,
        zipfile.BadZipFile,
        NotImplementedError,
    ) as error:
        return f"sent something that is not {_NAMES.get(wanted, wanted)} ({str(error) or type(error).__name__})"


def _check_whole(path: Path, wanted: str) -> str | None:
    """Return what is wrong in the inside of a file, or raise about it."""
    if wanted == "fits":
        from astrid_gpu.io import check_fits

        check_fits(path)
    elif wanted == "zip":
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
            if bad is not None:
                return f"sent a zip archive whose member {bad} is damaged"
            heads = [archive.open(info).read(16) for info in archive.infolist() if not info.is_dir()]
        if not any(kind_of(head) in _ACCEPTED["fits"] for head in heads):
            return f"sent a zip archive without a FITS file in it ({len(heads)} members)"
    elif wanted == "json":
        json.loads(path.read_bytes())
    return None
