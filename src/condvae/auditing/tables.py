"""Tables of a row an image and a column a class, which may be too large for memory.

A million images of a thousand classes are 4 GB. Tables are files where there is a folder for them, and
are gone through by blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condvae.files import cannot_write

Table = NDArray[np.floating]
"""`[N, K]`, or `[K, K]`."""

CELLS = 1 << 22
"""Numbers of a table that are looked at together, about."""


def room(folder: Path | None, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A table to be filled: a file of that name in a folder, or, without one, in memory.

    Raises:
        UserError: the folder can't be written to, or the disk is full.
    """
    if folder is None:
        return np.empty(shape, np.float32)
    path = folder / f"{name}.npy"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return np.lib.format.open_memmap(path, "w+", np.float32, shape)
    except OSError as error:
        raise cannot_write(path, error) from error


def blocks(table: Table) -> Iterator[slice]:
    """Its rows, some at a time."""
    step = max(1, CELLS // max(1, table.shape[1]))
    for start in range(0, len(table), step):
        yield slice(start, start + step)


def by_blocks(of: Callable[..., NDArray[Any]], table: Table, *columns: NDArray[Any]) -> NDArray[Any]:
    """What a function gives for a table's rows, in float64, and for columns beside it."""
    parts = [of(table[rows].astype(np.float64), *(c[rows] for c in columns)) for rows in blocks(table)]
    return np.concatenate(parts)
