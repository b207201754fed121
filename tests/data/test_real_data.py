"""The real data sets, where they are on this machine."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from condvae.data import load
from condvae.data.download import is_whole
from condvae.data.sources import SOURCES

FASHION = Path("/usr/share/datasets/fashion-mnist")


def test_mnist_in_its_original_files(real_data: Path) -> None:
    train, test = (load("mnist", split=split, data_root=real_data) for split in ("train", "test"))
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9] and test.labels[:3].tolist() == [7, 2, 1]
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_the_hashes_are_those_of_the_original_mnist_files(real_data: Path) -> None:
    for remote in SOURCES["mnist"].remotes:
        path = real_data / "MNIST" / "raw" / remote.name.removesuffix(".gz")
        assert hashlib.sha256(path.read_bytes()).hexdigest() == remote.sha256


def test_the_digits_in_the_package_are_mnists(real_data: Path) -> None:
    whole = {
        image.tobytes(): label
        for split in ("train", "test")
        for data in [load("mnist", split=split, data_root=real_data)]
        for image, label in zip(data.images, data.labels, strict=True)
    }
    sample = load("mnist-sample", split="all")
    assert all(
        whole[image.tobytes()] == y for image, y in zip(sample.images, sample.labels, strict=True)
    )


@pytest.mark.skipif(not FASHION.is_dir(), reason="no Fashion-MNIST here (Debian: dataset-fashion-mnist)")
def test_fashion_mnist_as_debian_ships_it() -> None:
    assert all(
        is_whole(FASHION / remote.name, remote.sha256) for remote in SOURCES["fashion-mnist"].remotes
    )
    train, test = load("fashion-mnist"), load("fashion-mnist", split="test")
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.class_names[train.labels[0]] == "ankle boot"


@pytest.mark.slow
def test_cifar10_as_a_zip_of_class_folders(real_data: Path) -> None:
    source = str(real_data / "cifar10-jpeg-test.zip")
    data = load(source, split="test", hold_out=False)
    assert data.class_names == SOURCES["cifar10"].class_names and data.shape == (3, 32, 32)
    assert np.bincount(data.labels).tolist() == [1000] * 10
    assert isinstance(data.images, np.memmap) and 100 < data.images.mean() < 140
    assert len(load(source, split="test")) == 1000, "as a source of its own, a tenth is set aside"
