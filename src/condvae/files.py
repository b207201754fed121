"""Files that are either whole or not there: written beside, then renamed into place."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from condvae.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write, piece by piece: readers see the old content or all of the new, never a part.

    Raises:
        UserError: the folder can't be written to, or the disk is full.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically.

    Raises:
        UserError: the folder can't be written to, or the disk is full.
    """
    with written_whole(path) as file:
        file.write(content)


def read_at_most(read: Callable[[int], bytes], most: int) -> bytes:
    """What is in a file, by its `read`; a byte more than `most` where there is more than that.

    It is read piece by piece: told of a number of bytes, a file makes room for all of them at once.
    """
    parts, left = [], most + 1
    while left > 0 and (part := read(min(left, 1 << 20))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def clear_parts(folder: Path) -> None:
    """Remove what a killed process was writing into a folder; nobody else may be writing there."""
    with contextlib.suppress(OSError):
        for left_over in folder.glob(".*.part"):
            left_over.unlink()


def cannot_write(path: Path, error: OSError) -> UserError:
    """The sentence for a full disk, a read-only folder, a path that is a file."""
    reason = error.strerror or str(error)
    return UserError(f"{path}: cannot be written ({reason}); free some space or choose another --out")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8; of names that are none, the bytes are shown."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def as_utf8(text: str) -> str:
    """The text, with question marks for what UTF-8 has no bytes for: file names may be of any bytes."""
    return text.encode("utf-8", "replace").decode()


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically; numbers that JSON has no word for become null."""
    write_text(path, json.dumps(finite(value), indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, what: str) -> Any:
    """A JSON file's value.

    Arguments:
        what: to do if it can't be read, for the message.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: missing or damaged ({error}); {what}") from error


def finite(value: Any) -> Any:
    """The same nested value with NaN and infinities replaced by None."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and value - value != 0 else value


def write_picture(path: Path, picture: Image.Image) -> Path:
    """Write a PNG atomically; returns its path."""
    buffer = BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    write_bytes(path, buffer.getvalue())
    return path


def write_arrays(path: Path, **arrays: NDArray[Any]) -> Path:
    """Write a compressed npz atomically; returns its path."""
    import numpy as np

    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())
    return path


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Any) -> None:
    """Write tensors and a JSON-able value into one safetensors file, atomically."""
    from safetensors.torch import save

    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(whole, metadata={"condvae": json.dumps(about)}))


def read_tensors(path: Path, what: str) -> tuple[dict[str, Tensor], Any]:
    """Tensors and value that `write_tensors` wrote. Nothing that is read can run code.

    Raises:
        UserError: the file is missing, cut short, damaged, or not condvae's.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["condvae"])
            # Copies: what safetensors gives is a map of the file, which may yet be replaced or cut.
            return {name: file.get_tensor(name).clone() for name in file.keys()}, about  # noqa: SIM118
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; {what}") from error
    except Exception as error:  # whatever a damaged file, or one made to do harm, leads to
        raise UserError(f"{path}: damaged, or not written by condvae; {what}") from error
