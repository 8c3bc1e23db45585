"""What a FITS header says, in normalised words: calibration, noise, time and names, for the surveys' many dialects.

Each quantity has a list of keywords, most trusted first; a few surveys need arithmetic (counts per second, Vega
magnitudes, surface brightness), done in the functions below. Whatever was converted or left out is put in words
into ``notes``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from astrid_gpu.io.files import readable_cards

__all__ = ["HeaderFacts", "read_facts"]

_ZERO_POINT = ("MAGZP", "IMAGEZPT", "MAGZERO", "ABMAGZP", "ABMAG_ZP", "PHOTZP", "ZP_AB", "ZPAB", "MAGZPT", "ZP", "ZPT",
               "MAG_ZP", "MAGZEROP", "ZEROPT", "ZEROPNT", "MAG0", "ZPTMAG", "FPA.ZP", "PHOT_ZP")  # fmt: skip
_GAIN = ("EGAIN", "E_GAIN", "GAIN", "AVGAIN", "CCDGAIN", "ATODGAIN", "GAINEFF", "CELL.GAIN",
         "ESO DET OUT1 CONAD", "ESO DET CHIP1 GAIN", "ESO DET CHIP GAIN")  # fmt: skip
_READ_NOISE = ("RDNOISE", "READNOI", "READNOIS", "READNOISE", "READNSE", "READ_NOISE", "RD_NOISE", "RON", "RN",
               "ENOISE", "RNOISE", "RDNOIS", "ESO DET OUT1 RON", "ESO DET CHIP1 RON", "ESO DET CHIP RON")  # fmt: skip
_SATURATION = ("ESATUR", "SATURATE", "SATURVAL", "SATLEVEL", "SATUR", "SATURAT", "SATUR_LEVEL", "MAXLIN",
               "CELL.SATURATION")  # fmt: skip
_EXPOSURE = ("EXPTIME", "EXPOSURE", "EXPOS", "XPOSURE", "TEXPTIME", "EFFEXPTM", "AEXPTIME", "ITIME", "EXP_TIME")
_FILTER = ("FILTER", "FILTNAM1", "FILTER1", "FILT", "FILTERS", "BANDNAME", "FPA.FILTER", "FILTERID", "FILTNAM")
_MJD = ("MJD-OBS", "MJD_OBS", "OBSMJD", "MJD", "MJD-BEG", "MJDOBS", "MJD-STR", "MJD_UTC", "MJD-AVG", "MJD-MID")
_JD = ("OBSJD", "JD", "JD-OBS", "JUL-DATE", "JULDATE", "PHJDMID")
_DATE = ("DATE-OBS", "DATE_OBS", "DATEOBS", "DATEOBS1", "OBS-DATE", "DATE-BEG", "UTSHUT", "UTC-OBS", "UT_DATE")
_TIME = ("TIME-OBS", "TIME_OBS", "UT", "UTSTART", "UTC")
_TELESCOPE = ("TELESCOP", "FPA.TELESCOPE", "OBSERVAT")
_INSTRUMENT = ("INSTRUME", "FPA.INSTRUMENT", "CAMERA", "DETECTOR")
_OBJECT = ("OBJECT", "OBJNAME", "TARGNAME", "TARGET", "FPA.OBJECT")
_ID = ("OBS_ID", "OBSID", "ROOTNAME", "EXPID", "EXPNUM", "PLANID", "ORIGNAME", "FILENAME", "DTACQNAM", "IMAGEID")

# AB minus Vega magnitudes: WISE, Jarrett et al. 2011 (table 1); 2MASS, Blanton & Roweis 2007.
_VEGA_TO_AB: dict[str, dict[Any, float]] = {
    "WISE": {1: 2.699, 2: 3.339, 3: 5.174, 4: 6.620},
    "2MASS": {"j": 0.91, "h": 1.39, "k": 1.85},
}
# AB zero points of count rates, Morrissey et al. 2007.
_GALEX_AB = {"NUV": 20.08, "FUV": 18.82}


@dataclass
class HeaderFacts:
    """What was understood of a header; None where it says nothing. `meta` has the normalised words."""

    zero_point: float | None = None
    gain: float | None = None
    read_noise: float | None = None
    saturation: float | None = None
    background_level: float = 0.0
    meta: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class _Header:
    """Case-blind look-up by the first keyword that holds a usable value."""

    def __init__(self, header: Any) -> None:
        self.values: dict[str, Any] = {}
        self.comments: dict[str, str] = {}
        for keyword, value, comment in readable_cards(header):
            key = keyword.upper().removeprefix("HIERARCH ").strip()
            if key and key not in ("COMMENT", "HISTORY", "CONTINUE") and key not in self.values:
                self.values[key], self.comments[key] = value, comment

    def number(self, keys: Iterable[str], *, positive: bool = False) -> tuple[float | None, str]:
        """Return the first finite number under `keys` and its keyword; text such as '53.9' counts."""
        for key in keys:
            value = self.values.get(key)
            if value is None or isinstance(value, bool):
                continue
            try:
                number = float(value)
            except (TypeError, ValueError):
                continue
            if math.isfinite(number) and (number > 0 or not positive):
                return number, key
        return None, ""

    def text(self, keys: Iterable[str]) -> str | None:
        """Return the first value under `keys` that is not blank, as text."""
        for key in keys:
            value = self.values.get(key)
            if value is None or isinstance(value, bool) or not isinstance(value, (str, int, float)):
                continue
            if str(value).strip() and str(value).strip().lower() not in ("nan", "none", "unknown", "n/a"):
                return str(value).strip()
        return None

    def says(self, *words: str) -> bool:
        """Whether telescope, instrument, origin or survey mention one of `words`."""
        keys = ("TELESCOP", "INSTRUME", "ORIGIN", "SURVEY", "OBSERVAT", "FPA.TELESCOPE", "PROCORIG", "DTTELESC")
        said = " ".join(str(self.values.get(key, "")) for key in keys).upper()
        return any(word in said for word in words)

    def unit(self) -> str:
        """Return BUNIT in small letters, without blanks."""
        return re.sub(r"\s+", "", str(self.values.get("BUNIT") or "")).lower()


def read_facts(header: Any) -> HeaderFacts:
    """Understand an `astropy.io.fits.Header`, as a rule the extension's with the primary's keywords after it.

    Returns
    -------
    HeaderFacts
        zero_point (AB magnitude of one unit), gain (electrons per unit), read_noise (electrons), saturation (unit
        of the pixels), and `meta` with telescope, instrument, filter, object, exposure (s), date, mjd (start of the
        exposure unless only the middle is given), unit, fwhm (pixels) and observation_id where they are known.
    """
    h = _Header(header)
    facts = HeaderFacts()
    _names_and_times(h, facts)
    exposure = facts.meta.get("exposure")
    facts.zero_point = _zero_point(h, facts, exposure)
    facts.gain = _gain(h, facts, exposure)
    facts.read_noise = _read_noise(h, facts)
    _saturation(h, facts)
    return facts


def _names_and_times(h: _Header, facts: HeaderFacts) -> None:
    """Fill `facts.meta`."""
    meta = facts.meta
    for name, keys in (("telescope", _TELESCOPE), ("instrument", _INSTRUMENT), ("object", _OBJECT),
                       ("observation_id", _ID), ("timesys", ("TIMESYS",)), ("bunit", ("BUNIT",))):  # fmt: skip
        value = h.text(keys)
        if value is not None:
            meta[name] = value
    filter_name = h.text(_FILTER)
    if filter_name and filter_name.upper().startswith("CLEAR") and "FILTER2" in h.values:
        filter_name = h.text(("FILTER2",)) or filter_name  # HST/ACS has two wheels, one of them clear
    galex = _galex_band(h)
    if galex:
        meta.setdefault("telescope", "GALEX")
        filter_name = filter_name or galex
    if h.says("WISE") and "BAND" in h.values:
        filter_name = filter_name or f"W{h.values['BAND']}"
    if filter_name is not None:
        meta["filter"] = filter_name
    exposure, _ = h.number(_EXPOSURE, positive=True)
    if exposure is not None:
        meta["exposure"] = exposure
    _times(h, meta)
    fwhm = _fwhm(h)
    if fwhm is not None:
        meta["fwhm"] = fwhm


def _times(h: _Header, meta: dict[str, Any]) -> None:
    """Fill `date` (ISO) and `mjd`."""
    date, time = h.text(_DATE), h.text(_TIME)
    if date is not None:
        date = _iso_date(date)
        if "T" not in date and time is not None and re.match(r"^\d{1,2}:\d{2}", time):
            date = f"{date}T{time}"
        meta["date"] = date
    mjd, _ = h.number(_MJD, positive=True)
    if mjd is None and h.says("HST"):
        mjd, _ = h.number(("EXPSTART",), positive=True)
    if mjd is None:
        jd, _ = h.number(_JD, positive=True)
        mjd = jd - 2400000.5 if jd is not None and jd > 2400000.5 else None
    stamp = _mjd_of(date) if date is not None else None
    if stamp is not None and (mjd is None or (mjd == int(mjd) and int(stamp) == mjd)):
        mjd = stamp  # some write the day alone as MJD-OBS and the time elsewhere
    if mjd is not None:
        meta["mjd"] = mjd


def _iso_date(text: str) -> str:
    """Return 20/02/99 and 000127 as 1999-02-20 and 2000-01-27; other text unchanged."""
    old = re.match(r"^(\d{2})/(\d{2})/(\d{2})$", text)
    if old:
        day, month, year = old.groups()
        return f"{1900 + int(year)}-{month}-{day}"
    packed = re.match(r"^(\d{2})(\d{2})(\d{2})$", text)
    if packed:
        year, month, day = packed.groups()
        return f"{(1900 if int(year) > 50 else 2000) + int(year)}-{month}-{day}"
    return text


def _mjd_of(date: str) -> float | None:
    """Return the modified Julian date of an ISO date, None if it is not one."""
    from datetime import UTC, datetime

    try:
        moment = datetime.fromisoformat(date[:26])
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - datetime(1858, 11, 17, tzinfo=UTC)).total_seconds() / 86400.0


def _fwhm(h: _Header) -> float | None:
    """Return the seeing in pixels where the header says that it is in pixels."""
    for key in ("PFWHM", "FWHM", "SEEING", "MEDFWHM", "FWHMSEX"):
        value, _ = h.number((key,), positive=True)
        if value is not None and ("pix" in h.comments.get(key, "").lower() or key == "PFWHM"):
            return value
    return None


def _galex_band(h: _Header) -> str | None:
    """Return NUV or FUV for a GALEX intensity map, whose headers name neither telescope nor filter."""
    if not ("MPSTYPE" in h.values or "GALEX" in str(h.values.get("TELESCOP", "")).upper()):
        return None
    return {1: "NUV", 2: "FUV"}.get(h.values.get("BAND"))  # type: ignore[arg-type]


def _zero_point(h: _Header, facts: HeaderFacts, exposure: float | None) -> float | None:
    """Return the AB magnitude of one unit of flux."""
    unit, note = h.unit(), facts.notes.append
    if "nanomagg" in unit or unit == "nmgy":
        return 22.5
    if unit in ("jy", "mjy", "ujy", "microjy", "njy", "jy/pixel") and unit != "mjy/sr":
        scale = {"jy": 0.0, "jy/pixel": 0.0, "mjy": 7.5, "ujy": 15.0, "microjy": 15.0, "njy": 22.5}[unit]
        if str(h.values.get("BUNIT", "")).strip().startswith("MJy"):
            scale = -15.0
        return 8.90 + scale
    if unit == "mjy/sr":
        return _surface_brightness(h, facts)
    for routine in (_hst_zero_point, _ps1_zero_point):
        value = routine(h, facts, exposure)
        if value is not None:
            return value
    galex = _galex_band(h)
    value, key = h.number(_ZERO_POINT)
    if value is None and galex:
        note(f"zero point {_GALEX_AB[galex]} is that of GALEX {galex} count rates (Morrissey et al. 2007)")
        return _GALEX_AB[galex]
    if value is None or not 5 < value < 50:  # 0 is how SCAMP and others write "not calibrated"
        return None
    if key == "MAGZPT" and exposure and "per sec" in h.comments[key].lower():
        note(f"zero point {key} = {value:g} is per second; 2.5 log10({exposure:g} s) was added")
        return value + 2.5 * math.log10(exposure)
    offset = _vega_offset(h, facts)
    if offset:
        note(f"zero point {key} = {value:g} is in Vega magnitudes; {offset:+.3f} makes it AB")
    return value + offset


def _surface_brightness(h: _Header, facts: HeaderFacts) -> float | None:
    """Return the zero point of MJy/sr pixels: flux = value * 1e6 Jy * solid angle of a pixel."""
    area, _ = h.number(("PIXAR_SR",), positive=True)
    if area is None:
        facts.notes.append("BUNIT is MJy/sr but PIXAR_SR is missing: no zero point")
        return None
    return 8.90 - 2.5 * math.log10(area * 1e6)


def _hst_zero_point(h: _Header, facts: HeaderFacts, exposure: float | None) -> float | None:
    """Return the AB zero point from PHOTFLAM and PHOTPLAM, of counts rather than count rates where they are."""
    flam, _ = h.number(("PHOTFLAM",), positive=True)
    plam, _ = h.number(("PHOTPLAM",), positive=True)
    if flam is None or plam is None:
        return None
    rate = -2.5 * math.log10(flam) - 5.0 * math.log10(plam) - 2.408
    if _per_second(h.unit()):
        return rate
    if exposure is None:
        facts.notes.append("PHOTFLAM is per second and there is no exposure time: no zero point")
        return None
    facts.notes.append(f"pixels are counts of {exposure:g} s: 2.5 log10 of it was added to the PHOTFLAM zero point")
    return rate + 2.5 * math.log10(exposure)


def _ps1_zero_point(h: _Header, facts: HeaderFacts, exposure: float | None) -> float | None:
    """Return the zero point of a Pan-STARRS stack or warp: FPA.ZP (25) of count rates, the pixels are counts."""
    zero, _ = h.number(("FPA.ZP",))
    if zero is None or not exposure or not 5 < zero < 50:
        return None
    return zero + 2.5 * math.log10(exposure)


def _vega_offset(h: _Header, facts: HeaderFacts) -> float:
    """Return AB minus Vega for WISE and 2MASS, else 0."""
    if h.says("WISE"):
        band = str(h.values.get("BAND", facts.meta.get("filter", ""))).strip().upper().removeprefix("W")
        return _VEGA_TO_AB["WISE"].get(int(band) if band.isdigit() else 0, 0.0)
    if h.says("2MASS"):
        return _VEGA_TO_AB["2MASS"].get(str(facts.meta.get("filter", "")).lower()[:1], 0.0)
    return 0.0


def _per_second(unit: str) -> bool:
    """Whether a unit is a rate."""
    return bool(re.search(r"/(s|sec|second)s?$|s-1$|s\*\*-1$|s\^-1$|^cps$", unit))


def _gain(h: _Header, facts: HeaderFacts, exposure: float | None) -> float | None:
    """Return electrons per unit of the pixels."""
    unit = h.unit()
    value, key = _gain_keyword(h, facts)
    if value is None:
        amplifiers = [v for v, _ in (h.number((f"GAIN{letter}",), positive=True) for letter in "ABCD1234") if v]
        if amplifiers:
            value, key = sum(amplifiers) / len(amplifiers), f"GAIN of {len(amplifiers)} amplifiers"
            facts.notes.append(f"gain {value:.4g} is the mean of {len(amplifiers)} amplifiers")
    electrons = unit.startswith(("electron", "e-", "elec")) or unit in ("e", "e/s")
    if electrons and not _is_coadd_gain(h, key):
        if value is not None and value != 1:
            facts.notes.append(f"pixels are in {unit}, so {key} = {value:g} was not used as the gain")
        value = 1.0
    if value is None or unit.startswith(("mjy", "jy", "ujy", "njy", "nanomag")):
        return None  # the keyword, if any, is that of the detector and not of these units
    if _per_second(unit):
        return value * exposure if exposure else None
    return value


def _gain_keyword(h: _Header, facts: HeaderFacts) -> tuple[float | None, str]:
    """Return the gain of one keyword, and which; GAIN beside EGAIN is a setting of the camera unless of a coadd."""
    plain, _ = h.number(("GAIN",), positive=True)
    if plain is not None and _is_coadd_gain(h, "GAIN"):
        return plain, "GAIN"
    value, key = h.number(_GAIN, positive=True)
    if plain is not None and value != plain:
        facts.notes.append(f"{key} = {value:g} is the gain; GAIN = {plain:g} beside it is taken for a camera setting")
    if value is None:  # ESO's has it both ways: in ADU per electron by its dictionary, but not by all instruments
        key = "ESO DET OUT1 GAIN"
        value, _ = h.number((key,), positive=True)
        said = re.sub(r"\s+", "", h.comments.get(key, "").lower())
        if value is not None and not re.search(r"(e|e-|electrons?)(/|per)adu|adus?toelectrons?", said):
            value = 1 / value
    return value, key


def _is_coadd_gain(h: _Header, key: str) -> bool:
    """Whether the gain is SWarp's effective one, which holds for the pixels whatever BUNIT says."""
    return "equivalent gain" in h.comments.get(key, "").lower()


def _read_noise(h: _Header, facts: HeaderFacts) -> float | None:
    """Return the read noise in electrons."""
    value, _ = h.number(_READ_NOISE, positive=True)
    if value is None:
        amplifiers = [v for v, _ in (h.number((f"RDNOISE{letter}",), positive=True) for letter in "ABCD1234") if v]
        if amplifiers:
            value = math.sqrt(sum(v * v for v in amplifiers) / len(amplifiers))
            facts.notes.append(f"read noise {value:.4g} e is the r.m.s. of {len(amplifiers)} amplifiers")
    if value is None and "CELL.READNOISE" in h.values and "STK_ID" not in h.values:
        value, _ = h.number(("CELL.READNOISE",), positive=True)  # in a stack it is the inputs' sum, of no use
    return value


def _saturation(h: _Header, facts: HeaderFacts) -> None:
    """Fill the saturation level, and the sky that was subtracted where the header tells both levels."""
    value, key = h.number(_SATURATION, positive=True)
    if value is None:
        amplifiers = [v for v, _ in (h.number((f"SATURAT{letter}",), positive=True) for letter in "AB") if v]
        value = min(amplifiers) if amplifiers else None
    facts.saturation = value
    raw, _ = h.number(("SATURATE",), positive=True)
    if key == "ESATUR" and raw is not None and value is not None and raw > value:
        facts.background_level = raw - value
        facts.notes.append(f"the sky was subtracted: SATURATE - ESATUR = {raw - value:.4g} is its level")
