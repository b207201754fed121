"""Images a second at equal networks: condvae's training against plain loops and another library.

    python benchmarks/throughput.py --data-root data

All run in one call on the same real images, ours and a peer's in turn, and the ratio is taken pair by
pair. A run is a whole epoch, data included; starting up is not counted. The network, the batch size and
the optimiser's kind are the peer's. What differs is how: images stay bytes in memory and are cut into
batches at once, the optimiser is fused, and precision is what the device is best at.

Of condvae's own networks there is no peer: their rate stands beside the share of what matrix products
reach on this device.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import logbook
import numpy as np
import torch
import tyro
from peers import Epoch, plain_loop, pythae

from condvae import config as configuration
from condvae.config import Config
from condvae.data import LabelledImages
from condvae.training.trainer import Trainer
from condvae.verbs.sources import training_images
from condvae.verbs.train import benchmark

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Comparison:
    """Ours against a peer.

    Arguments:
        recipe: that holds the network.
        images: an epoch; as many as take some seconds.
        model, training: changes to the recipe.
        pythae: which of pythae's networks the peer trains; without, the peer is a plain loop.
    """

    recipe: str
    images: int
    model: dict[str, Any]
    training: dict[str, Any]
    pythae: str = ""


PYTHAE = {"likelihood": "gaussian(scale=fixed)", "latents": 16, "label_reaches": ()}
COMPARISONS = {
    "mnist-notebook": Comparison("mnist-notebook", 60_000, {}, {}),
    "cifar10-notebook": Comparison("cifar10-notebook", 1_600, {}, {}),
    "pythae-mlp": Comparison(
        "mnist-notebook",
        60_000,
        {**PYTHAE, "network": "mlp(widths=[512], activation=relu)"},
        {"batch_size": 64, "learning_rate": 1e-4},
        "mlp",
    ),
    "pythae-resnet": Comparison(
        "mnist-notebook",
        12_800,
        {**PYTHAE, "network": "pythae-resnet"},
        {"batch_size": 64, "learning_rate": 1e-4},
        "resnet",
    ),
}
OWN = ("mnist-flat", "mnist-ladder-5", "cifar10-flat", "cifar10-ladder")


@dataclass(frozen=True)
class Throughput:
    """What to measure."""

    comparisons: tuple[str, ...] = tuple(COMPARISONS)
    """Which comparisons."""
    own: tuple[str, ...] = OWN
    """Recipes whose rate is taken with no peer beside it."""
    repeats: int = 5
    """Times that each side runs, in turn."""
    data_root: str | None = None
    """Where datasets are looked for before anything is downloaded."""
    cifar10: str = ""
    """Training images of CIFAR-10, if not the official ones."""
    pythae_python: str = ""
    """The interpreter of an environment with pythae 0.1.2; without, its rows are left out."""
    log: Path = HERE / "records" / "throughput.jsonl"
    """File that a line a comparison is added to."""


def recipe(name: str, wanted: Throughput) -> Config:
    """A shipped recipe, reading what the user has."""
    config = configuration.load_recipe(name)
    if config.data.source == "cifar10" and wanted.cifar10:
        return replace(config, data=replace(config.data, source=wanted.cifar10, test_source=""))
    return config


def ours(config: Config, data: LabelledImages) -> Epoch:
    """An epoch of condvae's own training."""
    settings = replace(
        config.training, epochs=1.0, minutes=0.0, validations=0, checkpoint_seconds=1e9, precision="auto"
    )
    begun, none = replace(config, training=settings), data.subset(np.arange(0))

    def epoch() -> float:
        with tempfile.TemporaryDirectory() as folder:
            return float(Trainer(begun, (data, none), Path(folder), quiet=True).fit()["seconds"])

    return epoch


def compared(name: str, wanted: Throughput) -> dict[str, Any] | None:
    """One comparison, or None where the peer isn't there."""
    against = COMPARISONS[name]
    if against.pythae and not wanted.pythae_python:
        print(f"{name}: left out; name an interpreter with pythae by --pythae-python")
        return None
    config = recipe(against.recipe, wanted)
    config = replace(
        config,
        model=replace(config.model, **against.model),
        training=replace(config.training, **against.training),
    )
    data = training_images(config.data, wanted.data_root)
    data = data.subset(np.random.default_rng(0).permutation(len(data))[: against.images])
    peer = (
        pythae(against.pythae, wanted.pythae_python, data)
        if against.pythae
        else plain_loop(config, data)
    )
    mine = ours(config, data)
    mine(), peer()  # caches, and the allocator
    times = [(mine(), peer()) for _ in range(wanted.repeats)]
    ratios = sorted(theirs / own for own, theirs in times)
    return {
        "comparison": name,
        "images_per_second": round(len(data) / statistics.median(own for own, _ in times)),
        "peer_images_per_second": round(len(data) / statistics.median(theirs for _, theirs in times)),
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "batch_size": config.training.batch_size,
        "images": len(data),
    }


def alone(name: str, wanted: Throughput) -> dict[str, Any]:
    """A recipe of ours by itself: its rate, and how near it comes to the device's matrix products."""
    found = [benchmark(recipe(name, wanted), data_root=wanted.data_root) for _ in range(wanted.repeats)]
    middle = sorted(found, key=lambda each: each["images_per_second"])[len(found) // 2]
    return {
        "recipe": name,
        "images_per_second": round(middle["images_per_second"]),
        "batch_size": middle["batch_size"],
        "precision": middle["precision"],
        "milliseconds": {part: round(spent, 2) for part, spent in middle["milliseconds"].items()},
        "megaflop_per_image": round(middle["operations_per_image"] / 1e6, 2),
        "gigaflop_per_second": round(middle["operations_per_second"] / 1e9),
        "peak_gigaflop_per_second": round(middle["peak_operations_per_second"] / 1e9),
        "share_of_peak": round(middle["share_of_peak"], 3),
    }


def main() -> None:
    """Measure, print, and add to the log."""
    wanted = tyro.cli(Throughput, description=__doc__)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    about = {"repeats": wanted.repeats, **logbook.about(device)}
    for name in wanted.comparisons:
        if line := compared(name, wanted):
            logbook.tell(line | about, wanted.log)
    for name in wanted.own:
        logbook.tell(alone(name, wanted) | about, wanted.log)


if __name__ == "__main__":
    main()
