"""Bounds on the log-likelihood, in nats an image, an image's numbers being independent of its batch.

Every image has a noise stream of its own, seeded by its place in the data set, and a fixed
binarisation, so neither the batch size nor the other images of a batch change what is printed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from condvae.models.protocol import ConditionalModel, Images, Labels

SAMPLES_AT_ONCE = 20
FIRST_PASS = 5
NEGLIGIBLE = 15.0
"""A label this many nats behind the best after the first pass is left out of the sum over labels."""


@dataclass(frozen=True)
class Bounds:
    """Numbers of every image, in nats.

    Arguments:
        elbo: evidence lower bound of `log p(x|y)`, averaged over the samples.
        log_likelihood: importance-weighted bound of `log p(x|y)` (Burda et al. 2016).
        marginal: importance-weighted bound of `log p(x) = log sum_y p(y) p(x|y)`, p(y) uniform.
        label_log_likelihood: bound of `log p(x|y)` for every label y; -inf where it was left out.
        kl: a group of latents, by the model's own closed form or estimate.
        means: posterior means, flattened over groups.
    """

    elbo: NDArray[np.float64]
    log_likelihood: NDArray[np.float64]
    marginal: NDArray[np.float64]
    label_log_likelihood: NDArray[np.float64]
    kl: NDArray[np.float64]
    means: NDArray[np.float32]

    def active_units(self, threshold: float = 0.01) -> int:
        """Latent dimensions whose posterior mean varies over images by more than the threshold.

        The measure of Burda et al. (2016), section 5.2: the variance over the data of `E_q[z]`.
        """
        return int((self.means.var(0) > threshold).sum())


def fixed_binarisation(model: ConditionalModel, images: Images, seed: int) -> Images:
    """The images as the model sees them, drawn once and for all, where it draws at all."""
    generator = torch.Generator(images.device).manual_seed(seed)
    return model.likelihood.observe(images, generator)


class NoiseStreams:
    """A stream of standard normal noise an image, the same whatever batch the image is in."""

    def __init__(self, indices: Sequence[int], latents: int, seed: int, device: torch.device) -> None:
        self.generators = [torch.Generator().manual_seed(seed * 1_000_003 + i) for i in indices]
        self.latents = latents
        self.device = device

    def draw(self, samples: int) -> Float[Tensor, "samples batch z"]:
        """The next samples of every image."""
        shape = (samples, self.latents)
        drawn = [torch.randn(shape, generator=generator) for generator in self.generators]
        return torch.stack(drawn, 1).to(self.device)


def in_chunks(samples: int, at_once: int = SAMPLES_AT_ONCE) -> Iterator[int]:
    """Sizes that add up to a number of samples."""
    for start in range(0, samples, at_once):
        yield min(at_once, samples - start)


@torch.no_grad()
def log_weight_sums(
    model: ConditionalModel, x: Images, y: Labels, streams: NoiseStreams, samples: int
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """Mean and log-mean-exp of the log importance weights, in memory that doesn't grow with samples.

    Returns:
        The ELBO estimate, and the importance-weighted bound, in nats an image.
    """
    total = torch.zeros(len(y), dtype=torch.float64, device=x.device)
    log_sum = torch.full_like(total, -math.inf)
    for size in in_chunks(samples):
        weights = model.log_weights(x, y, streams.draw(size)).double()
        total += weights.sum(0)
        log_sum = torch.logaddexp(log_sum, torch.logsumexp(weights, 0))
    return total / samples, log_sum - math.log(samples)


@torch.no_grad()
def bounds(
    model: ConditionalModel,
    images: Images,
    labels: Labels,
    *,
    samples: int,
    seed: int = 0,
    batch_size: int = 128,
    progress: Callable[[float], None] = lambda share: None,
) -> Bounds:
    """Bounds for every image; binarise them before (`fixed_binarisation`).

    The sum over labels goes by two passes: a few samples for every label, and all of them for labels
    that could matter. Leaving a label out makes the sum smaller, so that it stays a lower bound. All
    labels of an image share the same noise.

    Arguments:
        samples: importance samples S.
        progress: told the share that is done.
    """
    parts: list[tuple[Tensor, ...]] = []
    for start in range(0, len(labels), batch_size):
        x, y = images[start : start + batch_size], labels[start : start + batch_size]
        here = list(range(start, start + len(y)))
        streams = NoiseStreams(here, model.latents, seed, x.device)
        elbo, own = log_weight_sums(model, x, y, streams, samples)
        by_label = _by_label(model, x, y, own, here, samples, seed)
        marginal = torch.logsumexp(by_label, 1) - math.log(model.classes)
        means = torch.cat([group.flatten(1) for group in model.encode(x, y)], 1)
        parts.append((elbo, own, marginal, by_label, model.elbo(x, y).kl.double(), means))
        progress((start + len(y)) / len(labels))
    columns = [torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)]
    return Bounds(*columns)


def _by_label(
    model: ConditionalModel,
    x: Images,
    y: Labels,
    own: Float[Tensor, "batch"],
    indices: Sequence[int],
    samples: int,
    seed: int,
) -> Float[Tensor, "batch classes"]:
    """Importance-weighted `log p(x|y)` for every label; -inf where a first pass shows it negligible."""
    first = min(FIRST_PASS, samples)
    columns = [
        log_weight_sums(
            model, x, torch.full_like(y, label), NoiseStreams(indices, *_key(model, seed, x)), first
        )[1]
        for label in range(model.classes)
    ]
    by_label = torch.stack(columns, 1)
    by_label[torch.arange(len(y)), y] = own
    by_label[by_label < by_label.amax(1, keepdim=True) - NEGLIGIBLE] = -math.inf
    image, label = torch.nonzero(by_label > -math.inf, as_tuple=True)
    image, label = image[label != y[image]], label[label != y[image]]
    if len(image):
        streams = NoiseStreams([indices[i] for i in image.tolist()], *_key(model, seed, x))
        by_label[image, label] = log_weight_sums(model, x[image], label, streams, samples)[1]
    return by_label


def _key(model: ConditionalModel, seed: int, x: Images) -> tuple[int, int, torch.device]:
    return model.latents, seed, x.device


def bits_per_dim(nats: float, shape: tuple[int, int, int]) -> float:
    """`-nats / (D ln 2)`, for a likelihood that is normalised over the 256 values of every pixel."""
    return -nats / (math.prod(shape) * math.log(2))
