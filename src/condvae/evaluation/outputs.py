"""What a model makes of images and labels: reconstructions, label swaps, samples, mixtures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from condvae.models.protocol import ConditionalModel, Images, Labels, Temperature, mixed
from condvae.processes import Processes, mixed_seed

SAMPLED_AT_ONCE = 500


def swapped(
    model: ConditionalModel,
    x: Images,
    y: Labels,
    given: Labels,
    encode_with: str = "true",
    batch_size: int = 500,
) -> Images:
    """What the model makes of images under given labels: `decode(transfer(encode(x, .)), given)`.

    Images that are given the label that they were encoded with are reconstructed.

    Arguments:
        x: images; binarise them before (`fixed_binarisation`), for the same result every time.
        y: their true labels.
        given: the labels to decode with.
        encode_with: "true" encodes with the true label, so that the latents carry the style alone;
            "wrong" encodes with the given one too, as the notebooks did.
    """
    generator = torch.Generator(y.device).manual_seed(0)
    source = y if encode_with == "true" else given
    parts = []
    with torch.no_grad():
        for start in range(0, len(y), batch_size):
            part = slice(start, start + batch_size)
            own = model.encode(x[part], source[part])
            moved = model.transfer(own, given[part], generator)
            latents = mixed(own, moved, source[part] == given[part])
            parts.append(model.decode(latents, given[part]).mean_image())
    return torch.cat(parts)


def sampled(
    model: ConditionalModel,
    y: Labels,
    temperature: Temperature = 1.0,
    seed: int = 0,
    processes: Processes | None = None,
) -> Images:
    """Images drawn from the prior under given labels.

    Arguments:
        seed: of the noise, which is a batch's own, so that the images don't depend on who draws them.
        processes: those that each draw a share of the batches; all have the images.
    """
    batches = list(enumerate(y.split(SAMPLED_AT_ONCE)))
    share = processes.share(len(batches)) if processes else slice(None)
    parts = []
    for number, labels in batches[share]:
        generator = torch.Generator(y.device).manual_seed(mixed_seed(seed, number))
        with torch.no_grad():
            parts.append(model.sample(labels, temperature, generator).cpu())
    shares = processes.gathered(parts) if processes else [parts]
    return torch.cat([images for share in shares for images in share]).to(y.device)


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
        images = [model.decode((*own[:number], *drawn[number:]), y).mean_image() for number in keep]
    return torch.stack(images, 1)


@dataclass(frozen=True)
class Outputs:
    """What a model makes of test images.

    Arguments:
        real: the images, as they are.
        reconstructions: under their true labels.
        swaps: under wrong ones.
        samples: from the prior, as many as there are images, each class as often as the others.
        labels, given, drawn: true labels of the first two, and those given to the others.
    """

    real: Images
    reconstructions: Images
    swaps: Images
    samples: Images
    labels: NDArray[np.int64]
    given: NDArray[np.int64]
    drawn: NDArray[np.int64]


def outputs_of(
    model: ConditionalModel, real: Images, observed: Images, y: Labels, given: Labels, seed: int = 0
) -> Outputs:
    """Reconstructions, swaps and samples.

    Arguments:
        real: test images as they are.
        observed: the same as the model sees them.
        y, given: true labels, and wrong ones.
        seed: of the samples.
    """
    drawn = torch.arange(len(y), device=y.device) % model.classes
    return Outputs(
        real=real,
        reconstructions=swapped(model, observed, y, y),
        swaps=swapped(model, observed, y, given),
        samples=sampled(model, drawn, seed=seed),
        labels=y.cpu().numpy(),
        given=given.cpu().numpy(),
        drawn=drawn.cpu().numpy(),
    )
