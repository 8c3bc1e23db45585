"""Other software that subtracts, each set up for one pair and called as its users call it, on the CPU.

Nobody here makes the engine's S_corr: SFFT fits a kernel and gives D alone, ProperImage measures its own PSFs. Their
rows say what a user waits, not what a user gets; docs/comparison.md has that. None of them is a dependency.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from astrid_gpu.backends.threads import cpu_threads
from astrid_gpu.run.scenes import SubtractionScene


def sfft(scene: SubtractionScene) -> Callable[[], Any]:
    """SFFT's customized packet without its files: kernels of 11 x 11 px, constant over the field, NumPy backend."""
    if not hasattr(np, "in1d"):  # of NumPy 1, which SFFT 1.7 still calls
        setattr(np, "in1d", np.isin)  # noqa: B010
    from sfft.sfftcore.SFFTConfigure import SingleSFFTConfigure
    from sfft.sfftcore.SFFTSubtract import GeneralSFFTSubtract

    # SFFT has the axes as FITS has them, and works in float64
    reference, science = (np.ascontiguousarray(a.T, np.float64) for a in (scene.reference, scene.science[0]))
    setting = {"BACKEND_4SUBTRACT": "Numpy", "NUM_CPU_THREADS_4SUBTRACT": cpu_threads()}
    config = SingleSFFTConfigure.SSC(NX=reference.shape[0], NY=reference.shape[1], KerHW=5, KerPolyOrder=0,
                                     BGPolyOrder=0, ConstPhotRatio=True, **setting, VERBOSE_LEVEL=0)  # fmt: skip

    frames = {"PixA_I": reference, "PixA_J": science, "PixA_mI": reference, "PixA_mJ": science}

    def run():
        out = GeneralSFFTSubtract.GSS(**frames, SFFTConfig=config, ContamMask_I=None, **setting, VERBOSE_LEVEL=0)
        return out[1].T

    return run


def properimage(scene: SubtractionScene) -> Callable[[], Any]:
    """ProperImage's subtract without registration: it measures PSFs and flux scale itself."""
    from properimage import SingleImage, subtract

    def run():
        reference, science = (SingleImage(a.astype(float)) for a in (scene.reference, scene.science[0]))
        return np.asarray(subtract(ref=reference, new=science, align=False, beta=True, shift=False)[0].real)

    return run


SUBTRACTION = {"sfft": sfft, "properimage": properimage}
