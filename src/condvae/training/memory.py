"""Memory that a step gives back and the next one asks for again."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""Parameters of `mallopt` (malloc.h of the GNU C library)."""


def keep_freed_memory() -> None:
    """Have this process keep memory that it frees from now on, up to a GiB, for itself.

    Otherwise the GNU C library gives the activations of every step back to the system, and getting them
    anew means that thousands of pages a step are cleared. What was freed before, by reading data, is
    given back. Elsewhere, and on devices with an allocator of their own, there is nothing to be done.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return
    libc.malloc_trim(0)
    for parameter, mebibytes in ((MMAP_THRESHOLD, 256), (TRIM_THRESHOLD, 1024), (TOP_PAD, 64)):
        libc.mallopt(parameter, mebibytes << 20)
