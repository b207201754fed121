"""Images that are easy to tell apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from condvae.data import LabelledImages

Maker = Callable[..., LabelledImages]


@pytest.fixture
def stripes() -> Maker:
    """Makes noisy 8 x 8 images with a bright column: 0, 3, 6, 1, 4 ... by their class."""

    def make(number: int = 120, classes: int = 3, channels: int = 1, seed: int = 0) -> LabelledImages:
        generator = np.random.default_rng(seed)
        labels = np.arange(number) % classes
        images = generator.integers(0, 60, (number, channels, 8, 8), dtype=np.uint8)
        for index, label in enumerate(labels):
            images[index, :, :, 3 * label % 8] += 150
        names = tuple(f"stripe {label}" for label in range(classes))
        return LabelledImages(images, labels, names, "stripes", "all")

    return make
