"""Labelled images: uint8 pixels, integer labels, and the names of the classes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from condvae.data.rows import chosen, let_go
from condvae.errors import UserError


@dataclass(frozen=True)
class LabelledImages:
    """A set of labelled images of one size.

    Arguments:
        images: uint8 `[N, C, H, W]`, C of 1 or 3; in RAM or a read-only memory map, or rows of one
            that are read when they are asked for (`condvae.data.rows`).
        labels: int64 `[N]`, 0 to K - 1, or -1 for unlabelled.
        class_names: K names, in the order of the labels.
        name: the source as the user named it, for tables and pictures.
        split: "train", "validation", "test" or "all".
        fingerprint: a key of the content, the same on every machine.
        skipped: unreadable images that were left out.
        files: where each image came from, relative to the source, if it came from a file.

    Raises:
        UserError: a shape, a type or a label is not as described.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    name: str
    split: str
    fingerprint: str = ""
    skipped: int = 0
    files: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise UserError(
                f"{self.name}: images must be uint8 of 4 dimensions, not {self.images.dtype} "
                f"of shape {self.images.shape}"
            )
        if self.images.shape[1] not in (1, 3):
            raise UserError(f"{self.name}: images must have 1 or 3 channels, not {self.shape[0]}")
        if self.labels.shape != (len(self.images),):
            raise UserError(
                f"{self.name}: {len(self.images)} images, but labels of shape {self.labels.shape}"
            )
        low, high = (self.labels.min(), self.labels.max()) if len(self.labels) else (0, 0)
        if low < -1 or high >= len(self.class_names):
            raise UserError(
                f"{self.name}: labels run from {low} to {high}, but must be within 0 to "
                f"{len(self.class_names) - 1} (or -1 for unlabelled)"
            )
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", fingerprint(self.images, self.labels))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(C, H, W)`."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def classes(self) -> int:
        """Number of classes, K."""
        return len(self.class_names)

    @property
    def ground(self) -> int:
        """What images show where there is nothing, 0 (black) to 255: the median of their edges."""
        some = self.images[:2_000]
        rims = (some[..., 0, :], some[..., -1, :], some[..., 0], some[..., -1])
        return int(np.median(np.concatenate([np.asarray(rim).ravel() for rim in rims])))

    def subset(self, indices: NDArray[np.integer], split: str | None = None) -> LabelledImages:
        """The images at some indices, in that order."""
        key = hashlib.sha256(self.fingerprint.encode())
        key.update(np.ascontiguousarray(indices, dtype=np.int64).data)
        files = None if self.files is None else tuple(self.files[i] for i in indices)
        return replace(
            self,
            images=chosen(self.images, indices),
            labels=self.labels[indices],
            split=split or self.split,
            fingerprint=key.hexdigest(),
            files=files,
        )

    def labelled(self) -> LabelledImages:
        """Without the images that have no label."""
        return self if (self.labels >= 0).all() else self.subset(np.flatnonzero(self.labels >= 0))

    def hide_labels(self, keep: int, seed: int) -> LabelledImages:
        """The same images, of which only some keep their label, as many of each class as can be.

        Arguments:
            keep: labels that stay.
            seed: which.

        Raises:
            UserError: there are fewer labels, or fewer are to stay than there are classes.
        """
        present = np.unique(self.labels[self.labels >= 0])
        if not len(present) <= keep <= int((self.labels >= 0).sum()):
            raise UserError(
                f"data.labels is {keep}: must be at least {len(present)}, one a class, and at most "
                f"{int((self.labels >= 0).sum())}, the labels that {self.name} has"
            )
        generator = np.random.default_rng(seed)
        order = generator.permutation(np.flatnonzero(self.labels >= 0))
        rank = np.empty(len(order), np.int64)  # of an image among those of its class
        for label in present:
            places = np.flatnonzero(self.labels[order] == label)
            rank[places] = np.arange(len(places))
        stay = order[np.argsort(rank, kind="stable")[:keep]]
        labels = np.full_like(self.labels, -1)
        labels[stay] = self.labels[stay]
        return replace(self, labels=labels, fingerprint=f"{self.fingerprint}-{keep}-{seed}")

    def split_off(
        self, fraction: float, seed: int, names: tuple[str, str]
    ) -> tuple[LabelledImages, LabelledImages]:
        """Two disjoint parts that make up the whole, each with its share of every class.

        Arguments:
            fraction: share of each class that goes to the second part, rounded; but a class of two
                or more gives at least one image, and never its last, unless the fraction is 0.
            seed: which images.
            names: the splits' names.
        """
        if not 0 <= fraction < 1:
            raise UserError(f"the share to be set aside must be at least 0 and below 1: {fraction}")
        second = np.zeros(len(self), dtype=bool)
        generator = np.random.default_rng(seed)
        for label in np.unique(self.labels):
            members = generator.permutation(np.flatnonzero(self.labels == label))
            taken = round(fraction * len(members))
            if fraction > 0 and len(members) > 1:
                taken = min(max(taken, 1), len(members) - 1)
            second[members[:taken]] = True
        first = self.subset(np.flatnonzero(~second), names[0])
        return first, self.subset(np.flatnonzero(second), names[1])

    def split_validation(self, fraction: float, seed: int) -> tuple[LabelledImages, LabelledImages]:
        """The images to train on, and a stratified share of them to watch the training with."""
        return self.split_off(fraction, seed, (self.split, "validation"))


def fingerprint(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> str:
    """SHA-256 of shape, labels and pixels, in hexadecimal."""
    key = hashlib.sha256(repr(images.shape).encode())
    key.update(np.ascontiguousarray(labels, dtype="<i8").data)
    for number, start in enumerate(range(0, len(images), 4096)):
        key.update(np.ascontiguousarray(images[start : start + 4096]).data)
        if number % 16 == 15:
            let_go(images)
    return key.hexdigest()
