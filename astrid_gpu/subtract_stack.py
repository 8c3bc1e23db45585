"""`subtract_stack`: one reference from a stream of exposures, in order, in bounded memory, past files that fail."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from astrid_gpu._prepare import Given, Pair, PairPreparer
from astrid_gpu._psf_check import StackWarnings
from astrid_gpu.backends import get_backend
from astrid_gpu.config import SubtractConfig
from astrid_gpu.errors import AstridGpuError, ConfigError, InputError
from astrid_gpu.image import Image
from astrid_gpu.io.files import split_spec
from astrid_gpu.results import Difference
from astrid_gpu.subtract import _difference, _load, _settings

__all__ = ["subtract_stack"]

_log = logging.getLogger("astrid_gpu")
_FRAMES_PER_IMAGE = 24  # float32 frames held per image at the peak: its planes, their stack, the engine's, the results
_LARGEST_BATCH = 16
_CHUNK = 1 << 22  # bytes


def subtract_stack(
    images: Iterable[Any],
    reference: Any,
    *,
    batch: int | str = "auto",
    backend: Any = None,
    on_error: str = "raise",
    config: SubtractConfig | None = None,
    psf_science: Any = None,
    psf_reference: Any = None,
    mask_reference: Any = None,
    variance_reference: Any = None,
    sigma_reference: float | None = None,
    **options: Any,
) -> Iterator[Difference | AstridGpuError]:
    """Subtract one reference from many science images, in order and in bounded memory.

    Equal to looping `subtract` over the images. What concerns the reference alone is done once; files are opened when
    their turn comes, and the next one is already on its way from the disk while one is subtracted.

    Parameters
    ----------
    images : iterable of anything `subtract` takes as science, or an array (n, ny, nx)
        Taken one by one, never more than a batch and one file ahead of what is returned.
    reference : as in `subtract`
    batch : int or "auto"
        Images differenced at a time; "auto" takes what a quarter of the free memory holds, 16 at most. Memory grows
        with it, and not with the number of images.
    backend : str, optional
        As in `subtract`.
    on_error : {"raise", "return"}
        "return" puts the error in the place of an image that cannot be read or subtracted, and goes on: one bad file
        does not stop a night. "raise" raises it after the images before it.
    config, psf_science, psf_reference, mask_reference, variance_reference, sigma_reference, **options
        As in `subtract`. What is known of one science image goes with it: `Image`, or `read_image`.

    Yields
    ------
    Difference
        One for each image, in order; or, with on_error="return", an `AstridGpuError` that names the image.

    Raises
    ------
    ConfigError
        `batch` or `on_error` is impossible.
    InputError
        `images` is a single image.

    Notes
    -----
    Memory: about 100 bytes for each pixel of a batch, beside the reference and what the caller keeps.

    Where a PSF that was given does not fit the stars, one warning tells of the reference's, when it is first seen, and
    one at the end of how many exposures' do not and of the worst; steps and metrics of each result tell of its own.

    Examples
    --------
    >>> import astrid_gpu as ag
    >>> season = ag.simulate.sequence(n_epochs=2, shape=(96, 96), seed=3)
    >>> nights = (frame.science for frame in season)
    >>> [diff.shape for diff in ag.subtract_stack(nights, season.reference)]
    [(96, 96), (96, 96)]
    """
    if isinstance(images, (str, Path, Image)) or getattr(getattr(images, "data", None), "ndim", 0) == 2:
        msg = f"images must be several: a list, an array (n, ny, nx), a generator; got one {type(images).__name__}"
        raise InputError(msg)
    if batch != "auto" and (isinstance(batch, bool) or not isinstance(batch, (int, np.integer)) or batch < 1):
        msg = f"batch must be 'auto' or a number of images, at least 1; got {batch!r}"
        raise ConfigError(msg)
    if on_error not in ("raise", "return"):
        msg = f"on_error must be 'raise' or 'return', got {on_error!r}"
        raise ConfigError(msg)
    settings = _settings(config, options if backend is None else options | {"backend": backend})
    given = Given(psf_science, psf_reference, sigma_reference=sigma_reference)
    preparer = PairPreparer(_load(reference, "reference", mask_reference, variance_reference), settings, given)
    return _warned(images, preparer, settings, batch, keep_errors=on_error == "return")


def _warned(
    images: Iterable[Any], preparer: PairPreparer, settings: SubtractConfig, batch: int | str, *, keep_errors: bool
) -> Iterator[Difference | AstridGpuError]:
    """Yield the stream, and warn of PSFs that do not fit: as of one stack, however far it is read."""
    with StackWarnings() as told:
        preparer.warn = told.add
        yield from _stream(images, preparer, settings, batch, keep_errors=keep_errors)


def _stream(
    images: Iterable[Any], preparer: PairPreparer, settings: SubtractConfig, batch: int | str, *, keep_errors: bool
) -> Iterator[Difference | AstridGpuError]:
    """Prepare images one by one, difference them batch by batch, keep their order."""
    waiting: list[Pair | AstridGpuError] = []
    for name, image in _read_ahead(images):
        try:
            waiting.append(preparer.prepare(_load(image, name, None, None)))
        except Exception as exc:
            if not keep_errors:
                yield from _flush(waiting, settings, keep_errors=False)
                raise
            waiting.append(_as_ours(exc, str(image) if isinstance(image, (str, Path)) else name))
        del image
        if len(waiting) >= _size(batch, waiting, settings):
            yield from _flush(waiting, settings, keep_errors=keep_errors)
    yield from _flush(waiting, settings, keep_errors=keep_errors)


def _read_ahead(images: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Yield each image with a name; of files, bring the next into the system's cache meanwhile.

    A thread moves bytes only: reading FITS silences warnings, which would disturb those of the main thread. An image
    that is no file is yielded as soon as it is there. If `images` itself fails, what it gave before comes first.
    """
    reader = ThreadPoolExecutor(1, thread_name_prefix="astrid-gpu-read")
    ahead: deque[tuple[str, Any]] = deque()
    source, failure = enumerate(images), None
    try:
        while True:
            try:
                number, image = next(source)
            except StopIteration:
                break
            except Exception as exc:  # whatever the caller's generator raises, later
                failure = exc
                break
            is_file = isinstance(image, (str, Path))
            if is_file:
                reader.submit(_fetch, image)
            ahead.append((f"image {number}", image))
            del image
            while len(ahead) > int(is_file):
                yield ahead.popleft()
        while ahead:
            yield ahead.popleft()
    finally:
        reader.shutdown(wait=False, cancel_futures=True)
    if failure is not None:
        raise failure


def _fetch(path: str | Path) -> None:
    """Read a file and forget it: the operating system keeps it for whoever reads it next."""
    try:
        with split_spec(path)[0].open("rb") as stream:
            while stream.read(_CHUNK):
                pass
    except (AstridGpuError, OSError):
        return  # told by whoever reads it next


def _as_ours(exc: Exception, name: str) -> AstridGpuError:
    """Return an error as one of ours; those of the libraries below do not say with which image."""
    if isinstance(exc, AstridGpuError):
        return exc
    error = AstridGpuError(f"{name}: {type(exc).__name__}: {exc}")
    error.__cause__ = exc
    return error


def _flush(
    waiting: list[Pair | AstridGpuError], settings: SubtractConfig, *, keep_errors: bool
) -> Iterator[Difference | AstridGpuError]:
    """Difference what waits, images of one shape together; yield in order and let go."""
    results: dict[int, Difference | AstridGpuError] = {
        i: item for i, item in enumerate(waiting) if not isinstance(item, Pair)
    }
    n, pairs = len(waiting), {i: item for i, item in enumerate(waiting) if isinstance(item, Pair)}
    waiting.clear()
    for shape in sorted({pair.science.shape for pair in pairs.values()}):
        chosen = [i for i, pair in pairs.items() if pair.science.shape == shape]
        together = [pairs.pop(i) for i in chosen]
        differences = _difference_or_error if keep_errors else _difference
        results.update(zip(chosen, differences(together, settings), strict=True))
        del together
    for i in range(n):
        yield results.pop(i)


def _difference_or_error(pairs: list[Pair], settings: SubtractConfig) -> list[Difference | AstridGpuError]:
    """Difference pairs together or, where that fails, one by one, with the error in the place of what failed."""
    try:
        return list(_difference(pairs, settings))
    except Exception as exc:
        if len(pairs) > 1:
            return [_difference_or_error([pair], settings)[0] for pair in pairs]
        return [_as_ours(exc, str(pairs[0].meta.get("science")))]


def _size(batch: int | str, waiting: list[Pair | AstridGpuError], settings: SubtractConfig) -> int:
    """Return the images of a batch: as asked, or those that fit a quarter of the free memory."""
    if not isinstance(batch, str):
        return batch
    first = next((item for item in waiting if isinstance(item, Pair)), None)
    if first is None:
        return _LARGEST_BATCH
    need = _FRAMES_PER_IMAGE * 4 * first.science.size
    free = get_backend(settings.backend).free_memory()
    return int(np.clip(len(waiting) + free // (4 * need), 1, _LARGEST_BATCH))
