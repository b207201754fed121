"""Bounds in their right order, and gradient estimators against each other and the truth."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from condvae.objectives import OBJECTIVES
from condvae.objectives.importance import Piwae

Batch = tuple[Tensor, Tensor]
STL, DREG = "gradient='sticking-the-landing'", "gradient='doubly-reparameterised'"


def evaluate(spec: str, model: nn.Module, batch: Batch, seed: int = 0) -> tuple[Any, list[Tensor]]:
    """The loss, and its gradient for every parameter, under the noise of a seed."""
    torch.manual_seed(seed)
    loss = OBJECTIVES.build(spec, model=model, images=100)(model, *batch, 1.0)
    return loss, list(torch.autograd.grad(loss.value, list(model.parameters())))


def images(number: int) -> Batch:
    x = torch.tensor([40, 200], dtype=torch.uint8).expand(number, 1, 1, 2)
    return x, torch.zeros(number, dtype=torch.long)


def mean_gradient(spec: str, toy: Any, parameters: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
    """The mean of a gradient over many draws, and that mean's standard error."""
    torch.manual_seed(1)
    objective, batch = OBJECTIVES.build(spec, model=toy, images=1), images(5000)
    gradients = torch.stack(
        [
            torch.cat(torch.autograd.grad(objective(toy, *batch, 1.0).value, parameters))
            for _ in range(30)
        ]
    )
    return gradients.mean(0), gradients.std(0) / math.sqrt(len(gradients))


def agree(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    error = (one[1].square() + other[1].square()).sqrt()
    return bool(((one[0] - other[0]).abs() < 4.5 * error + 1e-12).all())


# ----------------------------------------------------------------------------------- values


@pytest.mark.parametrize("spec", ["iwae", "ciwae", "miwae", "piwae"])
def test_a_bound_is_no_less_than_the_elbo_of_the_same_draws(
    spec: str, flat_model: nn.Module, batch: Batch
) -> None:
    loss, _ = evaluate(spec, flat_model, batch)
    assert loss.metrics["bound"] > loss.metrics["elbo"]
    assert torch.allclose(-loss.value, loss.metrics["bound"])


def test_bounds_rise_with_their_draws_up_to_the_likelihood(toy: Any) -> None:
    """The evidence is `N(x; b, 2)`, in closed form."""
    x, y = images(4000)
    distance = (x[0].flatten().double() / 64 - 2 - toy.b).square().sum()
    truth = float((-distance / 4 - math.log(4 * math.pi)).detach())
    bounds = []
    for samples in (1, 2, 8, 64):
        bounds.append(float(evaluate(f"iwae(samples={samples})", toy, (x, y))[0].metrics["bound"]))
    assert bounds == sorted(bounds)
    assert bounds[0] < truth - 0.1 and bounds[-1] == pytest.approx(truth, abs=0.05)


def test_all_weights_are_alike_under_the_true_posterior(optimal_toy: Any) -> None:
    loss, _ = evaluate("iwae", optimal_toy, images(8))
    assert loss.metrics["bound"] == pytest.approx(float(loss.metrics["elbo"]), abs=1e-9)


# ------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("miwae(groups=1, samples=6)", "iwae(samples=6)"),
        ("piwae(groups=1, samples=6)", "iwae(samples=6)"),
        ("ciwae(samples=6, beta=0)", "iwae(samples=6)"),
        ("ciwae(samples=6, beta=1)", "miwae(groups=6, samples=1)"),
    ],
)
def test_special_cases_are_each_other(one: str, other: str, toy: Any) -> None:
    (loss, gradients), (same, equal) = (evaluate(spec, toy, images(5)) for spec in (one, other))
    assert torch.allclose(loss.value, same.value)
    assert all(torch.allclose(a, b) for a, b in zip(gradients, equal, strict=True))


def test_groups_of_one_are_the_elbo(toy: Any) -> None:
    loss, _ = evaluate("miwae(groups=6, samples=1)", toy, images(5))
    assert torch.allclose(-loss.value, loss.metrics["elbo"])
    standard = mean_gradient("elbo", toy, list(toy.parameters()))
    assert agree(mean_gradient("miwae(groups=6, samples=1)", toy, list(toy.parameters())), standard)


@pytest.mark.parametrize("model", ["toy", "flat_model"])
def test_piwae_is_iwae_for_the_generative_model_and_miwae_for_the_inference_network(
    model: str, request: pytest.FixtureRequest, batch: Batch
) -> None:
    module = request.getfixturevalue(model)
    data = images(5) if model == "toy" else batch
    size = "groups=3, samples=2"
    _, gradients = evaluate(f"piwae({size})", module, data)
    _, generative = evaluate("iwae(samples=6)", module, data)
    _, inference = evaluate(f"miwae({size})", module, data)
    seen = {"generative": 0, "inference": 0}
    for (name, _), got, g, i in zip(
        module.named_parameters(), gradients, generative, inference, strict=True
    ):
        infers = name in ("a", "c", "s") or name.startswith(("encoder_label", "network.encoder"))
        seen["inference" if infers else "generative"] += 1
        assert torch.allclose(got, i if infers else g, rtol=1e-4, atol=1e-5), name
    assert min(seen.values()) > 0


def test_piwae_keeps_the_gradient_of_draws_that_are_nothing_beside_others() -> None:
    """A group 500 nats below another still has its whole share for the inference network."""
    objective = Piwae.__new__(Piwae)
    nn.Module.__init__(objective)
    objective.groups = 2
    log_weights = torch.tensor([[0.0], [-1.0], [-500.0], [-501.0]], requires_grad=True)
    objective.bound(log_weights).sum().backward()
    assert log_weights.grad is not None
    reaching = log_weights.grad * objective.factors(log_weights.detach())
    within = torch.tensor([0.0, -1.0]).softmax(0) / 2
    assert torch.allclose(reaching.flatten(), torch.cat([within, within]))
    assert torch.allclose(log_weights.grad, log_weights.detach().softmax(0), atol=1e-11)


# --------------------------------------------------------------------------------- estimators


def test_the_standard_estimator_is_the_gradient_of_the_bound(toy: Any) -> None:
    """Of the ELBO, whose gradient is known: with one draw."""
    x, y = images(1)
    noise = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0))
    elbo = toy.elbo(x, y, noise).value.mean()
    truth = torch.cat(torch.autograd.grad(-elbo, list(toy.parameters())))
    mean, error = mean_gradient("iwae(samples=1)", toy, list(toy.parameters()))
    assert ((mean - truth).abs() < 5 * error + 0.01).all()


def test_sticking_the_landing_is_unbiased_with_one_draw(toy: Any) -> None:
    standard = mean_gradient("iwae(samples=1)", toy, list(toy.parameters()))
    landed = mean_gradient(f"iwae(samples=1, {STL})", toy, list(toy.parameters()))
    assert agree(landed, standard)


@pytest.mark.parametrize("samples", [1, 4])
def test_doubly_reparameterised_gradients_are_unbiased(toy: Any, samples: int) -> None:
    standard = mean_gradient(f"iwae(samples={samples})", toy, toy.inference())
    doubly = mean_gradient(f"iwae(samples={samples}, {DREG})", toy, toy.inference())
    assert agree(doubly, standard)


def test_sticking_the_landing_is_biased_with_several_draws(toy: Any) -> None:
    standard = mean_gradient("iwae(samples=4)", toy, toy.inference())
    assert not agree(mean_gradient(f"iwae(samples=4, {STL})", toy, toy.inference()), standard)


def test_the_generative_model_has_the_same_gradient_from_every_estimator(toy: Any) -> None:
    index = [name for name, _ in toy.named_parameters()].index("b")
    standard, *others = (
        evaluate(f"iwae(samples=4, {how})", toy, images(5))[1][index]
        for how in ("gradient=standard", STL, DREG)
    )
    assert all(torch.allclose(standard, other) for other in others)


def test_nothing_moves_the_true_posterior(optimal_toy: Any) -> None:
    """There the score is all of the standard gradient, and the other estimators are exactly 0."""
    for how in (STL, DREG):
        for samples in (1, 4):
            spec = f"iwae(samples={samples}, {how})"
            mean, error = mean_gradient(spec, optimal_toy, optimal_toy.inference())
            assert mean.abs().max() < 1e-12 and error.max() < 1e-12
    _, error = mean_gradient("iwae(samples=1)", optimal_toy, optimal_toy.inference())
    assert error.min() > 1e-4
