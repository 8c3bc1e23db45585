"""Piff files of the simple kinds are read as Piff draws them; other kinds are Piff's own to draw, or refused."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from astrid_gpu.errors import PsfError
from astrid_gpu.image import PSF, PSFModel
from astrid_gpu.io import read_piff, read_psf_model
from astrid_gpu.io.files import open_fits
from astrid_gpu.io.piff import _stamps
from tests.psf_files import check, write_piff, write_piff_tables

Y, X = np.array([290.0]), np.array([480.0])
OFFSETS = ((1, 0), (0, 1), (2, -1), (-3, -2), (4, 5))
BASE, ALONG_U, ALONG_V = np.array([0.5, 0.05, -0.03]), np.array([8e-4, 3e-4, -2e-4]), np.array([-4e-4, 1e-4, 5e-4])
LINEAR = np.stack([BASE, ALONG_V, ALONG_U], axis=1)  # size, g1, g2 over the terms 1, v, u

# Piff 1.7.0 with GalSim 2.8.5: these very tables as SimplePSF objects, drawn at (y 290, x 480) as get_profile gives
# them, with gsparams so tight that the Fourier transform folds little light (folding_threshold 1e-6 for Gaussians, 5e-5
# for Moffat, 1e-4 for Kolmogorov and the truncated one; the default, 5e-3, moves them by 4e-4): pixels at OFFSETS over
# the one in the middle. The tolerance is what the folding leaves.
DRAWN = {
    "gaussian": (0.818266, 0.8020047, 0.4035697, 0.0480339, 5.029931e-05),
    "gaussian without pixel": (0.8123665, 0.7950012, 0.3920807, 0.04238771, 3.351422e-05),
    "gaussian over x and y": (0.9234945, 0.8950494, 0.6569587, 0.3050841, 0.0159701),
    "moffat": (0.643427, 0.6192406, 0.1921954, 0.02435033, 0.001484274),
    "moffat mean": (0.7685866, 0.7359187, 0.3032557, 0.08203643, 0.006079958),
    "moffat chebyshev": (0.642662, 0.606824, 0.20201, 0.02620914, 0.001955646),
    "moffat poly": (0.6253819, 0.5988117, 0.1822667, 0.02444928, 0.001844503),
    "moffat truncated": (0.6476864, 0.6236397, 0.1963446, 0.02524742, 0.001549861),
    "kolmogorov": (0.7035055, 0.6805316, 0.2255284, 0.02100291, 0.001400295),
    "grid of Lanczos 7": (0.9053029, 0.8983991, 0.5921071, 0.2878716, 0.01952813),
}
TOLERANCE = {"gaussian": 2e-7, "grid": 2e-6, "moffat": 1e-5, "kolmogorov": 5e-5}


def tables_of(name):
    """The tables that Piff writes for this model."""
    kind, _, how = name.partition(" ")
    model = {"type": [kind.capitalize()], "centered": [1], "include_pixel": [int(how != "without pixel")]}
    linear = {"type": ["BasisPolynomial"], "order": [1], "keys": [["u", "v"]]}
    if name == "gaussian over x and y":
        terms = np.zeros((3, 5))  # 1, y, x, xy, x²
        terms[:, 0], terms[:, 1], terms[:, 2], terms[0, 4] = BASE, ALONG_V / 4, ALONG_U / 4, 1e-7
        linear |= {"order": [[2, 1]], "max_order": [2], "keys": [["x", "y"]]}
        return {"psf_model": model, "psf_interp": linear, "psf_interp_solution": {"q": terms[None]}}
    if kind == "moffat":
        beta = {"": 2.8, "truncated": 2.8, "mean": 3.1}.get(how, 2.5)
        model |= {"beta": [beta], "trunc": [5.0 if how == "truncated" else 0.0]}
    if how == "mean":
        return {"psf_model": model, "psf_interp": {"type": ["Mean"]}, "psf_interp_solution": {"mean": BASE}}
    if how in ("poly", "chebyshev"):
        powers = [(0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (2, 0)]
        values = [[BASE[k], ALONG_V[k], ALONG_U[k], 1e-6, 1e-6, -1e-6] for k in range(3)]
        columns = {"PARAM": np.repeat(np.arange(3), 6), "COEFF": np.ravel(values)}
        columns |= {f"{axis}_EXPONENT": np.tile([p[i] for p in powers], 3) for i, axis in enumerate("UV")}
        interp = {"type": ["Polynomial"], "order": [2], "poly_type": [how]}
        return {"psf_model": model, "psf_interp": interp, "psf_interp_solution": columns}
    if kind == "grid":
        offset = (np.arange(21) - 10) * 0.25
        v, u = offset[:, None], offset[None]
        one, other = (
            (np.exp(-0.5 * (1.1 * v**2 + u**2 + 0.2 * u * v) / s**2) / (2 * np.pi * s**2)).ravel() for s in (0.5, 0.6)
        )
        model = {"type": ["PixelGrid"], "scale": [0.25], "size": [21], "centered": [1]}
        model["interp"] = ["galsim.Lanczos(7, True, gsparams=galsim.GSParams(128,8192,0.005,5.0,0.001,1e-05))"]
        q = np.stack([one, np.zeros(441), (one - other) / 80], axis=1)
        return {"psf_model": model, "psf_interp": linear, "psf_interp_solution": {"q": q[None]}}
    return {"psf_model": model, "psf_interp": linear, "psf_interp_solution": {"q": LINEAR[None]}}


def own_stamp(path):
    with open_fits(path) as hdus:
        tables = {hdu.name.lower(): hdu.data for hdu in hdus if hasattr(hdu, "columns")}
    return _stamps(tables, tables["psf_stars"], Y, X)[0]


@pytest.mark.parametrize("name", DRAWN)
def test_a_simple_kind_is_what_piff_draws(tmp_path, name):
    path = write_piff_tables(tmp_path / "a.piff", tables_of(name))
    stamp = own_stamp(path)
    middle = len(stamp) // 2
    seen = [stamp[middle + dy, middle + dx] / stamp[middle, middle] for dy, dx in OFFSETS]
    np.testing.assert_allclose(seen, DRAWN[name], atol=TOLERANCE[name.split()[0]])
    model = read_piff(path, shape=(300, 500))
    psf = model.at(Y[0], X[0]).data
    check(psf)
    cut = (len(stamp) - len(psf)) // 2
    same = stamp[cut : cut + len(psf), cut : cut + len(psf)] if cut >= 0 else np.pad(stamp, -cut)
    np.testing.assert_allclose(
        psf, same, atol=1.5e-3 * stamp.max()
    )  # "within 0.1 % of the peak" in the middle of cells
    read = read_psf_model(path, shape=(300, 500))
    assert isinstance(read, PSF if name == "moffat mean" else PSFModel)


def test_the_error_of_the_polynomial_is_told(tmp_path):
    model = read_piff(write_piff_tables(tmp_path / "a.piff", tables_of("moffat")), shape=(300, 500))
    words = model.origin.split()
    assert words[:2] == ["piff", "a.piff,"]
    assert model.order == int(words[3])
    assert float(words[5]) < 0.1
    rows, columns = np.meshgrid([40.0, 170.0], [100.0, 333.0])
    path = tmp_path / "a.piff"
    with open_fits(path) as hdus:
        tables = {hdu.name.lower(): hdu.data for hdu in hdus if hasattr(hdu, "columns")}
    own = _stamps(tables, tables["psf_stars"], rows.ravel(), columns.ravel())
    got = model.stamps(rows.ravel(), columns.ravel())
    half = min(own.shape[1], got.shape[1]) // 2
    own, got = (
        s[:, (side := s.shape[1] // 2) - half : side + half + 1, side - half : side + half + 1] for s in (own, got)
    )
    assert np.abs(own - got).max() < 1e-3 * own.max()


def test_an_offset_and_a_flux_do_not_matter(tmp_path):
    plain = own_stamp(write_piff_tables(tmp_path / "a.piff", tables_of("moffat")))
    tables = tables_of("moffat")
    more = np.zeros((6, 3))
    more[:3, 0], more[3:] = (1.1, 0.05, -0.03), LINEAR
    tables["psf_model"] |= {"centered": [0], "fit_flux": [1]}
    tables["psf_interp_solution"] = {"q": more[None]}
    np.testing.assert_array_equal(own_stamp(write_piff_tables(tmp_path / "b.piff", tables)), plain)


def test_a_model_that_runs_off_is_refused(tmp_path):
    tables, steep = tables_of("gaussian"), LINEAR.copy()
    steep[0, 2] = 0.1
    tables["psf_interp_solution"] = {"q": steep[None]}
    with pytest.raises(PsfError, match=r"the Piff model has size .* at one place of the image"):
        read_piff(write_piff_tables(tmp_path / "a.piff", tables), shape=(300, 500))
    tables = tables_of("moffat") | {"psf_model": {"type": ["Moffat"], "beta": [0.9], "trunc": [0.0]}}
    with pytest.raises(PsfError, match="without an edge has no finite light"):
        read_piff(write_piff_tables(tmp_path / "b.piff", tables))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"psf_model": {"type": ["Optical"]}}, "model of kind Optical with interpolation BasisPolynomial"),
        ({"psf_interp": {"type": ["GPInterp"]}}, "model of kind Gaussian with interpolation GPInterp"),
        (
            {"psf_interp": {"type": ["BasisPolynomial"], "order": [1], "keys": [["u", "v", "colour"]]}},
            "interpolation BasisPolynomial over colour",
        ),
        (
            {"psf_model": {"type": ["PixelGrid"], "scale": [0.3], "size": [17], "interp": ["galsim.Cubic()"]}},
            "PixelGrid with galsim.Cubic between its pixels",
        ),
    ],
)
def test_other_kinds_ask_for_piff(tmp_path, monkeypatch, change, said):
    monkeypatch.setitem(sys.modules, "piff", None)  # as if it were not installed
    path = write_piff_tables(tmp_path / "a.piff", tables_of("gaussian") | change)
    with pytest.raises(PsfError, match=rf'a Piff .*{said} is not read without .* pip install "astrid-gpu\[piff\]"'):
        read_piff(path)


def test_composite_files_and_chips(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "piff", None)
    with pytest.raises(PsfError, match="a Piff file of kind Sum is not read without the piff package"):
        read_piff(write_piff_tables(tmp_path / "a.piff", {"psf_ncomponents": {"n": [2]}}, kind="Sum"))
    tables = tables_of("gaussian") | {"psf_wcs": {"chipnums": [3, 7]}}
    path = write_piff_tables(tmp_path / "b.piff", tables, kind="SingleChip")
    with pytest.raises(PsfError, match=r"of chips 3, 7; choose with read_piff\(path, chip=...\)"):
        read_piff(path)
    with pytest.raises(PsfError, match="there is no chip 4 in it, only 3, 7"):
        read_piff(path, chip=4)


def test_what_only_piff_draws(tmp_path):
    """A sum of two Gaussians, written by Piff and drawn by it over the field."""
    reason = "piff is not installed: kinds that only it draws are not tested"
    piff = pytest.importorskip("piff", reason=reason)
    galsim = pytest.importorskip("galsim", reason=reason)
    wcs = galsim.AffineTransform(0.01, -0.26, 0.255, 0.02, origin=galsim.PositionD(1, 1))
    rng = np.random.default_rng(3)
    parts = []
    for size, flux in ((0.45, 0.8), (0.9, 0.2)):
        interp = piff.BasisPolynomial(order=1)
        interp.q = np.array([[flux, 0, 0], [size, 1e-4, 2e-4], [0.02, 0, 1e-4], [0.01, 0, 0]])
        parts.append(piff.SimplePSF(piff.Gaussian(fit_flux=True), interp))
    psf = piff.SumPSF(parts)
    psf.set_context({0: wcs}, None, None)
    psf.set_num(None)
    places = zip(rng.uniform(1, 500, 60), rng.uniform(1, 300, 60), strict=True)
    psf.stars = [piff.Star.makeTarget(x=x, y=y, wcs=wcs, stamp_size=15) for x, y in places]
    psf.write(str(tmp_path / "sum.piff"))
    model = read_psf_model(tmp_path / "sum.piff", shape=(300, 500))
    assert f"drawn by piff {piff.__version__}" in model.origin
    stamp = model.at(200, 100).data
    drawn = piff.read(str(tmp_path / "sum.piff")).draw(x=101, y=201, stamp_size=len(stamp)).array
    np.testing.assert_allclose(stamp, drawn / drawn.sum(), atol=1e-3 * stamp.max())


def test_stars_of_a_file_without_slopes_tell_them(tmp_path):
    """As the first versions wrote it: u and v of the stars only."""
    assert read_piff(write_piff(tmp_path / "a.piff")).fwhm > 0
