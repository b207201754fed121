"""One process at a time: a lock that the operating system lets go of when its holder dies."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import sys
from pathlib import Path
from typing import BinaryIO

from condvae.errors import UserError
from condvae.files import cannot_write

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = ".lock"
TAKEN = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK)


class OnlyOne:
    """While it is entered, no other process (nor another part of this one) enters it for that folder.

    The lock is on a file in the folder and not the file itself, so one that a killed process left
    behind keeps nobody out. Where a file system knows no locks, nothing is locked.

    Arguments:
        folder: made where it is missing.
        what: what the folder is, for the message.

    Raises:
        UserError: another has entered; or the folder can't be written to.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self.path, self.what = folder / LOCK, what

    def __enter__(self) -> None:
        while True:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.file = self.path.open("a+b")
            except OSError as error:
                raise cannot_write(self.path.parent, error) from error
            try:
                _take(self.file)
            except OSError as error:
                holder = self._holder()
                self.file.close()
                if error.errno in TAKEN:
                    raise UserError(
                        f"{self.what} {self.path.parent}: {holder} is at work in it; wait for its end, "
                        "or choose another folder"
                    ) from error
                return
            if self._is_in_place():
                break
            self.file.close()  # the one before has just removed it
        with contextlib.suppress(OSError):
            self.file.truncate(0)
            self.file.write(f"process {os.getpid()} on {platform.node()}".encode())
            self.file.flush()

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()
        self.file.close()

    def _holder(self) -> str:
        try:
            self.file.seek(0)
            return self.file.read(200).decode("utf-8", "replace") or "another process"
        except OSError:
            return "another process"

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self.file.fileno()), self.path.stat())
        except OSError:
            return False


def _take(file: BinaryIO) -> None:
    if sys.platform == "win32":
        file.seek(1 << 20)  # far behind the text in it, which the others may read
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
