"""A million image files in a zip: how long until training starts, how much memory, how fast?

    python benchmarks/large.py

Makes the zip (kept in --folder from one call to the next), has a process decode it into the cache, has
another find it there, and trains from it and from a part that fits into memory, in turn. Memory is the
most that a process held, less the most of one that trains on the small part: what the size alone costs.
The exit code is 1 where that is over 2 GiB, or training is slower by more than a tenth.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import logbook
import numpy as np
import psutil
import torch
import tyro
from PIL import Image
from rich.progress import track

HERE = Path(__file__).parent
CLASSES = 10
LOAD = "import sys; from condvae.data import load; load(sys.argv[1], split='train')"


@dataclass(frozen=True)
class Large:
    """What to measure."""

    images: int = 1_000_000
    """Images in the zip: 32x32, in colour, JPEG."""
    part: int = 20_000
    """Images of the part that fits into memory."""
    recipes: tuple[str, ...] = ("cifar10-flat", "mnist-notebook")
    """Which networks train on them."""
    seconds: float = 40.0
    """Length of a training."""
    repeats: int = 3
    """Trainings of each, in turn."""
    folder: Path = Path("runs/large")
    """Where the zips, the cache and the runs go; some 4 GB."""
    log: Path = HERE / "records" / "large.jsonl"
    """File that the line is added to."""


def make(path: Path, number: int) -> None:
    """A zip of images that nobody has: blurred noise, tinted by class."""
    if path.exists():
        return
    chance = np.random.default_rng(0)
    beside = path.with_suffix(".part")
    with zipfile.ZipFile(beside, "w") as archive:
        for start in track(range(0, number, 1000), f"making {path.name}"):
            coarse = chance.integers(0, 200, (1000, 4, 4, 3), dtype=np.uint8)
            for index, small in enumerate(coarse, start):
                label = index % CLASSES
                small[..., label % 3] //= 1 + label // 3
                buffer = io.BytesIO()
                image = Image.fromarray(small).resize((32, 32), Image.Resampling.BILINEAR)
                image.save(buffer, "JPEG", quality=75)
                archive.writestr(f"class{label}/{index}.jpg", buffer.getvalue())
    os.replace(beside, path)


def watched(command: list[str], cache: Path) -> dict[str, float]:
    """Run a command; its seconds, and the most memory that it and its children held, in MiB."""
    environment = os.environ | {"CONDVAE_CACHE": str(cache)}
    started, most = time.monotonic(), 0
    child = psutil.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while child.poll() is None:
        try:
            held = sum(each.memory_info().rss for each in (child, *child.children(recursive=True)))
        except psutil.NoSuchProcess:
            continue
        most = max(most, held)
        time.sleep(0.05)
    if child.returncode:
        sys.exit(f"{shlex.join(command)}: exit code {child.returncode}")
    return {"seconds": round(time.monotonic() - started, 1), "mebibytes": most >> 20}


def trained(recipe: str, source: Path, wanted: Large, cache: Path) -> dict[str, float]:
    """A training of so many seconds; its rate with the rest."""
    out = wanted.folder / "run"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "condvae", "train", recipe, "--data", str(source)]
    command += ["--out", str(out), "--minutes", str(wanted.seconds / 60)]
    command += ["--epochs", "0", "--training.validations", "0"]
    found = watched(command, cache)
    lines = map(json.loads, (out / "metrics.jsonl").read_text("utf-8").splitlines())
    rates = [line["images_per_second"] for line in lines if "images_per_second" in line]
    return found | {"images_per_second": round(statistics.median(rates[1:]))}


def measure(wanted: Large) -> dict[str, Any]:
    """All of it; returns the line."""
    wanted.folder.mkdir(parents=True, exist_ok=True)
    whole, part = (wanted.folder / f"{number}.zip" for number in (wanted.images, wanted.part))
    make(whole, wanted.images)
    make(part, wanted.part)
    cache = wanted.folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    load = [sys.executable, "-c", LOAD, str(whole)]
    line: dict[str, Any] = {"images": wanted.images, "megabytes": whole.stat().st_size // 10**6}
    for name in ("decoding", "from_the_cache"):
        line[name] = watched(load, cache)
        print(name, line[name], flush=True)
    for recipe in wanted.recipes:
        pairs = [
            (trained(recipe, whole, wanted, cache), trained(recipe, part, wanted, cache))
            for _ in range(wanted.repeats)
        ]
        large, small = zip(*pairs, strict=True)
        line[recipe] = {
            "images_per_second": [each["images_per_second"] for each in large],
            "in_memory": [each["images_per_second"] for each in small],
            "ratio": statistics.median(
                a["images_per_second"] / b["images_per_second"] for a, b in pairs
            ),
            "mebibytes": max(each["mebibytes"] for each in large),
            "mebibytes_in_memory": max(each["mebibytes"] for each in small),
        }
        print(recipe, line[recipe], flush=True)
    return line | logbook.about(torch.device("cpu"))


if __name__ == "__main__":
    wanted = tyro.cli(Large, description=__doc__)
    line = measure(wanted)
    logbook.add(line, wanted.log)
    runs = [line[recipe] for recipe in wanted.recipes]
    costs = [run["mebibytes"] - run["mebibytes_in_memory"] for run in runs]
    sys.exit(max(costs) > 2048 or min(run["ratio"] for run in runs) < 0.9)
