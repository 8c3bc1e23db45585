"""`simulate.inject`: light and noise as a camera would have them, real images left whole, errors in words."""

from __future__ import annotations

import numpy as np
import pytest

import astrid_gpu as ag
from astrid_gpu.errors import InputError, PsfError
from astrid_gpu.ops.psf_stamps import moffat_stamp
from astrid_gpu.simulate import PsfModel, inject
from astrid_gpu.simulate.compare import compare, forced_flux

SHAPE = (90, 110)


def blank(level=100.0, **known):
    known.setdefault("variance", np.ones(SHAPE, np.float32))
    return ag.Image(np.full(SHAPE, level, np.float32), name="blank", **known)


def one(x=50.0, y=40.0, flux=1000.0):
    return {"x": [x], "y": [y], "flux": [flux]}


@pytest.mark.parametrize(("x", "y"), [(50.0, 40.0), (50.37, 39.8), (49.5, 40.5), (60.01, 44.99)])
@pytest.mark.parametrize("psf", ["stamp", "profile"])
def test_light_is_the_flux_at_its_place(x, y, psf):
    image = ag.Image(np.full(SHAPE, 100.0), variance=np.ones(SHAPE), name="blank")
    shape = moffat_stamp(3.1, 3.5, 31) if psf == "stamp" else PsfModel("moffat", 3.1, 3.5)
    added = inject(image, one(x, y), psf=shape, noise=False).image.data - image.data
    assert added.sum() == pytest.approx(1000.0, rel=1e-9)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    # The wings of a Moffat cut off at 12 FWHM across weigh on a centroid by less than this.
    assert (rows * added).sum() / 1000 == pytest.approx(y, abs=0.02)
    assert (columns * added).sum() / 1000 == pytest.approx(x, abs=0.02)


def test_stamp_and_profile_agree():
    """A sampled stamp moved by a phase is the profile integrated there: to a part in a thousand of the peak."""
    model, at = PsfModel("moffat", 3.1, 3.5), one(50.3, 39.7)
    axis = np.arange(-18, 19)
    stamp = model.pixels(axis, axis)
    one_way = inject(blank(0.0), at, psf=stamp / stamp.sum(), noise=False).image.data
    other = inject(blank(0.0), at, psf=model, noise=False).image.data
    assert np.abs(one_way - other).max() < 2e-3 * other.max()


def test_a_source_at_the_edge_leaves_nothing_on_the_other_side():
    added = inject(blank(0.0), one(0.2, 40.0), psf="moffat:3,3", noise=False).image.data
    middle = inject(blank(0.0), one(50.2, 40.0), psf="moffat:3,3", noise=False).image.data
    np.testing.assert_allclose(added[:, :40], middle[:, 50:90], atol=1e-3)
    assert np.abs(added[:, 60:]).max() == 0


def test_photon_noise_is_that_of_the_electrons():
    """400 sources of 900 counts at a gain of 2: the sum of each varies by sqrt(900 / 2)."""
    gain, flux = 2.0, 900.0
    y, x = (v.ravel() for v in np.mgrid[10:410:20, 10:410:20])
    image = ag.Image(np.zeros((420, 420)), variance=np.ones((420, 420)), gain=gain, name="dark")
    at = {"x": x, "y": y, "flux": np.full(400, flux)}
    # A Gaussian ends within its own cell of 20 pixels.
    data = inject(image, at, psf="gaussian:2.5", seed=3).image.data
    sums = data[:400, :400].reshape(20, 20, 20, 20).sum(axis=(1, 3)).ravel()
    sigma = np.sqrt(flux / gain)
    assert sums.mean() == pytest.approx(flux, abs=5 * sigma / 20)
    assert sums.std() == pytest.approx(sigma, rel=5 / np.sqrt(2 * 400))
    assert np.abs(data * gain - np.rint(data * gain)).max() < 1e-9  # whole electrons


def test_same_seed_same_pixels():
    images = [inject(blank(gain=2.0), one(), psf="gaussian:3", seed=s).image.data for s in (7, 7, 8)]
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_what_is_saturated_masked_or_missing_stays_so():
    data = np.full(SHAPE, 100.0, np.float32)
    data[40, 48], data[40, 53] = np.nan, 7000.0
    mask = np.zeros(SHAPE, np.uint8)
    mask[41, 50] = 1
    image = ag.Image(data.copy(), mask=mask, variance=np.ones(SHAPE), gain=1.0, saturation=5000.0)
    changed = inject(image, one(flux=2e5), psf="gaussian:3").image
    assert changed.data.dtype == np.float32
    assert np.isnan(changed.data[40, 48])
    assert changed.data[40, 50] == 5000
    assert changed.data[40, 53] == 7000  # it was above before
    assert np.array_equal(changed.mask, mask)
    assert np.array_equal(image.data, data, equal_nan=True)  # the user's own is left alone


def test_saturation_is_a_level_of_the_raw_pixels():
    image = blank(0.0, gain=1.0, saturation=5000.0, background_level=800.0)
    assert inject(image, one(flux=2e5), psf="gaussian:3").image.data.max() == 4200


def test_variance_plane_grows_by_the_sources_share():
    image = blank(gain=4.0, variance=np.full(SHAPE, 9.0, np.float32))
    changed, truth = inject(image, one(flux=4000.0), psf="gaussian:3")
    assert (changed.variance - 9).sum() == pytest.approx(1000.0, rel=1e-4)
    assert changed.variance.dtype == np.float32
    assert 0 < truth["snr"][0] < np.sqrt(4000 * 4)  # less than its photons alone allow


def test_significance_is_that_of_an_optimal_filter():
    """Faint on white noise of sigma 3: flux sqrt(sum P²) / 3."""
    stamp = moffat_stamp(3.0, 3.0, 25)
    image = ag.Image(np.zeros(SHAPE), variance=np.full(SHAPE, 9.0))
    truth = inject(image, one(flux=100.0), psf=stamp, noise=False).truth
    assert truth["snr"][0] == pytest.approx(100 * np.sqrt((stamp**2).sum()) / 3, rel=1e-6)


def test_significance_on_the_noise_of_the_pixels(rng):
    """Without a variance plane the sky's own noise counts: sigma 4, good to a few per cent on 10 000 pixels."""
    stamp = moffat_stamp(3.0, 3.0, 25)
    image = ag.Image(100 + 4 * rng.standard_normal(SHAPE), name="sky")
    truth = inject(image, one(flux=50.0), psf=stamp, noise=False).truth
    assert truth["snr"][0] == pytest.approx(50 * np.sqrt((stamp**2).sum()) / 4, rel=0.05)


def test_on_a_canvas_without_noise_there_is_no_significance():
    assert np.isnan(inject(np.zeros(SHAPE), one(), psf="gaussian:3", noise=False).truth["snr"][0])


def test_a_psf_that_varies_is_taken_at_each_source():
    class Model:
        def at(self, x, y):
            return moffat_stamp(2.0 + x / 50, 3.0, 31)

    data = inject(blank(0.0), {"x": [25, 85], "y": [40, 40], "flux": [1e3, 1e3]}, psf=Model(), noise=False).image.data
    assert data[40, 25] > 1.4 * data[40, 85]


def test_sky_coordinates_and_magnitudes():
    pytest.importorskip("astropy")
    wcs = ag.simulate.make_wcs(SHAPE)
    ra, dec = wcs.pixel_to_world_values(50.0, 40.0)
    image = blank(wcs=wcs, zero_point=25.0)
    truth = inject(image, {"ra": [ra], "dec": [dec], "mag": [17.5]}, psf="gaussian:3", noise=False).truth
    assert truth["x"][0] == pytest.approx(50, abs=1e-6)
    assert truth["flux"][0] == pytest.approx(1000)
    assert truth["ra"][0] == pytest.approx(ra)


def test_truth_keeps_what_the_user_says_of_a_source():
    rows = np.zeros(2, [("x", "f8"), ("y", "f8"), ("flux", "f8"), ("id", "i4"), ("kind", "U12"), ("on_galaxy", "?")])
    rows["x"], rows["y"], rows["flux"], rows["id"], rows["kind"], rows["on_galaxy"] = 50, 40, 10, [5, 9], "flare", True
    truth = inject(blank(), rows, psf="gaussian:3", noise=False).truth
    assert truth.dtype == ag.simulate.TRUTH_DTYPE
    assert list(truth["id"]) == [5, 9]
    assert truth["on_galaxy"].all()
    assert set(truth["kind"]) == {"flare"}


def test_no_sources_change_nothing():
    image = blank(gain=1.0)
    changed, truth = inject(image, {"x": [], "y": [], "flux": []}, psf="gaussian:3")
    assert len(truth) == 0
    assert np.array_equal(changed.data, image.data)


@pytest.mark.parametrize(
    ("sources", "options", "told"),
    [
        ({"x": [1.0], "y": [1.0]}, {}, "need the column flux"),
        ({"flux": [1.0]}, {}, "columns x and y"),
        ({"ra": [1.0], "dec": [1.0], "flux": [1.0]}, {}, "no WCS"),
        ({"x": [1.0], "y": [1.0], "mag": [20.0]}, {}, "no zero point"),
        ({"x": [1.0, 2.0], "y": [1.0], "flux": [1.0]}, {}, "one length"),
        ([(1.0, 2.0, 3.0)], {}, "mapping with columns"),
        (one(x=200.0), {}, "off the 110x90 image"),
        (one(x=np.nan), {}, "off the 110x90 image"),
        (one(flux=-5.0), {}, "inject it into the reference"),
        (one(flux=np.inf), {}, "finite and positive"),
        (one(), {"noise": True}, "no gain"),
        (one(), {"noise": True, "gain": -1.0}, "gain of -1.0"),
    ],
)
def test_bad_input_is_refused_in_words(sources, options, told):
    with pytest.raises(InputError, match=told):
        inject(blank(), sources, **({"psf": "gaussian:3", "noise": False} | options))


def test_without_stars_a_psf_must_be_given(rng):
    with pytest.raises(PsfError, match="PSF"):
        inject(ag.Image(100 + rng.standard_normal(SHAPE)), one(), noise=False)


def test_injected_sources_are_found_with_their_fluxes():
    """Into the science image of a simulated pair: 30 sources of S/N about 25 come back, fluxes within their errors."""
    field = ag.simulate.pair(seed=11, shape=(256, 256), n_changes=0, n_stars=60, n_galaxies=0, bad_columns=0)
    science, reference = field.known()
    y, x = (v.ravel() + 0.3 for v in np.mgrid[30:230:40, 30:230:33])
    changed, truth = inject(science, {"x": x, "y": y, "flux": np.full(x.size, 2500.0)}, seed=5)
    diff = ag.subtract(changed, reference)
    flux, error = forced_flux(diff, truth["x"], truth["y"])
    usable = np.isfinite(flux) & (error < 3 * np.nanmedian(error))  # not under a bright star
    assert usable.sum() >= 25
    pull = (flux[usable] - 2500) / error[usable]
    assert abs(pull.mean()) < 4 / np.sqrt(usable.sum())
    assert pull.std() == pytest.approx(1, abs=4 / np.sqrt(2 * usable.sum()))
    found = compare(diff, ag.detect(diff), truth[usable])
    assert found.found.all()


def test_verb_writes_image_and_truth(tmp_path, capsys):
    fits = pytest.importorskip("astropy.io.fits")
    from astrid_gpu.cli import main

    field = ag.simulate.pair(seed=2, shape=(128, 128), n_changes=0)
    before = ag.simulate.write_fits(field.science, tmp_path / "science.fits")
    (tmp_path / "s.csv").write_text("x,y,flux\n60.2,70.1,5000\n30,90,800\n", encoding="utf-8")
    out = tmp_path / "new.fits"
    command = ["inject", str(before), str(tmp_path / "s.csv"), "-o", str(out), "--psf", "moffat:2.5,3.5", "--no-noise"]
    assert main(command) == 0
    assert "2 sources" in capsys.readouterr().out
    added = np.nansum(fits.getdata(out).astype(float) - fits.getdata(before).astype(float))
    assert added == pytest.approx(5800, rel=1e-3)
    assert "injected" in fits.getheader(out)["ORIGIN"]
    assert (tmp_path / "new.truth.csv").read_text(encoding="utf-8").splitlines()[0].startswith("id,x,y,ra,dec,kind")


@pytest.mark.parametrize(("text", "told"), [("x,y,flux\n", "no sources"), ("x,y,flux\n1,2,bright\n", "column flux")])
def test_verb_refuses_a_table_in_words(tmp_path, capsys, text, told):
    from astrid_gpu.cli import main

    (tmp_path / "s.csv").write_text(text, encoding="utf-8")
    assert main(["inject", "none.fits", str(tmp_path / "s.csv")]) == 2
    assert told in capsys.readouterr().err


def test_a_measured_psf_carries_the_light_that_subtract_counts():
    """Injected with the PSF of the image's stars, measured with those of the same stars: fluxes agree to 2 per cent."""
    field = ag.simulate.pair(seed=11, shape=(256, 256), n_changes=0, n_stars=120, n_galaxies=0, bad_columns=0)
    y, x = (v.ravel() + 0.3 for v in np.mgrid[30:230:40, 30:230:33])
    changed, truth = inject(field.science, {"x": x, "y": y, "flux": np.full(x.size, 2e4)}, seed=5)
    flux, error = forced_flux(ag.subtract(changed, field.reference), truth["x"], truth["y"])
    usable = np.isfinite(flux) & (error < 3 * np.nanmedian(error))
    assert usable.sum() >= 25
    assert np.median(flux[usable]) == pytest.approx(2e4, rel=0.02)
