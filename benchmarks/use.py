"""What a trained model does in a second, and how the cost grows with images, samples and classes.

    python benchmarks/use.py mnist --data-root data

Samples, label swaps, importance samples, and images of which p(y|x) is bounded, as an audit does, are
timed for a number of images (of samples, of classes) and for two and four times as many, several times
in turn. `growth` is the exponent that the times grow with: 1 is a straight line. Then the command line
is started from nothing.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import logbook
import torch
import tyro

from condvae.evaluation.bounds import bounds, fixed_binarisation, weighted_bounds
from condvae.evaluation.outputs import sampled, swapped
from condvae.run import load
from condvae.verbs.sources import test_images

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Use:
    """What to measure."""

    run: tyro.conf.Positional[str] = "mnist"
    """A run directory, or the name of a model that comes along."""
    data_root: str | None = None
    """Where datasets are looked for before anything is downloaded."""
    images: int = 500
    """The least number of images; two and four times as many follow."""
    repeats: int = 5
    """Times that each is timed."""
    precision: str = "fp32"
    """fp32 or bf16."""
    log: Path = HERE / "records" / "use.jsonl"
    """File that the line is added to."""


def growth(times: dict[int, float]) -> float:
    """The exponent of the least-squares line through the logarithms of numbers and seconds."""
    xs, ys = [math.log(number) for number in times], [math.log(spent) for spent in times.values()]
    x, y = statistics.mean(xs), statistics.mean(ys)
    pairs = list(zip(xs, ys, strict=True))
    return sum((a - x) * (b - y) for a, b in pairs) / sum((a - x) ** 2 for a, _ in pairs)


def timed(
    act: Callable[[int], object], numbers: list[int], repeats: int, what: int = 1
) -> dict[str, Any]:
    """How many a second, of the largest number, and how the time grows.

    Arguments:
        act: does it for a number of something.
        what: things that are done for each of them.
    """
    act(numbers[0])
    spent: dict[int, list[float]] = {number: [] for number in numbers}
    for _ in range(repeats):
        for number in numbers:
            started = time.perf_counter()
            act(number)
            spent[number].append(time.perf_counter() - started)
    middle = {number: statistics.median(each) for number, each in spent.items()}
    most = numbers[-1]
    return {
        "a_second": round(what * most / middle[most], 1),
        "seconds": {str(number): round(each, 3) for number, each in middle.items()},
        "growth": round(growth(middle), 2),
    }


def from_nothing(*arguments: str) -> float:
    """Seconds of a command from the shell and back: the median of five, after one to warm the disk."""
    command = [sys.executable, "-m", "condvae", *arguments]
    times = []
    for _ in range(6):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return round(statistics.median(times[1:]), 2)


def measure(wanted: Use) -> dict[str, Any]:
    """All of it; returns the line."""
    run = load(wanted.run, "auto")
    model, device = run.model, run.device
    numbers = [wanted.images * factor for factor in (1, 2, 4)]
    data = test_images(run, None, wanted.data_root)
    if len(data) < numbers[-1]:
        sys.exit(f"--images {wanted.images}: {data.name} has not four times as many test images")
    x = fixed_binarisation(model, torch.tensor(data.images[: numbers[-1]], device=device), 0)
    y = torch.tensor(data.labels[: numbers[-1]], device=device)
    given = (y + 1) % model.classes
    line: dict[str, Any] = {"run": wanted.run}
    with (
        torch.autocast(device.type, torch.bfloat16, enabled=wanted.precision == "bf16"),
        torch.no_grad(),
    ):
        tasks: dict[str, tuple[Callable[[int], object], list[int], int]] = {
            "samples": (lambda n: sampled(model, y[:n]), numbers, 1),
            "swaps": (lambda n: swapped(model, x[:n], y[:n], given[:n]), numbers, 1),
            "importance samples, as images grow": (
                lambda n: weighted_bounds(model, x[:n], y[:n], range(n), sizes=[10]),
                numbers,
                10,
            ),
            "importance samples, as samples grow": (
                lambda s: weighted_bounds(model, x[:200], y[:200], range(200), sizes=[s]),
                [25, 50, 100],
                200,
            ),
            "p(y|x), as images grow": (
                lambda n: bounds(model, x[:n], y[:n], samples=8),
                numbers,
                1,
            ),
            "p(x|y) of every label, as classes grow": (
                lambda k: weighted_bounds(
                    model,
                    x[:200].repeat(k, 1, 1, 1),
                    y[:200].repeat(k) % k,
                    [*range(200)] * k,
                    sizes=[8],
                ),
                [2, 4, 8],
                200,
            ),
        }
        for name, (act, each, what) in tasks.items():
            line[name] = timed(act, each, wanted.repeats, what)
            print(f"{name}: {line[name]}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        line["seconds from nothing"] = {
            "condvae --help": from_nothing("--help"),
            "condvae sample": from_nothing("sample", wanted.run, "--out", folder),
        }
    print(line["seconds from nothing"])
    return line | {
        "repeats": wanted.repeats,
        "precision": wanted.precision,
        **logbook.about(device),
    }


if __name__ == "__main__":
    wanted = tyro.cli(Use, description=__doc__)
    line = measure(wanted)
    logbook.add(line, wanted.log)
    print(json.dumps(line))
