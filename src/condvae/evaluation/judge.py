"""The judges: classifiers that no VAE's training has seen, trained on real training images alone.

Three of them, so that what fools one doesn't fool all: two networks of different architecture, and a
kernel classifier on oriented gradients, which is no network. The networks see blurred, coarsened and
noisy images in their training, so that they read a blurred reconstruction fairly and look for more than
fine texture. A fourth network judges nothing: its features are what realism is measured in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from condvae.config import TrainingConfig
from condvae.data.augment import degraded, shifted
from condvae.data.batches import Batches
from condvae.data.dataset import LabelledImages
from condvae.data.download import cache_folder
from condvae.errors import UserError
from condvae.evaluation.descriptors import oriented_gradients
from condvae.files import read_tensors, write_tensors
from condvae.models.classifier import CLASSIFIERS, Classifier
from condvae.probability.images import centred, uncentred
from condvae.run import choose_precision
from condvae.training.optimisers import build_optimiser

Images = UInt8[Tensor, "n c h w"]
Progress = Callable[[float], None]

VERSION = 4
BATCH = 128
CLIP = 2.0
"""Norm that a gradient is cut to: few images make for steep ones, which grew without end."""
SIZES = {1: (16, 240_000), 3: (32, 1_200_000)}
"""Width of a network and images in its training, by channels: colour photographs need far more than grey
drawings."""
OPTIMISER = {1: "sgd", 3: "muon"}
"""By channels: photographs are read better after as many steps of Muon, a third longer as each takes.
Grey drawings are read well enough after either."""
EPOCHS, LEAST_STEPS = 30, 100
"""A network of few images ends after this many passes over them, but not before that many steps."""
LANDMARKS = 2_000
"""Training images that the kernel classifier compares with."""
NETWORKS = {"residual": 1, "plain": 2}
"""The networks that judge, and their seeds."""
READER = ("mixer", 3)
"""The network whose features realism is measured in, and its seed."""
READER_PART = {1: 2, 3: 3}
"""The part of the judges' images that it sees, by channels: a half and a third. It learns by SGD."""


class Judge(Protocol):
    """Who says what is in an image."""

    def scores(self, images: Images) -> Float[Tensor, "n classes"]:
        """The higher a class's, the likelier it is."""
        ...


def predict(judge: Judge, images: Images) -> NDArray[np.int64]:
    """The likeliest class of each image."""
    return judge.scores(images).argmax(1).cpu().numpy()


def place_of(judge: Judge, images: Images, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many classes score above the given one: 0 if it is the likeliest."""
    scores = judge.scores(images)
    own = scores.gather(1, torch.as_tensor(labels, device=scores.device)[:, None])
    return (scores > own).sum(1).cpu().numpy()


@dataclass(frozen=True)
class NeuralJudge:
    """A trained network, in evaluation mode."""

    classifier: Classifier

    @torch.no_grad()
    def scores(self, images: Images) -> Float[Tensor, "n classes"]:
        """Logits: of an image in colour, the mean of those of four views of it."""
        parts = []
        for part in images.split(1000):
            each = [self.classifier(view).float() for view in views(centred(part))]
            parts.append(torch.stack(each).mean(0))
        return torch.cat(parts)

    @torch.no_grad()
    def features(self, images: Images) -> Float[Tensor, "n f"]:
        """What its last layer decides by."""
        parts = [self.classifier.features(centred(part)) for part in images.split(1000)]
        return torch.cat(parts).float()


def views(x: Float[Tensor, "n c h w"]) -> list[Float[Tensor, "n c h w"]]:
    """What a network looks at: a grey image as it is; one in colour moved by a pixel along each
    diagonal, to either side, and mirrored if along one of them. A mirrored image has the same views."""
    if x.shape[1] != 3:
        return [x]
    height, width = x.shape[2:]
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    corners = [(down, right) for down in (0, 2) for right in (0, 2)]
    moved = [padded[:, :, down : down + height, right : right + width] for down, right in corners]
    return [
        view if down == right else view.flip(3)
        for view, (down, right) in zip(moved, corners, strict=True)
    ]


@dataclass(frozen=True)
class KernelJudge:
    """Kernel least squares on oriented gradients, through landmarks.

    With `k` the Gaussian kernel, `m` landmarks, and one-hot labels Y, the scores of an image are
    `k(image, landmarks) a`, where `a` minimises `|K_nm a - Y|^2 + n l tr(a' K_mm a)` (Smola and
    Schölkopf 2000; Rudi et al. 2015).

    Arguments:
        landmarks: their gradients.
        weights: `a`.
        inverse_width: of the kernel `exp(-|x - y|^2 * inverse_width)`.
    """

    landmarks: Float[Tensor, "m f"]
    weights: Float[Tensor, "m classes"]
    inverse_width: float

    @classmethod
    def fit(
        cls, train: LabelledImages, progress: Progress = lambda share: None, strength: float = 1e-7
    ) -> KernelJudge:
        """Fit to training images as they are, and to the same ones degraded."""
        generator = torch.Generator().manual_seed(4)
        order = torch.randperm(len(train), generator=generator)
        images = torch.tensor(train.images[order[:LANDMARKS].numpy()])
        landmarks = oriented_gradients(images)
        spread = torch.cdist(landmarks, landmarks).square().mean()
        width = float(1 / spread.clamp(min=1e-6))
        own = kernel(landmarks, landmarks, width).double()
        gram = torch.zeros_like(own)
        target = own.new_zeros(len(landmarks), train.classes)
        seen = 0
        for start in range(0, len(train), 1000):
            part = slice(start, start + 1000)
            labels = F.one_hot(torch.from_numpy(train.labels[part]), train.classes).double()
            clean = torch.tensor(train.images[part])
            for images in (clean, uncentred(degraded(centred(clean), generator))):
                similar = kernel(oriented_gradients(images), landmarks, width).double()
                gram += similar.T @ similar
                target += similar.T @ (2 * labels - 1)
                seen += len(images)
            progress(seen / (2 * len(train)))
        jitter = 1e-6 * torch.eye(len(own), dtype=own.dtype)
        weights = torch.linalg.solve(gram + seen * strength * own + jitter, target)
        return cls(landmarks, weights.float().contiguous(), width)

    @torch.no_grad()
    def scores(self, images: Images) -> Float[Tensor, "n classes"]:
        """The least-squares fit of 1 for the image's class and -1 for all others."""
        parts = []
        for part in images.split(1000):
            similar = kernel(
                oriented_gradients(part).to(self.landmarks), self.landmarks, self.inverse_width
            )
            parts.append(similar @ self.weights)
        return torch.cat(parts)


def kernel(
    a: Float[Tensor, "n f"], b: Float[Tensor, "m f"], inverse_width: float
) -> Float[Tensor, "n m"]:
    """The Gaussian kernel between all rows."""
    return torch.exp(-inverse_width * torch.cdist(a, b).square())


@dataclass(frozen=True)
class Panel:
    """All judges, and the network whose features realism is measured in.

    Arguments:
        networks: judges that are neural, by name.
        others: judges that aren't.
        reader: no judge.
    """

    networks: Mapping[str, Judge]
    others: Mapping[str, Judge]
    reader: NeuralJudge

    @property
    def judges(self) -> dict[str, Judge]:
        """All judges, by name."""
        return {**self.networks, **self.others}


# ------------------------------------------------------------------------------------------- training


def panel_for(
    train: LabelledImages, device: torch.device, progress: Progress = lambda share: None
) -> Panel:
    """The judges of a data set, from the cache or trained now.

    Arguments:
        train: the training split; validation images may be in it, test images never.
        progress: told the share that is done.

    Raises:
        UserError: the split is a test split.
    """
    if train.split == "test":
        raise UserError(f"{train.name}: a judge is never trained on test images")
    train = train.labelled()
    seats = [*NETWORKS.items(), READER]

    def part(index: int) -> Progress:
        return lambda share: progress((index + share) / (len(seats) + 1))

    networks = {
        name: _network(name, seed, train, device, part(index))
        for index, (name, seed) in enumerate(seats)
    }
    reader = networks.pop(READER[0])
    return Panel(networks, {"gradients": _kernel_judge(train, device, part(len(seats)))}, reader)


def cached_panel(train: LabelledImages, device: torch.device) -> Panel | None:
    """The judges of a data set, where all of them are in the cache, else None: none is trained."""
    train = train.labelled()
    names = [_network_file(name, train) for name in (*NETWORKS, READER[0])]
    files = [*names, _cached(train, f"gradients-{LANDMARKS}")]
    return panel_for(train, device) if all(file.is_file() for file in files) else None


def _network_file(name: str, train: LabelledImages) -> Path:
    width, seen, optimiser = schooling(name, train)
    return _cached(train, f"{name}-{width}-{seen}-{optimiser}")


def schooling(name: str, train: LabelledImages) -> tuple[int, int, str]:
    """A network's width, how many images it sees in its training, and its optimiser."""
    channels = train.shape[0]
    width, most = SIZES[channels]
    most = min(most, EPOCHS * len(train))
    if name == READER[0]:
        return width, most // READER_PART[channels], "sgd"
    return width, most, OPTIMISER[channels]


def _network(
    name: str, seed: int, train: LabelledImages, device: torch.device, progress: Progress
) -> NeuralJudge:
    path = _network_file(name, train)
    width, seen, optimiser = schooling(name, train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2026 + seed)
        classifier = CLASSIFIERS.build(name, shape=train.shape, classes=train.classes, width=width)
        try:
            classifier.load_state_dict(read_tensors(path, "")[0])
        except (UserError, RuntimeError):
            train_classifier(
                classifier, train, device, seen, seed=seed, optimiser=optimiser, progress=progress
            )
            with suppress(UserError):  # a cache that can't be written costs time and nothing else
                write_tensors(path, classifier.state_dict(), {"source": train.name})
    return NeuralJudge(classifier.eval().requires_grad_(False).to(device))


def _kernel_judge(train: LabelledImages, device: torch.device, progress: Progress) -> KernelJudge:
    path = _cached(train, f"gradients-{LANDMARKS}")
    try:
        kept, about = read_tensors(path, "")
        judge = KernelJudge(kept["landmarks"], kept["weights"], float(about["inverse_width"]))
    except (UserError, KeyError, TypeError, ValueError):
        judge = KernelJudge.fit(train, progress)
        with suppress(UserError):
            kept = {"landmarks": judge.landmarks, "weights": judge.weights}
            write_tensors(path, kept, {"source": train.name, "inverse_width": judge.inverse_width})
    return KernelJudge(judge.landmarks.to(device), judge.weights.to(device), judge.inverse_width)


def _cached(train: LabelledImages, name: str) -> Path:
    return cache_folder() / "judges" / f"{train.fingerprint[:24]}-{VERSION}-{name}.safetensors"


def train_classifier(
    classifier: Classifier,
    train: LabelledImages,
    device: torch.device,
    images_seen: int,
    *,
    seed: int,
    optimiser: str = "sgd",
    degrade: bool = True,
    seconds: float = math.inf,
    precision: str = "auto",
    progress: Progress = lambda share: None,
) -> int:
    """Train by label-smoothed cross-entropy on shifted (and, in colour, mirrored) images.

    The learning rate rises and falls once (Smith and Topin 2018). Where the time is too short for all
    images, it goes through its course faster, so that it has always fallen at the end.

    Arguments:
        images_seen: length of the training.
        optimiser: sgd, or the name of one of `condvae.training.optimisers`.
        degrade: show most images blurred, coarsened or with noise.
        seconds: length of the training, if it is not over sooner.
        precision: of the network: fp32, bf16 or auto.
        progress: told the share that is done.

    Returns:
        The number of steps that were taken.
    """
    classifier.train().to(device)
    batches = Batches(train, BATCH, device, seed=seed)
    steps = max(LEAST_STEPS, images_seen // batches.batch_size)
    generator = torch.Generator().manual_seed(seed)
    precision = choose_precision(precision, device)
    stepper = _optimiser(optimiser, classifier, precision)
    most = stepper.param_groups[0]["lr"]
    schedule = torch.optim.lr_scheduler.OneCycleLR(stepper, most, total_steps=steps, pct_start=0.2)
    began = time.monotonic()
    done = taken = 0
    for epoch in range(math.ceil(steps / batches.steps_per_epoch)):
        for images, labels in batches.epoch(epoch):
            seen = shifted(centred(images), generator, mirror=images.shape[1] == 3)
            seen = degraded(seen, generator) if degrade else seen
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                logits = classifier(seen)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=0.1)
            stepper.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(classifier.parameters(), CLIP)
            stepper.step()
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


def _optimiser(name: str, classifier: Classifier, precision: str) -> torch.optim.Optimizer:
    """The optimiser by name, at its highest learning rate."""
    if name == "sgd":
        return torch.optim.SGD(
            classifier.parameters(), lr=0.3, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
    settings = TrainingConfig(optimiser=name, learning_rate=8e-3, weight_decay=0.05)
    return build_optimiser(settings, classifier, precision)
