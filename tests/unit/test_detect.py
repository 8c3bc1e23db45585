"""`detect` on differences made by hand, where everything about the sources is known."""

from __future__ import annotations

import builtins
from dataclasses import replace

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.detect import CANDIDATE_COLUMNS
from astrid_gpu.errors import BackendUnavailableError, InputError, ShapeMismatchError
from astrid_gpu.flags import CandidateFlag, PixelFlag, decode
from astrid_gpu.ops.psf_stamps import fwhm_of, gaussian_stamp, moffat_stamp
from tests.hand_made import hand_made, shifted, stacked

PSF = moffat_stamp(2.8, 3.0, 31)
SOURCES = [(40.3, 30.2, 25.0), (80.7, 64.4, -40.0), (20.0, 100.0, 12.0), (100.2, 20.6, 200.0)]
EXTRACTORS = ["peaks", "sep", "photutils"]


@pytest.fixture
def diff(rng):
    return hand_made(rng, PSF, SOURCES, zero_point=25.0)


def nearest(cands, y, x):
    distance = np.hypot(cands["y"] - y, cands["x"] - x)
    return cands.data[np.argmin(distance)], distance.min()


@pytest.mark.parametrize("extractor", EXTRACTORS)
def test_finds_and_measures_what_is_there(diff, extractor):
    pytest.importorskip({"peaks": "numpy"}.get(extractor, extractor))
    cands = ag.detect(diff, 6.0, extractor=extractor, backend="numpy")
    assert len(cands) == len(SOURCES)
    assert cands.extractor == extractor
    assert cands.threshold == 6.0
    norm = np.sqrt(np.sum(PSF**2))
    for y, x, snr in SOURCES:
        row, distance = nearest(cands, y, x)
        # 5 standard deviations: sqrt(2) sigma / (S/N) in position, 1 / (S/N) in flux
        assert distance < 5 * 1.2 * np.sqrt(2) / abs(snr)
        assert row["polarity"] == np.sign(snr)
        assert abs(row["flux"] * norm - snr) < 5
        assert row["flux_error"] == pytest.approx(1 / norm)
        assert row["snr"] == pytest.approx(abs(row["flux"]) / row["flux_error"])
        assert row["mag"] == pytest.approx(25 - 2.5 * np.log10(abs(row["flux"])))
        assert row["mag_error"] == pytest.approx(1.0857 / row["snr"], rel=1e-4)
        assert row["fwhm"] == pytest.approx(fwhm_of(PSF), rel=5 / abs(snr))
        assert row["flags"] == 0
        assert row["n_bad"] == 0
        assert row["edge_distance"] == pytest.approx(min(row["x"], row["y"], 127 - row["x"], 127 - row["y"]))
    assert np.isnan(cands["ra"]).all()


def test_the_extractors_give_the_same_table(diff):
    pytest.importorskip("sep")
    pytest.importorskip("photutils")
    tables = [ag.detect(diff, 6.0, extractor=name, backend="numpy").data for name in EXTRACTORS]
    assert tables[0].dtype.names == tuple(name for name, _ in CANDIDATE_COLUMNS)
    for table in tables[1:]:
        for name in table.dtype.names:
            np.testing.assert_array_equal(table[name], tables[0][name], err_msg=name)


def test_every_backend_gives_the_same_table(diff, backend):
    want = ag.detect(diff, 4.0, backend="numpy").data
    moved = replace(diff, **{
        k: backend.asarray(getattr(diff, k)) for k in ("difference", "score_corr", "flux", "flux_error", "mask")
    })  # fmt: skip
    got = ag.detect(moved, 4.0, backend=backend).data
    assert got.dtype == want.dtype
    for name in want.dtype.names:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-9, atol=1e-9, err_msg=name)


def test_a_stack_equals_its_loop(rng, backend):
    diffs = [hand_made(rng, PSF, SOURCES[:k], dtype=np.float32, shape=(111, 128)) for k in (1, 4, 0)]
    singles = [ag.detect(d, 4.5, backend=backend).data for d in diffs]
    stack = ag.detect(stacked(diffs, psf=np.stack([PSF] * 3)), 4.5, backend=backend)
    assert stack.data.dtype.names[:2] == ("id", "image")
    assert stack["id"].tolist() == list(range(1, len(stack) + 1))
    for i, want in enumerate(singles):
        got = stack.data[stack["image"] == i]
        for name in set(want.dtype.names) - {"id"}:
            np.testing.assert_allclose(got[name], want[name], rtol=1e-6, err_msg=name)


def test_a_psf_for_each_image_sets_shape_and_separation(rng):
    wide = gaussian_stamp(7.0, 41)
    pair = [(60.0, 60.0, 60.0), (60.0, 65.0, 40.0)]
    diffs = [hand_made(rng, PSF, pair), hand_made(rng, wide, [(60.0, 60.0, 60.0)])]
    psfs = np.zeros((2, 41, 41))
    psfs[0, 5:36, 5:36], psfs[1] = PSF, wide
    cands = ag.detect(stacked(diffs, psf=psfs), 8.0, backend="numpy")
    assert cands["image"].tolist() == [0, 0, 1]
    assert cands["fwhm"][2] == pytest.approx(fwhm_of(wide), rel=0.1)


@pytest.mark.parametrize("polarity", ["positive", "negative"])
def test_polarity_selects(diff, polarity):
    every = ag.detect(diff, 4.0, backend="numpy")
    sign = 1 if polarity == "positive" else -1
    got = ag.detect(diff, 4.0, polarity, backend="numpy")
    np.testing.assert_array_equal(got["x"], every["x"][every["polarity"] == sign])
    assert len(got) > 0


def test_max_candidates_and_separation(diff):
    strongest = ag.detect(diff, 4.0, max_candidates=2, backend="numpy")
    assert strongest["snr"].round(-1).tolist() == [40.0, 200.0]
    alone = ag.detect(diff, 4.0, min_separation=200, backend="numpy")
    assert sorted(alone["polarity"]) == [-1, 1]


def test_dipole(rng):
    lobes = [(60.0, 60.0, 40.0), (60.0, 64.0, -25.0)]
    cands = ag.detect(hand_made(rng, PSF, [*lobes, (20.0, 20.0, 40.0)]), 6.0, backend="numpy")
    by_place = {(round(r["y"]), round(r["x"])): decode(r["flags"]) for r in cands.data}
    assert "DIPOLE" in by_place[60, 60]
    assert any("DIPOLE" in flags for (y, x), flags in by_place.items() if y == 60 and x > 62)
    assert "DIPOLE" not in by_place[20, 20]


def test_a_weak_lobe_makes_no_dipole(rng):
    cands = ag.detect(hand_made(rng, PSF, [(60.0, 60.0, 60.0), (60.0, 65.0, -12.0)], sigma=0), 8.0, backend="numpy")
    assert "DIPOLE" not in decode(nearest(cands, 60, 60)[0]["flags"])


def test_hot_pixels_are_sharp_and_galaxies_extended(rng):
    shape, psf = (160, 160), gaussian_stamp(3.0, 25)
    hot, blob = np.zeros(shape), np.zeros(shape)
    hot[20:150:30, 30] = 10 * np.sqrt(np.sum(psf**2)) / psf.max()
    wide, streak = gaussian_stamp(6.0, 45), gaussian_stamp((2.8, 7.0), 45)
    for y in range(20, 150, 30):
        blob += 2000 * shifted(wide, y, 80, shape) + 1500 * shifted(streak, y, 110, shape)
    stars = [(y + 0.3, 140.4, 30.0) for y in range(20, 150, 30)]
    cands = ag.detect(hand_made(rng, psf, stars, shape=shape, extra=hot + blob), 6.0, backend="numpy")
    for y in range(20, 150, 30):
        sharp, _ = nearest(cands, y, 30)
        assert decode(sharp["flags"]) == ["SHARP"]
        assert sharp["fwhm"] < 1.5
        extended, _ = nearest(cands, y, 80)
        assert decode(extended["flags"]) == ["EXTENDED"]
        assert extended["fwhm"] == pytest.approx(6.1, rel=0.2)
        trail, _ = nearest(cands, y, 110)
        assert decode(trail["flags"]) == ["EXTENDED"]
        assert trail["elongation"] > 1.7
        assert decode(nearest(cands, y + 0.3, 140.4)[0]["flags"]) == []


def test_a_residual_on_a_bright_star_is_flagged_and_a_variable_is_not(rng):
    diff = hand_made(rng, PSF, [(30.2, 30.3, 12.0), (30.0, 90.0, -12.0), (90.0, 30.0, 12.0), (90.0, 90.0, 12.0)])
    science = diff.difference + 500.0  # a sky that nobody took off
    unit = 1 / np.sqrt(np.sum(PSF**2))
    for y, x, static in [(30.2, 30.3, 1000.0), (30.0, 90.0, 1000.0), (90.0, 30.0, 100.0)]:
        science += static * unit * shifted(PSF, y, x, science.shape)
    cands = ag.detect(replace(diff, science=science), 8.0, backend="numpy")
    for y, x, expected in [(30.2, 30.3, True), (30.0, 90.0, True), (90.0, 30.0, False), (90.0, 90.0, False)]:
        assert ("BRIGHT_STAR" in decode(nearest(cands, y, x)[0]["flags"])) is expected
    science[:] = np.nan
    assert len(ag.detect(replace(diff, science=science), 8.0, backend="numpy")) == 4


def test_masked_pixels_hold_no_candidate_and_are_reported(rng):
    mask = np.zeros((128, 128), np.uint8)
    mask[38:43, 28:31] = PixelFlag.SATURATED_SCIENCE  # on the first source's middle
    mask[:, 98:] |= np.uint8(PixelFlag.EDGE)
    mask[20, 103] = PixelFlag.COSMIC_RAY
    diff = hand_made(rng, PSF, SOURCES, mask=mask)
    cands = ag.detect(diff, 4.0, backend="numpy")
    pixels = mask[np.rint(cands["y"]).astype(int), np.rint(cands["x"]).astype(int)]
    assert not (pixels & int(PixelFlag.SATURATED_SCIENCE)).any()
    near = nearest(cands, 40.3, 31.2)[0]
    assert "SATURATED_SCIENCE" in decode(near["flags"])
    assert near["n_bad"] > 0
    edge = nearest(cands, 20, 100)[0]
    assert decode(edge["flags"]) == ["EDGE"]  # the cosmic ray lies 3 px away, outside one FWHM
    assert nearest(cands, 80.7, 64.4)[0]["flags"] == 0


def test_bits_above_the_engines_byte_reach_the_candidates(rng, backend):
    """A 16-bit mask: a trail and a ray of the reference, on finite and on invalid pixels, on every backend."""
    diff = hand_made(rng, PSF, SOURCES, dtype=np.float32)
    mask = np.zeros((128, 128), np.uint16)
    mask[:, 28:34] = PixelFlag.TRAIL
    mask[20, 101] = PixelFlag.COSMIC_RAY_REFERENCE | PixelFlag.BAD_REFERENCE
    held = {k: backend.asarray(getattr(diff, k)) for k in ("difference", "score_corr", "flux", "flux_error")}
    cands = ag.detect(replace(diff, **held, mask=backend.asarray(mask), science=None), 4.0, backend=backend)
    assert "TRAIL" in decode(nearest(cands, 40.3, 31.2)[0]["flags"])
    ray = nearest(cands, 20, 100)[0]
    assert {"COSMIC_RAY_REFERENCE", "BAD_REFERENCE"} <= set(decode(ray["flags"]))
    assert ray["n_bad"] == 1
    assert nearest(cands, 80.7, 64.4)[0]["flags"] == 0


def test_nan_without_a_mask_is_masked(diff):
    score = diff.score_corr.copy()
    score[30:50, 25:35] = np.nan
    cands = ag.detect(replace(diff, score_corr=score, mask=None), 8.0, backend="numpy")
    assert len(cands) == len(SOURCES) - 1
    assert np.isfinite(cands["flux"]).all()


@pytest.mark.parametrize("extractor", EXTRACTORS)
def test_nothing_found_is_an_empty_table(rng, extractor):
    pytest.importorskip({"peaks": "numpy"}.get(extractor, extractor))
    diff = hand_made(rng, PSF, sigma=0)
    cands = ag.detect(diff, 5.0, extractor=extractor, backend="numpy")
    assert len(cands) == 0
    assert "0 beyond 5 sigma" in repr(cands)
    assert cands.data.dtype.names == tuple(name for name, _ in CANDIDATE_COLUMNS)


def test_sources_on_the_border(rng):
    places = [(0.0, 60.0), (127.0, 30.0), (64.0, 0.0), (50.0, 127.0), (0.0, 0.0)]
    clipped = np.zeros((128, 128))
    for y, x in places:  # not periodic: draw on a larger frame and cut
        clipped += 300 * shifted(PSF, y + 50, x + 50, (228, 228))[50:178, 50:178]
    diff = hand_made(rng, PSF, extra=clipped)
    cands = ag.detect(diff, 8.0, backend="numpy")
    for y, x in places:
        _, distance = nearest(cands, y, x)
        assert distance < 1.5
    assert np.isfinite(cands["score"]).all()
    assert (cands["edge_distance"] < 2).all()


def test_without_flux_or_psf_the_columns_are_nan(diff):
    bare = ag.detect(replace(diff, flux=None, flux_error=None), 8.0, backend="numpy")
    assert len(bare) == len(SOURCES)
    for name in ("flux", "flux_error", "snr", "mag", "mag_error"):
        assert np.isnan(bare[name]).all(), name
    assert np.isfinite(bare["fwhm"]).all()
    blind = ag.detect(replace(diff, psf=None), 8.0, backend="numpy")
    assert len(blind) == len(SOURCES)
    assert np.isnan(blind["fwhm"]).all()
    assert (blind["flags"] == 0).all()
    full = ag.detect(diff, 8.0, backend="numpy")
    np.testing.assert_allclose(bare["x"], full["x"], atol=1e-6)


def test_world_coordinates(diff):
    pytest.importorskip("astropy")
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [150.0, 2.0], [64.5, 64.5]
    wcs.wcs.cdelt, wcs.wcs.radesys = [-2e-4, 2e-4], "ICRS"
    cands = ag.detect(replace(diff, wcs=wcs), 8.0, backend="numpy")
    ra, dec = wcs.all_pix2world(cands["x"], cands["y"], 0)
    np.testing.assert_allclose(cands["ra"], ra, rtol=0, atol=1e-9)
    np.testing.assert_allclose(cands["dec"], dec, rtol=0, atol=1e-9)
    two = stacked([diff, diff], wcs=[wcs, None], zero_point=np.array([25.0, 27.5]))
    cands = ag.detect(two, 8.0, backend="numpy")
    first, second = (cands.data[cands["image"] == i] for i in (0, 1))
    np.testing.assert_allclose(first["ra"], ra, rtol=0, atol=1e-9)
    assert np.isnan(second["ra"]).all()
    np.testing.assert_allclose(second["mag"] - first["mag"], 2.5)


@pytest.mark.parametrize(
    ("change", "options", "error", "words"),
    [
        ({}, {"threshold": 0.0}, InputError, "positive number of sigma"),
        ({}, {"threshold": np.nan}, InputError, "positive number of sigma"),
        ({}, {"polarity": "up"}, InputError, "'positive', 'negative', 'both'"),
        ({}, {"extractor": "daofind"}, InputError, "'peaks', 'sep', 'photutils'"),
        ({}, {"min_separation": -2}, InputError, "distance in pixels"),
        ({}, {"max_candidates": 1.5}, InputError, "whole number"),
        ({"score_corr": None}, {}, InputError, "no score_corr"),
        ({"mask": np.zeros((3, 3), np.uint8)}, {}, ShapeMismatchError, "mask has shape"),
        ({"flux": np.zeros((3, 3))}, {}, ShapeMismatchError, "flux has shape"),
        ({"psf": np.ones((5, 9, 9))}, {}, ShapeMismatchError, "one stamp or one per image"),
    ],
)
def test_refuses_in_words(diff, change, options, error, words):
    with pytest.raises(error, match=words):
        ag.detect(replace(diff, **change), **({"backend": "numpy"} | options))


@pytest.mark.parametrize("name", ["sep", "photutils"])
def test_a_missing_extractor_says_what_to_install(diff, monkeypatch, name):
    real = builtins.__import__

    def without(module, *rest, **kw):
        if module.partition(".")[0] == name:
            raise ImportError(f"No module named {name!r}")
        return real(module, *rest, **kw)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'astrid-gpu\[fits\]'"):
        ag.detect(diff, extractor=name, backend="numpy")


def test_cpu_extractors_refuse_a_gpu_backend(diff):
    backend = ag.get_backend("numpy")

    class Elsewhere(type(backend)):
        is_gpu = True

    with pytest.raises(TypeError, match="use extractor='peaks'"):
        ag.detect(diff, extractor="sep", backend=Elsewhere())


def test_flags_keep_their_column_type(diff):
    assert ag.detect(diff, 6.0, backend="numpy")["flags"].dtype == np.uint32
    assert int(CandidateFlag.NO_CENTROID) == 2048


def test_a_source_beside_a_column_of_high_variance_is_measured_in_its_place(rng):
    """The variance of S rises tenfold within two pixels: the peak of S_corr moves off, position and flux do not."""
    diff = hand_made(rng, PSF, [(40.0, 41.0, 400.0)], shape=(80, 80), sigma=1.0)
    steep = 1 + 30 * np.exp(-0.5 * ((np.arange(80) - 43) / 1.5) ** 2)[None, :] * np.ones((80, 1))
    moved = replace(diff, score_corr=diff.score_corr / steep, flux_error=diff.flux_error * steep)
    peak = np.unravel_index(np.argmax(moved.score_corr), (80, 80))
    assert peak[1] < 40  # S_corr alone would put it more than a pixel off
    found = ag.detect(moved, 5.0)
    source = found.data[np.argmax(np.abs(found["score"]))]
    assert np.hypot(source["x"] - 41, source["y"] - 40) < 0.2
    error = diff.flux_error[40, 41]
    assert source["flux"] == pytest.approx(400 * error, abs=5 * error)
    assert source["score"] == pytest.approx(moved.score_corr[peak])
