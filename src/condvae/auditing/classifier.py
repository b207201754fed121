"""The classifier as a witness: `q(y|x)` of a network that learned other images' labels."""

from __future__ import annotations

import time
from typing import ClassVar

import numpy as np
import torch

from condvae.auditing.task import Pace, Task, Testimony
from condvae.evaluation.judge import (
    BATCH,
    EPOCHS,
    LEAST_STEPS,
    SIZES,
    NeuralJudge,
    train_classifier,
    views,
)
from condvae.files import write_tensors
from condvae.models.classifier import CLASSIFIERS, Classifier

CHUNK = 1000
TRIAL = 0.3
"""Seconds that the pace is found in."""
FILE = "classifier.safetensors"


class ClassifierWitness:
    """A convolutional classifier, trained with smoothed labels on shifted (and mirrored) images."""

    share: ClassVar[dict[int, float]] = {1: 0.5, 3: 0.75}

    def pace(self, task: Task, seconds: float, train: int, held: int) -> Pace:
        batch = min(BATCH, len(task.train))
        for _ in range(2):  # the first time, things are still being set up
            began = time.monotonic()
            steps = train_classifier(
                untrained(task),
                task.train,
                task.device,
                EPOCHS * train,
                seed=task.seed,
                degrade=False,
                seconds=TRIAL,
                precision=task.precision,
            )
            seconds = (time.monotonic() - began) / steps / batch
        looks = len(views(torch.zeros(1, *task.train.shape)))
        passes = max(EPOCHS, LEAST_STEPS * batch / train)
        return Pace(seconds * train, passes, seconds * held * looks / 3)

    def testify(self, task: Task) -> Testimony:
        task.line.start("training the classifier")
        train, classifier = task.train, untrained(task)
        steps = train_classifier(
            classifier,
            train,
            task.device,
            EPOCHS * len(train),
            seed=task.seed,
            degrade=False,
            seconds=task.seconds,
            precision=task.precision,
            progress=task.line.show,
        )
        write_tensors(task.folder / FILE, classifier.state_dict(), {"steps": steps})
        judge = NeuralJudge(classifier.eval().requires_grad_(False))
        parts = []
        for start in range(0, len(task.held), CHUNK):
            images = torch.tensor(task.held.images[start : start + CHUNK], device=task.device)
            log_p = judge.scores(images).log_softmax(1)
            parts.append(log_p.float().cpu().numpy())
        return {"log_p": np.concatenate(parts), "about_steps": np.array(steps)}


def untrained(task: Task) -> Classifier:
    """The network of a fold, before its training."""
    shape, classes = task.train.shape, task.train.classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        width, _ = SIZES[shape[0]]
        return CLASSIFIERS.build("residual", shape=shape, classes=classes, width=width)
