"""Splits, batches, wrong labels, and the digits in the package."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from condvae.data import LabelledImages, load, wrong_labels
from condvae.data.batches import Batches, in_order
from condvae.errors import UserError


def dataset(number: int = 50, classes: int = 5) -> LabelledImages:
    """Every image's first pixel is its number, and its label its number modulo K."""
    images = np.zeros((number, 1, 4, 4), np.uint8)
    images[:, 0, 0, 0] = np.arange(number)
    names = tuple(f"class {label}" for label in range(classes))
    return LabelledImages(images, np.arange(number) % classes, names, "numbers", "train")


@given(st.integers(2, 1000), st.integers(0, 2**32 - 1))
def test_wrong_is_never_right_and_every_other_label_occurs(classes: int, seed: int) -> None:
    labels = np.arange(40 * classes) % classes
    given_labels = wrong_labels(labels, classes, np.random.default_rng(seed))
    assert (given_labels != labels).all()
    assert given_labels.min() >= 0 and given_labels.max() < classes
    if classes == 3:
        assert {(a, b) for a, b in zip(labels, given_labels, strict=True)} == {
            (a, b) for a in range(3) for b in range(3) if a != b
        }


def test_one_class_has_no_wrong_label() -> None:
    with pytest.raises(UserError, match="two classes or more"):
        wrong_labels(np.zeros(3, int), 1, np.random.default_rng(0))


@given(st.floats(0, 0.9), st.integers(0, 2**32 - 1))
def test_a_split_is_disjoint_whole_and_stratified(fraction: float, seed: int) -> None:
    data = dataset()
    first, second = data.split_off(fraction, seed, ("train", "validation"))
    assert (first.split, second.split) == ("train", "validation")
    numbers = [part.images[:, 0, 0, 0].tolist() for part in (first, second)]
    assert sorted(numbers[0] + numbers[1]) == list(range(50))
    counts = np.bincount(second.labels, minlength=5)
    assert (counts == counts[0]).all() and abs(counts[0] - 10 * fraction) <= 1
    assert (counts > 0).all() == (fraction > 0)


def test_fingerprints_tell_content_and_not_names() -> None:
    data = dataset()
    assert dataset().fingerprint == data.fingerprint
    relabelled = LabelledImages(data.images, (data.labels + 1) % 5, data.class_names, "x", "train")
    assert relabelled.fingerprint != data.fingerprint
    assert data.subset(np.arange(5)).fingerprint != data.subset(np.arange(6)).fingerprint


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 1, 4, 4)), np.zeros(2, int), "must be uint8"),
        (np.zeros((2, 4, 4), np.uint8), np.zeros(2, int), "4 dimensions"),
        (np.zeros((2, 2, 4, 4), np.uint8), np.zeros(2, int), "1 or 3 channels"),
        (np.zeros((2, 1, 4, 4), np.uint8), np.zeros(3, int), "2 images, but labels"),
        (np.zeros((2, 1, 4, 4), np.uint8), np.array([0, 9]), "labels run from 0 to 9"),
    ],
)
def test_what_is_no_dataset(images: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LabelledImages(images, labels, ("a", "b"), "x", "train")


@pytest.mark.parametrize("resident", [True, False])
def test_an_epoch_is_a_permutation_and_can_be_entered_anywhere(resident: bool) -> None:
    batches = Batches(dataset(), 8, "cpu", seed=1, resident_bytes=1 << 20 if resident else 0)
    assert batches.steps_per_epoch == 6
    epoch = [images[:, 0, 0, 0] for images, _ in batches.epoch(3)]
    seen = torch.cat(epoch).tolist()
    assert len(set(seen)) == 48
    later = [images[:, 0, 0, 0] for images, _ in batches.epoch(3, start=4)]
    assert all(torch.equal(a, b) for a, b in zip(epoch[4:], later, strict=True))
    other = torch.cat([images[:, 0, 0, 0] for images, _ in batches.epoch(4)]).tolist()
    assert other != seen
    for images, labels in batches.epoch(0):
        assert torch.equal(images[:, 0, 0, 0].long() % 5, labels)


def test_a_small_set_is_one_batch_and_an_empty_one_is_refused() -> None:
    assert Batches(dataset(5), 128, "cpu", seed=0).batch_size == 5
    with pytest.raises(UserError, match="no images to train on"):
        Batches(dataset().subset(np.arange(0)), 8, "cpu", seed=0)


def test_in_order_sees_every_image_once() -> None:
    parts = [images[:, 0, 0, 0] for images, _ in in_order(dataset(), 8, "cpu")]
    assert torch.cat(parts).tolist() == list(range(50)) and len(parts[-1]) == 2


def test_the_digits_in_the_package() -> None:
    train, test = load("mnist-sample"), load("mnist-sample", split="test")
    assert (len(train), len(test)) == (4000, 1000)
    assert np.bincount(train.labels).tolist() == [400] * 10
    assert np.bincount(test.labels).tolist() == [100] * 10
    assert train.shape == (1, 28, 28) and train.images.max() == 255
    seen = {image.tobytes() for image in train.images}
    assert not any(image.tobytes() in seen for image in test.images)


def test_hidden_labels_leave_as_many_of_each_class() -> None:
    labels = np.repeat(np.arange(3), [50, 30, 4])
    data = LabelledImages(np.zeros((84, 1, 2, 2), np.uint8), labels, ("a", "b", "c"), "x", "train")
    kept = data.hide_labels(21, seed=0)
    known = kept.labels >= 0
    assert sorted(np.bincount(kept.labels[known]).tolist()) == [4, 8, 9]
    assert (kept.labels[known] == labels[known]).all() and kept.fingerprint != data.fingerprint
    assert np.bincount(data.hide_labels(6, seed=1).labels + 1).tolist() == [78, 2, 2, 2]
    other = data.hide_labels(21, seed=1)
    assert not np.array_equal(other.labels, kept.labels)
    for impossible in (2, 85):
        with pytest.raises(UserError, match=r"data\.labels is"):
            data.hide_labels(impossible, seed=0)


def test_batches_hold_their_share_of_labelled_images() -> None:
    labels = np.full(100, -1)
    labels[:6] = [0, 1, 0, 1, 0, 1]
    images = np.arange(100, dtype=np.uint8)[:, None, None, None]
    data = LabelledImages(images, labels, ("a", "b"), "x", "train")
    batches = Batches(data, 10, "cpu", seed=0, labelled_share=0.3)
    seen = [(x.flatten(), y) for x, y in batches.epoch(0)]
    assert len(seen) == batches.steps_per_epoch == 94 // 7
    assert all((y >= 0).tolist() == [True] * 3 + [False] * 7 for _, y in seen)
    unlabelled = torch.cat([x[3:] for x, _ in seen])
    assert len(set(unlabelled.tolist())) == len(unlabelled)
    again = [x.flatten() for x, _ in batches.epoch(0, start=5)]
    assert all(torch.equal(a, b) for a, (b, _) in zip(again, seen[5:], strict=True))
    assert all((y.numpy() == labels[x.numpy()]).all() for x, y in seen)


def test_the_ground_is_what_lies_at_the_edges() -> None:
    images = np.full((3, 1, 6, 6), 9, np.uint8)
    images[:, :, 2:4, 2:4] = 255
    assert LabelledImages(images, np.zeros(3, np.int64), ("a", "b"), "x", "all").ground == 9
