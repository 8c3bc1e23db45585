"""Exposures streamed through slots: the same candidates as one by one, however late the device does its work.

The streams are the recording fake's (tests/cuda_host/runtime.py): eager ones do everything at once, lazy ones nothing
before somebody waits for it. Memory used again too early, or read too early, gives other candidates under one of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from astrid_gpu.backends.cuda.stream import Exposure, Found, SubtractionStream
from astrid_gpu.backends.cuda.zogy_maps import zogy_maps
from astrid_gpu.errors import DeviceMemoryError, InputError, ShapeMismatchError
from tests.cuda_host import emu
from tests.cuda_host import runtime as fake
from tests.cuda_host.problems import STREAM_SHAPE, exposures, given, problem
from tests.cuda_host.runtime import FakeOutOfMemoryError, RecordingRuntime

SHAPE = STREAM_SHAPE
THRESHOLD = 6.0


def setting(*, lazy: bool) -> tuple[Any, Any, Any]:
    """Return a context with fake streams and arrays that are no host's, and the problem of the reference on it."""
    b = emu.backend(on_device=True)
    b.context = emu.DeviceContext(runtime=RecordingRuntime(lazy=lazy))
    args = given("maps", np.random.default_rng(6), n=1, shape=SHAPE)
    args["science"] = np.zeros(SHAPE)
    args["variance_science"] = None
    checked, flags = problem(b, args)
    return b.context, checked, flags


def one_by_one(frames: list[Exposure], *, blanks: bool = False) -> list[tuple[np.ndarray, ...]]:
    """Return the peaks of each exposure, subtracted alone by the fused operation from floats."""
    b = emu.backend()
    found = []
    for e in frames:
        args = given("maps", np.random.default_rng(6), n=1, shape=SHAPE)
        flux = (e.zero + e.scale * e.pixels.astype(float)).astype(np.float32)
        bad = (e.pixels == e.blank) if blanks else np.zeros(SHAPE, bool)
        args |= {"science": np.where(bad, np.nan, flux), "sigma_science": e.sigma, "flux_science": e.flux}
        args["variance_science"] = e.sigma**2 + e.per_count * np.maximum(flux, 0).astype(float)
        maps = zogy_maps(b.context, *problem(b, args), {"score_corr", "difference"})
        _, y, x, value, _ = b.ops["find_peaks"](maps["score_corr"], np.array([THRESHOLD]), None, True)
        order = np.lexsort((y * SHAPE[1] + x, -np.abs(value)))
        found.append((y[order], x[order], value[order], maps["difference"][0]))
    return found


def assert_same(got: list[Found], wanted: list[tuple[np.ndarray, ...]]) -> None:
    assert [found.number for found in got] == list(range(len(wanted)))
    for found, (y, x, value, _) in zip(got, wanted, strict=True):
        assert len(y) >= 1
        np.testing.assert_array_equal(found.y, y)
        np.testing.assert_array_equal(found.x, x)
        np.testing.assert_allclose(found.score_corr, value, atol=1e-3)
        assert not found.truncated


@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
@pytest.mark.parametrize(("slots", "batch", "graph"), [(3, 2, False), (2, 1, True), (1, 3, False)])
def test_same_candidates_as_one_by_one(lazy, slots, batch, graph):
    frames = exposures(7)
    ctx, checked, flags = setting(lazy=lazy)
    stream = SubtractionStream(ctx, checked, flags, batch=batch, slots=slots, threshold=THRESHOLD, graph=graph)
    assert_same(list(stream.run(frames)), one_by_one(frames))
    assert_same(list(stream.run(iter(frames[:1]))), one_by_one(frames[:1]))  # the slots are free again


@pytest.mark.parametrize("dtype", ["<u2", ">i2", "<i4", ">i4"])
def test_integers_of_every_kind(dtype):
    frames = exposures(2, dtype)
    ctx, checked, flags = setting(lazy=True)
    kind = np.dtype(dtype).newbyteorder("=")
    stream = SubtractionStream(ctx, checked, flags, batch=2, dtype=kind, threshold=THRESHOLD)
    assert_same(list(stream.run(frames)), one_by_one(frames))


def test_pixels_without_data():
    frames = exposures(3, blank=65535)
    ctx, checked, flags = setting(lazy=True)
    stream = SubtractionStream(ctx, checked, flags, batch=2, threshold=THRESHOLD, blanks=True)
    assert_same(list(stream.run(frames)), one_by_one(frames, blanks=True))
    plain = SubtractionStream(ctx, checked, flags, batch=2)
    with pytest.raises(InputError, match="exposure 0 has a value for missing pixels; make the stream with blanks=True"):
        list(plain.run(frames))


def test_stamps_come_down_with_the_candidates():
    frames = exposures(3)
    ctx, checked, flags = setting(lazy=True)
    stream = SubtractionStream(ctx, checked, flags, batch=2, threshold=THRESHOLD, stamps=40, side=9)
    wanted = one_by_one(frames)
    got = list(stream.run(frames))
    assert_same(got, wanted)
    for found, frame, (y, x, _, difference) in zip(got, frames, wanted, strict=True):
        science = np.pad(frame.zero + frame.scale * frame.pixels, 4, constant_values=np.nan)
        d = np.pad(difference, 4, constant_values=np.nan)
        assert found.stamps.shape == (len(y), 3, 9, 9)
        for k in range(len(y)):
            cut = np.s_[y[k] : y[k] + 9, x[k] : x[k] + 9]
            np.testing.assert_allclose(found.stamps[k, 0], science[cut], rtol=1e-6)
            np.testing.assert_allclose(found.stamps[k, 2], d[cut], rtol=1e-4, atol=1e-3)
        assert np.isfinite(found.stamps[:, 1]).any()


def test_more_candidates_than_room_is_said():
    frames = exposures(2)
    ctx, checked, flags = setting(lazy=False)
    many = list(SubtractionStream(ctx, checked, flags, batch=2, threshold=1.0, room=5).run(frames))
    assert all(found.truncated for found in many)
    assert sum(len(found.y) for found in many) == 5
    few = list(SubtractionStream(ctx, checked, flags, batch=2, threshold=THRESHOLD, stamps=1).run(frames))
    assert all(found.truncated for found in few)
    assert sum(np.isnan(found.stamps).all(axis=(1, 2, 3)).sum() for found in few) == sum(len(f.y) for f in few) - 1


# ---- order -----------------------------------------------------------------------------------------------------------
def test_the_host_waits_only_when_it_needs_a_slot():
    """With three slots two batches are queued beyond the one whose results are awaited."""
    ctx, checked, flags = setting(lazy=True)
    stream = SubtractionStream(ctx, checked, flags, batch=1, slots=3, threshold=THRESHOLD)
    taken: list[int] = []

    def source() -> Any:
        for i, frame in enumerate(exposures(6)):
            taken.append(i)
            yield frame

    results = stream.run(source())
    next(results)
    assert taken == [0, 1, 2, 3], "the fourth waits for the slot of the first"
    assert stream._slots[0].downloaded.done
    assert not stream._slots[2].downloaded.done, "later batches are still under way"


def test_each_stage_waits_for_the_one_before():
    ctx, checked, flags = setting(lazy=False)
    stream = SubtractionStream(ctx, checked, flags, batch=1, slots=2, threshold=THRESHOLD)
    log = ctx.runtime.log
    log.clear()
    list(stream.run(exposures(3)))
    up, compute, down = (s.name for s in (stream._up, stream._compute, stream._down))
    order = [entry for entry in log if entry[0] in ("wait", "record")]
    first = [("record", up), ("wait", compute, up), ("record", compute), ("wait", down, compute), ("record", down)]
    assert order[:5] == first
    again = [("wait", up, compute), ("record", up), ("wait", compute, up), ("wait", compute, down)]
    assert order[10:14] == again, "a slot's buffers are not written before they were read"
    on = {name: {entry[2] for entry in log if entry[:2] == ("run", name)} for name in (up, compute, down)}
    assert on[up] == {"upload"}
    assert on[down] == {"download"}
    assert not {"upload", "download"} & on[compute]
    assert not any(entry[:2] == ("run", "default") for entry in log), "nothing runs on the default stream"


@pytest.mark.parametrize("lost", ["synchronize", "wait_event"])
def test_a_wait_left_out_would_be_seen(lost, monkeypatch):
    """The fake has teeth: without its events the candidates come out wrong, or the results are not there."""
    frames = exposures(5)
    wanted = one_by_one(frames)
    ctx, checked, flags = setting(lazy=True)
    stream = SubtractionStream(ctx, checked, flags, batch=1, slots=2, threshold=THRESHOLD)
    owner = fake.Event if lost == "synchronize" else fake.Stream
    monkeypatch.setattr(owner, lost, lambda *args: None)
    with pytest.raises(AssertionError):
        assert_same(list(stream.run(frames)), wanted)


# ---- refusals --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("frame", "error", "message"),
    [
        (
            np.zeros((46, 50), np.uint16),
            ShapeMismatchError,
            r"exposure 1 is uint16 \(46, 50\); the stream takes uint16 \(46",
        ),
        (np.zeros(SHAPE, np.int32), InputError, r"exposure 1 is int32 \(46, 52\); the stream takes uint16"),
    ],
)
def test_an_exposure_that_does_not_fit(frame, error, message):
    ctx, checked, flags = setting(lazy=False)
    stream = SubtractionStream(ctx, checked, flags, batch=2)
    with pytest.raises(error, match=message):
        list(stream.run([exposures(1)[0], Exposure(frame)]))


def test_floats_are_refused():
    ctx, checked, flags = setting(lazy=False)
    with pytest.raises(InputError, match=r"a stream takes int16, uint16 or int32 pixels .* got float32"):
        SubtractionStream(ctx, checked, flags, dtype=np.float32)


def test_a_full_device_is_our_error(monkeypatch):
    ctx, checked, flags = setting(lazy=False)

    def full(*args: Any) -> None:
        raise FakeOutOfMemoryError

    monkeypatch.setattr(ctx.runtime, "pinned", full)
    with pytest.raises(DeviceMemoryError, match=r"3 slots of a stream of images of \(46, 52\) do not fit"):
        SubtractionStream(ctx, checked, flags, batch=1)
