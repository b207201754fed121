"""Which images a verb works on, by a run's config and a user's flags."""

from __future__ import annotations

from pathlib import Path

from condvae.config import Config, DataConfig
from condvae.data import LabelledImages, hub, load
from condvae.data.sources import SOURCES, find
from condvae.errors import UserError
from condvae.objectives import takes_unlabelled
from condvae.registry import nearest
from condvae.run import Run


def training_images(
    data: DataConfig, data_root: str | Path | None, unlabelled: bool = False
) -> LabelledImages:
    """The training split that a recipe names; all of its source, where the test images lie elsewhere.

    Arguments:
        unlabelled: with those that have no label.

    Raises:
        UserError: the source can't be loaded, or its training images are all of one class.
    """
    images = load(
        data.source,
        split="train",
        data_root=data_root,
        image_size=data.image_size,
        channels=data.channels,
        skip_unreadable=data.skip_unreadable,
        hold_out=not data.test_source,
    )
    images = images if unlabelled else images.labelled()
    if len(set(images.labels.tolist()) - {-1}) < 2:
        raise UserError(
            f"--data {data.source}: its training images are all of one class; "
            "a conditional model needs two or more"
        )
    return images


def check_test_source(train: LabelledImages, data: DataConfig, data_root: str | Path | None) -> None:
    """See before a training that the test images named apart from it will serve after it.

    Raises:
        UserError: they can't be loaded, or have other classes.
    """
    if data.test_source:
        _load_test(data.test_source, train.shape, train.class_names, data, data_root)


def test_images(run: Run, source: str | None, data_root: str | Path | None) -> LabelledImages:
    """The test images of a run, or those of another source, at the size that the model takes.

    Of another source, it is all images, unless the source itself tells train from test.

    Raises:
        UserError: the source can't be loaded, or its classes are not the model's.
    """
    data = run.config.data
    chosen = source or data.test_source or data.source
    return _load_test(chosen, run.model.shape, run.class_names, data, data_root)


def _load_test(
    source: str,
    shape: tuple[int, int, int],
    class_names: tuple[str, ...],
    data: DataConfig,
    data_root: str | Path | None,
) -> LabelledImages:
    channels, height, width = shape
    images = load(
        source,
        split="test",
        data_root=data_root,
        image_size=height if height == width else 0,
        channels=channels,
        skip_unreadable=data.skip_unreadable,
        hold_out=source == data.source,
    ).labelled()
    if images.class_names != class_names:
        raise UserError(
            f"{source}: its classes ({', '.join(images.class_names[:5])} ...) are not those that were "
            f"trained on ({', '.join(class_names[:5])} ...)"
        )
    if images.shape != shape:
        raise UserError(
            f"{source}: its images are {images.shape}, the training's {shape}, which are not square, so "
            "they can't be fitted to one another"
        )
    if not len(images):
        raise UserError(f"{source}: has no labelled test images")
    return images


def on_this_disk(source: str, data_root: str | Path | None) -> bool:
    """Whether a source can be loaded without fetching anything."""
    if source in SOURCES:
        return find(SOURCES[source], Path(data_root) if data_root else None) is not None
    if hub.is_address(source):
        return (hub.folder_of(source, "dataset") / hub.WHOLE).is_file()
    return Path(source).expanduser().exists()


def class_number(run: Run, label: int | str, flag: str) -> int:
    """A class's number, given its name or number.

    Raises:
        UserError: there is no such class; the nearest is suggested.
    """
    names = list(run.class_names)
    if str(label) in names:
        return names.index(str(label))
    if str(label).isdecimal() and int(label) < len(names):
        return int(label)
    some = ", ".join(f"{index} {name}" for index, name in enumerate(names[:12]))
    more = " ..." if len(names) > 12 else ""
    raise UserError(
        f"{flag} {label}: no such class{nearest(str(label), names)} (there are: {some}{more})"
    )


def images_to_train_on(
    config: Config, data_root: str | Path | None
) -> tuple[LabelledImages, LabelledImages]:
    """The images that a config trains on, and those that it watches the training with.

    Raises:
        UserError: the source can't be loaded, or labels are hidden from an objective that needs them.
    """
    unlabelled = takes_unlabelled(config.training.objective)
    images = training_images(config.data, data_root, unlabelled)
    check_test_source(images, config.data, data_root)
    seen, watched = images.split_validation(config.data.validation, config.training.seed)
    if config.data.labels:
        if not unlabelled:
            raise UserError(
                f"data.labels: objective {config.training.objective!r} has no use for images without a "
                "label; use semi-supervised"
            )
        seen = seen.hide_labels(config.data.labels, config.training.seed)
    return seen, watched.labelled()
