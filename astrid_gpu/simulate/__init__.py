"""Synthetic fields with known truth, and point sources into real images (`inject`). NumPy, seeded, no globals.

>>> from astrid_gpu import simulate
>>> field = simulate.pair(seed=1, shape=(128, 128), n_changes=2)
>>> field.truth.dtype.names[:3]
('id', 'x', 'y')
"""

from __future__ import annotations

from astrid_gpu.simulate.exposure import Exposure, Frame, expose, make_wcs, true_psf
from astrid_gpu.simulate.files import write_fits, write_truth
from astrid_gpu.simulate.inject import Injected, inject
from astrid_gpu.simulate.pair import REFERENCE, SCIENCE, SimulatedPair, field, pair
from astrid_gpu.simulate.profiles import PsfModel, psf, sersic_gaussians
from astrid_gpu.simulate.render import draw_galaxies, draw_stars
from astrid_gpu.simulate.scene import GALAXY_DTYPE, STAR_DTYPE, Scene, scene
from astrid_gpu.simulate.sequence import OBJECT_DTYPE, SimulatedSequence, light_curve, sequence
from astrid_gpu.simulate.truth import TRUTH_DTYPE

__all__ = [
    "GALAXY_DTYPE",
    "OBJECT_DTYPE",
    "REFERENCE",
    "SCIENCE",
    "STAR_DTYPE",
    "TRUTH_DTYPE",
    "Exposure",
    "Frame",
    "Injected",
    "PsfModel",
    "Scene",
    "SimulatedPair",
    "SimulatedSequence",
    "draw_galaxies",
    "draw_stars",
    "expose",
    "field",
    "inject",
    "light_curve",
    "make_wcs",
    "pair",
    "psf",
    "scene",
    "sequence",
    "sersic_gaussians",
    "true_psf",
    "write_fits",
    "write_truth",
]
