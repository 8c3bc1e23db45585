"""Data sets of triplets for machine learning: HDF5 with labels and provenance, npz in the host application's order."""

from __future__ import annotations

from astrid_gpu.dataset.reading import TripletSet, read_dataset
from astrid_gpu.dataset.schema import HOST_CHANNELS, LABEL_DTYPE, SCHEMA, make_labels
from astrid_gpu.dataset.splitting import object_keys, split_of
from astrid_gpu.dataset.writing import write_dataset

__all__ = [
    "HOST_CHANNELS",
    "LABEL_DTYPE",
    "SCHEMA",
    "TripletSet",
    "make_labels",
    "object_keys",
    "read_dataset",
    "split_of",
    "write_dataset",
]
