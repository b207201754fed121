"""Steps that are a CUDA graph; and, without a GPU, that steps do nothing which one can't hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from condvae.config import Config, ModelConfig
from condvae.objectives import OBJECTIVES
from condvae.probability.priors import PRIORS
from condvae.training.graph import StepGraph
from condvae.training.trainer import Trainer
from condvae.verbs.sources import training_images

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique")
"""Operations whose result the processor must have before it can go on."""
COPIES = "lift_fresh"
"""A tensor is made of Python's numbers, which a GPU would have to be sent."""


class Watcher(TorchDispatchMode):
    """Notes operations that a GPU would be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.seen.update(name for name in (*WAITS, COPIES) if name in str(func))
        return func(*args, **kwargs or {})


def seen_in_a_step(config: Config, out: Path) -> set[str]:
    data = training_images(config.data, None)
    trainer = Trainer(config, (data, data), out, quiet=True)
    x, y = next(trainer.batches.epoch(0))
    trainer.train_step(x, y, 0.5)
    with Watcher() as watcher:
        trainer._take(x, y)
    trainer.monitor.close()
    return watcher.seen


UNLIKE = {"counterfactual", "semi-supervised"}
"""Whose images the processor moves and degrades, or whose labels it looks at."""


@pytest.mark.parametrize("objective", sorted({*OBJECTIVES.parts} - UNLIKE))
def test_no_objective_waits_for_the_device(small: Config, tmp_path: Path, objective: str) -> None:
    training = replace(small.training, objective=objective, optimiser="muon")
    assert not seen_in_a_step(replace(small, training=training), tmp_path / "run")


@pytest.mark.parametrize("prior", sorted({*PRIORS.parts} - {"vamp"}))
def test_no_prior_waits_for_the_device(small: Config, tmp_path: Path, prior: str) -> None:
    model = replace(small.model, prior=prior)
    assert not seen_in_a_step(replace(small, model=model), tmp_path / "run")


def test_no_ladder_waits_for_the_device(small: Config, tmp_path: Path) -> None:
    family = "ladder(groups=[1,1,1], channels=[4,2,1], widths=[32,16,16], blocks=[0,1,0])"
    model = ModelConfig(family=family, likelihood=small.model.likelihood)
    assert not seen_in_a_step(replace(small, model=model), tmp_path / "run")


def test_what_waits_is_seen(small: Config, tmp_path: Path) -> None:
    training = replace(small.training, optimiser="adamax")
    assert seen_in_a_step(replace(small, training=training), tmp_path / "run")


# --------------------------------------------------------------------------------------------- on a GPU


def steps_of(config: Config, out: Path, graph: bool, steps: int = 12) -> tuple[Trainer, list[float]]:
    data = training_images(config.data, None)
    trainer = Trainer(config, (data, data), out, quiet=True)
    if not graph:
        trainer.graph = None
    losses = []
    for number in range(steps):
        x, y = next(trainer.batches.epoch(number))
        losses.append(float(trainer.train_step(x, y, number / steps)["loss"]))
    trainer.monitor.close()
    return trainer, losses


@on_a_gpu
@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
@pytest.mark.parametrize("objective", ["elbo(warmup=0.5)", "kl-balancing(warmup=0.5)", "iwae"])
def test_its_steps_are_the_same_steps(
    small: Config, tmp_path: Path, objective: str, optimiser: str
) -> None:
    training = replace(small.training, device="cuda", objective=objective, optimiser=optimiser)
    config = replace(small, training=training)
    one, losses = steps_of(config, tmp_path / "graph", True)
    other, expected = steps_of(config, tmp_path / "plain", False)
    assert one.graph and one.graph.made and not one.graph.why_not
    assert losses == pytest.approx(expected, rel=1e-3)
    for name, average in one.average.state_dict().items():
        torch.testing.assert_close(average, other.average.state_dict()[name], rtol=1e-2, atol=1e-3)


@on_a_gpu
def test_what_the_processor_draws_is_in_no_graph(small: Config, tmp_path: Path) -> None:
    training = replace(small.training, device="cuda", objective="counterfactual")
    trainer, losses = steps_of(replace(small, training=training), tmp_path / "run", True)
    assert trainer.graph and not trainer.graph.made and trainer.graph.why_not
    assert all(loss == loss for loss in losses)


@on_a_gpu
def test_a_step_that_waits_is_in_no_graph() -> None:
    value = torch.ones(2, device="cuda")
    taken = StepGraph(lambda x, y: {"sum": x.new_tensor(float((x + y).sum()))})
    for _ in range(6):
        assert float(taken(value, value)["sum"]) == 4
    assert not taken.made and "waits" in taken.why_not
