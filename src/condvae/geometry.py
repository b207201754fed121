"""Images moved about, and drawn with other strokes, differentiably."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Numbers = Float[Tensor, "n"]


def affine_maps(
    turn: Numbers,
    lean: Numbers,
    wide: Numbers,
    tall: Numbers,
    across: Numbers | None = None,
    down: Numbers | None = None,
) -> Float[Tensor, "n 2 3"]:
    """Maps of the plane, from where a pixel goes to where it comes from.

    Arguments:
        turn: in radians.
        lean: columns a row.
        wide, tall: logarithms of a factor, by which what is seen of an image gets larger and hence
            all that is in it smaller.
        across, down: in half sides of the image; none is 0.
    """
    nought = torch.zeros_like(turn)
    cos, sin, wide, tall = turn.cos(), turn.sin(), wide.exp(), tall.exp()
    across, down = nought if across is None else across, nought if down is None else down
    rows = [
        torch.stack([wide * cos, wide * (lean * cos - sin), across], 1),
        torch.stack([tall * sin, tall * (lean * sin + cos), down], 1),
    ]
    return torch.stack(rows, 1)


def moved_by(
    images: Float[Tensor, "n c h w"],
    maps: Float[Tensor, "n 2 3"],
    bent: Float[Tensor, "n h w 2"] | None = None,
) -> Float[Tensor, "n c h w"]:
    """Each image as its affine map shows it, its edge repeated.

    Arguments:
        bent: how much further across and down each pixel comes from, in half sides of the image.
    """
    with torch.autocast(images.device.type, enabled=False):  # places of pixels need float32's digits
        grid = F.affine_grid(maps.float(), list(images.shape), align_corners=False)
        grid = grid if bent is None else grid + bent.float()
        return F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)


def bends(height: int, width: int, degree: int) -> Float[Tensor, "bends h w"]:
    """Smooth ways to bend an image that are no affine maps: polynomials of a pixel's place, up to a
    degree, without an affine part, orthogonal and with a mean square of 1."""
    # On the meta device, where `load` plans a model, a linspace would import PyTorch's compiler.
    down, across = (
        torch.linspace(-1, 1, side, dtype=torch.float64, device="cpu") for side in (height, width)
    )
    powers = [(i, total - i) for total in range(degree + 1) for i in range(total + 1)]
    terms = [(down[:, None] ** i * across**j).flatten() for i, j in powers]
    found, _ = torch.linalg.qr(torch.stack(terms, 1))
    return (found[:, 3:].T * math.sqrt(height * width)).unflatten(1, (height, width)).float()


def restroked(
    images: Float[Tensor, "n c h w"], strokes: Float[Tensor, "n 1 1 1"]
) -> Float[Tensor, "n c h w"]:
    """Each image with thicker or thinner bright strokes.

    Arguments:
        strokes: from -1, every stroke thinner by a pixel on each side, to 1, thicker.
    """
    wider, narrower = F.max_pool2d(images, 3, 1, 1), -F.max_pool2d(-images, 3, 1, 1)
    return images + strokes.abs() * (torch.where(strokes > 0, wider, narrower) - images)
