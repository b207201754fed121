"""Some rows of a memory map in an order of their own, read from the disk when they are asked for."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGE = 1 << 30
"""Bytes of images above which they stay on the disk."""
AT_ONCE = 256
"""Rows that are read from a memory map until what was read of it is let go. Around each, the system maps
what else it has at hand of the file, which can be a megabyte."""


class Rows:
    """What `whole[places]` would be, without having it in memory: for reading only.

    It has of an array what is needed of images: `shape`, `dtype`, `ndim`, `nbytes`, `len`, and brackets,
    which give arrays. `numpy.asarray` reads all of it.

    Arguments:
        whole: a memory map.
        places: which of its rows.
    """

    def __init__(self, whole: NDArray[np.uint8], places: NDArray[np.int64]) -> None:
        self.whole, self.places = whole, places
        self.shape = (len(places), *whole.shape[1:])
        self.dtype, self.ndim = whole.dtype, whole.ndim
        self.nbytes = len(places) * int(np.prod(whole.shape[1:])) * whole.itemsize

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        first, rest = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
        if first is Ellipsis:
            return np.asarray(self)[key]
        places = self.places[first]
        rows = np.asarray(self.whole[places])
        return rows[(slice(None), *rest)] if np.ndim(places) and rest else rows[rest]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)


def chosen(images: Any, places: NDArray[np.integer]) -> Any:
    """The rows of an array at some places: read at once, or, of a large memory map, when asked for."""
    size = len(places) * images[0].nbytes if len(images) else 0
    if size > LARGE and isinstance(images, Rows):
        return Rows(images.whole, images.places[places])
    if size > LARGE and isinstance(images, np.memmap):
        return Rows(images, np.asarray(places, np.int64))
    if not isinstance(images, Rows | np.memmap):
        return images[places]
    part = np.empty((len(places), *images.shape[1:]), images.dtype)
    for start in range(0, len(places), AT_ONCE):
        part[start : start + AT_ONCE] = images[places[start : start + AT_ONCE]]
        let_go(images)
    return part


def let_go(images: Any) -> None:
    """Tell the system that what was read of a memory map need not stay in this process's memory."""
    whole = images.whole if isinstance(images, Rows) else images
    mapped = getattr(whole, "_mmap", None)
    private = getattr(whole, "mode", "r") == "c"  # what was changed in it is nowhere else
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED") and not private:
        mapped.madvise(mmap.MADV_DONTNEED)
