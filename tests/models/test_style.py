"""The latents that are how an image is drawn: found without being told, and latents like all others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from condvae.config import ModelConfig
from condvae.errors import UserError
from condvae.geometry import bends
from condvae.models.families import build_model
from condvae.models.ladder import Ladder
from condvae.models.style import DEGREE, RATE, STYLES, Congealing, StyleGroup

CLASSES = 3
NUMBERS = len(STYLES) + 2 * len(bends(16, 16, DEGREE))
"""That tell how an image is drawn."""


def templates() -> Tensor:
    """An H, a cross and a Z, `[3, 1, 16, 16]`, -1 to 1."""
    place = torch.arange(16.0) - 7.5
    rows, columns = place[:, None].expand(16, 16), place.expand(16, 16)
    inside = (rows.abs() < 5.5) & (columns.abs() < 5.5)
    across, down = rows.abs() < 1.3, columns.abs() < 1.3
    posts, beams = columns.abs() > 3, rows.abs() > 3
    diagonal = (rows + columns).abs() < 2
    kinds = torch.stack([posts | across, across | down, beams | diagonal]) & inside
    return 2 * kinds.float()[:, None] - 1


def drawn(number: int, teacher: Congealing, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Templates restyled at random, what they were restyled by, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, CLASSES, (number,), generator=generator)
    c = torch.randn(number, NUMBERS, generator=generator)
    c[:, len(STYLES) :] *= 0.5
    return teacher.restyled(templates()[y], c), c, y


def test_congealing_finds_how_images_were_restyled() -> None:
    """It is shown images and classes, and is told neither templates nor styles."""
    torch.manual_seed(0)
    model = Congealing((1, 16, 16), CLASSES, width=12)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(400):
        images, _, y = drawn(64, model, seed=1 + step)
        optimiser.zero_grad()
        model(images, y).backward()
        optimiser.step()
    images, c, y = drawn(600, model.eval(), seed=0)
    told = model.deviation(images, y)
    for index, style in enumerate(STYLES[:3]):
        for label in range(CLASSES):
            mine = y == label
            both = torch.stack([told[mine, index], c[mine, index]])
            assert torch.corrcoef(both)[0, 1] > 0.75, (style, label)


def test_restyling_by_nothing_changes_nothing() -> None:
    images = templates()
    assert torch.allclose(
        Congealing((1, 16, 16), 3).restyled(images, torch.zeros(3, NUMBERS)), images, atol=1e-5
    )


def test_what_is_usual_is_a_running_mean_of_each_class() -> None:
    model = Congealing((1, 16, 16), CLASSES).train()
    c = torch.tensor([[1.0], [3.0], [5.0]]) * torch.ones(3, NUMBERS)
    model._take_note(c, torch.tensor([0, 0, 1]), torch.tensor([True, True, False]))
    assert torch.allclose(model.usual[0], torch.tensor(RATE * 2.0))
    assert not model.usual[1:].any(), "no image of these classes, or none that has a label"
    assert torch.equal(model.variance[1:], torch.ones(2, NUMBERS))
    for _ in range(600):
        model._take_note(c, torch.tensor([0, 0, 1]), torch.ones(3, dtype=torch.bool))
    assert torch.allclose(model.usual[:2, 0], torch.tensor([2.0, 5.0]), atol=1e-3)
    assert torch.allclose(model.variance[0], torch.tensor(1.0), atol=1e-2)
    assert float(model.spread[1, 0]) == pytest.approx(0.05, abs=1e-3), "never 0: it is divided by"


def test_a_deviation_has_no_mean_and_a_spread_of_1_in_every_class(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Congealing((1, 16, 16), CLASSES)
    images, c, y = drawn(600, model, seed=0)
    c = (y[:, None] + 1) * c + y[:, None]
    for _ in range(600):
        model._take_note(c, y, y >= 0)
    monkeypatch.setattr(model, "read", lambda images, y: (c, None))
    found = model.deviation(images, y)
    for label in range(CLASSES):
        assert found[y == label].mean(0).abs().max() < 1e-4
        assert torch.allclose(found[y == label].std(0), torch.ones(NUMBERS), atol=0.01)


def test_looking_changes_nothing_and_unlabelled_images_count_for_nothing() -> None:
    torch.manual_seed(0)
    model = Congealing((1, 16, 16), CLASSES).eval()
    images, _, y = drawn(8, model, seed=0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(images, y)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.train()
    nobody = model(images, torch.full_like(y, -1))
    assert nobody.item() == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    torch.manual_seed(1)
    half = model(images, torch.cat([y[:4], -torch.ones_like(y[4:])]))
    torch.manual_seed(1)
    assert half.item() == pytest.approx(model(images[:4], y[:4]).item() / 2, rel=0.05)


def small(style: int = 3) -> Ladder:
    torch.manual_seed(0)
    lists = {"groups": (1, 1), "channels": (4, 2), "widths": (16, 8), "blocks": (0, 0)}
    return Ladder((1, 16, 16), CLASSES, "bernoulli", 8, ("encoder", "decoder"), style=style, **lists)


def test_the_bound_and_congealing_teach_different_parts() -> None:
    model = small()
    x, y = torch.randint(0, 256, (6, 1, 16, 16)).to(torch.uint8), torch.arange(6) % CLASSES
    own = {name for name, _ in model.named_parameters() if "congealing" in name}
    for loss, mine in ((-model.elbo(x, y).value.mean(), False), (model.side_loss(x, y), True)):
        model.zero_grad()
        loss.backward()
        taught = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        assert taught and (taught <= own if mine else not taught & own)
    assert small(style=0).side_loss(x, y) is None


def test_the_posterior_is_the_deviation_times_a_gain() -> None:
    torch.manual_seed(0)
    group = StyleGroup((1, 16, 16), CLASSES, 3, 8)
    torch.nn.init.normal_(group.congealing.tell.weight, std=0.1)
    with torch.no_grad():
        group.gain.copy_(torch.tensor([0.5, 1.0, -2.0]))
    images, _, y = drawn(4, group.congealing, seed=0)
    noise = torch.randn(8, 3, 1, 1)
    _, u, mean, log_scale = group(noise, group.evidence(images, y))
    expected = group.congealing.deviation(images, y)[:, :3] * group.gain
    assert torch.allclose(mean[:4, :, 0, 0], expected) and torch.equal(mean[:4], mean[4:])
    assert torch.allclose(u, mean + log_scale.exp() * noise)
    told, drawn_u, *_ = group(u, None)
    assert torch.equal(drawn_u, u) and told.shape == (8, 8)


def test_style_reaches_the_picture_and_every_prior() -> None:
    model = small()
    looks: list[Tensor] = []
    for group in model.groups:
        group.prior.register_forward_hook(lambda module, given, out: looks.append(given[0]))
    y = torch.zeros(1, dtype=torch.long)
    latents = model.draw(y, 0.0)
    other = (latents[0] + 1, *latents[1:])
    with torch.no_grad():
        assert not torch.allclose(model.decode(latents, y).expected(), model.decode(other, y).expected())
    plain, styled = looks[: len(model.groups)], looks[len(model.groups) :]
    assert not any(torch.allclose(a, b) for a, b in zip(plain, styled, strict=True))


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"family": "ladder(style=8)"}, (1, 12, 12), "style must be within 0 to 6, not 8"),
        (
            {"family": "ladder(style=3)", "label_reaches": ("decoder",)},
            (1, 12, 12),
            "needs the label in",
        ),
        ({"family": "ladder(style=3)"}, (1, 6, 12), "at least 8 pixels"),
    ],
)
def test_an_impossible_style_is_a_sentence(
    options: dict[str, str], shape: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build_model(ModelConfig(**options), shape, 3)  # type: ignore[arg-type]
