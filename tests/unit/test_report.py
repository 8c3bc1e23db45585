"""Figures: they are drawn without a display, hold what they should, and hide nothing."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from astropy.wcs import WCS

from astrid_gpu.detect import candidate_dtype
from astrid_gpu.errors import InputError
from astrid_gpu.flags import PixelFlag
from astrid_gpu.report import candidate_sheet, summary_figure
from astrid_gpu.report.drawing import DIVERGING, MAX_PIXELS, _nice_length, shrink, sky_frame, sky_scale
from astrid_gpu.results import Candidates, Cutouts, Difference

SHAPE = (90, 120)


def sky_wcs(angle=0.0, scale=1.0, flip=-1):
    w = WCS(naxis=2)
    w.wcs.ctype, w.wcs.crval, w.wcs.crpix = ["RA---TAN", "DEC--TAN"], [150.0, 60.0], [60.0, 45.0]
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    w.wcs.cd = scale / 3600 * np.array([[flip * c, -flip * s], [s, c]])
    return w


@pytest.fixture
def diff(rng):
    science, reference, score = rng.normal(0, 5, (3, *SHAPE))
    score /= 5
    difference = science - reference
    mask = np.zeros(SHAPE, np.uint8)
    mask[:, 100:] = PixelFlag.NO_DATA
    for image in (difference, score):
        image[mask != 0] = np.nan
    score[40, 50], difference[40, 50] = 30, 100
    return Difference(
        difference, score_corr=score, mask=mask, wcs=sky_wcs(30.0), science=science, reference=reference,
        zero_point=25.0,
        metrics={"flux_ratio": 1.1, "fwhm_science": 2.5, "fwhm_reference": 2.0, "limiting_magnitude": 21.3},
        meta={"science": "sci.fits", "reference": "ref.fits"},
    )  # fmt: skip


@pytest.fixture
def candidates():
    rows = np.zeros(3, candidate_dtype())
    rows["id"], rows["x"], rows["y"] = (1, 2, 3), (50, 20, 119), (40, 70, 2)
    rows["polarity"], rows["score"], rows["flags"] = (1, -1, 1), (30, -8, 6), (0, 256 + 64 + 4, 128)
    rows["mag"] = np.nan
    return Candidates(rows)


@pytest.fixture
def cutouts(rng, candidates):
    mask = np.zeros((3, 21, 21), np.uint8)
    mask[2, :, 11:] = PixelFlag.NO_DATA
    images = rng.normal(0, 5, (3, 3, 21, 21))
    images[2, :, :, 11:] = np.nan
    return Cutouts(images, rng.normal(size=(3, 21, 21)), mask, candidates["id"])


def pixels_of(path):
    from matplotlib.image import imread

    return imread(path)[..., :3]


def drawn(monkeypatch, function, *args, **options):
    """Return the figure that `function` would save, without rendering it."""
    kept = []
    monkeypatch.setattr(sys.modules[function.__module__], "save", lambda figure, *_: kept.append(figure))
    function(*args, **options)
    return kept[0]


def test_summary_is_drawn(tmp_path, diff, candidates):
    path = summary_figure(diff, candidates, tmp_path / "new" / "summary.png", dpi=50)
    picture = pixels_of(path)
    assert picture.shape == (545, 800, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 500


def test_summary_uses_no_pyplot(tmp_path, diff, candidates):
    import subprocess

    code = (
        "import sys, numpy as np; from astrid_gpu.report import summary_figure;"
        "from astrid_gpu.results import Difference;"
        f"summary_figure(Difference(np.eye(9), score_corr=np.eye(9)), None, {str(tmp_path / 's.png')!r}, dpi=30);"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_same_result_gives_the_same_bytes(tmp_path, diff, candidates):
    first = summary_figure(diff, candidates, tmp_path / "a.png", dpi=40).read_bytes()
    assert summary_figure(diff, candidates, tmp_path / "b.png", dpi=40).read_bytes() == first


def test_rings_are_where_the_candidates_are(tmp_path, diff, candidates, monkeypatch):
    figure = drawn(monkeypatch, summary_figure, diff, candidates, tmp_path / "s.png", dpi=40)
    for axis in figure.axes[:4]:
        rings = axis.collections[1]  # the first is their halo
        assert rings.get_offsets().tolist() == [[50, 40], [20, 70], [119, 2]]  # strongest first
        red, blue, _ = rings.get_edgecolors()
        assert red[0] > red[2]
        assert blue[2] > blue[0]
        assert [dashes is None for _, dashes in rings.get_linestyle()] == [True, False, False]


def test_numbers_do_not_lie_on_each_other(tmp_path, diff, monkeypatch):
    rows = np.zeros(4, candidate_dtype())
    rows["id"], rows["x"], rows["y"], rows["score"] = (1, 2, 3, 4), (50, 51, 52, 90), (40, 41, 39, 40), (9, 30, 8, 7)
    figure = drawn(monkeypatch, summary_figure, diff, Candidates(rows), tmp_path / "s.png")
    assert [text.get_text() for text in figure.axes[2].texts] == ["2", "4"]
    assert len(figure.axes[2].collections[1].get_offsets()) == 4


def test_scales(tmp_path, diff, candidates, monkeypatch):
    figure = drawn(monkeypatch, summary_figure, diff, candidates, tmp_path / "s.png", dpi=40)
    science, reference, difference, score = (axis.images[0] for axis in figure.axes[:4])
    assert science.get_clim() == reference.get_clim()
    assert score.get_clim() == (-10, 10)
    low, high = difference.get_clim()
    assert low == -high
    assert score.get_cmap().name == difference.get_cmap().name == DIVERGING
    # the reference is shown in science units
    level = sky_scale(diff.science, diff.reference * 1.1).level
    np.testing.assert_allclose(reference.get_array(), diff.reference * 1.1 - level)


def test_invalid_pixels_are_hatched(tmp_path, diff, monkeypatch):
    figure = drawn(monkeypatch, summary_figure, diff, None, tmp_path / "s.png", dpi=40)
    for axis in figure.axes[2:4]:
        overlay = np.asarray(axis.images[1].get_array())
        zoom = overlay.shape[0] // SHAPE[0]
        covered = overlay[zoom // 2 :: zoom, zoom // 2 :: zoom, 3] > 0
        np.testing.assert_array_equal(covered, diff.mask != 0)
        assert len(np.unique(overlay[overlay[..., 3] > 0][:, 0])) == 2  # two greys


def test_histogram_counts_every_valid_pixel(tmp_path, diff, monkeypatch):
    figure = drawn(monkeypatch, summary_figure, diff, None, tmp_path / "s.png", dpi=40)
    stairs = figure.axes[4].patches[0]
    assert stairs.get_data().values.sum() == np.isfinite(diff.score_corr).sum()
    assert stairs.get_data().values[-1] >= 1  # the 30-sigma pixel is counted in the last bin
    assert figure.axes[4].get_yscale() == "log"


def test_numbers_and_flags_are_told(tmp_path, diff, candidates, monkeypatch):
    figure = drawn(monkeypatch, summary_figure, diff, candidates, tmp_path / "s.png", title="My field", dpi=40)
    said = [text.get_text() for text in figure.axes[5].texts] + [text.get_text() for text in figure.texts]
    for words in ("My field", "2.50 and 2.00 px", "21.30 mag (AB)", "+30.0", "−8.0", "3 candidates"):
        assert any(words in text for text in said), words
    assert any("saturated science, near bad …" in text for text in said)


@pytest.mark.parametrize("missing", ["science", "score_corr", "mask", "wcs"])
def test_what_is_missing_is_left_out(tmp_path, diff, candidates, missing):
    changes = {missing: None} | ({"reference": None} if missing == "science" else {})
    assert summary_figure(replace(diff, **changes), candidates, tmp_path / "s.png", dpi=40).exists()


def test_many_candidates_and_a_large_image(tmp_path, rng):
    image = rng.normal(size=(1000, 2100)).astype(np.float32)
    rows = np.zeros(700, candidate_dtype())
    rows["id"], rows["x"], rows["y"] = np.arange(700), rng.uniform(0, 2100, 700), rng.uniform(0, 1000, 700)
    rows["score"], rows["polarity"] = rng.normal(0, 9, 700), 1
    diff = Difference(image, score_corr=image, science=image, reference=image)
    assert summary_figure(diff, Candidates(rows), tmp_path / "s.png", dpi=40).exists()


def test_constant_and_empty_images(tmp_path):
    for image in (np.zeros((20, 20)), np.full((20, 20), np.nan)):
        diff = Difference(image, score_corr=image, science=image, reference=image)
        assert summary_figure(diff, None, tmp_path / "s.png", dpi=30).exists()


def test_refusals(tmp_path, diff):
    with pytest.raises(InputError, match="stack of shape"):
        summary_figure(Difference(np.zeros((2, 5, 5))), None, tmp_path / "s.png")
    with pytest.raises(InputError, match=r"s\.bmp; figures are written as"):
        summary_figure(diff, None, tmp_path / "s.bmp", dpi=30)
    assert list(tmp_path.iterdir()) == []


def test_sheet(tmp_path, cutouts, candidates, monkeypatch):
    figure = drawn(monkeypatch, candidate_sheet, cutouts, candidates, tmp_path / "c.png", dpi=40)
    assert len(figure.axes) == 12
    said = [text.get_text() for text in figure.texts]
    assert said.index("1") < said.index("2") < said.index("3")
    science, reference = (figure.axes[k].images[0] for k in (0, 1))
    assert science.get_clim() == reference.get_clim()
    candidate_sheet(cutouts, candidates, tmp_path / "c.png", top=1, dpi=30)
    with pytest.raises(InputError, match="cutout 1 has no candidate"):
        candidate_sheet(cutouts, candidates[1:], tmp_path / "c.png")


def test_empty_sheet(tmp_path, cutouts, candidates):
    none = Cutouts(cutouts.images[:0], cutouts.score_corr[:0], cutouts.mask[:0], cutouts.ids[:0])
    assert candidate_sheet(none, candidates[:0], tmp_path / "c.png", dpi=30).exists()


# ---- parts


def test_shrink_keeps_means_and_peaks(rng):
    image = rng.normal(size=(2 * MAX_PIXELS, 2 * MAX_PIXELS))
    image[100, 101], image[:2, :2] = -40, np.nan
    image[2, 2] = np.nan
    mean, peak = shrink(image), shrink(image, extreme=True)
    assert mean.shape == peak.shape == (MAX_PIXELS, MAX_PIXELS)
    assert mean[20, 20] == pytest.approx(image[40:42, 40:42].mean())
    assert peak[50, 50] == -40
    assert np.isnan(mean[0, 0])
    assert mean[1, 1] == pytest.approx(np.nanmean(image[2:4, 2:4]))
    small = rng.normal(size=(5, 5))
    assert shrink(small) is small


@pytest.mark.parametrize("angle", [0.0, 30.0, 135.0, -100.0])
@pytest.mark.parametrize("flip", [-1, 1])
def test_compass(angle, flip):
    wcs = sky_wcs(angle, 0.7, flip)
    north, east, scale = sky_frame(wcs, SHAPE)
    assert scale == pytest.approx(0.7, rel=1e-4)
    middle = np.array([(SHAPE[1] - 1) / 2, (SHAPE[0] - 1) / 2])
    ra, dec = wcs.pixel_to_world_values(*np.array([middle, middle + north, middle + east]).T)
    assert dec[1] - dec[0] == pytest.approx(0.7 / 3600, rel=1e-3)
    assert (ra[2] - ra[0]) * np.cos(np.radians(dec[0])) == pytest.approx(0.7 / 3600, rel=1e-3)


@pytest.mark.parametrize(
    ("target", "label"), [(0.3, "0.2″"), (7.0, "5″"), (59.0, "50″"), (61.0, "1′"), (700.0, "10′"), (9000.0, "2°")]
)
def test_scale_bar(target, label):
    assert _nice_length(target)[1] == label
