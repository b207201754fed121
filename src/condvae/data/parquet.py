"""Images in Parquet, as the Hugging Face Hub lays them out: a column of image files, one of labels.

`data/train-00000-of-00002.parquet`, `test/0000.parquet` and their like tell the splits by name; files
that name none are all of it. Classes have the names and the order that the file itself gives them
(its `huggingface` metadata), else the order of their numbers or names.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from condvae.data.folders import TEST, TRAIN, Container, Entry, Listing, natural_order
from condvae.data.formats import MOST_CLASSES
from condvae.errors import UserError

HELD = 4
"""Groups of rows that are kept in memory."""


@dataclass(frozen=True)
class Columns:
    """Which columns hold what.

    Arguments:
        image, label: their names; `label` is None where nothing is labelled.
        names: of the classes, where the file gives them.
    """

    image: str
    label: str | None
    names: tuple[str, ...]


class Parquet(Container):
    """A Parquet file, or a folder of them.

    Raises:
        UserError: pyarrow isn't installed, a file is damaged, or there is no column of images.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        found = [path] if path.is_file() else sorted(path.rglob("*.parquet"), key=str)
        self.files = [file for file in found if not _hidden(file.relative_to(path).parts)]
        self.opened: dict[int, Any] = {}
        for index, file in enumerate(self.files):
            with _sound(file):
                self.opened[index] = _opened(file)
                _check_rows(self.opened[index].metadata, file)
        if not self.files:
            raise UserError(f"{path}: holds no Parquet files")
        with _sound(self.files[0]):
            self.columns = columns_of(self.opened[0].schema_arrow, self.files[0])
        self.groups: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self.lock = threading.Lock()

    def entries(self) -> list[Entry]:
        return [entry for index in range(len(self.files)) for entry in self._entries(index)]

    def _entries(self, index: int) -> list[Entry]:
        file = self.files[index]
        state, about = file.stat(), self.opened[index].metadata
        inside = PurePosixPath(
            file.name if file == self.path else file.relative_to(self.path).as_posix()
        )
        mark = (state.st_size, state.st_mtime_ns)
        return [
            Entry(f"{inside}/{group}-{row}", f"{index}:{group}:{row}", mark)
            for group in range(about.num_row_groups)
            for row in range(about.row_group(group).num_rows)
        ]

    def listing(self, split: str) -> Listing:
        splits = [self._split(file) for file in self.files]
        train, test = (next((n for n in names if n in splits), None) for names in (TRAIN, TEST))
        divided = train is not None and test is not None
        wanted = {"train": (train,), "test": (test,), "all": (train, test)}[split]
        entries: list[Entry] = []
        values: list[Any] = []
        every: list[Any] = []
        for index, own in enumerate(splits):
            labels = self._labels(index)
            every += labels
            if not divided or own in wanted:
                entries += self._entries(index)
                values += labels
        names, numbers = numbered(every, self.columns.names, self.path)
        found = np.array([numbers[value] for value in values], dtype=np.int64)
        return Listing(entries, found, names, divided)

    def _split(self, file: Path) -> str | None:
        """The split that a file's name, or a folder above it, tells: one of TRAIN and TEST, or none."""
        inside = Path(file.name) if file == self.path else file.relative_to(self.path)
        words = [re.split(r"[-_.]", part.lower())[0] for part in reversed(inside.parts)]
        return next((word for word in words if word in (*TRAIN, *TEST)), None)

    def _labels(self, index: int) -> list[Any]:
        column = self.columns.label
        if column is None:
            return [None] * int(self.opened[index].metadata.num_rows)
        with _sound(self.files[index]):
            values: list[Any] = self._read(index, None, column).to_pylist()
            set(values)  # labels are to be compared with each other
        if len(values) != self.opened[index].metadata.num_rows:
            raise UserError(f"{self.files[index]}: does not have a label for every row; fetch it again")
        return values

    def read(self, entry: Entry) -> bytes:
        index, group, row = map(int, entry.name.split(":"))
        with self.lock, _sound(self.files[index]):
            if (index, group) not in self.groups:
                self.groups[index, group] = self._read(index, group, self.columns.image)
                if len(self.groups) > HELD:
                    self.groups.popitem(last=False)
            value = self.groups[index, group][row].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise OSError("the image itself is not in the Parquet file")
        return content

    def _read(self, index: int, group: int | None, column: str) -> Any:
        """A column, of one group of rows or of all of them."""
        file = self.opened[index]
        table = file.read([column]) if group is None else file.read_row_group(group, [column])
        return table.column(column)


def _hidden(parts: tuple[str, ...]) -> bool:
    return any(part.startswith(".") for part in parts)


def _opened(file: Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            f"{file}: Parquet needs pyarrow; install it with: pip install 'condvae[parquet]'"
        ) from error
    return pyarrow.parquet.ParquetFile(file)


@contextlib.contextmanager
def _sound(file: Path) -> Iterator[None]:
    """Whatever pyarrow comes up with inside it, when it is given a damaged file, is said in a sentence.

    Raises:
        UserError: the file is damaged.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"{file}: no Parquet file, damaged or cut short ({reason}); fetch it again"
        ) from error


def _check_rows(about: Any, file: Path) -> None:
    """Refuse a number of rows that can't be: no image has less than a byte.

    Raises:
        UserError: the file says that it has more rows than bytes, or different numbers of them.
    """
    rows = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
    if min(rows, default=0) < 0 or sum(rows) != about.num_rows or about.num_rows > file.stat().st_size:
        raise UserError(f"{file}: does not have the rows that it says it has; fetch it again")


def columns_of(schema: Any, file: Path) -> Columns:
    """The columns of images and labels: those that the file's own metadata names, else by their types.

    Raises:
        UserError: there is no column of images, or several columns may be the labels.
    """
    import pyarrow

    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        features = {}
    told = {name: about.get("_type") for name, about in features.items() if isinstance(about, dict)}

    def holds_files(kind: Any) -> bool:
        if pyarrow.types.is_struct(kind):
            return bool(kind.get_field_index("bytes") >= 0)
        return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))

    images = [field.name for field in schema if told.get(field.name) == "Image"]
    images = images or [field.name for field in schema if holds_files(field.type)]
    if not images:
        raise UserError(f"{file}: has no column of image files (it has: {', '.join(schema.names)})")
    labels = [field.name for field in schema if told.get(field.name) == "ClassLabel"]
    if not labels:
        fits = pyarrow.types.is_integer, pyarrow.types.is_string, pyarrow.types.is_large_string
        labels = [field.name for field in schema if any(fit(field.type) for fit in fits)]
    if "label" in labels:
        labels = ["label"]
    if len(labels) > 1:
        raise UserError(f"{file}: {', '.join(labels)} may all be the labels; name the right one 'label'")
    label = labels[0] if labels else None
    names = features[label].get("names") if label in told and told[label] == "ClassLabel" else None
    return Columns(images[0], label, tuple(map(str, names or ())))


def numbered(
    values: list[Any], names: tuple[str, ...], path: Path
) -> tuple[tuple[str, ...], dict[Any, int]]:
    """The classes' names, and the number of every label that there is; -1 for none.

    Raises:
        UserError: a label is out of range, or there are fewer than two classes.
    """
    present = set(values) - {None, -1, ""}
    numbers: dict[Any, int] = {None: -1, -1: -1, "": -1}
    if all(isinstance(value, int) for value in present):
        highest = max(present, default=-1)
        if highest >= MOST_CLASSES:
            raise UserError(f"{path}: a label of {highest:,}; the most is {MOST_CLASSES - 1:,}")
        names = names or tuple(map(str, range(highest + 1)))
        if min(present, default=0) < 0 or highest >= len(names):
            raise UserError(f"{path}: a label of {highest}, but there are {len(names)} classes")
        numbers |= {value: value for value in present}
    else:
        order = sorted(present, key=lambda value: natural_order(str(value)))
        names = names if present <= set(names) else tuple(map(str, order))
        numbers |= {value: names.index(str(value)) for value in present}
    if len(names) < 2:
        raise UserError(f"{path}: its images are of {len(names)} classes; it needs two or more")
    return names, numbers


def is_parquet(path: Path) -> bool:
    """Whether a path is a Parquet file, or a folder that has one in it."""
    return path.suffix.lower() == ".parquet" or (path.is_dir() and any(path.rglob("*.parquet")))
