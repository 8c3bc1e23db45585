"""`subtract_stack`: equal to looping `subtract`, in order, lazy, in bounded memory, past files that fail."""

from __future__ import annotations

import gc
import logging
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu import _prepare
from astrid_gpu import subtract as subtract_function
from astrid_gpu.errors import AstridGpuError, ConfigError, DeviceMemoryError, FitsError, InputError

pytest.importorskip("astropy", reason="the simulated WCS needs astropy")

MAPS = ("difference", "score", "score_corr", "flux", "flux_error")


@pytest.fixture(scope="module")
def field():
    """A field of 100 x 90 with three changes, its truth known."""
    return ag.simulate.pair(
        seed=5, shape=(100, 90), n_changes=3, n_stars=40, n_galaxies=0, bad_columns=0, bad_fraction=0
    )


@pytest.fixture(scope="module")
def known(field):
    """Both images with their true PSFs and variances."""
    return field.known()


def same(a, b):
    """All maps of two differences agree to the rounding of single precision."""
    for name in MAPS:
        x, y = getattr(a, name), getattr(b, name)
        np.testing.assert_allclose(x, y, rtol=0, atol=2e-6 * np.nanmax(np.abs(y)), err_msg=name)
    np.testing.assert_array_equal(a.mask, b.mask)


def nights(image, n, *, bad=None):
    """n exposures like `image`, each with more noise of its own; number `bad` is all NaN."""
    for i in range(n):
        extra = np.random.default_rng(i).normal(0, 1 + i, image.shape).astype(np.float32)
        data = image.data + extra if i != bad else np.full(image.shape, np.nan, np.float32)
        yield image.with_(data=data, variance=image.variance + np.float32((1 + i) ** 2), name=f"night {i}")


@pytest.fixture(scope="module")
def looped(known):
    return [ag.subtract(image, known[1], backend="numpy") for image in nights(known[0], 5)]


@pytest.mark.parametrize("batch", [1, 2, 5, "auto"])
def test_a_stack_equals_its_loop_in_order(known, looped, batch):
    stack = list(ag.subtract_stack(nights(known[0], 5), known[1], batch=batch, backend="numpy"))
    assert [d.meta["science"] for d in stack] == [f"night {i}" for i in range(5)]
    for one, want in zip(stack, looped, strict=True):
        same(one, want)
        np.testing.assert_allclose(one.psf, want.psf, atol=1e-6 * want.psf.max())
        assert one.flux_scale == want.flux_scale
        assert [str(s) for s in one.steps] == [str(s) for s in want.steps]
        assert {k: v for k, v in one.metrics.items() if k != "profile"} == pytest.approx(
            {k: v for k, v in want.metrics.items() if k != "profile"}, nan_ok=True, rel=1e-5, abs=1e-6
        )


def test_an_array_of_images_and_measured_psfs_of_different_sides(known, field):
    """PSF stamps measured on each night need not have one side."""
    frames = np.stack([image.data for image in nights(field.science.with_(variance=known[0].variance), 3)])
    stack = list(ag.subtract_stack(frames, field.reference, batch=3, backend="numpy"))
    for frame, diff in zip(frames, stack, strict=True):
        want = ag.subtract(frame, field.reference, backend="numpy")
        # stamps padded to one side may give another frame of padding: equal but for the fill beyond the edge
        inner = (slice(25, -25),) * 2
        assert np.abs(diff.score_corr[inner] - want.score_corr[inner]).max() < 0.05


def test_images_of_different_shapes_in_one_batch(known):
    images = [known[0], known[0].with_(**{k: getattr(known[0], k)[:80] for k in ("data", "variance", "mask")
                                          if getattr(known[0], k) is not None}), known[0]]  # fmt: skip
    stack = list(ag.subtract_stack(images, known[1], batch=3))
    assert [d.shape for d in stack] == [(100, 90), (80, 90), (100, 90)]
    same(stack[0], stack[2])


def test_a_stack_is_lazy(known):
    taken = []

    def watched():
        for image in nights(known[0], 5):
            taken.append(image.name)
            yield image

    stack = ag.subtract_stack(watched(), known[1], batch=2)
    assert taken == []
    assert next(stack).meta["science"] == "night 0"
    assert taken == ["night 0", "night 1"]
    next(stack)
    assert len(taken) == 2
    next(stack)
    assert len(taken) == 4


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_an_error_may_be_returned_in_its_place(known, looped, batch):
    stack = list(ag.subtract_stack(nights(known[0], 5, bad=2), known[1], batch=batch, on_error="return",
                                   backend="numpy"))  # fmt: skip
    assert [isinstance(d, ag.Difference) for d in stack] == [True, True, False, True, True]
    assert isinstance(stack[2], InputError)
    assert "night 2" in str(stack[2])
    for i in (0, 1, 3, 4):
        same(stack[i], looped[i])


def test_an_error_is_raised_by_default(known):
    stack = ag.subtract_stack(nights(known[0], 3, bad=1), known[1], batch=1)
    assert next(stack).meta["science"] == "night 0"
    with pytest.raises(InputError, match="night 1"):
        next(stack)


@pytest.mark.parametrize("batch", [3, 4])
def test_an_error_is_raised_after_the_images_before_it(known, batch):
    """As a loop of subtract() would: what was good is not lost with the batch."""
    stack = ag.subtract_stack(nights(known[0], 5, bad=2), known[1], batch=batch)
    assert [next(stack).meta["science"] for _ in range(2)] == ["night 0", "night 1"]
    with pytest.raises(InputError, match="night 2"):
        next(stack)


def test_an_error_of_the_callers_generator_comes_after_its_images(known):
    def broken():
        yield from nights(known[0], 2)
        msg = "the disk is gone"
        raise OSError(msg)

    stack = ag.subtract_stack(broken(), known[1], batch=1)
    assert len([next(stack), next(stack)]) == 2
    with pytest.raises(OSError, match="the disk is gone"):
        next(stack)


def test_an_error_of_a_library_below_is_one_of_ours_with_the_image_named(known, monkeypatch):
    prepare = _prepare.PairPreparer.prepare

    def fails(self, image):
        if image.name == "night 1":
            msg = "Singular matrix"
            raise np.linalg.LinAlgError(msg)
        return prepare(self, image)

    monkeypatch.setattr(_prepare.PairPreparer, "prepare", fails)
    stack = list(ag.subtract_stack(nights(known[0], 3), known[1], on_error="return"))
    assert [type(d) for d in stack] == [ag.Difference, AstridGpuError, ag.Difference]
    assert str(stack[1]) == "image 1: LinAlgError: Singular matrix"
    assert isinstance(stack[1].__cause__, np.linalg.LinAlgError)
    with pytest.raises(np.linalg.LinAlgError):
        list(ag.subtract_stack(nights(known[0], 3), known[1]))


@pytest.mark.parametrize("batch", [1, 3])
def test_a_file_that_cannot_be_read_stops_nothing(known, looped, tmp_path, batch):
    """Missing, cut short, no FITS: an error in its place; the files round it as ever, opened in order."""
    paths = [tmp_path / f"{i}.fits" for i in range(6)]
    for i, image in zip((0, 2, 5), nights(known[0], 6), strict=False):
        ag.simulate.write_fits(image, paths[i])
    paths[1].write_bytes(paths[0].read_bytes()[:5000])
    paths[3].write_text("not found")
    read = [ag.read_image(path) for path in (paths[0], paths[2], paths[5])]
    want = [ag.subtract(image, known[1], backend="numpy") for image in read]
    stack = ag.subtract_stack(map(str, paths), known[1], batch=batch, on_error="return", backend="numpy")
    found = list(stack)
    assert [isinstance(d, FitsError) for d in found] == [False, True, False, True, True, False]
    for i in (1, 3, 4):
        assert paths[i].name in str(found[i])
    for one, other in zip((found[0], found[2], found[5]), want, strict=True):
        same(one, other)


def test_files_are_taken_one_ahead_and_no_more(known, tmp_path):
    for i, image in enumerate(nights(known[0], 4)):
        ag.simulate.write_fits(image, tmp_path / f"{i}.fits")
    taken = []

    def watched():
        for i in range(4):
            taken.append(i)
            yield tmp_path / f"{i}.fits"

    stack = ag.subtract_stack(watched(), known[1], batch=1)
    assert taken == []
    for i in range(4):
        assert isinstance(next(stack), ag.Difference)
        assert taken == list(range(min(i + 2, 4)))
    assert next(stack, None) is None


def test_memory_does_not_grow_with_the_number_of_images(known):
    """Of the exposures and of the results never more than a batch and a little are alive."""
    exposures, differences, most = [], [], []

    def alive(references):
        gc.collect()
        return sum(reference() is not None for reference in references)

    class Frame(np.ndarray):
        """An array that can be counted."""

    def frames():
        for image in nights(known[0], 12):
            data = image.data.view(Frame)
            exposures.append(weakref.ref(data))
            most.append(alive(exposures))
            yield image.with_(data=data)

    for diff in ag.subtract_stack(frames(), known[1], batch=3):
        differences.append(weakref.ref(diff))
        del diff
        assert alive(differences) <= 3
    assert len(most) == 12
    assert max(most) <= 6


def test_the_automatic_batch_follows_free_memory(known, monkeypatch):
    module = sys.modules["astrid_gpu.subtract_stack"]
    pair = _prepare.PairPreparer(known[1], module._settings(None, {})).prepare(known[0])
    need = module._FRAMES_PER_IMAGE * 4 * known[0].data.size
    for free, size in ((0, 1), (8 * need, 3), (1000 * need, 16)):
        monkeypatch.setattr(module, "get_backend", lambda name, free=free: SimpleNamespace(free_memory=lambda: free))
        assert module._size("auto", [pair], module._settings(None, {})) == size
    assert module._size(5, [pair], module._settings(None, {})) == 5


def test_the_reference_goes_through_its_stages_once(known, monkeypatch):
    roles = []
    stages = _prepare.own_stages
    monkeypatch.setattr(_prepare, "own_stages", lambda *a: roles.append(a[-1]) or stages(*a))
    list(ag.subtract_stack(nights(known[0], 3), known[1], batch=2))
    assert sorted(roles) == ["reference", "science", "science", "science"]


def engine_that_holds(monkeypatch, most):
    """Let the engine run out of memory with more than `most` images; return the sizes of the calls."""
    module = sys.modules[subtract_function.__module__]
    engine, sizes = module.zogy, []

    def limited(science, *args, **kwargs):
        sizes.append(len(science))
        if len(science) > most:
            msg = "Unable to allocate"
            raise MemoryError(msg)
        return engine(science, *args, **kwargs)

    monkeypatch.setattr(module, "zogy", limited)
    return sizes


def test_out_of_memory_halves_the_batch_and_warns(known, looped, monkeypatch, caplog):
    sizes = engine_that_holds(monkeypatch, 2)
    with caplog.at_level(logging.WARNING, logger="astrid_gpu"):
        stack = list(ag.subtract_stack(nights(known[0], 4), known[1], batch=4, backend="numpy"))
    assert sizes == [4, 2, 2]
    assert [r.getMessage() for r in caplog.records] == ["out of memory with 4 images; going on with 2 at a time"]
    for one, want in zip(stack, looped, strict=False):
        same(one, want)


def test_one_image_that_does_not_fit_is_a_memory_error(known, monkeypatch):
    engine_that_holds(monkeypatch, 0)
    with pytest.raises(DeviceMemoryError, match=r"one image of \(100, 90\) does not fit the memory of backend numpy"):
        ag.subtract(*known, backend="numpy")
    stack = list(ag.subtract_stack(nights(known[0], 3), known[1], batch=3, on_error="return"))
    assert [type(d) for d in stack] == [DeviceMemoryError] * 3


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"batch": 0}, ConfigError, "batch must be 'auto' or a number of images, at least 1; got 0"),
        ({"batch": "big"}, ConfigError, "batch must be 'auto'"),
        ({"batch": True}, ConfigError, "batch must be 'auto'"),
        ({"batch": 2.0}, ConfigError, "batch must be 'auto'"),
        ({"on_error": "ignore"}, ConfigError, "on_error must be 'raise' or 'return', got 'ignore'"),
        ({"metod": "zogy"}, ConfigError, "did you mean 'method'"),
    ],
)
def test_wrong_options_are_told_before_the_first_image(known, options, error, words):
    with pytest.raises(error, match=words):
        ag.subtract_stack(iter([known[0]]), known[1], **options)


@pytest.mark.parametrize("kind", ["Image", "array", "path"])
def test_one_image_is_no_stack(known, kind):
    image = {"Image": known[0], "array": known[0].data, "path": "night.fits"}[kind]
    with pytest.raises(InputError, match="images must be several"):
        ag.subtract_stack(image, known[1])


def test_an_empty_stack_gives_nothing(known):
    assert list(ag.subtract_stack([], known[1])) == []


@pytest.fixture(scope="module")
def starry():
    """A field with stars enough to tell whether PSFs fit, of true PSFs and variances."""
    return ag.simulate.pair(seed=4, shape=(200, 200), n_stars=60, n_galaxies=0).known()


WIDE, WIDER, NARROW = "moffat:3.4,3.5", "moffat:4.4,3.5", "moffat:1.5,3.5"


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def misfit(diff, role):
    return next(s for s in diff.steps if s.stage == "psf check" and s.values["role"] == role)


def test_psfs_that_do_not_fit_are_warned_of_once_a_stack(starry, caplog):
    """Of the reference's when it is first seen, of the exposures' at the end; each result keeps what is its own."""
    caplog.set_level(logging.WARNING, "astrid_gpu")
    stack = ag.subtract_stack(nights(starry[0], 4), starry[1], psf_reference=NARROW, psf_science=NARROW, batch=2)
    found = [next(stack)]
    assert len(said(caplog)) == 1
    assert said(caplog)[0] == misfit(found[0], "reference").text
    found += stack
    assert len(said(caplog)) == 2
    assert said(caplog)[1].startswith("4 of 4 exposures' given PSFs do not fit their stars; worst, night ")
    assert "leave psf_science" in said(caplog)[1]
    for diff in found:
        assert misfit(diff, "science").values["matters"]
        assert misfit(diff, "reference").values["matters"]
        assert diff.metrics["psf_flux_bias_science"] == misfit(diff, "science").values["flux_bias"]
    worst = max(found, key=lambda diff: abs(diff.metrics["psf_flux_bias_science"]))
    assert said(caplog)[1].endswith(f"worst, {worst.meta['science']}: {misfit(worst, 'science').text}")


def test_exposures_with_psfs_of_their_own_are_summed_up(starry, caplog):
    """Two of four wrong, one more than the other; said of each stack anew, and of one that is not read to its end."""
    caplog.set_level(logging.WARNING, "astrid_gpu")
    wrong = {1: ag.io.read_psf(WIDE), 2: ag.io.read_psf(WIDER)}
    images = [image.with_(psf=wrong[i]) if i in wrong else image for i, image in enumerate(nights(starry[0], 4))]
    for _ in range(2):
        caplog.clear()
        assert len(list(ag.subtract_stack(images, starry[1]))) == 4
        (one,) = said(caplog)
        assert one.startswith(
            "2 of 4 exposures' given PSFs do not fit their stars; worst, night 2: science: fluxes of "
        )
    caplog.clear()
    stack = ag.subtract_stack(images, starry[1], batch=1)
    next(stack)
    next(stack)
    assert not said(caplog)
    stack.close()
    assert said(caplog)[0].startswith("1 of 2 exposures' given PSFs do not fit their stars; worst, night 1: ")


def test_stacks_in_threads_warn_each_for_itself(starry, caplog):
    caplog.set_level(logging.WARNING, "astrid_gpu")
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(lambda: len(list(ag.subtract_stack(nights(starry[0], 2), starry[1], psf_reference=NARROW))))
            for _ in range(2)
        ]
        assert [job.result() for job in jobs] == [2, 2]
    assert len(said(caplog)) == 2
    assert all(text.startswith("reference: fluxes of ") for text in said(caplog))


def test_right_psfs_are_not_warned_of(starry, caplog):
    caplog.set_level(logging.WARNING, "astrid_gpu")
    assert len(list(ag.subtract_stack(nights(starry[0], 2), starry[1]))) == 2
    assert not said(caplog)
