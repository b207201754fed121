"""Readers of array formats: IDX (MNIST), CIFAR-10 binary, and npz. Strict, and none unpickles.

Each takes a path and gives arrays; damage is a `UserError` that names the file.
"""

from __future__ import annotations

import gzip
import math
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from condvae.errors import UserError


class Arrays(NamedTuple):
    """Images uint8 `[N, C, H, W]`, labels int64 `[N]`, class names, where they are told."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]


def read_file(path: Path) -> bytes:
    """The content of a plain or gzip-compressed file.

    Raises:
        UserError: it can't be read, or its compression is damaged.
    """
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read, or is cut short ({error}); fetch it again") from error


def read_idx(path: Path, content: bytes | None = None) -> NDArray[np.uint8]:
    """An array of bytes in the IDX format (LeCun's MNIST page): magic, dimensions, values.

    Raises:
        UserError: it is no IDX file of bytes, or its length is not the one that it declares.
    """
    content = read_file(path) if content is None else content
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or not 1 <= content[3] <= 4:
        raise UserError(f"{path}: not an IDX file of bytes; is it the right file?")
    start = 4 + 4 * content[3]
    shape = tuple(int(side) for side in np.frombuffer(content[4:start], ">u4"))
    if len(shape) != content[3] or len(content) != start + math.prod(shape):
        raise UserError(
            f"{path}: {len(content)} bytes, but its header declares an array of {shape}; "
            "it is cut short or damaged: fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


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
        return (path / name).read_bytes()
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if Path(member.name).name == name and (file := archive.extractfile(member)):
                    return file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
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
        with path.open("rb") as opened:
            file = np.load(opened, allow_pickle=False)
            if not hasattr(file, "files"):
                raise UserError(f"{path}: a single array; save with np.savez(images=..., labels=...)")
            divided = "test_images" in file and "test_labels" in file
            prefix = "test_" if divided and split == "test" else ""
            for key in (prefix + "images", prefix + "labels"):
                if key not in file:
                    raise UserError(
                        f"{path}: has no array {key!r} (it has: {', '.join(file.files) or 'none'})"
                    )
            images, labels = file[prefix + "images"], file[prefix + "labels"]
            names = file.get("class_names")
            if divided and split == "all":
                images = np.concatenate([images, file["test_images"]])
                labels = np.concatenate([labels, file["test_labels"]])
    except UserError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        hint = "objects are never loaded" if "pickle" in str(error) else "is it an npz file, and whole?"
        raise UserError(f"{path}: cannot be read as npz; {hint}") from error
    return checked(path, images, labels, names), divided


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
    labels = labels.astype(np.int64)
    if names is not None and (names.dtype.kind != "U" or names.ndim != 1):
        raise UserError(f"{path}: class_names must be an array of strings")
    number = len(names) if names is not None else int(labels.max()) + 1
    if number < 2 or labels.min() < -1 or labels.max() >= number:
        raise UserError(
            f"{path}: labels run from {labels.min()} to {labels.max()}; they must be within 0 to "
            f"K - 1 (or -1 for unlabelled), for two classes or more"
        )
    given = tuple(str(name) for name in names) if names is not None else ()
    return Arrays(images, labels, given or tuple(str(index) for index in range(number)))
