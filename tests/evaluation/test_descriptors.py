"""Edges, strokes and layouts are what they are said to be."""

from __future__ import annotations

import math

import pytest
import torch

from condvae.evaluation.descriptors import (
    brightness,
    layout,
    oriented_gradients,
    strokes,
    style,
    style_vector,
)


def bar(slant: float, width: float, length: int = 20, side: int = 40) -> torch.Tensor:
    """A bright bar, leaning by `slant` columns a row, its edges soft."""
    rows = torch.arange(side)[:, None] - side / 2 + 0.5
    columns = torch.arange(side) - side / 2 + 0.5
    ink = (width / 2 + 0.5 - (columns - slant * rows).abs()).clamp(0, 1) * (rows.abs() < length / 2)
    return (255 * ink).round().to(torch.uint8)[None, None]


@pytest.mark.parametrize("slant", [-0.5, 0.0, 0.4])
def test_slant_and_width_of_a_leaning_bar(slant: float) -> None:
    found = strokes(bar(slant, 4))
    assert found["slant"].item() == pytest.approx(slant, abs=0.02)
    assert found["width"].item() == pytest.approx(2 * 4 / math.sqrt(12), abs=0.15)
    assert found["height"].item() == pytest.approx(2 * 20 / math.sqrt(12), rel=0.02)


def test_thickness_grows_with_the_stroke_and_not_with_its_length() -> None:
    thin, thick, short = bar(0, 2), bar(0, 6), bar(0, 2, length=12)
    of = [strokes(image)["thickness"].item() for image in (thin, thick, short)]
    assert of[1] > 2 * of[0] and of[2] == pytest.approx(of[0], rel=0.15)


def test_strokes_do_not_depend_on_where_they_are() -> None:
    image = bar(0.3, 3)
    moved = image.roll((5, -4), (2, 3))
    for name, value in strokes(image).items():
        assert strokes(moved)[name].item() == pytest.approx(value.item(), abs=1e-3), name


def test_an_empty_image_has_no_style_and_no_nan() -> None:
    empty = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    assert all(torch.equal(value, torch.zeros(2, 1)) for value in style(empty).values())
    assert torch.isfinite(style_vector(empty)).all() and torch.isfinite(oriented_gradients(empty)).all()


def test_gradients_tell_directions_and_not_contrast() -> None:
    down = torch.linspace(40, 200, 32).expand(32, 32)
    images = torch.stack([down, down.T, 0.5 * down])[:, None].round().to(torch.uint8)
    upright, lying, faint = oriented_gradients(images)
    assert torch.linalg.norm(upright - faint) < 0.1 * torch.linalg.norm(upright)
    assert torch.dot(upright, lying) < 0.1 * torch.dot(upright, upright)
    inverted = oriented_gradients(255 - images[:1])[0]
    assert torch.allclose(inverted, upright, atol=1e-4)


def test_gradients_of_any_size_and_both_colours() -> None:
    for shape in ((1, 28, 28), (3, 32, 32), (3, 33, 17), (1, 8, 8)):
        images = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
        found = oriented_gradients(images)
        assert found.shape[0] == 3 and torch.isfinite(found).all() and found.norm(dim=1).min() > 0


def test_layout_and_colours_of_a_flag() -> None:
    flag = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    flag[:, 0, :16] = 255
    flag[:, 2, 16:] = 255
    found = style(flag)
    assert found["colour"][0].tolist() == pytest.approx([0.5, 0, 0.5])
    assert layout(flag, 4).unflatten(1, (3, 4, 4))[0, 0, :, 0].tolist() == [1, 1, 0, 0]
    assert found["background"].shape == (1, 12) and style_vector(flag).shape == (1, 48)
    assert brightness(flag)[0, 0, 0].item() == pytest.approx(0.299, abs=1e-6)
