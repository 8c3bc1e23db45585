"""Where a Piff file says what: its parameters at places of the image, and how pixels lie on the sky there.

Piff's interpolations BasisPolynomial, Polynomial and Mean. The file's WCS is a pickle, which is never opened: u, v and
their derivatives follow from those of the stars in the file, by a polynomial in x and y.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from astrid_gpu.errors import PsfError
from astrid_gpu.ops.field import n_terms, terms_at

__all__ = ["INTERPOLATIONS", "Places", "highest_power", "parameters_at", "places_of", "why_not_interpolated"]

INTERPOLATIONS = ("BasisPolynomial", "Polynomial", "Mean")
_HIGHEST = 3  # order of u and v in x and y
_KINDS = {"poly": "polynomial.polyval2d", "chebyshev": "chebyshev.chebval2d", "legendre": "legendre.legval2d",
          "laguerre": "laguerre.lagval2d", "hermite": "hermite.hermval2d"}  # fmt: skip


class Places(NamedTuple):
    """Places (n,): 0-based y and x, the field position (u, v), and d(v, u)/d(y, x), shape (n, 2, 2), arcsec a pixel."""

    y: np.ndarray
    x: np.ndarray
    u: np.ndarray
    v: np.ndarray
    jacobian: np.ndarray


def places_of(stars: Any, y: np.ndarray, x: np.ndarray) -> Places:
    """Return places with all that the file's stars tell of them.

    Raises
    ------
    PsfError
        Too few stars.
    """
    at = np.asarray(stars["y"], float) - 1.0, np.asarray(stars["x"], float) - 1.0  # Piff counts from 1, as FITS
    centre = float(at[0].mean()), float(at[1].mean())
    scale = float(np.ptp(at[0])) / 2 or 1.0, float(np.ptp(at[1])) / 2 or 1.0
    order = max(k for k in range(_HIGHEST + 1) if len(at[0]) >= 2 * n_terms(k) or k == 0)
    if order == 0:
        msg = f"the Piff file holds {len(at[0])} stars, too few to tell where on the sky its pixels are"
        raise PsfError(msg)

    def over_field(names: tuple[str, ...], order: int) -> Any:
        known = np.stack([np.asarray(stars[name], float) for name in names], axis=1)
        solution = np.linalg.lstsq(terms_at(*at, order, centre, scale), known, rcond=None)[0]
        return lambda py, px: (terms_at(py, px, order, centre, scale) @ solution).T

    plane = over_field(("u", "v"), order)
    u, v = plane(y, x)
    if "dudx" in stars.names:  # of the local frame, north up, which need not be that of u and v
        dudx, dudy, dvdx, dvdy = over_field(("dudx", "dudy", "dvdx", "dvdy"), max(order - 1, 1))(y, x)
    else:
        dudy, dvdy = plane(y + 0.5, x) - plane(y - 0.5, x)
        dudx, dvdx = plane(y, x + 0.5) - plane(y, x - 0.5)
    return Places(y, x, u, v, np.stack([np.stack([dvdy, dvdx], 1), np.stack([dudy, dudx], 1)], 1))


def why_not_interpolated(interp: Any, solution: Any) -> str | None:
    """Return why an interpolation is not evaluated here, None if it is."""
    kind = str(interp["type"][0])
    if kind not in INTERPOLATIONS or solution is None:
        return f"interpolation {kind}"
    others = [key for key in _keys(interp) if key not in ("u", "v", "x", "y")]
    if others:
        return f"interpolation {kind} over {', '.join(others)}"
    if kind == "BasisPolynomial" and "max_order" in interp.names and interp["max_order"].dtype.kind not in "iu":
        return f"interpolation {kind} with a table of orders"
    if kind == "Polynomial" and str(interp["poly_type"][0]) not in _KINDS:
        return f"interpolation {kind} of kind {interp['poly_type'][0]}"
    return None


def highest_power(interp: Any, solution: Any) -> int:
    """Return the order of the file's polynomial, 0 for a constant."""
    if str(interp["type"][0]) == "Mean":
        return 0
    if str(interp["type"][0]) == "Polynomial":
        return int(np.max(solution["U_EXPONENT"] + solution["V_EXPONENT"]))
    return int(np.max(np.sum(_powers(interp), axis=1)))


def parameters_at(interp: Any, solution: Any, places: Places) -> np.ndarray:
    """Return the model's parameters at places, (n, p)."""
    kind = str(interp["type"][0])
    if kind == "Mean":
        mean = np.ravel(np.asarray(solution["mean"], float))
        return np.broadcast_to(mean, (len(places.u), len(mean)))
    if kind == "Polynomial":
        return _of_own_polynomials(str(interp["poly_type"][0]), solution, places)
    known = {"u": places.u, "v": places.v, "x": places.x + 1.0, "y": places.y + 1.0}
    first, second = (known[key] for key in _keys(interp))
    basis = np.stack([first**i * second**j for i, j in _powers(interp)], axis=1)
    return basis @ np.asarray(solution["q"][0], float).reshape(-1, basis.shape[1]).T


def _keys(interp: Any) -> list[str]:
    """Return what the polynomial is in; files from before there was a choice do not say."""
    if "keys" not in interp.names:
        return ["u", "v"]
    return [str(key).strip() for key in np.ravel(interp["keys"][0])]


def _powers(interp: Any) -> list[tuple[int, int]]:
    """Return the powers of the terms of a BasisPolynomial: that of the first key is the outer one."""
    orders = np.ravel(interp["order"][0]).astype(int)
    one, other = (int(k) for k in (orders if orders.size == 2 else np.repeat(orders, 2)))
    most = int(interp["max_order"][0]) if "max_order" in interp.names else max(one, other)
    return [(i, j) for i in range(one + 1) for j in range(other + 1) if i + j <= most]


def _of_own_polynomials(kind: str, solution: Any, places: Places) -> np.ndarray:
    """Return parameters of which each has its own series in u and v."""
    module, function = _KINDS[kind].split(".")
    evaluate = getattr(getattr(np.polynomial, module), function)
    number, i, j = (np.asarray(solution[name], int) for name in ("PARAM", "U_EXPONENT", "V_EXPONENT"))
    out = []
    for p in range(number.max() + 1):
        mine = number == p
        table = np.zeros((i[mine].max() + 1, j[mine].max() + 1))
        table[i[mine], j[mine]] = solution["COEFF"][mine]
        out.append(evaluate(places.u, places.v, table))
    return np.stack(out, axis=1)
