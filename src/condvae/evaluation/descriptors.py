"""What can be measured of an image without any training: edges, shape, colour and layout.

Images are uint8 `[n, C, H, W]`; measures are float32, a row an image, and know no label.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

Images = UInt8[Tensor, "n c h w"]
ORIENTATIONS = 9
LUMA = (0.299, 0.587, 0.114)


def brightness(images: Images) -> Float[Tensor, "n h w"]:
    """Grey values of 0 to 1 (ITU-R BT.601's luma)."""
    x = images.float() / 255
    if x.shape[1] == 1:
        return x[:, 0]
    return torch.einsum("nchw,c->nhw", x, x.new_tensor(LUMA))


# ------------------------------------------------------------------------------------------------ edges


def oriented_gradients(images: Images, cell: int = 4) -> Float[Tensor, "n f"]:
    """Histograms of oriented gradients (Dalal and Triggs 2005), their blocks overlapping by a cell.

    A pixel's gradient is that of its strongest channel; its magnitude is shared between the two nearest
    of 9 directions, which have no sign. Blocks of 2x2 cells are normalised by their length, clipped at
    0.2, and normalised again.

    Arguments:
        cell: side of a cell in pixels, about: as many cells as fit share the image evenly.
    """
    x = F.pad(images.float() / 255, (1, 1, 1, 1), mode="replicate")
    across = x[:, :, 1:-1, 2:] - x[:, :, 1:-1, :-2]
    down = x[:, :, 2:, 1:-1] - x[:, :, :-2, 1:-1]
    strongest = (across.square() + down.square()).argmax(1, keepdim=True)
    across, down = across.gather(1, strongest)[:, 0], down.gather(1, strongest)[:, 0]
    magnitude = torch.hypot(across, down)
    place = torch.atan2(down, across).remainder(math.pi) / math.pi * ORIENTATIONS - 0.5
    lower = place.floor()
    upper_share = place - lower
    planes = magnitude.new_zeros(len(x), ORIENTATIONS, *magnitude.shape[1:])
    for index, share in ((lower, 1 - upper_share), (lower + 1, upper_share)):
        direction = index.long().remainder(ORIENTATIONS)[:, None]
        planes.scatter_add_(1, direction, (share * magnitude)[:, None])
    cells = [max(2, round(side / cell)) for side in images.shape[2:]]
    histograms = F.adaptive_avg_pool2d(planes, (cells[0], cells[1]))
    blocks = F.unfold(histograms, 2).unflatten(1, (4 * ORIENTATIONS, -1))
    for limit in (0.2, math.inf):
        length = blocks.norm(dim=1, keepdim=True)
        blocks = (blocks / (length + 1e-2 * float(limit < 1) + 1e-6)).clamp(max=limit)
    return blocks.flatten(1)


# ------------------------------------------------------------------------------------------------ style


def style(images: Images) -> dict[str, Float[Tensor, "n d"]]:
    """Attributes that a label leaves free, by name: how something is drawn, not what it is.

    Of grey images: `slant`, `thickness`, `width` and `height` of the ink (`strokes`). Of colour images:
    mean `colour`, `layout-4` and `layout-8` (means over a grid of 4x4 and of 8x8 fields), and
    `background` (the mean of the outer eighth of the picture, a side at a time).
    """
    if images.shape[1] == 1:
        return strokes(images)
    x = images.float() / 255
    rim = [max(1, side // 8) for side in x.shape[2:]]
    sides = (x[:, :, : rim[0]], x[:, :, -rim[0] :], x[..., : rim[1]], x[..., -rim[1] :])
    return {
        "colour": x.mean((2, 3)),
        "layout-4": layout(images, 4),
        "layout-8": layout(images, 8),
        "background": torch.cat([side.mean((2, 3)) for side in sides], 1),
    }


def layout(images: Images, fields: int) -> Float[Tensor, "n d"]:
    """Mean colours, 0 to 1, over a grid of `fields` x `fields`."""
    return F.adaptive_avg_pool2d(images.float() / 255, fields).flatten(1)


def strokes(images: Images) -> dict[str, Float[Tensor, "n 1"]]:
    """Slant, thickness, width and height of bright strokes on dark ground, by image moments.

    With mu the central moments of brightness, divided by its sum: slant is `mu_xy / mu_yy`, the shear
    that would have to be undone; height is `2 sqrt(mu_yy)`; width is the same of what remains across
    when the slant is undone, `2 sqrt(mu_xx - mu_xy^2 / mu_yy)`; thickness is twice the area over the
    length of the outline, `2 sum b / sum |grad b|`, in pixels. An image without ink has all of them 0.
    """
    ink = brightness(images)
    rows = torch.arange(ink.shape[1], dtype=ink.dtype, device=ink.device)[:, None]
    columns = torch.arange(ink.shape[2], dtype=ink.dtype, device=ink.device)
    mass = ink.sum((1, 2), keepdim=True)
    weights = ink / mass.clamp(min=1e-6)
    down = rows - (weights * rows).sum((1, 2), keepdim=True)
    across = columns - (weights * columns).sum((1, 2), keepdim=True)
    yy = (weights * down.square()).sum((1, 2))
    xy = (weights * down * across).sum((1, 2))
    xx = (weights * across.square()).sum((1, 2))
    padded = F.pad(ink[:, None], (1, 1, 1, 1))[:, 0]
    gradient = torch.hypot(
        (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2,
        (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2,
    )
    measures = {
        "slant": xy / yy.clamp(min=1e-3),
        "thickness": 2 * mass[:, 0, 0] / gradient.sum((1, 2)).clamp(min=1e-6),
        "width": 2 * (xx - xy.square() / yy.clamp(min=1e-3)).clamp(min=0).sqrt(),
        "height": 2 * yy.sqrt(),
    }
    return {name: value[:, None] for name, value in measures.items()}


def style_vector(images: Images) -> Float[Tensor, "n d"]:
    """What two images are compared by, to say that one is drawn like the other: slant, thickness and
    width of grey images (nearly all digits have the same height), `layout-4` of colour images."""
    if images.shape[1] == 3:
        return layout(images, 4)
    found = strokes(images)
    return torch.cat([found[name] for name in ("slant", "thickness", "width")], 1)
