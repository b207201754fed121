"""Trainings that are killed: a process that imports all of condvae once, and forks for every life.

A life goes on with what the one before it left of a run directory, until it is killed at its moment or
has come to its end. A moment is a number of seconds; or `[how, file, number]`, for the writing of a
file for that many a time: "half" of it written, or "after" it is in place; or null, for never.

The plan is read from standard input and what became of it written to standard output, both as JSON.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import rich.progress
import safetensors.torch
import torch
import torch.utils.tensorboard

from condvae import files
from condvae.config import Config, load_recipe
from condvae.data import decoding
from condvae.data.images import suffixes
from condvae.training import monitor, trainer
from condvae.verbs.swap import swap
from condvae.verbs.train import train

Moment = float | list[Any] | None


def life(config: Config, out: Path, moment: Moment) -> int:
    """One life, in a process of its own; returns its exit code, or minus the signal that ended it."""
    child = os.fork()
    if not child:
        try:
            if isinstance(moment, list):
                die_at(*moment)
            if isinstance(moment, list) and moment[1].endswith(".png"):
                swap(out, count=2, device="cpu")
            else:
                train(config, out, resume=True, quiet=True)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if isinstance(moment, float):
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die_at(how: str, name: str, number: int) -> None:
    """Let this process kill itself when it writes a file of that name for that many a time."""
    calls = itertools.count(1)

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    write, log, to_cache = files.write_bytes, monitor.Monitor.log, decoding._to_cache

    def mortal_write(path: Path, content: bytes) -> None:
        if path.name != name or next(calls) != number:
            return write(path, content)
        if how == "half":
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{path.name}.{os.getpid()}.part")
            beside.write_bytes(content[: len(content) // 2])
        else:
            write(path, content)
        die()

    def mortal_log(self: monitor.Monitor, record: dict[str, Any]) -> None:
        if next(calls) != number:
            return log(self, record)
        with (self.path / monitor.METRICS).open("a") as file:
            file.write(json.dumps(record)[:-9])
        die()

    def mortal_cache(*arguments: Any) -> None:
        if how == "after":
            to_cache(*arguments)
        die()

    if name == monitor.METRICS:
        monitor.Monitor.log = mortal_log  # type: ignore[method-assign]
    elif name == "cache":
        decoding._to_cache = mortal_cache
    else:
        files.write_bytes = mortal_write


def main() -> None:
    plan = json.load(sys.stdin)
    assert rich.progress and safetensors.torch and torch.utils.tensorboard and suffixes()  # at hand
    torch.set_num_threads(1)
    trainer.LOG_EVERY = 5
    config, out = load_recipe(plan["recipe"]), Path(plan["out"])
    chains = {
        name: [life(config, out / name, moment) for moment in [*moments, None]]
        for name, moments in plan["chains"].items()
    }
    began = time.monotonic()
    ended = life(config, out / "whole", None)
    length = time.monotonic() - began
    generator = random.Random(plan["seed"])
    kills, finished = 0, 0
    while ended in (0, -signal.SIGKILL) and kills < plan["kills"]:
        moment = generator.uniform(0.0, 1.1 * length)
        ended = life(config, out / f"random-{finished}", moment)
        kills += ended == -signal.SIGKILL
        finished += ended == 0
    if plan["kills"]:
        ended = life(config, out / f"random-{finished}", None)
    print(json.dumps({"chains": chains, "kills": kills, "ended": ended, "seconds_a_life": length}))


if __name__ == "__main__":
    main()
