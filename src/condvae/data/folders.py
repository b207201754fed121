"""Class folders, on disk or in a .zip: which files there are, and of which class they are.

`root/cat/a.png, root/dog/b.png ...`; with folders `train` and `test` (or `val`) at the top, these
are the splits. A class folder named `unlabelled` holds images without a label. Folders inside a class
folder belong to the class; hidden files and folders are not seen.
"""

from __future__ import annotations

import os
import posixpath
import re
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from numpy.typing import NDArray

from condvae.errors import UserError
from condvae.files import read_at_most

TRAIN, TEST = ("train", "training"), ("test", "testing", "val", "valid", "validation")
UNLABELLED = "unlabelled"
HIDDEN = (".", "__MACOSX")
LARGEST = 1 << 28
"""Bytes of an image file, at most; unpacked, where it is in a zip."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An image file, of which there may be millions.

    Arguments:
        shown: its path inside the source, fit to be shown.
        name: the same as it is written there.
        mark: changes with its content.
    """

    shown: str
    name: str
    mark: tuple[int, ...]

    @property
    def path(self) -> PurePosixPath:
        """Its path inside the source, fit to be shown."""
        return PurePosixPath(self.shown)


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
                    shown = os.fsencode(inside).decode("utf-8", "backslashreplace")
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
            name = info.filename.replace("\\", "/")
            parts = [part for part in name.split("/") if part not in ("", ".")]
            drive = parts and parts[0].endswith(":")
            if name.startswith("/") or ".." in parts or drive:
                raise UserError(
                    f"{self.path}: the entry {info.filename!r} climbs out of the archive; "
                    "make the zip again, from inside its folder"
                )
            if parts and not info.filename.endswith("/"):
                shown = "/".join(parts)
                shown = info.filename if shown == info.filename else shown  # one text instead of two
                found.append(Entry(shown, info.filename, (info.file_size, info.CRC)))
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
    by_folder: dict[tuple[str, ...], list[Entry]] = {}
    for entry in container.entries():
        *above, file = entry.shown.split("/")
        if posixpath.splitext(file)[1].lower() in known and not file.startswith(HIDDEN):
            by_folder.setdefault(tuple(above), []).append(entry)
    folders = [folder for folder in by_folder if not any(part.startswith(HIDDEN) for part in folder)]
    depth = _common_depth(folders)
    tops = {folder[depth].lower() for folder in folders if len(folder) > depth + 1}
    train, test = (next((n for n in names if n in tops), None) for names in (TRAIN, TEST))
    divided = train is not None and test is not None
    if divided:
        wanted = {"train": [train], "test": [test], "all": [train, test]}[split]
        everything = [folder for folder in folders if len(folder) > depth + 1]
        chosen = [folder for folder in everything if folder[depth].lower() in wanted]
        depth += 1
    else:
        everything = chosen = [folder for folder in folders if len(folder) > depth]
    names = sorted({folder[depth] for folder in everything} - {UNLABELLED}, key=natural_order)
    if len(names) < 2:
        found = f"one class, {names[0]!r}" if names else "no class folders with images in them"
        raise UserError(
            f"{container.path}: {found}; it needs two or more folders, each named as its class"
        )
    number = {name: index for index, name in enumerate(names)} | {UNLABELLED: -1}
    by_class: dict[str, list[Entry]] = {name: [] for name in sorted(number, key=natural_order)}
    for folder in chosen:
        by_class[folder[depth]].extend(by_folder[folder])
    for members in by_class.values():  # a class after another: the keys of millions take gigabytes
        members.sort(key=lambda entry: natural_order(entry.shown))
    ordered = [entry for members in by_class.values() for entry in members]
    labels = np.repeat([number[name] for name in by_class], [len(own) for own in by_class.values()])
    return Listing(ordered, labels.astype(np.int64), tuple(names), divided, depth)


def _common_depth(folders: Sequence[tuple[str, ...]]) -> int:
    """1 where everything lies in one folder that is no class (it has folders), and 0 otherwise."""
    tops = {folder[:1] for folder in folders}
    return int(len(tops) == 1 and all(len(folder) > 1 for folder in folders))


def natural_order(name: str) -> tuple[tuple[int, int | str], ...]:
    """A sort key by which "2" comes before "10"."""
    pieces = re.split(r"(\d+)", name)
    return tuple(
        (0, int(p)) if p.isdecimal() and len(p) < 100 else (1, p.casefold()) for p in pieces if p
    )
