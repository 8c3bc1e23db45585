"""The download core against a server that does everything wrong that archives do.

Each case ends in the right bytes under the final name, or in one clear error with nothing under it.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import subprocess
import sys
import zipfile

import pytest

from astrid_gpu.acquire import Item, Policy, download, download_all
from astrid_gpu.acquire.cache import Entry
from astrid_gpu.errors import AcquisitionError
from tests.integration.replay.server import Answer
from tests.layout.source_tree import ROOT

HTML = b"<!DOCTYPE html><html><head><title>Service unavailable</title></head><body>Down for the night</body></html>"
JPEG = b"\xff\xd8\xff\xe0" + bytes(3000)


def fetch(replay, client, folder, name="a.fits", **options):
    return download(Item(f"{replay.url}/{name}", folder / name, **options), client=client)


def refused(replay, client, folder, name="a.fits", **options):
    """Fetch, expecting one error that names the address, and nothing left behind."""
    with pytest.raises(AcquisitionError) as caught:
        fetch(replay, client, folder, name, **options)
    assert f"{replay.url}/{name}" in str(caught.value)
    assert not (folder / name).exists()
    assert not [path for path in folder.glob(".*") if path.is_file()]
    return str(caught.value)


def parts(cache):
    return list(cache.rglob("*.part"))


def test_whole_file_arrives(replay, client, tmp_path, fits_bytes):
    replay.add("/a.fits", fits_bytes)
    assert fetch(replay, client, tmp_path).read_bytes() == fits_bytes
    assert not client.clock.naps


def test_second_call_comes_from_the_cache(replay, client, tmp_path, fits_bytes):
    replay.add("/a.fits", fits_bytes)
    fetch(replay, client, tmp_path)
    states = []
    again = download(
        Item(f"{replay.url}/a.fits", tmp_path / "b.fits"), client=client, progress=lambda p: states.append(p.state)
    )
    assert again.read_bytes() == fits_bytes
    assert len(replay.requests) == 1
    assert states == ["cached"]


def test_damaged_cache_entry_is_fetched_again(replay, client, tmp_path, cache, fits_bytes):
    replay.add("/a.fits", fits_bytes)
    fetch(replay, client, tmp_path)
    entry = Entry(f"{replay.url}/a.fits", cache)
    spoilt = bytearray(entry.file.read_bytes())
    spoilt[5000] ^= 1
    entry.file.write_bytes(spoilt)
    assert fetch(replay, client, tmp_path).read_bytes() == fits_bytes
    assert len(replay.requests) == 2


def test_refresh_asks_again_and_a_failure_keeps_what_there_was(replay, client, tmp_path, fits_bytes):
    replay.add("/a.fits", fits_bytes, Answer(b"gone", status=404))
    path = fetch(replay, client, tmp_path)
    with pytest.raises(AcquisitionError, match="404"):
        download(Item(f"{replay.url}/a.fits", path), client=client, refresh=True)
    assert path.read_bytes() == fits_bytes
    assert fetch(replay, client, tmp_path).read_bytes() == fits_bytes  # still in the cache


def test_cache_off_keeps_nothing(replay, client, tmp_path, monkeypatch, fits_bytes):
    monkeypatch.setenv("ASTRID_GPU_CACHE", "off")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    replay.add("/a.fits", fits_bytes)
    for _ in range(2):
        assert fetch(replay, client, tmp_path).read_bytes() == fits_bytes
    assert len(replay.requests) == 2
    assert not [path for path in (tmp_path / "xdg").rglob("*") if path.is_file() and path.stat().st_size]


def test_429_waits_as_long_as_retry_after_says(replay, client, clock, tmp_path, fits_bytes):
    replay.add("/a.fits", Answer(b"slow down", status=429, headers={"Retry-After": "17"}), fits_bytes)
    before = clock.now()
    assert fetch(replay, client, tmp_path).read_bytes() == fits_bytes
    assert 17 <= clock.now() - before < 19


def test_retry_after_may_be_a_date(replay, client, clock, tmp_path, fits_bytes):
    replay.add("/a.fits", Answer(status=503, headers={"Retry-After": clock.date_in(40)}), fits_bytes)
    before = clock.now()
    fetch(replay, client, tmp_path)
    assert 38 <= clock.now() - before <= 42


def test_retry_after_of_an_hour_is_an_error_that_says_so(replay, client, clock, tmp_path):
    replay.add("/a.fits", Answer(b"quota used up", status=429, headers={"Retry-After": "3600"}))
    said = refused(replay, client, tmp_path)
    assert "3600 s" in said
    assert "quota used up" in said
    assert not clock.naps


def test_500s_then_success_waits_longer_each_time(replay, client, clock, tmp_path, fits_bytes):
    replay.add("/a.fits", Answer(status=500), Answer(status=502), Answer(status=503), fits_bytes)
    assert fetch(replay, client, tmp_path).read_bytes() == fits_bytes
    waits = [nap for nap in clock.naps if nap >= 0.5]
    assert waits == pytest.approx([0.75, 1.5, 3.0])  # 1, 2, 4 s times 0.5 + 0.5 * chance, chance = 0.5


def test_500s_for_ever_end_with_the_services_words(replay, client, tmp_path):
    replay.add("/a.fits", Answer(json.dumps({"error": {"message": "disk array offline"}}).encode(), status=500))
    said = refused(replay, client, tmp_path)
    assert "disk array offline" in said
    assert "4 attempts" in said
    assert len(replay.requests) == 4


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_refusal_is_not_repeated(replay, client, tmp_path, status):
    replay.add("/a.fits", Answer(HTML, status=status))
    said = refused(replay, client, tmp_path)
    assert str(status) in said
    assert "Down for the night" in said
    assert len(replay.requests) == 1


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
def test_transfer_that_breaks_off_is_resumed(replay, client, tmp_path, fits_bytes, reset):
    broken = Answer(fits_bytes, etag='"v1"', stop_after=120_000, reset=reset)
    replay.add("/a.fits", broken, Answer(fits_bytes, etag='"v1"'))
    assert fetch(replay, client, tmp_path).read_bytes() == fits_bytes
    second = replay.requests[1].headers
    assert second["If-Range"] == '"v1"'
    # after a reset the kernel may throw away what had arrived unread, so less than 120 000 may be here
    assert 0 < int(second["Range"].removeprefix("bytes=").removesuffix("-")) <= 120_000


def test_next_call_resumes_what_an_earlier_one_left(replay, client, tmp_path, cache, fits_bytes):
    # the attempt that brought 90 kB does not count, then four bring nothing
    lengths = (90_000, 0, 0, 0, 0)
    replay.add("/a.fits", *[Answer(fits_bytes, etag='"v1"', stop_after=n) for n in lengths],
               Answer(fits_bytes, etag='"v1"'))  # fmt: skip
    said = refused(replay, client, tmp_path)
    assert f"90000 of {len(fits_bytes)} bytes are here" in said
    (part,) = parts(cache)
    assert part.stat().st_size == 90_000
    assert fetch(replay, client, tmp_path).read_bytes() == fits_bytes
    assert replay.requests[-1].headers["Range"] == "bytes=90000-"
    assert not parts(cache)


def test_file_that_changed_meanwhile_is_not_joined(replay, client, tmp_path, fits_bytes):
    other = fits_bytes[:5760] + bytes(len(fits_bytes) - 5760)
    replay.add("/a.fits", Answer(fits_bytes, etag='"v1"', stop_after=90_000), Answer(other, etag='"v2"'))
    assert fetch(replay, client, tmp_path).read_bytes() == other


def test_server_without_ranges_starts_again(replay, client, tmp_path, fits_bytes):
    replay.add("/a.fits", Answer(fits_bytes, stop_after=90_000, ranges=False), Answer(fits_bytes, ranges=False))
    assert fetch(replay, client, tmp_path).read_bytes() == fits_bytes


def test_server_without_ranges_that_always_breaks_ends(replay, client, tmp_path, fits_bytes):
    replay.add("/a.fits", Answer(fits_bytes, stop_after=90_000, ranges=False))
    assert "ended early" in refused(replay, client, tmp_path)
    assert len(replay.requests) <= 5


def test_body_shorter_than_its_length_is_not_taken(replay, client, tmp_path, fits_bytes):
    replay.add("/a.fits", Answer(fits_bytes, length=len(fits_bytes) + 2880, ranges=False))
    assert f"{len(fits_bytes)} of {len(fits_bytes) + 2880} bytes are here" in refused(replay, client, tmp_path)


def test_truncated_body_without_a_length_is_not_taken(replay, client, tmp_path, fits_bytes):
    replay.add("/a.fits", Answer(fits_bytes[:100_000], length=-1))
    assert "truncated" in refused(replay, client, tmp_path)


def test_length_shorter_than_the_body_is_not_taken(replay, client, tmp_path, fits_bytes):
    replay.add("/a.fits", Answer(fits_bytes, length=100_000))
    assert "truncated" in refused(replay, client, tmp_path)


def test_size_of_the_catalogue_is_checked(replay, client, tmp_path, fits_bytes):
    replay.add("/a.fits", fits_bytes)
    assert "its catalogue says 99 bytes" in refused(replay, client, tmp_path, size=99)


def test_checksum_is_checked(replay, client, tmp_path, fits_bytes):
    import hashlib

    right = hashlib.md5(fits_bytes).hexdigest()
    wrong = fits_bytes[:-1] + b"x"
    replay.add("/a.fits", wrong, fits_bytes)
    assert fetch(replay, client, tmp_path, checksum=f"md5:{right}").read_bytes() == fits_bytes
    replay.add("/b.fits", wrong)
    assert right in refused(replay, client, tmp_path, "b.fits", checksum=f"md5:{right}")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (HTML, ["an HTML page", "Service unavailable", "Down for the night"]),
        (b'{"status": "ERROR", "msg": "No data found at this position."}', ["a JSON text", "No data found at this"]),
        (JPEG, ["a JPEG picture"]),
        (b"Error: no file at this position", ["plain text", "no file at this position"]),
        (b"", ["0 bytes"]),
        (gzip.compress(b"not FITS at all" * 100), ["not a FITS file"]),
        (gzip.compress(b"SIMPLE  =")[:-5], ["not a FITS file", "damaged or cut short"]),
    ],
    ids=["html", "json", "jpeg", "text", "empty", "gzip of text", "cut gzip"],
)
def test_something_else_with_status_200(replay, client, tmp_path, cache, body, words):
    replay.add("/a.fits", Answer(body))
    said = refused(replay, client, tmp_path)
    assert all(word in said for word in words), said
    assert not parts(cache)


def test_zip_without_fits(replay, client, tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("README.txt", "no sector covers this position")
    replay.add("/a.zip", stream.getvalue())
    assert "without a FITS file" in refused(replay, client, tmp_path, "a.zip", wanted="zip")


def test_damaged_zip(replay, client, tmp_path, fits_bytes):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.fits", fits_bytes)
    spoilt = bytearray(stream.getvalue())
    spoilt[50_000] ^= 1
    replay.add("/a.zip", bytes(spoilt))
    assert "damaged" in refused(replay, client, tmp_path, "a.zip", wanted="zip")


def test_slow_drip_is_cut_off(replay, client, clock, tmp_path, fits_bytes):
    """One byte in ten seconds never meets the read time-out; the stall time-out ends it."""
    replay.add("/a.fits", Answer(fits_bytes, drip=lambda: clock.advance_and_show(10.0)))
    assert "stalled" in refused(replay, client, tmp_path)
    assert clock.now() < 1000 + 4 * 60 + 30  # four attempts of little more than the stall time-out, and waits


def test_silence_meets_the_read_timeout(replay, clock, cache, tmp_path, fits_bytes):
    import threading

    from astrid_gpu.acquire import Client

    quiet = threading.Event()
    client = Client(Policy(attempts=2, read_timeout=0.1), clock=clock)
    replay.add("/a.fits", Answer(fits_bytes, drip=quiet.wait))
    said = refused(replay, client, tmp_path)
    quiet.set()
    assert "no byte came for 0.1 s" in said


def test_nobody_listens(client, tmp_path):
    with pytest.raises(AcquisitionError, match=r"connection failed.*4 attempts"):
        download(Item("http://127.0.0.1:9/a.fits", tmp_path / "a.fits"), client=client)


@pytest.mark.parametrize("address", ["no address", "ftp://127.0.0.1/a.fits", "http://", "http://[::1"])
def test_impossible_address(client, tmp_path, address):
    with pytest.raises(AcquisitionError):
        download(Item(address, tmp_path / "a.fits"), client=client)


def test_many_files_one_of_them_broken(replay, client, tmp_path, fits_bytes):
    items = []
    for number in range(8):
        replay.add(f"/{number}.fits", Answer(HTML) if number == 3 else Answer(fits_bytes + bytes(2880 * number)))
        items.append(Item(f"{replay.url}/{number}.fits", tmp_path / f"{number}.fits"))
    outcomes = download_all(items, client=client)
    assert [type(outcome).__name__ for outcome in outcomes].count("AcquisitionError") == 1
    assert "3.fits" in str(outcomes[3])
    assert all(outcomes[n].stat().st_size == len(fits_bytes) + 2880 * n for n in range(8) if n != 3)


def test_requests_to_one_host_are_spaced(replay, client, clock, tmp_path, fits_bytes):
    items = []
    for number in range(6):
        replay.add(f"/{number}.fits", fits_bytes)
        items.append(Item(f"{replay.url}/{number}.fits", tmp_path / f"{number}.fits"))
    before = clock.now()
    download_all(items, client=client)
    assert clock.now() - before >= 5 / client.policy.per_second


def test_full_disk_while_writing(replay, client, tmp_path, cache, fits_bytes):
    """The process may write files of 64 kB only: the write fails with EFBIG as it does with ENOSPC."""
    replay.add("/a.fits", fits_bytes)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, limits[1]))
    try:
        said = refused(replay, client, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "no room on the disk" in said
    assert "ASTRID_GPU_CACHE" in said
    assert not parts(cache)
    assert fetch(replay, client, tmp_path).read_bytes() == fits_bytes  # when there is room again


def test_full_disk_is_seen_before_the_transfer(replay, client, tmp_path, monkeypatch, fits_bytes):
    from types import SimpleNamespace

    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    replay.add("/a.fits", fits_bytes)
    assert "0.2 MB to come, 0.0 MB free" in refused(replay, client, tmp_path)


def test_full_disk_at_the_last_step_keeps_the_cache(replay, client, tmp_path, monkeypatch, fits_bytes):
    def full(*_):
        raise OSError(28, os.strerror(28))

    replay.add("/a.fits", fits_bytes)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfile", full)
        assert "no room on the disk" in refused(replay, client, tmp_path)
    assert fetch(replay, client, tmp_path).read_bytes() == fits_bytes
    assert len(replay.requests) == 1


def test_cache_that_cannot_be_written(replay, client, tmp_path, cache, fits_bytes):
    cache.write_text("a file where the folder should be")
    replay.add("/a.fits", fits_bytes)
    assert "cannot be written" in refused(replay, client, tmp_path)


def test_two_processes_fetch_the_same_file_once(replay, tmp_path, cache, fits_bytes):
    code = (
        "import sys; from pathlib import Path; from astrid_gpu.acquire import Item, download\n"
        "sys.stdin.readline()\n"
        "download(Item(sys.argv[1], Path(sys.argv[2])))"
    )
    replay.add("/a.fits", fits_bytes)
    address = f"{replay.url}/a.fits"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, address, str(tmp_path / f"{n}.fits")],
            cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for n in range(2)
    ]  # fmt: skip
    for process in running:
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in running:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said.decode()
    assert all((tmp_path / f"{n}.fits").read_bytes() == fits_bytes for n in range(2))
    assert len(replay.requests) == 1


def test_secrets_are_in_no_error_log_or_cache(replay, client, tmp_path, cache, monkeypatch, caplog):
    from astrid_gpu.acquire.secrets import authorization

    monkeypatch.setenv("SOME_TOKEN", "hushhush-4711")
    replay.add("/a.fits", Answer(b"the token hushhush-4711 is not valid", status=503))
    address = f"{replay.url}/a.fits?token=very-secret&size=3".replace("http://", "http://me:mine@")
    with caplog.at_level("DEBUG", logger="astrid_gpu"), pytest.raises(AcquisitionError) as caught:
        download(Item(address, tmp_path / "a.fits", auth=authorization("SOME_TOKEN")), client=client)
    assert replay.requests[0].headers["Authorization"] == "Bearer hushhush-4711"
    written = "".join(path.read_text() for path in cache.rglob("*.json"))
    for text in (str(caught.value), caught.value.url, repr(caught.value), caplog.text, written):
        assert "hushhush" not in text
        assert "very-secret" not in text
        assert "mine" not in text
    assert "size=3" in str(caught.value)
    assert caught.value.__cause__ is None


def test_authorization_is_dropped_at_another_host_and_netrc_is_not_read(
    replay, client, tmp_path, monkeypatch, fits_bytes
):
    """A service that sends on to a store with a signed address: neither token nor signature gets about."""
    from astrid_gpu.acquire.secrets import authorization

    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login me password mine\nmachine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("SOME_TOKEN", "hushhush-4711")
    elsewhere = replay.url.replace("127.0.0.1", "localhost") + "/store.fits?X-Amz-Signature=abcdef0123"
    replay.add("/a.fits", Answer(status=302, headers={"Location": elsewhere}))
    replay.add("/store.fits", fits_bytes, Answer(b"Expired", status=403))
    fetch(replay, client, tmp_path, auth=authorization("SOME_TOKEN"))
    assert replay.requests[0].headers["Authorization"] == "Bearer hushhush-4711"
    assert "Authorization" not in replay.requests[1].headers
    with pytest.raises(AcquisitionError, match="Expired") as caught:
        download(Item(f"{replay.url}/a.fits", tmp_path / "b.fits"), client=client, refresh=True)
    assert "abcdef0123" not in str(caught.value)
    assert "Authorization" not in replay.requests[2].headers


def test_error_page_that_drips_is_cut_off(replay, client, clock, tmp_path):
    """An explanation that comes a byte in ten seconds is not waited for to its end."""
    replay.add("/a.fits", Answer(b"x" * 5000, status=404, drip=lambda: clock.advance_and_show(10.0)))
    assert "404" in refused(replay, client, tmp_path)
    assert clock.now() < 1000 + 120


def test_interrupt_ends_downloads_at_once_and_keeps_their_bytes(replay, cache, tmp_path, fits_bytes):
    """Ctrl-C while one file drips and another waits out a Retry-After of a minute."""
    import signal
    import threading
    import time

    from astrid_gpu.acquire import Client

    quiet = threading.Event()
    replay.add("/a.fits", Answer(fits_bytes, drip=lambda: quiet.wait(0.01)))
    replay.add("/b.fits", Answer(status=429, headers={"Retry-After": "60"}))
    other = replay.url.replace("127.0.0.1", "localhost")  # a Retry-After holds back its own host alone
    addresses = (f"{replay.url}/a.fits", f"{other}/b.fits")
    items = [Item(address, tmp_path / address.rsplit("/", 1)[-1]) for address in addresses]
    seen = threading.Event()

    def interrupt(progress):
        if progress.received > 0 and not seen.is_set():
            seen.set()
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            download_all(items, client=Client(), progress=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 20
    quiet.set()
    assert not list(tmp_path.glob("*.fits"))
    (part,) = parts(cache)
    assert part.stat().st_size > 0
