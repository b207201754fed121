"""Networks of a flat VAE: an encoder and a decoder, for any image size and number of channels.

A network maps images of -1 to 1 and a condition to the parameters of a posterior, and latents and a
condition to the parameters of a likelihood. It knows nothing of what those parameters mean.
Positional parameters are what the model prescribes, keyword-only ones what a recipe may choose.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from condvae.errors import UserError
from condvae.models.conditioning import Modulation, Shift
from condvae.registry import Registry

Shape = tuple[int, int, int]
Condition = Float[Tensor, "batch e"]

ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}


def activation_named(name: str) -> nn.Module:
    """The activation function of that name."""
    if name not in ACTIVATIONS:
        raise UserError(f"activation {name!r} does not exist (there are: {', '.join(ACTIVATIONS)})")
    return ACTIVATIONS[name]()


class Network(nn.Module, ABC):
    """An encoder and a decoder of matching shapes.

    Arguments:
        shape: `(C, H, W)` of the images.
        planes: numbers a pixel that the likelihood needs.
        latents: numbers in the latent vector.
        posterior_parameters: numbers that the posterior needs.
        condition: the widths of the encoder's and of the decoder's condition; 0 for none.
    """

    channels_last = False

    @abstractmethod
    def encode(
        self, image: Float[Tensor, "batch c h w"], condition: Condition
    ) -> Float[Tensor, "batch p"]:
        """Parameters of the posterior."""

    @abstractmethod
    def decode(self, z: Float[Tensor, "batch z"], condition: Condition) -> Float[Tensor, "batch q h w"]:
        """Parameters of the likelihood, `planes` channels."""


# ------------------------------------------------------------------------------------------- mlp


class Mlp(Network):
    """Fully connected layers, mirrored; the condition is added to the first hidden layer of each half.

    Keyword arguments:
        widths: hidden units of the encoder's layers, from image to latents.
        activation: relu, silu or gelu.
    """

    def __init__(
        self,
        shape: Shape,
        planes: int,
        latents: int,
        posterior_parameters: int,
        condition: tuple[int, int],
        *,
        widths: tuple[int, ...] = (512, 256),
        activation: str = "silu",
    ) -> None:
        super().__init__()
        self.output_shape = (planes, *shape[1:])
        act = activation_named(activation)
        self.encoder_in = nn.Linear(math.prod(shape), widths[0])
        self.encoder_label = Shift(condition[0], widths[0])
        self.encoder_rest = _dense(act, [*widths, posterior_parameters])
        self.decoder_in = nn.Linear(latents, widths[-1])
        self.decoder_label = Shift(condition[1], widths[-1])
        self.decoder_rest = _dense(act, [*widths[::-1], math.prod(self.output_shape)])

    def encode(
        self, image: Float[Tensor, "batch c h w"], condition: Condition
    ) -> Float[Tensor, "batch p"]:
        hidden = self.encoder_label(self.encoder_in(image.flatten(1)), condition)
        parameters: Tensor = self.encoder_rest(hidden)
        return parameters

    def decode(self, z: Float[Tensor, "batch z"], condition: Condition) -> Float[Tensor, "batch q h w"]:
        hidden = self.decoder_label(self.decoder_in(z), condition)
        parameters: Tensor = self.decoder_rest(hidden)
        return parameters.unflatten(1, self.output_shape)


def _dense(activation: nn.Module, widths: list[int]) -> nn.Sequential:
    """Activation and linear layer in turn, through the given widths."""
    pairs = [(activation, nn.Linear(a, b)) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*itertools.chain.from_iterable(pairs))


# ------------------------------------------------------------------------------------------ conv


class ResidualBlock(nn.Module):
    """Two convolutions on a residual branch that starts small, modulated by the condition.

    No normalisation: a branch that starts at zero trains as stably (Zhang et al. 2019, Fixup), and
    normalisation is what a small network on a CPU spends much of its time in.

    Arguments:
        kernel: side of the convolutions.
        depth: residual branches in a row; each starts with its output scaled by `1 / sqrt(depth)`, so
            that their sum keeps its scale (Child 2021, section 3.2). 0 starts it at zero.
    """

    def __init__(
        self, channels: int, condition: int, activation: nn.Module, kernel: int = 3, depth: int = 0
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
        self.label = Modulation(condition, channels)
        self.second = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
        self.activation = activation
        with torch.no_grad():
            self.second.weight *= depth**-0.5 if depth else 0.0

    def forward(
        self, x: Float[Tensor, "batch c h w"], condition: Condition
    ) -> Float[Tensor, "batch c h w"]:
        branch = self.label(self.first(self.activation(x)), condition)
        changed: Tensor = x + self.second(self.activation(branch))
        return changed


class ResidualBlocks(nn.ModuleList):
    """Residual blocks in a row; perhaps none."""

    def forward(
        self, x: Float[Tensor, "batch c h w"], condition: Condition
    ) -> Float[Tensor, "batch c h w"]:
        for block in self:
            x = block(x, condition)
        return x


class Shuffled(nn.Conv2d):
    """Up by a convolution to `by**2` times the channels, then squares of pixels (Shi et al. 2016)."""

    def __init__(self, channels: int, out: int, kernel: int, by: int) -> None:
        super().__init__(channels, out * by**2, kernel, padding=kernel // 2)
        self.by = by

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch d h2 w2"]:
        return F.pixel_shuffle(super().forward(x), self.by)


class Interpolated(nn.Conv2d):
    """Up by bilinear interpolation and then a convolution (Odena et al. 2016), to the same shape."""

    def __init__(self, channels: int, out: int, kernel: int, by: int) -> None:
        super().__init__(channels, out, kernel, padding=kernel // 2)
        self.by = by

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch d h2 w2"]:
        return super().forward(F.interpolate(x, scale_factor=self.by, mode="bilinear"))


class Conv(Network):
    """A lean convolutional network: most of its work is 3x3 convolutions on small feature maps.

    The image is cut into patches, which become the channels of the first feature map; strided
    convolutions halve that until it is at most 8 pixels wide. The decoder mirrors it, going up by
    convolutions and pixel shuffles, so that nothing works at full resolution (if `smooth`, the last
    convolution does). Sides that don't divide are padded on the way in and cropped on the way out.

    Keyword arguments:
        width: channels of the first feature map; they double with every halving.
        patch: side of the patches.
        blocks: residual blocks at the smallest resolution, at the next, and so on; the last number
            holds for all that follow.
        hidden: units of the dense layer next to the latents, in the encoder.
        widest: no feature map has more channels than this.
        sees: side of the mean-pooled image that the encoder sees; 0 for the image as it is. A coarse one
            has the latents hold layout and colours, and leaves what is to be seen there to the label.
        smooth: whether the decoder goes up by interpolation instead. A pixel shuffle can give the four
            pixels of a square nothing in common, and draws grids of dots if a critic asks for detail.
        activation: relu, silu or gelu.
    """

    channels_last = True

    def __init__(
        self,
        shape: Shape,
        planes: int,
        latents: int,
        posterior_parameters: int,
        condition: tuple[int, int],
        *,
        width: int = 32,
        patch: int = 2,
        blocks: tuple[int, ...] = (1,),
        hidden: int = 256,
        widest: int = 256,
        sees: int = 0,
        smooth: bool = False,
        activation: str = "silu",
    ) -> None:
        super().__init__()
        channels, *size = shape
        halvings = max(0, math.ceil(math.log2(max(size) / patch / 8)))
        widths = [min(width * 2**level, widest) for level in range(halvings + 1)]
        depths = [blocks[min(halvings - level, len(blocks) - 1)] for level in range(halvings + 1)]
        scale = patch * 2**halvings
        self.patch = patch
        self.sees = sees
        self.size = (size[0], size[1])
        self.padding = (0, -size[1] % scale, 0, -size[0] % scale)
        self.bottom = (widths[-1], -(-size[0] // scale), -(-size[1] // scale))
        self.activation = activation_named(activation)

        def level(index: int, label: int) -> ResidualBlocks:
            return ResidualBlocks(
                ResidualBlock(widths[index], label, self.activation) for _ in range(depths[index])
            )

        levels = range(halvings + 1)
        self.stem = nn.Conv2d(channels * patch**2, widths[0], 3, padding=1)
        self.encoder_blocks = nn.ModuleList(level(index, condition[0]) for index in levels)
        self.down = nn.ModuleList(
            nn.Conv2d(narrow, wide, 3, stride=2, padding=1)
            for narrow, wide in itertools.pairwise(widths)
        )
        self.encoder_hidden = nn.Linear(math.prod(self.bottom), hidden)
        self.encoder_label = Shift(condition[0], hidden)
        self.encoder_out = nn.Linear(hidden, posterior_parameters)

        self.decoder_in = nn.Linear(latents, math.prod(self.bottom))
        self.decoder_label = Shift(condition[1], math.prod(self.bottom))
        self.decoder_blocks = nn.ModuleList(level(index, condition[1]) for index in levels[::-1])
        rise = Interpolated if smooth else Shuffled
        self.up = nn.ModuleList(
            rise(wide, narrow, 1, 2) for wide, narrow in itertools.pairwise(widths[::-1])
        )
        self.head = rise(widths[0], planes, 3, patch)

    def encode(
        self, image: Float[Tensor, "batch c h w"], condition: Condition
    ) -> Float[Tensor, "batch p"]:
        if self.sees:
            image = F.interpolate(F.adaptive_avg_pool2d(image, self.sees), self.size, mode="bilinear")
        patches = F.pixel_unshuffle(F.pad(image, self.padding, value=-1.0), self.patch)
        x = self.stem(patches.contiguous(memory_format=torch.channels_last))
        for index, blocks in enumerate(self.encoder_blocks):
            if index > 0:
                x = self.down[index - 1](self.activation(x))
            x = blocks(x, condition)
        hidden = self.encoder_hidden(self.activation(x).flatten(1))
        hidden = self.encoder_label(hidden, condition)
        parameters: Tensor = self.encoder_out(self.activation(hidden))
        return parameters

    def decode(self, z: Float[Tensor, "batch z"], condition: Condition) -> Float[Tensor, "batch q h w"]:
        x = self.decoder_label(self.decoder_in(z), condition).unflatten(1, self.bottom)
        x = x.contiguous(memory_format=torch.channels_last)
        for index, blocks in enumerate(self.decoder_blocks):
            if index > 0:
                x = self.up[index - 1](x)
            x = blocks(x, condition)
        x = self.head(self.activation(x))
        return x[:, :, : self.size[0], : self.size[1]]


# ---------------------------------------------------------------------------------------- resnet


class BasicBlock(nn.Module):
    """The block of ResNet-18 (He et al. 2016), going down by a stride or up by a nearest upsampling.

    Going up, the first convolution keeps the channels and the second changes them. Going down, the
    shortcut takes every other pixel before its 1x1 convolution, which comes to the same as a stride: of
    a strided one with few channels, oneDNN's AVX2 kernel computes a wrong gradient, or never ends
    (github.com/uxlfoundation/oneDNN/issues/6035).
    """

    def __init__(self, wide: int, out: int, condition: int, stride: int = 1, up: int = 1) -> None:
        super().__init__()
        middle = wide if up > 1 or out < wide else out
        self.up, self.stride = up, stride
        self.first = nn.Conv2d(wide, middle, 3, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(middle)
        self.label = Modulation(condition, middle)
        self.second = nn.Conv2d(middle, out, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if wide != out or stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(wide, out, 1, bias=False), nn.BatchNorm2d(out))

    def forward(
        self, x: Float[Tensor, "batch c h w"], condition: Condition
    ) -> Float[Tensor, "batch d i j"]:
        if self.up > 1:
            x = F.interpolate(x, scale_factor=self.up, mode="nearest")
        branch = F.relu(self.label(self.norm(self.first(x)), condition))
        kept = x[:, :, :: self.stride, :: self.stride]
        return F.relu(self.second_norm(self.second(branch)) + self.shortcut(kept))


class ResNet(Network):
    """A ResNet-18 without its classifier, and its mirror image as the decoder.

    Keyword arguments:
        width: channels of the first of four stages; they double with each.
        blocks: basic blocks a stage.
    """

    channels_last = True

    def __init__(
        self,
        shape: Shape,
        planes: int,
        latents: int,
        posterior_parameters: int,
        condition: tuple[int, int],
        *,
        width: int = 64,
        blocks: int = 2,
    ) -> None:
        super().__init__()
        channels, height, columns = shape
        self.size = (height, columns)
        self.bottom = (8 * width, -(-height // 8), -(-columns // 8))

        stages = [width, width, 2 * width, 4 * width, 8 * width]
        self.stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        self.encoder = nn.ModuleList()
        for stage, (narrow, wide) in enumerate(itertools.pairwise(stages)):
            stride = 1 if stage == 0 else 2
            self.encoder.append(BasicBlock(narrow, wide, condition[0], stride))
            self.encoder.extend(BasicBlock(wide, wide, condition[0]) for _ in range(blocks - 1))
        self.encoder_out = nn.Linear(8 * width, posterior_parameters)

        stages = [8 * width, 4 * width, 2 * width, width, width]
        self.decoder_in = nn.Linear(latents, math.prod(self.bottom))
        self.decoder = nn.ModuleList()
        for stage, (wide, narrow) in enumerate(itertools.pairwise(stages)):
            up = 1 if stage == 0 else 2
            self.decoder.append(BasicBlock(wide, narrow, condition[1], up=up))
            self.decoder.extend(BasicBlock(narrow, narrow, condition[1]) for _ in range(blocks - 1))
        self.head = nn.Conv2d(width, planes, 3, padding=1)

    def encode(
        self, image: Float[Tensor, "batch c h w"], condition: Condition
    ) -> Float[Tensor, "batch p"]:
        x = F.relu(self.stem_norm(self.stem(image.contiguous(memory_format=torch.channels_last))))
        for block in self.encoder:
            x = block(x, condition)
        parameters: Tensor = self.encoder_out(x.mean((2, 3)))
        return parameters

    def decode(self, z: Float[Tensor, "batch z"], condition: Condition) -> Float[Tensor, "batch q h w"]:
        x = self.decoder_in(z).unflatten(1, self.bottom)
        x = x.contiguous(memory_format=torch.channels_last)
        for block in self.decoder:
            x = block(x, condition)
        return self.head(x)[:, :, : self.size[0], : self.size[1]]


NETWORKS = Registry[Network](
    "network",
    {
        "mlp": Mlp,
        "conv": Conv,
        "resnet": ResNet,
    },
)
