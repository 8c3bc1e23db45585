"""`zogy_stream`: the same peaks on every backend, through the device's stream and without one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.backends.cuda import cuda_ops
from astrid_gpu.engine.stream import Exposure
from astrid_gpu.errors import InputError, PsfError, ShapeMismatchError
from tests.cuda_host import emu
from tests.cuda_host.problems import STREAM_SHAPE, exposures, given
from tests.cuda_host.runtime import RecordingRuntime

OPTIONS: dict[str, Any] = {"threshold": 6.0, "astrometric_error": (0.1, 0.2), "flux_ratio_error": 0.02}


def device(*, lazy: bool) -> Any:
    """Return the emulated device with streams that are eager, or do nothing before somebody waits."""
    b = emu.backend(on_device=True)
    b.context = emu.DeviceContext(runtime=RecordingRuntime(lazy=lazy))
    b.ops = cuda_ops(b.context)
    return b


def arguments(**changes: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args = given("maps", np.random.default_rng(6), n=1, shape=STREAM_SHAPE)
    mask = np.zeros(STREAM_SHAPE, bool)
    mask[40:42, 10:13] = True
    known = args["reference"][0].astype(np.float32), args["psf_science"], args["psf_reference"], 3.0
    return known, OPTIONS | {"variance_reference": args["variance_reference"][0], "mask": mask} | changes


def one_by_one(frames: list[Exposure]) -> list[np.ndarray]:
    """Return the peaks of each exposure by `zogy` in double precision, brightest first."""
    known, options = arguments()
    threshold, found = options.pop("threshold"), []
    for e in frames:
        flux = e.zero + e.scale * e.pixels.astype(float)
        variance = e.sigma**2 + e.per_count * np.maximum(flux, 0)
        if e.blank is not None:
            flux[e.pixels == e.blank] = np.nan
        given_ = {"sigma_science": e.sigma, "flux_science": e.flux, "variance_science": variance}
        diff = ag.zogy(flux, *known[:3], sigma_reference=3.0, backend="numpy", **given_, **options)
        peaks = ag.find_peaks(diff.score_corr, threshold, polarity="both", backend="numpy")
        found.append(peaks[np.argsort(-np.abs(peaks["value"]))])
    return found


def assert_same(got: list[Any], wanted: list[np.ndarray]) -> None:
    assert [found.number for found in got] == list(range(len(wanted)))
    for found, peaks in zip(got, wanted, strict=True):
        assert len(peaks) >= 1
        np.testing.assert_array_equal(found.y, peaks["y"])
        np.testing.assert_array_equal(found.x, peaks["x"])
        np.testing.assert_allclose(found.score_corr, peaks["value"], atol=1e-3)
        assert not found.truncated
        assert not found.tied.any()


@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
@pytest.mark.parametrize("blank", [None, 65535])
def test_on_a_device(lazy, blank):
    frames = exposures(5, blank=blank)
    known, options = arguments()
    b = device(lazy=lazy)
    assert_same(list(ag.zogy_stream(iter(frames), *known, **options, backend=b, batch=2)), one_by_one(frames))
    moved = {entry[2] for entry in b.context.runtime.log if entry[0] == "run"}
    assert {"upload", "download", "gather_peaks"} - moved == {"gather_peaks"}


@pytest.mark.parametrize("batch", [None, 1, 3])
@pytest.mark.parametrize("blank", [None, 65535])
def test_on_the_host(backend, batch, blank):
    frames = exposures(5, blank=blank)
    known, options = arguments()
    assert_same(list(ag.zogy_stream(frames, *known, **options, backend=backend, batch=batch)), one_by_one(frames))


def test_stamps_are_those_of_the_device():
    frames = exposures(3)
    known, options = arguments(stamps=40, size=9)
    here = list(ag.zogy_stream(frames, *known, **options, backend="numpy"))
    there = list(ag.zogy_stream(frames, *known, **options, backend=device(lazy=True), batch=2))
    for a, b in zip(here, there, strict=True):
        assert a.stamps.shape == b.stamps.shape == (len(a.y), 3, 9, 9)
        np.testing.assert_allclose(a.stamps[:, :2], b.stamps[:, :2], rtol=1e-6)
        # Where both PSFs have vanished single precision knows nothing of D: white noise of a fortieth of D's own.
        error = a.stamps[:, 2] - b.stamps[:, 2]
        assert np.nanstd(error) < 0.05 * 5.0
        assert np.nanmax(abs(a.stamps[:, 2])) > 50 * 5.0
    few = list(ag.zogy_stream(frames, *known, **options | {"stamps": 1}, backend="numpy"))
    assert all(found.truncated for found in few)
    assert sum(np.isfinite(found.stamps).any(axis=(1, 2, 3)).sum() for found in few) == 1


@pytest.mark.parametrize("kind", ["<u2", ">i2", "<i4"])
def test_integers_as_they_lie_in_files(kind):
    frames = exposures(2, kind)
    known, options = arguments()
    assert_same(list(ag.zogy_stream(frames, *known, **options, backend="numpy")), one_by_one(frames))


def test_no_exposure_no_result():
    known, options = arguments()
    assert list(ag.zogy_stream([], *known, **options)) == []


def test_exposures_are_taken_as_they_are_needed():
    known, options = arguments()
    taken = []
    source = (taken.append(i) or frame for i, frame in enumerate(exposures(6)))
    results = ag.zogy_stream(source, *known, **options, backend="numpy", batch=2)
    next(results)
    assert len(taken) == 2


def test_what_is_refused():
    known, options = arguments()
    frame = exposures(1)[0]
    with pytest.raises(InputError, match=r"a stream takes int16, uint16, int32 pixels .* got float64; use zogy"):
        ag.zogy_stream([replace(frame, pixels=frame.pixels.astype(float))], *known, **options)
    with pytest.raises(InputError, match="'positive' peaks or 'both'"):
        ag.zogy_stream([frame], *known, **options | {"polarity": "negative"})
    with pytest.raises(InputError, match="at least 1; got 0"):
        ag.zogy_stream([frame], *known, **options, batch=0)
    wrong = replace(frame, pixels=frame.pixels[1:])
    with pytest.raises(
        ShapeMismatchError, match=r"exposure 1 is uint16 \(45, 52\); the stream takes uint16 \(46, 52\)"
    ):
        list(ag.zogy_stream([frame, wrong], *known, **options, backend="numpy"))
    with pytest.raises(PsfError):
        list(ag.zogy_stream([frame], known[0], np.zeros((5, 5)), *known[2:], **options, backend="numpy"))
