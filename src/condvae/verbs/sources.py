"""Which images a verb works on, by a run's config and a user's flags."""

from __future__ import annotations

from pathlib import Path

from condvae.config import Config
from condvae.data import LabelledImages, load
from condvae.errors import UserError
from condvae.run import Run


def training_images(config: Config, data_root: str | Path | None) -> LabelledImages:
    """The training split that a recipe names; all of its source, where the test images lie elsewhere.

    Raises:
        UserError: the source can't be loaded, or has fewer than two classes with images.
    """
    data = config.data
    images = load(
        data.source,
        split="all" if data.test_source else "train",
        data_root=data_root,
        image_size=data.image_size,
        channels=data.channels,
        skip_unreadable=data.skip_unreadable,
    ).labelled()
    if len(set(images.labels.tolist())) < 2:
        raise UserError(
            f"--data {data.source}: its training images are all of one class; "
            "a conditional model needs two or more"
        )
    return images


def test_images(run: Run, source: str | None, data_root: str | Path | None) -> LabelledImages:
    """The test images of a run, or those of another source, at the size that the model takes.

    Raises:
        UserError: the source can't be loaded, or its classes are not the model's.
    """
    data = run.config.data
    channels, height, width = run.model.shape
    if height != width and source:
        raise UserError("--data: this model's images aren't square, so it takes its own data alone")
    images = load(
        source or data.test_source or data.source,
        split="all" if not source and data.test_source else "test",
        data_root=data_root,
        image_size=height if height == width else 0,
        channels=channels,
        skip_unreadable=data.skip_unreadable,
    ).labelled()
    if images.class_names != run.class_names:
        raise UserError(
            f"--data {source or data.test_source or data.source}: its classes "
            f"({', '.join(images.class_names[:5])} ...) are not those that {run.path} was trained on "
            f"({', '.join(run.class_names[:5])} ...)"
        )
    if images.shape != run.model.shape:
        raise UserError(
            f"{run.path}: trained on images of {run.model.shape}, and these are {images.shape}"
        )
    return images
