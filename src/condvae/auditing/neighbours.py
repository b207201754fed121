"""The nearest training images as a witness: no network, and nearly no time."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from condvae.auditing.descriptors import Descriptor, nearest
from condvae.auditing.scores import log_prior
from condvae.auditing.task import Task, Testimony

NEIGHBOURS = 10


class NeighboursWitness:
    """Votes of the ten nearest, in principal components of small images.

    A label's probability is its share of votes, with one more vote for what labels are like anyway. Also
    told is the mean distance to them: an image that is far from all others is like none.
    """

    share: ClassVar[dict[int, float]] = {1: 0.0, 3: 0.0}

    def pace(self, task: Task, seconds: float, train: int, held: int) -> None:
        return None

    def testify(self, task: Task) -> Testimony:
        task.line.start("looking for neighbours")
        train, classes = task.train, task.train.classes
        describe = Descriptor.fitted(train.images, task.seed)
        held, references = describe(task.held.images), describe(train.images)
        found = nearest(held, references, train.labels, NEIGHBOURS, task.seed)
        return {"log_p": voted(found.label, train.labels, classes), "distance": found.distance.mean(1)}


def voted(votes: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Log probabilities `[n, K]` of votes `[n, k]`; labels are all that could have voted."""
    share = np.tile(np.exp(log_prior(labels, classes)), (len(votes), 1))
    rows = np.repeat(np.arange(len(votes)), votes.shape[1])
    np.add.at(share, (rows, votes.ravel()), 1.0)
    log_p: np.ndarray = np.log(share / (votes.shape[1] + 1)).astype(np.float32)
    return log_p
