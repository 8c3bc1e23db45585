"""Reading a data set back, from HDF5 or npz, into one form."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from astrid_gpu.dataset.schema import CHANNELS, LABEL_DTYPE, SCHEMA
from astrid_gpu.dataset.splitting import SPLITS
from astrid_gpu.errors import DatasetError
from astrid_gpu.io.extras import need
from astrid_gpu.results import Candidates, Cutouts

__all__ = ["TripletSet", "read_dataset"]


@dataclass(frozen=True, repr=False)
class TripletSet:
    """A data set in memory.

    Parameters
    ----------
    images : array (n, 3, s, s), float32
        science, reference, difference, whatever the order in the file.
    score_corr, mask, anomaly_mask : array (n, s, s)
    labels : array (n,) of `LABEL_DTYPE`
        anomaly, source_type, confidence.
    ids, objects, split : array (n,)
    candidates : structured array (n,) or None
    meta : dict
        The file's attributes.
    """

    images: np.ndarray
    score_corr: np.ndarray
    mask: np.ndarray
    anomaly_mask: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    objects: np.ndarray
    split: np.ndarray
    candidates: np.ndarray | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    channels = CHANNELS

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, split: str) -> TripletSet:
        """Return the rows of "train", "validation" or "test"."""
        if split not in SPLITS:
            msg = f"split must be one of {', '.join(SPLITS)}, got {split!r}"
            raise DatasetError(msg)
        rows = self.split == split
        names = ("images", "score_corr", "mask", "anomaly_mask", "labels", "ids", "objects", "split")
        changed: dict[str, Any] = {name: getattr(self, name)[rows] for name in names}
        if self.candidates is not None:
            changed["candidates"] = self.candidates[rows]
        return replace(self, **changed)

    def to_cutouts(self) -> Cutouts:
        """Return the arrays as `Cutouts`."""
        return Cutouts(self.images, self.score_corr, self.mask, self.ids, dict(self.meta))

    def to_candidates(self) -> Candidates | None:
        """Return the table as `Candidates`, None if the file has none."""
        if self.candidates is None:
            return None
        threshold = float(self.meta.get("threshold", float("nan")))
        return Candidates(self.candidates, threshold, str(self.meta.get("extractor", "peaks")), dict(self.meta))

    def __repr__(self) -> str:
        size = self.images.shape[-1]
        real = int((self.labels["anomaly"] == 1).sum())
        parts = ", ".join(f"{int((self.split == name).sum())} {name}" for name in SPLITS)
        return f"<TripletSet: {len(self)} triplets of {size}x{size} px, {real} labelled real; {parts}>"


def read_dataset(path: str | Path) -> TripletSet:
    """Read a data set that `write_dataset` wrote, HDF5 or npz told by the content.

    Raises
    ------
    DatasetError
        No such file, damaged, another schema, or arrays of different lengths.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        msg = f"{path}: no such data set"
        raise DatasetError(msg)
    with path.open("rb") as stream:
        magic = stream.read(8)
    if magic.startswith(b"\x89HDF"):
        content, meta = _from_hdf5(path)
    elif magic.startswith(b"PK"):
        content, meta = _from_npz(path)
    else:
        msg = f"{path} is neither HDF5 nor npz; read_dataset reads what write_dataset wrote"
        raise DatasetError(msg)
    n = len(content["images"])
    wrong = [name for name, value in content.items() if value is not None and len(value) != n]
    if wrong or content["images"].ndim != 4:
        msg = f"{path} is inconsistent: images {content['images'].shape}, but {', '.join(wrong) or 'not four axes'}"
        raise DatasetError(msg)
    return TripletSet(**content, meta=meta)


def _words(values: Any) -> np.ndarray:
    """Return bytes or objects as an array of text."""
    words = [v.decode() if isinstance(v, bytes) else str(v) for v in values]
    return np.array(words, dtype=str) if words else np.zeros(0, "U1")


def _from_hdf5(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read schema astrid-gpu.triplets/1."""
    need("h5py", "fits", "an HDF5 data set")
    import h5py

    try:
        with h5py.File(path, "r") as file:
            meta = {key: value.item() if isinstance(value, np.generic) else value for key, value in file.attrs.items()}
            if meta.get("schema") != SCHEMA:
                msg = f"{path} has schema {meta.get('schema')!r}, this version reads {SCHEMA!r}"
                raise DatasetError(msg)
            channels = [str(name) for name in file["images"].attrs["channels"]]
            stored = file["labels"][:]
            content = {name: file[name][:] for name in ("images", "score_corr", "mask", "anomaly_mask", "ids")}
            content["objects"], content["split"] = _words(file["object"][:]), _words(file["split"][:])
            table = file["candidates"]
            content["candidates"] = _table({name: table[name][:] for name in _column_order(table)})
    except (OSError, KeyError) as error:
        msg = f"{path} is damaged or incomplete: {error}"
        raise DatasetError(msg) from error
    labels = np.zeros(len(stored), LABEL_DTYPE)
    for name in ("anomaly", "confidence"):
        labels[name] = stored[name]
    labels["source_type"] = _words(stored["source_type"])
    content["labels"] = labels
    content["images"] = _canonical(path, content["images"], channels)
    return content, _unpacked(meta)


def _column_order(group: Any) -> list[str]:
    """Return the columns in the order of the candidate table, unknown ones last."""
    from astrid_gpu.io.tables import COLUMNS

    known = [name for name in COLUMNS if name in group]
    return known + [name for name in group if name not in COLUMNS]


def _from_npz(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the npz form."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
            meta = json.loads(str(arrays["meta"]))
            n = len(arrays["images"])
            labels = np.zeros(n, LABEL_DTYPE)
            labels["anomaly"], labels["source_type"] = arrays["labels"], arrays["source_type"]
            labels["confidence"] = arrays["confidence"]
            content = {name: arrays[name] for name in ("score_corr", "mask", "anomaly_mask", "ids", "split")}
            channels = [str(name) for name in arrays["channels"]]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        msg = f"{path} is damaged or was not written by write_dataset: {error}"
        raise DatasetError(msg) from error
    prefix = "candidate_"
    columns = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
    content |= {"labels": labels, "objects": arrays["object"], "candidates": _table(columns)}
    content["images"] = _canonical(path, arrays["images"], channels)
    return content, meta


def _canonical(path: Path, images: np.ndarray, channels: list[str]) -> np.ndarray:
    """Return images with the channels in the order science, reference, difference."""
    if sorted(channels) != sorted(CHANNELS):
        msg = f"{path} has channels {channels}, expected {list(CHANNELS)} in some order"
        raise DatasetError(msg)
    return np.ascontiguousarray(images[:, [channels.index(name) for name in CHANNELS]])


def _table(columns: dict[str, np.ndarray]) -> np.ndarray | None:
    """Return columns as one structured array."""
    if not columns:
        return None
    columns = {k: _words(v) if v.dtype.kind in "OS" else v for k, v in columns.items()}
    table = np.zeros(len(next(iter(columns.values()))), [(name, value.dtype) for name, value in columns.items()])
    for name, value in columns.items():
        table[name] = value
    return table


def _unpacked(meta: dict[str, Any]) -> dict[str, Any]:
    """Return attributes with the JSON ones decoded."""
    out = dict(meta)
    for key, value in meta.items():
        if isinstance(value, str) and value[:1] in "{[":
            try:
                out[key] = json.loads(value)
            except ValueError:
                continue
    return out
