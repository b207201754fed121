"""Steps in parts: one after another in one process, or in several at once, they are the same steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor, nn

from condvae.config import Config, to_toml
from condvae.data.batches import Batches
from condvae.data.dataset import LabelledImages
from condvae.errors import UserError
from condvae.evaluation.bounds import Bounds, bounds
from condvae.evaluation.outputs import sampled
from condvae.files import read_tensors
from condvae.models.protocol import ConditionalModel
from condvae.objectives import OBJECTIVES, Loss
from condvae.objectives.base import reported
from condvae.processes import PLACE, Processes, apart, seed_draws
from condvae.run import CHECKPOINT, MODEL, load
from condvae.verbs.evaluate import evaluate
from condvae.verbs.sample import sample
from condvae.verbs.train import train


def with_training(config: Config, **changes: object) -> Config:
    return replace(config, training=replace(config.training, **changes))  # type: ignore[arg-type]


def weights(path: Path) -> dict[str, Tensor]:
    return read_tensors(path / MODEL, "")[0]


def losses(path: Path) -> list[float]:
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


class Drawless(nn.Module):
    """The ELBO at the posterior's mean: it draws nothing, so parts of a batch add up to the batch."""

    def __init__(self, model: ConditionalModel) -> None:
        super().__init__()

    def forward(self, model: ConditionalModel, x: Tensor, y: Tensor, share: float) -> Loss:
        elbo = model.elbo(x, y, torch.zeros(len(x), model.latents))
        likelihood, kl = elbo.log_likelihood.mean(), elbo.kl.sum(1).mean()
        return Loss(kl - likelihood, reported(likelihood, kl))


@pytest.mark.parametrize("micro_batches", [2, 3])
def test_parts_of_a_batch_add_up_to_the_batch(
    micro_batches: int, small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OBJECTIVES.parts, "drawless", Drawless)
    likelihood = replace(small.model, likelihood="grey-cross-entropy")
    config = with_training(
        replace(small, model=likelihood), objective="drawless", epochs=0.3, optimiser="adam"
    )
    whole = train(config, tmp_path / "whole", quiet=True)
    parted = with_training(config, micro_batches=micro_batches)
    in_parts = train(parted, tmp_path / "parts", quiet=True)
    assert losses(in_parts) == pytest.approx(losses(whole), rel=1e-4)


def test_shares_of_a_batch_are_the_batch() -> None:
    images = np.arange(50, dtype=np.uint8)[:, None, None, None]
    data = LabelledImages(images, np.arange(50) % 5, tuple("abcde"), "x", "train")
    whole = [x[:, 0, 0, 0].tolist() for x, _ in Batches(data, 8, "cpu", seed=1).epoch(2)]
    shares = [
        [x[:, 0, 0, 0].tolist() for x, _ in Batches(data, 8, "cpu", seed=1, share=(i, 3)).epoch(2)]
        for i in range(3)
    ]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert [parts[place % 3][place // 3] for place in range(8)] == batch


def test_draws_depend_on_seed_step_and_part_and_on_nothing_else() -> None:
    def drawn(*numbers: int) -> list[float]:
        seed_draws(torch.device("cpu"), *numbers)
        return torch.randn(3).tolist()

    first = drawn(0, 7, 1)
    others = [drawn(1, 7, 1), drawn(0, 8, 1), drawn(0, 7, 0)]
    assert drawn(0, 7, 1) == first and first not in others


def test_a_run_goes_on_in_as_many_parts_as_it_began(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from condvae.training import trainer

    config = with_training(small, checkpoint_seconds=0.0)
    step, path = trainer.Trainer.train_step, tmp_path / "run"

    def dying(self: trainer.Trainer, *arguments: object) -> dict[str, float]:
        if self.step == 5:
            raise RuntimeError("the end")
        return step(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="the end"):
        patched.setattr(trainer.Trainer, "train_step", dying)
        train(config, path, quiet=True)
    with pytest.raises(UserError, match=r"begun with steps in 1 parts, not 2"):
        train(with_training(config, micro_batches=2), path, resume=True, quiet=True)
    with pytest.raises(UserError, match=r"2 images can't be taken in 3 parts"):
        train(with_training(config, batch_size=2, micro_batches=3), tmp_path / "few", quiet=True)


MORE = [23 * (index + 1) // 30 - 23 * index // 30 for index in range(30)]
"""Images of each of thirty processes, of 23 in all."""


@pytest.mark.parametrize(("processes", "lengths"), [(3, [7, 8, 8]), (5, [4, 5, 4, 5, 5]), (30, MORE)])
def test_shares_of_test_images_are_scored_as_the_whole(
    small_run: Path, processes: int, lengths: list[int]
) -> None:
    model = load(small_run).model
    x = 255 * torch.randint(0, 2, (23, *model.shape), dtype=torch.uint8)
    y = torch.arange(23) % model.classes
    whole = bounds(model, x, y, samples=6)
    shares = []
    for index in range(processes):
        one = Processes(torch.device("cpu"))
        one.number, one.index = processes, index
        part = one.share(23)
        shares.append(bounds(model, x[part], y[part], samples=6, first=part.start))
    assert [len(share.elbo) for share in shares] == lengths
    joined = Bounds.joined(shares)
    for field in ("elbo", "marginal", "curve", "kl", "means"):
        assert np.allclose(getattr(joined, field), getattr(whole, field), rtol=1e-4, atol=1e-4), field


LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def two_processes(verb: str, what: Path, out: Path, *more: str) -> list[str]:
    return [*LAUNCHER, "-m", "condvae", verb, str(what), "--out", str(out), *more]


def killed_once_it_has_begun(command: list[str], path: Path) -> None:
    """Start a training in several processes, and kill them all when a checkpoint is there."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (path / CHECKPOINT).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
        each.kill()
    process.wait()
    assert not (path / MODEL).exists(), "it finished before it was killed; make it longer"


def finished(command: list[str]) -> str:
    """What a command says, which must end well."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
@pytest.mark.parametrize("shard", [False, True], ids=["copies", "parts"])
def test_two_processes_take_the_steps_that_one_takes_and_survive_being_killed(
    shard: bool, small: Config, tmp_path: Path
) -> None:
    config = with_training(small, epochs=4.0, checkpoint_seconds=0.0, optimiser="muon", shard=shard)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(to_toml(config), "utf-8")
    alone = train(with_training(config, micro_batches=2), tmp_path / "alone", quiet=True)

    said = finished(two_processes("train", recipe, tmp_path / "two"))
    assert said.count("trained: ") == 1, "of two processes, one speaks"
    assert losses(tmp_path / "two") == pytest.approx(losses(alone), rel=1e-3)
    one, two = weights(alone), weights(tmp_path / "two")
    assert all(torch.allclose(one[name], two[name], atol=0.02) for name in one)

    path = tmp_path / "killed"
    killed_once_it_has_begun(two_processes("train", recipe, path), path)
    finished(two_processes("train", recipe, path, "--resume"))
    assert all(torch.equal(tensor, two[name]) for name, tensor in weights(path).items())


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads' names are read from /proc")
@pytest.mark.parametrize("shard", [False, True], ids=["copies", "parts"])
def test_no_thread_that_passed_messages_is_at_work_after_a_training(
    shard: bool, small: Config, tmp_path: Path
) -> None:
    recipe, script = tmp_path / "recipe.toml", tmp_path / "script.py"
    recipe.write_text(to_toml(with_training(small, shard=shard)), "utf-8")
    script.write_text(
        f"""
from pathlib import Path
from condvae.verbs.train import train

def at_work():
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]

train({str(recipe)!r}, {str(tmp_path / "run")!r}, quiet=True)
assert not [name for name in at_work() if "gloo" in name], at_work()
""",
        "utf-8",
    )
    finished([*LAUNCHER, str(script)])


@pytest.mark.long
def test_two_processes_measure_and_sample_what_one_does(small_run: Path, tmp_path: Path) -> None:
    apart, together = tmp_path / "one.json", tmp_path / "both.json"
    evaluate(small_run, samples=3, train_images=0, labels=False, out=apart, quiet=True)
    flags = ["--samples", "3", "--train-images", "0", "--no-labels"]
    said = finished(two_processes("evaluate", small_run, together, *flags))
    assert said.count(together.name) == 1, "of two processes, one speaks"
    expected, found = (json.loads(path.read_text()) for path in (apart, together))
    for name in (
        "images",
        "elbo_nats",
        "log_likelihood_nats",
        "marginal_log_likelihood_nats",
        "active_units",
    ):
        assert found[name] == pytest.approx(expected[name], rel=1e-4), name

    sample(small_run, count=130, out=tmp_path / "one")
    said = finished(two_processes("sample", small_run, tmp_path / "both", "--count", "130"))
    assert said.count("samples.npz") == 1
    whole, parts = (np.load(tmp_path / name / "samples.npz")["images"] for name in ("one", "both"))
    assert len(whole) == 1300 and np.abs(whole.astype(int) - parts).max() <= 1


@pytest.mark.long
def test_two_processes_share_an_audit(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    source, labels = tmp_path / "data.npz", np.arange(90) % 3
    images = np.random.default_rng(0).integers(0, 60, (90, 8, 8), dtype=np.uint8)
    images[np.arange(90), :, labels] += 150
    np.savez(source, images=images, labels=labels)
    flags = ["--scores", "neighbours", "--folds", "3", "--minutes", "0.1"]
    alone = [sys.executable, "-m", "condvae", "audit", str(source), "--out", str(tmp_path / "one")]
    finished([*alone, *flags])
    said = finished(two_processes("audit", source, tmp_path / "both", *flags))
    assert said.count("report.html") == 1, "of two processes, one speaks"
    one, both = ((tmp_path / name / "scores.parquet").read_bytes() for name in ("one", "both"))
    assert one == both


def test_what_is_shared_out_apart_is_done_by_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(PLACE, ("3", "4", "1"), strict=True):
        monkeypatch.setenv(name, value)
    with apart() as (index, number):
        assert (index, number) == (3, 4)
        assert not any(name in os.environ for name in PLACE)
    assert os.environ["RANK"] == "3"
    for name in PLACE:
        monkeypatch.delenv(name)
    with apart() as place:
        assert place == (0, 1)


def test_samples_are_the_same_whoever_draws_them(small_run: Path) -> None:
    model = load(small_run, "cpu").model
    y = torch.arange(1300) % model.classes
    shares: list[list[Tensor]] = []
    for index in range(2):
        one = Processes(torch.device("cpu"))
        one.number, one.index = 2, index
        one.gathered = lambda parts: [shares.append(parts) or parts]  # type: ignore[method-assign,assignment,func-returns-value]
        sampled(model, y, seed=5, processes=one)
    assert [len(parts) for parts in shares] == [1, 2]
    assert torch.equal(torch.cat([*shares[0], *shares[1]]), sampled(model, y, seed=5))
    assert not torch.equal(sampled(model, y[:500], seed=5), sampled(model, y[:500], seed=6))
