"""Image files to one array, once: it is kept in a cache, and mapped into memory from then on."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import shutil
import sys
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from condvae.data.dataset import LabelledImages, fingerprint
from condvae.data.folders import Container, Entry, Listing
from condvae.data.rows import let_go
from condvae.errors import UserError
from condvae.files import write_json
from condvae.lock import LOCK, OnlyOne
from condvae.progress import ProgressLine

FORMAT = 2
WIDEST = 1024
"""Side of an image that is kept at the source's own size, at most."""
CHUNK = 512
"""Images that are decoded together."""
MANY = 20_000
"""Images that are worth starting processes for."""
NOTED_EVERY = 5.0
"""Seconds between notes of how far decoding has come."""
FORGOTTEN = 7 * 86400
"""Seconds after which what an interrupted process had decoded is no longer waited for."""
Kept = tuple[NDArray[np.uint8], list[int]]
"""Images, and the entries that they came from."""


def load_container(
    container: Container,
    *,
    name: str,
    split: str,
    image_size: int,
    channels: int,
    skip_unreadable: bool,
    cache: Path,
) -> tuple[LabelledImages, bool]:
    """The images of a split, from the cache where they were decoded before.

    The cache's key is made of the names and the marks of all files (a zip's checksums; a folder's
    sizes and times) and of how they are decoded. What an interrupted process had decoded is gone on
    with. Where the cache can't be written, or another process is writing it, the images are decoded
    into RAM.

    Returns:
        The images, and whether the source itself tells train from test.

    Raises:
        UserError: no class folders; an image is unreadable, and they aren't to be skipped.
    """
    found = container.listing(split)
    shape = decoded_shape(container, found, image_size, channels)
    key = hashlib.sha256(repr((FORMAT, shape, skip_unreadable, found.class_names)).encode())
    for entry, label in zip(found.entries, found.labels, strict=True):
        key.update(repr((entry.shown, entry.mark, int(label))).encode())
    place = cache / "decoded" / key.hexdigest()[:32]

    data = _from_cache(place, name, split, found)
    if data is None:
        with _workplace(place) as beside:
            images, kept = _decode(container, found.entries, shape, skip_unreadable, beside)
            labels = found.labels[kept]
            data = LabelledImages(
                images,
                labels,
                found.class_names,
                name,
                split,
                fingerprint(images, labels),
                len(found.entries) - len(kept),
                tuple(found.entries[index].shown for index in kept),
            )
            if beside is not None and isinstance(images, np.memmap):
                _to_cache(beside, place, data)
        data = _from_cache(place, name, split, found) or data
    return data, found.divided


def decoded_shape(
    container: Container, found: Listing, image_size: int, channels: int
) -> tuple[int, int, int]:
    """`(C, H, W)` to decode to: as asked, or else as the first readable image is."""
    from condvae.data.images import UNREADABLE, open_image, without_warnings

    if image_size and channels:
        return channels, image_size, image_size
    for entry in found.entries:
        try:
            with without_warnings():
                first = open_image(container.read(entry))
        except UNREADABLE:
            continue
        height, width = (image_size, image_size) if image_size else first.size[::-1]
        if max(height, width) > WIDEST:
            raise UserError(
                f"{container.path}: its images are {width} x {height}, and a model's have a side of "
                f"{WIDEST} at most; give --data.image-size"
            )
        return channels or (1 if first.mode == "L" else 3), height, width
    raise UserError(f"{container.path}: none of its {len(found.entries)} images can be read")


# --------------------------------------------------------------------------------------------- the cache


@contextlib.contextmanager
def _workplace(place: Path) -> Iterator[Path | None]:
    """A folder to decode in, which later becomes the cache's; None where there is none to be had.

    It stays when the process is killed, and the next one goes on in it.
    """
    part = place.with_name(f"{place.name}.part")
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(OnlyOne(part, "the cache"))
        except UserError:
            yield None
            return
        _clear_forgotten(part)
        try:
            yield part
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt):
                shutil.rmtree(part, ignore_errors=True)
            raise
        shutil.rmtree(part, ignore_errors=True)


def _clear_forgotten(new: Path) -> None:
    """Remove what was begun long before something new, and nobody has gone on with."""
    for part in new.parent.glob("*.part"):
        with contextlib.suppress(OSError, UserError):
            if new.stat().st_mtime - part.stat().st_mtime > FORGOTTEN:
                with OnlyOne(part, "the cache"):
                    shutil.rmtree(part, ignore_errors=True)


def _to_cache(beside: Path, place: Path, data: LabelledImages) -> None:
    about = {
        "fingerprint": data.fingerprint,
        "skipped": data.skipped,
        "shape": list(data.images.shape),
        "files": list(data.files or ()),
    }
    try:
        np.save(beside / "labels.npy", data.labels)
        (beside / "about.json").write_text(json.dumps(about), "utf-8")
        (beside / PROGRESS).unlink(missing_ok=True)
        shutil.rmtree(place, ignore_errors=True)
        os.rename(beside, place)
        (place / LOCK).unlink(missing_ok=True)
    except OSError:
        pass  # no space, or another process was first: what was decoded serves this process


def _from_cache(place: Path, name: str, split: str, found: Listing) -> LabelledImages | None:
    """The cached images, or None where there are none, or they are not whole."""
    try:
        about = json.loads((place / "about.json").read_text("utf-8"))
        images = np.load(place / "images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(place / "labels.npy", allow_pickle=False)
        if list(images.shape) != about["shape"] or len(labels) != len(images):
            return None
        return LabelledImages(
            images,
            labels,
            found.class_names,
            name,
            split,
            str(about["fingerprint"]),
            int(about["skipped"]),
            tuple(about["files"]),
        )
    except Exception:  # whatever is found in a file that is damaged or no longer there
        return None


# ---------------------------------------------------------------------------------------------- decoding

PROGRESS = "progress.json"


def _decode(
    container: Container,
    entries: Sequence[Entry],
    shape: tuple[int, int, int],
    skip_unreadable: bool,
    folder: Path | None,
) -> Kept:
    """Decode all images, into a memory map in `folder` from where it was left, or into RAM.

    Returns:
        The images, and the indices of the entries that they came from.
    """
    images, kept, start = _begun(container, (len(entries), *shape), folder)
    noted = time.monotonic()
    with _workers(len(entries) - start) as pool, ProgressLine() as line:
        line.start(f"decoding {container.path.name}")
        for first, decoded in _in_order(pool, container, entries, shape, start):
            line.show(first / len(entries), f"{first:,} of {len(entries):,} images")
            for offset, result in enumerate(decoded):
                if isinstance(result, str):
                    if not skip_unreadable:
                        raise UserError(
                            f"{container.path / entries[first + offset].path}: not a readable image "
                            f"({result}); mend or remove it, or pass --skip-unreadable"
                        )
                    continue
                images[len(kept)] = result
                kept.append(first + offset)
            if isinstance(images, np.memmap) and time.monotonic() - noted > NOTED_EVERY:
                images.flush()
                let_go(images)
                _note(folder, first + len(decoded), kept)
                noted = time.monotonic()
    if not kept:
        raise UserError(f"{container.path}: none of its {len(entries)} images can be read")
    if len(kept) < len(entries):
        images = _shortened(images, len(kept), folder)
    if isinstance(images, np.memmap):
        images.flush()
    return images, kept


def _begun(
    container: Container, whole: tuple[int, ...], folder: Path | None
) -> tuple[NDArray[np.uint8], list[int], int]:
    """Room for all images; those that are in it already came from which entries; the next entry."""
    from numpy.lib.format import open_memmap

    if folder is not None:
        path = folder / "images.npy"
        try:
            before = json.loads((folder / PROGRESS).read_text("utf-8"))
            images = np.load(path, mmap_mode="r+", allow_pickle=False)
            done, missing = int(before["done"]), set(map(int, before["unreadable"]))
            if images.shape == whole and images.dtype == np.uint8 and 0 <= done <= len(images):
                return images, [index for index in range(done) if index not in missing], done
        except Exception:  # nothing was begun, or not so that one could go on with it
            (folder / PROGRESS).unlink(missing_ok=True)
        try:
            images = open_memmap(path, mode="w+", dtype=np.uint8, shape=whole)
            _reserve(path)  # a memory map on a disk that gets full would kill the process
            return images, [], 0
        except (OSError, ValueError, OverflowError):
            path.unlink(missing_ok=True)
    try:
        return np.empty(whole, np.uint8), [], 0
    except (MemoryError, ValueError) as error:
        raise UserError(
            f"{container.path}: {whole[0]:,} images of {whole[1:]} need {math.prod(whole):,} bytes; "
            "give a smaller --data.image-size"
        ) from error


def _reserve(path: Path) -> None:
    """Have the disk keep all of a file's room, which until then is only said to be there.

    Raises:
        OSError: there is not so much.
    """
    size = path.stat().st_size
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    elif shutil.disk_usage(path.parent).free < size:
        raise OSError(28, "No space left on device")


def _note(folder: Path | None, done: int, kept: list[int]) -> None:
    """Write down how far decoding has come."""
    if folder is not None:
        unreadable = sorted(set(range(done)) - set(kept)) if len(kept) < done else []
        with contextlib.suppress(UserError):
            write_json(folder / PROGRESS, {"done": done, "unreadable": unreadable})


def _workers(images: int) -> Executor:
    """Who decodes: processes where they are worth it and can be had by forking, and threads elsewhere.

    Threads wait for each other, since much of the decoding of a small image is Python's own work.
    """
    cores = os.cpu_count() or 1
    if images >= MANY and cores > 1 and sys.platform == "linux":
        return ProcessPoolExecutor(cores, multiprocessing.get_context("fork"))
    return ThreadPoolExecutor(cores)


Decoded = list[NDArray[np.uint8] | str]
"""Images, or what is wrong with them."""


def _in_order(
    pool: Executor,
    container: Container,
    entries: Sequence[Entry],
    shape: tuple[int, int, int],
    start: int,
) -> Iterator[tuple[int, Decoded]]:
    """Chunks of decoded images with the index of their first; the next few are read meanwhile."""
    from condvae.data.images import without_warnings

    firsts = iter(range(start, len(entries), CHUNK))
    waiting: deque[tuple[int, Future[Decoded]]] = deque()

    def ask(these: Iterable[int]) -> None:
        for first in these:
            contents = [_read(container, entry) for entry in entries[first : first + CHUNK]]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
                waiting.append((first, pool.submit(decode_all, contents, shape)))

    with without_warnings():
        ask(itertools.islice(firsts, 2 * (os.cpu_count() or 1)))
        while waiting:
            first, future = waiting.popleft()
            decoded = future.result()
            ask(itertools.islice(firsts, 1))
            yield first, decoded


def _read(container: Container, entry: Entry) -> bytes | str:
    from condvae.data.images import UNREADABLE

    try:
        return container.read(entry)
    except UNREADABLE as error:
        return str(error)


def decode_all(contents: Sequence[bytes | str], shape: tuple[int, int, int]) -> Decoded:
    """Decode the contents of image files; texts, which say why there is none, are passed on."""
    from condvae.data.images import UNREADABLE, fit, open_image

    decoded: Decoded = []
    for content in contents:
        if isinstance(content, str):
            decoded.append(content)
            continue
        try:
            decoded.append(fit(open_image(content), shape[1:], shape[0]))
        except UNREADABLE as error:
            decoded.append(str(error) or type(error).__name__)
    return decoded


def _shortened(images: NDArray[np.uint8], number: int, folder: Path | None) -> NDArray[np.uint8]:
    """The first images alone, in RAM or as a memory map of their own."""
    from numpy.lib.format import open_memmap

    if folder is None or not isinstance(images, np.memmap):
        return images[:number].copy()
    shape = (number, *images.shape[1:])
    short = open_memmap(folder / "short.npy", mode="w+", dtype=np.uint8, shape=shape)
    for start in range(0, number, CHUNK):
        short[start : start + CHUNK] = images[start : min(start + CHUNK, number)]
    os.replace(folder / "short.npy", folder / "images.npy")
    return short
