"""`subtract`: every kind of input, every bad input, and what is written down on the way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu import _prepare
from astrid_gpu.config import SubtractConfig
from astrid_gpu.errors import (
    AlignmentError,
    ConfigError,
    FitsError,
    InputError,
    PsfError,
    ShapeMismatchError,
)
from astrid_gpu.flags import INVALID, PixelFlag

pytest.importorskip("astropy", reason="the simulated WCS needs astropy")

ANALYTIC = {"psf_science": "moffat:2.6,3.5", "psf_reference": "moffat:2.1,3.8"}


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


@pytest.fixture(scope="module")
def plain(known):
    """The difference of `known`."""
    return ag.subtract(*known)


@pytest.fixture(scope="module")
def sky():
    """Two frames of nothing but noise, 96 x 85."""
    return np.random.default_rng(1).normal(100, 5, (2, 96, 85)).astype(np.float32)


def steps_of(diff, stage):
    return [step.text for step in diff.steps if step.stage == stage]


# ---- what may be given


def inputs(kind, image, folder):
    """One image as the user may hold it."""
    if kind == "Image":
        return image
    if kind == "array":
        return image.data
    if kind == "(data, wcs)":
        return image.data, image.wcs
    if kind == "CCDData":
        from astropy.nddata import CCDData

        return CCDData(image.data, unit="adu", wcs=image.wcs)
    from astrid_gpu.simulate.files import write_fits

    path = write_fits(image, folder / f"{image.name.split()[0]}.fits")
    return str(path) if kind == "str" else path


@pytest.mark.parametrize("kind", ["Image", "array", "(data, wcs)", "CCDData", "path", "str"])
def test_every_kind_of_input_gives_the_same_candidates(field, plain, tmp_path, kind):
    images = [inputs(kind, image, tmp_path) for image in (field.science, field.reference)]
    diff = ag.subtract(*images, psf_science=field.frames[0].psf, psf_reference=field.frames[1].psf)
    assert diff.shape == (100, 90)
    assert (diff.wcs is not None) == (kind != "array")
    want, got = ag.detect(plain), ag.detect(diff)
    assert sorted(got["polarity"]) == sorted(want["polarity"])
    for row in want.data:
        assert np.hypot(got["x"] - row["x"], got["y"] - row["y"]).min() < 0.2


@pytest.mark.parametrize("dtype", [np.int32, np.uint16, ">i2", ">f4", ">f8", np.float16, np.float64])
def test_any_real_dtype(field, dtype):
    images = [image.data.clip(0, 30000).astype(dtype) for image in (field.science, field.reference)]
    diff = ag.subtract(*images, **ANALYTIC, backend="numpy")
    assert diff.difference.dtype == (np.float64 if dtype in (">f8", np.float64) else np.float32)
    assert diff.metrics["score_corr_std_raw"] == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    ("spec", "origin"),
    [
        ("gaussian:3.1", "gaussian"),
        ("moffat:3,3", "moffat"),
        ("stamp", "stamp"),
        ("PSF", "simulated"),
        ("even", "stamp"),
    ],
)
def test_every_kind_of_psf(known, field, spec, origin):
    true = field.frames[0].psf
    given = {"stamp": true.data, "PSF": true, "even": np.pad(true.data, ((0, 1), (1, 0)))}.get(spec, spec)
    diff = ag.subtract(known[0].with_(psf=None), known[1], psf_science=given)
    (text,) = [t for t in steps_of(diff, "psf") if t.startswith("science")]
    assert "given" in text
    assert (true.origin if spec == "PSF" else origin) in text
    width = {"gaussian:3.1": 3.1, "moffat:3,3": 3.0}.get(spec, true.fwhm)
    assert diff.metrics["fwhm_science"] == pytest.approx(width, rel=0.03)


def test_an_even_or_displaced_stamp_is_centred(known, plain, field):
    """Wherever the star stood in its stamp, the result is that of the centred PSF."""
    true = field.frames[0].psf.data
    for stamp in (np.pad(true, ((0, 1), (0, 1))), np.roll(np.pad(true, 6), (3, -4), (0, 1))):
        diff = ag.subtract(known[0].with_(psf=None), known[1], psf_science=stamp)
        assert np.abs(diff.score_corr - plain.score_corr).max() < 0.02


@pytest.mark.parametrize(
    ("psf", "error", "words"),
    [
        (np.full((9, 9), np.nan), PsfError, "psf_science: .*81 NaN"),
        (np.zeros((9, 9)), PsfError, "psf_science: .*sums to"),
        (np.ones(9), PsfError, r"psf_science: .*\(9,\)"),
        ("gaussian:wide", PsfError, "psf_science: cannot read the PSF 'gaussian:wide'"),
        ("gauss:3", PsfError, "psf_science: .*'gaussian:FWHM'"),
        ("nowhere.fits", (PsfError, FitsError), "psf_science: .*nowhere.fits"),
    ],
)
def test_a_bad_psf_is_refused_by_name_before_any_work(known, psf, error, words, monkeypatch):
    monkeypatch.setattr(_prepare, "own_stages", lambda *_: pytest.fail("work was done before the PSF was checked"))
    with pytest.raises(error, match=words):
        ag.subtract(*known, psf_science=psf)


def test_a_bad_psf_carried_by_an_image_is_told_too(known):
    bad = ag.PSF(np.full((9, 9), np.nan))
    with pytest.raises(PsfError, match=r"the PSF of the science image: .*NaN"):
        ag.subtract(known[0].with_(psf=bad), known[1])


# ---- masks and variances


@pytest.mark.parametrize(("role", "flag"), [("science", PixelFlag.BAD_SCIENCE), ("reference", PixelFlag.BAD_REFERENCE)])
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, float])
def test_a_mask_is_added_to_the_images_own(known, role, flag, dtype):
    own, extra = np.zeros((2, 100, 90), bool)
    own[10:14, 10:14], extra[70:75, 60:65] = True, True
    images = [im.with_(mask=own.astype(np.uint8)) if name == role else im
              for name, im in zip(("science", "reference"), known, strict=True)]  # fmt: skip
    diff = ag.subtract(*images, **{f"mask_{role}": (4 * extra).astype(dtype)})
    np.testing.assert_array_equal(np.isnan(diff.score_corr), own | extra)
    np.testing.assert_array_equal(diff.mask & INVALID, (own | extra) * np.uint8(flag))


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize("role", ["science", "reference"])
def test_pixels_without_a_positive_finite_variance_are_masked(known, field, value, role):
    """Nothing is invented for them: they come out NaN, and a step says how many."""
    hole = np.zeros((100, 90), bool)
    hole[50:53, 20:24] = True
    variance = field.frames[role == "reference"].variance.copy()
    variance[hole] = value
    diff = ag.subtract(*known, **{f"variance_{role}": variance})
    np.testing.assert_array_equal(np.isnan(diff.difference), hole)
    assert f"{role}: 12 pixels without a positive, finite variance masked" in steps_of(diff, "noise")


def test_a_variance_plane_without_one_usable_value_is_an_error(known):
    with pytest.raises(InputError, match="no good pixel has a positive, finite variance"):
        ag.subtract(*known, variance_science=np.zeros((100, 90)))


@pytest.mark.parametrize("name", ["mask_science", "mask_reference", "variance_science", "variance_reference"])
def test_planes_of_another_shape_are_refused(known, name):
    with pytest.raises(ShapeMismatchError, match=rf"{name.split('_')[0]} has shape \(90, 100\).*\(100, 90\)"):
        ag.subtract(*known, **{name: np.ones((90, 100))})


def test_nan_pixels_are_masked_pixels(known):
    data = known[0].data.copy()
    data[40:43, 40:43], data[60, 60] = np.nan, np.inf
    diff = ag.subtract(known[0].with_(data=data), known[1])
    np.testing.assert_array_equal(np.isnan(diff.flux), ~np.isfinite(data))
    assert diff.metrics["masked"] == pytest.approx(10 / data.size)


# ---- images that are hard or hopeless


@pytest.mark.parametrize("shape", [(33, 33), (31, 97), (90, 34)])
def test_small_odd_and_oblong_images(sky, shape):
    frames = np.random.default_rng(2).normal(50, 3, (2, *shape)).astype(np.float32)
    diff = ag.subtract(*frames, psf_science="gaussian:2.6", psf_reference="gaussian:2.1")
    assert diff.shape == shape
    assert np.isfinite(diff.score_corr).all()


def test_one_star_is_enough(sky, rng):
    from tests.scenes import blurred, moffat_psf

    star = blurred([(48.3, 40.2, 2e4)], sky[0].shape, moffat_psf(3.0))
    diff = ag.subtract(sky[0] + star, 0.5 * (sky[1] + star))
    assert all("moffat fit" in text for text in steps_of(diff, "psf"))
    assert diff.metrics["flux_ratio"] == pytest.approx(2, rel=0.05)
    assert diff.metrics["fwhm_science"] == pytest.approx(3, rel=0.05)


def test_no_star_without_psfs_says_what_to_give(sky):
    with pytest.raises(PsfError, match=r"no PSF can be measured: 0 sources.*psf_science="):
        ag.subtract(*sky)


def test_no_star_with_psfs_is_subtracted_and_the_guess_is_told(sky):
    diff = ag.subtract(*sky, psf_science="gaussian:2.6", psf_reference="gaussian:2.1")
    assert diff.metrics["flux_ratio"] == 1.0
    assert any("assumed" in text for text in steps_of(diff, "flux ratio"))
    assert any("unverified" in text for text in steps_of(diff, "alignment"))
    assert len(ag.detect(diff, threshold=5.5)) == 0


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.full((96, 85), 7.0), "every good pixel has the value 7"),
        (np.full((96, 85), np.nan), "the {role} image has no usable pixel"),
        (np.zeros((2, 96, 85)), r"{role} must be one two-dimensional image \(ny, nx\), got shape \(2, 96, 85\)"),
        (np.zeros(85), r"{role} must be one two-dimensional image.*\(85,\)"),
        (np.zeros((0, 85)), r"{role} must be one two-dimensional image.*\(0, 85\)"),
        (np.zeros((9, 9), complex), "{role} must be an image: an array of numbers"),
        (None, "{role} must be an image.*NoneType"),
        ("nowhere.fits", "nowhere.fits: no such file"),
    ],
)
@pytest.mark.parametrize("role", ["science", "reference"])
def test_a_hopeless_image_is_named(sky, image, words, role):
    pair = (image, sky[1]) if role == "science" else (sky[0], image)
    with pytest.raises(InputError, match=words.format(role=role)):
        ag.subtract(*pair)


def test_two_masks_that_leave_nothing_are_an_error(known):
    left = np.arange(90) < 45
    halves = [np.broadcast_to(half, (100, 90)) for half in (left, ~left)]
    with pytest.raises(InputError, match="leave none"):
        ag.subtract(*known, mask_science=halves[0], mask_reference=halves[1])


def test_shapes_that_differ_need_a_wcs_or_stars(sky):
    psfs = {"psf_science": "gaussian:2.6", "psf_reference": "gaussian:2.1"}
    with pytest.raises(AlignmentError, match=r"0 stars in reference and 0 in science.*WCS"):
        ag.subtract(sky[0][:80], sky[1], **psfs)
    with pytest.raises(ShapeMismatchError, match=r"\(96, 85\).*\(80, 85\)"):
        ag.subtract(sky[0][:80], sky[1], **psfs, align="none")


def test_device_arrays_are_refused_not_copied(sky):
    class Device:
        __cuda_array_interface__ = {"shape": (96, 85)}  # noqa: RUF012

    with pytest.raises(TypeError, match="reference is on a GPU, but subtract"):
        ag.subtract(sky[0], Device())


# ---- options and given values


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"metod": "zogy"}, "unknown option 'metod' in subtract.*did you mean 'method'"),
        ({"method": "hotpants"}, "method must be one of 'zogy', 'classic', 'classic-fit'; got 'hotpants'"),
        ({"registration": "maybe"}, "registration must be one of"),
        ({"renormalise": "mad"}, "renormalise must be one of"),
        ({"box": 4}, "box must be None or a whole number"),
        ({"dtype": "float16"}, "dtype must be one of"),
        ({"backend": "torch"}, "no backend is called 'torch'"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(known, option, words):
    with pytest.raises(ConfigError, match=words):
        ag.subtract(*known, **option)


@pytest.mark.parametrize("value", [0, -1.0, np.nan, np.inf, "2", True, (1.0, 2.0)])
@pytest.mark.parametrize("name", ["sigma_science", "sigma_reference", "flux_ratio"])
def test_a_given_number_must_be_positive(known, name, value):
    with pytest.raises(InputError, match=f"{name} must be one positive number"):
        ag.subtract(*known, **{name: value})


@pytest.mark.parametrize("value", [0.1, (-0.1, 0.0), (0.1,), (np.nan, 0.0), "ab"])
def test_a_given_registration_error_must_be_two_numbers(known, value):
    with pytest.raises(InputError, match=r"astrometric_error must be two numbers \(y, x\)"):
        ag.subtract(*known, astrometric_error=value)


def test_what_is_given_is_used_and_recorded_as_given(known):
    given = {"sigma_science": 8.0, "sigma_reference": 1.6, "flux_ratio": 0.94, "astrometric_error": (0.05, 0.03)}
    diff = ag.subtract(*known, **given)
    for name in ("sigma_science", "sigma_reference", "flux_ratio"):
        assert diff.metrics[name] == given[name]
    assert (diff.metrics["astrometric_error_y"], diff.metrics["astrometric_error_x"]) == (0.05, 0.03)
    assert diff.metrics["flux_ratio_error"] == 0
    told = "\n".join(map(str, diff.steps))
    for words in ("sigma 8 as given", "sigma 1.6 as given", "= 0.94 as given", "0.05, 0.03 px (y, x) as given",
                  "): variance as given", "science: PSF given", "reference: PSF given"):  # fmt: skip
        assert words in told
    # F_D of eq. 15 with F_n = 1, F_r = 1 / beta
    want = (1 / 0.94) / np.hypot(8.0 / 0.94, 1.6)
    assert diff.flux_scale == pytest.approx(want, rel=1e-6)


def test_steps_hold_an_entry_for_every_estimate(field):
    diff = ag.subtract(field.science.data, field.reference.data)
    for role in ("science", "reference"):
        for stage in ("saturation", "background", "noise", "psf"):
            assert [t for t in steps_of(diff, stage) if t.startswith(role)], (role, stage)
        assert any(t.startswith(role) and "gain estimated" in t for t in steps_of(diff, "noise"))
        assert any(t.startswith(f"{role}: PSF measured on") for t in steps_of(diff, "psf"))
    for stage in ("alignment", "flux ratio", "registration", "calibration", "zogy"):
        assert steps_of(diff, stage), stage
    assert diff.steps[-1].values == {"backend": diff.backend}


def test_backends_agree(known):
    one, two = (ag.subtract(*known, backend=name) for name in ("numpy", "numba"))
    assert (one.backend, two.backend) == ("numpy", "numba")
    assert np.nanmax(np.abs(one.score_corr - two.score_corr)) < 1e-3
    a, b = ag.detect(one), ag.detect(two)
    for column in ("polarity", "flags", "n_bad"):
        np.testing.assert_array_equal(a[column], b[column])
    for column in ("x", "y"):
        np.testing.assert_allclose(a[column], b[column], atol=1e-2)
    np.testing.assert_allclose(a["score"], b["score"], atol=1e-2)


def test_a_backend_object_and_a_configuration_are_taken(known, plain):
    diff = ag.subtract(
        *known, config=SubtractConfig(backend="numba", renormalise="none"), backend=ag.get_backend("numpy")
    )
    assert diff.backend == "numpy"
    assert diff.metrics["renormalise_factor"] == 1.0
    assert ag.subtract(*known, dtype="float64").score_corr.dtype == np.float64


def test_renormalisation(known, plain):
    raw = ag.subtract(*known, renormalise="none")
    width = plain.metrics["renormalise_factor"]
    assert width == plain.metrics["score_corr_std_raw"] == raw.metrics["score_corr_std_raw"]
    np.testing.assert_allclose(plain.score_corr * width, raw.score_corr, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(plain.flux_error, raw.flux_error * width, rtol=1e-5)
    np.testing.assert_array_equal(plain.flux, raw.flux)
    assert "divided by it" in steps_of(plain, "calibration")[0]
    assert "divided by it" not in steps_of(raw, "calibration")[0]


def test_registration_modes(known):
    """A science image off by a quarter of a pixel, with a bright star: moved, counted as noise, or let be."""
    from tests.scenes import noisy_pair

    rng = np.random.default_rng(3)
    stars = [(rng.uniform(8, 92), rng.uniform(8, 82), 2e3 * (1 + rng.pareto(1.5))) for _ in range(15)]
    scene = noisy_pair(rng, (100, 90), sources=[*stars, (50.2, 45.3, 2e5)], shift=(-0.25, 0.0))
    given = {f"psf_{name}": scene.kwargs[f"psf_{name}"] for name in ("science", "reference")}
    diffs = {
        mode: ag.subtract(scene.science, scene.reference, **given, registration=mode, align="none")
        for mode in ("shift", "noise", "none")
    }
    near = slice(44, 57), slice(39, 52)
    left = {mode: np.abs(diff.score_corr[near]).max() for mode, diff in diffs.items()}
    assert diffs["shift"].metrics["shift_y"] == pytest.approx(-0.25, abs=0.03)
    assert "moved by" in steps_of(diffs["shift"], "registration")[0]
    assert diffs["noise"].metrics["astrometric_error_y"] == pytest.approx(0.25, abs=0.05)
    assert "left in place" in steps_of(diffs["noise"], "registration")[0]
    assert diffs["none"].metrics["astrometric_error_y"] == 0
    assert "as asked" in steps_of(diffs["none"], "registration")[0]
    assert left["none"] > 10
    assert left["noise"] < 5
    assert left["shift"] < 5
    assert np.abs(diffs["shift"].difference[near]).max() < 0.5 * np.abs(diffs["none"].difference[near]).max()


def test_background_off_leaves_the_sky(known):
    science, reference = (im.with_(data=im.data - sky) for im, sky in zip(known, (320.0, 180.0), strict=True))
    diff = ag.subtract(science, reference, background=False)
    assert [t for t in steps_of(diff, "background") if "not subtracted, as asked" in t] == [
        "science: not subtracted, as asked", "reference: not subtracted, as asked",
    ]  # fmt: skip
    np.testing.assert_array_equal(diff.science, science.data)
    assert diff.metrics["score_corr_std_raw"] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("method", ["classic", "classic-fit"])
def test_plain_methods(known, method):
    diff = ag.subtract(*known, method=method)
    assert diff.method == method
    assert steps_of(diff, method)
    assert diff.flux is None
    if method == "classic":
        want = diff.science - diff.metrics["flux_ratio"] * diff.reference
        np.testing.assert_allclose(diff.difference, want, rtol=1e-4, atol=1e-2)


def test_swapping_the_images_flips_every_candidate(known):
    # the flux ratio given: a source that is gone may else be excused by its error, and one that is new may not
    one = ag.detect(ag.subtract(*known, flux_ratio=0.94))
    two = ag.detect(ag.subtract(*known[::-1], flux_ratio=1 / 0.94))
    assert len(one) == len(two) == 3
    for row in one.data:
        i = np.argmin(np.hypot(two["x"] - row["x"], two["y"] - row["y"]))
        assert np.hypot(two["x"][i] - row["x"], two["y"][i] - row["y"]) < 0.3
        assert two["polarity"][i] == -row["polarity"]
        assert two["score"][i] == pytest.approx(-row["score"], rel=0.1)


def test_nothing_given_is_changed(known):
    data = [im.data.copy() for im in known]
    data[0][5, 5] = np.nan
    mask, variance = np.zeros((100, 90), np.uint8), known[0].variance.astype(float)
    mask[20, 20], variance[30, 30] = 1, -1
    psf = known[0].psf.data.copy()
    arrays = [*data, mask, variance, psf]
    before = [a.copy() for a in arrays]
    meta = {"a": 1}
    for array in arrays:
        array.flags.writeable = False
    images = [im.with_(data=d, meta=meta) for im, d in zip(known, data, strict=True)]
    ag.subtract(*images, psf_science=psf, mask_science=mask, variance_science=variance)
    ag.subtract(*data, psf_science=psf, psf_reference=psf, mask_reference=mask)
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)
    assert meta == {"a": 1}


def test_a_zero_point_comes_from_the_reference_where_science_has_none(known):
    science = known[0].with_(zero_point=None)
    diff = ag.subtract(science, replace(known[1], zero_point=27.0))
    assert diff.zero_point == pytest.approx(27.0 + 2.5 * np.log10(diff.metrics["flux_ratio"]))
    assert steps_of(diff, "zero point")
    assert np.isfinite(diff.limiting_magnitude())
