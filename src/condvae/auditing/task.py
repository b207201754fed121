"""What a judge of labels is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from condvae.data.dataset import LabelledImages
from condvae.progress import ProgressLine

Testimony = dict[str, NDArray[Any]]
"""`log_p`: float32 `[n, K]`, log probabilities `log p(y|x)` of the held-out images, in order; and what
else a witness has to say of them, a row an image. Names that begin with `about_` are of the fold."""


@dataclass(frozen=True)
class Task:
    """One fold: train on some images, and judge the labels of others.

    Arguments:
        train: what to train on.
        held: what to judge; none of it is in `train`.
        places: the held-out images' places in the whole, which their noise comes from.
        seconds: how long it may take, at most.
        folder: where to keep what was trained.
        seed: of everything random; the fold's own.
        precision: of networks in training: fp32 or bf16.
        device: where to train.
        line: where to say how far it is.
        hint: `log_p` of an earlier witness of the same fold, for one that can't look at every label.
    """

    train: LabelledImages
    held: LabelledImages
    places: NDArray[np.int64]
    seconds: float
    folder: Path
    seed: int
    precision: str
    device: torch.device
    line: ProgressLine
    hint: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Pace:
    """How long a fold takes a witness, by a short trial.

    Arguments:
        seconds_a_pass: of training, over all of a fold's training images.
        passes: that it would take, had it all the time.
        judging: seconds after the training.
    """

    seconds_a_pass: float
    passes: float
    judging: float

    @property
    def seconds(self) -> float:
        """What a fold would take, had it all the time."""
        return self.seconds_a_pass * self.passes + self.judging

    def passes_within(self, seconds: float) -> float:
        """Passes that there is time for."""
        training = max(seconds - self.judging, seconds / 2)
        return min(self.passes, training / max(self.seconds_a_pass, 1e-9))


class Witness(Protocol):
    """A judge of labels.

    Attributes:
        share: by number of channels, its part of the time; 0 for one that takes hardly any.
    """

    share: ClassVar[dict[int, float]]

    def pace(self, task: Task, seconds: float, train: int, held: int) -> Pace | None:
        """How long a fold will take, judged by a task with few images; None where it hardly takes time.

        Arguments:
            seconds: how long it may take.
            train, held: how many images there really are.
        """
        ...

    def testify(self, task: Task) -> Testimony:
        """Train on the task's images, and judge its held-out ones."""
        ...
