"""Official files, fetched once, from several mirrors, and believed only by their SHA-256."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

from condvae.errors import UserError
from condvae.progress import ProgressLine


@dataclass(frozen=True)
class Remote:
    """A file that can be fetched.

    Arguments:
        name: the file's name, as it is kept.
        mirrors: folders (URLs) that have it.
        sha256: of the file's content; for a .gz, of what it decompresses to.
    """

    name: str
    mirrors: tuple[str, ...]
    sha256: str


def cache_folder() -> Path:
    """`CONDVAE_CACHE`, or `condvae` in the user's cache folder."""
    chosen = os.environ.get("CONDVAE_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "condvae"


def is_whole(path: Path, sha256: str) -> bool:
    """Whether a file, decompressed if its name ends in .gz, has this SHA-256."""
    key = hashlib.sha256()
    try:
        with gzip.open(path) if path.name.endswith("-ubyte.gz") else path.open("rb") as file:
            while block := file.read(1 << 20):
                key.update(block)
    except (OSError, EOFError, zlib.error):
        return False
    return key.hexdigest() == sha256


def fetch(remote: Remote, folder: Path, dataset: str, instead: str) -> Path:
    """A file from the folder, or downloaded into it.

    What is there whole is kept; what is not is fetched again, from one mirror after the other.

    Arguments:
        dataset: its name, for messages.
        instead: what to do where no mirror can be reached, for messages.

    Raises:
        UserError: no mirror gave the file, or what came has the wrong SHA-256 (it is removed).
    """
    path = folder / remote.name
    if path.exists() and is_whole(path, remote.sha256):
        return path
    import pooch

    pooch.get_logger().setLevel("ERROR")
    reason = "no mirror is known"
    for mirror in remote.mirrors:
        path.unlink(missing_ok=True)
        try:
            with ProgressLine() as line:
                line.start(f"{dataset}: {remote.name}")
                pooch.retrieve(
                    mirror + remote.name,
                    known_hash=None,
                    fname=remote.name,
                    path=folder,
                    progressbar=_Bar(line),
                )
        except Exception as error:  # whatever the network, the proxy or the server came up with
            reason = f"{type(error).__name__} from {mirror}"
            continue
        if is_whole(path, remote.sha256):
            return path
        path.unlink(missing_ok=True)
        reason = f"what came from {mirror} has the wrong SHA-256, and was removed"
    raise UserError(f"{dataset}: {remote.name} could not be downloaded ({reason}); {instead}")


class _Bar:
    """The progress line in the shape that pooch wants (`total`, `update`, `reset`, `close`)."""

    def __init__(self, line: ProgressLine) -> None:
        self.line, self.total, self.done = line, 0.0, 0.0

    def update(self, size: int) -> None:
        self.done += size
        share = min(1.0, self.done / self.total) if self.total else 0.0
        self.line.show(share, f"{self.done / 1e6:.1f} MB")

    def reset(self) -> None:
        self.done = 0.0

    def close(self) -> None:
        self.line.close()
