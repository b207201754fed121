"""The critic and the adversary pull where they are said to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from condvae.data.augment import warped
from condvae.errors import UserError
from condvae.models.conditional_vae import ConditionalVAE
from condvae.models.ladder import Ladder
from condvae.objectives import OBJECTIVES
from condvae.objectives.base import held
from condvae.objectives.labels import Counterfactual
from condvae.probability.images import uncentred

Batch = tuple[Tensor, Tensor]


@pytest.fixture
def ladder() -> Ladder:
    return Ladder(
        (1, 4, 4),
        3,
        "bernoulli",
        4,
        ("encoder", "decoder"),
        "",
        groups=(1, 1),
        channels=(2, 1),
        widths=(8, 8),
        blocks=(0, 0),
    )


def gradients(module: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, [p for _, p in named], retain_graph=True, allow_unused=True)
    return {name: g for (name, _), g in zip(named, found, strict=True) if g is not None}


@pytest.mark.parametrize("family", ["flat_model", "ladder"])
def test_it_trains_flat_and_hierarchical_models(
    family: str, batch: Batch, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(family)
    objective = OBJECTIVES.build(
        "counterfactual(adversary=1, nearness=0.1, equivariance=0.1)", model=model, images=100
    )
    optimiser = torch.optim.Adam([*model.parameters(), *objective.parameters()])
    for step in range(3):
        loss = objective(model, *batch, step / 3)
        optimiser.zero_grad()
        loss.value.backward()
        optimiser.step()
        assert all(torch.isfinite(value) for value in loss.metrics.values())
    assert all(p.grad is not None for p in [*model.parameters(), *objective.parameters()])


def test_without_weights_it_is_the_elbo(flat_model: ConditionalVAE, batch: Batch) -> None:
    objective = Counterfactual(flat_model, weight=0, width=4)
    torch.manual_seed(3)
    of_model = gradients(flat_model, objective(flat_model, *batch, 1.0).value)
    torch.manual_seed(3)
    plain = gradients(flat_model, -flat_model.elbo(*batch).value.mean())
    assert plain.keys() == of_model.keys()
    assert all(torch.allclose(of_model[name], plain[name], atol=1e-5) for name in plain)


def test_the_encoder_is_not_told_of_swaps(flat_model: ConditionalVAE, batch: Batch) -> None:
    for parameter in flat_model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # residual branches start at zero
    found = []
    for weight in (0.0, 30.0):
        objective = Counterfactual(
            flat_model, weight=weight, nearness=weight, equivariance=weight, width=4, rise=0
        )
        torch.manual_seed(3)
        found.append(gradients(flat_model, objective(flat_model, *batch, 1.0).value))
    without, told = found
    encoder = [name for name in without if "encoder" in name]
    decoder = [name for name in without if "decoder" in name]
    assert encoder and all(torch.allclose(without[n], told[n], atol=1e-5) for n in encoder)
    assert decoder and not any(torch.allclose(without[n], told[n], atol=1e-3) for n in decoder)


def test_a_share_of_the_images_is_swapped(flat_model: ConditionalVAE, batch: Batch) -> None:
    shown: list[int] = []
    objective = Counterfactual(flat_model, share=0.25, width=4)
    objective.critic.register_forward_pre_hook(lambda _, inputs: shown.append(len(inputs[0])))
    objective(flat_model, *batch, 1.0)
    few = -(-len(batch[1]) // 4)
    assert sorted(shown) == [few, 2 * few, 2 * few] and few < len(batch[1])


def test_held_networks_let_gradients_through_and_take_none() -> None:
    network = nn.Linear(3, 2)
    x = torch.randn(4, 3, requires_grad=True)
    held(network, x).sum().backward()
    assert x.grad is not None and network.weight.grad is None
    assert torch.equal(held(network, x), network(x))


def test_the_critic_makes_swaps_follow_the_label(batch: Batch, flat_model: ConditionalVAE) -> None:
    """Images of one brightness a class: with the critic, a swap takes the given class's brightness."""
    torch.manual_seed(0)
    y = torch.arange(96) % 3
    noise = torch.randint(-10, 11, (96, 1, 4, 4))
    x = (60 + 60 * y[:, None, None, None] + noise).clamp(0, 255).to(torch.uint8)

    def brightness_of_swaps(spec: str) -> float:
        torch.manual_seed(0)
        model = ConditionalVAE(
            (1, 4, 4), 3, network="mlp(widths=[32])", likelihood="discretised-logistic", latents=3
        )
        objective = OBJECTIVES.build(spec, model=model, images=96)
        optimiser = torch.optim.Adam([*model.parameters(), *objective.parameters()], 1e-2)
        for step in range(150):
            optimiser.zero_grad()
            objective(model, x, y, step / 150).value.backward()
            optimiser.step()
        with torch.no_grad():
            given = (y + 1) % 3
            swaps = model.decode(model.encode(x, y), given).mean_image().float().mean((1, 2, 3))
        return float((swaps - 60 - 60 * given).abs().mean())

    assert brightness_of_swaps("counterfactual(weight=30, width=8, rise=0)") < 25


def test_equivariance_makes_a_restyled_image_a_restyled_swap() -> None:
    """Bars of any lean, dark in one class and bright in the other."""
    torch.manual_seed(0)
    y = torch.arange(64) % 2
    bars = -torch.ones(64, 1, 8, 8)
    bars[:, :, 1:7, 3:5] = (y.float() - 0.2).view(-1, 1, 1, 1)
    x = uncentred(warped(bars, None, turn=0, stretch=0, lean=0.5))

    def trained(weight: float) -> float:
        torch.manual_seed(0)
        model = ConditionalVAE(
            (1, 8, 8), 2, network="mlp(widths=[64])", likelihood="discretised-logistic", latents=4
        )
        objective = Counterfactual(model, weight=0, equivariance=weight, samples=0, rise=0, width=4)
        optimiser = torch.optim.Adam([*model.parameters(), *objective.parameters()], 5e-3)
        for step in range(100):
            optimiser.zero_grad()
            loss = objective(model, x, y, step / 150)
            loss.value.backward()
            optimiser.step()
        return float(loss.metrics["equivariance"])

    assert trained(10.0) < 0.5 * trained(1e-6)


def test_impossible_settings_are_refused(flat_model: ConditionalVAE) -> None:
    build: Callable[..., Counterfactual] = Counterfactual
    for options in ({"weight": -1.0}, {"rise": 2.0}, {"width": 0}, {"share": 0.0}):
        with pytest.raises(UserError, match="objective 'counterfactual'"):
            build(flat_model, **options)
    deaf = ConditionalVAE((1, 4, 4), 3, network="mlp", prior="standard-normal", label_reaches=())
    with pytest.raises(UserError, match="label must reach the model"):
        build(deaf)
