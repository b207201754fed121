"""Schedule, average and checkpoint."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from condvae.errors import UserError
from condvae.training.checkpoint import read_checkpoint, restore, save_checkpoint
from condvae.training.ema import WeightAverage, gamma_of_width
from condvae.training.optimisers import clipped
from condvae.training.schedule import learning_rate, progress


def test_progress_is_the_larger_share() -> None:
    assert progress(5, 10, 0, None) == 0.5
    assert progress(5, None, 30, 60) == 0.5
    assert progress(5, 10, 54, 60) == 0.9
    assert progress(99, 10, 0, None) == 1


def test_learning_rate_warms_up_and_ends_at_zero() -> None:
    assert learning_rate(1.0, 0, 100, 0.0) == pytest.approx(0.01)
    assert learning_rate(1.0, 100, 100, 0.0) == 1
    assert learning_rate(1.0, 500, 100, 0.5) == pytest.approx(0.5)
    assert learning_rate(1.0, 999, 100, 1.0) == pytest.approx(0)
    assert learning_rate(1.0, 0, 100, 0.5, "constant") == 1


@pytest.mark.parametrize("width", [0.03, 0.06, 0.15])
@pytest.mark.parametrize("steps", [400, 4000])
def test_the_averages_window_is_a_share_of_the_run(width: float, steps: int) -> None:
    """Of numbers 1 .. n, the average's weights have the relative standard deviation asked for."""
    gamma = gamma_of_width(width)
    assert (gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)) == pytest.approx(width**2)
    weights = torch.zeros(steps, dtype=torch.float64)
    for step in range(1, steps + 1):
        share = 1 - (1 - 1 / step) ** (gamma + 1)
        weights *= 1 - share
        weights[step - 1] = share
    times = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    mean = (weights * times).sum()
    spread = (weights * (times - mean) ** 2).sum().sqrt()
    assert float(weights.sum()) == pytest.approx(1)
    assert float(spread) == pytest.approx(width, rel=0.05)


def test_average_follows_floats_and_width_zero_keeps_the_newest() -> None:
    model = torch.nn.BatchNorm1d(2)
    for width in (0.0, 0.1):
        average = WeightAverage(model, width)
        for step in range(1, 50):
            with torch.no_grad():
                model.weight.fill_(float(step))
            average.update(average.share(step))
        mean = float(average.state_dict()["weight"][0])
        assert mean == 49 if width == 0 else 30 < mean < 48


def test_a_checkpoint_puts_everything_back(tmp_path: Path) -> None:
    def parts() -> tuple[torch.nn.Module, torch.optim.Optimizer, WeightAverage]:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1), WeightAverage(model, 0.1)

    x = torch.randn(4, 3)

    def step(model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> None:
        optimiser.zero_grad()
        model(x).square().sum().backward()
        optimiser.step()

    model, optimiser, average = parts()
    for number in range(1, 4):
        step(model, optimiser)
        average.update(average.share(number))
    save_checkpoint(tmp_path / "state", model, optimiser, average, {"step": 3, "norm": None})
    step(model, optimiser)
    after = model.weight.clone()

    model, optimiser, average = parts()
    checkpoint = read_checkpoint(tmp_path / "state")
    restore(checkpoint, model, optimiser, average)
    assert checkpoint.counters == {"step": 3, "norm": None}
    step(model, optimiser)
    assert torch.equal(model.weight, after)


def test_a_checkpoint_keeps_moments_laid_out_as_their_parameters(tmp_path: Path) -> None:
    """A fused optimiser walks through memory, so channels-last kernels need channels-last moments."""

    def parts() -> tuple[torch.nn.Module, torch.optim.Optimizer, WeightAverage]:
        torch.manual_seed(0)
        model = torch.nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
        return model, optimiser, WeightAverage(model, 0.1)

    def step(model: torch.nn.Module, optimiser: torch.optim.Optimizer, seed: int) -> None:
        optimiser.zero_grad()
        x = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(seed))
        model(x).square().sum().backward()
        optimiser.step()

    model, optimiser, average = parts()
    step(model, optimiser, 1)
    save_checkpoint(tmp_path / "state", model, optimiser, average, {})
    step(model, optimiser, 2)
    after = model.weight.clone()
    model, optimiser, average = parts()
    restore(read_checkpoint(tmp_path / "state"), model, optimiser, average)
    step(model, optimiser, 2)
    assert torch.equal(model.weight, after)


def test_a_damaged_checkpoint_is_a_sentence(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    optimiser, average = torch.optim.Adam(model.parameters()), WeightAverage(model, 0.0)
    path = tmp_path / "state"
    save_checkpoint(path, model, optimiser, average, {"step": 1})
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"\x80\x04pickle", whole[:8] + b"{" * 50):
        path.write_bytes(content)
        with pytest.raises(UserError, match="damaged"):
            read_checkpoint(path)
    other = torch.nn.Linear(3, 2)
    path.write_bytes(whole)
    with pytest.raises(UserError, match="does not belong to this recipe"):
        restore(
            read_checkpoint(path), other, torch.optim.Adam(other.parameters()), WeightAverage(other, 0.0)
        )
    assert math.isfinite(float(model.weight.detach().sum()))


def test_clipped_tells_the_norm_and_cuts_only_where_there_is_a_limit() -> None:
    def parameters() -> list[torch.nn.Parameter]:
        three = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
        three[0].grad, three[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
        return three  # the last has no gradient

    for limit, left in ((0.0, 5.0), (10.0, 5.0), (1.0, 1.0)):
        found = parameters()
        assert float(clipped(found, limit)) == pytest.approx(5.0)
        assert math.hypot(*(float(p.grad.norm()) for p in found if p.grad is not None)) == pytest.approx(
            left, rel=1e-5
        )
