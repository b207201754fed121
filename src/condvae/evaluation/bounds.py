"""Bounds on the log-likelihood, in nats an image, an image's numbers being independent of its batch.

Every image has a noise stream of its own, seeded by its place in the data set, and a fixed
binarisation, so neither the batch size nor the other images of a batch change what is printed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from condvae.models.protocol import ConditionalModel, Images, Labels

PAIRS_AT_ONCE, SAMPLES_AT_ONCE = 32, 16
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


@torch.no_grad()
def log_weight_sums(
    model: ConditionalModel,
    x: Images,
    y: Labels,
    indices: Sequence[int],
    *,
    samples: int,
    seed: int = 0,
) -> tuple[Float[Tensor, "pairs"], Float[Tensor, "pairs"]]:
    """Mean and log-mean-exp of the log importance weights of pairs of an image and a label.

    A few hundred decoded images at a time: memory doesn't grow with samples, and on a processor the
    work stays in its caches.

    Arguments:
        x, y: the pairs.
        indices: each image's place in the data set, which its noise comes from.

    Returns:
        The ELBO estimate, and the importance-weighted bound, in nats an image.
    """
    elbos, bounds = [], []
    for start in range(0, len(y), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        streams = NoiseStreams(indices[part], model.latents, seed, x.device)
        total = torch.zeros(len(y[part]), dtype=torch.float64, device=x.device)
        log_sum = torch.full_like(total, -math.inf)
        for done in range(0, samples, SAMPLES_AT_ONCE):
            noise = streams.draw(min(SAMPLES_AT_ONCE, samples - done))
            weights = model.log_weights(x[part], y[part], noise).double()
            total += weights.sum(0)
            log_sum = torch.logaddexp(log_sum, torch.logsumexp(weights, 0))
        elbos.append(total / samples)
        bounds.append(log_sum - math.log(samples))
    return torch.cat(elbos), torch.cat(bounds)


@torch.no_grad()
def bounds(
    model: ConditionalModel,
    images: Images,
    labels: Labels,
    *,
    samples: int,
    seed: int = 0,
    batch_size: int = 128,
    every_label: bool = True,
    progress: Callable[[float], None] = lambda share: None,
) -> Bounds:
    """Bounds for every image; binarise them before (`fixed_binarisation`).

    The sum over labels goes by two passes: a few samples for every label, and all of them for labels
    that could matter. Leaving a label out makes the sum smaller, so that it stays a lower bound. All
    labels of an image share the same noise.

    Arguments:
        samples: importance samples S.
        every_label: bound `log p(x)` as well; without, `marginal` is NaN, in a tenth of the time.
            (A model that no label reaches needs no sum: there `marginal` is `log_likelihood`.)
        progress: told the share that is done.
    """
    parts: list[tuple[Tensor, ...]] = []
    for start in range(0, len(labels), batch_size):
        x, y = images[start : start + batch_size], labels[start : start + batch_size]
        here = list(range(start, start + len(y)))
        elbo, own = log_weight_sums(model, x, y, here, samples=samples, seed=seed)
        by_label = torch.full((len(y), model.classes), -math.inf, dtype=own.dtype, device=own.device)
        by_label[torch.arange(len(y)), y] = own
        marginal = torch.full_like(own, math.nan)
        if not model.uses_label:
            marginal = own
        elif every_label:
            _add_other_labels(by_label, model, x, y, here, samples, seed)
            marginal = torch.logsumexp(by_label, 1) - math.log(model.classes)
        means = torch.cat([group.flatten(1) for group in model.encode(x, y)], 1)
        parts.append((elbo, own, marginal, by_label, model.elbo(x, y).kl.double(), means))
        progress((start + len(y)) / len(labels))
    columns = [torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)]
    return Bounds(*columns)


def _add_other_labels(
    by_label: Float[Tensor, "batch classes"],
    model: ConditionalModel,
    x: Images,
    y: Labels,
    indices: Sequence[int],
    samples: int,
    seed: int,
) -> None:
    """Fill in the bounds of `log p(x|y)` for all other labels that a first pass doesn't rule out."""
    wanted = by_label == -math.inf
    for number in sorted({min(FIRST_PASS, samples), samples}):
        image, label = torch.nonzero(wanted, as_tuple=True)
        if len(image):
            places = [indices[i] for i in image.tolist()]
            found = log_weight_sums(model, x[image], label, places, samples=number, seed=seed)
            by_label[image, label] = found[1]
        by_label[by_label < by_label.amax(1, keepdim=True) - NEGLIGIBLE] = -math.inf
        wanted &= by_label > -math.inf


def bits_per_dim(nats: float, shape: tuple[int, int, int]) -> float:
    """`-nats / (D ln 2)`, for a likelihood that is normalised over the 256 values of every pixel."""
    return -nats / (math.prod(shape) * math.log(2))
