"""Does the model listen to its label? Swaps and samples, as independent judges see them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from condvae.data.dataset import LabelledImages
from condvae.evaluation.bounds import fixed_binarisation
from condvae.evaluation.counterfactual import (
    alike,
    another_of_class,
    counterfactuals,
    style_kept,
)
from condvae.evaluation.descriptors import style_vector
from condvae.evaluation.judge import (
    SIZES,
    NeuralJudge,
    Panel,
    Progress,
    predict,
    schooling,
    train_classifier,
)
from condvae.evaluation.outputs import Outputs, sampled, swapped
from condvae.evaluation.realism import auroc, frechet_distance, kernel_distance
from condvae.models.classifier import CLASSIFIERS
from condvae.models.protocol import ConditionalModel, Images, Labels


def judged(panel: Panel, outputs: Outputs) -> dict[str, Any]:
    """What every judge reads, as shares of images; chance is 1/K.

    `judges` has for each of them the share of `real` images and `reconstructions` that it reads as their
    true label, of `swaps` and `samples` that it reads as the given one, and of swaps that it reads as
    the true one (`swaps_kept`). The five numbers beside it are the worst that a network says: the lowest
    share, and of kept labels the highest.
    """
    rows = {
        "real": (outputs.real, outputs.labels),
        "reconstructions": (outputs.reconstructions, outputs.labels),
        "swaps": (outputs.swaps, outputs.given),
        "samples": (outputs.samples, outputs.drawn),
    }
    judges: dict[str, dict[str, float]] = {}
    for name, judge in panel.judges.items():
        said = {row: predict(judge, images) for row, (images, _) in rows.items()}
        judges[name] = {row: float((said[row] == labels).mean()) for row, (_, labels) in rows.items()}
        judges[name]["swaps_kept"] = float((said["swaps"] == outputs.labels).mean())

    def worst(row: str, of: Callable[[list[float]], float] = min) -> float:
        return of([judges[name][row] for name in panel.networks])

    return {
        "judges": judges,
        "judge_accuracy": worst("real"),
        "reconstruction_accuracy": worst("reconstructions"),
        "swap_accuracy": worst("swaps"),
        "swap_kept_accuracy": worst("swaps_kept", max),
        "sample_accuracy": worst("samples"),
    }


def realism(panel: Panel, outputs: Outputs, seed: int = 0) -> dict[str, Any]:
    """Are swaps as plausible as reconstructions? Both beside held-out reconstructions, in the features
    of a network that is no judge.

    The images are parted at random. From swaps of the second part, and from reconstructions of the
    second part, to reconstructions of the first: `frechet` distance of all together, and the `kernel`
    distance between those of one class, the mean over classes. `discriminator_auroc` is that of a fresh
    network which has learned on the first part to tell swaps from reconstructions, on the second: 0.5
    if it can't. `samples` against real images are in the same features, beside `real`, one part of the
    real images against the other.
    """
    generator = np.random.default_rng(seed)
    order = torch.from_numpy(generator.permutation(len(outputs.labels)))
    first, second = order.tensor_split(2)
    read = panel.reader.features
    made, swaps = read(outputs.reconstructions), read(outputs.swaps)
    real, samples = read(outputs.real), read(outputs.samples)
    labels, given, drawn = map(torch.from_numpy, (outputs.labels, outputs.given, outputs.drawn))

    def distances(a: Tensor, of_a: Tensor, b: Tensor, of_b: Tensor) -> dict[str, float]:
        sides = [(a[of_a == label], b[of_b == label]) for label in of_b.unique()]
        each = [kernel_distance(*side) for side in sides if min(map(len, side)) > 1]
        return {"frechet": frechet_distance(a, b), "kernel": float(np.mean(each)) if each else math.nan}

    return {
        "swaps": distances(swaps[second], given[second], made[first], labels[first]),
        "reconstructions": distances(made[second], labels[second], made[first], labels[first]),
        "samples": distances(samples[second], drawn[second], real[first], labels[first]),
        "real": distances(real[second], labels[second], real[first], labels[first]),
        "discriminator_auroc": _discriminated(outputs, first, second, seed),
    }


def _discriminated(outputs: Outputs, first: Tensor, second: Tensor, seed: int) -> float:
    """How well a network that learned on the first part tells the second part's swaps."""
    sides = (outputs.reconstructions, outputs.swaps)
    images = torch.cat([side[first] for side in sides]).cpu().numpy()
    which = np.repeat(np.arange(2), len(first))
    data = LabelledImages(images, which, ("reconstruction", "swap"), "swaps", "train")
    width, _ = SIZES[images.shape[1]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = CLASSIFIERS.build("residual", shape=data.shape, classes=2, width=width)
        device = outputs.real.device
        train_classifier(network, data, device, 10 * len(data), seed=seed, degrade=False)
    judge = NeuralJudge(network.eval())
    told = [judge.scores(side[second]).diff(dim=1)[:, 0] for side in sides]
    return auroc(told[0].cpu(), told[1].cpu())


def returned(
    model: ConditionalModel, outputs: Outputs, y: Labels, given: Labels, seed: int = 0
) -> dict[str, float]:
    """Mean absolute differences of pixels, as shares of their range (Monteiro et al. 2023).

    `composition`: what is left of a reconstruction that is reconstructed again, against the first.
    `reversibility`: a swap swapped back to the true label, against the reconstruction. `scale`: one
    reconstruction against that of another image.
    """

    def off(images: Images) -> float:
        return float((images.float() - outputs.reconstructions.float()).abs().mean() / 255)

    made, swaps = (
        fixed_binarisation(model, images, seed) for images in (outputs.reconstructions, outputs.swaps)
    )
    return {
        "composition": off(swapped(model, made, y, y)),
        "reversibility": off(swapped(model, swaps, given, y)),
        "scale": off(outputs.reconstructions.roll(1, 0)),
    }


def counterfactual_numbers(panel: Panel, outputs: Outputs, seed: int = 0) -> dict[str, Any]:
    """`counterfactual_score`, what it is made of, and how much of the style is kept.

    `reconstructions_alike` is the share of reconstructions that are drawn as swaps are asked to be: more
    than they keep, swaps can hardly keep.

    `style` has for each attribute its correlation with the input's, of swaps, beside that of
    reconstructions (the ceiling) and of a random image of the given class (the floor).
    """
    found = counterfactuals(
        panel,
        outputs.real,
        outputs.labels,
        outputs.swaps,
        outputs.given,
        outputs.reconstructions,
    )
    real, made = style_vector(outputs.real), style_vector(outputs.reconstructions)
    random = another_of_class(outputs.labels, outputs.given, np.random.default_rng(seed))
    others = {
        "swaps": (outputs.swaps, outputs.given),
        "reconstructions": (outputs.reconstructions, outputs.labels),
        "random_image": (outputs.real[torch.from_numpy(random)], outputs.given),
    }
    return {
        "counterfactual_score": found.score,
        "counterfactual_shares": found.shares,
        "reconstructions_alike": float(alike(real, made, made, outputs.labels, outputs.labels).mean()),
        "style": style_kept(outputs.real, outputs.labels, others),
    }


def classification_accuracy_score(
    model: ConditionalModel,
    test: tuple[Images, Labels],
    images: int,
    seed: int = 0,
    progress: Progress = lambda share: None,
) -> float:
    """Accuracy on real test images of a network that has seen generated ones alone (Ravuri and Vinyals
    2019).

    Arguments:
        images: how many are generated, each class as often as the others.
        progress: told the share of the network's training that is done.
    """
    y = torch.arange(images, device=test[1].device) % model.classes
    made = sampled(model, y, seed=seed).cpu().numpy()
    names = tuple(map(str, range(model.classes)))
    data = LabelledImages(made, y.cpu().numpy(), names, "samples", "train")
    width, seen, optimiser = schooling("residual", data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = CLASSIFIERS.build("residual", shape=model.shape, classes=model.classes, width=width)
        train_classifier(
            network, data, test[1].device, seen, seed=seed, optimiser=optimiser, progress=progress
        )
    return float((predict(NeuralJudge(network.eval()), test[0]) == test[1].cpu().numpy()).mean())
