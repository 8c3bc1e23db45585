"""Files: the only place that opens FITS. astropy is imported inside the functions, when a file is really touched."""

from __future__ import annotations

from astrid_gpu.io.daophot import read_daophot_psf
from astrid_gpu.io.difference import difference_hdulist, write_cutout_fits, write_difference
from astrid_gpu.io.images import open_image, read_image, whole_image
from astrid_gpu.io.objects import as_image
from astrid_gpu.io.paths import atomic_path
from astrid_gpu.io.piff import read_piff
from astrid_gpu.io.ps1 import linear_flux, linearise_ps1_file
from astrid_gpu.io.psf_files import psf_from_stamp, read_psf, read_psf_model
from astrid_gpu.io.psfex import read_psfex
from astrid_gpu.io.tables import candidates_table, write_candidates
from astrid_gpu.io.tess import is_tess_cube, read_tess_frames
from astrid_gpu.io.whole import check_fits, check_has_data
from astrid_gpu.ops.psf_stamps import fwhm_of

__all__ = [
    "as_image",
    "atomic_path",
    "candidates_table",
    "check_fits",
    "check_has_data",
    "difference_hdulist",
    "fwhm_of",
    "is_tess_cube",
    "linear_flux",
    "linearise_ps1_file",
    "open_image",
    "psf_from_stamp",
    "read_daophot_psf",
    "read_image",
    "read_piff",
    "read_psf",
    "read_psf_model",
    "read_psfex",
    "read_tess_frames",
    "whole_image",
    "write_candidates",
    "write_cutout_fits",
    "write_difference",
]
