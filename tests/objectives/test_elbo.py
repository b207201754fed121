"""Schedules and thresholds of the KL, against their formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from condvae.models.protocol import Elbo
from condvae.objectives import OBJECTIVES
from condvae.probability.posteriors import DiagonalGaussian, Normal
from condvae.probability.priors import StandardNormal

Batch = tuple[Tensor, Tensor]


class Given(nn.Module):
    """A model whose KL (and posterior's means) are what is given."""

    def __init__(self, kl: list[list[float]], means: list[list[float]] | None = None) -> None:
        super().__init__()
        self.kl = nn.Parameter(torch.tensor(kl))
        self.means = None if means is None else nn.Parameter(torch.tensor(means))
        self.group_shapes = tuple((2**index, 3) for index in range(self.kl.shape[1]))
        self.posterior, self.prior = DiagonalGaussian(2), StandardNormal(2, 1)

    def elbo(self, x: Tensor, y: Tensor) -> Elbo:
        posterior = None if self.means is None else Normal(self.means, torch.zeros_like(self.means))
        return Elbo(torch.full((len(self.kl),), -10.0), self.kl, (), posterior)


def loss(spec: str, model: nn.Module, progress: float = 1.0) -> Tensor:
    objective = OBJECTIVES.build(spec, model=model, images=2)
    value: Tensor = objective(model, torch.zeros(2), torch.zeros(2), progress).value
    return value


@pytest.mark.parametrize(("progress", "weight"), [(0.0, 0.0), (0.25, 1.0), (0.5, 2.0), (1.0, 2.0)])
def test_beta_rises(progress: float, weight: float) -> None:
    model = Given([[1.0, 2.0], [3.0, 4.0]])
    assert loss("elbo(beta=2, warmup=0.5)", model, progress) == 10 + weight * 5


@pytest.mark.parametrize(("progress", "capacity"), [(0.0, 0.0), (0.25, 4.0), (0.5, 8.0), (1.0, 8.0)])
def test_capacity_rises_and_the_kl_is_led_to_it(progress: float, capacity: float) -> None:
    model = Given([[1.0, 2.0], [3.0, 4.0]])
    value = loss("capacity(nats=8, gamma=3, rise=0.5)", model, progress)
    assert value == 10 + 3 * abs(5 - capacity)
    value.backward()
    assert model.kl.grad is not None
    assert torch.allclose(model.kl.grad, torch.full((2, 2), 1.5 if capacity < 5 else -1.5))


def test_free_bits_of_a_group_cost_nothing_below_the_threshold() -> None:
    model = Given([[0.1, 2.0], [0.7, 4.0]])  # group by group 0.4 and 3, on average
    value = loss("free-bits(nats=0.5)", model)
    assert value == 10 + 0.5 + 3
    value.backward()
    assert model.kl.grad is not None
    assert torch.equal(model.kl.grad, torch.tensor([[0.0, 0.5], [0.0, 0.5]]))


def test_free_bits_of_a_dimension() -> None:
    """With unit variances a dimension's KL is half its squared mean."""
    model = Given([[4.09], [1.01]], means=[[0.1, 2.0], [0.1, 1.0]])
    value = loss("free-bits(nats=0.5, per=dimension)", model)
    assert value.item() == pytest.approx(10 + 0.5 + (2 + 0.5) / 2)
    value.backward()
    assert model.means is not None and model.means.grad is not None
    assert torch.equal(model.means.grad, torch.tensor([[0.0, 1.0], [0.0, 0.5]]))
    assert loss("free-bits(nats=0, per=dimension)", model).item() == pytest.approx(10 + 1.25 + 0.005)


def test_kl_balancing_weighs_groups_by_size_and_kl_until_the_warmup_is_over() -> None:
    model = Given([[1.0, 2.0, 0.0], [3.0, 4.0, 0.0]])
    sizes, kl = torch.tensor([3.0, 6.0, 12.0]), torch.tensor([2.0, 3.0, 0.01])
    weights = kl / sizes / (kl / sizes).mean()
    value = loss("kl-balancing(warmup=0.4)", model, 0.1)
    assert torch.allclose(value, 10 + 0.25 * (weights * torch.tensor([2.0, 3.0, 0.0])).sum())
    value.backward()
    assert model.kl.grad is not None
    assert torch.allclose(model.kl.grad, (0.25 * weights / 2).expand(2, 3)), "weights are constants"
    assert loss("kl-balancing(warmup=0.4)", model, 0.4) == loss("elbo", model)
    assert loss("kl-balancing", Given([[1.0], [2.0]]), 0.15).item() == pytest.approx(10 + 0.5 * 1.5)
