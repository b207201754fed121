"""Images moved about: each number does what its name says, and no other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from condvae.evaluation.descriptors import strokes
from condvae.geometry import affine_maps, bends, moved_by, restroked
from condvae.probability.images import uncentred

NAMES = ("turn", "lean", "wide", "tall", "across", "down")


def bar() -> Tensor:
    """A bright bar on dark ground, blurred, so that moments see shifts of less than a pixel."""
    place = torch.arange(28.0) - 13.5
    across, down = (torch.sigmoid(2 * (reach - place.abs())) for reach in (2.5, 8.0))
    return 2 * (down[:, None] * across)[None, None] - 1


def changed(**by: float) -> Tensor:
    numbers = {name: torch.tensor([by.get(name, 0.0)]) for name in NAMES}
    return moved_by(bar(), affine_maps(**numbers))


def centre(image: Tensor) -> tuple[float, float]:
    """Mean row and column of the ink."""
    ink = (image[0, 0] + 1) / 2
    place = torch.arange(28.0)
    return float((ink.sum(1) * place).sum() / ink.sum()), float((ink.sum(0) * place).sum() / ink.sum())


def measured(image: Tensor) -> dict[str, float]:
    return {name: float(value) for name, value in strokes(uncentred(image)).items()}


def test_nothing_is_nothing() -> None:
    assert torch.allclose(changed(), bar(), atol=1e-5)


@pytest.mark.parametrize(("name", "attribute"), [("wide", "width"), ("tall", "height")])
def test_what_sees_more_shows_things_smaller(name: str, attribute: str) -> None:
    before, after = measured(bar()), measured(changed(**{name: 0.3}))
    assert after[attribute] == pytest.approx(before[attribute] * math.exp(-0.3), rel=0.05)
    other = {"width": "height", "height": "width"}[attribute]
    assert after[other] == pytest.approx(before[other], rel=0.02)


def test_a_lean_is_the_slant_that_is_measured() -> None:
    assert measured(changed(lean=0.3))["slant"] == pytest.approx(-0.3, rel=0.05)


def test_moves_are_in_half_sides() -> None:
    rows, columns = centre(changed(across=0.2, down=-0.1))
    assert (rows - 13.5, columns - 13.5) == (pytest.approx(1.4, abs=0.02), pytest.approx(-2.8, abs=0.02))


def test_a_quarter_turn_lays_a_bar_down() -> None:
    upright, lying = measured(bar()), measured(changed(turn=math.pi / 2))
    assert lying["width"] == pytest.approx(upright["height"], rel=0.02)
    assert lying["height"] == pytest.approx(upright["width"], rel=0.02)


def test_strokes_change_the_thickness_and_nothing_where_they_are_0() -> None:
    found = [
        measured(restroked(bar(), torch.full((1, 1, 1, 1), strokes)))["thickness"]
        for strokes in (-1.0, -0.5, 0.0, 0.5, 1.0)
    ]
    assert found == sorted(found) and found[4] - found[0] > 2
    assert torch.equal(restroked(bar(), torch.zeros(1, 1, 1, 1)), bar())


def test_bends_are_orthogonal_and_no_affine_map_is_among_them() -> None:
    found = bends(20, 12, 3).double()
    assert found.shape == (7, 20, 12)
    flat = found.flatten(1)
    assert torch.allclose(flat @ flat.T / 240, torch.eye(7).double(), atol=1e-5)
    rows, columns = torch.meshgrid(torch.arange(20.0), torch.arange(12.0), indexing="ij")
    for affine in (torch.ones(20, 12), rows, columns):
        assert (flat @ affine.double().flatten()).abs().max() < 1e-3


def test_a_bend_moves_each_pixel_by_its_own_way() -> None:
    bent = torch.zeros(1, 28, 28, 2)
    bent[:, :14, :, 0] = 2 * 2 / 28
    still = affine_maps(*(torch.zeros(1) for _ in range(4)))
    found = moved_by(bar(), still, bent)
    assert torch.allclose(found[..., 14:, :], bar()[..., 14:, :], atol=1e-5)
    assert torch.allclose(found[..., :14, :-2], bar()[..., :14, 2:], atol=1e-5)


def test_gradients_pass_through_all_of_it() -> None:
    numbers = {name: torch.zeros(1, requires_grad=True) for name in NAMES}
    weight = torch.full((1, 1, 1, 1), 0.1, requires_grad=True)
    image = restroked(moved_by(bar(), affine_maps(**numbers)), weight)
    (image * torch.linspace(0, 1, 28) * torch.linspace(0, 1, 28)[:, None]).sum().backward()
    assert all(number.grad is not None and number.grad.abs() > 1e-3 for number in numbers.values())
    assert weight.grad is not None and weight.grad.abs() > 1e-3
