"""Writing a data set, whole or not at all."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from astrid_gpu.dataset.schema import CHANNELS, HOST_CHANNELS, SCHEMA, make_labels
from astrid_gpu.dataset.splitting import object_keys, split_of
from astrid_gpu.errors import DatasetError
from astrid_gpu.io.extras import need
from astrid_gpu.io.paths import atomic_path
from astrid_gpu.results import _CITATION, Candidates, Cutouts

__all__ = ["write_dataset"]


def write_dataset(
    path: str | Path,
    cutouts: Cutouts,
    candidates: Candidates | None = None,
    *,
    labels: Any = None,
    meta: Mapping[str, Any] | None = None,
    anomaly_mask: Any = None,
    objects: Any = None,
) -> Path:
    """Write triplets for machine learning; docs/data-format.md tells every field.

    Parameters
    ----------
    path : str or Path
        ``.h5`` or ``.hdf5``: schema ``astrid-gpu.triplets/1``; ``.npz``: the host application's order, reference,
        science, difference. Neither is normalised.
    cutouts : Cutouts
    candidates : Candidates, optional
        One per cutout, in the same order, or a larger table that holds the cutouts' ids.
    labels : optional
        See `make_labels`; by default nothing is known: 0, "unknown", confidence 0.
    meta : mapping, optional
        Written with the file: configuration, seed, ... ; numbers and words become attributes, the rest JSON.
    anomaly_mask : array (n, s, s), optional
        Nonzero where a pixel belongs to the anomaly, for segmentation; by default all zero.
    objects : sequence of n names, optional
        Which object each triplet shows, for the split; by default told by position.

    Returns
    -------
    Path

    Raises
    ------
    DatasetError
        Lengths or shapes that disagree, or an ending that is not known.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in (".h5", ".hdf5", ".npz"):
        msg = f"cannot tell the format of {path.name}; data sets are written as .h5, .hdf5 or .npz"
        raise DatasetError(msg)
    content = _gather(cutouts, candidates, labels, anomaly_mask, objects)
    about = _about(cutouts, candidates, dict(meta or {}))
    with atomic_path(path) as part:
        if path.suffix.lower() == ".npz":
            _write_npz(part, content, about)
        else:
            _write_hdf5(part, content, about)
    return path


def _gather(
    cutouts: Cutouts, candidates: Candidates | None, labels: Any, anomaly_mask: Any, objects: Any
) -> dict[str, Any]:
    """Return the arrays of a data set, all of n rows, or say which is not."""
    n, size = len(cutouts), cutouts.images.shape[-1]
    rows = _matching_rows(cutouts, candidates)
    if objects is not None and len(objects) != n:
        msg = f"objects names {len(objects)} objects, but there are {n} triplets"
        raise DatasetError(msg)
    pixels = np.zeros((n, size, size), np.uint8)
    if anomaly_mask is not None:
        given = np.asarray(anomaly_mask)
        if given.shape != pixels.shape:
            msg = f"anomaly_mask has shape {given.shape}, the triplets call for {pixels.shape}"
            raise DatasetError(msg)
        pixels = (given != 0).astype(np.uint8)
    keys = object_keys(rows, n, objects)
    return {
        "images": np.ascontiguousarray(cutouts.images, dtype=np.float32),
        "score_corr": np.ascontiguousarray(cutouts.score_corr, dtype=np.float32),
        "mask": np.ascontiguousarray(cutouts.mask, dtype=np.uint8),
        "anomaly_mask": pixels,
        "labels": make_labels(labels, n),
        "ids": np.asarray(cutouts.ids),
        "object": keys,
        "split": split_of(keys),
        "candidates": rows,
    }


def _matching_rows(cutouts: Cutouts, candidates: Candidates | None) -> np.ndarray | None:
    """Return the candidates' rows in the order of the cutouts."""
    if candidates is None:
        return None
    ids, table = np.asarray(cutouts.ids), candidates.data
    if len(table) == len(ids) and np.array_equal(table["id"], ids):
        return table
    place = {int(number): i for i, number in enumerate(table["id"])}
    absent = [int(number) for number in ids if int(number) not in place]
    if absent or len(place) != len(table):
        said = f"no candidate has the id {absent[0]}" if absent else "their ids are not unique"
        msg = f"the candidates do not belong to the cutouts: {said} ({len(table)} candidates, {len(ids)} cutouts)"
        raise DatasetError(msg)
    return table[[place[int(number)] for number in ids]]


def _about(cutouts: Cutouts, candidates: Candidates | None, meta: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of the file."""
    import astrid_gpu

    inherited = {**cutouts.meta, **(candidates.meta if candidates is not None else {})}
    unit = inherited.get("bunit") or (inherited.get("science_meta") or {}).get("bunit")
    about = {
        "schema": SCHEMA,
        "astrid_gpu_version": astrid_gpu.__version__,
        "numpy_version": np.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "citation": _CITATION,
        "normalised": False,
        "unit": "flux of the science image" + (f" ({unit})" if unit else ""),
        "configuration": meta.pop("configuration", meta.pop("config", {})),
        "seed": meta.pop("seed", -1),
    }
    if candidates is not None:
        about |= {"threshold": float(candidates.threshold), "extractor": candidates.extractor}
    for key in ("science", "reference", "zero_point", "method", "backend"):
        if isinstance(inherited.get(key), (str, int, float)):
            about[key] = inherited[key]
    return about | meta


def _write_hdf5(path: Path, content: dict[str, Any], about: dict[str, Any]) -> None:
    """Write schema astrid-gpu.triplets/1."""
    need("h5py", "fits", "an HDF5 data set")
    import h5py

    text = h5py.string_dtype("utf-8")
    n, size = len(content["images"]), content["images"].shape[-1]
    with h5py.File(path, "w", track_order=False) as file:
        for key, value in about.items():
            file.attrs[key] = _attribute(value)
        for name in ("images", "score_corr", "mask", "anomaly_mask"):
            data = content[name]
            options: dict[str, Any] = {"track_times": False}
            if n:
                options |= {
                    "chunks": (1, *data.shape[1:]),
                    "compression": "gzip",
                    "compression_opts": 1,
                    "shuffle": True,
                }
            file.create_dataset(name, data=data, **options)
        file["images"].attrs["channels"] = list(CHANNELS)
        file["images"].attrs["size"] = size
        stored = np.dtype([("anomaly", "i1"), ("source_type", h5py.string_dtype("utf-8", 24)), ("confidence", "f4")])
        labels = np.zeros(n, stored)
        for name in ("anomaly", "confidence"):
            labels[name] = content["labels"][name]
        labels["source_type"] = [str(word).encode()[:24] for word in content["labels"]["source_type"]]
        file.create_dataset("labels", data=labels, track_times=False)
        file.create_dataset("ids", data=content["ids"], track_times=False)
        for name in ("object", "split"):
            file.create_dataset(name, data=[str(v) for v in content[name]], shape=(n,), dtype=text, track_times=False)
        table = file.create_group("candidates")
        rows = content["candidates"]
        for name in () if rows is None else rows.dtype.names:
            _write_column(table, name, np.ascontiguousarray(rows[name]), text)


def _write_column(group: Any, name: str, values: np.ndarray, text: Any) -> None:
    """Write one column of the candidates, with its unit and meaning."""
    from astrid_gpu.io.tables import COLUMNS

    if values.dtype.kind in "US":
        words = [v.decode() if isinstance(v, bytes) else str(v) for v in values]
        column = group.create_dataset(name, data=words, shape=values.shape, dtype=text, track_times=False)
    else:
        column = group.create_dataset(name, data=values, track_times=False)
    known = COLUMNS.get(name)
    if known is not None:
        column.attrs["description"] = known.meaning
        if known.unit:
            column.attrs["unit"] = "unit of the science image" if known.unit == "flux" else known.unit


def _attribute(value: Any) -> Any:
    """Return a value that an HDF5 attribute can hold; structures become JSON."""
    if isinstance(value, (str, bool, int, float, np.generic)):
        return value
    return json.dumps(_jsonable(value), sort_keys=True)


def _jsonable(value: Any) -> Any:
    """Return a value that JSON can hold; numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, np.ndarray)):
        return [_jsonable(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _write_npz(path: Path, content: dict[str, Any], about: dict[str, Any]) -> None:
    """Write the host application's arrays: images (n, 3, s, s) reference, science, difference, and labels int32."""
    order = [CHANNELS.index(name) for name in HOST_CHANNELS]
    rows = content["candidates"]
    names = () if rows is None else rows.dtype.names
    columns: dict[str, Any] = {f"candidate_{name}": np.ascontiguousarray(rows[name]) for name in names}
    about = {key: value for key, value in about.items() if key != "created"}
    arrays = {
        "images": np.ascontiguousarray(content["images"][:, order]),
        "labels": content["labels"]["anomaly"].astype(np.int32),
        "channels": np.array(HOST_CHANNELS),
        "source_type": content["labels"]["source_type"],
        "confidence": content["labels"]["confidence"],
        "score_corr": content["score_corr"],
        "mask": content["mask"],
        "anomaly_mask": content["anomaly_mask"],
        "ids": content["ids"],
        "object": np.array(content["object"], dtype=str),
        "split": content["split"],
        "meta": np.array(json.dumps(_jsonable(about), sort_keys=True)),
        **columns,
    }
    # As numpy.savez_compressed, but at zlib's first level.
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            packed = io.BytesIO()
            np.lib.format.write_array(packed, np.asanyarray(array), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy")  # dated 1980, as numpy's: the same content gives the same bytes
            entry.external_attr = 0o600 << 16
            archive.writestr(entry, packed.getvalue(), zipfile.ZIP_DEFLATED, 1)
