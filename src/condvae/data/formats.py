"""Readers of array formats: IDX (MNIST), CIFAR-10 binary, and npz. Strict, and none unpickles.

Each takes a path and gives arrays; damage is a `UserError` that names the file. A file may be made to
do harm, so none is unpacked further than what it may hold, whatever its header declares.
"""

from __future__ import annotations

import gzip
import math
import struct
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib.format import (
    MAGIC_PREFIX,
    read_array,
    read_array_header_1_0,
    read_array_header_2_0,
    read_magic,
)
from numpy.typing import NDArray

from condvae.errors import UserError
from condvae.files import read_at_most

LARGEST = 1 << 28
"""Bytes of a file of a dataset that has a name, at most; unpacked."""
MOST_PACKED = 100
"""Times its size that an npz may unpack to, where that is more than LARGEST; of a bomb, it is 1,000."""
MOST_CLASSES = 100_000
HEADERS = {(1, 0): read_array_header_1_0, (2, 0): read_array_header_2_0}


class Arrays(NamedTuple):
    """Images uint8 `[N, C, H, W]`, labels int64 `[N]`, class names, where they are told."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]


def read_file(path: Path) -> bytes:
    """The content of a plain or gzip-compressed file.

    Raises:
        UserError: it can't be read, its compression is damaged, or it is larger than any such file.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            content = read_at_most(file.read, LARGEST)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read, or is cut short ({error}); fetch it again") from error
    if len(content) > LARGEST:
        raise UserError(f"{path}: over {LARGEST:,} bytes, which no file of its kind has; fetch it again")
    return content


def read_idx(path: Path, content: bytes | None = None) -> NDArray[np.uint8]:
    """An array of bytes in the IDX format (LeCun's MNIST page): magic, dimensions, values.

    Raises:
        UserError: it is no IDX file of bytes, or its length is not the one that it declares.
    """
    content = read_file(path) if content is None else content
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or not 1 <= content[3] <= 4:
        raise UserError(f"{path}: not an IDX file of bytes; is it the right file?")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise UserError(f"{path}: {len(content)} bytes, fewer than its header needs; fetch it again")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if 0 in shape or len(content) != start + math.prod(shape):
        raise UserError(
            f"{path}: {len(content)} bytes, but its header declares an array of {shape}; "
            "it is cut short or damaged: fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


LARGEST_MEMBER, MOST_MEMBERS = 1 << 26, 100
CIFAR_RECORD = 1 + 3 * 32 * 32
CIFAR_FILES = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}


def read_cifar10(path: Path, split: str) -> Arrays:
    """CIFAR-10 in its binary version: a folder with the six files, or the .tar.gz that holds them.

    Raises:
        UserError: a file is missing, or is no whole number of records.
    """
    parts = [_cifar_file(path, name) for name in CIFAR_FILES[split]]
    for name, content in zip(CIFAR_FILES[split], parts, strict=True):
        if not content or len(content) % CIFAR_RECORD:
            raise UserError(
                f"{path}: {name} has {len(content)} bytes, which is no whole number of "
                f"{CIFAR_RECORD}-byte records; fetch it again"
            )
    records = np.frombuffer(b"".join(parts), np.uint8).reshape(-1, CIFAR_RECORD)
    labels = records[:, 0].astype(np.int64)
    if labels.max() > 9:
        raise UserError(f"{path}: a label of {labels.max()}; CIFAR-10's run from 0 to 9")
    return Arrays(np.ascontiguousarray(records[:, 1:]).reshape(-1, 3, 32, 32), labels, ())


def _cifar_file(path: Path, name: str) -> bytes:
    if path.is_dir():
        if not (path / name).is_file():
            raise UserError(f"{path}: {name} is missing; fetch the folder again")
        return read_file(path / name)
    try:
        # As a stream: what the archive's members say of where they lie is not followed.
        with tarfile.open(path, "r|gz") as archive:
            for number, member in enumerate(archive):
                if number > MOST_MEMBERS or not 0 <= member.size <= LARGEST_MEMBER:
                    raise UserError(f"{path}: holds more than CIFAR-10's files; fetch it again")
                if member.isreg() and PurePosixPath(member.name).name == name:
                    file = archive.extractfile(member)
                    return file.read() if file else b""
    except UserError:
        raise
    except Exception as error:  # whatever tarfile comes up with when it is given a damaged file
        raise UserError(f"{path}: a damaged archive ({error}); fetch it again") from error
    raise UserError(f"{path}: {name} is not in this archive; fetch it again")


def read_npz(path: Path, split: str) -> tuple[Arrays, bool]:
    """Arrays `images` and `labels` of an npz file (`test_images`, `test_labels` for the test split).

    Images are uint8 of shape [N,H,W], [N,H,W,C] or [N,C,H,W]; labels integers, 0 to K - 1, or -1 for
    unlabelled; optionally `class_names`, an array of K strings.

    Returns:
        The arrays, and whether the file itself divides train from test.

    Raises:
        UserError: something is missing, or has the wrong shape, type or range; objects are refused.
    """
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if file.read(len(MAGIC_PREFIX)) == MAGIC_PREFIX:
                raise UserError(
                    f"{path}: cannot be read as npz; it is a single array: save with "
                    "np.savez(images=..., labels=...)"
                )
            return _of_archive(path, file, split)
    except UserError:
        raise
    except Exception as error:  # whatever zipfile and NumPy come up with when given a damaged file
        raise UserError(f"{path}: cannot be read as npz; is it an npz file, and whole?") from error


def _of_archive(path: Path, file: IO[bytes], split: str) -> tuple[Arrays, bool]:
    most = max(LARGEST, MOST_PACKED * path.stat().st_size)
    with zipfile.ZipFile(file) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

        def array(key: str) -> NDArray[Any]:
            if key not in members:
                raise UserError(f"{path}: has no array {key!r} (it has: {', '.join(members) or 'none'})")
            return _array(path, archive, members[key], most)

        divided = "test_images" in members and "test_labels" in members
        prefix = "test_" if divided and split == "test" else ""
        images, labels = array(prefix + "images"), array(prefix + "labels")
        names = array("class_names") if "class_names" in members else None
        if divided and split == "all":
            images = np.concatenate([images, array("test_images")])
            labels = np.concatenate([labels, array("test_labels")])
    return checked(path, images, labels, names), divided


def _array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int) -> NDArray[Any]:
    """One array, after its header was seen to promise no more than the archive holds."""
    if member.file_size > most:
        raise UserError(f"{path}: {member.filename} would unpack to {member.file_size:,} bytes")
    with archive.open(member) as file:
        version = read_magic(file)
        shape, _, dtype = HEADERS[version](file)
        if dtype.hasobject:
            raise UserError(f"{path}: {member.filename} holds objects; objects are never loaded")
        if not dtype.itemsize or dtype.itemsize * math.prod(shape) > member.file_size:
            raise ValueError("its header promises more than there is")
    with archive.open(member) as file:
        array: NDArray[Any] = read_array(file, allow_pickle=False)
        return array


def checked(
    path: Path | str, images: NDArray[np.uint8], labels: NDArray[np.int64], names: np.ndarray | None
) -> Arrays:
    """Arrays as an npz may have them, in the one layout that is used everywhere.

    Arguments:
        path: where they are from, for messages.

    Raises:
        UserError: a shape, a type or a range is not as `read_npz` says.
    """
    if images.dtype != np.uint8:
        raise UserError(f"{path}: images are {images.dtype}; they must be uint8, 0 to 255")
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise UserError(f"{path}: images have shape {images.shape}; use [N,H,W], [N,H,W,C] or [N,C,H,W]")
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
        raise UserError(
            f"{path}: labels are {labels.dtype} of shape {labels.shape}; they must be "
            f"{len(images)} integers"
        )
    low, high = int(labels.min()), int(labels.max())
    if names is not None and (names.dtype.kind != "U" or names.ndim != 1):
        raise UserError(f"{path}: class_names must be an array of strings")
    number = len(names) if names is not None else high + 1
    if number < 2 or low < -1 or high >= number:
        raise UserError(
            f"{path}: labels run from {low} to {high}; they must be within 0 to "
            f"K - 1 (or -1 for unlabelled), for two classes or more"
        )
    if number > MOST_CLASSES:
        raise UserError(f"{path}: {number:,} classes; there can be at most {MOST_CLASSES:,}")
    given = range(number) if names is None else names
    shown = (str(name).encode(errors="backslashreplace").decode() for name in given)
    return Arrays(images, labels.astype(np.int64), tuple(shown))
