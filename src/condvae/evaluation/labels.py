"""Does the model listen to its label? Swaps, samples and probes, measured by an independent judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from condvae.evaluation.judge import Judge
from condvae.models.protocol import ConditionalModel, Images, Labels, Temperature


def swapped(
    model: ConditionalModel,
    x: Images,
    y: Labels,
    given: Labels,
    encode_with: str = "true",
    batch_size: int = 500,
) -> Images:
    """What the model makes of images under given labels: `decode(encode(x, .), given)`.

    Arguments:
        x: images; binarise them before (`fixed_binarisation`), for the same result every time.
        y: their true labels.
        given: the labels to decode with.
        encode_with: "true" encodes with the true label, so that the latents carry the style alone;
            "wrong" encodes with the given one too, as the notebooks did.
    """
    source = y if encode_with == "true" else given
    parts = []
    with torch.no_grad():
        for start in range(0, len(y), batch_size):
            part = slice(start, start + batch_size)
            latents = model.encode(x[part], source[part])
            parts.append(model.decode(latents, given[part]).mean_image())
    return torch.cat(parts)


def sampled(
    model: ConditionalModel,
    y: Labels,
    temperature: Temperature = 1.0,
    seed: int = 0,
    batch_size: int = 500,
) -> Images:
    """Images drawn from the prior under given labels."""
    generator = torch.Generator(y.device).manual_seed(seed)
    with torch.no_grad():
        parts = [model.sample(part, temperature, generator) for part in y.split(batch_size)]
    return torch.cat(parts)


def partly_drawn(
    model: ConditionalModel,
    x: Images,
    y: Labels,
    keep: Sequence[int],
    temperature: Temperature = 1.0,
    seed: int = 0,
) -> UInt8[Tensor, "n k c h w"]:
    """What is left of images when only some groups of their latents are kept, top groups first.

    The other groups are drawn from their priors, given those above them: one draw an image, the same
    for every number of groups kept. Keeping none samples; keeping all reconstructs.

    Arguments:
        keep: numbers of groups.
    """
    generator = torch.Generator(y.device).manual_seed(seed)
    with torch.no_grad():
        own = model.encode(x, y)
        drawn = model.draw(y, temperature, generator)
        mixed = [model.decode((*own[:number], *drawn[number:]), y).mean_image() for number in keep]
    return torch.stack(mixed, 1)


@dataclass(frozen=True)
class LabelMeasures:
    """Shares of images, 0 to 1.

    Arguments:
        judge_accuracy: real images that the judge reads as their label.
        reconstruction_accuracy: reconstructions read as the true label: the ceiling of the next.
        swap_accuracy: label-swapped images read as the given, wrong label; chance is 1/K.
        swap_kept_accuracy: label-swapped images still read as the true label.
        sample_accuracy: samples read as the label they were drawn for.
    """

    judge_accuracy: float
    reconstruction_accuracy: float
    swap_accuracy: float
    swap_kept_accuracy: float
    sample_accuracy: float


def label_measures(
    model: ConditionalModel,
    judge: Judge,
    real: Images,
    observed: Images,
    y: Labels,
    given: Labels,
    seed: int = 0,
) -> LabelMeasures:
    """Measure how far outputs follow their label.

    Arguments:
        real: test images as they are, for the judge.
        observed: the same as the model sees them.
        y, given: true labels, and wrong ones.
        seed: of the samples, one for every test image, each class as often as the others.
    """
    wanted = torch.arange(len(y), device=y.device) % model.classes

    def agreement(images: Images, labels: Labels) -> float:
        return float((judge.predict(images) == labels.cpu().numpy()).mean())

    swaps = swapped(model, observed, y, given)
    return LabelMeasures(
        judge_accuracy=agreement(real, y),
        reconstruction_accuracy=agreement(swapped(model, observed, y, y), y),
        swap_accuracy=agreement(swaps, given),
        swap_kept_accuracy=agreement(swaps, y),
        sample_accuracy=agreement(sampled(model, wanted, seed=seed), wanted),
    )


def drawn_latents(
    model: ConditionalModel, x: Images, y: Labels, seed: int = 0, batch_size: int = 500
) -> Float[Tensor, "n z"]:
    """A draw from the posterior of every image, all groups flattened.

    A draw and not the mean: the mean of a dimension that carries nothing may still tell the label to
    a probe that rescales its inputs, while the decoder, which sees draws, can't tell it from noise.
    """
    parts = []
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for start in range(0, len(y), batch_size):
            part = slice(start, start + batch_size)
            groups = model.encode(x[part], y[part], sample=True)
            parts.append(torch.cat([group.flatten(1) for group in groups], 1))
    return torch.cat(parts).float().cpu()


def probe_accuracy(
    train: tuple[NDArray[np.float32], NDArray[np.int64]],
    test: tuple[NDArray[np.float32], NDArray[np.int64]],
    kind: str = "linear",
) -> float:
    """Accuracy on test latents of a probe from z to y, trained on training latents; chance is 1/K.

    Arguments:
        kind: "linear" (multinomial logistic regression) or "mlp" (one hidden layer of 128).
    """
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # Stopping early sets a tenth of the images aside, which needs a few of every class.
    stop_early = bool(np.unique(train[1], return_counts=True)[1].min() >= 20)
    head = (
        LogisticRegression(max_iter=200)
        if kind == "linear"
        else MLPClassifier((128,), early_stopping=stop_early, max_iter=30, random_state=0)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe = make_pipeline(StandardScaler(), head).fit(*train)
    return float(probe.score(*test))
