"""Is a label swap a counterfactual: the given class, as plausible as any, and drawn like its input?

A judge's agreement alone says little: it can be had by textures that fool it, by one prototype a class,
or by a random image of the class. Here a swap counts only if it is all three at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from condvae.evaluation.descriptors import Images, style, style_vector
from condvae.evaluation.judge import Panel, place_of, predict
from condvae.evaluation.realism import nearest_distance, nearness_rank

Bools = NDArray[np.bool_]
FIRST = 0.3
"""A judge that is no network is to have the given label among the first of this share of all classes:
the first three of ten."""
TYPICAL = 0.95
"""A swap's neighbour may be as far as that of this share of the real reconstructions."""
ALIKE = 0.1
"""A swap's own input is to be among the nearest of this share of all inputs."""


@dataclass(frozen=True)
class Counterfactuals:
    """What each swap is, as booleans `[n]`.

    Arguments:
        read: as the given label, by every judge that is a network; and the others have it among their
            first three of ten.
        typical: no further from the nearest reconstruction of a real image of the given class than 95%
            of these are from each other, in the features of a network that is no judge.
        alike: nearer in style to its own input than to 90% of all inputs, style being how an image
            deviates from what is usual in its class among images made like it (`alike`).
    """

    read: Bools
    typical: Bools
    alike: Bools

    @property
    def score(self) -> float:
        """`counterfactual_score`: the share of swaps that are all of it at once."""
        return float((self.read & self.typical & self.alike).mean())

    @property
    def shares(self) -> dict[str, float]:
        """The share that is each of it."""
        return {name: float(value.mean()) for name, value in vars(self).items()}


def counterfactuals(
    panel: Panel,
    inputs: Images,
    labels: NDArray[np.int64],
    outputs: Images,
    given: NDArray[np.int64],
    references: Images,
) -> Counterfactuals:
    """Look at swaps, each of an input of the same place.

    Arguments:
        inputs: real test images.
        labels: their true labels.
        outputs: what the model makes of them under
        given: labels, every one of them wrong.
        references: the model's reconstructions of the inputs.
    """
    first = max(1, round(FIRST * (int(max(given.max(), labels.max())) + 1)))
    read = np.ones(len(given), bool)
    for judge in panel.networks.values():
        read &= predict(judge, outputs) == given
    for judge in panel.others.values():
        read &= place_of(judge, outputs, given) < first
    features = panel.reader.features
    styles = [style_vector(images) for images in (inputs, outputs, references)]
    return Counterfactuals(
        read=read,
        typical=typical(features(outputs), given, features(references), labels),
        alike=alike(styles[0], styles[1], styles[2], labels, given),
    )


def alike(
    inputs: Float[Tensor, "n d"],
    outputs: Float[Tensor, "n d"],
    references: Float[Tensor, "n d"],
    labels: NDArray[np.int64],
    given: NDArray[np.int64],
) -> Bools:
    """Which outputs are nearer in style to their own input than to 90% of all inputs.

    An input is compared with what is usual among inputs of its class, an output with what is usual among
    reconstructions of the class that it is to be: all that a decoder makes is a little blurred, which
    makes strokes thicker, and is not the swap's doing. The unit is the inputs' for both, so that a faint
    trace of the style is not enough.

    Arguments:
        inputs, outputs, references: style vectors.
    """
    usual = Usual.of(inputs, labels)
    deviations = usual.deviation(inputs, labels)
    made = Usual(Usual.of(references, labels).mean, usual.spread).deviation(outputs, given)
    return (nearness_rank(made, deviations) <= ALIKE).cpu().numpy()


@dataclass(frozen=True)
class Usual:
    """What an attribute usually is in each class.

    A 1 is narrower than a 0: a wide 1 that becomes a wide 0 has kept its style. So style is how an image
    deviates from what is usual for its class.

    Arguments:
        mean, spread: of every class; of a class without images, those of all.
    """

    mean: Float[Tensor, "classes d"]
    spread: Float[Tensor, "classes d"]

    @classmethod
    def of(cls, values: Float[Tensor, "n d"], labels: NDArray[np.int64]) -> Usual:
        """As measured of real images."""
        classes = [values[torch.from_numpy(labels == label)] for label in range(labels.max() + 1)]
        parts = [part if len(part) > 1 else values for part in classes]
        return cls(torch.stack([p.mean(0) for p in parts]), torch.stack([p.std(0) for p in parts]))

    def deviation(self, values: Float[Tensor, "n d"], labels: NDArray[np.int64]) -> Float[Tensor, "n d"]:
        """How far values are from their class's mean, in its standard deviations."""
        which = torch.from_numpy(np.minimum(labels, len(self.mean) - 1)).to(values.device)
        return (values - self.mean[which]) / self.spread[which].clamp(min=1e-6)


def typical(
    outputs: Tensor, given: NDArray[np.int64], references: Tensor, labels: NDArray[np.int64]
) -> Bools:
    """Which outputs `[n, f]` are as near to the references `[m, f]` of their class as these are to each
    other (all but the 5% that are furthest from their neighbours)."""
    found = np.zeros(len(given), bool)
    for label in np.unique(given):
        own = references[torch.from_numpy(labels == label)]
        if len(own) < 2:
            continue
        limit = nearest_distance(own, own, apart=True).quantile(TYPICAL)
        mine = given == label
        found[mine] = (nearest_distance(outputs[torch.from_numpy(mine)], own) <= limit).cpu().numpy()
    return found


def style_kept(
    inputs: Images,
    labels: NDArray[np.int64],
    others: dict[str, tuple[Images, NDArray[np.int64]]],
) -> dict[str, dict[str, float]]:
    """How far attributes of inputs are found again in sets of other images, each made of the input of
    the same place: Pearson's correlation of the deviations from what is usual in a class of the set
    (`Usual`), over the set, the mean over an attribute's components.

    Arguments:
        others: sets of images, and the classes that they are to be of.
    """
    own = _deviations(inputs, labels)
    found: dict[str, dict[str, float]] = {name: {} for name in own}
    for kind, (images, of) in others.items():
        for name, values in _deviations(images, of).items():
            found[name][kind] = correlation(own[name], values)
    return found


def _deviations(images: Images, labels: NDArray[np.int64]) -> dict[str, Tensor]:
    """How each attribute of each image deviates from what is usual in its class."""
    return {
        name: Usual.of(values, labels).deviation(values, labels)
        for name, values in style(images).items()
    }


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's, column by column, and their mean; a column that doesn't vary counts as 0."""
    a, b = a.double() - a.double().mean(0), b.double() - b.double().mean(0)
    scale = (a.square().sum(0) * b.square().sum(0)).sqrt()
    return float(((a * b).sum(0) / scale.clamp(min=1e-12)).mean())


def another_of_class(
    labels: NDArray[np.int64], given: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """For each given label, the place of a random image that has it (its own, where there is none)."""
    found = np.arange(len(given))
    for label in np.unique(given):
        places = np.flatnonzero(labels == label)
        mine = np.flatnonzero(given == label)
        if len(places):
            found[mine] = generator.choice(places, len(mine))
    return found
