"""Where fetched files go: a plain folder, or the science and reference folders of a run directory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from astrid_gpu.acquire.client import Client
from astrid_gpu.acquire.progress import ProgressCallback
from astrid_gpu.acquire.transfer import Item, download_all
from astrid_gpu.errors import AcquisitionError, InputError

__all__ = ["fetch_items", "is_run_directory", "raise_failures", "role_of", "target_path", "try_each"]


def is_run_directory(folder: str | Path) -> bool:
    """Whether `folder` is laid out as a run (design section 7): it holds ``run.json`` or ``source_fits/``."""
    folder = Path(folder).expanduser()
    return (folder / "run.json").is_file() or (folder / "source_fits").is_dir()


def role_of(row: dict[str, Any]) -> str:
    """Return "science" or "reference": what the row says, else by its kind."""
    return row["role"] or ("reference" if row["kind"] == "reference" else "science")


def target_path(row: dict[str, Any], run: str | Path) -> Path:
    """Return the final name of a row's file: ``RUN/source_fits/<role>/<filename>``, or ``FOLDER/<filename>``."""
    folder = Path(run).expanduser()
    if is_run_directory(folder):
        folder = folder / "source_fits" / role_of(row)
    return folder / row["filename"]


def fetch_items(
    items: Iterable[Item], *, client: Client | None = None, progress: ProgressCallback | None = None
) -> list[Path]:
    """Fetch files; every one is tried, then the ones that failed are raised about.

    Returns
    -------
    list of Path
        In the order of `items`.

    Raises
    ------
    AcquisitionError
        Some failed: `failures` names each with its reason, `paths` has those that arrived.
    InputError
        Two items of one call would have the same final name.
    """
    items = list(items)
    names: dict[Path, str] = {}
    for item in items:
        if names.setdefault(item.path, item.url) != item.url:
            msg = f"two different files would be {item.path}: {names[item.path]} and {item.url}; rename one"
            raise InputError(msg)
    unique = list({item.path: item for item in items}.values())
    found = dict(zip([i.path for i in unique], download_all(unique, client=client, progress=progress), strict=True))
    return raise_failures([(item.path.name, found[item.path]) for item in items])


def raise_failures(outcomes: list[tuple[str, Path | AcquisitionError]]) -> list[Path]:
    """Return the paths of `outcomes`, (name, path or error), or raise about all errors among them at once."""
    paths = [result for _, result in outcomes if isinstance(result, Path)]
    failed = [(name, result) for name, result in outcomes if isinstance(result, AcquisitionError)]
    if not failed:
        return paths
    if len(outcomes) == 1:
        raise failed[0][1]
    lines = "".join(f"\n  {name}: {error}" for name, error in failed)
    msg = f"{len(failed)} of {len(outcomes)} files could not be fetched:{lines}"
    reasons = tuple((name, str(error)) for name, error in failed)
    raise AcquisitionError(msg, url=failed[0][1].url, failures=reasons, paths=tuple(paths))


def try_each(work: Iterable[tuple[str, Callable[[], list[Path]]]]) -> list[Path]:
    """Run (name, function) one after the other, each to a list of paths; raise about those that failed at the end."""
    outcomes: list[tuple[str, Path | AcquisitionError]] = []
    for name, function in work:
        try:
            outcomes += [(name, path) for path in function()]
        except AcquisitionError as error:
            outcomes += [(path.name, path) for path in error.paths]
            parts = [(part, AcquisitionError(reason, url=error.url)) for part, reason in error.failures]
            outcomes += parts or [(name, error)]
    return raise_failures(outcomes)
