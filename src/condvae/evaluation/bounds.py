"""Bounds on the log-likelihood, in nats an image, an image's numbers being independent of its batch.

Every image has a noise stream of its own, seeded by its place in the data set, and a fixed
binarisation, so neither the batch size nor the other images of a batch change what is printed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from condvae.models.protocol import ConditionalModel, Images, Labels, flat

PAIRS_AT_ONCE, SAMPLES_AT_ONCE = 32, 16
"""An image and a label is a pair. (Noise is drawn by as many samples: another number, other noise.)"""
PIXELS_AT_ONCE = 1 << 23
"""Decoded on a GPU, which 32 small images would leave idle; it fits into some GB with any likelihood."""
FIRST_PASS = 5
NEGLIGIBLE = 15.0
"""A label this many nats behind the best after the first pass is left out of the sum over labels."""


@dataclass(frozen=True)
class Bounds:
    """Numbers of every image, in nats.

    Arguments:
        samples: importance samples S.
        elbo: evidence lower bound of `log p(x|y)`, averaged over the samples.
        log_likelihood: importance-weighted bound of `log p(x|y)` (Burda et al. 2016).
        curve: the bound of `log p(x|y)` with s samples, for every s of `curve_sizes`.
        marginal: importance-weighted bound of `log p(x) = log sum_y p(y) p(x|y)`, p(y) uniform.
        label_log_likelihood: bound of `log p(x|y)` for every label y; -inf where it was left out.
        kl: a group of latents, by the model's own closed form or by one draw.
        means: posterior means, flattened over groups.
    """

    samples: int
    elbo: NDArray[np.float64]
    log_likelihood: NDArray[np.float64]
    curve: NDArray[np.float64]
    marginal: NDArray[np.float64]
    label_log_likelihood: NDArray[np.float64]
    kl: NDArray[np.float64]
    means: NDArray[np.float32]

    @staticmethod
    def joined(parts: Sequence[Bounds]) -> Bounds:
        """The numbers of all images, of those of some and then of others."""
        names = [field.name for field in fields(Bounds)][1:]
        columns = [np.concatenate([getattr(part, name) for part in parts]) for name in names]
        return Bounds(parts[0].samples, *columns)

    @staticmethod
    def of_none(model: ConditionalModel, samples: int) -> Bounds:
        """The numbers of no image: what a process has whose share of a few images is empty."""
        widths = (len(curve_sizes(samples)), None, model.classes, len(model.group_shapes), model.latents)
        shapes = [(0,) if width is None else (0, width) for width in (None, None, *widths)]
        columns: list[NDArray[Any]] = [np.zeros(shape, np.float32) for shape in shapes]
        return Bounds(samples, *columns)

    @property
    def rate(self) -> NDArray[np.float64]:
        """`KL(q(z|x,y) || p(z|y))` in nats: what an image's latents carry (Alemi et al. 2018)."""
        return self.kl.sum(1)

    @property
    def distortion(self) -> NDArray[np.float64]:
        """`-E_q[log p(x|z,y)]` in nats, taken as `-ELBO - rate`, so that the three add up exactly."""
        return -self.elbo - self.rate

    def active_units(self, threshold: float = 0.01) -> int:
        """Latent dimensions whose posterior mean varies over images by more than the threshold.

        The measure of Burda et al. (2016), section 5.2: the variance over the data of `E_q[z]`.
        """
        return int((self.means.var(0) > threshold).sum())


def curve_sizes(samples: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... and, last, the number of samples itself."""
    steps = (digit * 10**power for power in range(len(str(samples))) for digit in (1, 2, 5))
    return [*(size for size in steps if size < samples), samples]


def fixed_binarisation(model: ConditionalModel, images: Images, seed: int) -> Images:
    """The images as the model sees them, drawn once and for all, where it draws at all."""
    generator = torch.Generator(images.device).manual_seed(seed)
    return model.likelihood.observe(images, generator)


class NoiseStreams:
    """A stream of standard normal noise an image, the same whatever batch the image is in.

    Noise is made in whole blocks of `SAMPLES_AT_ONCE`, of which the last may be used in part: the first
    samples are the same however many follow. (It is half a per cent of the work on MNIST.) A GPU's
    noise is made there, and isn't a processor's.
    """

    def __init__(self, indices: Sequence[int], latents: int, seed: int, device: torch.device) -> None:
        self.generators = [torch.Generator(device).manual_seed(seed * 1_000_003 + i) for i in indices]
        self.latents = latents
        self.device = device

    def block(self) -> Float[Tensor, "samples batch z"]:
        """The next `SAMPLES_AT_ONCE` samples of every image."""
        shape = (SAMPLES_AT_ONCE, self.latents)
        drawn = [
            torch.randn(shape, generator=generator, device=self.device) for generator in self.generators
        ]
        return torch.stack(drawn, 1)

    def blocks(self, samples: int) -> Iterator[Float[Tensor, "samples batch z"]]:
        """The next samples, a block at a time."""
        for done in range(0, samples, SAMPLES_AT_ONCE):
            yield self.block()[: samples - done]

    def draw(self, samples: int) -> Float[Tensor, "samples batch z"]:
        """The next samples, all at once."""
        return torch.cat(list(self.blocks(samples)))


class RunningBounds:
    """Importance-weighted bounds with s samples, for several s, of log weights that come bit by bit.

    `mean over blocks of log 1/s sum_{i in block} w_i`, the blocks being disjoint and of s draws each:
    the bound of s samples, estimated from all whole blocks that there are. With s = 1 it is the ELBO.
    Only sums are kept, so memory doesn't grow with the number of draws.
    """

    def __init__(self, sizes: Sequence[int], pairs: int, device: torch.device) -> None:
        self.sizes, self.draws = sizes, 0
        self.totals = torch.zeros(len(sizes), pairs, dtype=torch.float64, device=device)
        self.unfinished = torch.full_like(self.totals, -math.inf)

    def add(self, log_weights: Float[Tensor, "samples pairs"]) -> None:
        """Take in the next draws."""
        for draw in log_weights.double():
            self.draws += 1
            self.unfinished = torch.logaddexp(self.unfinished, draw)
            for row, size in enumerate(self.sizes):
                if self.draws % size == 0:
                    self.totals[row] += self.unfinished[row] - math.log(size)
                    self.unfinished[row] = -math.inf

    def means(self) -> Float[Tensor, "sizes pairs"]:
        """The bound of every size, in nats."""
        blocks = [self.draws // size for size in self.sizes]
        return self.totals / torch.tensor(blocks, device=self.totals.device)[:, None]


def suitable(model: ConditionalModel, device: torch.device) -> int:
    """How many pairs are best looked at together."""
    pixels = SAMPLES_AT_ONCE * math.prod(model.shape)
    return PAIRS_AT_ONCE if device.type == "cpu" else max(PAIRS_AT_ONCE, PIXELS_AT_ONCE // pixels)


@torch.no_grad()
def weighted_bounds(
    model: ConditionalModel,
    x: Images,
    y: Labels,
    indices: Sequence[int],
    *,
    sizes: Sequence[int],
    seed: int = 0,
    pairs_at_once: int | None = None,
) -> Float[Tensor, "sizes pairs"]:
    """Importance-weighted bounds of `log p(x|y)` of pairs of an image and a label, in nats an image.

    A few hundred decoded images at a time: memory doesn't grow with samples, and on a processor the
    work stays in its caches.

    Arguments:
        x, y: the pairs.
        indices: each image's place in the data set, which its noise comes from.
        sizes: numbers of samples, of which the last and largest is how many are drawn.
        pairs_at_once: by default what suits the device; more of them are quicker where samples are few.
            The numbers are the same.
    """
    parts = [torch.zeros(len(sizes), 0, dtype=torch.float64, device=x.device)]
    pairs_at_once = pairs_at_once or suitable(model, x.device)
    for start in range(0, len(y), pairs_at_once):
        part = slice(start, start + pairs_at_once)
        streams = NoiseStreams(indices[part], model.latents, seed, x.device)
        running = RunningBounds(sizes, len(y[part]), x.device)
        for noise in streams.blocks(sizes[-1]):
            running.add(model.log_weights(x[part], y[part], noise))
        parts.append(running.means())
    return torch.cat(parts, 1)


@torch.no_grad()
def bounds(
    model: ConditionalModel,
    images: Images,
    labels: Labels,
    *,
    samples: int,
    seed: int = 0,
    first: int = 0,
    batch_size: int | None = None,
    every_label: bool = True,
    progress: Callable[[float], None] = lambda share: None,
) -> Bounds:
    """Bounds for every image; binarise them before (`fixed_binarisation`).

    The sum over labels goes by two passes: a few samples for every label, and all of them for labels
    that could matter. Leaving a label out makes the sum smaller, so that it stays a lower bound. All
    labels of an image share the same noise.

    Arguments:
        images: of a model in evaluation mode: no image may reach another's number.
        samples: importance samples S.
        first: the first image's place in the data set, which its noise comes from.
        batch_size: images after which progress is told of; the numbers are the same.
        every_label: bound `log p(x)` as well; without, `marginal` is NaN, in a tenth of the time.
            (A model that no label reaches needs no sum: there `marginal` is `log_likelihood`.)
        progress: told the share that is done.
    """
    if getattr(model, "training", False):
        raise ValueError("a model in training mode: its images may share batch statistics")
    parts: list[tuple[Tensor, ...]] = []
    sizes = curve_sizes(samples)
    batch_size = batch_size or max(128, suitable(model, images.device))
    for start in range(0, len(labels), batch_size):
        x, y = images[start : start + batch_size], labels[start : start + batch_size]
        here = list(range(first + start, first + start + len(y)))
        curve = weighted_bounds(model, x, y, here, sizes=sizes, seed=seed).T
        own = curve[:, -1]
        if model.uses_label and every_label:
            by_label = _under_every_label(model, x, y, own, here, samples, seed)
            marginal = torch.logsumexp(by_label, 1) - math.log(model.classes)
        else:
            by_label = own.new_full((len(y), model.classes), -math.inf)
            by_label.scatter_(1, y[:, None], own[:, None])
            marginal = torch.full_like(own, math.nan) if model.uses_label else own
        noise = NoiseStreams(here, model.latents, seed, x.device).draw(1)[0]
        kl = model.elbo(x, y, noise).kl.double()
        means = flat(model.encode(x, y))
        parts.append((curve[:, 0], own, curve, marginal, by_label, kl, means))
        progress((start + len(y)) / len(labels))
    if not parts:
        return Bounds.of_none(model, samples)
    columns = [torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)]
    return Bounds(samples, *columns)


def could_matter(first: Float[Tensor, "batch k"]) -> Bool[Tensor, "batch k"]:
    """Which labels are within reach of an image's best, by bounds that all have as many samples."""
    return first >= first.amax(1, keepdim=True) - NEGLIGIBLE


def _under_every_label(
    model: ConditionalModel,
    x: Images,
    y: Labels,
    own: Float[Tensor, "batch"],
    indices: Sequence[int],
    samples: int,
    seed: int,
) -> Float[Tensor, "batch classes"]:
    """Bounds of `log p(x|y)` for every label that a first pass doesn't rule out; -inf for the others.

    In the first pass the label y has no more samples than another: they would make it look likelier.

    Arguments:
        own: the bounds under the labels y with all samples, which aren't taken again.
    """

    def under(asked: Bool[Tensor, "batch classes"], number: int) -> Float[Tensor, "pairs"]:
        image, label = torch.nonzero(asked, as_tuple=True)
        places = [indices[i] for i in image.tolist()]
        return weighted_bounds(model, x[image], label, places, sizes=[number], seed=seed)[0]

    others = torch.arange(model.classes, device=y.device) != y[:, None]
    few = min(FIRST_PASS, samples)
    asked = others if samples == few else torch.ones_like(others)
    by_label = own[:, None].repeat(1, model.classes)
    by_label[asked] = under(asked, few)
    left = could_matter(by_label)
    if samples > few:
        by_label = torch.where(others, by_label, own[:, None])
        by_label[others & left] = under(others & left, samples)
    return by_label.masked_fill(~left, -math.inf)


@contextmanager
def precision_of(name: str, device: torch.device) -> Iterator[None]:
    """Networks in bf16 or in fp32; densities and likelihoods are float32 in both.

    A bound in bf16 is one all the same, of the model whose networks round: what is rounded is a fixed
    function of latents and label.
    """
    with torch.autocast(device.type, torch.bfloat16, enabled=name == "bf16"):
        yield


def bits_per_dim(nats: float, shape: tuple[int, int, int]) -> float:
    """`-nats / (D ln 2)`, for a likelihood that is normalised over the 256 values of every pixel."""
    return -nats / (math.prod(shape) * math.log(2))
