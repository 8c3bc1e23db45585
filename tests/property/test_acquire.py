"""Whatever bytes a service sends, it ends in our own error or in a right file: no foreign traceback, no hang."""

from __future__ import annotations

import gzip
import io
import json
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

pytest.importorskip("astroquery", reason="acquisition needs the extra: pip install 'astrid-gpu[acquire]'")

import astrid_gpu as ag
from astrid_gpu.acquire import Client, Item, Policy, download, mast, ps1, skyview, tesscut
from astrid_gpu.acquire.content import CONTENTS, check_bytes, check_file, kind_of, words_of
from astrid_gpu.acquire.secrets import redact
from astrid_gpu.errors import AcquisitionError, AstridGpuError
from tests.integration.replay.recordings import recording
from tests.integration.replay.server import Answer, FakeClock, ReplayServer

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SLOW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def small_fits() -> bytes:
    from astropy.io import fits

    stream = io.BytesIO()
    pixels = np.arange(80, dtype=np.float32).reshape(8, 10)
    fits.HDUList([fits.PrimaryHDU(pixels), fits.CompImageHDU(pixels.astype(np.int16), name="MASK")]).writeto(stream)
    return stream.getvalue()


FITS = small_fits()


@st.composite
def damaged(draw, whole: bytes):
    """Bytes of a right file with some changed, cut out, or cut off."""
    content = bytearray(whole)
    for position, value in draw(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=6)):
        content[position] = value
    start = draw(st.integers(0, len(content)))
    del content[start : start + draw(st.sampled_from([0, 0, 0, 1, 80, 2880]))]
    end = draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    return bytes(content[:end])


NOISE = st.binary(max_size=600)
TEXTS = st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["status", "data", "fields", "msg", "results", "paging", "error"]), inner, max_size=4
        )
    ),
    max_leaves=8,
).map(lambda value: json.dumps(value).encode())
MARKUP = st.sampled_from(
    [b"<html><title>", b"<?xml version='1.0'?><VOTABLE>", b"<!DOCTYPE html>", b"<form action='x'>"]
)
ANYTHING = st.one_of(
    NOISE,
    TEXTS,
    JSON,
    st.tuples(MARKUP, NOISE).map(b"".join),
    st.binary(max_size=3000).map(lambda tail: b"SIMPLE  =" + tail),
    NOISE.map(gzip.compress),
    damaged(FITS),
    damaged(gzip.compress(FITS)),
)


@QUICK
@given(ANYTHING, st.sampled_from(CONTENTS))
def test_content_is_judged_in_words(body, wanted):
    assert isinstance(kind_of(body), str)
    assert len(words_of(body)) <= 300
    verdict = check_bytes(body, wanted)
    assert verdict is None or verdict.startswith("sent ")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        path.write_bytes(body)
        verdict = check_file(path, wanted)
        assert verdict is None or verdict.startswith("sent ")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(damaged(FITS))
def test_damaged_fits_is_read_or_refused_by_us(body):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.fits"
        path.write_bytes(body)
        verdict = check_file(path, "fits")
        try:
            image = ag.read_image(path)
        except AstridGpuError:
            return
        assert image.data.ndim == 2
        assert verdict is None, f"read although the check says: {verdict}"


@QUICK
@given(st.text(max_size=200))
def test_redaction_never_fails_and_is_done_once(text):
    assert redact(redact(text)) == redact(text)


@contextmanager
def service(*paths, body):
    """A server that answers everything with `body`, and a client that does not sleep."""
    server = ReplayServer()
    for path in paths:
        for method in ("GET", "POST"):
            server.add(path, Answer(body), method=method)
    try:
        yield server, Client(Policy(attempts=2, read_timeout=2.0, per_second=1e6), clock=FakeClock())
    finally:
        server.close()


def ends_well(server, action):
    """Return the error of an action, which can only be ours and names the address; None if there was none."""
    try:
        action()
    except AcquisitionError as error:
        said = str(error)
    else:
        return None
    assert server.url in said
    return said


@SLOW
@given(ANYTHING)
@example(FITS)
def test_download_is_whole_or_one_error(body):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASTRID_GPU_CACHE", f"{folder}/cache")
        path = Path(folder) / "a.fits"
        with service("/a.fits", body=body) as (server, client):
            error = ends_well(server, lambda: download(Item(f"{server.url}/a.fits", path), client=client))
        assert path.exists() == (error is None)
        if error is None:
            assert path.read_bytes() == body
            assert check_file(path, "fits") is None


@SLOW
@given(st.one_of(JSON, NOISE, TEXTS))
def test_json_is_parsed_or_one_error(body):
    with service("/a", body=body) as (server, client):
        ends_well(server, lambda: client.json(f"{server.url}/a"))


@SLOW
@given(ANYTHING)
def test_ps1_answers(body):
    with service("/cgi-bin/ps1filenames.py", body=body) as (server, client), pytest.MonkeyPatch.context() as patch:
        patch.setattr(ps1, "SERVER", server.url)
        with pytest.raises(AcquisitionError):
            ps1.search((10.0, 20.0), client=client)


@SLOW
@given(ANYTHING)
def test_mast_answers(body):
    from astroquery.mast import conf
    from astroquery.mast.discovery_portal import PortalAPI

    with service("/api/v0/invoke", "/tesscut/api/v0.1/sector", body=body) as (server, client):
        server.add(
            "/portal/Mashup/Mashup.asmx/columnsconfig", recording("astroquery/mast/columnsconfig.json"), method="POST"
        )
        with pytest.MonkeyPatch.context() as patch, conf.set_temp("server", server.url), conf.set_temp("timeout", 1):
            patch.setattr(PortalAPI, "_column_configs", {})
            for search in (mast.search, tesscut.search):
                ends_well(server, lambda search=search: search((10.0, 20.0), client=client))


@SLOW
@given(ANYTHING)
def test_skyview_answers(body):
    from astroquery.skyview import conf

    with service("/form", body=body) as (server, client), conf.set_temp("url", f"{server.url}/form"):
        assert ends_well(server, lambda: skyview.search((10.0, 20.0), surveys="SDSSr", client=client))
