"""PSF files made by hand: PSFEx, DAOPHOT and Piff; and what every PSF must be."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from astrid_gpu.ops.psf_stamps import centroid_of

__all__ = ["check", "gaussian", "write_daophot", "write_piff", "write_piff_tables", "write_psfex"]


def gaussian(shape, y, x, sigma=1.8):
    rows, columns = np.indices(shape)
    return np.exp(-0.5 * ((rows - y) ** 2 + (columns - x) ** 2) / sigma**2)


def check(stamp, *, atol=0.01):
    """Odd, of sum 1, centred."""
    assert stamp.dtype == np.float64
    assert all(side % 2 for side in stamp.shape)
    assert stamp.sum() == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(centroid_of(stamp), [side // 2 for side in stamp.shape], atol=atol)


def write_psfex(path, components, *, order, sampling=1.0, zero=(101.0, 201.0), scale=(100.0, 200.0)):
    n, ny, nx = components.shape
    array = components[None].astype(np.float32)
    column = fits.Column("PSF_MASK", f"{n * ny * nx}E", dim=f"({nx},{ny},{n})", array=array)
    table = fits.BinTableHDU.from_columns([column])
    cards = {"POLNAXIS": 2, "POLGRP1": 1, "POLNAME1": "X_IMAGE", "POLZERO1": zero[0], "POLSCAL1": scale[0]}
    cards |= {"POLGRP2": 1, "POLNAME2": "Y_IMAGE", "POLZERO2": zero[1], "POLSCAL2": scale[1]}
    cards |= {"POLNGRP": 1, "POLDEG1": order, "PSF_FWHM": 4.2, "PSF_SAMP": sampling}
    cards |= {"PSFNAXIS": 3, "ACCEPTED": 77, "CHI2": 1.25}
    table.header.update(cards)
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    return path


def write_daophot(path, kind, parameters, tables, *, height=100.0, centre=(511.5, 1023.5)):
    side = tables.shape[-1] if tables.size else 15
    head = f" {kind:<8}{side:5d}{len(parameters):5d}{len(tables):5d}{0:5d}{14.5:9.3f}{height:15.3f}"
    head += f"{centre[0]:9.1f}{centre[1]:9.1f}"
    lines = [head, " " + "".join(f"{p:13.6E}" for p in parameters)]
    numbers = [f"{v:13.6E}" for v in tables.ravel()]
    lines += [" " + "".join(numbers[i : i + 6]) for i in range(0, len(numbers), 6)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_piff(path, *, size=17, scale=0.3, order=1, model="PixelGrid", interp="BasisPolynomial", missing=3):
    """A Piff file of a Gaussian that widens with u, on a CCD with u along -y and v along +x of 0.26 a pixel."""
    rng = np.random.default_rng(3)
    x, y = rng.uniform(1, 500, 60), rng.uniform(1, 300, 60)
    u, v = -0.26 * (y - 1), 0.26 * (x - 1)
    offset = (np.arange(size) - size // 2) * scale
    base, wide = (np.exp(-0.5 * (offset[:, None] ** 2 + offset[None] ** 2) / s**2) for s in (0.5, 0.6))
    base, wide = base / base.sum() / scale**2, wide / wide.sum() / scale**2
    held = [(size // 2, size // 2), (size // 2 + 1, size // 2), (size // 2, size // 2 + 1)][:missing]
    free = np.ones((size, size), bool)
    for place in held:
        free[place] = False
    terms = [base[free], np.zeros(free.sum()), (base - wide)[free] / 80]  # 1, v, u: wide at u = -80, y = 307
    q = np.stack(terms if order else terms[:1], axis=1)

    columns = {"psf_model": {"type": [model], "scale": [scale], "size": [size]}}
    columns |= {"psf_interp": {"type": [interp], "order": [order]}, "psf_interp_solution": {"q": q[None]}}
    return write_piff_tables(path, columns, {"x": x, "y": y, "u": u, "v": v}, kind="SimplePSF")


def write_piff_tables(path, columns, stars=None, *, kind="Simple"):
    """A Piff file of these tables; its stars lie on a chip of 500 x 300 pixels that is turned, sheared and mirrored."""
    if stars is None:
        rng = np.random.default_rng(3)
        x, y = rng.uniform(1, 500, 60), rng.uniform(1, 300, 60)
        u, v = 0.01 * (x - 1) - 0.26 * (y - 1), 0.255 * (x - 1) + 0.02 * (y - 1)
        slopes = {"dudx": 0.01, "dudy": -0.26, "dvdx": 0.255, "dvdy": 0.02}
        stars = {"x": x, "y": y, "u": u, "v": v} | {key: np.full(60, value) for key, value in slopes.items()}
    tables = {"psf": {"type": [kind]}, "psf_stars": stars, **columns, "psf_chisq": {"chisq": [900.0], "dof": [1000]}}
    made = [_table(name, **content) for name, content in tables.items()]
    fits.HDUList([fits.PrimaryHDU(), *made]).writeto(path)
    return path


def _table(name, **columns):
    made = []
    for key, value in columns.items():
        array = np.array(value)
        kind = {"U": f"{array.dtype.itemsize // 4}A", "f": "D"}.get(array.dtype.kind, "K")
        if array.dtype.kind == "U" and array.ndim > 1:
            width, n = array.dtype.itemsize // 4, array[0].size
            made.append(fits.Column(key, f"{n * width}A", dim=f"({width},{n})", array=array))
        elif array.ndim > 1:
            made.append(fits.Column(key, f"{array[0].size}{kind}", dim=str(array.shape[:0:-1]), array=array))
        else:
            made.append(fits.Column(key, kind, array=array))
    return fits.BinTableHDU.from_columns(made, name=name)
