"""The collected pairs of real exposures, each as a user would give it, and what is known of each beforehand.

What is known comes from the provenance page of the data (PROVENANCE.md, CURATOR_positions.csv) or, where it says so,
from looking at earlier differences. Files are found below the folder that ASTRID_GPU_TEST_DATA names.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import astrid_gpu as ag
from astrid_gpu.io import read_psf

__all__ = ["DEFECT", "Known", "RealPair", "all_pairs", "data_folder", "saao_photometry"]

ROOT = Path(__file__).resolve().parent.parent
TRANSIENT, VARIABLE, DEFECT = "transient", "variable star", "known defect"
SAAO_REFERENCE = "0007"


@dataclass(frozen=True)
class Known:
    """Something that is there whoever looks: its place on the science grid, and what it is.

    `polarity` is the sign of the change in the difference, 0 if it is not known; `reach` how far a candidate may be
    from it; `expected` whether it is known to be beyond 5 sigma; `end` makes it a line from (x, y) to there.
    """

    x: float
    y: float
    kind: str
    what: str
    polarity: int = 0
    reach: float = 3.0
    expected: bool = False
    end: tuple[float, float] | None = None

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return how far places are from it, pixels."""
        dx, dy = (0.0, 0.0) if self.end is None else (self.end[0] - self.x, self.end[1] - self.y)
        length = dx**2 + dy**2
        along = np.clip(((x - self.x) * dx + (y - self.y) * dy) / length, 0, 1) if length else np.zeros(np.shape(x))
        return np.hypot(x - self.x - along * dx, y - self.y - along * dy)

    def holds(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return which places belong to it."""
        return self.distance(x, y) <= self.reach


@dataclass(frozen=True)
class RealPair:
    """A science and a reference exposure: how to load them, and what is known."""

    series: str
    name: str
    load: Callable[[], tuple[ag.Image, ag.Image]]
    known: tuple[Known, ...] = ()
    note: str = ""

    @property
    def key(self) -> str:
        """What the pair is called on a command line."""
        return f"{self.series}/{self.name}"


def data_folder() -> Path:
    """Return the folder of the real data.

    Raises
    ------
    FileNotFoundError
        It is not there.
    """
    path = Path(os.environ.get("ASTRID_GPU_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (path / "PROVENANCE.md").is_file():
        msg = f"no real data at {path}: set ASTRID_GPU_TEST_DATA to the folder that holds PROVENANCE.md"
        raise FileNotFoundError(msg)
    return path


def all_pairs(folder: Path | None = None) -> list[RealPair]:
    """Return every pair of the collection, series by series."""
    folder = folder or data_folder()
    pairs = folder / "pairs"
    return [
        _jwst(folder), *_saao(pairs / "saao_kb13475"), _eso(pairs / "eso085-030"),
        *_decam(pairs / "decam_testcase4"), _saturated(pairs / "decam_testcase6"),
        *_sfft(pairs / "decam_sfft_mini"), *_ztf(pairs / "ztf_psfcat_stamps"),
    ]  # fmt: skip


def _loader(science: dict[str, Any], reference: dict[str, Any]) -> Callable[[], tuple[ag.Image, ag.Image]]:
    """Return what reads a pair: the arguments of `read_image` of each."""
    return lambda: (ag.read_image(**science), ag.read_image(**reference))


def _jwst(folder: Path) -> RealPair:
    images, psfs = folder / "pairs/jwst_a2744_f200w_crop", folder / "psf/webbpsf"
    both = [
        {
            "path": images / f"{stem}_nircam_clear-f200w_i2d_stamp.crop.fits",
            "error": images / f"{stem}_nircam_clear-f200w_i2d_stamp.noise.crop.fits",
            "psf": psfs / f"{stem}_nircam_clear-f200w_i2d_stamp.WebbPSF.fits",
        }
        for stem in ("jw01324001001-01324-o001_t001", "jw02561001002-02561-o001_t003")
    ]
    known = (Known(213, 176, TRANSIENT, "source of 2022-06, gone in 2022-11", 1, expected=True),)
    return RealPair("jwst", "f200w", _loader(*both), known, "420 x 420, ERR planes, WebbPSF stamps, drizzled")


def saao_photometry(folder: Path | None = None) -> dict[str, dict[str, float]]:
    """Return the curator's row of each SAAO frame: positions and aperture fluxes (r = 5 px, on the scale of 007)."""
    path = (folder or data_folder()) / "pairs/saao_kb13475/CURATOR_positions.csv"
    with path.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    return {row["file"][-9:-5]: {k: float(v) for k, v in row.items() if k != "file"} for row in rows}


def _saao(folder: Path) -> list[RealPair]:
    table, reference = saao_photometry(folder.parent.parent), {"path": folder / f"AKB13475I{SAAO_REFERENCE}.fits"}
    pairs = []
    for frame, row in table.items():
        if frame == SAAO_REFERENCE:
            continue
        change = row["event_flux"] - table[SAAO_REFERENCE]["event_flux"]
        # Beyond doubt where the curator's aperture, contaminated as it is, changed by a fifth.
        clear = abs(change) > 10_000
        known = [
            Known(row["event_x"], row["event_y"], TRANSIENT, "microlensing event", int((change > 0) - (change < 0)),
                  expected=clear),
            Known(row["var2_x"], row["var2_y"], VARIABLE, "second variable"),
            Known(row["var3_x"], row["var3_y"], VARIABLE, "third variable"),
        ]  # fmt: skip
        known += _saao_defects(frame, row["var3_x"], row["var3_y"])
        load = _loader({"path": folder / f"AKB13475I{frame}.fits"}, reference)
        pairs.append(RealPair("saao", f"{frame}-{SAAO_REFERENCE}", load, tuple(known), "512 x 512, crowded, no WCS"))
    return pairs


def _saao_defects(frame: str, x: float, y: float) -> list[Known]:
    """Return the rows that the read-out darkens or brightens beside two saturated stars, and a satellite's trail.

    Seen in earlier differences; x, y is the place of the third variable, near the brighter of the two stars.
    """
    rows = [
        Known(0, y + 1.3, DEFECT, "row of a saturated star, darker left of it", -1, end=(x - 16, y + 1.3)),
        Known(
            x - 350, y - 77.5, DEFECT, "row of another saturated star, brighter right of it", 1, end=(x - 260, y - 77.5)
        ),
    ]
    trail = Known(470, 510, DEFECT, "satellite trail", reach=30.0, expected=True, end=(512, 335))
    return [*rows, trail] if frame == "0070" else rows


def _eso(folder: Path) -> RealPair:
    both = [{"path": folder / f"aligned_eso085-030-00{k}.fit"} for k in (4, 5)]
    known = tuple(
        Known(x, y, DEFECT, "hot pixel or cosmic ray", sign, expected=True)
        for x, y, sign in ((192, 90, 1), (547, 588, 1), (830, 605, -1))
    )
    return RealPair("eso085-030", "004-005", _loader(*both), known, "1024 x 682, null pair 74 s apart, no WCS")


_EXPOSURES = {
    "z 2015": ("z", "150411_035242", "N3"), "z 2017a": ("z", "170316_062107", "N2"),
    "z 2017b": ("z", "170419_042827", "S1"), "z 2018": ("z", "180212_083009", "N3"),
    "g 2017": ("g", "170329_044212", "N3"), "g 2018": ("g", "180225_074106", "S1"),
}  # fmt: skip


def _exposure(folder: Path, band: str, exposure: str, chip: str) -> dict[str, Path]:
    """Return a DECam cutout with its mask (ood), weight (oow) and PSFEx file."""
    name = lambda kind, end: folder / band / f"c4d_{exposure}_{kind}_{band}_ls9{end}"  # noqa: E731
    stem = f".{chip}.fits"
    return {
        "path": name("ooi", stem),
        "mask": name("ood", stem),
        "weight": name("oow", stem),
        "psf": name("ooi", f"-{chip}-psfex.fits"),
    }


def _decam(folder: Path) -> list[RealPair]:
    chosen = [("z 2018", "z 2017a"), ("z 2018", "z 2017b"), ("z 2018", "z 2015"), ("z 2017a", "z 2017b"),
              ("z 2017a", "z 2015"), ("z 2017b", "z 2015"), ("g 2018", "g 2017")]  # fmt: skip
    # Found in earlier differences: fainter in every later frame, in both bands.
    place = {"z 2018": (182.9, 26.5), "z 2017a": (178.5, 26.8), "z 2017b": (183.9, 26.5), "g 2018": (183.9, 26.5)}
    pairs = []
    for science, reference in chosen:
        known = [Known(*place[science], VARIABLE, "fading source, RA 186.7360, Dec +25.4574", reach=4.0)]
        if science == "z 2018":
            known.append(Known(213, 29.5, DEFECT, "cosmic ray that no mask has", 1, expected=True))
        load = _loader(*(_exposure(folder, *_EXPOSURES[k]) for k in (science, reference)))
        note = "250 x 250, masks, weights, PSFEx"
        pairs.append(RealPair("decam", f"{science} - {reference[2:]}".replace(" ", "_"), load, tuple(known), note))
    return pairs


def _saturated(folder: Path) -> RealPair:
    both = [_exposure(folder, "g", *of) for of in (("181214_050844", "S9"), ("181104_072440", "S4"))]
    return RealPair("decam6", "g_saturated", _loader(*both), (), "100 x 100, a saturated star fills the frame")


def _sfft(folder: Path) -> list[RealPair]:
    frames = {k: {"path": folder / f"DEC-OBS{k}.mini.fits"} for k in ("04a", "04b", "04e", "18a", "18b", "18c")}
    frames |= {k: {"path": folder / f"4check/Stack-DEC-OBS{k}.fits"} for k in ("04", "18")}
    chosen = [("04b", "04a"), ("04e", "04a"), ("18b", "18a"), ("18c", "18a"), ("18a", "04a"), ("18", "04")]
    source = Known(128.3, 127.4, TRANSIENT, "source in the middle, in the authors' difference too", -1, expected=True)
    tracks = [Known(68, 45, DEFECT, "cosmic-ray track", 1, 6.0, expected=True, end=(95, 93)),
              Known(64, 76, DEFECT, "cosmic-ray track", 1, 6.0, end=(80, 72))]  # fmt: skip
    known = {"18a-04a": (source,), "18-04": (source,), "04e-04a": tuple(tracks)}
    note = "256 x 256, sky subtracted and resampled by its authors"
    names = [(f"{a}-{b}", a, b) for a, b in chosen]
    return [RealPair("sfft", name, _loader(frames[a], frames[b]), known.get(name, ()), note) for name, a, b in names]


_ZTF = (
    ("r_858_12_1", "2459874.8661", "2459987.7442", ("00 00", "01 01", "02 02", "04 04", "08 08")),
    ("g_857_9_2", "2460626.7241", "2460760.7447", ("00 00", "03 03", "04 01", "06 06", "08 08")),
    ("r_857_9_2", "2459540.8489", "2460924.0180", ("01 01", "02 02")),
)


def _ztf(folder: Path) -> list[RealPair]:
    """Return every star that two epochs have in common: 72 x 72 pixels about it.

    The PSFs are those of the quadrants, taken where the stamps were cut from.
    """
    entries = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["images"]
    places = {(e["stem"], t["file"]): {"x": t["xpos"], "y": t["ypos"]} for e in entries for t in e["targets"]}

    def exposure(stem: str, file: str) -> ag.Image:
        psf = read_psf(folder / stem / "psf.psf", **places[stem, file])
        return ag.read_image(folder / stem / file, psf=psf)

    pairs = []
    for field, one, two, stars in _ZTF:
        for star in stars:
            both = [(f"{field}_{epoch}", f"star_{k}.fits") for epoch, k in zip((one, two), star.split(), strict=True)]
            load = lambda both=both: (exposure(*both[0]), exposure(*both[1]))  # noqa: E731
            note = "72 x 72, DAOPHOT PSFs, a constant star in the middle"
            pairs.append(RealPair("ztf", f"{field}_star{star[:2]}", load, (), note))
    return pairs
