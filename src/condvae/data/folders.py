"""Class folders, on disk or in a .zip, decoded once into a memory-mapped cache.

`root/cat/a.png, root/dog/b.png ...`; with folders `train` and `test` (or `val`) at the top, these
are the splits. A class folder named `unlabelled` holds images without a label. Folders inside a class
folder belong to the class; hidden files and folders are not seen.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from numpy.typing import NDArray

from condvae.data.dataset import LabelledImages, fingerprint
from condvae.errors import UserError
from condvae.files import read_at_most
from condvae.progress import ProgressLine

FORMAT = 2
TRAIN, TEST = ("train", "training"), ("test", "testing", "val", "valid", "validation")
UNLABELLED = "unlabelled"
CHUNK = 2048
LARGEST = 1 << 28
"""Bytes of an image file, at most; unpacked, where it is in a zip."""
WIDEST = 1024
"""Side of an image that is kept at the source's own size, at most."""


@dataclass(frozen=True)
class Entry:
    """An image file: its path inside the source, fit to be shown, its name there as it is written, and a
    mark that changes with its content."""

    path: PurePosixPath
    name: str
    mark: tuple[int, ...]


class Container(ABC):
    """Where image files lie."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def entries(self) -> list[Entry]:
        """All files."""

    @abstractmethod
    def read(self, entry: Entry) -> bytes:
        """A file's bytes.

        Raises:
            OSError, ValueError: it can't be read, or is too large to be an image.
        """

    def listing(self, split: str) -> Listing:
        """The files of a split with their labels; all of them, where the source has no splits.

        Raises:
            UserError: there are fewer than two classes.
        """
        return listing(self, split)


class Folder(Container):
    """A folder on disk; links are followed, each folder once."""

    def entries(self) -> list[Entry]:
        found, seen = [], set()
        for folder, folders, names in os.walk(self.path, followlinks=True):
            here = os.stat(folder)
            if (here.st_dev, here.st_ino) in seen:  # a link to a folder above would never end
                folders.clear()
                continue
            seen.add((here.st_dev, here.st_ino))
            for name in names:
                file = Path(folder, name)
                if file.is_file():
                    state = file.stat()
                    inside = file.relative_to(self.path).as_posix()
                    shown = PurePosixPath(os.fsencode(inside).decode("utf-8", "backslashreplace"))
                    found.append(Entry(shown, inside, (state.st_size, state.st_mtime_ns)))
        return found

    def read(self, entry: Entry) -> bytes:
        with (self.path / entry.name).open("rb") as file:
            return limited(file)


class Zip(Container):
    """A zip archive, read in place."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self.archive = zipfile.ZipFile(path)
        except Exception as error:  # whatever zipfile comes up with when it is given a damaged file
            raise UserError(f"{path}: not a zip file, or cut short ({error}); make it again") from error

    def entries(self) -> list[Entry]:
        found = []
        for info in self.archive.infolist():
            inside = PurePosixPath(info.filename.replace("\\", "/"))
            drive = inside.parts and inside.parts[0].endswith(":")
            if inside.is_absolute() or ".." in inside.parts or drive:
                raise UserError(
                    f"{self.path}: the entry {info.filename!r} climbs out of the archive; "
                    "make the zip again, from inside its folder"
                )
            if not info.filename.endswith("/"):
                found.append(Entry(inside, info.filename, (info.file_size, info.CRC)))
        return found

    def read(self, entry: Entry) -> bytes:
        try:
            with self.archive.open(entry.name) as file:
                return limited(file)
        except Exception as error:  # as above; a RuntimeError where it wants a password
            raise ValueError(str(error) or type(error).__name__) from error


def limited(file: IO[bytes]) -> bytes:
    """What is in an image file.

    Raises:
        ValueError: it goes on and on, as a zip bomb does.
    """
    content = read_at_most(file.read, LARGEST)
    if len(content) > LARGEST:
        raise ValueError(f"over {LARGEST:,} bytes, which no image has")
    return content


# --------------------------------------------------------------------------------- which file is what


@dataclass(frozen=True)
class Listing:
    """Image files with their labels, in order of class and name."""

    entries: list[Entry]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    divided: bool
    """Whether the source itself tells train from test."""
    depth: int = 0
    """Which part of a path names the class."""


def listing(container: Container, split: str) -> Listing:
    """The files of a split; all of them, where the source doesn't tell train from test.

    Raises:
        UserError: there are no class folders, or just one class.
    """
    from condvae.data.images import suffixes

    known = suffixes()
    entries = [
        entry
        for entry in container.entries()
        if entry.path.suffix.lower() in known
        and not any(part.startswith((".", "__MACOSX")) for part in entry.path.parts)
    ]
    depth = _common_depth([entry.path for entry in entries])
    tops = {entry.path.parts[depth].lower() for entry in entries if len(entry.path.parts) > depth + 2}
    train, test = (next((n for n in names if n in tops), None) for names in (TRAIN, TEST))
    divided = train is not None and test is not None
    if divided:
        wanted = {"train": [train], "test": [test], "all": [train, test]}[split]
        everything = [entry for entry in entries if len(entry.path.parts) >= depth + 3]
        chosen = [entry for entry in everything if entry.path.parts[depth].lower() in wanted]
        depth += 1
    else:
        everything = chosen = [entry for entry in entries if len(entry.path.parts) >= depth + 2]
    names = sorted({entry.path.parts[depth] for entry in everything} - {UNLABELLED}, key=natural_order)
    if len(names) < 2:
        found = f"one class, {names[0]!r}" if names else "no class folders with images in them"
        raise UserError(
            f"{container.path}: {found}; it needs two or more folders, each named as its class"
        )
    number = {name: index for index, name in enumerate(names)} | {UNLABELLED: -1}
    chosen.sort(key=lambda e: (natural_order(e.path.parts[depth]), natural_order(str(e.path))))
    labels = np.array([number[entry.path.parts[depth]] for entry in chosen], dtype=np.int64)
    return Listing(chosen, labels, tuple(names), divided, depth)


def _common_depth(paths: Sequence[PurePosixPath]) -> int:
    """1 where everything lies in one folder that is no class (it has folders), and 0 otherwise."""
    tops = {path.parts[0] for path in paths}
    return int(len(tops) == 1 and all(len(path.parts) > 2 for path in paths))


def natural_order(name: str) -> tuple[tuple[int, int | str], ...]:
    """A sort key by which "2" comes before "10"."""
    pieces = re.split(r"(\d+)", name)
    return tuple(
        (0, int(p)) if p.isdecimal() and len(p) < 100 else (1, p.casefold()) for p in pieces if p
    )


# -------------------------------------------------------------------------------- decoding, and cache


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
    sizes and times) and of how they are decoded. Where the cache can't be written, the images are
    decoded into RAM.

    Returns:
        The images, and whether the source itself tells train from test.

    Raises:
        UserError: no class folders; an image is unreadable, and they aren't to be skipped.
    """
    found = container.listing(split)
    shape = decoded_shape(container, found, image_size, channels)
    key = hashlib.sha256(repr((FORMAT, shape, skip_unreadable, found.class_names)).encode())
    for entry, label in zip(found.entries, found.labels, strict=True):
        key.update(repr((str(entry.path), entry.mark, int(label))).encode())
    place = cache / "decoded" / key.hexdigest()[:32]

    data = _from_cache(place, name, split, found)
    if data is None:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            beside = Path(tempfile.mkdtemp(prefix=f"{place.name}.", dir=place.parent))
        except OSError:
            beside = None
        try:
            if beside is not None and not _has_room(beside, math.prod((len(found.entries), *shape))):
                shutil.rmtree(beside, ignore_errors=True)
                beside = None
            images, kept = _decode(container, found.entries, shape, skip_unreadable, beside)
            labels = found.labels[kept]
            files = [str(found.entries[index].path) for index in kept]
            data = LabelledImages(
                images,
                labels,
                found.class_names,
                name,
                split,
                fingerprint(images, labels),
                len(found.entries) - len(kept),
                tuple(files),
            )
            if beside is not None:
                _to_cache(beside, place, data)
        finally:
            if beside is not None:
                shutil.rmtree(beside, ignore_errors=True)
        data = _from_cache(place, name, split, found) or data
    return data, found.divided


def _has_room(folder: Path, size: int) -> bool:
    """Whether a file of that size fits: a memory map on a full disk would kill the process."""
    if not hasattr(os, "posix_fallocate"):
        return shutil.disk_usage(folder).free > size
    try:
        with (folder / "room").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size + 4096)
        return True
    except OSError:
        return False
    finally:
        (folder / "room").unlink(missing_ok=True)


def _to_cache(beside: Path, place: Path, data: LabelledImages) -> None:
    try:
        np.save(beside / "labels.npy", data.labels)
        about = {
            "fingerprint": data.fingerprint,
            "skipped": data.skipped,
            "shape": list(data.images.shape),
            "files": list(data.files or ()),
        }
        (beside / "about.json").write_text(json.dumps(about), "utf-8")
        shutil.rmtree(place, ignore_errors=True)
        os.rename(beside, place)
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


def _decode(
    container: Container,
    entries: Sequence[Entry],
    shape: tuple[int, int, int],
    skip_unreadable: bool,
    folder: Path | None,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Decode all images, into a memory map in `folder`, or into RAM.

    Returns:
        The images, and the indices of the entries that they came from.
    """
    from numpy.lib.format import open_memmap

    from condvae.data.images import UNREADABLE, fit, open_image, without_warnings

    def decode(entry: Entry) -> NDArray[np.uint8] | Exception:
        try:
            return fit(open_image(container.read(entry)), shape[1:], shape[0])
        except UNREADABLE as error:
            return error

    whole = (len(entries), *shape)
    try:
        images: NDArray[np.uint8] = (
            np.empty(whole, np.uint8)
            if folder is None
            else open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=whole)
        )
    except (MemoryError, ValueError) as error:
        raise UserError(
            f"{container.path}: {len(entries):,} images of {shape} need {math.prod(whole):,} bytes; "
            "give a smaller --data.image-size"
        ) from error
    kept: list[int] = []
    with without_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool, ProgressLine() as line:
        line.start(f"decoding {container.path.name}")
        for start in range(0, len(entries), CHUNK):
            line.show(start / len(entries), f"{start:,} of {len(entries):,} images")
            for offset, result in enumerate(pool.map(decode, entries[start : start + CHUNK])):
                if isinstance(result, Exception):
                    if not skip_unreadable:
                        raise UserError(
                            f"{container.path / entries[start + offset].path}: not a readable image "
                            f"({result}); mend or remove it, or pass --skip-unreadable"
                        )
                    continue
                images[len(kept)] = result
                kept.append(start + offset)
    if not kept:
        raise UserError(f"{container.path}: none of its {len(entries)} images can be read")
    if len(kept) < len(entries):
        images = _shortened(images, len(kept), folder)
    if isinstance(images, np.memmap):
        images.flush()
    return images, np.array(kept, dtype=np.int64)


def _shortened(images: NDArray[np.uint8], number: int, folder: Path | None) -> NDArray[np.uint8]:
    """The first images alone, in RAM or as a memory map of their own."""
    from numpy.lib.format import open_memmap

    if folder is None:
        return images[:number].copy()
    shape = (number, *images.shape[1:])
    short = open_memmap(folder / "short.npy", mode="w+", dtype=np.uint8, shape=shape)
    for start in range(0, number, CHUNK):
        short[start : start + CHUNK] = images[start : min(start + CHUNK, number)]
    os.replace(folder / "short.npy", folder / "images.npy")
    return short
