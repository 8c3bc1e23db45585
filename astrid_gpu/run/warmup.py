"""Every kernel called once, small, so that its compiled code lies on disk before the first real image comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import util
from typing import Any

import numpy as np

from astrid_gpu.backends import Backend, get_backend
from astrid_gpu.cutouts import cutouts
from astrid_gpu.detect import detect
from astrid_gpu.engine.background import estimate_background
from astrid_gpu.engine.convolve import convolve
from astrid_gpu.engine.peaks import find_peaks
from astrid_gpu.engine.resample import resample
from astrid_gpu.engine.zogy import zogy
from astrid_gpu.ops.psf_stamps import moffat_stamp
from astrid_gpu.run.scenes import subtraction_scene
from astrid_gpu.subtract import subtract

__all__ = ["Warmup", "warmup"]

_SIDE = 256
_OUTPUTS = ("difference", "score", "score_corr", "flux")


@dataclass(frozen=True)
class Warmup:
    """What `warmup` did.

    Attributes
    ----------
    backend : str
    compiled, loaded : int
        Functions compiled now, and those whose compiled code was on disk already (numba alone counts them).
    folder : str
        Where Numba keeps its code.
    seconds : float
    """

    backend: str
    compiled: int
    loaded: int
    folder: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)

    def __str__(self) -> str:
        if not self.folder:
            return f"{self.backend}: ready after {self.seconds:.1f} s"
        counts = f"{self.compiled} functions compiled, {self.loaded} were there"
        return f"{self.backend}: ready after {self.seconds:.1f} s; {counts}, in {self.folder}"


def warmup(backend: str = "auto", *, progress: Callable[[str], None] | None = None) -> Warmup:
    """Call every fused operation of a backend, in the types users come with.

    Parameters
    ----------
    backend : str
        As in `get_backend`. numba and cupy compile; numpy has nothing to compile.
    progress : callable, optional
        Told what is done, in pieces of text.

    Returns
    -------
    Warmup

    Raises
    ------
    BackendUnavailableError, ConfigError
        As `get_backend`; also where Numba finds no folder it may write to.

    Notes
    -----
    A minute where nothing is compiled yet, two seconds where all is.
    """
    b = get_backend(backend)
    say = progress or (lambda text: None)
    start = time.perf_counter()
    for name, call in _calls(b):
        say(f"  {name} ...")
        before = time.perf_counter()
        call()
        b.synchronize()
        say(f" {time.perf_counter() - before:.1f} s\n")
    seconds = time.perf_counter() - start
    if b.name != "numba":
        return Warmup(b.name, 0, 0, "", seconds)
    from astrid_gpu.backends.numba_ import kernel_cache

    found = kernel_cache()
    return Warmup(b.name, found.compiled, found.loaded, found.folder, seconds)


def _calls(b: Backend) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield what to call, with a name."""
    for dtype in (np.float32, np.float64):
        yield f"{np.dtype(dtype).name} arrays", partial(_arrays, b, dtype)
    if not b.is_gpu and util.find_spec("astropy") is not None:
        yield "exposures", partial(_exposures, b)


def _arrays(b: Backend, dtype: Any) -> None:
    """Call the array functions, with and without what may be left out."""
    scene = subtraction_scene((_SIDE, _SIDE), 2)
    args, keywords = scene.zogy_arguments()
    science, reference = (b.asarray(image, dtype) for image in args[:2])
    variances = {k: b.asarray(v, dtype) for k, v in keywords.items() if k.startswith("variance")}
    mask = np.zeros((_SIDE, _SIDE), bool)
    mask[100:104, 60:64] = True
    mask = b.asarray(mask)
    scores = zogy(science, reference, *args[2:], **keywords | variances, mask=mask, backend=b).score_corr
    zogy(science[0], reference, *args[2:], outputs=_OUTPUTS, backend=b)
    zogy(science[0], reference, *args[2:], outputs=_OUTPUTS, backend=b, dtype=dtype)
    wide = moffat_stamp(18.0, 3.0, 101)  # its kernels reach too far for tiles
    zogy(science, reference, wide, wide, *args[4:], **keywords | variances, mask=mask, backend=b)
    for kernel in (np.ones((5, 5)), np.ones((5, 5)) + np.eye(5), args[2]):
        convolve(science, kernel, backend=b)
    for image in (science[0], science):
        for bad in (None, mask):
            estimate_background(image, mask=bad, backend=b)
            for polarity in ("positive", "both"):
                find_peaks(image, 50.0, polarity=polarity, mask=bad, backend=b)
    find_peaks(scores, 5.0, min_separation=3, backend=b)
    places = [b.asarray(axis, np.float64) for axis in np.mgrid[0.0:_SIDE, 0.0:_SIDE] + 0.25]
    for method in ("lanczos3", "quintic", "cubic", "bilinear", "nearest"):
        resample(science, *places, kernel=method, backend=b)


def _exposures(b: Backend) -> None:
    """Take a pair of exposures through every stage, in both types of image."""
    from astrid_gpu.simulate import SCIENCE, pair

    field = pair(seed=1, shape=(_SIDE, _SIDE), science=replace(SCIENCE, dither=(2.3, -1.6)))
    for dtype in (np.float32, np.float64):
        science, reference = (im.with_(data=im.data.astype(dtype)) for im in (field.science, field.reference))
        diff = subtract(science, reference, backend=b)
        cutouts(diff, detect(diff), 63)
