"""Batches, drawn on the device from uint8 tensors: no image is touched by Python in an epoch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from condvae.data.dataset import LabelledImages
from condvae.data.rows import LARGE, let_go
from condvae.errors import UserError

Batch = tuple[UInt8[Tensor, "batch c h w"], Int[Tensor, "batch"]]


class Batches:
    """A fresh permutation of the images an epoch, cut into batches of one size.

    The permutation depends on the seed and the number of the epoch alone, so going on in the middle
    of an epoch needs nothing remembered. Data that fits is kept on the device whole; larger data is
    gathered from the (memory-mapped) array, a batch at a time. The last images of a permutation, too
    few for a batch, wait for another epoch.

    Where some images have no label, a share of every batch has one: an epoch is a pass over the others,
    and the labelled ones come as often as that takes.

    Arguments:
        data: images, all or some of them labelled.
        batch_size: images a batch; the whole set, where that is smaller.
        device: where batches are wanted.
        seed: of the permutations.
        labelled_share: share of a batch that has labels, where some images have none.
        share: a number i and a number n: only image i of every n in a batch is wanted.
        resident_bytes: data up to this size is kept on the device; by default 1 GiB in main memory,
            and 8 GiB on any other.

    Raises:
        UserError: there are no images.
    """

    def __init__(
        self,
        data: LabelledImages,
        batch_size: int,
        device: torch.device | str,
        *,
        seed: int,
        labelled_share: float = 0.5,
        share: tuple[int, int] = (0, 1),
        resident_bytes: int | None = None,
    ) -> None:
        if not len(data):
            raise UserError(f"{data.name}: there are no images to train on")
        self.data = data
        self.batch_size = min(batch_size, len(data))
        self.device = torch.device(device)
        self.seed = seed
        self.first, self.every = share
        known = data.labels >= 0
        self.streams = [(np.arange(len(data)), self.batch_size)]
        if known.any() and not known.all():
            first = min(self.batch_size - 1, max(1, round(labelled_share * self.batch_size)))
            sizes = (first, self.batch_size - first)
            self.streams = list(zip(map(np.flatnonzero, (known, ~known)), sizes, strict=True))
        places, size = self.streams[-1]
        self.steps_per_epoch = max(1, len(places) // size)
        room = (
            (LARGE if self.device.type == "cpu" else 8 * LARGE)
            if resident_bytes is None
            else resident_bytes
        )
        resident = data.images.nbytes <= room
        self.images = torch.tensor(np.asarray(data.images), device=self.device) if resident else None
        self.labels = torch.tensor(data.labels, device=self.device)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from batch `start` on."""
        generator = np.random.default_rng((self.seed, number))
        orders = [self._order(generator, places, size) for places, size in self.streams]
        chosen = np.concatenate(orders, 1)[start:, self.first :: self.every]
        for index, at in enumerate(torch.tensor(chosen, device=self.device)):
            if self.images is not None:
                yield self.images.index_select(0, at), self.labels.index_select(0, at)
            else:
                images = torch.from_numpy(self.data.images[chosen[index]])
                let_go(self.data.images)
                yield images.to(self.device), self.labels.index_select(0, at)

    def _order(
        self, generator: np.random.Generator, places: NDArray[np.int64], size: int
    ) -> NDArray[np.int64]:
        """Which images an epoch's steps take, `[steps, size]`: permutations, as many as that takes."""
        wanted = self.steps_per_epoch * size
        passes = [generator.permutation(places) for _ in range(-(-wanted // len(places)))]
        return np.concatenate(passes)[:wanted].reshape(-1, size)


def in_order(data: LabelledImages, batch_size: int, device: torch.device | str) -> Iterator[Batch]:
    """Every image once, in order, the last batch however small."""
    for start in range(0, len(data), batch_size):
        images = torch.tensor(data.images[start : start + batch_size])
        labels = torch.tensor(data.labels[start : start + batch_size])
        yield images.to(device), labels.to(device)
