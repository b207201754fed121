"""Batches, drawn on the device from uint8 tensors: no image is touched by Python in an epoch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from condvae.data.dataset import LabelledImages
from condvae.errors import UserError

Batch = tuple[UInt8[Tensor, "batch c h w"], Int[Tensor, "batch"]]


class Batches:
    """A fresh permutation of the images an epoch, cut into batches of one size.

    The permutation depends on the seed and the number of the epoch alone, so going on in the middle
    of an epoch needs nothing remembered. Data that fits is kept on the device whole; larger data is
    gathered from the (memory-mapped) array, a batch at a time. The last images of a permutation, too
    few for a batch, wait for another epoch.

    Arguments:
        data: labelled images.
        batch_size: images a batch; the whole set, where that is smaller.
        device: where batches are wanted.
        seed: of the permutations.
        resident_bytes: data up to this size is kept on the device.

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
        resident_bytes: int = 4 << 30,
    ) -> None:
        if not len(data):
            raise UserError(f"{data.name}: there are no images to train on")
        self.data = data
        self.batch_size = min(batch_size, len(data))
        self.device = torch.device(device)
        self.seed = seed
        self.steps_per_epoch = len(data) // self.batch_size
        resident = data.images.nbytes <= resident_bytes
        self.images = torch.tensor(data.images, device=self.device) if resident else None
        self.labels = torch.tensor(data.labels, device=self.device)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from batch `start` on."""
        order = np.random.default_rng((self.seed, number)).permutation(len(self.data))
        for index in range(start, self.steps_per_epoch):
            chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
            at = torch.from_numpy(chosen).to(self.device)
            if self.images is not None:
                yield self.images.index_select(0, at), self.labels.index_select(0, at)
            else:
                images = torch.from_numpy(self.data.images[chosen])
                yield images.to(self.device), self.labels.index_select(0, at)


def in_order(data: LabelledImages, batch_size: int, device: torch.device | str) -> Iterator[Batch]:
    """Every image once, in order, the last batch however small."""
    for start in range(0, len(data), batch_size):
        images = torch.tensor(data.images[start : start + batch_size])
        labels = torch.tensor(data.labels[start : start + batch_size])
        yield images.to(device), labels.to(device)
