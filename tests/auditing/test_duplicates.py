"""Copies and near copies under different labels are found, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest

from condvae.auditing.descriptors import DIMENSIONS, Descriptor, nearest, shrunken
from condvae.auditing.duplicates import duplicates, exact_groups

Shape = tuple[int, int, int]


def noise(number: int, shape: Shape = (1, 20, 17), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (number, *shape), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (3, 20, 33)])
def test_copies_with_other_labels_are_found_and_copies_with_the_same_are_not(shape: Shape) -> None:
    images, labels = noise(60, shape), np.arange(60) % 3
    for copy, of in ((30, 2), (40, 1), (50, 1)):
        images[copy] = images[of]
    labels[30], labels[40], labels[50] = labels[2], labels[1], (labels[1] + 1) % 3
    found = duplicates(images, labels)
    assert found.index.tolist() == [1, 40, 50] and found.twin.tolist() == [50, 50, 1]
    assert found.exact.all() and found.copies == 3
    assert exact_groups(images)[[30, 40, 50, 51]].tolist() == [2, 1, 1, 51]


def test_slightly_changed_images_are_near_duplicates_and_others_are_none() -> None:
    images, labels = noise(300, (3, 32, 32)), np.arange(300) % 2
    smooth = np.add.accumulate(images.astype(float), 3) % 256
    images = smooth.astype(np.uint8)
    changed = images[:3].astype(int)
    images[100] = np.clip(changed[0] + 9, 0, 255)
    images[101] = np.clip(changed[1] * 0.9 + noise(1, (3, 32, 32), 5)[0] % 5, 0, 255)
    images[103] = np.clip(changed[2] + 3, 0, 255)
    labels[[100, 101, 103]] = [1, 0, labels[2]]
    labels[:2] = [0, 1]
    found = duplicates(images, labels)
    assert dict(zip(found.index.tolist(), found.twin.tolist(), strict=True)) == {
        0: 100,
        1: 101,
        100: 0,
        101: 1,
    }
    assert not found.exact.any() and found.copies == 0


def test_images_that_show_nothing_are_like_none() -> None:
    images = noise(20)
    images[3], images[4], images[5] = 0, 255, 100
    assert not len(duplicates(images, np.arange(20) % 2).index)
    images[:] = np.arange(20)[:, None, None, None]
    assert not len(duplicates(images, np.arange(20) % 2).index)


def test_descriptors_do_not_see_brightness_and_contrast() -> None:
    images = noise(30) // 2
    lighter = images + 60
    assert shrunken(lighter) == pytest.approx(shrunken(images), abs=1e-5)
    code = shrunken(images)
    assert code.mean(1) == pytest.approx(0, abs=1e-6) and (code**2).sum(1) == pytest.approx(1, abs=1e-5)
    describe = Descriptor.fitted(images)
    assert describe(images).shape == (30, 30) and describe.components.shape[0] <= DIMENSIONS
    assert describe(images[:0]).shape == (0, 30)


def test_principal_components_only_bring_images_nearer_together() -> None:
    images = noise(80)
    describe = Descriptor.fitted(images[:40])
    codes, pixels = describe(images), shrunken(images)
    for one, other in ((0, 1), (2, 50), (60, 70)):
        near, full = (np.linalg.norm(part[one] - part[other]) for part in (codes, pixels))
        assert near <= full + 1e-5


def test_nearest_are_the_nearest() -> None:
    references = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    asked = references[:5] + 0.01
    found = nearest(asked, references, np.arange(50), 3)
    brute = np.linalg.norm(asked[:, None] - references[None], axis=2)
    assert (found.label == np.argsort(brute, axis=1)[:, :3]).all()
    assert found.distance == pytest.approx(np.sort(brute, axis=1)[:, :3], abs=1e-4)
    assert nearest(asked, references[:2], np.arange(2), 10).label.shape == (5, 2)
