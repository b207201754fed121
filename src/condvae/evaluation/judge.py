"""The judge: a classifier that no VAE's training has seen, trained on real training images alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from condvae.data.batches import Batches
from condvae.data.dataset import LabelledImages
from condvae.data.download import cache_folder
from condvae.errors import UserError
from condvae.evaluation.bounds import precision_of
from condvae.files import read_tensors, write_tensors
from condvae.models.classifier import Classifier

VERSION = 2
BATCH = 128
SIZES = {1: (16, 240_000), 3: (32, 600_000)}
"""Width of a judge and images in its training, by channels: colour photographs need far more than grey
drawings."""
EPOCHS, LEAST_STEPS = 30, 100
"""A judge of few images ends after this many passes over them, but not before that many steps."""


@dataclass(frozen=True)
class Judge:
    """A trained classifier.

    Arguments:
        classifier: in evaluation mode.
        key: of the data and the training it comes from.
    """

    classifier: Classifier
    key: str

    @torch.no_grad()
    def log_probabilities(
        self, images: UInt8[Tensor, "n c h w"], batch_size: int = 1000
    ) -> Float[Tensor, "n classes"]:
        """Log class probabilities of uint8 images."""
        parts = [self.classifier(to_input(part)) for part in images.split(batch_size)]
        return torch.cat(parts).log_softmax(1)

    def probabilities(
        self, images: UInt8[Tensor, "n c h w"], batch_size: int = 1000
    ) -> Float[Tensor, "n classes"]:
        """Class probabilities of uint8 images."""
        return self.log_probabilities(images, batch_size).exp()

    def predict(self, images: UInt8[Tensor, "n c h w"]) -> NDArray[np.int64]:
        """The likeliest class of each image."""
        return self.probabilities(images).argmax(1).cpu().numpy()


def to_input(images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Pixels as the judge sees them: -1 to 1."""
    return images.float() / 127.5 - 1


def judge_for(
    train: LabelledImages,
    device: torch.device,
    progress: Callable[[float], None] = lambda share: None,
) -> Judge:
    """The judge of a data set, from the cache or trained now.

    Arguments:
        train: the training split; validation images may be in it, test images never.
        progress: told the share that is done.

    Raises:
        UserError: the split is a test split.
    """
    if train.split == "test":
        raise UserError(f"{train.name}: a judge is never trained on test images")
    train = train.labelled()
    width, most = SIZES[train.shape[0]]
    images_seen = min(most, EPOCHS * len(train))
    key = f"{train.fingerprint[:24]}-{VERSION}-{width}-{images_seen}"
    path = cache_folder() / "judges" / f"{key}.safetensors"
    classifier = Classifier(train.shape, train.classes, width)
    try:
        weights, _ = read_tensors(path, "")
        classifier.load_state_dict(weights)
    except (UserError, RuntimeError):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(20_26)
            classifier = Classifier(train.shape, train.classes, width)
            train_judge(classifier, train, device, images_seen, progress)
        with suppress(UserError):  # a cache that can't be written costs time and nothing else
            write_tensors(path, classifier.state_dict(), {"source": train.name})
    return Judge(classifier.eval().requires_grad_(False).to(device), key)


def train_judge(
    classifier: Classifier,
    train: LabelledImages,
    device: torch.device,
    images_seen: int,
    progress: Callable[[float], None],
    *,
    seconds: float = math.inf,
    precision: str = "fp32",
    seed: int = 1,
) -> int:
    """Train by label-smoothed cross-entropy on shifted (and, in colour, mirrored) images.

    The learning rate rises and falls once (Smith and Topin 2018). Where the time is too short for all
    images, it goes through its course faster, so that it has always fallen at the end.

    Arguments:
        images_seen: length of the training.
        progress: told the share that is done.
        seconds: length of the training, if it is not over sooner.
        precision: of the network: fp32 or bf16.

    Returns:
        The number of steps that were taken.
    """
    classifier.train().to(device)
    batches = Batches(train, BATCH, device, seed=seed)
    steps = max(LEAST_STEPS, images_seen // batches.batch_size)
    optimiser = torch.optim.SGD(
        classifier.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.3, total_steps=steps, pct_start=0.2)
    generator = torch.Generator().manual_seed(seed + 1)
    began = time.monotonic()
    done = taken = 0
    for epoch in range(math.ceil(steps / batches.steps_per_epoch)):
        for images, labels in batches.epoch(epoch):
            seen = shifted(to_input(images), generator, mirror=images.shape[1] == 3)
            with precision_of(precision, device):
                logits = classifier(seen)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=0.1)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            taken += 1
            due = min(steps, math.floor((time.monotonic() - began) / seconds * steps))
            for _ in range(max(1, due - done)):
                schedule.step()
            done = max(done + 1, due)
            if taken % 10 == 0:
                progress(done / steps)
            if done == steps:
                return taken
    return taken


def shifted(
    images: Float[Tensor, "n c h w"], generator: torch.Generator, mirror: bool, reach: float = 0.1
) -> Float[Tensor, "n c h w"]:
    """Each image moved by up to a tenth of its side, its edge repeated, and perhaps mirrored."""
    number, _, height, width = images.shape
    pad = max(1, round(reach * min(height, width)))
    padded = F.pad(images, (pad, pad, pad, pad), mode="replicate")
    down, across = torch.randint(0, 2 * pad + 1, (2, number, 1), generator=generator)
    rows = (down + torch.arange(height)).to(images.device)
    columns = across + torch.arange(width)
    if mirror:
        flip = torch.rand(number, 1, generator=generator) < 0.5
        columns = torch.where(flip, columns.flip(1), columns)
    columns = columns.to(images.device)
    index = torch.arange(number, device=images.device)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)
