"""Trainings whose results are known; and steps that are beyond use, which leave no trace."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ruin import ruined

from condvae.config import Config, ModelConfig
from condvae.errors import UserError
from condvae.files import read_tensors
from condvae.probability.binary import Bernoulli
from condvae.run import CHECKPOINT, MODEL, load
from condvae.training import trainer as training
from condvae.training.trainer import Interrupted, Trainer
from condvae.verbs import doctor
from condvae.verbs.train import train

# ----------------------------------------------------------------------------------------- known results

LADDER = "ladder(groups=[1, 2, 1], channels=[6, 2, 1], widths=[16, 16, 16], blocks=[0, 1, 0])"
GOLDEN = {"flat": -189.6, "ladder": -174.0, "colour": -770.8}
"""Validation ELBO, nats an image, after training on one core of a processor without bf16."""
TOLERANCE = 0.02
"""As a share of it: more than rounding on other processors comes to, and less than a mistake does."""


def stripes() -> dict[str, np.ndarray]:
    """Colour images of two classes, striped across and along, in noise."""
    generator = np.random.default_rng(0)
    labels = np.arange(600) % 2
    wave = 90 * np.sin(np.arange(8) * 1.7 + generator.uniform(0, 6, (600, 1)))
    striped = np.where(labels[:, None, None] == 0, wave[:, None, :], wave[:, :, None])
    noise = generator.normal(0, 12, (600, 3, 8, 8))
    images = 128 + striped[:, None] * np.array([1.0, 0.5, -0.5])[:, None, None] + noise
    return {"images": images.clip(0, 255).astype(np.uint8), "labels": labels}


def golden(name: str, small: Config, folder: Path) -> Config:
    """A tiny training by name."""
    how = replace(small.training, epochs=2.0)
    if name == "ladder":
        model = ModelConfig(family=LADDER)
        return replace(small, model=model, training=replace(how, optimiser="muon", batch_size=64))
    if name == "colour":
        np.savez(folder / "stripes.npz", **stripes())
        model = ModelConfig(
            network="conv(width=8, patch=4, hidden=32)",
            likelihood="discretised-logistic",
            prior="coupling-flow(steps=2, hidden=16)",
            latents=4,
        )
        how = replace(how, objective="iwae(samples=4)", epochs=20.0, batch_size=32)
        data = replace(small.data, source=str(folder / "stripes.npz"), validation=0.2)
        return replace(small, data=data, model=model, training=how)
    return replace(small, training=how)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_training_comes_to_its_known_result(name: str, small: Config, tmp_path: Path) -> None:
    run = load(train(golden(name, small, tmp_path), tmp_path / "run", quiet=True), "cpu")
    assert run.training["validation_elbo"] == pytest.approx(GOLDEN[name], rel=TOLERANCE)


@pytest.mark.slow
def test_the_doctor_knows_its_result(tmp_path: Path) -> None:
    config = doctor._tiny(doctor.KNOWN_EPOCHS, "cpu")
    run = load(train(config, tmp_path / "run", quiet=True), "cpu")
    assert run.training["validation_elbo"] == pytest.approx(doctor.KNOWN_ELBO, abs=doctor.TOLERANCE / 2)


# ------------------------------------------------------------------------------------ steps beyond use


def twice(small: Config) -> Config:
    """The small recipe for two epochs."""
    return replace(small, training=replace(small.training, epochs=2.0))


@pytest.mark.parametrize("seed", range(3))
def test_ruin_at_random_is_skipped_and_counted(
    seed: int, small: Config, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    kinds = (float("nan"), float("inf"), -float("inf"), 1e6, -1e9, 1e30)
    factors = {step: chance.choice(kinds) for step in range(4, 60) if chance.random() < 0.3}
    config = ruined(twice(small), factors, monkeypatch)
    run = load(train(config, tmp_path / "run", quiet=True), "cpu")
    assert run.training["skipped_steps"] == sum(step <= run.training["steps"] for step in factors)
    assert all(torch.isfinite(t).all() for t in read_tensors(run.path / MODEL, "")[0].values())
    assert run.training["validation_elbo"] > -300


def test_ruin_leaves_no_trace_in_statistics_of_batches(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not a number anywhere in a forward pass gets into batch normalisation's running means."""
    seen, see = [0], Bernoulli.network_input

    def now_and_then_nothing(self: Bernoulli, x: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():  # validation
            return see(self, x)
        seen[0] += 1
        return see(self, x) * (float("nan") if seen[0] % 5 == 0 else 1.0)

    monkeypatch.setattr(Bernoulli, "network_input", now_and_then_nothing)
    model = replace(small.model, network="resnet(width=4, blocks=1)")
    config = replace(small, model=model, training=replace(small.training, epochs=0.5))
    run = load(train(config, tmp_path / "run", quiet=True), "cpu")
    assert run.training["skipped_steps"] == run.training["steps"] // 5 > 0
    assert all(torch.isfinite(t).all() for t in read_tensors(run.path / MODEL, "")[0].values())


def test_a_training_that_diverges_keeps_its_last_good_weights(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ruined(twice(small), {step: float("nan") for step in range(8, 1000)}, monkeypatch)
    monkeypatch.setattr(training, "SKIPS_IN_A_ROW", 6)
    with pytest.raises(UserError, match=r"diverged at step 13.*weights of step 7, the last good one"):
        train(config, tmp_path / "run", quiet=True)

    step = Trainer.train_step

    def until_the_seventh(self: Trainer, *arguments: object) -> dict[str, float]:
        if self.step == 7:
            raise Interrupted
        return step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "train_step", until_the_seventh)
    config = replace(config, training=replace(config.training, checkpoint_seconds=0.0))
    with pytest.raises(Interrupted):
        train(config, tmp_path / "good", quiet=True)
    kept, good = (read_tensors(tmp_path / run / CHECKPOINT, "")[0] for run in ("run", "good"))
    names = [name for name in good if name.startswith(("weights.", "optimiser."))]
    assert names and all(torch.equal(kept[name], good[name]) for name in names)
    assert not (tmp_path / "run" / MODEL).exists()
