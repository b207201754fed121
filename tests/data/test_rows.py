"""Rows of a memory map that are read when they are asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from condvae.data import rows
from condvae.data.batches import Batches
from condvae.data.dataset import LabelledImages
from condvae.data.rows import Rows


@pytest.fixture
def mapped(tmp_path: Path) -> LabelledImages:
    """Forty images in a file, every one different."""
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 4, 5), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    whole = np.load(tmp_path / "images.npy", mmap_mode="r")
    return LabelledImages(whole, np.arange(40) % 4, ("a", "b", "c", "d"), "x", "train")


KEYS = [
    *(3, -1, slice(2, 5), slice(None), np.array([4, 0, 4]), np.arange(17) % 2 == 0, [], Ellipsis),
    *(
        (slice(0, 3), 1),
        (2, 0),
        (Ellipsis, 0),
        (slice(None), slice(0, 1), 2),
        (Ellipsis, 0, slice(1, 2)),
    ),
]


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_brackets_give_what_an_array_would(mapped: LabelledImages, key: object) -> None:
    places = np.random.default_rng(1).permutation(40)[:17]
    array, lazy = np.asarray(mapped.images)[places], Rows(mapped.images, places)
    if isinstance(key, list):
        key = np.array(key, np.int64)
    assert np.array_equal(lazy[key], array[key])
    assert (lazy.shape, lazy.nbytes, lazy.ndim, len(lazy)) == (array.shape, array.nbytes, 4, 17)
    assert np.array_equal(np.asarray(lazy), array)


def test_large_data_is_divided_without_being_read(
    mapped: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = mapped.split_validation(0.25, 0)
    monkeypatch.setattr(rows, "LARGE", 100)
    there = mapped.split_validation(0.25, 0)
    for small, large in zip(here, there, strict=True):
        assert isinstance(large.images, Rows) and not isinstance(small.images, Rows)
        assert np.array_equal(small.images, np.asarray(large.images))
        assert small.fingerprint == large.fingerprint
        again = large.subset(np.arange(8)[::-1])
        assert isinstance(again.images, Rows) and again.images.whole is mapped.images
        assert np.array_equal(again.images[:], small.images[7::-1])
    assert there[0].ground == here[0].ground


def test_what_is_read_of_a_map_is_let_go_part_by_part(
    mapped: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    places, told = np.random.default_rng(1).permutation(40)[:17], []
    monkeypatch.setattr(rows, "AT_ONCE", 4)
    monkeypatch.setattr(rows, "let_go", told.append)
    found = rows.chosen(mapped.images, places)
    assert type(found) is np.ndarray and np.array_equal(found, np.asarray(mapped.images)[places])
    assert len(told) == 5  # 4 + 4 + 4 + 4 + 1
    assert len(rows.chosen(mapped.images, places[:0])) == 0


def test_changes_of_a_private_map_are_not_let_go(mapped: LabelledImages, tmp_path: Path) -> None:
    private = np.load(tmp_path / "images.npy", mmap_mode="c")
    private[3] = 7
    rows.let_go(private)
    assert (private[3] == 7).all()


def test_batches_are_the_same_from_memory_and_from_the_disk(
    mapped: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = Batches(mapped, 8, "cpu", seed=0)
    monkeypatch.setattr(rows, "LARGE", 100)
    order = np.arange(40)
    lazy = replace(mapped, images=rows.chosen(mapped.images, order))
    streamed = Batches(lazy, 8, "cpu", seed=0, resident_bytes=0)
    assert streamed.images is None and resident.images is not None
    for number in range(3):
        for (x, y), (a, b) in zip(resident.epoch(number), streamed.epoch(number), strict=True):
            assert torch.equal(x, a) and torch.equal(y, b)
