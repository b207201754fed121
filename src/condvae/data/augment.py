"""Images changed in ways that leave their label alone: moved, mirrored, blurred, coarsened, with noise.

All take and give images of -1 to 1, let gradients through, and draw from a generator or, for None, from
the process's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from condvae.geometry import affine_maps, moved_by, restroked


def shifted(
    images: Float[Tensor, "n c h w"], generator: torch.Generator | None, mirror: bool, reach: float = 0.1
) -> Float[Tensor, "n c h w"]:
    """Each image moved by up to a tenth of its side, its edge repeated, and perhaps mirrored."""
    number, _, height, width = images.shape
    pad = max(1, round(reach * min(height, width)))
    padded = F.pad(images, (pad, pad, pad, pad), mode="replicate")
    down, across = torch.randint(0, 2 * pad + 1, (2, number, 1), generator=generator)
    rows = (down + torch.arange(height)).to(images.device)
    columns = across + torch.arange(width)
    if mirror:
        flip = torch.rand(number, 1, generator=generator) < 0.5
        columns = torch.where(flip, columns.flip(1), columns)
    columns = columns.to(images.device)
    index = torch.arange(number, device=images.device)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def degraded(
    images: Float[Tensor, "n c h w"], generator: torch.Generator | None
) -> Float[Tensor, "n c h w"]:
    """Images of which a part are as they were, a part blurred, a part coarsened and a part noisy.

    In the order of the batch, which is random in training: a quarter each. How strongly is drawn anew
    for each part; half of the blurred ones get noise as well.
    """
    parts = list(images.chunk(4))
    side = min(images.shape[2:])
    strengths = torch.rand(4, generator=generator).tolist()
    if len(parts) > 1:
        parts[1] = blurred(parts[1], sigma=(0.3 + 1.5 * strengths[0]) * side / 32)
    if len(parts) > 2:
        coarse = max(2, round(side / (1.5 + 2.5 * strengths[1])))
        parts[2] = F.interpolate(
            F.adaptive_avg_pool2d(parts[2], coarse), images.shape[2:], mode="bilinear"
        )
    if len(parts) > 3:
        parts[3] = with_noise(parts[3], 0.05 + 0.35 * strengths[2], generator)
        half = len(parts[1]) // 2
        noisy = with_noise(parts[1][:half], 0.05 + 0.2 * strengths[3], generator)
        parts[1] = torch.cat([noisy, parts[1][half:]])
    return torch.cat(parts)


def blurred(images: Float[Tensor, "n c h w"], sigma: float) -> Float[Tensor, "n c h w"]:
    """Convolution with a Gaussian of that many pixels, edges repeated."""
    reach = max(1, math.ceil(2.5 * sigma))
    offsets = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    window = torch.exp(-0.5 * (offsets / sigma).square())
    window = (window / window.sum()).expand(images.shape[1], 1, 1, -1)
    padded = F.pad(images, (reach, reach, reach, reach), mode="replicate")
    across = F.conv2d(padded, window, groups=images.shape[1])
    return F.conv2d(across, window.mT, groups=images.shape[1])


def with_noise(
    images: Float[Tensor, "n c h w"], scale: float, generator: torch.Generator | None
) -> Float[Tensor, "n c h w"]:
    """Gaussian noise added, and the result kept within -1 to 1."""
    noise = torch.randn(images.shape, generator=generator).to(images)
    return (images + scale * noise).clamp(-1, 1)


def warped(
    images: Float[Tensor, "n c h w"],
    generator: torch.Generator | None,
    turn: float = 0.25,
    stretch: float = 0.15,
    lean: float = 0.2,
) -> Float[Tensor, "n c h w"]:
    """Each image turned, stretched and sheared about its middle, its edge repeated.

    Arguments:
        turn: in radians, at most, to either side.
        stretch: logarithm of the factor of each side, at most.
        lean: columns a row, at most.
    """
    return moved_by(images, warps(len(images), generator, turn, stretch, lean).to(images))


def warps(
    number: int, generator: torch.Generator | None, turn: float, stretch: float, lean: float
) -> Float[Tensor, "n 2 3"]:
    """Affine maps of the plane, as `warped` draws them."""
    limits = torch.tensor([turn, stretch, stretch, lean])
    draws = (2 * torch.rand(number, 4, generator=generator) - 1) * limits
    angle, wide, tall, shear = draws.unbind(1)
    return affine_maps(angle, shear, wide, tall)


@dataclass(frozen=True)
class Restyling:
    """A change of how each image is drawn, which can be made to several sets of images alike.

    Arguments:
        maps: of the plane.
        strokes: from -1, every bright stroke thinner by a pixel on each side, to 1, thicker.
        gain, offset: of each channel.
    """

    maps: Float[Tensor, "n 2 3"]
    strokes: Float[Tensor, "n 1 1 1"]
    gain: Float[Tensor, "n c 1 1"]
    offset: Float[Tensor, "n c 1 1"]

    @classmethod
    def drawn(cls, images: Float[Tensor, "n c h w"], generator: torch.Generator | None) -> Restyling:
        """Drawn at random for each image: grey ones get other strokes, colour ones another tint."""
        number, channels = images.shape[:2]
        draws = 2 * torch.rand(number, 1 + 2 * channels, 1, 1, generator=generator) - 1
        strokes, gain, offset = draws.split([1, channels, channels], 1)
        grey = float(channels == 1)
        maps = warps(number, generator, turn=0.15, stretch=0.2, lean=0.3)
        parts = maps, grey * strokes, 1 + 0.3 * (1 - grey) * gain, 0.3 * (1 - grey) * offset
        return cls(*(part.to(images) for part in parts))

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The images, changed."""
        images = moved_by(images, self.maps)
        if self.gain.shape[1] == 1:
            images = restroked(images, self.strokes)
        return (self.gain * images + self.offset).clamp(-1, 1)
