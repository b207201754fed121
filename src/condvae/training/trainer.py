"""Training: `setup -> fit -> validate`, on any device, interruptible at any step."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

import condvae
from condvae import config as configuration
from condvae.config import Config, TrainingConfig
from condvae.data.batches import Batches, in_order
from condvae.data.dataset import LabelledImages
from condvae.errors import UserError
from condvae.files import write_text
from condvae.models.families import build_model
from condvae.models.protocol import ConditionalModel
from condvae.objectives import OBJECTIVES, Loss
from condvae.processes import Processes, seed_draws
from condvae.run import (
    CHECKPOINT,
    CONFIG,
    MODEL,
    choose_device,
    choose_precision,
    describe_device,
    save_model,
)
from condvae.training.checkpoint import Checkpoint, read_checkpoint, restore, save_checkpoint
from condvae.training.compilation import compilation, why_not
from condvae.training.ema import WeightAverage
from condvae.training.graph import StepGraph
from condvae.training.health import Health
from condvae.training.memory import keep_freed_memory
from condvae.training.monitor import Monitor, Unheard
from condvae.training.optimisers import build_optimiser, clipped, step_if
from condvae.training.schedule import learning_rate, progress
from condvae.training.sharding import share_out, whole
from condvae.training.stopwatch import Stopwatch

LOG_EVERY = 50
AGREE_EVERY = 8
"""Steps after which processes agree on the time, and on whether someone asked them to stop."""
VALIDATION_IMAGES = 2000
SKIPS_IN_A_ROW = 50


class Interrupted(Exception):
    """Training was stopped by Ctrl-C or a signal, after its checkpoint was written."""


class ModelAndObjective(nn.Module):
    """What is trained: the model and, with it, whatever the objective holds."""

    def __init__(self, model: nn.Module, objective: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, x: Tensor, y: Tensor, share: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and the numbers to report."""
        loss: Loss = self.objective(self.model, x, y, share)
        value, metrics = loss.value, dict(loss.metrics)
        beside = self.model.side_loss(x, y)  # type: ignore[operator]
        if beside is not None:
            value, metrics["side_loss"] = value + beside, beside.detach()
        return value, {**metrics, "loss": value.detach()}


class Trainer:
    """Trains one model into one run directory.

    Arguments:
        config: the recipe.
        data: images to train on and images to watch the training with.
        out: the run directory.
        resume: go on from the directory's checkpoint.
        quiet: show nothing.
        processes: those that train together; by default this one, or all that were launched with it.

    Raises:
        UserError: the config is impossible, the device is missing, the directory can't be used.
    """

    def __init__(
        self,
        config: Config,
        data: tuple[LabelledImages, LabelledImages],
        out: Path,
        resume: bool = False,
        quiet: bool = False,
        processes: Processes | None = None,
    ) -> None:
        self.config, self.settings, self.out = config, config.training, out
        settings = config.training
        check_settings(settings)
        self.processes = processes or Processes(choose_device(settings.device))
        device = self.device = self.processes.device
        keep_freed_memory()
        checkpoint = read_checkpoint(out / CHECKPOINT) if resume else None
        # What "auto" found when the run began holds for all of it, whatever a new trial would say.
        precision = (
            str(checkpoint.counters.get("precision", "fp32"))
            if checkpoint
            else self.processes.agreed(choose_precision(settings.precision, device))
        )
        # A process may train more than once, in other precisions; and, alone, on other devices.
        AcceleratorState._reset_state(reset_partial_state=self.processes.number == 1)
        missing = why_not(device) if settings.compile else ""
        self.accelerator = Accelerator(
            cpu=device.type == "cpu",
            dynamo_plugin=compilation() if settings.compile and not missing else None,
            mixed_precision="bf16" if precision == "bf16" else "no",
            log_with=check_trackers(settings.trackers) or None,
            project_dir=out,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        self.precision = precision

        self.train_data, self.validation_data = data
        torch.manual_seed(settings.seed)
        self.pair = self._built().to(device)
        self.model = typing.cast(ConditionalModel, self.pair.model)
        self.shared_out = settings.shard and self.processes.number > 1
        if self.shared_out:
            share_out(self.pair, self.processes.number, device)
        self.optimiser = build_optimiser(settings, self.pair, precision)
        self.parameters = list(self.pair.parameters())
        # Statistics of batches: a step that is skipped has put them out as well.
        self.statistics = [b for b in self.pair.buffers() if b.is_floating_point()]
        self.good_statistics = [buffer.clone() for buffer in self.statistics]
        self.step_module = self.pair if self.shared_out else self.accelerator.prepare(self.pair)
        self.average = WeightAverage(self.pair.model, settings.ema)
        self.batches = Batches(
            self.train_data,
            settings.batch_size,
            device,
            seed=settings.seed,
            labelled_share=settings.labelled_share,
            share=(self.processes.index, self.processes.number),
        )
        self.parts = self.processes.number * settings.micro_batches
        # What changes from step to step, where a step that is a graph finds it.
        self.now, self.rate, self.share = (torch.zeros((), device=device) for _ in range(3))
        self.graph = StepGraph(self._take) if self.parts == 1 and device.type == "cuda" else None
        self.agree_every = 1 if self.processes.number == 1 else AGREE_EVERY
        if self.batches.batch_size < self.parts:
            raise UserError(
                f"a batch of {self.batches.batch_size} images can't be taken in {self.parts} parts; use "
                "fewer processes or --training.micro-batches, or a larger --training.batch-size"
            )

        self.stopwatch: Stopwatch | None = None
        self.step, self.seconds, self.validation_elbo = 0, 0.0, math.nan
        self.health = Health(device)
        if checkpoint:
            if checkpoint.counters.get("data") != self.train_data.fingerprint:
                raise UserError(
                    f"--resume: {self.train_data.name} has changed since {out} was begun; put it back "
                    "as it was, or train into another --out"
                )
            before = checkpoint.counters.get("parts", 1)
            if before != self.parts:
                raise UserError(
                    f"--resume: {out} was begun with steps in {before} parts, not {self.parts}; "
                    "processes times --training.micro-batches must be as it was"
                )
            restore(checkpoint, self.pair, self.optimiser, self.average)
            self._restore_counters(checkpoint)
            for statistic, good in zip(self.statistics, self.good_statistics, strict=True):
                good.copy_(statistic)
        if self.processes.main:
            write_text(out / CONFIG, configuration.to_toml(config))
        self.monitor = Monitor(out, self.step, quiet) if self.processes.main else Unheard(out)
        if missing:
            self.monitor.line.console.print(f"--training.compile: {missing}; going on without")
        if settings.trackers:
            tables = {"model": asdict(config.model), "training": asdict(settings)}
            flat = {f"{t}.{k}": str(v) for t, table in tables.items() for k, v in table.items()}
            self.accelerator.init_trackers("condvae", flat | {"data.source": config.data.source})

    def _built(self) -> ModelAndObjective:
        config, data = self.config, self.train_data
        try:
            model = build_model(config.model, data.shape, data.classes)
            objective = OBJECTIVES.build(config.training.objective, model=model, images=len(data))
        except UserError:
            raise
        except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"the recipe's [model] or its objective can't be built ({error}); look at its numbers"
            ) from error
        return ModelAndObjective(model, objective)

    # -------------------------------------------------------------------------------------- fit

    def fit(self) -> dict[str, Any]:
        """Train to the end of the run; writes `model.safetensors` and returns what it noted.

        Raises:
            Interrupted: a signal asked to stop; the run can be resumed.
            UserError: training diverged (a checkpoint of the last good weights is left), or the disk
                gave out (the last checkpoint stays).
        """
        stop = _StopSignal()
        epochs = self.settings.epochs
        steps = max(1, round(epochs * self.batches.steps_per_epoch)) if epochs else None
        limit = self.settings.minutes * 60 or None
        started = time.monotonic() - self.seconds
        saved = time.monotonic()
        share = progress(self.step, steps, self.seconds, limit)
        validated = math.floor(share * self.settings.validations)
        meter, asked, save = _Meter(), 0.0, 0.0
        try:
            with stop:
                while share < 1:
                    for x, y in self.batches.epoch(*divmod(self.step, self.batches.steps_per_epoch)):
                        meter.add(self.train_step(x, y, share), self.batches.batch_size)
                        if self.step % self.agree_every == 0:
                            now = time.monotonic()
                            due = now - saved > self.settings.checkpoint_seconds
                            self.seconds, asked, save = self.processes.largest(
                                now - started, float(stop.asked), float(due)
                            )
                        share = progress(self.step, steps, self.seconds, limit)
                        if meter.steps == LOG_EVERY or share >= 1:
                            self._log(meter, share)
                            meter = _Meter()
                        if math.floor(share * self.settings.validations) > validated:
                            validated = math.floor(share * self.settings.validations)
                            self.validate()
                        if asked or save:
                            self._save_checkpoint()
                            saved, save = time.monotonic(), 0.0
                        if asked:
                            raise Interrupted
                        if share >= 1:
                            break
            self._save_checkpoint()
            return self._finish()
        finally:
            self.monitor.close()
            for tracker in self.accelerator.trackers:
                tracker.finish()

    def train_step(self, x: Tensor, y: Tensor, share: float) -> dict[str, Tensor]:
        """One step of the optimiser, unless its gradient is of no use; returns its numbers."""
        settings = self.settings
        rate = learning_rate(
            settings.learning_rate, self.step, settings.warmup_steps, share, settings.schedule
        )
        self.now.fill_(share)
        self.rate.fill_(rate)
        self.share.fill_(self.average.share(self.step + 1))
        for group in self.optimiser.param_groups:
            group["lr"] = rate if self.device.type == "cpu" else self.rate
        self._seed(0)  # not in `_take`: a graph has no seeds
        if self.graph:
            with self._timed("graph") if self.graph.made else contextlib.nullcontext():
                numbers = self.graph(x, y)
        else:
            numbers = self._take(x, y)
        look = self.device.type == "cpu" or self.step % LOG_EVERY == 0  # a GPU would be waited for
        if look and self.health.in_a_row > SKIPS_IN_A_ROW:
            raise self._diverged()
        self.step += 1
        return numbers

    def _take(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """What the device does of a step."""
        settings = self.settings
        self.optimiser.zero_grad(set_to_none=True)  # of a step that was broken off
        numbers = self._backward(x, y)
        with self._timed("optimiser"):
            norm = whole(clipped(self.parameters, settings.clip))
            usable = self.health.take(norm, settings.skip_above)
            step_if(usable, self.optimiser)
            if self.shared_out:  # DDP does so itself
                self.processes.take_over(self.statistics)
            for statistic, good in zip(self.statistics, self.good_statistics, strict=True):
                statistic.copy_(torch.where(usable, statistic, good))
                good.copy_(statistic)
        self.optimiser.zero_grad(set_to_none=True)
        with self._timed("optimiser"):
            self.average.update(self.share)
        return numbers | {"gradient_norm": norm, "rate": self.rate.clone()}

    def _backward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The gradient of a step's loss, this process's micro-batches one after another; its numbers.

        A part weighs as many images as it has, so that the parts' sum (of this process) and mean (over
        processes) is the loss of the batch.
        """
        last = self.settings.micro_batches - 1
        numbers: dict[str, Tensor] = {}
        for index in range(last + 1):
            if index:
                self._seed(index)
            images, labels = x[index :: last + 1], y[index :: last + 1]
            weight = len(labels) * self.processes.number / self.batches.batch_size
            with contextlib.ExitStack() as alone:
                if isinstance(self.step_module, FSDPModule):
                    self.step_module.set_requires_gradient_sync(index == last)
                elif index < last:
                    alone.enter_context(self.accelerator.no_sync(self.step_module))
                with self._timed("forward"), self.accelerator.autocast():
                    loss, reported = self.step_module(images, labels, self.now)
                with self._timed("backward"):
                    self.accelerator.backward(weight * loss)
            for name, value in reported.items():
                numbers[name] = weight * value.double() + numbers.get(name, 0.0)
        return numbers

    def _seed(self, index: int) -> None:
        """Draws are those of this step and of one of this process's micro-batches."""
        part = self.processes.index + self.processes.number * index
        seed_draws(self.device, self.settings.seed, self.step, part)

    def _timed(self, part: str) -> contextlib.AbstractContextManager[None]:
        """Counts what runs inside it as a part of a step, where someone wants to know."""
        return self.stopwatch.part(part) if self.stopwatch else contextlib.nullcontext()

    def _diverged(self) -> UserError:
        """Keep the weights, which no skipped step has touched, and say what happened."""
        good = self.step - int(self.health.in_a_row) + 1
        self.health.in_a_row.zero_()
        self._save_checkpoint()
        return UserError(
            f"training diverged at step {self.step}: {SKIPS_IN_A_ROW} steps in a row had gradients that "
            f"were not finite or {self.settings.skip_above:g} times the usual; lower "
            f"--training.learning-rate, with another --out (the weights of step {good}, the last good "
            f"one, are in {self.out / CHECKPOINT})"
        )

    # ------------------------------------------------------------------------------ validate, log

    @torch.no_grad()
    def validate(self) -> float:
        """The averaged weights' ELBO on the validation images, in nats; training isn't disturbed."""
        if not len(self.validation_data):
            return math.nan
        weights = self.average.state_dict()
        if not self.processes.main:
            return math.nan
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices), self._with_weights(weights) as model:
            torch.manual_seed(self.settings.seed)
            total, images = 0.0, 0
            for x, y in in_order(self.validation_data, 500, self.device):
                with self.accelerator.autocast():
                    total += float(model.elbo(x, y).value.sum())
                images += len(y)
                if images >= VALIDATION_IMAGES:
                    break
        self.validation_elbo = total / images
        self._note({"validation_elbo": self.validation_elbo})
        return self.validation_elbo

    @contextlib.contextmanager
    def _with_weights(self, weights: dict[str, Tensor]) -> Iterator[ConditionalModel]:
        """The model with these weights, for evaluation; a second one where its own are shared out."""
        if self.shared_out:
            second = self._built().model.to(self.device)
            second.load_state_dict(weights)
            yield typing.cast(ConditionalModel, second.eval())
            return
        live = {name: tensor.clone() for name, tensor in self.pair.model.state_dict().items()}
        self.pair.model.load_state_dict(weights)
        self.pair.eval()
        yield self.model
        self.pair.model.load_state_dict(live)
        self.pair.train()

    def _log(self, meter: _Meter, share: float) -> None:
        epoch = self.step / self.batches.steps_per_epoch
        record = {"epoch": epoch, "seconds": self.seconds, **self.processes.means(meter.means())}
        self._note(record | {"skipped": int(self.health.skipped)})
        seen = f"  validation {self.validation_elbo:.2f}" if self.validation_elbo < 0 else ""
        self.monitor.line.show(
            share,
            f"epoch {epoch:.1f}  ELBO {record['elbo']:.2f} nats{seen}  "
            f"{record['images_per_second']:,.0f} images/s",
            self.seconds,
        )

    def _note(self, numbers: dict[str, Any]) -> None:
        self.monitor.log({"step": self.step, **numbers})
        self.accelerator.log(numbers, step=self.step)

    # --------------------------------------------------------------------------------- keep, finish

    def _counters(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "seconds": self.seconds,
            "precision": self.precision,
            "parts": self.parts,
            "data": self.train_data.fingerprint,
            **self.health.counters(),
            "validation_elbo": None if math.isnan(self.validation_elbo) else self.validation_elbo,
        }

    def _restore_counters(self, checkpoint: Checkpoint) -> None:
        counters = checkpoint.counters
        try:
            self.step = int(counters["step"])
            self.seconds = float(counters["seconds"])
            self.health.restore(counters)
            elbo = counters.get("validation_elbo")
            self.validation_elbo = math.nan if elbo is None else float(elbo)
            if self.step < 0 or not 0 <= self.seconds < math.inf:
                raise ValueError("counts below 0")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(
                f"{checkpoint.path}: does not count what a checkpoint counts; train into another --out"
            ) from error

    def _save_checkpoint(self) -> None:
        main = self.processes.main
        if main and not (self.out / CONFIG).exists():  # someone has tidied up
            write_text(self.out / CONFIG, configuration.to_toml(self.config))
        if main or self.shared_out:
            file, counters = self.out / CHECKPOINT, self._counters()
            save_checkpoint(file, self.pair, self.optimiser, self.average, counters, main)

    def _finish(self) -> dict[str, Any]:
        data = self.train_data
        training = {
            "steps": self.step,
            "epochs": self.step / self.batches.steps_per_epoch,
            "seconds": self.seconds,
            "skipped_steps": int(self.health.skipped),
            "images": len(data),
            "source": data.name,
            "data_fingerprint": data.fingerprint,
            "parameters": sum(p.numel() for p in self.pair.model.parameters()),
            "validation_elbo": self.validation_elbo if self.validation_elbo < 0 else None,
            "device": describe_device(self.device),
            **({"graph": self.graph.why_not or "yes"} if self.graph else {}),
            "processes": self.processes.number,
            "precision": self.precision,
            "versions": {"condvae": condvae.__version__, "torch": torch.__version__},
        }
        weights = self.average.state_dict()
        if self.processes.main:
            save_model(self.out, weights, self.config, data.shape, data.class_names, training)
        return training


class _Meter:
    """Means over the steps since the last log."""

    def __init__(self) -> None:
        self.steps, self.images, self.started = 0, 0, time.monotonic()
        self.sums: dict[str, Tensor] = {}

    def add(self, numbers: dict[str, Tensor], images: int) -> None:
        self.steps += 1
        self.images += images
        for name, value in numbers.items():
            self.sums[name] = value + self.sums.get(name, 0.0)

    def means(self) -> dict[str, float]:
        means = {name: float(total) / self.steps for name, total in self.sums.items()}
        rate = self.images / max(1e-9, time.monotonic() - self.started)
        return means | {"images_per_second": rate}


class _StopSignal:
    """While it is entered, Ctrl-C, SIGTERM and SIGHUP set `asked` instead of stopping in mid-step.

    A hang-up that is ignored, as `nohup` has it, stays ignored.
    """

    def __init__(self) -> None:
        self.asked = False
        self.signals = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            self.signals.append(signal.SIGHUP)

    def __enter__(self) -> None:
        try:
            self.before = [signal.signal(number, self._ask) for number in self.signals]
        except ValueError:  # not the main thread, which alone may set handlers
            self.before = []

    def __exit__(self, *_: object) -> None:
        for number, handler in zip(self.signals, self.before, strict=False):
            signal.signal(number, handler)

    def _ask(self, number: int, frame: types.FrameType | None) -> None:
        self.asked = True


# --------------------------------------------------------------------------------------------- choices


def check_settings(settings: TrainingConfig) -> None:
    """Refuse a number that no training can be run with.

    Raises:
        UserError: there is one.
    """
    if settings.epochs <= 0 and settings.minutes <= 0:
        raise UserError("the run has no length: give --epochs or --minutes a number above 0")
    for name in ("epochs", "minutes"):
        if not math.isfinite(getattr(settings, name)) or getattr(settings, name) < 0:
            raise UserError(f"--{name} must be a number of 0 or more")
    if settings.micro_batches < 1:
        raise UserError(f"--training.micro-batches must be at least 1, not {settings.micro_batches}")
    if settings.batch_size < 1:
        raise UserError(f"--training.batch-size must be at least 1, not {settings.batch_size}")
    if not 0 < settings.learning_rate < math.inf:
        raise UserError(f"--training.learning-rate must be above 0, not {settings.learning_rate}")
    if not 0 < settings.labelled_share < 1:
        share = settings.labelled_share
        raise UserError(f"--training.labelled-share must be within 0 and 1, not {share}")
    if not 0 <= settings.seed < 1 << 63:
        raise UserError(f"--seed must be within 0 to 2^63 - 1, not {settings.seed}")
    if settings.shard and settings.compile:
        raise UserError("--training.shard and --training.compile can't be had together; give one up")
    if os.environ.get("ACCELERATE_USE_FSDP", "false") == "true":
        raise UserError("weights are shared out by --training.shard; launch without accelerate's FSDP")
    for name in ("clip", "checkpoint_seconds", "skip_above"):
        if not getattr(settings, name) >= 0:
            raise UserError(f"--training.{name.replace('_', '-')} must be a number of 0 or more")
    if not 0 <= settings.weight_decay < math.inf:
        raise UserError(f"--training.weight-decay must be 0 or more, not {settings.weight_decay}")
    for name, beta in (("beta1", settings.beta1), ("beta2", settings.beta2)):
        if not 0 <= beta < 1:
            raise UserError(f"--training.{name} must be at least 0 and below 1, not {beta}")
    if not 0 <= settings.ema <= 0.25:
        raise UserError(f"--training.ema must be within 0 to 0.25, not {settings.ema}")
    if settings.schedule not in ("cosine", "constant"):
        raise UserError(f"--training.schedule {settings.schedule}: use cosine or constant")


def check_trackers(names: Sequence[str]) -> list[str]:
    """Names of accelerate's trackers of experiments, each of them installed.

    Raises:
        UserError: one is unknown, or its package is missing.
    """
    known = sorted(set(LOGGER_TYPE_TO_CLASS) - {"tensorboard"})
    there = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in known:
            raise UserError(f"--training.trackers {name}: unknown; use {', '.join(known)}")
        if name not in there:
            raise UserError(f"--training.trackers {name}: is not installed (pip install {name})")
    return list(names)


__all__ = ["MODEL", "Interrupted", "Trainer", "check_settings"]
