"""DAOPHOT PSFs (Stetson 1987, 1992), the text form that ZTF delivers: an analytic profile plus tables of residuals.

The first line holds type, table size, number of parameters, of tables and of fractional-pixel terms, the magnitude
of the PSF, the height of the analytic part, and half the frame (x, y). Then the parameters, then the tables, sampled
every half pixel, x fastest. The PSF at (x, y) is

    height * profile + T0 + u T1 + v T2 (+ P2(u) T3 + u v T4 + P2(v) T5),

u and v running from -1 to 1 over the frame, P2 the Legendre polynomial of degree 2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from astrid_gpu.errors import FitsError, PsfError
from astrid_gpu.image import PSFModel

__all__ = ["DaophotPsf", "daophot_form", "looks_like_daophot", "read_daophot_psf"]

_N_PARAMETERS = {"GAUSSIAN": 2, "MOFFAT15": 3, "MOFFAT25": 3, "MOFFAT35": 3, "LORENTZ": 3, "PENNY1": 4, "PENNY2": 5}
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[EeDd][-+]?\d+)?")
_HEAD = re.compile(r"^\s*([A-Z]+\d*)\s+(\d+)\s+(\d+)\s+(\d+)\s+(-?\d+)\s+(.+)$")
_LN2 = float(np.log(2.0))


@dataclass(frozen=True, repr=False)
class DaophotPsf:
    """A DAOPHOT PSF in the file's own form.

    Parameters
    ----------
    kind : str
        GAUSSIAN, MOFFAT15, MOFFAT25, MOFFAT35, LORENTZ, PENNY1 or PENNY2.
    parameters : array
        Half widths at half maximum in x and y, then what the kind needs.
    height : float
        Factor of the analytic profile.
    tables : array, shape (n, side, side)
        Residuals at half-pixel steps, n = 1, 3 or 6 (constant, linear, quadratic), or 0.
    centre : (x, y)
        Half the frame: (number of columns - 1) / 2 and the same for rows.
    """

    kind: str
    parameters: np.ndarray
    height: float
    tables: np.ndarray
    centre: tuple[float, float]
    magnitude: float = float("nan")
    name: str = "daophot"

    @property
    def radius(self) -> float:
        """Radius in pixels within which the tables hold."""
        return ((self.tables.shape[-1] - 1) / 2.0 - 1.0) / 2.0

    def model(self, shape: tuple[int, int] | None = None) -> PSFModel:
        """Return the model on the pixels of the image; a file that varies names the size of its image.

        The Legendre polynomials of u and v, which run over the frame as those of `PSFModel` do, become powers.

        Raises
        ------
        PsfError
            The PSF varies and its file names another size than `shape`.
        """
        varies = len(self.tables) > 1
        own = tuple(round(2 * c + 1) for c in self.centre[::-1])
        if varies and shape is not None and any(abs(a - b) > 1 for a, b in zip(own, shape, strict=True)):
            msg = (
                f"{self.name}: the PSF varies over an image of {own} (ny, nx), this image has {shape}: it belongs to "
                "another one. Give the PSF of this image, or read_psf(path, x=..., y=...) for the PSF at one place"
            )
            raise PsfError(msg)
        (cx, cy), origin = self.centre, f"daophot {self.name}"
        middle = self.raw_at()
        if not varies:
            return PSFModel(middle[None], shape, (cy, cx), (max(cy, 0.5), max(cx, 0.5)), origin=origin)
        parts = [self._table(k) for k in range(1, len(self.tables))]
        terms = np.zeros((6 if len(parts) == 5 else 3, *middle.shape))
        terms[0] = middle
        if len(parts) == 2:
            terms[1], terms[2] = parts  # u, v
        else:
            u, v, uu, uv, vv = parts
            # `middle` holds P2(0) = -1/2 of the two squares already: P2(u) = 3/2 u² - 1/2.
            terms[1], terms[2], terms[3], terms[4], terms[5] = u, 1.5 * uu, v, uv, 1.5 * vv
        return PSFModel(terms, shape or own, (cy, cx), (cy, cx), origin=origin)  # type: ignore[arg-type]

    def _table(self, k: int) -> np.ndarray:
        """Return table k at whole pixels, 0 beyond `radius`."""
        offsets = np.arange(-int(self.radius), int(self.radius) + 1)
        whole = self.tables.shape[-1] // 2 + 2 * offsets  # two samples a pixel: whole offsets fall on samples
        inside = np.hypot(offsets[:, None], offsets[None, :]) < self.radius + 0.5
        return np.where(inside, self.tables[k][np.ix_(whole, whole)], 0.0)

    def raw_at(self, x: float | None = None, y: float | None = None) -> np.ndarray:
        """Return the PSF at (x, y) in the file's own flux scale: an odd stamp, 0 beyond `radius`."""
        half = int(self.radius)
        offsets = np.arange(-half, half + 1)
        stamp = self.height * self._profile(offsets[:, None].astype(float), offsets[None, :].astype(float))
        u = 0.0 if x is None else float(x) / self.centre[0] - 1.0
        v = 0.0 if y is None else float(y) / self.centre[1] - 1.0
        terms = (1.0, u, v, 1.5 * u * u - 0.5, u * v, 1.5 * v * v - 0.5)
        middle = self.tables.shape[-1] // 2
        whole = middle + 2 * offsets  # the tables have two samples a pixel: whole offsets fall on samples
        for term, table in zip(terms, self.tables, strict=False):
            stamp = stamp + term * table[np.ix_(whole, whole)]
        return np.where(np.hypot(offsets[:, None], offsets[None, :]) < self.radius + 0.5, stamp, 0.0)

    def _profile(self, dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
        """Return the analytic profile integrated over pixels at offsets (dy, dx)."""
        if self.kind == "GAUSSIAN":
            hx, hy = self.parameters[:2]
            return _gauss_integral(dx, hx) * _gauss_integral(dy, hy) / (hx * hy)
        nodes, weights = np.polynomial.legendre.leggauss(4)
        total = np.zeros(np.broadcast_shapes(dy.shape, dx.shape))
        for ny, wy in zip(nodes, weights, strict=True):
            for nx, wx in zip(nodes, weights, strict=True):
                total += 0.25 * wy * wx * self._value(dy + 0.5 * ny, dx + 0.5 * nx)
        return total

    def _value(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the analytic profile at points."""
        p = self.parameters
        squares, xy = (x / p[0]) ** 2 + (y / p[1]) ** 2, x * y
        if self.kind.startswith("MOFFAT"):
            beta = float(self.kind[6:]) / 10.0
            alpha = 2.0 ** (1.0 / beta) - 1.0
            return (beta - 1.0) / (p[0] * p[1] * (1.0 + alpha * (squares + xy * p[2])) ** beta)
        if self.kind == "LORENTZ":
            return 1.0 / (1.0 + squares + xy * p[2])
        wings = 1.0 / (1.0 + squares + (xy * p[4] if self.kind == "PENNY2" else 0.0))
        core = np.exp(-_LN2 * np.minimum(squares + xy * p[3], 34.0))
        return p[2] * core + (1.0 - p[2]) * wings

    def __repr__(self) -> str:
        order = {0: "none", 1: "constant", 3: "linear", 6: "quadratic"}.get(len(self.tables), str(len(self.tables)))
        hx, hy = self.parameters[:2]
        return f"<DaophotPsf {self.name}: {self.kind}, HWHM {hx:.2f}, {hy:.2f} px, {order} tables>"


def _gauss_integral(offset: np.ndarray, hwhm: float) -> np.ndarray:
    """Integrate exp(-ln 2 (t / hwhm)^2) over the pixel at `offset`."""
    from scipy.special import erf

    k = np.sqrt(_LN2) / hwhm
    return (erf(k * (offset + 0.5)) - erf(k * (offset - 0.5))) * (np.sqrt(np.pi) / (2.0 * k))


def looks_like_daophot(path: str | Path) -> bool:
    """Whether the first line of a file is that of a DAOPHOT PSF."""
    with Path(path).open("rb") as stream:
        line = stream.readline(200).decode("latin-1")
    found = _HEAD.match(line)
    return bool(found) and found[1] in _N_PARAMETERS  # type: ignore[index]


def read_daophot_psf(path: str | Path, *, shape: tuple[int, int] | None = None) -> PSFModel:
    """Read a DAOPHOT ``.psf`` text file, as ZTF delivers with its frames.

    Parameters
    ----------
    path : str or Path
    shape : (ny, nx), optional
        Of its image; where the PSF varies it must be the one that the file names.

    Returns
    -------
    PSFModel
        ``.at(y, x)`` gives the PSF at a 0-based pixel.

    Raises
    ------
    FitsError
        There is no such file.
    PsfError
        It is not a DAOPHOT PSF, of an unknown kind, cut short, or of another image size.
    """
    return daophot_form(path).model(shape)


def daophot_form(path: str | Path) -> DaophotPsf:
    """Read a DAOPHOT file in its own form."""
    path = Path(path)
    try:
        text = path.read_text(encoding="latin-1")
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror or error}"
        raise FitsError(msg) from error
    first, _, rest = text.partition("\n")
    head = _HEAD.match(first)
    if head is None:
        msg = f"{path} is not a DAOPHOT PSF: its first line must be 'GAUSSIAN 47 2 3 0 ...', it is {first[:60]!r}"
        raise PsfError(msg)
    kind, side, n_par, n_tables, n_fraction = head[1], *(int(head[i]) for i in range(2, 6))
    if kind not in _N_PARAMETERS or n_tables not in (0, 1, 3, 6) or n_fraction != 0:
        msg = (
            f"{path}: kind {kind} with {n_tables} tables and {n_fraction} fractional-pixel terms is not read; known "
            f"are {', '.join(_N_PARAMETERS)} with 0, 1, 3 or 6 tables and no fractional terms"
        )
        raise PsfError(msg)
    magnitude, height, xc, yc = _floats(head[6])[:4]
    numbers = _floats(rest)
    needed = n_par + n_tables * side * side
    if len(numbers) < needed:
        msg = f"{path} is cut short: {len(numbers)} numbers of {needed}; fetch it again"
        raise PsfError(msg)
    tables = numbers[n_par:needed].reshape(n_tables, side, side)
    return DaophotPsf(kind, numbers[:n_par], height, tables, (xc, yc), magnitude, path.name)


def _floats(text: str) -> np.ndarray:
    """Return the numbers of a Fortran text, in which a minus sign may be the only thing between two."""
    return np.array([float(word.replace("D", "E").replace("d", "e")) for word in _NUMBER.findall(text)])
