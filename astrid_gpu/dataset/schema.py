"""What a data set holds: the schema's name, the order of the channels, the labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from astrid_gpu.errors import DatasetError

__all__ = ["CHANNELS", "HOST_CHANNELS", "LABEL_DTYPE", "SCHEMA", "make_labels"]

SCHEMA = "astrid-gpu.triplets/1"

CHANNELS = ("science", "reference", "difference")
"""Order of the channels in HDF5 and in memory."""

HOST_CHANNELS = ("reference", "science", "difference")
"""Order of the channels in npz: that of the host application AstrID."""

LABEL_DTYPE = np.dtype([("anomaly", "i1"), ("source_type", "U24"), ("confidence", "f4")])
"""anomaly: 1 a real change, 0 none (or nothing known: confidence 0), -1 undecided; confidence from 0 to 1."""


def make_labels(labels: Any, n: int) -> np.ndarray:
    """Return labels as an array of `LABEL_DTYPE`, shape (n,).

    Parameters
    ----------
    labels : None, array (n,), or mapping
        None: nothing is known, every triplet gets 0, "unknown", confidence 0. An array of 1, 0 and -1 is the
        anomaly label, with confidence 1 (0 for -1). A mapping or structured array may have ``anomaly``,
        ``source_type`` and ``confidence``, each a value for all or one per triplet.

    Raises
    ------
    DatasetError
        Another length, an unknown key, or a value outside its range.
    """
    made = np.zeros(n, LABEL_DTYPE)
    made["source_type"] = "unknown"
    if labels is None:
        return made
    if isinstance(labels, np.ndarray) and labels.dtype.names:
        labels = {name: labels[name] for name in labels.dtype.names}
    if not isinstance(labels, Mapping):
        labels = {"anomaly": labels}
    unknown = sorted(set(labels) - set(LABEL_DTYPE.names or ()))
    if unknown:
        msg = f"labels may have anomaly, source_type and confidence; got {', '.join(unknown)}"
        raise DatasetError(msg)
    for name, values in labels.items():
        array = np.asarray(values)
        if array.shape not in ((), (n,)):
            msg = f"labels[{name!r}] has shape {array.shape}, but there are {n} triplets"
            raise DatasetError(msg)
        made[name] = array
    if "anomaly" in labels and "confidence" not in labels:
        made["confidence"] = np.where(made["anomaly"] == -1, 0.0, 1.0)
    given = np.asarray(labels.get("anomaly", 0))
    if not np.isin(given, (-1, 0, 1)).all():
        found = sorted(set(np.ravel(given).tolist()))[:6]
        msg = f"anomaly labels are 1 (real), 0 (not) and -1 (undecided); got {found}"
        raise DatasetError(msg)
    if n and not ((made["confidence"] >= 0) & (made["confidence"] <= 1)).all():
        msg = "label confidences go from 0 to 1"
        raise DatasetError(msg)
    return made
