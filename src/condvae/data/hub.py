"""The Hugging Face Hub: `hf://user/name`, or `hf://user/name@revision`, as a folder on this disk.

What was fetched before is used where the Hub can't be reached (or HF_HUB_OFFLINE is set).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from condvae.data.download import cache_folder
from condvae.errors import UserError

PREFIX, WHOLE = "hf://", ".condvae-whole"
"""How an address begins; and the file that says of a folder that all of it was fetched."""
NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
ADDRESS = re.compile(rf"hf://(?:datasets/)?({NAME}/{NAME})(?:@([A-Za-z0-9][\w./-]*))?")


@dataclass(frozen=True)
class Address:
    """A repository on the Hub.

    Arguments:
        repository: `user/name`.
        revision: a branch, a tag or a commit; None for the newest.
    """

    repository: str
    revision: str | None

    @property
    def folder(self) -> str:
        """The name of the folder that it is kept in."""
        words = self.repository.replace("/", "--")
        return f"{words}@{self.revision.replace('/', '--')}" if self.revision else words


def is_address(source: object) -> bool:
    """Whether a source is on the Hub."""
    return isinstance(source, str) and source.startswith(PREFIX)


def address_of(source: str) -> Address:
    """The repository that `hf://user/name` or `hf://user/name@revision` names.

    Raises:
        UserError: it names none.
    """
    found = ADDRESS.fullmatch(source)
    if not found or ".." in source or "--" in found[1]:
        raise UserError(
            f"{source}: no address on the Hub; write hf://user/name, or hf://user/name@revision"
        )
    return Address(found[1], found[2])


def folder_of(source: str, kind: str) -> Path:
    """Where a repository is kept on this disk, be it there or not.

    Arguments:
        kind: "model" or "dataset".
    """
    return cache_folder() / "hub" / f"{kind}s" / address_of(source).folder


def fetched(source: str, kind: str, patterns: Sequence[str], keep: bool = False) -> Path:
    """A repository's files, fetched as far as they aren't there yet; returns their folder.

    Arguments:
        kind: "model" or "dataset".
        patterns: names of the files that are wanted, with asterisks.
        keep: what was fetched once is not asked for again, so that it never changes by itself.

    Raises:
        UserError: the Hub can't be reached, and the repository was never fetched; or there is none.
    """
    address, folder = address_of(source), folder_of(source, kind)
    if keep and (folder / WHOLE).is_file():
        return folder
    import huggingface_hub

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        huggingface_hub.snapshot_download(
            address.repository,
            repo_type=kind,
            revision=address.revision,
            local_dir=folder,
            allow_patterns=list(patterns),
        )
    except Exception as error:  # whatever the network, the proxy or the Hub came up with
        raise UserError(
            f"{source}: could not be fetched ({type(error).__name__}: {_first_line(error)}), and is not "
            "on this disk; check its name, or go online"
        ) from error
    (folder / WHOLE).touch()
    return folder


def sent(folder: Path, repository: str, private: bool, message: str) -> str:
    """Send a folder to the Hub as a model; returns where it can be seen.

    Raises:
        UserError: it isn't `user/name`, nobody is signed in, or the Hub can't be reached.
    """
    name = address_of(PREFIX + repository.removeprefix(PREFIX)).repository
    import huggingface_hub

    api = huggingface_hub.HfApi(library_name="condvae")
    try:
        api.create_repo(name, repo_type="model", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name, folder_path=str(folder), repo_type="model", commit_message=message
        )
    except Exception as error:  # as above
        raise UserError(
            f"{name}: could not be sent ({type(error).__name__}: {_first_line(error)}); sign in with: "
            "hf auth login, and see whether the Hub can be reached"
        ) from error
    return f"{PREFIX}{name}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no more is known"])[0]
