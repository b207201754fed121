"""Training: resuming equals never having stopped, ruinous steps are skipped, faults are told."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from accelerate import tracking
from accelerate.utils import LoggerType
from ruin import ruined

from condvae import files
from condvae.config import Config, ModelConfig, load_recipe, to_toml
from condvae.errors import UserError
from condvae.files import read_tensors
from condvae.run import CHECKPOINT, MODEL, choose_device, load
from condvae.training import trainer as training
from condvae.training.checkpoint import read_checkpoint
from condvae.training.compilation import why_not
from condvae.training.trainer import Interrupted, Trainer
from condvae.verbs.train import train


def weights(path: Path) -> dict[str, torch.Tensor]:
    return read_tensors(path / MODEL, "")[0]


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def stop_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for a stop after a number of steps, as Ctrl-C does."""
    step = Trainer.train_step

    def counted(self: Trainer, *arguments: object) -> dict[str, float]:
        numbers = step(self, *arguments)  # type: ignore[arg-type]
        if self.step == steps:
            os.kill(os.getpid(), signal.SIGINT)
        return numbers

    monkeypatch.setattr(Trainer, "train_step", counted)


def test_a_run_repeats_bit_for_bit(small: Config, small_run: Path, tmp_path: Path) -> None:
    assert same(train(small, tmp_path / "again", quiet=True), small_run)
    other = replace(small, training=replace(small.training, seed=1))
    assert not same(train(other, tmp_path / "other", quiet=True), small_run)


@pytest.mark.parametrize("steps", [1, 17, 58])
def test_resuming_equals_never_having_stopped(
    steps: int, small: Config, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    with monkeypatch.context() as patched:
        stop_after(steps, patched)
        with pytest.raises(Interrupted):
            train(small, path, quiet=True)
    assert (path / CHECKPOINT).exists() and not (path / MODEL).exists()
    with pytest.raises(UserError, match=r"has not finished; go on with.*--resume"):
        load(path)
    train(small, path, resume=True, quiet=True)
    assert same(path, small_run)
    logged = [json.loads(line)["step"] for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert logged == sorted(logged)
    assert train(small, path, resume=True, quiet=True) == path, "a finished run has nothing to resume"


@pytest.mark.parametrize(
    "parts",
    [
        {"network": "resnet(width=4, blocks=1)"},
        {"family": "ladder(groups=[1,1], channels=[8,2], widths=[16,8], blocks=[0,0], style=3)"},
    ],
    ids=["batch-norm", "style"],
)
def test_resuming_goes_on_with_statistics_of_batches_and_another_optimiser(
    parts: dict[str, str], small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(
        small,
        model=replace(ModelConfig(), **parts),  # type: ignore[arg-type]
        training=replace(small.training, optimiser="adamax", epochs=0.15, batch_size=32),
    )
    whole = train(config, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patched:
        stop_after(9, patched)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "run", quiet=True)
    assert same(train(config, tmp_path / "run", resume=True, quiet=True), whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_process_leaves_a_run_that_resumes_to_the_same_result(
    number: int, small: Config, tmp_path: Path
) -> None:
    config = replace(small, training=replace(small.training, epochs=6.0, checkpoint_seconds=0.2))
    whole = train(config, tmp_path / "whole", quiet=True)
    recipe, path = tmp_path / "recipe.toml", tmp_path / "run"
    recipe.write_text(to_toml(config), "utf-8")
    command = [sys.executable, "-m", "condvae", "train", str(recipe), "--out", str(path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (path / CHECKPOINT).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130), error
    assert "Traceback" not in error
    if (path / MODEL).exists():
        pytest.fail("it finished before it was stopped; make it longer")
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert same(path, whole)


def test_a_run_directory_is_taken_once_and_a_resumed_run_keeps_its_settings(
    small: Config, small_run: Path
) -> None:
    with pytest.raises(UserError, match="holds a run already"):
        train(small, small_run, quiet=True)
    other = replace(small, model=replace(small.model, latents=7))
    with pytest.raises(UserError, match=r"begun with model\.latents = 4, not 7"):
        train(other, small_run, resume=True, quiet=True)


def test_a_folder_with_other_things_in_it_is_left_alone(small: Config, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UserError, match="is not empty, and no run directory"):
        train(small, tmp_path, quiet=True)
    assert [file.name for file in tmp_path.iterdir()] == ["README.md"]


def test_a_run_is_not_resumed_on_other_images(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = {"images": np.zeros((40, 28, 28), np.uint8), "labels": np.arange(40) % 10}
    np.savez(tmp_path / "data.npz", **arrays)
    config = replace(small, data=replace(small.data, source=str(tmp_path / "data.npz")))
    config = replace(config, training=replace(config.training, epochs=5.0))
    with monkeypatch.context() as patched:
        stop_after(2, patched)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "run", quiet=True)
    arrays["images"][0] = 9
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(UserError, match=r"data\.npz has changed since"):
        train(config, tmp_path / "run", resume=True, quiet=True)


# ------------------------------------------------------------------------------- steps, and their faults


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e6])
def test_steps_beyond_use_are_skipped_and_counted(
    factor: float, small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ruined(small, dict.fromkeys((5, 6, 20), factor), monkeypatch)
    run = load(train(config, tmp_path / "run", quiet=True), "cpu")
    assert run.training["skipped_steps"] == 3
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "run").values())


def test_too_many_such_steps_in_a_row_end_with_a_sentence_and_good_weights(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SKIPS_IN_A_ROW", 8)
    config = ruined(small, dict.fromkeys(range(5, 1000), float("nan")), monkeypatch)
    with pytest.raises(UserError, match=r"diverged at step 12.*learning-rate"):
        train(config, tmp_path / "run", quiet=True)


class Diary:
    """Stands for a tracker of experiments."""

    name = "wandb"
    requires_logging_directory = False
    main_process_only = True
    lines: ClassVar[list[object]] = []

    def __init__(self, project: str, **_: object) -> None:
        self.lines.append(project)

    def start(self) -> None:
        pass

    def store_init_configuration(self, values: dict[str, object]) -> None:
        self.lines.append(values)

    def log(self, values: dict[str, object], step: int, **_: object) -> None:
        self.lines.append((step, values))

    def finish(self) -> None:
        self.lines.append("the end")


def test_numbers_go_to_a_tracker_too(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(small, training=replace(small.training, trackers=("wandb",), epochs=0.2))
    monkeypatch.setattr(tracking, "_available_trackers", [])
    with pytest.raises(UserError, match="wandb: is not installed"):
        train(config, tmp_path / "without", quiet=True)
    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.WANDB])
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Diary)
    train(config, tmp_path / "run", quiet=True)
    first, settings, *logged, last = Diary.lines
    assert (first, last) == ("condvae", "the end")
    assert isinstance(settings, dict) and settings["model.latents"] == "4"
    assert any("validation_elbo" in values for _, values in logged)  # type: ignore[misc]
    odd = replace(config, training=replace(config.training, trackers=("diary",)))
    with pytest.raises(UserError, match="diary: unknown; use"):
        train(odd, tmp_path / "odd", quiet=True)


def test_clipping_bounds_the_step(small: Config, tmp_path: Path) -> None:
    config = replace(small, training=replace(small.training, clip=1e-12, optimiser="adam", epochs=0.05))
    train(config, tmp_path / "run", quiet=True)
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["step"] == 3


def test_a_run_of_almost_no_epochs_is_one_step(small: Config, tmp_path: Path) -> None:
    config = replace(small, training=replace(small.training, epochs=1e-9))
    assert load(train(config, tmp_path / "run", quiet=True), "cpu").training["steps"] == 1


def test_training_gets_better_and_says_so(small_run: Path) -> None:
    run = load(small_run, "cpu")
    assert run.training["validation_elbo"] > -300, "from about -545 with random weights"
    assert run.training["epochs"] == pytest.approx(1, abs=0.02)
    lines = [json.loads(line) for line in (small_run / "metrics.jsonl").read_text().splitlines()]
    assert any("validation_elbo" in line for line in lines)
    assert all({"elbo", "kl", "images_per_second"} <= line.keys() for line in lines if "loss" in line)
    assert list((small_run / "tensorboard").iterdir()) and (small_run / "README.md").exists()


def test_test_images_decide_nothing(small: Config, tmp_path: Path) -> None:
    """Validation images come from the training split, and neither is trained on or tested with."""
    from condvae.data import load as load_data

    data = load_data("mnist-sample")
    part, validation = data.split_validation(small.data.validation, small.training.seed)
    training_run = Trainer(small, (part, validation), tmp_path / "run", quiet=True)
    assert training_run.train_data.split == "train" and len(part) + len(validation) == len(data)
    training_run.monitor.close()


def test_validating_does_not_disturb_the_training(small: Config, tmp_path: Path) -> None:
    often = replace(small, training=replace(small.training, validations=25))
    never = replace(small, data=replace(small.data), training=replace(small.training, validations=0))
    assert same(train(often, tmp_path / "a", quiet=True), train(never, tmp_path / "b", quiet=True))


# ------------------------------------------------------------------------------------------- the disk


def test_a_full_disk_ends_with_a_sentence_and_the_last_checkpoint(
    small: Config, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    with monkeypatch.context() as patched:
        stop_after(10, patched)
        with pytest.raises(Interrupted):
            train(small, path, quiet=True)
    before = (path / CHECKPOINT).read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "fsync", full)
        with pytest.raises(UserError, match="No space left on device"):
            train(small, path, resume=True, quiet=True)
    assert (path / CHECKPOINT).read_bytes() == before
    assert not list(path.rglob("*.part"))
    assert same(train(small, path, resume=True, quiet=True), small_run)


def test_a_directory_that_cannot_be_written(small: Config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        train(small, tmp_path / "file" / "run", quiet=True)


@pytest.fixture
def little_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own with a megabyte; skips where none can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("a file system can't be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_real_disk_that_fills_up(small: Config, little_disk: Path, tmp_path: Path) -> None:
    recipe, path = tmp_path / "recipe.toml", little_disk / "run"
    config = replace(small, training=replace(small.training, epochs=200.0, checkpoint_seconds=0.1))
    recipe.write_text(to_toml(config), "utf-8")
    command = [sys.executable, "-m", "condvae", "train", str(recipe), "--out", str(path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (path / CHECKPOINT).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    with contextlib.suppress(OSError), (little_disk / "filler").open("wb") as filler:
        filler.write(b"x" * (1 << 20))
    _, error = process.communicate(timeout=120)
    lines = [line for line in error.splitlines() if not line.startswith("training ")]
    assert process.returncode == 2, error
    assert len(lines) == 1 and "cannot be written" in lines[0], error
    read_checkpoint(path / CHECKPOINT)


# ----------------------------------------------------------------------------------- a number to reach


@pytest.mark.slow
def test_twelve_epochs_on_real_digits_reach_their_numbers(tmp_path: Path) -> None:
    import condvae

    base = load_recipe("mnist-sample")
    config = replace(
        base, training=replace(base.training, minutes=0.0, epochs=12.0, device="cpu", seed=3)
    )
    found = condvae.evaluate(train(config, tmp_path / "run", quiet=True), samples=20, quiet=True)
    assert found["marginal_log_likelihood_nats"] > -115
    assert found["log_likelihood_nats"] > found["elbo_nats"]
    assert found["swap_accuracy"] > 0.6 and found["sample_accuracy"] > 0.6
    assert found["judge_accuracy"] > 0.97


def test_impossible_settings_are_sentences(small: Config, tmp_path: Path) -> None:
    for change, message in (
        ({"epochs": 0.0}, "has no length"),
        ({"epochs": -1.0, "minutes": 1.0}, "must be a number of 0 or more"),
        ({"batch_size": 0}, "batch-size must be at least 1"),
        ({"learning_rate": float("nan")}, "learning-rate must be above 0"),
        ({"ema": 0.5}, "ema must be within"),
        ({"seed": -1}, "--seed must be within"),
        ({"beta1": -0.1}, "beta1 must be at least 0 and below 1"),
        ({"beta2": 1.0}, "beta2 must be at least 0 and below 1"),
        ({"weight_decay": float("inf")}, "weight-decay must be 0 or more"),
        ({"checkpoint_seconds": float("nan")}, "checkpoint-seconds must be a number of 0 or more"),
        ({"schedule": "linear"}, "use cosine or constant"),
        ({"optimiser": "sgd"}, "there are: adamw"),
        ({"precision": "fp8"}, "use auto, fp32 or bf16"),
        ({"device": "tpu"}, "use auto, cpu or cuda"),
        ({"objective": "elbow"}, "did you mean 'elbo'"),
        ({"objective": "elbo(beta=-1)"}, "beta must be at least 0"),
    ):
        config = replace(small, training=replace(small.training, **change))  # type: ignore[arg-type]
        with pytest.raises(UserError, match=message):
            train(config, tmp_path / "run", quiet=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(small: Config, tmp_path: Path) -> None:
    config = replace(small, training=replace(small.training, device="cuda"))
    with pytest.raises(UserError, match="no GPU that PyTorch can use was found"):
        train(config, tmp_path / "run", quiet=True)


# -------------------------------------------------------------------------------------------- compiling


@pytest.mark.long
def test_compiled_steps_are_the_same_steps(small: Config, tmp_path: Path) -> None:
    if reason := why_not(choose_device("auto")):
        pytest.skip(f"torch.compile: {reason}")
    short = replace(small, training=replace(small.training, epochs=0.2))
    compiled = replace(short, training=replace(short.training, compile=True))
    ends = []
    for name, config in (("plain", short), ("compiled", compiled)):
        ends.append(load(train(config, tmp_path / name, quiet=True), "cpu").training["validation_elbo"])
    assert ends[1] == pytest.approx(ends[0], rel=1e-3)


def test_where_nothing_can_be_compiled_training_says_so_and_goes_on(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    config = replace(small, training=replace(small.training, epochs=0.05, compile=True))
    train(config, tmp_path / "run")
    assert "there is no C++ compiler; going on without" in capsys.readouterr().err
    both = replace(small, training=replace(small.training, shard=True, compile=True))
    with pytest.raises(UserError, match="give one up"):
        train(both, tmp_path / "both", quiet=True)
