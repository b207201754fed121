"""Round trips for every array format, and a sentence for every kind of damage."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condvae.data import load
from condvae.data.formats import read_cifar10, read_idx, read_npz
from condvae.errors import UserError

Rng = np.random.Generator


@pytest.fixture
def rng() -> Rng:
    return np.random.default_rng(0)


def idx(values: np.ndarray) -> bytes:
    """An IDX file of bytes."""
    sides = np.array(values.shape, ">u4").tobytes()
    return b"\x00\x00\x08" + bytes([values.ndim]) + sides + values.astype(np.uint8).tobytes()


def write_mnist(folder: Path, rng: Rng, packed: bool = False) -> dict[str, np.ndarray]:
    """A dataset in MNIST's four files."""
    folder.mkdir(parents=True)
    written = {}
    for prefix, number in (("train", 30), ("t10k", 12)):
        written[f"{prefix}-images-idx3-ubyte"] = rng.integers(0, 256, (number, 28, 28))
        written[f"{prefix}-labels-idx1-ubyte"] = np.arange(number) % 10
    for name, values in written.items():
        content = idx(values)
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return written


def write_cifar(folder: Path, rng: Rng) -> dict[str, np.ndarray]:
    """A dataset in CIFAR-10's six binary files, a few records each."""
    folder.mkdir(parents=True)
    written = {}
    for name in [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]:
        records = rng.integers(0, 256, (4, 3073)).astype(np.uint8)
        records[:, 0] = rng.integers(0, 10, 4)
        (folder / name).write_bytes(records.tobytes())
        written[name] = records
    return written


# ------------------------------------------------------------------------------------------ round trips


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("source", "folder"), [("mnist", "MNIST/raw"), ("fashion-mnist", "FashionMNIST/raw")]
)
def test_idx_files_plain_or_packed(
    source: str, folder: str, packed: bool, tmp_path: Path, rng: Rng
) -> None:
    written = write_mnist(tmp_path / folder, rng, packed)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        data = load(source, split=split, data_root=tmp_path)
        assert data.split == split and len(data.class_names) == 10
        assert (data.images[:, 0] == written[f"{prefix}-images-idx3-ubyte"]).all()
        assert (data.labels == written[f"{prefix}-labels-idx1-ubyte"]).all()
    assert len(load(source, split="all", data_root=tmp_path)) == 42


def test_the_environment_names_the_data_root(
    tmp_path: Path, rng: Rng, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "MNIST/raw", rng)
    monkeypatch.setenv("CONDVAE_DATA", str(tmp_path))
    assert len(load("mnist")) == 30


def test_fashion_mnist_is_never_taken_for_mnist(tmp_path: Path, rng: Rng) -> None:
    """Their files have the same names, so only a folder's name tells them apart."""
    write_mnist(tmp_path / "FashionMNIST/raw", rng)
    from condvae.data.sources import SOURCES, find

    assert find(SOURCES["mnist"], tmp_path) is None
    assert find(SOURCES["fashion-mnist"], tmp_path) == tmp_path / "FashionMNIST/raw"


@pytest.mark.parametrize("packed", [False, True])
def test_cifar_in_its_binary_version(packed: bool, tmp_path: Path, rng: Rng) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    written = write_cifar(folder, rng)
    if packed:
        with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as archive:
            archive.add(folder, "cifar-10-batches-bin")
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    test = load("cifar10", split="test", data_root=tmp_path)
    assert (test.labels == written["test_batch.bin"][:, 0]).all()
    assert (test.images.reshape(4, -1) == written["test_batch.bin"][:, 1:]).all()
    assert test.images.shape == (4, 3, 32, 32) and test.class_names[3] == "cat"
    assert len(load("cifar10", data_root=tmp_path)) == 20


@pytest.mark.parametrize("shape", [(6, 5, 5), (6, 5, 5, 1), (6, 1, 5, 5), (6, 5, 5, 3), (6, 3, 5, 5)])
def test_npz_in_every_layout(shape: tuple[int, ...], tmp_path: Path, rng: Rng) -> None:
    images = rng.integers(0, 256, shape).astype(np.uint8)
    path = tmp_path / "data.npz"
    np.savez(path, images=images, labels=np.arange(6) % 2, class_names=np.array(["a", "b"]))
    arrays, divided = read_npz(path, "all")
    assert not divided and arrays.class_names == ("a", "b")
    channels = 3 if 3 in shape[1:] else 1
    assert arrays.images.shape == (6, channels, 5, 5)
    expected = images.transpose(0, 3, 1, 2) if shape[-1] in (1, 3) else images
    assert (arrays.images == expected.reshape(arrays.images.shape)).all()


def test_npz_with_test_images_of_its_own(tmp_path: Path, rng: Rng) -> None:
    path = tmp_path / "data.npz"
    make = lambda n: rng.integers(0, 256, (n, 8, 8)).astype(np.uint8)  # noqa: E731
    np.savez(
        path,
        images=make(20),
        labels=np.arange(20) % 2,
        test_images=make(6),
        test_labels=np.arange(6) % 2,
    )
    sizes = {split: len(load(str(path), split=split)) for split in ("train", "test", "all")}
    assert sizes == {"train": 20, "test": 6, "all": 26}


def test_npz_without_test_images_is_divided_the_same_way_each_time(tmp_path: Path, rng: Rng) -> None:
    path = tmp_path / "data.npz"
    images = rng.integers(0, 256, (60, 8, 8)).astype(np.uint8)
    np.savez(path, images=images, labels=np.repeat([0, 1, -1], 20))
    train, test = load(str(path)), load(str(path), split="test")
    assert len(train) == 54 and len(test) == 6
    assert test.fingerprint == load(str(path), split="test").fingerprint
    seen = {image.tobytes() for image in np.asarray(train.images)}
    assert not any(image.tobytes() in seen for image in np.asarray(test.images))
    assert len(train.labelled()) == 36


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_idx_of_any_shape(sides: list[int], seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 256, sides).astype(np.uint8)
    assert (read_idx(Path("x"), idx(values)) == values).all()


@given(st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_idx_of_any_bytes_is_read_or_refused(content: bytes) -> None:
    try:
        values = read_idx(Path("x"), content)
    except UserError:
        return
    assert content == idx(values)


# ----------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-7], "cut short or damaged"),
        (lambda raw: raw + b"x", "cut short or damaged"),
        (lambda raw: b"", "not an IDX file"),
        (lambda raw: b"\x00\x00\x0d\x03" + raw[4:], "not an IDX file"),
        (lambda raw: raw[:4] + b"\xff" * 12 + raw[16:], "cut short or damaged"),
        (lambda raw: gzip.compress(raw)[:-30], "cut short"),
        (lambda raw: b"\x1f\x8b" + raw, "cannot be read"),
    ],
)
def test_damaged_idx_files_are_named(
    damage: Callable[[bytes], bytes], message: str, tmp_path: Path, rng: Rng
) -> None:
    write_mnist(tmp_path / "MNIST/raw", rng)
    file = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=message) as caught:
        load("mnist", data_root=tmp_path)
    assert file.name in str(caught.value)


def test_a_missing_idx_file_and_files_of_different_lengths(tmp_path: Path, rng: Rng) -> None:
    write_mnist(tmp_path / "MNIST/raw", rng)
    labels = tmp_path / "MNIST/raw/train-labels-idx1-ubyte"
    labels.write_bytes(idx(np.arange(7)))
    with pytest.raises(UserError, match="don't belong together"):
        load("mnist", data_root=tmp_path)
    labels.write_bytes(idx(np.full(30, 77)))
    with pytest.raises(UserError, match="labels run from 77 to 77"):
        load("mnist", data_root=tmp_path)
    labels.unlink()
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte.*is missing"):
        load("mnist", data_root=tmp_path)


def test_damaged_cifar_files(tmp_path: Path, rng: Rng) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    write_cifar(folder, rng)
    file = folder / "test_batch.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=r"test_batch\.bin has 12291 bytes"):
        read_cifar10(folder, "test")
    file.write_bytes(bytes([10]) + whole[1:])
    with pytest.raises(UserError, match="a label of 10"):
        read_cifar10(folder, "test")
    file.unlink()
    with pytest.raises(UserError, match=r"test_batch\.bin is missing"):
        read_cifar10(folder, "test")
    archive = tmp_path / "cifar-10-binary.tar.gz"
    archive.write_bytes(gzip.compress(b"no archive" * 100))
    with pytest.raises(UserError, match="damaged archive"):
        read_cifar10(archive, "test")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as empty:
        empty.addfile(tarfile.TarInfo("readme"))
    archive.write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="is not in this archive"):
        read_cifar10(archive, "test")


GOOD = {"images": np.zeros((4, 5, 5), np.uint8), "labels": np.array([0, 1, 0, 1])}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((4, 5, 5))}, "images are float64"),
        ({"images": np.zeros((4, 5), np.uint8)}, "images have shape"),
        ({"images": np.zeros((4, 5, 5, 2), np.uint8)}, "images have shape"),
        ({"images": np.zeros((0, 5, 5), np.uint8), "labels": np.zeros(0, int)}, "images have shape"),
        ({"labels": np.array([0, 1, 0])}, "must be 4 integers"),
        ({"labels": np.array([0.0, 1, 0, 1])}, "labels are float64"),
        ({"labels": np.array([0, 1, 0, -2])}, "labels run from -2 to 1"),
        ({"labels": np.array([0, 0, 0, 0])}, "two classes or more"),
        (
            {"labels": np.array([0, 1, 0, 2]), "class_names": np.array(["a", "b"])},
            "labels run from 0 to 2",
        ),
        ({"class_names": np.array([1, 2])}, "array of strings"),
        ({"labels": np.array([0, 1, 0, {}], dtype=object)}, "objects are never loaded"),
        ({"images": None}, "has no array 'images'"),
    ],
)
def test_npz_of_the_wrong_kind(
    change: dict[str, np.ndarray | None], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, **{key: value for key, value in (GOOD | change).items() if value is not None})
    with pytest.raises(UserError, match=message) as caught:
        load(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x04\x95pickle", b"\x93NUMPY"])
def test_what_is_no_npz(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as npz"):
        load(str(path))


def test_a_single_array_and_a_cut_npz(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with path.open("wb") as file:
        np.save(file, GOOD["images"])
    with pytest.raises(UserError, match="a single array"):
        load(str(path))
    np.savez(path, **GOOD)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="cannot be read as npz"):
        load(str(path))
