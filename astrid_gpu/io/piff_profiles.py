r"""Piff's analytic models on pixels: Gaussian, Moffat and Kolmogorov profiles, dilated, sheared and integrated.

A profile p(r) of sigma 1 (Gaussian) or half-light radius 1 (the others) is dilated by `scale` and sheared by
(g1, g2) without changing its area; with J = d(u, v)/d(x, y) and d a pixel's offset from the centre,

.. math:: I(d) = \int p(|S^{-1} J (d + t)| / s) d^2t, \quad
          S = \frac{1}{\sqrt{1 - g^2}} \begin{pmatrix} 1 + g_1 & g_2 \\ g_2 & 1 - g_1 \end{pmatrix}

over the pixel, by Gauss-Legendre nodes; at its middle alone where the model says that the pixel is in it already.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from astrid_gpu.errors import PsfError

__all__ = ["PROFILES", "profile_stamps"]

PROFILES = ("Gaussian", "Moffat", "Kolmogorov")
_KOLMOGOROV = 1.6605133326867048
"""Half-light radius R of the transform of exp(-k^(5/3)): R times the integral of J1(kR) exp(-k^(5/3)) over k is 1/2."""
_REACH = {"Gaussian": 5.0, "Moffat": 12.0, "Kolmogorov": 12.0}  # half side of the stamp: sigma, half-light radii
_LONGEST = 128  # px, half side
_FINE = 24  # nodes along a side of a pixel that the edge of a truncated profile crosses
_WINGS, _COARSE = 4.0, 3  # beyond so many units so many nodes are enough


class _Profile(NamedTuple):
    """Of unit size: p(r), unnormalised; how far it reaches; where it is cut off, infinity for never."""

    value: Callable[[np.ndarray], np.ndarray]
    reach: float
    edge: float


def profile_stamps(model: Any, parameters: np.ndarray, jacobian: np.ndarray) -> np.ndarray:
    """Return centred stamps (n, side, side) of sum 1.

    Parameters
    ----------
    model : table
        The file's `psf_model`.
    parameters : array (n, p)
        [flux,] [du, dv,] scale, g1, g2; flux and offset do not matter to a centred PSF of sum 1.
    jacobian : array (n, 2, 2)
        d(v, u)/d(y, x).

    Raises
    ------
    PsfError
        A size that is not positive or a shear of 1 and more: the file's polynomial has run off.
    """
    size, g1, g2 = parameters[:, -3:].T
    shear = np.hypot(g1, g2)
    if not (np.isfinite(parameters).all() and (size > 0).all() and (shear < 1).all()):
        k = int(np.flatnonzero(~((size > 0) & (shear < 1)))[0])
        msg = (
            f"the Piff model has size {size[k]:.3g} and shear {shear[k]:.3g} at one place of the image: it holds for "
            "another image, or for another part of this one"
        )
        raise PsfError(msg)
    profile = _profile_of(model)
    # Inverse of the shear, for (v, u) as the Jacobian has them.
    back = np.stack([np.stack([1 + g1, -g2], 1), np.stack([-g2, 1 - g1], 1)], 1)
    back /= (size * np.sqrt(1 - shear**2))[:, None, None]
    to_unit = back @ jacobian
    widest, narrowest = (1 / np.linalg.svd(to_unit, compute_uv=False)[:, k] for k in (1, 0))
    half = min(int(np.ceil(profile.reach * widest.max())) + 1, _LONGEST)
    pixel = bool(model["include_pixel"][0]) if "include_pixel" in model.names else True
    nodes = int(np.clip(np.ceil(4.0 / narrowest.min()) + 3, 4, _FINE)) if pixel else 1
    stamps = np.stack([_drawn(profile, one, half, nodes) for one in to_unit])
    return stamps / stamps.sum((1, 2), keepdims=True)


def _drawn(profile: _Profile, to_unit: np.ndarray, half: int, nodes: int) -> np.ndarray:
    """Return one profile at whole pixels about its centre."""
    offset = np.arange(-half, half + 1, dtype=float)
    dy, dx = (d.ravel() for d in np.meshgrid(offset, offset, indexing="ij"))
    radius, pixel = np.hypot(*(to_unit @ np.stack([dy, dx]))), np.linalg.norm(to_unit, 2)
    cut = np.abs(radius - profile.edge) < pixel
    far = ~cut & (radius > _WINGS + pixel)
    stamp = np.empty(len(dy))
    for part, n in ((~cut & ~far, nodes), (far, min(nodes, _COARSE)), (cut, _FINE if nodes > 1 else 1)):
        stamp[part] = _integrated(profile, to_unit, dy[part], dx[part], n)
    return stamp.reshape(2 * half + 1, 2 * half + 1)


def _integrated(profile: _Profile, to_unit: np.ndarray, dy: np.ndarray, dx: np.ndarray, nodes: int) -> np.ndarray:
    """Return the integral over each pixel."""
    place, weight = np.polynomial.legendre.leggauss(nodes)
    out = np.zeros(len(dy))
    for ty, wy in zip(place / 2, weight / 2, strict=True):
        for tx, wx in zip(place / 2, weight / 2, strict=True):
            v, u = (row[0] * (dy + ty) + row[1] * (dx + tx) for row in to_unit)
            out += wy * wx * profile.value(np.hypot(u, v))
    return out


def _profile_of(model: Any) -> _Profile:
    """Return the profile that a model stands for."""
    kind = str(model["type"][0])
    if kind == "Gaussian":
        return _Profile(lambda r: np.exp(-0.5 * r**2), _REACH[kind], np.inf)
    if kind == "Kolmogorov":
        return _Profile(_kolmogorov(), _REACH[kind], np.inf)
    beta = float(model["beta"][0])
    edge = float(model["trunc"][0]) if "trunc" in model.names else 0.0
    edge = edge if edge > 0 else np.inf
    core = _moffat_core(beta, edge)

    def value(r: np.ndarray) -> np.ndarray:
        return np.where(r <= edge, (1 + (r / core) ** 2) ** -beta, 0.0)

    return _Profile(value, min(_REACH[kind], edge), edge)


def _moffat_core(beta: float, edge: float) -> float:
    """Return the core radius for which half of the light within the edge lies within 1."""
    from scipy.optimize import brentq

    def light(r: float, core: float) -> float:
        bracket = np.log1p((r / core) ** 2)
        return float(-np.expm1((1 - beta) * bracket) / (beta - 1)) if beta != 1 else float(bracket)

    if not np.isfinite(edge):
        if not beta > 1:
            msg = f"a Moffat profile of beta {beta:g} without an edge has no finite light"
            raise PsfError(msg)
        return float(1 / np.sqrt(2 ** (1 / (beta - 1)) - 1))
    if not edge > np.sqrt(2):
        msg = f"a Moffat profile cut off at {edge:g} half-light radii does not exist; the least is sqrt(2)"
        raise PsfError(msg)
    return float(brentq(lambda core: light(1.0, core) - 0.5 * light(edge, core), 1e-4, 1e4, xtol=1e-13))


@lru_cache(maxsize=1)
def _kolmogorov() -> Callable[[np.ndarray], np.ndarray]:
    """Return the transform of exp(-k^(5/3)) with half-light radius 1, up to 3 times the reach of the stamps.

    With k = t³ the integrand is smooth, and the nodes see it to rounding.
    """
    from scipy.interpolate import CubicSpline
    from scipy.special import j0

    t, weight = np.polynomial.legendre.leggauss(1600)
    t, weight = 1.03 * (t + 1), 1.03 * weight  # exp(-2.06^5) is below 1e-16
    furthest = np.arcsinh(3 * _REACH["Kolmogorov"])
    places = np.linspace(0, furthest, 600)
    radius = np.sinh(places) * _KOLMOGOROV
    values = j0(radius[:, None] * t**3) @ (weight * 3 * t**5 * np.exp(-(t**5)))
    step, coefficients = places[1], CubicSpline(places, np.log(values)).c

    def value(r: np.ndarray) -> np.ndarray:
        place = np.arcsinh(r) / step
        k = np.minimum(place.astype(np.intp), coefficients.shape[1] - 1)
        c3, c2, c1, c0 = coefficients[:, k]
        t = np.minimum((place - k) * step, step)
        return np.exp(((c3 * t + c2) * t + c1) * t + c0)

    return value
