"""Muon: orthogonal updates for hidden matrices, AdamW for the rest, and a checkpoint of both."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from condvae.config import Config, TrainingConfig
from condvae.errors import UserError
from condvae.training.checkpoint import read_checkpoint, restore, save_checkpoint
from condvae.training.ema import WeightAverage
from condvae.training.optimisers import OPTIMISERS, Muon, build_optimiser, orthogonalised, step_if


@pytest.mark.parametrize("shape", [(2, 20, 50), (1, 50, 20), (3, 32, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_singular_values_become_near_one(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    given = left * torch.logspace(1, -0.5, min(shape[1:])) @ right
    found = orthogonalised(given.to(dtype)).float()
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.4 and values.max() < 1.4
    left, spread, right = torch.linalg.svd(given, full_matrices=False)
    largest = (left[..., :1].mT @ found @ right[..., :1, :].mT).flatten()
    assert (largest > 0.5).all(), "the leading direction is kept"
    assert spread.max() > 5


class Small(nn.Module):
    """A layer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 20)
        self.narrow = nn.Linear(8, 20)
        self.hidden = nn.Linear(20, 24)
        self.kernel = nn.Conv2d(16, 16, 3)


def test_who_is_orthogonalised() -> None:
    module = Small()
    settings = TrainingConfig(optimiser="muon", weight_decay=0.5)
    groups = build_optimiser(settings, module, "fp32").param_groups
    chosen = [p for group in groups if group["orthogonal"] for p in group["params"]]
    assert {id(p) for p in chosen} == {id(module.hidden.weight), id(module.kernel.weight)}
    assert sum(len(group["params"]) for group in groups) == len(list(module.parameters()))
    for group in groups:
        assert group["weight_decay"] == (0.0 if group["params"][0].ndim == 1 else 0.5)


def test_an_update_has_the_size_that_it_should() -> None:
    torch.manual_seed(0)
    module = nn.Conv2d(32, 32, 3, bias=False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = build_optimiser(
        TrainingConfig(optimiser="muon", weight_decay=0.0, learning_rate=0.1), module, "fp32"
    )
    before = module.weight.detach().clone()
    (1e-3 * module.weight * torch.randn(32, 32, 3, 3)).sum().backward()
    optimiser.step()
    change = module.weight.detach() - before
    expected = 0.1 * 0.2 * math.sqrt(288) * math.sqrt(32 / (32 * 288))
    assert change.square().mean().sqrt().item() == pytest.approx(expected, rel=0.3)


def test_muon_descends_faster_than_adamw_on_a_matrix() -> None:
    def left(name: str) -> float:
        torch.manual_seed(0)
        layer, target = nn.Linear(32, 32, bias=False), torch.linalg.qr(torch.randn(32, 32))[0]
        optimiser = build_optimiser(TrainingConfig(optimiser=name, learning_rate=0.02), layer, "fp32")
        x = torch.randn(64, 32) * torch.logspace(0, -2, 32)
        for _ in range(60):
            optimiser.zero_grad()
            loss = (layer(x) - x @ target.T).square().sum()
            loss.backward()
            optimiser.step()
        return float((layer.weight - target).detach().square().sum())

    assert left("muon") < 0.7 * left("adamw")


@pytest.mark.parametrize("name", list(OPTIMISERS))
def test_a_checkpoint_goes_on_as_if_nothing_had_happened(name: str, tmp_path: Path) -> None:
    def parts() -> tuple[nn.Module, torch.optim.Optimizer, WeightAverage]:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(16, 32, 3), nn.Flatten(), nn.Linear(32, 16))
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return (
            module,
            build_optimiser(TrainingConfig(optimiser=name), module, "fp32"),
            WeightAverage(module, 0.1),
        )

    x = torch.randn(4, 16, 3, 3)

    def step(module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        optimiser.zero_grad()
        module(x).square().sum().backward()
        optimiser.step()

    module, optimiser, average = parts()
    for _ in range(3):
        step(module, optimiser)
    save_checkpoint(tmp_path / "state", module, optimiser, average, {"step": 3})
    step(module, optimiser)
    after = {key: value.clone() for key, value in module.state_dict().items()}
    module, optimiser, average = parts()
    restore(read_checkpoint(tmp_path / "state"), module, optimiser, average)
    step(module, optimiser)
    for key, value in module.state_dict().items():
        assert torch.equal(value, after[key]), key


@pytest.mark.parametrize("ruin", [1e3, float("nan"), float("inf")])
@pytest.mark.parametrize("name", list(OPTIMISERS))
def test_a_gradient_of_no_use_leaves_weights_and_moments_as_they_were(name: str, ruin: float) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(16, 32, 3), nn.Flatten(), nn.Linear(32, 16))
    optimiser = build_optimiser(TrainingConfig(optimiser=name), module, "fp32")
    x = torch.randn(4, 16, 3, 3)

    def step(usable: bool) -> None:
        optimiser.zero_grad()
        (module(x).square().sum() * (1.0 if usable else ruin)).backward()
        step_if(torch.tensor(usable), optimiser)

    def state() -> list[torch.Tensor]:
        moments = [value for values in optimiser.state.values() for value in values.values()]
        return [tensor.detach().clone() for tensor in (*module.parameters(), *moments)]

    step(True)
    before = state()
    step(False)
    assert all(torch.equal(*pair) for pair in zip(before, state(), strict=True))
    step(True)
    assert not any(torch.equal(*pair) for pair in zip(before, state(), strict=True))


def test_muon_trains_the_small_recipe(small: Config, tmp_path: Path) -> None:
    from condvae.verbs.train import train

    config = replace(small, training=replace(small.training, optimiser="muon", epochs=0.2))
    run = train(config, tmp_path / "run", quiet=True)
    assert (run / "model.safetensors").exists()


def test_an_unknown_optimiser_is_refused() -> None:
    with pytest.raises(UserError, match="there are: adamw, muon"):
        build_optimiser(TrainingConfig(optimiser="sgd"), nn.Linear(2, 2), "fp32")


def test_muon_leaves_the_rest_to_adamw() -> None:
    assert issubclass(Muon, torch.optim.AdamW)
