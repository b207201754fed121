"""Every objective trains every model it accepts, reports the true ELBO, and refuses with a sentence."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from condvae.config import Config
from condvae.errors import UserError
from condvae.files import read_tensors
from condvae.objectives import OBJECTIVES
from condvae.probability.posteriors import POSTERIORS
from condvae.run import CHECKPOINT, MODEL
from condvae.training.trainer import Interrupted, Trainer
from condvae.verbs.train import train

OWN_TESTS = {"counterfactual", "semi-supervised"}
"""What these ask of a model is another thing; see test_label_critic.py and test_semi_supervised.py."""
SPECS = [
    *(name for name in OBJECTIVES.parts if name not in OWN_TESTS),
    "elbo(beta=2, warmup=0.5)",
    "free-bits(per=dimension)",
    "dip(variant=I)",
    "info(kernel=rbf, alpha=0)",
    "iwae(gradient='sticking-the-landing')",
    "iwae(gradient='doubly-reparameterised')",
]
ANY_MODEL = [
    "elbo",
    "capacity",
    "free-bits",
    "kl-balancing",
    "info",
    "factor",
    "iwae",
    "miwae",
    "ciwae",
]


def descend(spec: str, model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    objective = OBJECTIVES.build(spec, model=model, images=100)
    optimiser = torch.optim.Adam([*model.parameters(), *objective.parameters()])
    for step in range(3):
        loss = objective(model, *batch, step / 3)
        optimiser.zero_grad()
        loss.value.backward()
        optimiser.step()
        assert torch.isfinite(loss.value) and loss.value.ndim == 0
        assert {"elbo", "log_likelihood", "kl"} <= loss.metrics.keys()
        assert all(torch.isfinite(v) and not v.requires_grad for v in loss.metrics.values())
        sides = loss.metrics["log_likelihood"] - loss.metrics["kl"]
        assert torch.allclose(loss.metrics["elbo"], sides)
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("spec", SPECS)
def test_it_trains_a_flat_model(spec: str, flat_model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    descend(spec, flat_model, batch)


@pytest.mark.parametrize("spec", ANY_MODEL)
def test_it_trains_a_model_of_groups(
    spec: str, two_groups: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    descend(spec, two_groups, batch)


@pytest.mark.parametrize("spec", SPECS)
def test_the_elbo_it_reports_is_the_true_one(
    spec: str, flat_model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = (part.repeat(100, *[1] * (part.ndim - 1)) for part in batch)
    torch.manual_seed(0)
    with torch.no_grad():
        objective = OBJECTIVES.build(spec, model=flat_model, images=len(x))
        told = objective(flat_model, x, y, 0.1).metrics["elbo"]
        draws = torch.stack([flat_model.elbo(x, y).value for _ in range(20)])  # type: ignore[operator]
    assert abs(told - draws.mean()) < 5 * draws.mean(1).std()


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.split("(")[0] not in ANY_MODEL])
def test_groups_are_refused_where_they_cannot_be(spec: str, two_groups: nn.Module) -> None:
    with pytest.raises(
        UserError, match=r"needs a flat model.*; use that|needs a flat model.*; use those"
    ):
        OBJECTIVES.build(spec, model=two_groups, images=100)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("elbo(beta=-1)", "beta must be at least 0"),
        ("capacity(nats=-1)", "nats and gamma must be at least 0"),
        ("free-bits(nats=-1)", "nats must be at least 0"),
        ("free-bits(per=pixel)", "use group or dimension"),
        ("kl-balancing(warmup=2)", "within 0 to 1"),
        ("total-correlation(beta=-1)", "at least 0"),
        ("info(alpha=2)", "the KL would be driven up"),
        ("info(alpha=0.5, weight=0.2)", "at least 1 - alpha"),
        ("info(kernel=linear)", "use imq or rbf"),
        ("dip(variant=III)", "use I or II"),
        ("factor(layers=0)", "layers must be at least 1"),
        ("iwae(samples=0)", "samples must be at least 1"),
        ("iwae(gradient=reinforce)", "use standard or sticking-the-landing"),
        ("miwae(groups=0)", "must be at least 1"),
        ("ciwae(beta=2)", "within 0 to 1"),
        ("piwae(samples=0)", "must be at least 1"),
    ],
)
def test_an_impossible_option_is_a_sentence(spec: str, message: str, flat_model: nn.Module) -> None:
    with pytest.raises(UserError, match=message):
        OBJECTIVES.build(spec, model=flat_model, images=100)


@pytest.mark.parametrize("spec", ["free-bits(per=dimension)", "dip", "total-correlation"])
def test_a_prior_without_single_dimensions_is_refused(spec: str, flat_model: nn.Module) -> None:
    class Other(type(flat_model.prior)):  # type: ignore[misc]
        def log_prob(self, v: Tensor, y: Tensor) -> Tensor:
            return super().log_prob(v, y) - 1

    flat_model.prior = Other(3, 3)
    with pytest.raises(UserError, match="the prior conditional or standard-normal; use those, or"):
        OBJECTIVES.build(spec, model=flat_model, images=100)


@pytest.mark.parametrize("spec", ["iwae(gradient='doubly-reparameterised')", "piwae"])
def test_a_posterior_with_weights_of_its_own_is_refused(spec: str, flat_model: nn.Module) -> None:
    flat_model.posterior.amortised = False
    with pytest.raises(UserError, match="posterior has no weights of its own"):
        OBJECTIVES.build(spec, model=flat_model, images=100)


def test_a_discriminator_is_resumed_and_is_no_part_of_the_model(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = "factor(width=16, layers=2)"
    config = replace(small, training=replace(small.training, objective=spec, epochs=0.2))
    whole = train(config, tmp_path / "whole", quiet=True)
    step = Trainer.train_step

    def stopping(self: Trainer, *arguments: object) -> dict[str, float]:
        numbers = step(self, *arguments)  # type: ignore[arg-type]
        if self.step == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return numbers

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "train_step", stopping)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "run", quiet=True)
    kept, _ = read_tensors(tmp_path / "run" / CHECKPOINT, "")
    assert "weights.objective.discriminator.0.weight" in kept
    train(config, tmp_path / "run", resume=True, quiet=True)

    for file in (MODEL, CHECKPOINT):
        one, other = (read_tensors(path / file, "")[0] for path in (whole, tmp_path / "run"))
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        assert any("discriminator" in name for name in one) == (file == CHECKPOINT)
    line = json.loads((whole / "metrics.jsonl").read_text().splitlines()[-2])
    assert {"elbo", "total_correlation", "discriminator_loss"} <= line.keys()


def test_sticking_the_landing_refuses_a_posterior_whose_density_is_slow(flat_model: nn.Module) -> None:
    flat_model.posterior = POSTERIORS.build("inverse-autoregressive-flow", latents=3)
    with pytest.raises(UserError, match="not an inverse autoregressive flow"):
        OBJECTIVES.build("iwae(gradient='sticking-the-landing')", model=flat_model, images=100)
